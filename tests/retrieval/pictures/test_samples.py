"""Samples of any depth, type and order become the right 8-bit pixels, with a note; or the file is refused by name."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from retrieval.errors import PhotoTooLargeError, UnreadablePhotoError, UnsupportedPhotoError
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import BACKGROUND, Photo, read_photo

SIZE = (48, 64)  # height, width


def scene(top: float) -> np.ndarray[Any, Any]:
    """(48, 64, 3) float: a ramp in red, one in green, and squares in blue, from 0 to `top`."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    bands = [x / (SIZE[1] - 1), y / (SIZE[0] - 1), ((x // 8 + y // 8) % 2).astype(float)]
    return np.stack(bands, axis=2) * top


def tiff(samples: np.ndarray[Any, Any], **options: Any) -> bytes:
    out = BytesIO()
    photometric = "rgb" if samples.ndim == 3 and (samples.shape[2] >= 3 or samples.shape[0] == 3) else "minisblack"
    tifffile.imwrite(out, samples, **({"photometric": photometric, "metadata": None} | options))
    return out.getvalue()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png16(values: np.ndarray[Any, Any]) -> bytes:
    """A 16-bit PNG of (h, w, bands), which Pillow cannot write in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, bands = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def close(photo: Photo, top: float = 1.0, within: float = 4) -> bool:
    """Whether the pixels are those of `scene`, up to what a stretch by percentiles clips."""
    return bool(np.abs(np.asarray(photo.images[0], dtype=float) - scene(255) / top).mean() < within)


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f4", "f8", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_that_use_a_part_of_their_range_are_stretched(dtype: str, order: str) -> None:
    """12-bit data in 16-bit words, reflectances, floats: from their nominal range they would be black."""
    photo = read_photo(tiff(scene(3000).astype(dtype), byteorder=order))
    assert close(photo)
    assert len(photo.notes) == 1
    assert "samples stretched from" in photo.notes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "rowsperstrip": 48},
        {"tile": (16, 32)},
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_every_arrangement_gives_the_same_pixels(dtype: str, planar: bool, options: dict[str, Any]) -> None:
    samples = scene(255 if dtype == "u1" else 3000).astype(dtype)
    if dtype == "f4" and "predictor" in options:
        pytest.skip("tifffile writes no predictor for floats without imagecodecs; see the next test")
    stored = np.ascontiguousarray(samples.transpose(2, 0, 1)) if planar else samples
    data = tiff(stored, planarconfig="separate" if planar else "contig", **options)
    plain = read_photo(tiff(samples)).images[0]
    assert np.array_equal(np.asarray(read_photo(data).images[0]), np.asarray(plain))
    assert close(read_photo(data))


@pytest.mark.parametrize("bands", [1, 3])
def test_floats_with_their_predictor(bands: int) -> None:
    """Bytes sorted by significance, each stored as the difference to the one before, as in TIFF Technical Note 3."""
    samples = np.ascontiguousarray(scene(3000).astype("f4")[:, :, :bands])
    stored = samples[:, :, 0] if bands == 1 else samples
    sorted_bytes = samples.astype(">f4").view("u1").reshape(SIZE[0], -1, 4).transpose(0, 2, 1)
    rows = np.ascontiguousarray(sorted_bytes).reshape(SIZE[0], -1, bands)
    differences = np.diff(rows, axis=1, prepend=np.zeros((SIZE[0], 1, bands), "u1")).tobytes()
    plain = tiff(stored, rowsperstrip=SIZE[0], extratags=[(65_000, "H", 1, 3, True)])
    plain = plain.replace(b"\xe8\xfd\x03\x00", b"\x3d\x01\x03\x00")  # tifffile refuses to write tag 317
    assert plain.count(samples.tobytes()) == 1
    photo = read_photo(plain.replace(samples.tobytes(), differences))
    assert np.array_equal(photo.images[0], read_photo(tiff(stored)).images[0])


def test_the_nominal_range_is_kept_where_the_top_bit_is_used() -> None:
    photo = read_photo(tiff(scene(40_000).astype("u2")))
    assert photo.notes == ()
    assert np.asarray(photo.images[0]).max() == round(40_000 / 65_535 * 255)


def test_a_stretch_is_not_moved_by_outliers() -> None:
    samples = scene(3000).astype("u2")
    samples[0, 0] = 20_000
    assert close(read_photo(tiff(samples)))


def nodata_tag(value: str) -> list[tuple[int, str, int, str, bool]]:
    return [(42113, "s", 0, value, True)]


@pytest.mark.parametrize("value", [-9999.0, -3.4028234663852886e38, np.nan])
def test_pixels_without_data_are_left_out_and_shown_as_background(value: float) -> None:
    samples = scene(1).mean(axis=2).astype("f4")
    whole = np.asarray(read_photo(tiff(samples)).images[0])
    samples[:10] = value
    photo = read_photo(tiff(samples, extratags=nodata_tag(str(value))))
    pixels = np.asarray(photo.images[0])
    assert (pixels[:10] == BACKGROUND).all()
    assert np.abs(pixels[10:].astype(int) - whole[10:]).max() < 40
    assert any("640 pixels without data" in note for note in photo.notes)


@pytest.mark.parametrize("kind", ["grey", "colour", "palette"])
def test_nodata_of_8_bits(kind: str) -> None:
    samples = np.full((*SIZE, 3), 90, np.uint8) if kind == "colour" else np.full(SIZE, 90, np.uint8)
    samples[:10] = 0
    options: dict[str, Any] = {"extratags": nodata_tag("0")}
    if kind == "palette":
        options |= {"photometric": "palette", "colormap": np.full((3, 256), 90 * 256, np.uint16)}
    photo = read_photo(tiff(samples, **options))
    pixels = np.asarray(photo.images[0])
    assert (pixels[:10] == BACKGROUND).all()
    assert (pixels[10:] == 90).all()
    assert "640 pixels without data (nodata is 0)" in photo.notes[0]


def test_a_picture_without_any_data_is_unreadable() -> None:
    for samples in (np.zeros(SIZE, "u1"), np.zeros(SIZE, "u2"), np.zeros((*SIZE, 3), "f4")):
        with pytest.raises(UnreadablePhotoError, match=r"nodata|with data"):
            read_photo(tiff(samples, extratags=nodata_tag("0")))


def test_alpha_and_other_bands() -> None:
    samples = np.concatenate([scene(3000), np.full((*SIZE, 1), 65_535)], axis=2).astype("u2")
    samples[:10, :, 3] = 0
    photo = read_photo(tiff(samples, extrasamples=["unassalpha"]))
    assert (np.asarray(photo.images[0])[:10] == BACKGROUND).all()
    more = np.concatenate([scene(3000), scene(9)], axis=2).astype("u2")
    photo = read_photo(tiff(more, extrasamples=["unspecified"] * 3))
    assert close(photo)
    assert "3 of 6 bands left out" in photo.notes


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: tiff(scene(3000).astype("u2"), photometric="minisblack", planarconfig="contig"), "3 UInt16 bands"),
        (lambda: tiff(scene(1).astype("f4"), photometric="minisblack", planarconfig="contig"), "3 Float32 bands"),
        (lambda: tiff(np.zeros((*SIZE, 13), "u2"), photometric="minisblack", planarconfig="contig"), "13 UInt16 bands"),
        (lambda: tiff(np.zeros((*SIZE, 13), "u1"), photometric="minisblack", planarconfig="contig"), "13 UInt8 bands"),
        (lambda: tiff(np.zeros(SIZE, "c8")), "complex"),
        (lambda: other_compression(34887), "LERC"),
        (lambda: other_compression(34712), "JPEG 2000"),
        (lambda: tiff(np.zeros(SIZE, "u2"), photometric="cfa"), "camera"),
    ],
)
def test_a_healthy_file_of_another_kind_is_named_and_not_called_damaged(make: Callable[[], bytes], named: str) -> None:
    with pytest.raises(UnsupportedPhotoError, match=named) as caught:
        read_photo(make())
    assert "damaged" not in str(caught.value)


def other_compression(number: int) -> bytes:
    data = bytearray(tiff(scene(3000).astype("u2")))
    at = data.index(b"\x03\x01\x03\x00")  # tag 259, a SHORT
    data[at + 8 : at + 10] = number.to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("marker", "bits", "named"), [(0xC3, 8, "lossless"), (0xC1, 12, "12 bits"), (0xF7, 8, "JPEG-LS")]
)
def test_other_kinds_of_jpeg_are_named(marker: int, bits: int, named: str) -> None:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    with pytest.raises(UnsupportedPhotoError, match=named):
        read_photo(bytes(data))


def test_a_strip_that_ends_early_is_damage() -> None:
    data = tiff(scene(3000).astype("u2"))
    with pytest.raises(UnreadablePhotoError, match="cut off"):
        read_photo(data[:-100])
    packed = bytearray(tiff(scene(3000).astype("u2"), compression="zlib"))
    packed[-4:] = bytes(4)  # the checksum of the last strip
    with pytest.raises(UnreadablePhotoError, match="damaged"):
        read_photo(bytes(packed))


def test_a_turned_tiff_of_16_bits_is_upright() -> None:
    samples = scene(3000).astype("u2")
    photo = read_photo(tiff(np.rot90(samples), extratags=[(274, "H", 1, 6, True)]))
    assert photo.images[0].size == (SIZE[1], SIZE[0])
    assert close(photo)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_a_16_bit_png_is_stretched_where_its_top_bits_are_unused(bands: int) -> None:
    grey = scene(3000).mean(axis=2, keepdims=True)
    values = scene(3000) if bands >= 3 else grey
    if bands in (2, 4):
        values = np.concatenate([values, np.full((*SIZE, 1), 65_535)], axis=2)
    photo = read_photo(png16(values))
    assert photo.notes
    assert "16-bit samples stretched" in photo.notes[0]
    if bands >= 3:
        assert close(photo)
    else:
        assert np.asarray(photo.images[0]).max() == 255
    assert read_photo(png16(values * 16)).notes == ()


def test_a_16_bit_png_with_alpha_keeps_it() -> None:
    values = np.concatenate([scene(3000), np.full((*SIZE, 1), 65_535)], axis=2)
    values[:10, :, 3] = 0
    pixels = np.asarray(read_photo(png16(values)).images[0])
    assert (pixels[:10] == BACKGROUND).all()


def shifted_profile() -> bytes:
    """A profile whose red and blue colorants are exchanged, so that what it does shows."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    where = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    for old, new in ((b"rXYZ", b"bXYZ"), (b"bXYZ", b"rXYZ")):
        profile[where[old] : where[old] + 4] = new
    return bytes(profile)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colours_with_a_profile_are_converted(kind: str) -> None:
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}, "AVIF": {"quality": 98}}.get(kind, {})
    photo = read_photo(
        encoded(Image.new("RGB", (16, 16), (200, 40, 30)), kind, icc_profile=shifted_profile(), **options)
    )
    r, _, b = np.asarray(photo.images[0]).reshape(-1, 3).mean(axis=0)
    assert b > 150 > r
    assert "colours converted from the profile" in photo.notes[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_an_srgb_profile_changes_no_bit(mode: str) -> None:
    image = Image.fromarray(scene(255).astype(np.uint8)).convert(mode)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile = read_photo(encoded(image, "PNG", icc_profile=srgb if mode != "L" else b""))
    assert with_profile.notes == ()
    assert with_profile.images[0].tobytes() == read_photo(encoded(image, "PNG")).images[0].tobytes()


@pytest.mark.parametrize("profile", [b"no profile", b"\0" * 200, shifted_profile()[:300]])
def test_a_broken_profile_is_ignored_with_a_note(profile: bytes) -> None:
    image = Image.fromarray(scene(255).astype(np.uint8))
    photo = read_photo(encoded(image, "PNG", icc_profile=profile))
    assert "cannot be used" in photo.notes[0]
    assert photo.images[0].tobytes() == image.tobytes()


def test_a_profile_of_other_pixels_is_ignored_with_a_note() -> None:
    photo = read_photo(encoded(Image.new("L", (8, 8), 9), "PNG", icc_profile=shifted_profile()))
    assert "it is for RGB" in photo.notes[0]


def test_an_ordinary_picture_has_no_notes_and_its_own_pixels() -> None:
    image = Image.fromarray(scene(255).astype(np.uint8))
    for kind in ("PNG", "BMP", "TIFF"):
        photo = read_photo(encoded(image, kind))
        assert photo.notes == ()
        assert photo.images[0].tobytes() == image.tobytes()
    jpeg = encoded(image, "JPEG")
    with Image.open(BytesIO(jpeg)) as decoded:
        assert read_photo(jpeg).images[0].tobytes() == decoded.convert("RGB").tobytes()


def test_limits_hold_for_own_readers() -> None:
    with pytest.raises(PhotoTooLargeError, match="pixels"):
        read_photo(tiff(scene(3000).astype("u2")), PhotoLimits(max_pixels=100))
    assert PngImagePlugin.MAX_TEXT_MEMORY <= 64 << 20  # what the scan counts for texts


def own_tiff(tags: dict[int, list[int]], blocks: list[bytes]) -> bytes:
    """A TIFF of 32-bit numbers with these tags, the offsets of `blocks` and their lengths, where `tags` has none."""
    offsets = [8 + sum(map(len, blocks[:i])) for i in range(len(blocks))]
    tags = {273: offsets, 279: [len(block) for block in blocks]} | tags
    body = b"".join(blocks)
    body += bytes(len(body) % 2)
    values, entries = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        at = packed if len(numbers) == 1 else struct.pack("<I", 8 + len(body) + len(values))
        values += packed if len(numbers) > 1 else b""
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + at
    head = b"II*\0" + struct.pack("<I", 8 + len(body) + len(values))
    return head + body + values + struct.pack("<H", len(tags)) + entries + bytes(4)


def rgb_tags(**more: list[int]) -> dict[int, list[int]]:
    tags = {256: [SIZE[1]], 257: [SIZE[0]], 258: [8, 8, 8], 259: [1], 262: [2], 277: [3], 278: [SIZE[0]]}
    return tags | {int(tag[1:]): value for tag, value in more.items()}


def shown(photo: Photo) -> np.ndarray[Any, Any]:
    return np.asarray(photo.images[0], dtype=float)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_a_hot_pixel_does_not_use_the_nominal_range(kind: str) -> None:
    """One pixel of 65535 among 12-bit samples: as if it were not there."""
    samples = np.tile(scene(3000), (4, 4, 1)).astype(np.uint16)
    hot = samples.copy()
    hot[5, 7] = 65_535
    plain, spoiled = (read_photo(tiff(s) if kind == "TIFF" else png16(s)) for s in (samples, hot))
    assert spoiled.notes == plain.notes
    differing = (shown(plain) != shown(spoiled)).any(axis=2)
    assert differing.sum() == 1
    assert differing[5, 7]


@pytest.mark.parametrize(
    ("dtype", "fill"), [("u2", 65_535), ("i2", -32_768), ("f4", -9999), ("f4", -3.4028235e38), ("f8", 1e20)]
)
def test_untagged_values_far_from_all_others_are_no_data(dtype: str, fill: float) -> None:
    samples = scene(3000).astype(dtype)
    samples[:6] = fill
    photo = read_photo(tiff(samples))
    assert (shown(photo)[:6] == BACKGROUND).all()
    assert np.abs(shown(photo)[6:] - scene(255)[6:]).mean() < 8
    assert "far from all others" in photo.notes[1]


def test_untagged_values_of_a_16_bit_png_and_at_both_ends() -> None:
    samples = scene(3000).astype(np.uint16)
    samples[:6] = 65_535
    photo = read_photo(png16(samples))
    assert (shown(photo)[:6] == BACKGROUND).all()
    floats = scene(1).astype(np.float32)
    floats[:4], floats[4:8] = 1e20, -1e20
    photo = read_photo(tiff(floats))
    assert (shown(photo)[:8] == BACKGROUND).all()
    assert "-1e+20 and 1e+20" in photo.notes[1]


def test_an_offset_in_the_top_bit_is_no_brightness() -> None:
    assert close(read_photo(tiff((scene(3000) + 32_768).astype(np.uint16))))


@pytest.mark.parametrize("low", [33_000, 42_000, 60_000])
def test_bright_16_bit_png_keeps_its_high_bytes(low: int) -> None:
    """Also one of little contrast: what 8 bits would show."""
    samples = (scene(5_000) + low).astype(np.uint16)
    photo = read_photo(png16(samples))
    assert photo.notes == ()
    assert (shown(photo) == samples >> 8).all()


def test_a_palette_in_8_bits_is_read_as_such() -> None:
    palette = [(i * 37 + band * 80) % 256 for band in range(3) for i in range(256)]
    pixels = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE)
    tags = rgb_tags(t258=[8], t262=[3], t277=[1])
    short, long = (
        own_tiff(tags | {320: colours}, [pixels.tobytes()]) for colours in (palette, [c * 257 for c in palette])
    )
    assert shown(read_photo(long)).max() > 200
    assert (shown(read_photo(short)) == shown(read_photo(long))).all()


