"""The fetcher against servers that misbehave."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise

import numpy as np
import pytest
from loopback import RESET, Request, TileServer, http, image, tile_image

from tile_cache.addressing import Tile, tile_of_code
from tile_cache.errors import SourceError, SourceUnavailableError, StoreError
from tile_cache.fetch.client import FetchReport, FetchSettings, fetch
from tile_cache.mbtiles import TileRecord, TileStore
from tile_cache.xyz import XyzSource

Z = 5
CODES = np.arange(12, dtype=np.uint64)
BAD = tile_of_code(5, Z)


def run(server: TileServer, store: TileStore, settings: FetchSettings, codes: np.ndarray = CODES) -> FetchReport:
    return asyncio.run(fetch(server.source, store, [(Z, codes)], settings))


def only_bad(answer):
    """An answer that is normal for all tiles but one."""

    def choose(request: Request):
        return answer(request) if request.tile == BAD else http(200, tile_image(request.tile))

    return choose


def stored_codes(store: TileStore, codes: Iterable[int] = CODES) -> list[int]:
    return [int(c) for c in codes if store.read(tile_of_code(int(c), Z)) == tile_image(tile_of_code(int(c), Z))]


def test_all_tiles_are_stored_and_requested_once(server, store, hasty):
    report = run(server, store, hasty)
    assert (report.planned, report.kept, report.failed, report.retries) == (12, 12, 0, 0)
    assert report.bytes == sum(len(tile_image(tile_of_code(int(c), Z))) for c in CODES)
    assert stored_codes(store) == list(range(12))
    again = run(server, store, hasty)
    assert (again.planned, again.known, again.kept, len(server.log)) == (12, 12, 0, 12)


def test_user_agent_contains_the_contact(server, store, hasty):
    run(server, store, replace(hasty, contact="me@example.org"))
    agent = server.log[0].headers["user-agent"]
    assert agent.startswith("tilebeam/")
    assert agent.endswith(" (+me@example.org)")


def test_remote_server_needs_a_contact(store, hasty):
    source = XyzSource.from_template("https://tiles.example/{z}/{x}/{y}.png", {})
    with pytest.raises(SourceError, match="--contact"):
        asyncio.run(fetch(source, store, [(Z, CODES)], hasty))


def test_contact_cannot_inject_headers():
    with pytest.raises(SourceError, match="printable"):
        FetchSettings(contact="me\r\nX-Evil: 1")


@pytest.mark.parametrize("status", [404, 204, 410])
def test_absent_tiles_are_not_requested_again(server, store, hasty, status):
    body = b"" if status == 204 else b"<html>no</html>"
    server.answer = only_bad(lambda r: http(status, body, Content_Length="" if status == 204 else str(len(body))))
    report = run(server, store, hasty)
    assert (report.kept, report.absent, report.failed) == (11, 1, 0)
    assert run(server, store, hasty).known == 12
    assert len(server.log) == 12


@pytest.mark.parametrize(("status", "when"), [(429, "seconds"), (503, "date")])
def test_retry_after_delays_all_workers(server, store, hasty, status, when):
    def answer(request: Request) -> bytes:
        if len(server.log) > 1:
            return http(200, tile_image(request.tile))
        until = "1" if when == "seconds" else formatdate(time.time() + 3, usegmt=True)
        # The server's clock may be wrong: its own Date is what its dates are measured against.
        return http(status, Retry_After=until, Date=formatdate(time.time() + 2, usegmt=True))

    server.answer = answer
    report = run(server, store, replace(hasty, concurrency=1))
    assert (report.kept, report.retries) == (12, 1)
    assert 0.9 < server.times[1] - server.times[0] < 2.5


def test_too_long_retry_after_ends_the_fetch_and_keeps_tiles(server, store, hasty):
    def answer(request: Request) -> bytes:
        return http(429, Retry_After="3600") if len(server.log) > 8 else http(200, tile_image(request.tile))

    server.answer = answer
    with pytest.raises(SourceUnavailableError, match=r"3600 s.*\b8 tiles were stored"):
        run(server, store, replace(hasty, concurrency=1))
    assert len(stored_codes(store)) == 8


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda: http(500), id="500"),
        pytest.param(lambda: http(503), id="503"),
        pytest.param(lambda: http(429), id="429"),
        pytest.param(lambda: http(408), id="408"),
        pytest.param(lambda: [RESET], id="reset"),
        pytest.param(lambda: [b""], id="closed"),
        pytest.param(lambda: [http(200, image())[:40], RESET], id="reset in the head"),
        pytest.param(lambda: [http(200, image())[:-20]], id="cut body"),
        pytest.param(lambda: [http(200, image()[:-20], Content_Length="", Connection="close")], id="cut, no length"),
        pytest.param(lambda: [http(200, image())[:-20], 5.0], id="slow body"),
        pytest.param(lambda: [5.0], id="silence"),
    ],
)
def test_transient_failure_is_retried(server, store, hasty, trouble):
    server.answer = only_bad(lambda r: trouble() if r.count == 1 else http(200, tile_image(r.tile)))
    hangs = isinstance(trouble(), list) and 5.0 in trouble()
    report = run(server, store, replace(hasty, deadline_s=1.0 if hangs else 20.0))
    assert (report.kept, report.failed, report.retries) == (12, 0, 1)
    assert len(stored_codes(store)) == 12


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        pytest.param(lambda: http(200, b"<html>Sorry</html>", Content_Type="text/html"), "text/html", 1, id="html"),
        pytest.param(lambda: http(200, b"<!DOCTYPE html>Sorry"), "HTML instead", 1, id="html named png"),
        pytest.param(lambda: http(200, b'{"error": 1}', Content_Type="application/json"), "json", 1, id="type"),
        pytest.param(lambda: http(200, b"GIF89a;"), "not a PNG, JPEG or WebP", 1, id="magic bytes"),
        pytest.param(lambda: http(200, b""), "empty body", 1, id="empty"),
        pytest.param(lambda: http(200, image() + bytes(70_000)), "over 65,536 bytes", 1, id="too large"),
        pytest.param(lambda: http(304), "HTTP 304", 1, id="304 to an unconditional request"),
        pytest.param(lambda: http(206, image()), "HTTP 206", 1, id="206"),
        pytest.param(lambda: http(302, Location="/1/0/0.png?loop"), "over 5 redirects", 6, id="loop"),
        pytest.param(lambda: http(302, Location="https://tile.openstreetmap.org/0/0/0.png"), "bulk", 1, id="to osm"),
        pytest.param(lambda: http(302, Location="file:///etc/passwd"), "to file", 1, id="to a file"),
        pytest.param(lambda: [http(200, image())[:-20]], "truncated", 3, id="truncated"),
        pytest.param(lambda: [http(200, image())[:-20], 5.0], "in time", 3, id="slow"),
        pytest.param(lambda: http(500), "HTTP 500", 3, id="500"),
    ],
)
def test_bad_tile_is_reported_and_the_fetch_continues(server, store, hasty, answer, reason, requests):
    def choose(request: Request):
        if "loop" in request.path or request.tile == BAD:
            return answer()
        return http(200, tile_image(request.tile))

    server.answer = choose
    deadline_s = 0.6 if reason == "in time" else 20.0
    report = run(server, store, replace(hasty, deadline_s=deadline_s, max_tile_bytes=1 << 16))
    assert (report.kept, report.failed) == (11, 1)
    assert report.examples[0].tile == BAD
    assert reason in report.examples[0].reason
    assert store.read(BAD) is None
    assert len(server.log) == 11 + requests
    server.answer = lambda request: http(200, tile_image(request.tile))
    assert run(server, store, hasty).kept == 1


def test_damage_inside_an_image_is_detected(server, store, hasty):
    whole = bytearray(image(size=256, kind="PNG"))
    whole[len(whole) // 2] ^= 0xFF
    server.answer = only_bad(lambda r: http(200, bytes(whole)))
    report = run(server, store, hasty)
    assert report.reasons == {"image truncated or damaged (png)": 1}


def test_redirect_to_a_tile_is_followed(server, store, hasty):
    server.answer = only_bad(
        lambda r: http(200, tile_image(r.tile)) if "?" in r.path else http(302, Location=f"{r.path}?moved")
    )
    assert run(server, store, hasty).kept == 12
    assert len(stored_codes(store)) == 12


@pytest.mark.parametrize("status", [400, 401, 403, 451])
def test_refusal_ends_the_fetch_at_once(server, store, hasty, status):
    server.answer = only_bad(lambda r: http(status))
    with pytest.raises(SourceError, match=f"HTTP {status}"):
        run(server, store, replace(hasty, concurrency=1))
    assert len(server.log) == 6
    assert stored_codes(store) == [0, 1, 2, 3, 4]


def test_status_403_can_be_set_to_mean_absent(server, store, hasty):
    server.answer = only_bad(lambda r: http(403))
    report = run(server, store, replace(hasty, absent_statuses=frozenset((403, 404))))
    assert (report.kept, report.absent) == (11, 1)
    assert run(server, store, hasty).known == 12


def test_dead_host_is_given_up(store, hasty):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    source = XyzSource.from_template(f"http://127.0.0.1:{port}/{{z}}/{{x}}/{{y}}.png", {})
    settings = replace(hasty, give_up_after=4, concurrency=2)
    seen: list[FetchReport] = []
    with pytest.raises(SourceUnavailableError, match=r"4 tiles in a row .*no connection"):
        asyncio.run(fetch(source, store, [(9, np.arange(10_000, dtype=np.uint64))], settings, seen.append))
    assert seen[-1].failed <= 4


def test_tiles_are_kept_when_the_host_dies(server, store, hasty):
    server.answer = lambda r: http(200, tile_image(r.tile)) if len(server.log) <= 6 else http(500)
    with pytest.raises(SourceUnavailableError, match="6 tiles were stored"):
        run(server, store, replace(hasty, give_up_after=3, concurrency=1))
    server.answer = lambda r: http(200, tile_image(r.tile))
    assert run(server, store, hasty).kept == 6


def test_only_very_many_bad_tiles_end_the_fetch(server, store, hasty):
    server.answer = lambda r: http(200, b"<html>closed</html>", Content_Type="text/html")
    assert run(server, store, replace(hasty, give_up_after=3)).failed == 12
    with pytest.raises(SourceUnavailableError, match="no image for 10 tiles in a row"):
        run(server, store, replace(hasty, give_up_after_bad=10))


def test_concurrency_reaches_its_limit_and_no_more(server, store, hasty):
    server.answer = lambda r: [0.03, http(200, tile_image(r.tile))]
    report = run(server, store, replace(hasty, concurrency=4), np.arange(40, dtype=np.uint64))
    assert report.kept == 40
    assert server.most_under_way == 4


def test_rate_limit_is_respected(server, store, hasty):
    run(server, store, replace(hasty, rate_per_s=50, concurrency=8), np.arange(40, dtype=np.uint64))
    # The first request may arrive late on a busy machine; without a limit all would take a tenth of this.
    assert server.times[-1] - server.times[0] > 39 / 50 - 0.15


def test_failed_attempts_count_against_the_rate(server, store, hasty):
    server.answer = lambda r: http(500) if r.count == 1 else http(200, tile_image(r.tile))
    report = run(server, store, replace(hasty, rate_per_s=30, backoff_s=0.0))
    assert (report.kept, report.retries) == (12, 12)
    assert server.times[-1] - server.times[0] > 23 / 30 - 0.15


def test_refresh_is_conditional_and_304_renews(server, store, hasty):
    server.answer = lambda r: http(
        200, tile_image(r.tile), ETag='"v1"', Last_Modified="Wed, 01 Jan 2025 00:00:00 GMT", Cache_Control="max-age=0"
    )
    run(server, store, hasty)
    assert run(server, store, hasty).known == 12

    def renewed(request: Request) -> bytes:
        assert request.headers["if-modified-since"] == "Wed, 01 Jan 2025 00:00:00 GMT"
        if request.tile == BAD:
            return http(200, image(99), ETag='"v2"', Cache_Control="max-age=1000")
        return http(304, Cache_Control="max-age=1000") if request.headers["if-none-match"] == '"v1"' else http(500)

    server.answer = renewed
    report = run(server, store, replace(hasty, refresh=True))
    assert (report.not_modified, report.kept, report.known) == (11, 1, 0)
    assert store.read(BAD) == image(99)
    assert stored_codes(store) == [c for c in range(12) if c != 5]
    assert run(server, store, replace(hasty, refresh=True)).known == 12
    assert store.drop_orphans() == 0, "the fetcher leaves no image that no tile shows"


def test_refresh_removes_a_tile_that_is_gone(server, store, hasty):
    run(server, store, hasty)
    server.answer = only_bad(lambda r: http(404))
    report = run(server, store, replace(hasty, refresh=True, default_age_s=0))
    assert (report.kept, report.absent) == (11, 1)
    assert store.read(BAD) is None


def test_failed_refresh_keeps_the_old_tile(server, store, hasty):
    run(server, store, hasty)
    server.answer = lambda r: http(500)
    report = run(server, store, replace(hasty, refresh=True, default_age_s=0))
    assert report.failed == 12
    assert len(stored_codes(store)) == 12


def test_received_tiles_are_written_when_the_fetch_is_cancelled(server, store, hasty):
    server.answer = lambda r: http(200, tile_image(r.tile)) if len(server.log) <= 7 else [5.0]

    async def interrupted() -> None:
        work = asyncio.create_task(fetch(server.source, store, [(Z, CODES)], replace(hasty, flush_s=60, concurrency=1)))
        while len(server.log) < 8:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        work.cancel()
        await work

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert len(stored_codes(store)) == 7


def test_received_tiles_are_written_while_others_hang(server, store, hasty):
    """Responses are written after `flush_s`, although the batch is not full, so a killed process loses little."""
    server.answer = lambda r: http(200, tile_image(r.tile)) if len(server.log) <= 7 else [5.0]

    async def hanging() -> None:
        work = asyncio.create_task(fetch(server.source, store, [(Z, CODES)], replace(hasty, concurrency=1)))
        while not work.done() and len(stored_codes(store)) < 7:
            await asyncio.sleep(0.01)
        assert not work.done()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    asyncio.run(hanging())
    assert len(stored_codes(store)) == 7


def test_api_key_is_sent_and_never_shown(server, tmp_path, hasty, caplog):
    template = f"http://127.0.0.1:{server.port}/{{z}}/{{x}}/{{y}}.png?api={{key}}"
    source = XyzSource.from_template(template, {"TILEBEAM_TILE_KEY": "s3cret/key"})
    server.answer = only_bad(lambda r: http(401))
    path = tmp_path / "keyed.mbtiles"
    with (
        caplog.at_level(logging.DEBUG),
        TileStore.open(path, source.info) as store,
        pytest.raises(SourceError, match="TILEBEAM_TILE_KEY") as caught,
    ):
        asyncio.run(fetch(source, store, [(Z, CODES)], hasty))
    assert "api=s3cret%2Fkey" in server.log[0].path
    shown = caplog.text + str(caught.value) + repr(source) + repr(source.info)
    assert "s3cret" not in shown
    assert b"s3cret" not in path.read_bytes()


def test_progress_grows_to_the_total(server, store, hasty):
    server.answer = lambda r: [0.1, http(200, tile_image(r.tile))]
    seen: list[int] = []
    asyncio.run(
        fetch(
            server.source, store, [(Z, CODES)], replace(hasty, concurrency=2), lambda report: seen.append(report.done)
        )
    )
    assert len(seen) > 2
    assert all(a <= b for a, b in pairwise(seen))
    assert seen[-1] == 12


def test_repeated_tiles_of_several_zooms_are_fetched_once(server, store, hasty):
    chunks = [(4, CODES[:3]), (Z, np.concatenate([CODES, CODES])), (6, CODES[:0])]
    report = asyncio.run(fetch(server.source, store, iter(chunks), hasty))
    assert (report.planned, report.kept) == (15, 15)
    assert store.counts() == {4: 3, 5: 12}


def test_zoom_outside_the_source_is_refused(server, store, hasty):
    with pytest.raises(SourceError, match="zooms 0 to 22, not 23"):
        asyncio.run(fetch(server.source, store, [(23, CODES)], hasty))


def test_error_in_the_plan_ends_the_fetch_and_keeps_tiles(server, store, hasty):
    def chunks():
        yield Z, CODES
        raise ValueError("the plan is broken")

    with pytest.raises(ValueError, match="the plan is broken"):
        asyncio.run(fetch(server.source, store, chunks(), replace(hasty, concurrency=1)))
    assert len(stored_codes(store)) == 12


def test_unwritable_store_ends_the_fetch(server, store, hasty, tmp_path):
    store.put([TileRecord(Tile(0, 0, 0), image())])
    with (
        TileStore.open(tmp_path / "cache.mbtiles", read_only=True) as read_only,
        pytest.raises(StoreError, match="cannot be written, and 12 tiles of zoom 5 are not in it"),
    ):
        run(server, read_only, hasty)
