"""Before a model takes another one's place, it is asked whether each of its files can be had."""

from dataclasses import replace
from pathlib import Path

import pytest
from parted import EVEN, FILES, ODD, OTHERS
from stub_hub import REPOSITORY, REVISION, StubHub
from stub_web import StubWeb

from moe_serving.checkpoint import ModelError
from moe_serving.fetching import asking, fetch
from moe_serving.fetching.asking import Cached
from moe_serving.fetching.cache import Cache
from moe_serving.fetching.fetch import ask_for_all, bring, local_model
from moe_serving.fetching.listing import Listing

MODEL = f"hf://{REPOSITORY}@{REVISION}"
Kept = tuple[StubHub | StubWeb, str]


@pytest.fixture(params=["hub", "web"])
def kept(
    request: pytest.FixtureRequest, hub: StubHub, web_model: tuple[StubWeb, str], monkeypatch: pytest.MonkeyPatch
) -> Kept:
    """A model, and who keeps it, that was opened: nothing of its weights is on this node."""
    monkeypatch.setattr("moe_serving.fetching.outline.again_after", lambda seconds: None)
    stub: StubHub | StubWeb
    stub, model = (hub, MODEL) if request.param == "hub" else web_model
    local_model(model)
    stub.parts.clear()
    return stub, model


def weights(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name in FILES}


def test_of_each_file_one_part_is_asked_for_and_none_is_fetched(kept: Kept) -> None:
    stub, model = kept
    ask_for_all(model)
    assert weights(stub.parts) == dict.fromkeys(FILES, 1)
    assert weights(stub.gets) == {}


def test_what_is_on_this_node_is_not_asked_for(kept: Kept, tiny: Path) -> None:
    stub, model = kept
    path = Path(local_model(model))
    bring(model, [path / EVEN])
    del stub.files[EVEN]
    ask_for_all(model)
    assert weights(stub.parts) == {ODD: 1, OTHERS: 1}
    bring(model, [path / ODD, path / OTHERS])
    stub.files.clear()
    ask_for_all(model)
    ask_for_all(str(tiny))


def test_where_the_cache_goes_with_what_runs_its_files_are_asked_for_too(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a pod of KubeRay's, all of which go before the new model is loaded."""
    stub, model = kept
    path = Path(local_model(model))
    bring(model, [path / name for name in FILES])
    del stub.files[EVEN]
    monkeypatch.setattr(fetch, "goes_with_pod", lambda path: False)
    ask_for_all(model, Cached.NOWHERE)
    assert weights(stub.parts) == {}, "they are in a volume of their own"
    monkeypatch.setattr(fetch, "goes_with_pod", lambda path: path == Cache.of_environment().path)
    with pytest.raises(ModelError, match=rf"^{EVEN} cannot be had, so nothing is given up for this model: "):
        ask_for_all(model, Cached.NOWHERE)
    ask_for_all(model, Cached.HERE)


def test_what_is_cached_wherever_it_is_needed_is_asked_for_of_nobody(kept: Kept) -> None:
    stub, model = kept
    stub.files.clear()
    ask_for_all(model, Cached.EVERYWHERE)
    assert weights(stub.parts) == {}


def test_one_that_is_gone_is_named_and_others_are_fetched_all_the_same(kept: Kept) -> None:
    stub, model = kept
    del stub.files[ODD]
    with pytest.raises(ModelError, match=rf"^{ODD} cannot be had, so nothing is given up for this model: ") as caught:
        ask_for_all(model)
    assert caught.value.reason == "DownloadFailed"
    bring(model, [Path(local_model(model)) / EVEN])


@pytest.mark.parametrize(("cut", "reason"), [(1, "WeightsTruncated"), (0, "")])
def test_where_no_part_is_given_the_size_is_compared(kept: Kept, cut: int, reason: str) -> None:
    stub, model = kept
    whole = len(stub.files[ODD])
    stub.files[ODD] = stub.files[ODD][: whole - cut]
    stub.partless = 416
    if not cut:
        ask_for_all(model)
        return
    with pytest.raises(ModelError, match=rf"^{ODD} .* has {whole - cut} bytes of it, and told of {whole} b") as caught:
        ask_for_all(model)
    assert caught.value.reason == reason


def test_where_a_size_was_told_wrongly_it_is_asked_for_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = kept
    monkeypatch.setattr(fetch, "AGAIN_SECONDS", 0.0)

    def too_large(listing: Listing) -> Listing:
        return replace(listing, weights=tuple(replace(each, size=each.size + 1) for each in listing.weights))

    Cache.of_environment().change_listing(Path(local_model(model)).name, too_large)
    with pytest.raises(ModelError, match="cannot be had, so nothing is given up for this model"):
        ask_for_all(model)
    ask_for_all(model)


def test_one_that_is_told_of_no_more_by_who_gives_no_parts_is_missing(
    hub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_model(MODEL)
    del hub.files[ODD]
    monkeypatch.setattr("moe_serving.fetching.hub.Hub.read", lambda *_: None)
    with pytest.raises(ModelError, match=rf"^{ODD} cannot be had, .* does not have it any more$") as caught:
        ask_for_all(MODEL)
    assert caught.value.reason == "WeightsMissing"


def test_who_is_not_let_in_any_more_is_told_so(kept: Kept) -> None:
    stub, model = kept
    stub.token = "another"
    with pytest.raises(ModelError, match="cannot be had, so nothing is given up for this model: ") as caught:
        ask_for_all(model)
    assert caught.value.reason == "AccessDenied"


def test_one_request_that_fails_is_made_again(kept: Kept) -> None:
    stub, model = kept
    stub.failing = 2
    ask_for_all(model)


def test_it_takes_no_longer_than_may_be_and_is_not_asked_again_at_once(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, model = kept
    monkeypatch.setattr(asking, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(fetch, "AGAIN_SECONDS", 60.0)
    said = "0 s were not enough to ask for a byte of each of 3 files"
    with pytest.raises(ModelError, match=said):
        ask_for_all(model)
    monkeypatch.setattr(asking, "ASK_SECONDS", 300.0)
    with pytest.raises(ModelError, match=said):
        ask_for_all(model)
    assert not stub.parts
