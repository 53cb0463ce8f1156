"""Prompts that show the model at work, answered greedily for the model card. Caller: cli.py."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

MAX_NEW_TOKENS = 64

COMPLETIONS = {
    "python": "class Parser:\n    def __init__(self, name, default=None):\n        self.name = name\n",
    "c": "#ifndef _LINUX_SERIAL_H\n#define _LINUX_SERIAL_H\n\n#include <linux/types.h>\n\nstruct",
    "english": "NAME\n\nfile - ",
    "german": "BESCHREIBUNG\n\nDas Programm",
    "french": "DESCRIPTION\n\nLa commande",
}
QUESTIONS = ("Hello", "What is mount?", "Was ist ls?", "Qu'est-ce que tail ?", "What is the Python module gzip?")


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the model's answer; `ended`: the model ended the text itself, within the tokens it had."""

    kind: str
    prompt: str
    answer: str
    ended: bool


def samples(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[Sample]:
    """One completion per domain, then the questions through the chat template."""
    completions = [
        _answer(model, tokenizer, domain, prompt, f"{tokenizer.bos_token}{prompt}")
        for domain, prompt in COMPLETIONS.items()
    ]
    talks = [_answer(model, tokenizer, "chat", question, _asked(tokenizer, question)) for question in QUESTIONS]
    return completions + talks


def _asked(tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _answer(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, kind: str, prompt: str, rendered: str
) -> Sample:
    """`rendered` is what the model reads: the prompt with its special tokens."""
    inputs = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
    new = generated[0, inputs["input_ids"].shape[1] :]
    ended = bool(new[-1] == tokenizer.eos_token_id)
    return Sample(kind, prompt, str(tokenizer.decode(new, skip_special_tokens=True)), ended)
