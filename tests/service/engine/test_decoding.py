"""Pictures that take long or much memory in the service get documented problems, and the next one is answered."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.bombs import floats, png_of_zeros, progressive
from retrieval.locator import Locator
from service.engine.watch import Watch
from service.settings import Settings
from tests.support.decoding_processes import children, until

Problem = Callable[[httpx.Response, int, str], str]


def post(url: str, data: bytes, timeout: float = 60) -> httpx.Response:
    return httpx.post(f"{url}/locate", files={"image": data}, timeout=timeout)


def test_a_picture_that_takes_too_long_is_ended_and_the_next_is_answered(
    serving: Any, locator: Locator, check_problem: Problem
) -> None:
    before = children()
    with serving(locator, decode_timeout_s=0.2) as url:
        detail = check_problem(post(url, floats(10_000)), 413, "photo-too-slow")
        assert "0.2 s" in detail
        assert children() == before
        assert post(url, png_of_zeros(80, 60, 8, 2)).status_code == 200
        lines = httpx.post(
            f"{url}/locate/batch",
            files=[("images", ("a.tif", floats(10_000))), ("images", ("b.png", png_of_zeros(80, 60, 8, 2)))],
            timeout=60,
        ).text.splitlines()
        assert "photo-too-slow" in lines[0]
        assert '"result"' in lines[1]


def test_many_scans_are_refused_and_the_next_is_answered(url: str, check_problem: Problem) -> None:
    for scans in (101, 1_500):
        assert f"{scans:,} scans" in check_problem(post(url, progressive(10_000, scans)), 413, "photo-too-large")
    assert post(url, progressive(200, 90)).status_code == 200


def test_a_decoder_that_dies_is_a_503_and_the_next_is_answered(
    serving: Any, locator: Locator, check_problem: Problem
) -> None:
    with serving(locator) as url, ThreadPoolExecutor(1) as pool:
        for number, slug in ((signal.SIGSEGV, "decoder-ended"), (signal.SIGKILL, "out-of-memory")):
            waiting: Future[httpx.Response] = pool.submit(post, url, floats(10_000))
            until(is_decoding)
            for pid in children():
                os.kill(pid, number)
            check_problem(waiting.result(), 503, slug)
            assert post(url, floats(10)).status_code == 200


def is_decoding() -> bool:
    """Whether a decoding process has worked for long enough to be past its start."""
    times = []
    for pid in children():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        times.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return max(times, default=0) > 1.0


def test_a_client_that_leaves_ends_the_decoding_of_its_picture(serving: Any, locator: Locator) -> None:
    with serving(locator) as url:
        assert post(url, floats(10)).status_code == 200
        [pid] = children()
        with pytest.raises(httpx.ReadTimeout):
            post(url, floats(10_000), timeout=1.0)
        until(lambda: pid not in children())
        assert post(url, floats(10)).status_code == 200


def test_the_process_ends_with_the_service(serving: Any, locator: Locator) -> None:
    before = children()
    with serving(locator) as url:
        assert post(url, floats(10)).status_code == 200
        assert children() != before
    assert children() == before


def test_memory_of_a_decode_is_a_setting(serving: Any, locator: Locator, check_problem: Problem) -> None:
    picture = png_of_zeros(5_000, 5_000, 8, 6)
    with serving(locator, decode_memory="64MB") as url:
        assert "64,000,000 are allowed" in check_problem(post(url, picture), 413, "photo-too-large")
    with serving(locator, decode_memory="250 MiB") as url:
        assert post(url, picture).status_code == 200
    assert Settings(decode_memory="1.5GB").decode_memory == 1_500_000_000


def test_readiness_notices_an_engine_that_hangs(serving: Any, stepped: Locator, check_problem: Problem) -> None:
    with serving(stepped, request_timeout_s=0.5, search_timeout_s=0.1) as url:
        stepped.encoder.steps.release(1)  # type: ignore[attr-defined]
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        assert post(url, png_of_zeros(80, 60, 8, 2)).status_code == 503  # too slow, and the engine goes on
        until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        detail = check_problem(httpx.get(f"{url}/readyz"), 503, "not-ready")
        assert "has been running for" in detail
        stepped.encoder.steps.release(100)  # type: ignore[attr-defined]
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)


def test_only_what_is_past_its_time_is_overdue() -> None:
    watch = Watch()
    with watch.running("a long call", 1_000):
        assert watch.overdue() is None
    with watch.running("a short call", 0.0):
        until(lambda: watch.overdue() is not None)
        assert "a short call" in str(watch.overdue())
    assert watch.overdue() is None
