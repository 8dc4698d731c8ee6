"""The values of `--source`: names, templates, keys, refused hosts, and helpful errors."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tile_cache.addressing import Tile, quadkey
from tile_cache.errors import RefusedSourceError, SourceError, StoreError
from tile_cache.open import open_source
from tile_cache.urls import is_local, redirect_refusal, refusal
from tile_cache.xyz import XyzSource, provider_names

KEY = {"TILEBEAM_TILE_KEY": "s3cret/&key"}
TILE = Tile(5, 2, 3)


def url(template: str, tile: Tile = TILE, environ=None) -> str:
    source = open_source(template, environ or {})
    assert isinstance(source, XyzSource)
    return source.url(tile)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("https://h.example/{z}/{x}/{y}.jpg", "https://h.example/3/5/2.jpg"),
        ("https://h.example/{z}/{y}/{x}", "https://h.example/3/2/5"),
        ("https://h.example/tms/{z}/{x}/{-y}.png", "https://h.example/tms/3/5/5.png"),
        ("https://h.example/a{quadkey}.jpeg?g=1", f"https://h.example/a{quadkey(TILE)}.jpeg?g=1"),
        ("https://{s}.h.example/{z}/{x}/{y}{r}.png", "https://b.h.example/3/5/2.png"),
        ("https://t{s}.h.example/{z}/{x}/{y}#subdomains=0123", "https://t3.h.example/3/5/2"),
        ("http://127.0.0.1:8080/{z}/{x}/{y}", "http://127.0.0.1:8080/3/5/2"),
    ],
)
def test_template_gives_the_url_of_a_tile(template, expected):
    assert url(template) == expected


def test_all_subdomains_are_used():
    source = open_source("https://{s}.h.example/{z}/{x}/{y}", {})
    assert {source.url(Tile(x, 0, 3)).split(".")[0][-1] for x in range(8)} == {"a", "b", "c"}
    assert source.hosts == {"a.h.example", "b.h.example", "c.h.example"}


@pytest.mark.parametrize("name", ["key", "apikey"])
def test_key_appears_in_urls_only(name):
    source = open_source(f"https://h.example/{{z}}/{{x}}/{{y}}?k={{{name}}}", KEY)
    assert source.url(TILE) == "https://h.example/3/5/2?k=s3cret%2F%26key"
    assert source.public_url(TILE) == "https://h.example/3/5/2?k=***"
    assert "s3cret" not in repr(source) + str(source) + repr(source.info)
    assert "s3cret" not in source.redact(f"failed: {source.url(TILE)} s3cret/&key")


def test_identity_does_not_depend_on_the_key():
    one = open_source("https://h.example/{z}/{x}/{y}?k={key}", {"TILEBEAM_TILE_KEY": "1"})
    two = open_source("https://h.example/{z}/{x}/{y}?k={apikey}", {"TILEBEAM_TILE_KEY": "2"})
    other = open_source("https://h.example/v2/{z}/{x}/{y}?k={key}", {"TILEBEAM_TILE_KEY": "1"})
    assert one.info.identity == two.info.identity != other.info.identity


def test_fragment_describes_the_source_and_is_not_sent():
    source = open_source(
        "https://h.example/{z}/{x}/{y}#attribution=%C2%A9%20them&max_zoom=12&min_zoom=2&tile_size=512&name=Theirs", {}
    )
    info = source.info
    assert (info.name, info.attribution, info.min_zoom, info.max_zoom, info.tile_size) == (
        "Theirs",
        "© them",
        2,
        12,
        512,
    )
    assert source.url(TILE) == "https://h.example/3/5/2"
    assert info.identity == open_source("https://h.example/{z}/{x}/{y}", {}).info.identity


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("https://h.example/{x}/{y}.png", r"has no \{z\}"),
        ("https://h.example/tiles.png", r"has no \{z\}"),
        ("https://h.example/{z}/{x}.png", r"needs \{x\} and \{y\}"),
        ("https://h.example/{z}/{y}.png", r"needs \{x\} and \{y\}"),
        ("https://h.example/{z}/{x}/{row}.png", r"unknown placeholder \{row\}"),
        ("h.example/{z}/{x}/{y}.png", "start it with https://"),
        ("ftp://h.example/{z}/{x}/{y}.png", "not an http or https URL"),
        ("https:///{z}/{x}/{y}.png", "not an http or https URL"),
        ("https://[::1/{z}/{x}/{y}.png", "cannot be parsed"),
        ("https://me:s3cret@h.example/{z}/{x}/{y}", "contains a user name or password"),
        ("https://h.example/{z}/{x}/{y}?access_token=s3cret", r"write access_token=\{key\}"),
        ("https://h.example/{z}/{x}/{y}?apiKey=s3cret", r"write apiKey=\{key\}"),
        ("https://h.example/{z}/{x}/{y}?k={key}", "environment variable TILEBEAM_TILE_KEY"),
        ("https://h.example/{z}/{x}/{y}#max_zoom=99", "max_zoom=99"),
        ("https://h.example/{z}/{x}/{y}#maxzoom=9", "use attribution"),
        (
            "https://h.example/{z}/{x}/{y}#tile_size=0",
            "tile_size=0 in the source must be a whole number from 1 to 4096",
        ),
        ("https://h.example/{z}/{x}/{y}#min_zoom=" + "9" * 5_000, "min_zoom=99999999999999999999 in the source must"),
        ("https://h.example/{z}/{x}/{y}/{-y}.png", r"has both \{y\} and \{-y\}"),
        ("https://h.example/s3cretS3CRET0123456789/{x}/{y}", r"h\.example/\*\*\*/\{x\}/\{y\}' has no"),
        ("/no/such/folder", "does not exist"),
        ("tiles.mbtiles", "does not exist"),
        ("Esri.WorldImageri", "did you mean Esri.WorldImagery"),
        ("nasagibs.bluemarble", "did you mean NASAGIBS.BlueMarble?"),
        ("bluemarbel", "did you mean bluemarble"),
        ("qqqqqqqqq", "unknown tile source 'qqqqqqqqq': give bluemarble"),
        ("", "unknown tile source ''"),
    ],
)
def test_bad_source_is_refused_with_the_way_out(spec, reason):
    with pytest.raises(SourceError, match=reason) as caught:
        open_source(spec, {})
    assert "s3cret" not in str(caught.value)


def test_other_file_than_mbtiles_is_refused(tmp_path):
    (tmp_path / "tiles.mbtiles").write_text("<html>")
    with pytest.raises(StoreError, match="not an MBTiles file"):
        open_source(str(tmp_path / "tiles.mbtiles"))


@pytest.mark.parametrize(
    "spec",
    [
        "https://tile.openstreetmap.org/{z}/{x}/{y}.png",
        "https://{s}.tile.openstreetmap.org/{z}/{x}/{y}.png",
        "https://TILE.OpenStreetMap.org./{z}/{x}/{y}.png",
        "https://tile.openstreetmap.org:443/{z}/{x}/{y}.png",
        "OpenStreetMap.Mapnik",
        "https://mt{s}.google.com/vt/lyrs=s&x={x}&y={y}&z={z}#subdomains=0123",
        "https://khms0.google.co.uk/kh?x={x}&y={y}&z={z}",
        "https://tile.googleapis.com/v1/2dtiles/{z}/{x}/{y}",
        "Esri.WorldImagery",
        "https://ecn.t0.tiles.virtualearth.net/tiles/a{quadkey}.jpeg?g=1",
        "https://api.mapbox.com/v4/mapbox.satellite/{z}/{x}/{y}.jpg",
    ],
)
def test_source_that_forbids_bulk_download_is_refused_with_the_reason(spec):
    with pytest.raises(RefusedSourceError, match=r"policy forbids bulk|terms forbid"):
        open_source(spec, {})


@pytest.mark.parametrize(
    "host", ["notopenstreetmap.org", "openstreetmap.org.example", "google.example", "mygoogle.com"]
)
def test_other_hosts_are_not_refused(host):
    assert refusal(host) is None


def test_xyzservices_name_opens_its_source():
    source = open_source("NASAGIBS.BlueMarble", {})
    assert source.info.name == "NASAGIBS.BlueMarble"
    assert source.info.max_zoom == 8
    assert "NASA" in source.info.attribution
    assert source.url(TILE).endswith("/3/2/5.jpeg")
    assert url("USGS.USImagery").endswith("USGSImageryOnly/MapServer/tile/3/2/5")


def test_provider_token_comes_from_the_environment():
    with pytest.raises(SourceError, match=r"MapTiler\.Satellite needs an API key: .* TILEBEAM_TILE_KEY"):
        open_source("MapTiler.Satellite", {})
    assert url("MapTiler.Satellite", environ=KEY).endswith("?key=s3cret%2F%26key")


def test_provider_in_another_projection_is_refused():
    with pytest.raises(SourceError, match="EPSG:3413, not in Web Mercator"):
        open_source("NASAGIBS.BlueMarble3413", {})


def test_every_xyzservices_name_opens_or_is_refused_with_a_reason():
    opened = 0
    for name in provider_names():
        with suppress(SourceError):
            source = XyzSource.from_provider(name, KEY)
            assert source.url(TILE).startswith("http")
            assert "{" not in source.url(TILE)
            assert "s3cret" not in repr(source)
            opened += 1
    assert opened > 500


@given(st.text(max_size=40))
def test_any_text_opens_or_raises_a_documented_error(text):
    for spec in (text, "https://h.example/{z}/{x}/{y}" + text):
        with suppress(SourceError, StoreError):
            open_source(spec, {})


@pytest.mark.parametrize(
    ("origin", "target", "reason"),
    [
        (("https", "h.example"), ("https", "cdn.example"), None),
        (("http", "h.example"), ("https", "h.example"), None),
        (("http", "127.0.0.1"), ("http", "localhost"), None),
        (("https", "h.example"), ("http", "h.example"), "from https to http"),
        (("https", "h.example"), ("file", ""), "to file"),
        (("https", "h.example"), ("https", "a.tile.openstreetmap.org"), "bulk"),
        (("http", "h.example"), ("http", "127.0.0.1"), "private network"),
        (("http", "h.example"), ("http", "169.254.169.254"), "private network"),
        (("http", "h.example"), ("http", "10.0.0.1"), "private network"),
        (("http", "h.example"), ("http", "::1"), "private network"),
    ],
)
def test_redirects_are_followed_or_refused(origin, target, reason):
    refused = redirect_refusal(*origin, *target)
    assert refused is None if reason is None else reason in refused


def test_local_hosts_are_recognised():
    assert all(map(is_local, ["localhost", "127.0.0.1", "::1", "192.168.0.7"]))
    assert not any(map(is_local, ["h.example", "8.8.8.8", "local"]))
