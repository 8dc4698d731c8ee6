"""Reads a TIFF's samples of any type, rows at a time: raw, deflate, or through the decompressors of Pillow's libtiff.

Pillow cannot open most of these files, but it can unpack their blocks: each is handed to it as an 8-bit grey picture of
the same bytes. So the rows in hand are all that is in memory, however large the picture is.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from retrieval.pictures.formats import damaged
from retrieval.pictures.tiff_layout import PIECE_SAMPLES, Layout

__all__ = ["rows_of"]

_RAW, _DEFLATES = 1, (8, 32946)
_ROOM = 64  # bytes after which an empty read means that a stream has ended


def rows_of(data: bytes, layout: Layout) -> Iterator[NDArray[Any]]:
    """The samples from top to bottom, in pieces of (n, width, bands), in native byte order.

    Raises UnreadablePhotoError where a block is missing or ends early.
    """
    across, down = layout.blocks_across, layout.blocks_down
    step = max(1, PIECE_SAMPLES // (across * layout.block_width * layout.bands))
    planes = layout.bands if layout.is_planar else 1
    for block_row in range(down):
        top = block_row * layout.block_height
        height = min(layout.block_height, layout.height - top)
        rows = layout.block_height if layout.is_tiled else height
        numbers = [[(plane * down + block_row) * across + i for i in range(across)] for plane in range(planes)]
        streams = [[_block(data, layout, number, rows, step) for number in plane] for plane in numbers]
        for _ in range(0, height, step):
            piece = _joined([_joined([next(stream) for stream in plane], axis=1) for plane in streams], axis=2)
            yield piece[:height, : layout.width]
            height -= len(piece)


def _joined(parts: list[NDArray[Any]], axis: int) -> NDArray[Any]:
    return np.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]


def _block(data: bytes, layout: Layout, number: int, rows: int, step: int) -> Iterator[NDArray[Any]]:
    """One block's samples in pieces of at most `step` rows: (n, block width, bands of its plane)."""
    at = int(layout.offsets[number])
    bands = 1 if layout.is_planar else layout.bands
    row_bytes = -(-layout.block_width * bands * layout.bits // 8)
    count = int(layout.counts[number]) if number < len(layout.counts) else rows * row_bytes
    if not at or not count:  # GDAL leaves out blocks that hold nothing
        for start in range(0, rows, step):
            shape = (min(step, rows - start), layout.block_width, bands)
            yield np.full(shape, layout.nodata or 0).astype(_native(layout))
        return
    if at < 0 or count < 0 or at + count > len(data):
        raise damaged("TIFF", "a strip or tile ends behind the end of the file")
    for raw in _unpacked(memoryview(data)[at : at + count], layout.compression, rows, row_bytes, step):
        yield _samples(raw, layout, bands)


def _unpacked(block: memoryview, compression: int, rows: int, row_bytes: int, step: int) -> Iterator[NDArray[np.uint8]]:
    """The block's bytes, (n, row bytes) uint8, in pieces of at most `step` rows."""
    if compression in _DEFLATES:
        unpack = zlib.decompressobj()
        rest: Any = block
        for start in range(0, rows, step):
            wanted = min(step, rows - start) * row_bytes
            yield _piece(_inflated(unpack, rest, wanted), row_bytes, wanted)
            rest = unpack.unconsumed_tail
        _inflated(unpack, rest, 1)  # what follows is the checksum
        return
    whole = block if compression == _RAW else _through_libtiff(block, compression, rows, row_bytes)
    for start in range(0, rows, step):
        wanted = min(step, rows - start) * row_bytes
        yield _piece(whole[start * row_bytes :][:wanted], row_bytes, wanted)


def _inflated(unpack: Any, packed: Any, wanted: int) -> bytes:
    try:
        out: bytes = unpack.decompress(packed, wanted)
        while len(out) < wanted and (more := unpack.decompress(unpack.unconsumed_tail, wanted - len(out))):
            out += more
    except zlib.error as exc:
        raise damaged("TIFF", exc) from exc
    return out


def _piece(content: Any, row_bytes: int, wanted: int) -> NDArray[np.uint8]:
    if len(content) < wanted:
        raise damaged("TIFF", "a strip or tile ends early")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, row_bytes)


def _through_libtiff(block: memoryview, compression: int, rows: int, row_bytes: int) -> bytes:
    """Unpack a block as the only strip of an 8-bit grey TIFF that is made around it."""
    tags = {256: row_bytes, 257: rows, 258: 8, 259: compression, 262: 1, 273: 0, 277: 1, 278: rows, 279: len(block)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = b"".join([b"II*\0", struct.pack("<IH", 8, len(tags)), entries, bytes(4), block])
    with TiffImagePlugin.TiffImageFile(BytesIO(file)) as image:
        return image.tobytes()


def _samples(raw: NDArray[np.uint8], layout: Layout, bands: int) -> NDArray[Any]:
    """Rows of bytes to (n, block width, bands), with the predictor undone."""
    shape = (len(raw), layout.block_width, bands)
    if layout.bits % 8:
        return _loose_bits(raw, layout.bits, layout.block_width * bands).reshape(shape)
    width = layout.bits // 8
    if layout.predictor == 3 and layout.kind == "f":
        # The bytes of each row are sorted by significance, then each is stored as the difference to the one before.
        planes = np.cumsum(raw.reshape(len(raw), -1, bands), axis=1, dtype=np.uint8).reshape(len(raw), width, -1)
        ordered = np.ascontiguousarray(planes.transpose(0, 2, 1))
        return ordered.view(f">f{width}").astype(f"f{width}").reshape(shape)
    values = raw.view(np.dtype(f"u{width}").newbyteorder(layout.order)).reshape(shape)  # type: ignore[arg-type]
    values = values.astype(f"u{width}")
    if layout.predictor == 2:
        values = np.cumsum(values, axis=1, dtype=values.dtype)
    return values.view(_native(layout))


def _loose_bits(raw: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint16]:
    """Samples of 9 to 15 bits, one right behind the other in each row, to (n, count)."""
    single = np.unpackbits(raw, axis=1, count=count * bits).reshape(len(raw), count, bits)
    out = np.zeros((len(raw), count), dtype=np.uint16)
    for i in range(bits):
        out <<= 1
        out |= single[:, :, i]
    return out


def _native(layout: Layout) -> np.dtype[Any]:
    return np.dtype("u2") if layout.bits % 8 else np.dtype(f"{layout.kind}{layout.bits // 8}")
