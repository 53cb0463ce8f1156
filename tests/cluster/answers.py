"""One request to the tiny model on nodes, and the right answer to it."""

import json

from deployed import MODEL, NAME
from reference import reference_greedy
from transformers import AutoTokenizer

from moe_dev.paths import CLONE

PROMPT, TOKENS = "Once upon a time", 16
BODY = json.dumps({"model": NAME, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0})


def unsharded() -> str:
    """What plain transformers answers."""
    tokenizer = AutoTokenizer.from_pretrained(CLONE / MODEL)
    (answer,) = reference_greedy(CLONE / MODEL, [tokenizer.encode(PROMPT)], TOKENS)
    return str(tokenizer.decode(answer))