def test_strips_that_are_left_out_are_no_data() -> None:
    """GDAL's SPARSE_OK: offset and length are 0."""
    samples = scene(255).astype(np.uint8)
    strips = [samples[top : top + 12].tobytes() for top in range(0, SIZE[0], 12)]
    offsets = [8 + i * len(strips[0]) for i in range(4)]
    lengths = [len(strip) for strip in strips]
    offsets[2] = lengths[2] = 0
    photo = read_photo(own_tiff(rgb_tags(t278=[12], t273=offsets, t279=lengths), strips))
    assert (shown(photo)[24:36] == BACKGROUND).all()
    assert (shown(photo)[:24] == samples[:24]).all()
    assert photo.notes == (f"{12 * SIZE[1]:,} pixels without data shown as transparent",)
    with pytest.raises(UnreadablePhotoError, match="2 strips or tiles of 4"):
        read_photo(own_tiff(rgb_tags(t278=[12], t273=offsets[:2], t279=lengths[:2]), strips))


def test_uncompressed_ycbcr_with_fewer_colours_is_named() -> None:
    with pytest.raises(UnsupportedPhotoError, match="YCbCr"):
        read_photo(own_tiff(rgb_tags(t262=[6]), [bytes(SIZE[0] * SIZE[1] * 3)]))


def test_alpha_of_zeros_everywhere() -> None:
    """A BMP's is unused; any other picture is said to be invisible."""
    image = Image.fromarray(scene(255).astype(np.uint8))
    image.putalpha(0)
    assert read_photo(encoded(image, "PNG")).notes == (
        "the picture is transparent everywhere: nothing of it can be seen",
    )
    rows = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, SIZE[1], SIZE[0], 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
    photo = read_photo(b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows)
    assert (shown(photo) == scene(255).astype(np.uint8)).all()
    assert photo.notes == ("alpha, which is 0 everywhere, left out",)
