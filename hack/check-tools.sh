#!/bin/sh
# Says in its first line which tool of `make setup` is missing or too old, and how to get it. Its arguments: the Python,
# and the binaries of the control plane that are wanted. POSIX shell, since it must run where nothing else does.
python=${1:-python3}
[ $# -gt 0 ] && shift

missing() {
	echo "$1" >&2
	exit 1
}

case $(cd "${0%/*}/.." && pwd) in
*:* | *"
"*) missing "the path of this clone has a colon or a line break in it, and lists of paths, such as PATH, cannot hold that: move the clone" ;;
esac
command -v git >/dev/null || missing "git is missing: install it, e.g. apt-get install git or dnf install git"
command -v "$python" >/dev/null ||
	missing "$python is missing: install Python 3.11 to 3.14, e.g. apt-get install python3 python3-venv, or name one: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
	missing "$python is $("$python" -c 'import platform; print(platform.python_version())'), too old: install Python 3.11 to 3.14 and name it: make PYTHON=python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info >= (3, 15))' ||
	missing "$python is $("$python" -c 'import platform; print(platform.python_version())'), for which torch and others have no packages yet: install Python 3.11 to 3.14 and name it: make PYTHON=python3.14"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
	missing "$python cannot make virtual environments: install its venv module, e.g. apt-get install python3-venv"

[ $# -gt 0 ] || exit 0
# Only what is neither built already nor in KUBEBUILDER_ASSETS needs a compiler.
unbuilt=$(PYTHONPATH="${0%/*}" "$python" -m moe_dev.binaries --missing "$@") || exit 1
[ -n "$unbuilt" ] || exit 0
command -v go >/dev/null ||
	missing "Go is missing and $unbuilt must be built: install Go 1.26 or newer from https://go.dev/dl, or set KUBEBUILDER_ASSETS to a directory with them"
version=$(go env GOVERSION)
minor=$(echo "$version" | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
# From 1.21 on Go fetches the toolchain that a go.mod asks for, unless told not to.
if [ "${minor:-0}" -lt 26 ] && { [ "${minor:-0}" -lt 21 ] || [ "$(go env GOTOOLCHAIN)" = local ]; }; then
	missing "Go is ${version:-of an unknown version}, too old: install 1.26 or newer from https://go.dev/dl (1.21 to 1.25 do with GOTOOLCHAIN=auto)"
fi
