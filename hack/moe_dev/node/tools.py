"""Runs the machine's own tools: ip, mount and the like. RuntimeError with what one wrote to standard error."""

import subprocess


def run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.strip()}")


def ip(arguments: str) -> None:
    """`ip` with `arguments`, which have no spaces in them."""
    run("ip", *arguments.split())
