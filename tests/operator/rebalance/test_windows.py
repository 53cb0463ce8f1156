"""When windows are open: time zones, clocks that change, and what never comes."""

import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from moe_operator.api.rebalance import Window
from moe_operator.rebalance.windows import BadWindowError, check, next_open

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def window(cron: str, duration: str = "1h", zone: str = "UTC") -> Window:
    return Window(cron=cron, duration=duration, time_zone=zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


OPENS = [
    # cron, duration, time zone, at, when one is open from then on (None: at once)
    ("0 2 * * *", "3h", "UTC", "2026-03-10T01:59:59", "2026-03-10T02:00:00"),
    ("0 2 * * *", "3h", "UTC", "2026-03-10T02:00:00", None),
    ("0 2 * * *", "3h", "UTC", "2026-03-10T04:59:59", None),
    ("0 2 * * *", "3h", "UTC", "2026-03-10T05:00:00", "2026-03-11T02:00:00"),
    ("0 2 * * *", "3h", "UTC", "2026-03-10T02:00:00.500000", None),
    # Of another time zone, and on its day of the week.
    ("0 2 * * *", "3h", "Europe/Berlin", "2026-03-10T01:00:00", None),
    ("0 2 * * *", "3h", "Asia/Kolkata", "2026-03-09T20:29:59", "2026-03-09T20:30:00"),
    ("30 22 * * 1-5", "8h", "America/New_York", "2026-03-14T02:30:00", None),
    ("30 22 * * 1-5", "8h", "America/New_York", "2026-03-14T10:30:00", "2026-03-17T02:30:00"),
    # Over midnight, and one day into the next.
    ("30 23 * * *", "1h", "UTC", "2026-03-10T00:15:00", None),
    ("30 23 * * *", "1h", "UTC", "2026-03-10T00:30:00", "2026-03-10T23:30:00"),
    ("0 0 * * *", "1h", "UTC", "2026-03-10T23:59:59", "2026-03-11T00:00:00"),
    ("0 0 * * *", "1h", "UTC", "2026-03-11T00:00:00", None),
    ("0 0 31 12 *", "25h", "UTC", "2027-01-01T00:59:59", None),
    ("0 0 29 2 *", "1h", "UTC", "2026-03-10T00:00:00", "2028-02-29T00:00:00"),
    # Longer than from one beginning to the next: always.
    ("* * * * *", "168h", "UTC", "2026-03-10T00:00:30", None),
    # Summer time begins on 29 March 2026 at 01:00 UTC in Berlin: there is no 02:30, and it is taken at 03:00.
    ("30 2 * * *", "1h", "Europe/Berlin", "2026-03-29T00:59:59", "2026-03-29T01:00:00"),
    ("30 2 * * *", "1h", "Europe/Berlin", "2026-03-29T01:59:59", None),
    ("30 2 * * *", "1h", "Europe/Berlin", "2026-03-29T02:00:00", "2026-03-30T00:30:00"),
    # It ends on 25 October 2026 at 01:00 UTC: 02:30 is twice, and the first one counts.
    ("30 2 * * *", "1h", "Europe/Berlin", "2026-10-25T00:29:59", "2026-10-25T00:30:00"),
    ("30 2 * * *", "1h", "Europe/Berlin", "2026-10-25T01:15:00", None),
    ("30 2 * * *", "1h", "Europe/Berlin", "2026-10-25T01:30:00", "2026-10-26T01:30:00"),
    # An hour long, whatever the clocks say of it.
    ("0 1 * * *", "3h", "Europe/Berlin", "2026-10-25T01:59:59", None),
    ("0 1 * * *", "3h", "Europe/Berlin", "2026-10-25T02:00:00", "2026-10-26T00:00:00"),
]


@pytest.mark.parametrize(("cron", "duration", "zone", "at", "opens"), OPENS)
def test_when_one_is_open(cron: str, duration: str, zone: str, at: str, opens: str | None) -> None:
    assert next_open([window(cron, duration, zone)], utc(at)) == utc(opens or at)


def test_without_windows_it_is_always_open() -> None:
    assert next_open([], NOW) == NOW


def test_of_several_the_first_counts() -> None:
    two = [window("0 3 * * *"), window("0 22 * * *", zone="Europe/Berlin")]
    assert next_open(two, NOW) == utc("2026-03-10T21:00:00")


BAD = [
    # cron, time zone, what is said
    ("0 2 * *", "UTC", "windows[0].cron is '0 2 * *': it has 4 fields and not 5; write minute, hour, day of the month"),
    ("0 0 2 * * *", "UTC", "it has 6 fields and not 5"),
    ("61 2 * * *", "UTC", "windows[0].cron is '61 2 * * *': Bad minute; write minute"),
    ("0 2 * * MONDAY", "UTC", "Bad day-of-week"),
    ("@daily", "UTC", "windows[0].cron is '@daily': it has 1 fields"),
    ("0 2 30 2 *", "UTC", "Bad day-of-month"),
    ("0 2 31 4,6,9,11 *", "UTC", "Bad day-of-month"),
    ("\u202e2 2 * * *", "UTC", r"windows[0].cron is '\u202e2 2 * * *'"),
    ("0 2 * * *", "Berlin", "windows[0].timeZone is 'Berlin', which is no time zone: write one of IANA's names"),
    ("0 2 * * *", "Europe", "windows[0].timeZone is 'Europe', which is no time zone"),
    ("0 2 * * *", "../../etc/passwd", "which is no time zone"),
    ("0 2 * * *", "/etc/localtime", "which is no time zone"),
    ("0 2 * * *", "UTC\0", r"windows[0].timeZone is 'UTC\x00', which is no time zone"),
]


@pytest.mark.parametrize(("cron", "zone", "said"), BAD)
def test_what_cannot_be_read_or_never_comes_is_told_with_field_value_and_cure(cron: str, zone: str, said: str) -> None:
    with pytest.raises(BadWindowError) as caught:
        check([window(cron, zone=zone)], NOW)
    assert said in str(caught.value)
    assert "such as" in str(caught.value)


def test_the_second_of_two_is_named() -> None:
    with pytest.raises(BadWindowError, match=r"windows\[1\]\.cron"):
        check([window("0 2 * * *"), window("x")], NOW)


def test_time_zones_are_known_in_an_image_without_any() -> None:
    """From the package, where the system has none."""
    zoneinfo.reset_tzpath(to=[])
    try:
        assert zoneinfo.ZoneInfo.no_cache("Europe/Berlin").utcoffset(datetime(2026, 7, 1)) == timedelta(hours=2)
    finally:
        zoneinfo.reset_tzpath()


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Antarctica/Troll", "Pacific/Chatham"]
moments = st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
crons = st.builds(
    lambda minute, hour, day: f"{minute} {hour} {day}",
    st.sampled_from(["*", "0", "30", "*/7", "0-59"]),
    st.sampled_from(["*", "0", "1", "2", "3", "23", "*/5", "0-4"]),
    st.sampled_from(["* * *", "1 * *", "* * 0", "29 2 *", "L * *"]),
)


@example("* 2 L * *", 1, "Pacific/Chatham", datetime(2029, 9, 1, tzinfo=UTC))
@given(crons, st.integers(1, 600), st.sampled_from(ZONES), moments)
def test_it_is_open_when_it_says_and_closed_until_then(cron: str, minutes: int, zone: str, at: datetime) -> None:
    windows = [window(cron, f"{minutes}m", zone)]
    opens = next_open(windows, at)
    assert opens >= at
    assert next_open(windows, opens) == opens
    if opens > at:
        assert next_open(windows, at + (opens - at) / 2) == opens
        # It has just begun.
        assert next_open(windows, opens - timedelta(microseconds=1)) == opens


@given(crons, st.integers(1, 600), st.sampled_from(ZONES), moments)
def test_it_is_open_for_as_long_as_it_says(cron: str, minutes: int, zone: str, at: datetime) -> None:
    windows = [window(cron, f"{minutes}m", zone)]
    opens = next_open(windows, at)
    assume(opens > at)
    last = opens + timedelta(minutes=minutes) - timedelta(microseconds=1)
    assert next_open(windows, last) == last


@given(st.text(alphabet="0123456789*/,-#LW MONJAN@\u00b2\u0663", max_size=40), st.text(max_size=20))
def test_whatever_somebody_writes_is_read_or_told(cron: str, zone: str) -> None:
    odd = Window.model_construct(cron=cron, duration="1h", time_zone=zone)
    for each in (odd, Window.model_construct(cron=cron, duration="1h", time_zone="Europe/Berlin")):
        try:
            check([each], NOW)
        except BadWindowError:
            continue
        assert next_open([each], NOW) >= NOW
