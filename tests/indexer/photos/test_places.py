"""Places that pictures carry: EXIF, XMP and sidecars, in their order, and what is said of damaged ones."""

import contextlib
import os
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged import encoded, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin

from indexer.photos.exif import place_of
from indexer.photos.photo_set import Fault
from indexer.photos.read import read_photos
from indexer.photos.xmp import place_in_xmp
from retrieval.pictures.limits import PhotoLimits

SYDNEY = (151.20555, -33.858467)
PARIS: dict[int, Any] = {1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)}
RDF = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description xmlns:exif='http://ns.adobe.com/exif/1.0/' {attributes}>{elements}</rdf:Description>"
    "</rdf:RDF></x:xmpmeta>"
)


def xmp(lat: str = "33,51.508S", lng: str = "151,12.333E", *, elements: bool = False) -> bytes:
    if elements:
        inside = f"<exif:GPSLatitude>{lat}</exif:GPSLatitude><exif:GPSLongitude>{lng}</exif:GPSLongitude>"
        return RDF.format(attributes="", elements=inside).encode()
    attributes = f"exif:GPSLatitude='{lat}' exif:GPSLongitude='{lng}'"
    return RDF.format(attributes=attributes, elements="").encode()


def exif_of(gps: dict[int, Any]) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    if gps:
        exif.get_ifd(0x8825).update(gps)
    return exif


def save(path: Path, kind: str, **options: Any) -> str:
    path.write_bytes(encoded(picture(np.random.default_rng(1)), kind, **options))
    return str(path)


def place(path: str | Path) -> Any:
    return place_of(str(path), PhotoLimits())


def with_xmp(folder: Path, kind: str, data: bytes) -> str:
    path = folder / f"x.{kind.lower()}"
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", data.decode())
        return save(path, kind, pnginfo=info)
    if kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = data
        tags.tagtype[700] = 7
        return save(path, kind, tiffinfo=tags)
    return save(path, kind, xmp=data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("elements", [False, True])
def test_xmp_inside_a_picture_is_read(tmp_path: Path, kind: str, elements: bool) -> None:
    packet = b"<?xpacket begin='' id='W5M0'?>" + xmp(elements=elements) + b" " * 2000 + b"<?xpacket end='w'?>\0\0"
    assert place(with_xmp(tmp_path, kind, packet)) == pytest.approx(SYDNEY, abs=1e-5)


@pytest.mark.parametrize("name", ["side.jpg.xmp", "side.xmp", "side.jpg.XMP", "side.XMP"])
def test_sidecars_are_read(tmp_path: Path, name: str) -> None:
    save(tmp_path / "side.jpg", "JPEG")
    (tmp_path / name).write_bytes(xmp())
    photos = read_photos(tmp_path)
    assert photos.names == ("side.jpg",)
    assert (photos.lng[0], photos.lat[0]) == pytest.approx(SYDNEY, abs=1e-5)


@pytest.mark.parametrize("kind", ["exif", "APP1", "APP1 with XMP", "xmp"])
def test_raw_profiles_in_a_png_are_read(tmp_path: Path, kind: str) -> None:
    exif = exif_of(PARIS).tobytes()
    exif = exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif
    data = {"exif": exif, "APP1": exif, "APP1 with XMP": b"http://ns.adobe.com/xap/1.0/\0" + xmp(), "xmp": xmp()}[kind]
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    info = PngImagePlugin.PngInfo()
    name = kind.partition(" ")[0]
    info.add_text(f"Raw profile type {name}", f"\n{name}\n{len(data):8}\n{lines}\n", zip=True)
    found = place(save(tmp_path / "x.png", "PNG", pnginfo=info))
    assert found == pytest.approx(SYDNEY if "mp" in kind.lower()[-3:] else (2.2945, 48.85822), abs=1e-4)


def test_the_first_usable_place_counts(tmp_path: Path) -> None:
    """A sidecar corrects the picture: NAME.jpg.xmp, NAME.xmp, EXIF, XMP inside. What is broken is passed over."""
    path = tmp_path / "x.jpg"
    save(path, "JPEG", exif=exif_of(PARIS), xmp=xmp())
    (tmp_path / "x.jpg.xmp").write_bytes(xmp("10,0N", "20,0E"))
    (tmp_path / "x.xmp").write_bytes(xmp("11,0N", "21,0E"))
    assert place(path) == (20, 10)
    (tmp_path / "x.jpg.xmp").write_bytes(b"<x")
    assert place(path) == (21, 11)
    (tmp_path / "x.xmp").write_bytes(xmp("0,0N", "0,0E"))  # null island
    assert place(path) == pytest.approx((2.2945, 48.85822), abs=1e-4)
    save(path, "JPEG", exif=exif_of({**PARIS, 1: "?"}), xmp=xmp())
    assert place(path) == pytest.approx(SYDNEY, abs=1e-5)
    save(path, "JPEG")
    assert "its XMP is no XML" in place(path).detail  # the first that could not be used is named
    (tmp_path / "x.jpg.xmp").unlink()
    assert place(path).reason == "null island"


def test_a_picture_that_cannot_be_opened_is_named_whatever_its_neighbours_say(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff" + bytes(30))
    (tmp_path / "x.xmp").write_bytes(b"<x")
    assert place(tmp_path / "x.jpg").reason == "unreadable image"


ENTITIES = b"""<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>"""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ENTITIES + xmp().replace(b"33,51", b"&b;"), "document type"),
        (b"<!DOCTYPE x SYSTEM 'file:///etc/hostname'>" + xmp(), "document type"),
        (b"<a" * 1000, "no XML"),
        (b"\xff\xfe\xff", "no XML"),
        (xmp("95,0X"), "neither|no number"),
        (xmp("33,99.5S"), "99.5 minutes"),
        (xmp("", "151,12.333E"), "no latitude"),
        (xmp("NaN", "151,12.333E"), "no number"),
        (b" " * (1 << 22) + xmp(), "4,19"),
    ],
)
def test_xmp_that_cannot_be_used_is_worded(tmp_path: Path, data: bytes, words: str) -> None:
    save(tmp_path / "x.jpg", "JPEG")
    (tmp_path / "x.jpg.xmp").write_bytes(data)
    fault = place(tmp_path / "x.jpg")
    assert isinstance(fault, Fault)
    assert fault.reason == "broken EXIF GPS"
    assert re.search(words, fault.detail), fault.detail


