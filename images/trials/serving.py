"""What the serving image must be able to do without writing anywhere but to /tmp: serve the model at /mnt from two
shards, as the unsharded model answers, with kernels that the image has."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from moe_placement import dispatch
from moe_placement.kernel_cache import kernel_directory
from moe_serving.engine.lean import kernels

MODEL, PROMPT, TOKENS, WAIT_S = "/mnt", [1, 2, 3, 5, 8, 13], 16, 300.0


def main() -> None:
    folders = kernel_directory(), kernel_directory(Path(kernels.__file__))
    before = [sorted(folder.iterdir()) for folder in folders]
    dispatch.prepare()
    kernels.prepare()
    if not all(before) or before != [sorted(folder.iterdir()) for folder in folders]:
        raise SystemExit("kernels were compiled anew")
    answered, wanted = served(), whole()
    if answered != wanted:
        raise SystemExit(f"served were {answered}, and the unsharded model says {wanted}")


def served() -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["moe-serve", "--model", MODEL, "--shards", "2", "--api-replicas", "1", "--port", str(port)]
    serving = subprocess.Popen([*command, "--dtype", "float32"])
    try:
        return ask(serving, f"http://127.0.0.1:{port}/v1/completions")
    finally:
        serving.terminate()
        serving.wait(120)


def ask(serving: subprocess.Popen[bytes], address: str) -> list[int]:
    wish = {"model": "mnt", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
    body, end = json.dumps(wish).encode(), time.monotonic() + WAIT_S
    while serving.poll() is None:
        try:
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["choices"][0]["token_ids"]
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > end:
                raise SystemExit(f"waited {WAIT_S:.0f} s for an answer of {address}: {error}") from error
            time.sleep(1.0)
    raise SystemExit(f"moe-serve ended with {serving.returncode}")


def whole() -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    prompt = torch.tensor([PROMPT])
    return model.generate(prompt, max_new_tokens=TOKENS, do_sample=False)[0, len(PROMPT) :].tolist()


main()
