"""Invalid pictures as test input: seeded mutations of valid pictures, and some that are built to be wrong.

    for name, data in mutations(seed=1, count=300): ...

The bytes depend only on the seed and the libraries' versions. The valid originals cover every accepted format and its
modes. Mutations know the formats' parts (a PNG's chunks, a JPEG's segments, a WebP's chunks, a TIFF's directory), so
that many pass a decoder's first checks and fail deep inside, or do not fail.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.support import picture_parts as parts

__all__ = ["Hostile", "mutations", "originals", "tiny"]


class Hostile(NamedTuple):
    """A picture's bytes, and a description of how they were made."""

    name: str
    data: bytes


def mutations(seed: int, count: int, large: bool = True) -> Iterator[Hostile]:
    """`count` pictures. `large`: include some of up to 99 megapixels, each of which takes a second and 300 MB."""
    rng = random.Random(seed)
    valid = originals(seed)
    built = [tiny(), *_built(large)]
    for number in range(count):
        if number % 20 == 0:  # one in twenty stays unmutated: valid, or built to be wrong
            pool = built if number // 20 % 3 == 0 else valid
            yield pool[number // 60 % len(pool)] if pool is built else rng.choice(pool)
            continue
        source = rng.choice(valid)
        names, data = [], source.data
        for mutate in rng.choices(_MUTATIONS, k=rng.choice((1, 1, 1, 2, 3))):
            names.append(mutate.__name__.strip("_"))
            data = mutate(rng, data) if data else data
        yield Hostile(" ".join([source.name, *names]), data)


def originals(seed: int) -> list[Hostile]:
    """Valid pictures: every accepted format in each of its modes, rotated by EXIF, animated and multi-page."""
    base = _photo(seed)
    plain = [(kind, mode) for kind, modes in _MODES.items() for mode in modes]
    pictures = [Hostile(f"{kind} {mode}", encoded(_in_mode(base, mode), kind)) for kind, mode in plain]
    pictures += [Hostile(f"TIFF {how}", encoded(base, "TIFF", compression=how)) for how in _TIFF_COMPRESSIONS]
    pictures += [Hostile(f"JPEG turned {turn}", encoded(base, "JPEG", exif=_exif(turn))) for turn in range(1, 9)]
    pictures += [Hostile("HEIC", data) for data in _heic(base)]
    frames = [_photo(seed + i) for i in range(3)]
    animated = {
        kind: encoded(base, kind, save_all=True, append_images=frames) for kind in ("GIF", "WEBP", "PNG", "TIFF")
    }
    pictures += [Hostile(f"{kind} of frames", data) for kind, data in animated.items()]
    pictures.append(Hostile("JPEG progressive", encoded(base, "JPEG", progressive=True)))
    pictures.append(Hostile("WEBP lossless", encoded(base.convert("RGBA"), "WEBP", lossless=True)))
    pictures.append(Hostile("JPEG larger", encoded(base.resize((1280, 960)), "JPEG")))
    return pictures


def tiny() -> Hostile:
    """One pixel: a picture after which other systems' services have stopped answering."""
    return Hostile("PNG 1x1", encoded(Image.new("RGB", (1, 1)), "PNG"))


_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "RGBA", "L", "1", "P", "CMYK", "I;16", "I", "F", "LAB"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "P", "1"),
    "AVIF": ("RGB", "RGBA"),
}
_TIFF_COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    """The picture as a file of this format."""
    out = io.BytesIO()
    image.save(out, kind, **how)  # type: ignore[arg-type]
    return out.getvalue()


def _photo(seed: int) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((96, 72), Image.Resampling.BICUBIC)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    return image.convert(mode)


def _heic(image: Image.Image) -> Iterator[bytes]:
    """One HEIC, if pillow-heif is installed to write it."""
    with suppress(ImportError):
        out = io.BytesIO()
        import_module("pillow_heif").from_pillow(image).save(out)
        yield out.getvalue()


