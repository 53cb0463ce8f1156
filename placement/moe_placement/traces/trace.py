"""The recorder's format: which experts each token chose in every MoE layer, and where the token came from.

An ``.npz`` file with these arrays (others are errors):

==========  ===================  ==============================================================================
``format``  scalar string        ``moe-trace/1``
``experts`` scalar int           experts per layer
``ids``     int ``[T, L, K]``    chosen experts; -1 where fewer than K were chosen
``prompt``  int ``[T]``          number of the prompt or document a token belongs to; tokens in order of time
``domain``  int ``[T]``          index into ``domains``
``domains`` string ``[D]``       what kinds of text there are
``gates``   float ``[T, L, K]``  gate weights, finite; optional
==========  ===================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import (
    MOST_EXPERTS,
    MOST_SEED,
    experts_once,
    floats,
    instance,
    integers,
    items,
    new_file,
    whole,
)
from moe_placement.checks import gates as checked_gates
from moe_placement.checks import ids as checked_ids
from moe_placement.errors import InvalidTraceError, MismatchError
from moe_placement.traces.archive import read_arrays, scalar

_FORMAT = "moe-trace/1"
_REQUIRED = {"format", "experts", "ids", "prompt", "domain", "domains"}


@dataclass(frozen=True, eq=False)
class Trace:
    """Traffic in memory; shapes as in the file.

    Any integers and floats are taken; once they are found to fit they become int16 (ids, domain), int32 (prompt) and
    float16 (gates).

    Raises:
        InvalidTraceError: shapes that do not belong together, a value out of range, or an expert twice in one set.
    """

    ids: NDArray[np.integer]
    experts: int
    prompt: NDArray[np.integer]
    domain: NDArray[np.integer]
    domains: tuple[str, ...] = ("all",)
    gates: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        error = InvalidTraceError
        experts = whole(error, "experts", self.experts, 1, MOST_EXPERTS)
        domains = items(error, "domains", self.domains)
        for number, domain in enumerate(domains):
            instance(error, f"domains[{number}]", domain, str)
        ids = checked_ids(error, "ids", self.ids, "[tokens, layers, k]", experts)
        experts_once(error, ids)
        object.__setattr__(self, "experts", experts)
        object.__setattr__(self, "domains", domains)
        object.__setattr__(self, "ids", ids.astype(np.int16))
        for name, kind, end in (("prompt", np.int32, 2**31), ("domain", np.int16, len(domains))):
            numbers = integers(error, name, getattr(self, name), "[tokens]")
            if len(numbers) != len(ids):
                raise error(f"{name} names {len(numbers)} tokens, ids has {len(ids)}")
            if len(numbers) and (numbers.min() < 0 or numbers.max() >= end):
                raise error(f"{name} holds {numbers.min()} .. {numbers.max()}; they must be within 0 .. {end - 1}")
            object.__setattr__(self, name, numbers.astype(kind))
        if self.gates is not None:
            object.__setattr__(self, "gates", checked_gates(error, self.gates, ids.shape))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, tokens: NDArray[np.bool_] | NDArray[np.integer]) -> Trace:
        """The tokens of a mask or an index.

        Raises:
            InvalidTraceError: a mask of another length, or a token that is not there.
        """
        try:
            ids, prompt, domain = self.ids[tokens], self.prompt[tokens], self.domain[tokens]
        except IndexError as error:
            raise InvalidTraceError(f"tokens to take of {len(self)}: {error}") from None
        gates = None if self.gates is None else self.gates[tokens]
        return Trace(ids, self.experts, prompt, domain, self.domains, gates)

    def of_domain(self, name: str) -> Trace:
        """Only the tokens of one kind of text.

        Raises:
            InvalidTraceError: no such domain.
        """
        if name not in self.domains:
            raise InvalidTraceError(f"no domain {name!r} in this trace; it has {', '.join(self.domains)}")
        return self.take(self.domain == self.domains.index(name))

    def shuffled(self, seed: int = 0) -> Trace:
        """The same loads without structure: each expert's tokens are drawn anew, all loads and set sizes kept.

        Each column of chosen experts is permuted among tokens, layer by layer; a token that would then hold an expert
        twice trades with another one, at random, until none does.

        Raises:
            InvalidTraceError: a seed that is no whole number from 0.
        """
        random = np.random.default_rng(whole(InvalidTraceError, "seed", seed, most=MOST_SEED))
        ids, gates = self.ids.copy(), None if self.gates is None else self.gates.copy()
        for layer in range(ids.shape[1]):
            source = _shuffle_sets(self.ids[:, layer], random)
            ids[:, layer] = self.ids[:, layer].ravel()[source]
            if gates is not None and self.gates is not None:
                gates[:, layer] = self.gates[:, layer].ravel()[source]
        return Trace(ids, self.experts, self.prompt, self.domain, self.domains, gates)


def _shuffle_sets(sets: NDArray[np.integer], random: np.random.Generator) -> NDArray[np.int64]:
    """int64 ``[tokens, k]``: the flat cell of ``sets`` that each cell is now filled from."""
    tokens, k = sets.shape
    where = random.permutation(tokens * k)
    flat = sets.ravel()[where]
    repeated = np.zeros((tokens, k), dtype=bool)
    for _ in range(200):
        grid = flat.reshape(tokens, k)
        order = np.argsort(grid, axis=1, kind="stable")
        ordered = np.take_along_axis(grid, order, axis=1)
        repeated[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        row, column = np.nonzero(repeated)
        if not len(row):
            break
        cells = row * k + order[row, column]
        partners = random.choice(tokens * k, size=len(cells), replace=False)
        for cell, partner in zip(cells, partners, strict=True):
            flat[cell], flat[partner] = flat[partner], flat[cell]
            where[cell], where[partner] = where[partner], where[cell]
    clean = ~np.asarray(repeated.any(axis=1))
    return np.where(clean[:, None], where.reshape(tokens, k), np.arange(tokens * k).reshape(tokens, k))


def split_by_prompt(trace: Trace, parts: Sequence[float] = (0.5, 0.5), seed: int = 0) -> list[Trace]:
    """Cut into parts that share no prompt, each with about its part of the prompts of every domain.

    Raises:
        InvalidTraceError: a part that is negative or not finite, or parts that sum to nothing.
    """
    instance(InvalidTraceError, "trace", trace, Trace)
    random = np.random.default_rng(whole(InvalidTraceError, "seed", seed, most=MOST_SEED))
    wanted = floats(InvalidTraceError, "parts", parts, "[parts]", 0.0, 1e9)
    if not wanted.sum() > 0:
        raise InvalidTraceError(f"parts are {parts}; at least one must be above 0")
    bounds = np.cumsum(wanted)[:-1] / wanted.sum()
    known, prompt = np.unique(trace.prompt, return_inverse=True)
    part_of = np.zeros(len(known), dtype=np.int64)
    for domain in range(len(trace.domains)):
        prompts = random.permutation(np.unique(prompt[trace.domain == domain]))
        for number, chunk in enumerate(np.split(prompts, (bounds * len(prompts)).round().astype(int))):
            part_of[chunk] = number
    return [trace.take(part_of[prompt] == number) for number in range(len(wanted))]


def concatenate(traces: Sequence[Trace]) -> Trace:
    """One after the other; prompts are renumbered, domains matched by name, gates kept where all traces have them.

    Raises:
        MismatchError: traces of different models, or none.
    """
    traces = items(MismatchError, "traces", traces)
    for number, trace in enumerate(traces):
        instance(MismatchError, f"traces[{number}]", trace, Trace)
    if len({(t.experts, t.ids.shape[1:]) for t in traces}) != 1:
        raise MismatchError("only traces of one model can be concatenated, and at least one is needed")
    names = tuple(dict.fromkeys(name for trace in traces for name in trace.domains))
    prompts, domains, first = [], [], 0
    for trace in traces:
        prompts.append(trace.prompt + first)
        first += int(trace.prompt.max(initial=-1)) + 1
        domains.append(np.asarray([names.index(n) for n in trace.domains], dtype=np.int16)[trace.domain])
    ids = np.concatenate([trace.ids for trace in traces])
    known = [trace.gates for trace in traces if trace.gates is not None]
    gates = np.concatenate(known) if len(known) == len(traces) else None
    return Trace(ids, traces[0].experts, np.concatenate(prompts), np.concatenate(domains), names, gates)


def write_trace(path: str | Path, trace: Trace) -> None:
    """Write the format above, compressed; ids in one byte each where the experts allow it.

    Raises:
        InvalidTraceError: no such folder, or no trace.
    """
    target = new_file(InvalidTraceError, path)
    instance(InvalidTraceError, "trace", trace, Trace)
    kind = np.int8 if trace.experts <= 127 else np.int16
    arrays = {
        "format": np.array(_FORMAT), "experts": np.array(trace.experts), "ids": trace.ids.astype(kind),
        "prompt": trace.prompt, "domain": trace.domain, "domains": np.array(trace.domains),
    }  # fmt: skip
    if trace.gates is not None:
        arrays["gates"] = trace.gates
    with target.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none of these is its allow_pickle


def read_trace(path: str | Path) -> Trace:
    """Inverse of ``write_trace``.

    Raises:
        InvalidTraceError: not such a file, another version, missing or unknown arrays, values out of range.
    """
    arrays = read_arrays(path)
    names = set(arrays)
    if not names >= _REQUIRED or names - _REQUIRED - {"gates"}:
        raise InvalidTraceError(f"{path}: arrays are {sorted(names)}; a trace has {sorted(_REQUIRED)} and maybe gates")
    if (found := scalar(path, arrays, "format", "U")) != _FORMAT:
        raise InvalidTraceError(f"{path}: format {found}; this release reads {_FORMAT}")
    experts, domains = scalar(path, arrays, "experts", "iu"), arrays["domains"]
    if domains.ndim != 1 or not np.issubdtype(domains.dtype, np.str_):
        raise InvalidTraceError(f"{path}: domains must be a list of names, got {domains.dtype} {domains.shape}")
    try:
        return Trace(
            arrays["ids"], experts, arrays["prompt"], arrays["domain"], tuple(map(str, domains)), arrays.get("gates")
        )
    except InvalidTraceError as error:
        raise InvalidTraceError(f"{path}: {error}") from None