@pytest.mark.timeout(60)
def test_a_sidecar_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    save(tmp_path / "x.jpg", "JPEG")
    os.mkfifo(tmp_path / "x.jpg.xmp")
    assert "FIFO" in place(tmp_path / "x.jpg").detail


def rational_exif(parts: list[tuple[int, int]], side: bytes = b"N\0") -> bytes:
    """An EXIF block whose latitude is these rationals, as they lie in a file; longitude is 10 E."""
    gps_at, data_at = 8 + 2 + 12 + 4, 8 + 2 + 12 + 4 + 2 + 4 * 12 + 4
    lat, lng = (b"".join(struct.pack("<II", *p) for p in ps) for ps in (parts, [(10, 1), (0, 1), (0, 1)]))
    entries = [
        struct.pack("<HHI4s", 1, 2, 2, side.ljust(4, b"\0")),
        struct.pack("<HHII", 2, 5, len(parts), data_at),
        struct.pack("<HHI4s", 3, 2, 2, b"E\0\0\0"),
        struct.pack("<HHII", 4, 5, 3, data_at + len(lat)),
    ]
    gps = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    first = struct.pack("<H", 1) + struct.pack("<HHII", 0x8825, 4, 1, gps_at) + bytes(4)
    return b"Exif\0\0II*\0\x08\0\0\0" + first + gps + lat + lng


@pytest.mark.parametrize(
    ("parts", "side", "words"),
    [
        ([(24, 0), (0, 1), (0, 1)], b"N\0", "divided by 0"),
        ([(0, 0), (0, 0), (0, 0)], b"N\0", "divided by 0"),
        ([(24, 1), (61, 1), (0, 1)], b"N\0", "61 minutes"),
        ([(24, 1), (1, 1), (0, 1)], b"Q\0", "hemisphere of a latitude is 'Q'"),
        ([(124, 1), (1, 1), (0, 1)], b"S\0", "swapped"),
        ([(240, 1), (1, 1), (0, 1)], b"S\0", "latitudes end at 90"),
    ],
)
def test_broken_numbers_in_exif_are_worded(
    tmp_path: Path, parts: list[tuple[int, int]], side: bytes, words: str
) -> None:
    fault = place(save(tmp_path / "x.jpg", "JPEG", exif=rational_exif(parts, side)))
    assert isinstance(fault, Fault)
    assert words in fault.detail
    assert "Error" not in fault.detail


@pytest.mark.parametrize("side", [b"n\0", b"N\0", b"s\0"])
def test_hemispheres_in_any_case(tmp_path: Path, side: bytes) -> None:
    path = save(tmp_path / "x.jpg", "JPEG", exif=rational_exif([(24, 1), (30, 1), (0, 1)], side))
    assert place(path) == (10.0, -24.5 if side == b"s\0" else 24.5)


def test_heic_gps_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif: pip install 'tilebeam[heic]'")
    for name, options in {"exif": {"exif": exif_of(PARIS).tobytes()}, "xmp": {"xmp": xmp()}}.items():
        out = BytesIO()
        heif.from_pillow(picture(np.random.default_rng(1), 64)).save(out, quality=90, **options)
        (tmp_path / f"{name}.heic").write_bytes(out.getvalue())
    assert place(tmp_path / "exif.heic") == pytest.approx((2.2945, 48.85822), abs=1e-4)
    assert place(tmp_path / "xmp.heic") == pytest.approx(SYDNEY, abs=1e-4)


@given(st.binary(max_size=300))
def test_any_bytes_are_xmp_or_a_worded_error(data: bytes) -> None:
    for whole in (data, xmp()[: len(data)] + data, RDF.format(attributes="", elements="").encode() + data):
        with contextlib.suppress(ValueError):
            place_in_xmp(whole)
