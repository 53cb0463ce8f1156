"""Set-up: the missing tool is the first line, pip's settings reach uv, the operator installs alone, builds are one."""

import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from moe_dev import binaries, uv
from moe_dev.modules import CONTROL_PLANE, MODULES, Module
from moe_dev.paths import CLONE

CHECK_TOOLS = CLONE / "hack" / "check-tools.sh"
OLD_PYTHON = "#!/bin/sh\ncase $* in *version_info*) exit 1;; *python_version*) echo 3.9.2;; esac\n"
NEW_PYTHON = "#!/bin/sh\ncase $* in *'(3, 15)'*) exit 1;; *python_version*) echo 3.15.0;; esac\n"
OLD_GO = "#!/bin/sh\ncase $* in *GOVERSION*) echo go1.20.4;; *) echo auto;; esac\n"
PINNED_GO = "#!/bin/sh\ncase $* in *GOVERSION*) echo go1.24.1;; *) echo local;; esac\n"
YOUNGER_GO = "#!/bin/sh\ncase $* in *GOVERSION*) echo go1.24.1;; *) echo auto;; esac\n"
GOOD = "#!/bin/sh\nexit 0\n"
# A Python good enough, which finds that binaries of the control plane must be built.
UNBUILT = "#!/bin/sh\ncase $* in *--missing*) echo etcd kubectl;; esac\n"
NEW_GO = "#!/bin/sh\ncase $* in *GOVERSION*) echo go1.26.8;; *) echo auto;; esac\n"


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ({"python3": GOOD, "go": NEW_GO}, "git is missing: install it"),
        ({"git": GOOD, "go": NEW_GO}, "python3 is missing: install Python 3.11 to 3.14"),
        ({"git": GOOD, "python3": OLD_PYTHON, "go": NEW_GO}, "python3 is 3.9.2, too old: install Python 3.11"),
        ({"git": GOOD, "python3": NEW_PYTHON, "go": NEW_GO}, "python3 is 3.15.0, for which torch and others have no"),
        ({"git": GOOD, "python3": UNBUILT}, "Go is missing and etcd kubectl must be built: install Go 1.26 or newer"),
        ({"git": GOOD, "python3": GOOD}, None),
        ({"git": GOOD, "python3": UNBUILT, "go": OLD_GO}, "Go is go1.20.4, too old"),
        ({"git": GOOD, "python3": UNBUILT, "go": PINNED_GO}, "Go is go1.24.1, too old"),
        ({"git": GOOD, "python3": UNBUILT, "go": YOUNGER_GO}, None),
        ({"git": GOOD, "python3": UNBUILT, "go": NEW_GO}, None),
    ],
)
def test_the_first_line_names_the_tool_and_the_cure(tmp_path: Path, tools: dict[str, str], says: str | None) -> None:
    for name, script in tools.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sed").symlink_to("/bin/sed")
    environment = {"PATH": str(tmp_path)}
    command = ["/bin/sh", str(CHECK_TOOLS), "python3", "etcd", "kubectl"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if says is None:
        assert (ended.returncode, ended.stderr) == (0, "")
    else:
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[0].startswith(says)


@pytest.mark.parametrize("name", ["a:b", "a\nb"])
def test_a_clone_where_no_list_of_paths_can_name_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "hack").mkdir(parents=True)
    script = shutil.copy(CHECK_TOOLS, tmp_path / name / "hack")
    ended = subprocess.run(["/bin/sh", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("the path of this clone has a colon or a line break in it")
    assert ended.stderr.endswith(": move the clone\n")


def test_pips_settings_reach_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nindex-url = https://mirror.test/simple\ncert = /etc/mirror.pem\ntimeout = 9\n")
    monkeypatch.setattr(sys, "executable", os.path.realpath(sys.executable))  # pip lives beside the base interpreter
    for name in ("PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    environment = uv.environment()
    assert environment["UV_DEFAULT_INDEX"] == "https://mirror.test/simple"
    assert environment["SSL_CERT_FILE"] == "/etc/mirror.pem"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://chosen.test/simple")
    assert uv.environment()["UV_DEFAULT_INDEX"] == "https://chosen.test/simple"


@pytest.mark.slow
def test_the_operator_installs_and_runs_without_torch_and_ray(tmp_path: Path) -> None:
    """What its lock names is enough; taken from this environment, since nothing promises that wheels are at hand."""
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    pins = re.findall(r"^(\S+)==", (CLONE / "requirements-operator.lock").read_text(), re.MULTILINE)
    for distribution in map(metadata.distribution, pins):
        for file in distribution.files or ():
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            folder, there = (packages / file).parent, Path(file.locate()).parent
            if not folder.exists():
                folder.mkdir(parents=True)
                if (there / "__pycache__").is_dir():  # or all would be compiled anew
                    (folder / "__pycache__").symlink_to(there / "__pycache__")
            (packages / file).symlink_to(file.locate())
    code = """
import sys
import moe_operator.cli
print(*sorted({"torch", "ray", "transformers", "moe_serving"} & set(sys.modules)), "imported")
moe_operator.cli.main(["--version"])
"""
    roots = ":".join(str(CLONE / root) for root in ("placement", "contract", "operator"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": roots}
    python = str(tmp_path / "venv" / "bin" / "python")
    ended = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].strip() == "imported"


def test_two_builds_at_once_build_each_binary_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def go_build(module: Module, names: Sequence[str]) -> None:
        calls.extend(names)
        for name in names:
            (module.directory() / name).touch(mode=0o755)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(binaries, "_go_build", go_build)
    wanted = (*binaries.EMBEDDED, binaries.HELM)
    builders = [threading.Thread(target=binaries.build, args=[wanted]) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert sorted(calls) == sorted(wanted)
    binaries.build(wanted)
    assert len(calls) == len(wanted)
    assert binaries.binary(binaries.HELM).parent.parent.name == "helm"


def test_a_missing_binary_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(binaries.BinariesError, match="etcd is missing: run `make setup`"):
        binaries.binary(binaries.ETCD)
    with pytest.raises(binaries.BinariesError, match=r"helm is missing: run `.*--binaries helm`"):
        binaries.binary(binaries.HELM)
    with pytest.raises(binaries.BinariesError, match="nothing here builds hlem: take of kubectl, etcd"):
        binaries.missing(["hlem"])


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.folder.name)
def test_what_is_built_is_what_its_module_pins(module: Module) -> None:
    """Each program's main package is a tool of the go.mod, or the module's own."""
    pinned = (module.folder / "go.mod").read_text()
    assert module.version() in module.directory().name
    for package in module.programs.values():
        tool = re.search(rf"^(tool)?\s*{re.escape(package)}$", pinned, re.MULTILINE)
        assert tool or (module.folder / "main.go").exists()


def assets(directory: Path, monkeypatch: pytest.MonkeyPatch, version: str, *names: str) -> Path:
    """KUBEBUILDER_ASSETS with these binaries, of that version, and nothing built yet."""
    directory.mkdir()
    for name in names:
        (directory / name).write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory.with_name("cache")))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(directory))
    return directory


# What `setup-envtest use` brings.
ENVTEST = (binaries.ETCD, binaries.APISERVER, binaries.KUBECTL)


def test_only_what_the_users_assets_lack_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same_minor = binaries.kubernetes_version().rpartition(".")[0] + ".0"
    given = assets(tmp_path / "assets", monkeypatch, same_minor, *ENVTEST)
    assert binaries.binary(binaries.ETCD) == given / "etcd"
    assert binaries.missing() == [binaries.CONTROLLER_MANAGER]
    assert binaries.missing([binaries.KUBECTL]) == []
    with pytest.raises(binaries.BinariesError, match="kube-controller-manager is missing: run `make setup`"):
        binaries.binary(binaries.CONTROLLER_MANAGER)
    cache = CONTROL_PLANE.directory()
    monkeypatch.setattr(
        binaries, "_go_build", lambda module, names: [(cache / name).touch(mode=0o755) for name in names]
    )
    binaries.build()
    assert binaries.binary(binaries.CONTROLLER_MANAGER) == cache / "kube-controller-manager"
    assert [path.name for path in cache.glob("[!.]*")] == ["kube-controller-manager"]


def test_assets_of_another_release_need_no_build_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets(tmp_path / "whole", monkeypatch, "v1.30.1", *binaries.EMBEDDED)
    assert binaries.missing() == []
    assets(tmp_path / "envtest", monkeypatch, "v1.30.1", *ENVTEST)
    with pytest.raises(
        binaries.BinariesError, match=r"has kube-apiserver v1\.30\.1 and no kube-controller-manager, .*use"
    ):
        binaries.build()
    assets(tmp_path / "empty", monkeypatch, "v1.30.1")
    with pytest.raises(binaries.BinariesError, match=r"KUBEBUILDER_ASSETS=.*empty holds none of"):
        binaries.build()
