"""Pace and headers in virtual time, so that the tests are exact on a busy machine."""

import asyncio
import random
import selectors
from email.utils import formatdate

import pytest

from tile_cache.errors import SourceUnavailableError
from tile_cache.fetch.politeness import Breaker, Pace, backoff_s, expires_at, retry_after_s

NOW = 1_760_000_000.0


class _Jumping(selectors.DefaultSelector):
    """An event loop that moves its clock forward instead of waiting."""

    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0
        return super().select(0)


def in_virtual_time(work):
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


async def turns(pace: Pace, tasks: int, each: int) -> list[float]:
    clock = asyncio.get_running_loop().time
    times = []

    async def worker() -> None:
        for _ in range(each):
            await pace.turn()
            times.append(clock())

    await asyncio.gather(*(worker() for _ in range(tasks)))
    return times


def test_turns_are_evenly_spaced_across_tasks():
    times = in_virtual_time(turns(Pace(4), tasks=3, each=5))
    assert times == pytest.approx([i / 4 for i in range(15)])


def test_infinite_rate_never_waits():
    assert in_virtual_time(turns(Pace(float("inf")), tasks=3, each=5)) == [0.0] * 15


def test_idle_time_is_not_followed_by_a_burst():
    async def late() -> list[float]:
        pace = Pace(10)
        await pace.turn()
        await asyncio.sleep(100)
        return await turns(pace, tasks=1, each=4)

    assert in_virtual_time(late()) == pytest.approx([100, 100.1, 100.2, 100.3])


def test_pause_delays_waiting_tasks_and_no_burst_follows():
    async def paused() -> list[float]:
        pace = Pace(10)
        waiting = asyncio.create_task(turns(pace, tasks=6, each=1))
        await asyncio.sleep(0.25)
        pace.pause(5)
        pace.pause(1)  # a shorter pause does not shorten a longer one
        return await waiting

    assert in_virtual_time(paused()) == pytest.approx([0, 0.1, 0.2, 5.25, 5.35, 5.45], abs=0.01)


def test_backoff_doubles_up_to_its_limit_and_is_random():
    random.seed(1)
    for attempt, most in enumerate([0.5, 1, 2, 4, 4, 4]):
        waits = [backoff_s(attempt, 0.5, 4) for _ in range(500)]
        assert 0 <= min(waits) < most * 0.1
        assert most * 0.9 < max(waits) <= most


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0),
        ({"retry-after": formatdate(NOW + 990, usegmt=True), "date": formatdate(NOW + 900, usegmt=True)}, 90),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Wed, 99 Foo 2025"}, None),
        ({"retry-after": "9" * 5000}, 999_999_999),
        ({}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after_s(headers, NOW) == (None if seconds is None else pytest.approx(seconds, abs=1))


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({}, None),
        ({"cache-control": "public"}, None),
        ({"cache-control": "public, Max-Age=600"}, 600),
        ({"cache-control": 'max-age="600"', "age": "100"}, 500),
        ({"cache-control": "max-age=600, no-cache"}, 0),
        ({"cache-control": "no-store"}, 0),
        ({"cache-control": "max-age=oops", "expires": formatdate(NOW + 50, usegmt=True)}, 50),
        ({"expires": formatdate(NOW + 950, usegmt=True), "date": formatdate(NOW + 900, usegmt=True)}, 50),
        ({"expires": "0"}, 0),
    ],
)
def test_expiry_by_cache_headers(headers, after):
    assert expires_at(headers, NOW) == (None if after is None else pytest.approx(NOW + after, abs=1))


def test_breaker_counts_consecutive_failures():
    breaker = Breaker("tiles", 3, "failed")
    for _ in range(5):
        breaker.count("HTTP 500")
        breaker.count("HTTP 500")
        breaker.reset()
    breaker.count("HTTP 500")
    breaker.count("HTTP 500")
    with pytest.raises(SourceUnavailableError, match=r"tiles failed for 3 tiles in a row \(HTTP 500\)"):
        breaker.count("HTTP 500")