def _exif(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    return exif


@cache
def _built(large: bool) -> list[Hostile]:
    """Pictures that no mutation would produce: decompression bombs, extreme sizes, and other kinds of files."""
    pictures = [
        Hostile("nothing", b""),
        Hostile("text", b"GET / HTTP/1.1\r\n\r\n"),
        Hostile("JPEG 1x1", encoded(Image.new("L", (1, 1)), "JPEG")),
        Hostile("WEBP 1x1", encoded(Image.new("RGB", (1, 1)), "WEBP")),
        Hostile("PNG 20000x1", encoded(Image.new("RGB", (20_000, 1)), "PNG")),
        Hostile("PNG 1x20000", encoded(Image.new("L", (1, 20_000)), "PNG")),
        Hostile("PNG of 400 megapixels", parts.png_of_nothing(20_000, 20_000)),
        Hostile("PNG of 10 gigapixels, no pixels", parts.png_of_nothing(100_000, 100_000, rows=0)),
        Hostile("PNG text that unpacks to 200 MB", parts.png_with(b"zTXt", b"a\0\0" + _zeros(200_000_000))),
        Hostile("PNG profile that unpacks to 200 MB", parts.png_with(b"iCCP", b"a\0\0" + _zeros(200_000_000))),
        Hostile("TIFF of NaN", encoded(Image.fromarray(np.full((20, 30), np.nan, np.float32)), "TIFF")),
        Hostile("TIFF of infinities", encoded(Image.fromarray(np.full((20, 30), -np.inf, np.float32)), "TIFF")),
        Hostile("TIFF directory that ends in itself", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"),
        Hostile(
            "GIF of one colour, endless codes",
            b"GIF89a\x10\0\x10\0\x80\0\0" + bytes(6) + b",\0\0\0\0\x10\0\x10\0\0\x02" + b"\xff" * 9000,
        ),
        Hostile("polyglot", encoded(Image.new("RGB", (8, 8)), "JPEG") + encoded(Image.new("RGB", (9, 9)), "PNG")),
    ]
    if large:
        pictures.append(Hostile("PNG of 99 megapixels", parts.png_of_nothing(11_000, 9_000)))
        pictures.append(Hostile("JPEG of 25 megapixels", encoded(Image.new("CMYK", (5_000, 5_000)), "JPEG")))
    return pictures


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(count // 1_000_000)), packer.flush()])


def _flip_bits(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 8, 32))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _flip_in_head(rng: random.Random, data: bytes) -> bytes:
    head = min(len(data), 64)
    return _flip_bits(rng, data[:head]) + data[head:]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 256))
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return data[:at] + filling + data[at + length :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _extend(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((rng.randbytes(500), bytes(5000), data))


def _drop_piece(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 50) :]


def _repeat_piece(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at : at + rng.randint(1, 200)] * rng.choice((2, 3, 50)) + data[at:]


def _another_magic(rng: random.Random, data: bytes) -> bytes:
    magic = rng.choice(
        (
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"II*\0",
            b"MM\0*",
            b"II+\0",
            b"RIFF\xff\xff\xff\x7fWEBP",
            b"BM",
        )
    )
    return magic + data[len(magic) :]


def _dimensions(rng: random.Random, data: bytes) -> bytes:
    side = rng.choice((0, 1, 2, 97, 1000, 9_999, 65_535, 2**31 - 1, 2**32 - 1))
    return parts.resized(data, side, rng.choice((side, 1, 72, 10_000)))


def _shuffle_parts(rng: random.Random, data: bytes) -> bytes:
    head, pieces, tail = parts.split(data)
    if len(pieces) > 1:
        first, second = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        pieces[first], pieces[second] = pieces[second], pieces[first]
    return head + b"".join(pieces) + tail


def _drop_part(rng: random.Random, data: bytes) -> bytes:
    head, pieces, tail = parts.split(data)
    if pieces:
        del pieces[rng.randrange(len(pieces))]
    return head + b"".join(pieces) + tail


def _repeat_part(rng: random.Random, data: bytes) -> bytes:
    head, pieces, tail = parts.split(data)
    if pieces:
        at = rng.randrange(len(pieces))
        pieces[at:at] = [pieces[at]] * rng.choice((1, 2, 100))
    return head + b"".join(pieces) + tail


def _flip_in_a_part(rng: random.Random, data: bytes) -> bytes:
    """Damage inside one part, with its checksum corrected."""
    head, pieces, tail = parts.split(data)
    if pieces:
        at = rng.randrange(len(pieces))
        pieces[at] = parts.summed(data, _flip_bits(rng, pieces[at]))
    return head + b"".join(pieces) + tail


def _damage_directory(rng: random.Random, data: bytes) -> bytes:
    """A changed number in a TIFF's directory, or in an EXIF block, which has the same format."""
    at = next((at for at in (data.find(b"II*\0"), data.find(b"MM\0*")) if at >= 0), -1)
    if at < 0 or len(data) < at + 40:
        return _flip_in_head(rng, data)
    order = "<" if data[at : at + 2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", data, at + 4)
    start = at + min(first, max(0, len(data) - at - 16))
    where = min(len(data) - 4, start + 2 * rng.randrange(64))
    value = rng.choice((0, 1, 8, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(2**32)))
    return data[:where] + struct.pack(f"{order}I", value) + data[where + 4 :]


_MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    _flip_bits,
    _flip_in_head,
    _overwrite,
    _truncate,
    _extend,
    _drop_piece,
    _repeat_piece,
    _another_magic,
    _dimensions,
    _shuffle_parts,
    _drop_part,
    _repeat_part,
    _flip_in_a_part,
    _damage_directory,
]
