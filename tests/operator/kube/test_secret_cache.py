"""When a Secret is read again, with the clock in the test's hand."""

import asyncio
from dataclasses import dataclass, field

import pytest

from moe_operator import recent
from moe_operator.kube import secret_cache
from moe_operator.kube.errors import KubeUnreachableError, SecretMissingError
from moe_operator.kube.secret_cache import Asker, Held, SecretCache

KEY = ("team", "given", "ray-token")


@dataclass
class Reader:
    """A Secret, and who asks for it. ``looks`` counts how often it was looked at."""

    now: float = 100.0
    version: int = 1
    error: Exception | None = None
    looks: int = 0
    slow: bool = False
    cache: SecretCache = field(init=False)

    def __post_init__(self) -> None:
        self.cache = SecretCache(lambda: self.now)

    async def look(self, before: Held[str] | None) -> Held[str]:
        self.looks += 1
        if self.slow:
            await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        return Held(str(self.version), f"content-{self.version}")

    async def ask(self, uid: str = "a", generation: int = 1, fresh: bool = False) -> str:
        return (await self.cache.get(KEY, Asker(uid, generation), self.look, fresh)).content


@pytest.fixture
def reader() -> Reader:
    return Reader()


async def test_one_look_serves_all_who_ask(reader: Reader) -> None:
    reader.slow = True
    assert set(await asyncio.gather(*(reader.ask(f"u-{number}") for number in range(100)))) == {"content-1"}
    assert reader.looks == 1


async def test_a_change_is_noticed_within_five_minutes_and_few_looks_are_made(reader: Reader) -> None:
    await reader.ask()
    for _ in range(720):
        reader.now += 5.0
        await reader.ask()
    assert 12 <= reader.looks <= 16  # an hour
    reader.version, changed = 2, reader.now
    while await reader.ask() == "content-1":
        reader.now += 5.0
    assert reader.now - changed <= secret_cache.LONGEST_SECONDS


async def test_secrets_read_together_do_not_stay_in_step() -> None:
    readers = [Reader() for _ in range(50)]
    for reader in readers:
        await reader.ask()
        reader.now += 265.0
        await reader.ask()
    assert 5 < sum(reader.looks for reader in readers) - 50 < 45


async def test_an_object_that_changed_is_given_what_stands_there_now(reader: Reader) -> None:
    await reader.ask(generation=1)
    reader.version, reader.now = 2, reader.now + 1.0
    assert await reader.ask(generation=1) == "content-1"
    assert await reader.ask(generation=2) == "content-2"
    assert await reader.ask(generation=2) == "content-2"
    assert reader.looks == 2


async def test_what_is_asked_for_fresh_is_looked_at_and_the_looks_of_a_moment_are_shared(reader: Reader) -> None:
    await reader.ask()
    reader.now += 10.0
    reader.version, reader.slow = 2, True
    assert set(await asyncio.gather(*(reader.ask(f"u-{number}", fresh=True) for number in range(50)))) == {"content-2"}
    assert reader.looks == 2
    reader.now += secret_cache.FRESH_SECONDS + 0.1
    await reader.ask(fresh=True)
    assert reader.looks == 3


async def test_what_is_wrong_is_looked_at_again_after_seconds(reader: Reader) -> None:
    reader.error = SecretMissingError("no key")
    for _ in range(10):
        with pytest.raises(SecretMissingError, match="no key"):
            await reader.ask()
    assert reader.looks == 1
    reader.error, reader.now = None, reader.now + secret_cache.ERROR_SECONDS
    assert await reader.ask() == "content-1"


async def test_so_is_what_does_not_serve_somebody(reader: Reader) -> None:
    for _ in range(10):
        await reader.ask()
        reader.cache.unfit(KEY)
    assert reader.looks == 1
    reader.version, reader.now = 2, reader.now + secret_cache.ERROR_SECONDS
    assert await reader.ask() == "content-2"


@pytest.mark.parametrize("for_all", [True, False])
async def test_what_stays_wrong_costs_few_looks_and_is_noticed_when_it_is_mended(reader: Reader, for_all: bool) -> None:
    reader.error = SecretMissingError("no key") if for_all else None

    async def fits() -> bool:
        reader.now += 5.0
        try:
            found = await reader.ask()
        except SecretMissingError:
            return False
        if found == "content-1":
            reader.cache.unfit(KEY)
        return found != "content-1"

    for _ in range(720):
        assert not await fits()
    assert 100 <= reader.looks <= 140  # an hour
    reader.version, reader.error, mended = 2, None, reader.now
    while not await fits():
        pass
    assert reader.now - mended <= secret_cache.ERROR_CAP_SECONDS + 5.0
    reader.error, looks = SecretMissingError("gone again"), reader.looks
    reader.now += secret_cache.LONGEST_SECONDS
    for _ in range(6):
        assert not await fits()
    assert reader.looks >= looks + 5


async def test_an_error_that_is_told_again_holds_nobodys_frames(reader: Reader) -> None:
    reader.error = SecretMissingError("no key")
    told = []
    for _ in range(2):
        with pytest.raises(SecretMissingError) as caught:
            await reader.ask()
        told.append(caught.value)
    assert told[0] is not told[1]
    assert told[1].__cause__ is None


async def test_an_api_server_that_does_not_tell_is_asked_again_at_once(reader: Reader) -> None:
    await reader.ask()
    reader.now += 300.0
    reader.error = KubeUnreachableError("no answer")
    for _ in range(2):
        with pytest.raises(KubeUnreachableError):
            await reader.ask()
    reader.error = None
    assert await reader.ask() == "content-1"
    assert reader.looks == 4


async def test_what_is_refused_is_looked_at_again_soon_and_not_at_every_pass(reader: Reader) -> None:
    """A wrong token: somebody mends the Secret, or nobody does for an hour."""
    await reader.ask()
    looks = []
    for _ in range(360):
        reader.cache.refused(KEY)
        reader.now += 10.0
        before = reader.looks
        await reader.ask()
        looks += [reader.now] if reader.looks > before else []
    assert looks[0] == 110.0
    assert len(looks) <= 3600 / secret_cache.REFUSED_CAP_SECONDS + 5
    reader.version, mended = 2, reader.now
    while await reader.ask() == "content-1":
        reader.cache.refused(KEY)
        reader.now += 10.0
    assert reader.now - mended <= secret_cache.REFUSED_CAP_SECONDS + 10.0


async def test_a_refusal_long_after_the_last_look_is_looked_into_at_once(reader: Reader) -> None:
    await reader.ask()
    reader.version, reader.now = 2, reader.now + 60.0
    reader.cache.refused(KEY)
    assert await reader.ask() == "content-2"


async def test_what_nobody_asks_for_is_forgotten(reader: Reader) -> None:
    await reader.ask()
    reader.now += recent.IDLE_SECONDS + 1.0
    assert len(reader.cache) == 0
    reader.cache.refused(KEY)
    await reader.ask()
    assert (len(reader.cache), reader.looks) == (1, 2)


async def test_who_is_cancelled_while_looking_leaves_the_next_to_look(reader: Reader) -> None:
    reader.slow = True
    first = asyncio.create_task(reader.ask())
    await asyncio.sleep(0)
    second = asyncio.create_task(reader.ask("b"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "content-1"


def test_content_is_in_no_log() -> None:
    assert "secret-token" not in repr(Held("1", "secret-token"))
