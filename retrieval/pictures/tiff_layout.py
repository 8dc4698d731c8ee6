"""How a TIFF stores its pixels, and who can read them: Pillow, `retrieval.pictures.tiff_rows`, or nobody here.

Pillow reads up to 8 bits a sample. Of 16-bit colour it keeps the high bytes, so that 12-bit data comes out black, and
it takes planes of 16 bits for pixels; more bits or bands than it knows raise a SyntaxError, as for a damaged file. So
only what it is known to read rightly goes to it.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnsupportedPhotoError
from retrieval.pictures.formats import damaged, too_much
from retrieval.pictures.limits import Header
from retrieval.pictures.stretch import Kind
from retrieval.pictures.tiff_tags import ORIENTATION, Directory

__all__ = ["PIECE_SAMPLES", "Layout", "scan_tiff"]

_MAX_BLOCKS = 65_536
_OWN = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "Zstandard"}
_PILLOWS = _OWN | {2: "CCITT", 3: "fax", 4: "fax", 6: "JPEG", 7: "JPEG", 50001: "WebP"}
_OTHERS = {34887: "LERC", 34712: "JPEG 2000", 33003: "JPEG 2000", 50002: "JPEG XL", 34676: "LogLuv", 34677: "LogLuv"}
_GREYS, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = (0, 1), 2, 3, 5, 6, (8, 9, 10)
_CAMERAS = (34665, 34853, 40965)
"""Tags that point to further directories: EXIF's own, the place, interoperability."""
_OLD_JPEG, _JPEG = 6, 7
"""The old one's blocks may be named by tags of its own."""
_RAW_CAMERA = (32803, 34892)
_ALPHA = (1, 2)
_STATE_BYTES = 65_536
"""What one decompressor holds; there is one for each block across the picture."""
PIECE_SAMPLES = 1_000_000
"""Samples across all bands that are handled together, or those of one row."""
_SAMPLE_BYTES = 90
"""What a sample in hand takes on its way to 8 bits."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the samples of the first page lie and what they are.

    A block is a strip or a tile; `offsets` and `counts` have one entry each, plane after plane where `is_planar`.
    `extra`: what the bands beyond the colours are: 1 and 2 mean alpha, multiplied in or not. `nodata`: the value of
    pixels without data. `orientation`: as in EXIF.
    """

    width: int
    height: int
    bands: int
    bits: int
    kind: Kind
    photometric: int
    compression: int
    predictor: int
    is_planar: bool
    block_width: int
    block_height: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    order: str
    extra: tuple[int, ...]
    nodata: float | None
    orientation: int
    icc_profile: bytes
    palette: NDArray[Any]
    jpeg_tables: bytes

    @classmethod
    def of(cls, data: bytes) -> "Layout":
        """Read a file's directory; the errors are those of `retrieval.pictures.scan`."""
        try:
            tags = Directory(data)
        except ValueError as exc:
            raise damaged("TIFF", exc) from exc
        _check_parts(data, tags)
        width, height, bands = tags.number(256, 0), tags.number(257, 0), tags.number(277, 1)
        bits = tags.numbers(258) or (1,)
        formats = set(tags.numbers(339)) or {1}
        if len(set(bits)) > 1 or len(formats) > 1:
            raise _unsupported(f"{bands} bands of different types")
        if not formats <= {1, 2, 3, 4}:
            raise _unsupported("complex numbers")
        tiled = 324 in tags
        layout = cls(
            width=width,
            height=height,
            bands=bands,
            bits=bits[0],
            kind=cast(Kind, {2: "i", 3: "f"}.get(formats.pop(), "u")),
            photometric=tags.number(262, 0),
            compression=tags.number(259, 1),
            predictor=tags.number(317, 1),
            is_planar=tags.number(284, 1) == 2 and bands > 1,
            block_width=tags.number(322, 0) if tiled else width,
            block_height=tags.number(323, 0) if tiled else min(tags.number(278, height), height),
            offsets=tags.array(324 if tiled else 273).astype(np.int64),
            counts=tags.array(325 if tiled else 279).astype(np.int64),
            order=tags.order,
            extra=tags.numbers(338),
            nodata=_number(tags.raw(42113)),
            orientation=tags.number(ORIENTATION, 1),
            icc_profile=tags.raw(34675),
            palette=tags.array(320),
            jpeg_tables=tags.raw(347),
        )
        layout._check(tags)
        return layout

    @property
    def absent_blocks(self) -> NDArray[np.bool_] | None:
        """Which blocks the file leaves out because they hold nothing, (down, across); None where it holds all."""
        absent = self.offsets[: self.block_count] == 0
        absent[: len(self.counts)] |= self.counts[: len(absent)] == 0
        if len(absent) < self.block_count or not absent.any():
            return None
        return np.asarray(absent.reshape(-1, self.blocks_down, self.blocks_across).any(axis=0))

    @property
    def is_pillows(self) -> bool:
        """Whether Pillow reads these samples rightly."""
        if self.absent_blocks is not None:
            return False
        if self.kind != "u" or self.bits > 8:
            return self.photometric == _CMYK
        if self.is_planar and self.compression in _OWN:
            return self.photometric not in (*_GREYS, _RGB)
        return self.photometric != _RGB or self.bands <= 4 or self.compression not in _OWN

    @property
    def is_tiled(self) -> bool:
        """Whether blocks do not span the width."""
        return self.block_width != self.width

    @property
    def blocks_across(self) -> int:
        """Blocks from left to right."""
        return -(-self.width // self.block_width)

    @property
    def blocks_down(self) -> int:
        """Blocks from top to bottom."""
        return -(-self.height // self.block_height)

    @property
    def holds_jpegs(self) -> bool:
        """Whether each block is a JPEG, without its tables where `jpeg_tables` has them."""
        return self.compression == _JPEG

    @property
    def block_count(self) -> int:
        """Blocks of all planes."""
        return self.blocks_across * self.blocks_down * (self.bands if self.is_planar else 1)

    @property
    def colours(self) -> int:
        """Bands that are colours: 1 or 3."""
        return 3 if self.photometric == _RGB else 1

    @property
    def alpha(self) -> int | None:
        """The band that says how opaque a pixel is, if one does."""
        return self.colours if self.bands > self.colours and self.extra[:1] and self.extra[0] in _ALPHA else None

    @property
    def short_palette(self) -> bytes | None:
        """A palette that a program wrote in 8 bits, reds first; Pillow reads 16 bits, as which it is black."""
        if self.photometric != _PALETTE or not len(self.palette) or not 0 < self.palette.max() < 256:
            return None
        return self.palette.astype(np.uint8).tobytes()

    @property
    def block_bytes(self) -> int:
        """Bytes of one block as samples."""
        bands = 1 if self.is_planar else self.bands
        return self.block_height * -(-self.block_width * bands * self.bits // 8)

    def __str__(self) -> str:
        sort = {"u": "UInt", "i": "Int", "f": "Float"}[self.kind]
        bands = f"{self.bands} {sort}{self.bits} band{'s' if self.bands > 1 else ''}"
        return f"{bands}, PhotometricInterpretation {self.photometric}, compression {self.compression}"

    def _check(self, tags: Directory) -> None:
        """Raise for what neither reader can do, or for blocks that cannot be."""
        if self.width < 1 or self.height < 1:
            return  # the size is judged elsewhere, with that of other formats
        if self.block_width < 1 or self.block_height < 1 or not 1 <= self.bands <= 10_000 or not 1 <= self.bits <= 64:
            raise damaged("TIFF", f"{self}, in blocks of {self.block_width} x {self.block_height}")
        if len(self.offsets) > _MAX_BLOCKS:
            raise too_much("TIFF", "strips or tiles", len(self.offsets), _MAX_BLOCKS)
        if self.compression not in _PILLOWS:
            raise _unsupported(f"compression {self.compression} ({_OTHERS.get(self.compression, 'unknown')})")
        if self.photometric in _LAB:
            raise UnsupportedPhotoError("pixels in Lab colour are not supported; save the picture as RGB")
        if self.photometric in _RAW_CAMERA:
            raise _unsupported("the raw samples of a camera's sensor")
        if self.photometric not in (*_GREYS, _RGB, _PALETTE, _CMYK, _YCBCR):
            raise _unsupported(str(self))
        self._check_bands()
        if len(self.offsets) < self.block_count and self.compression != _OLD_JPEG:
            raise damaged("TIFF", f"it has {len(self.offsets)} strips or tiles of {self.block_count}")
        sampling = tags.numbers(530) or (2, 2)
        if self.photometric == _YCBCR and self.compression == 1 and sampling != (1, 1):
            raise _unsupported(f"uncompressed YCbCr, colours at a fraction of its size ({sampling})")
        if self.is_pillows:
            return
        if self.absent_blocks is not None and (self.photometric not in (*_GREYS, _RGB) or self.compression not in _OWN):
            raise _unsupported(f"{self}, with strips or tiles left out")
        if self.photometric not in (*_GREYS, _RGB) or self.compression not in _OWN or tags.number(266, 1) != 1:
            raise _unsupported(str(self))
        depths = {"u": (8, *range(9, 17), 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}[self.kind]
        if self.bits not in depths or (self.bits % 8 and self.predictor != 1) or self.predictor not in (1, 2, 3):
            raise _unsupported(f"{self}, predictor {self.predictor}")
        if self.predictor == 3 and self.order == ">":
            # Versions of libtiff disagree on the order of the bytes, and so do the files that they wrote.
            raise _unsupported(f"{self}, big-endian with the predictor for floats")

    def _check_bands(self) -> None:
        """Raise where the bands do not say which are red, green and blue: a guess would be a wrong answer."""
        if self.photometric == _RGB and self.bands >= 3:
            return
        if self.photometric in _GREYS and (self.bands == 1 or (self.bands == 2 and self.alpha is not None)):
            return
        if self.photometric in (_PALETTE, _CMYK, _YCBCR):
            return
        raise UnsupportedPhotoError(
            f"the TIFF has {self} and does not say which bands are red, green and blue; write three of them as RGB, "
            "as gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB does"
        )


def scan_tiff(data: bytes) -> Header:
    """Size and memory of a TIFF; the errors are those of `retrieval.pictures.scan`."""
    layout = Layout.of(data)
    if layout.width < 1 or layout.height < 1:
        return Header("TIFF", layout.width, layout.height)
    block = layout.block_bytes if layout.compression != 1 else 0
    if not layout.is_pillows:
        # Rows are converted as they come: no picture of the samples is ever whole.
        across = layout.blocks_across * (layout.bands if layout.is_planar else 1)
        streams = layout.compression in (1, 8, 32946)
        samples = max(PIECE_SAMPLES, layout.blocks_across * layout.block_width * layout.bands)
        fixed = _SAMPLE_BYTES * samples + across * (_STATE_BYTES if streams else 3 * block)
        decoding, is_rgb = 0.0, False
    else:
        pixel = 1.0 if layout.photometric in (*_GREYS, _PALETTE) and layout.bands == 1 else 4.0
        decoding, is_rgb, fixed = pixel, layout.photometric == _RGB and layout.bands == 3, 2 * block
    return Header(
        "TIFF",
        layout.width,
        layout.height,
        decoding=decoding,
        decoded=decoding,
        fixed=fixed,
        is_rgb=is_rgb and layout.nodata is None and not layout.icc_profile,
        isolated=True,
        orientation=layout.orientation,
    )


def _check_parts(data: bytes, tags: Directory) -> None:
    """Raise PhotoTooLargeError for directories of a camera, which Pillow reads too, that hold too much."""
    for at in _CAMERAS:
        if at in tags:
            with suppress(ValueError):  # of a broken one nothing is read
                Directory(data, tags.number(at, 0))


def _number(text: bytes) -> float | None:
    try:
        return float(text.strip(b" \0").decode("ascii"))
    except ValueError:
        return None


def _unsupported(what: str) -> UnsupportedPhotoError:
    return UnsupportedPhotoError(
        f"a TIFF of this kind ({what}) is not supported; save the picture as 8- or 16-bit RGB or grey, uncompressed or "
        "with LZW or deflate"
    )
