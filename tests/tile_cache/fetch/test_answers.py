"""What counts as a tile, as an absent one, and as neither: by bytes, by status, and over a whole run."""

import asyncio
import gzip
from dataclasses import replace

import numpy as np
import pytest
from loopback import Request, TileServer, http, image, tile_image

from tile_cache.addressing import tile_of_code
from tile_cache.errors import SourceError, SourceUnavailableError
from tile_cache.fetch.client import FetchReport, FetchSettings, fetch
from tile_cache.fetch.settings import ABSENT_STATUSES
from tile_cache.mbtiles import TileStore
from tile_cache.repeats import picture_hash

Z = 5
CODES = np.arange(12, dtype=np.uint64)
BAD = tile_of_code(5, Z)


def run(server: TileServer, store: TileStore, settings: FetchSettings, codes: np.ndarray = CODES) -> FetchReport:
    return asyncio.run(fetch(server.source, store, [(Z, codes)], settings))


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/x-png", "image/jpeg", "application/xml", "png", "x" * 99]
)
def test_bytes_decide_what_an_image_is(server, store, hasty, kind):
    server.answer = lambda r: http(200, tile_image(r.tile), Content_Type=kind)
    assert run(server, store, hasty).kept == 12


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
def test_page_is_refused_without_reading_it(server, store, hasty, kind):
    server.answer = lambda r: (
        [http(200, image(), Content_Type=kind)[:-1], 30.0] if r.tile == BAD else http(200, image())
    )
    report = run(server, store, replace(hasty, deadline_s=20.0))
    assert report.reasons == {f"content type {kind.partition(';')[0].lower()!r} instead of an image": 1}


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "deflate", "GZIP", "x"])
def test_encoded_body_is_refused_and_never_unpacked(server, store, hasty, encoding):
    bomb = gzip.compress(gzip.compress(bytes(50 << 20)))
    server.answer = lambda r: http(200, bomb if r.tile == BAD else tile_image(r.tile), Content_Encoding=encoding)
    report = run(server, store, hasty)
    assert report.reasons == {f"content encoding {encoding.lower()!r}, which was not asked for": 12}
    server.answer = lambda r: http(200, tile_image(r.tile), Content_Encoding="Identity")
    assert run(server, store, hasty).kept == 12


def test_only_identity_is_asked_for(server, store, hasty):
    run(server, store, hasty)
    assert {r.headers["accept-encoding"] for r in server.log} == {"identity"}


@pytest.mark.parametrize("status", [400, 403, 500])
def test_status_can_be_named_as_absent(server, store, hasty, status):
    server.answer = lambda r: http(status) if r.tile == BAD else http(200, tile_image(r.tile))
    report = run(server, store, replace(hasty, absent_statuses=ABSENT_STATUSES | {status}))
    assert (report.kept, report.absent, dict(report.absent_statuses)) == (11, 1, {status: 1})


@pytest.mark.parametrize("status", [400, 403])
def test_refusal_names_the_option_that_makes_it_an_absence(server, store, hasty, status):
    server.answer = lambda r: http(status)
    with pytest.raises(SourceError, match=f"give --absent {status}"):
        run(server, store, hasty)


@pytest.mark.parametrize("status", [200, 302, 401, 408, 429, 503, 600])
def test_statuses_that_cannot_mean_absence_are_refused(status):
    with pytest.raises(SourceError, match=f"status {status} cannot mean"):
        FetchSettings(absent_statuses=frozenset([status]))


def test_refresh_asks_again_for_absent_tiles(server, store, hasty):
    server.answer = lambda r: http(404) if r.tile == BAD else http(200, tile_image(r.tile))
    run(server, store, hasty)
    server.answer = lambda r: http(200, tile_image(r.tile))
    assert run(server, store, hasty).kept == 0
    report = run(server, store, replace(hasty, refresh=True))
    assert (report.kept, report.known) == (1, 11)
    assert store.read(BAD) == tile_image(BAD)


def test_run_in_which_all_are_absent_is_not_remembered(server, store, hasty):
    server.answer = lambda r: http(404)
    report = run(server, store, hasty)
    assert (report.absent, report.found) == (12, False)
    assert report.absent_example in {tile_of_code(int(c), Z) for c in CODES}  # several are asked for at once
    assert dict(report.absent_statuses) == {404: 12}
    server.answer = lambda r: http(200, tile_image(r.tile))
    assert run(server, store, hasty).kept == 12


def test_refresh_in_which_all_are_absent_deletes_no_image(server, store, hasty):
    run(server, store, hasty)
    server.answer = lambda r: http(404)
    report = run(server, store, replace(hasty, refresh=True, default_age_s=0))
    assert (report.absent, report.found) == (12, True)
    assert store.counts() == {Z: 12}


@pytest.mark.parametrize("first", [0, 11])
def test_absent_tiles_before_and_after_an_image_are_remembered(server, store, hasty, first):
    server.answer = lambda r: http(200, image()) if r.tile == tile_of_code(first, Z) else http(404)
    assert run(server, store, replace(hasty, concurrency=1)).absent == 11
    assert run(server, store, hasty).known == 12


def test_endless_absence_ends_the_fetch(server, store, hasty, monkeypatch):
    monkeypatch.setattr("tile_cache.fetch.feed._MOST_ABSENT", 5)
    server.answer = lambda r: http(404)
    with pytest.raises(SourceUnavailableError, match="the first 5 tiles are all absent"):
        run(server, store, replace(hasty, concurrency=1))
    assert len(store.unknown(CODES, Z)) == 12
    server.answer = lambda r: http(200, image()) if r.tile == BAD else http(404)
    with pytest.raises(SourceUnavailableError):
        run(server, store, replace(hasty, concurrency=1))
    run(server, store, replace(hasty, concurrency=1), CODES[5:6])
    assert run(server, store, replace(hasty, concurrency=1)).absent == 11, "a run that only completes others goes on"


def test_placeholder_at_many_places_is_reported_and_can_be_named(server, store, hasty):
    placeholder = image(99)
    server.answer = lambda r: http(200, placeholder if r.tile.x % 2 else tile_image(r.tile))
    report = run(server, store, hasty)
    (repeated,) = report.repeated
    assert (repeated.sha256, repeated.count, repeated.tiles) == (picture_hash(placeholder), 6, 12)
    assert (report.placeholders, report.found) == (0, True)


def test_run_that_gets_only_a_named_placeholder_has_found_nothing(server, store, hasty):
    server.answer = lambda r: http(200, image(99))
    report = run(server, store, replace(hasty, absent_images=frozenset([picture_hash(image(99))])))
    assert (report.kept, report.placeholders, report.found) == (12, 12, False)


def test_stored_images_count_as_found(server, store, hasty):
    run(server, store, hasty)
    server.answer = lambda r: http(404)
    report = run(server, store, hasty, np.arange(14, dtype=np.uint64))
    assert (report.known, report.absent, report.found) == (12, 2, True)


def test_connection_that_sends_no_type_and_no_image_is_named(server, store, hasty):
    def answer(request: Request) -> bytes:
        body = b'{"error": "quota"}' if request.tile == BAD else tile_image(request.tile)
        return http(200, body, Content_Type="application/json" if request.tile == BAD else "image/png")

    server.answer = answer
    report = run(server, store, hasty)
    assert report.reasons == {"not a PNG, JPEG or WebP image (content type 'application/json')": 1}
