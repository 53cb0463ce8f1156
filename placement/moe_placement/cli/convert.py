"""``moe-placement convert``: recordings and expert maps of vLLM and SGLang to this package's files, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from moe_placement.checks import MOST_EXPERTS, whole
from moe_placement.cli.inputs import lead, placement_of
from moe_placement.cli.layers import add_layers, named_layers, needed_layers
from moe_placement.cli.outputs import check_outputs, write_all
from moe_placement.encoding import encode_placement
from moe_placement.engines import (
    from_physical_to_logical,
    read_physical_map,
    read_sglang_details,
    read_sglang_statistics,
    read_vllm_outputs,
    trace_from_vllm,
    write_sglang_location,
    write_vllm_maps,
)
from moe_placement.engines.files import is_torch_file
from moe_placement.errors import InvalidPlacementError, InvalidStatisticsError, InvalidTraceError, PlacementError
from moe_placement.ranges import as_ranges
from moe_placement.statistics import encode_statistics
from moe_placement.traces import Trace, write_trace

_ROWS = "Rows of the file are layers of the model, of which only MoE layers count"


def add_convert(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]  # generic only in stubs
    """Add the command to the parser; ``what`` in the result is what to make."""
    text = "read files of vLLM and SGLang, and write them"
    top = commands.add_parser("convert", help=text, description=text)
    kinds = top.add_subparsers(required=True, metavar="WHAT", dest="what")
    trace = _kind(kinds, "trace", "expert sets, from SGLang's mode per_token (.pt) or vLLM's routed_experts", "+")
    trace.add_argument("--experts", type=int, metavar="N", help="experts per layer; vLLM's files do not say")
    add_layers(trace, f"{_ROWS} (default: those that were used).")
    loads = _kind(kinds, "statistics", "loads of experts for plan, from SGLang's mode stat (.pt)")
    loads.add_argument("--top-k", type=int, required=True, metavar="K", help="experts per token; the file does not say")
    add_layers(loads, f"{_ROWS} (default: those that were used).")
    placement = _kind(kinds, "placement", "a placement, from an expert map (.json, .npz, .npy, or in a recording, .pt)")
    placement.add_argument("--shards", type=int, required=True, metavar="N", help="ranks, in all nodes")
    add_layers(placement, f"{_ROWS}; of vLLM's maps all.")
    back = _kind(kinds, "map", "an expert map: SGLang's --init-expert-location (.json) or vLLM's three arrays (.npz)")
    add_layers(back, "Row n of SGLang's file is the model's layer n; vLLM's has rows for MoE layers only.")


def _kind(kinds: argparse._SubParsersAction, name: str, text: str, count: str | None = None) -> argparse.ArgumentParser:  # type: ignore[type-arg]  # as above
    command: argparse.ArgumentParser = kinds.add_parser(name, help=text, description=f"Make {text}.")
    command.add_argument("files" if count else "file", type=Path, nargs=count, metavar="FILE")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="write it here")
    return command


def convert(options: argparse.Namespace) -> None:
    """Carry out the command."""
    {"trace": _trace, "statistics": _statistics, "placement": _placement, "map": _map}[options.what](options)


def _trace(options: argparse.Namespace) -> None:
    check_outputs({"--out": options.out}, {f"{path}": path for path in options.files}, {"--out": (".npz",)})
    layers = named_layers(options)
    rows = None if layers is None else layers.moe
    saved_by_torch = [is_torch_file(path) for path in options.files]
    if all(saved_by_torch):
        trace = _of_sglang(options, rows)
    elif any(saved_by_torch):
        raise InvalidTraceError("files of two kinds, some saved by torch and some not: convert them one by one")
    elif options.experts is None:
        raise InvalidTraceError(f"--experts is needed: {options.files[0]} does not say how many there are in a layer")
    else:
        experts = whole(InvalidTraceError, "--experts", options.experts, 1, MOST_EXPERTS)
        outputs = [array for path in options.files for array in read_vllm_outputs(path)]
        trace = trace_from_vllm(outputs, experts, rows)
    write_all({options.out: lambda path: write_trace(path, trace)})
    (tokens, kept, k), prompts = trace.ids.shape, len(set(trace.prompt.tolist()))
    print(
        f"{options.out}: {tokens} tokens of {prompts} prompts, {kept} layers of {trace.experts} experts, {k} per token"
    )


def _of_sglang(options: argparse.Namespace, rows: tuple[int, ...] | None) -> Trace:
    try:
        trace = read_sglang_details(options.files, rows)
    except InvalidTraceError as error:
        if "logical_count" not in str(error):
            raise
        raise InvalidTraceError(f"{error}; loads of mode stat: `moe-placement convert statistics`") from error
    if options.experts is not None and options.experts != trace.experts:
        raise InvalidTraceError(f"--experts is {options.experts}, the recording is of {trace.experts}: leave it out")
    return trace


def _statistics(options: argparse.Namespace) -> None:
    check_outputs({"--out": options.out}, {"the recording": options.file})
    layers = named_layers(options)
    try:
        statistics = read_sglang_statistics(options.file, options.top_k, None if layers is None else layers.moe)
    except InvalidStatisticsError as error:
        raise InvalidStatisticsError(str(error).replace("top_k", "--top-k")) from error
    except InvalidTraceError as error:
        if "records" not in str(error):
            raise
        raise InvalidTraceError(f"{error}; expert sets of mode per_token: `moe-placement convert trace`") from error
    write_all({options.out: lambda path: path.write_bytes(encode_statistics(statistics))})
    shape = statistics.shape
    print(
        f"{options.out}: {statistics.tokens:.0f} tokens in {len(statistics.windows)} windows, loads of {shape.layers} "
        f"layers of {shape.experts} experts"
    )


def _placement(options: argparse.Namespace) -> None:
    check_outputs({"--out": options.out}, {"the map": options.file})
    shards = whole(InvalidPlacementError, "--shards", options.shards, 1)
    try:
        rows = read_physical_map(options.file)
    except InvalidPlacementError as error:
        raise InvalidPlacementError(f"{error}{lead(options.file)}") from error
    layers = named_layers(options, len(rows))
    if layers is None:
        raise PlacementError(
            f"{options.file} has {len(rows)} rows, and does not say which are of MoE layers: give --config with the "
            "model's config.json, or --moe-layers such as 3-60 (all where none is of a dense layer)"
        )
    if max(layers.moe) >= len(rows):
        raise PlacementError(f"{options.file} has {len(rows)} rows, the MoE layers go up to {max(layers.moe)}")
    chosen = rows[list(layers.moe)]
    placement = from_physical_to_logical(chosen, shards, int(chosen.max(initial=-1)) + 1)
    write_all({options.out: lambda path: path.write_text(encode_placement(placement) + "\n")})
    print(
        f"{options.out}: {placement.experts} experts x {placement.layers} layers on {shards} shards of "
        f"{placement.shard_slots[0]} slots, from rows {as_ranges(layers.moe)} of {len(rows)}"
    )


def _map(options: argparse.Namespace) -> None:
    check_outputs({"--out": options.out}, {"the placement": options.file}, {"--out": (".json", ".npz")})
    placement = placement_of(options.file)
    if options.out.suffix == ".npz":
        if named_layers(options, placement.layers) is not None:
            raise PlacementError("vLLM's maps have rows for MoE layers only: leave --config and --moe-layers out")
        write_all({options.out: lambda path: write_vllm_maps(path, placement)})
        print(f"{options.out}: {placement.layers} rows, one for each MoE layer")
        return
    why = "row n of SGLang's file is the model's layer n, and the placement does not know which layers are dense"
    layers = needed_layers(options, placement.layers, why, str(options.file))
    write_all({options.out: lambda path: write_sglang_location(path, placement, layers.moe, layers.total)})
    print(f"{options.out}: {layers.total} rows, those of MoE layers are {as_ranges(layers.moe)}")
