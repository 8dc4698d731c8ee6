"""The parts of picture files, for building invalid ones. Uses no decoder.

Joining the result of `split` gives the file back; a file of an unknown format is split into thirds.
"""

import struct
import zlib
from collections.abc import Callable

__all__ = ["png_of_nothing", "png_with", "resized", "split", "summed"]

_PNG = b"\x89PNG\r\n\x1a\n"


def split(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Head, parts and tail of a PNG, JPEG, WebP or HEIC; a damaged file is split as far as its parts are valid."""
    if data.startswith(_PNG):
        return _split(data, len(_PNG), lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))
    if data.startswith(b"\xff\xd8"):
        return _split(data, 2, lambda at: _jpeg_length(data, at))
    if data[:4] == b"RIFF":
        return _split(data, 12, lambda at: 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1))
    if data[4:8] == b"ftyp":
        return _split(data, 0, lambda at: max(8, int.from_bytes(data[at : at + 4], "big")))
    third = max(1, len(data) // 3)
    return b"", [data[at : at + third] for at in range(0, len(data), third)], b""


def _jpeg_length(data: bytes, at: int) -> int:
    """Bytes of the segment at `at`; the scan, which has no length, extends to the end."""
    if data[at : at + 1] != b"\xff" or data[at + 1 : at + 2] in (b"\xda", b"\xd9"):
        return len(data)
    return 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _split(data: bytes, at: int, length: Callable[[int], int]) -> tuple[bytes, list[bytes], bytes]:
    head, parts = data[:at], []
    while at + 8 <= len(data) and at + length(at) <= len(data):
        parts.append(data[at : at + length(at)])
        at += len(parts[-1])
    return head, parts, data[at:]


def summed(whole: bytes, piece: bytes) -> bytes:
    """A part of `whole` with its checksum corrected, if it has one."""
    if not whole.startswith(_PNG) or len(piece) < 12:
        return piece
    return piece[:-4] + zlib.crc32(piece[4:-4]).to_bytes(4, "big")


def resized(data: bytes, width: int, height: int) -> bytes:
    """The same file with only the size in its header changed."""
    if data.startswith(_PNG) and len(data) > 33:
        header = data[12:16] + struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF) + data[24:29]
        return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    small = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    if data.startswith(b"\xff\xd8"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        return data if at < 0 else data[: at + 5] + small[3:1:-1] + small[1::-1] + data[at + 9 :]
    if data[:3] == b"GIF":
        return data[:6] + small + data[10:]
    if data[12:16] == b"VP8X":
        size = (width & 0xFFFFFF).to_bytes(3, "little") + (height & 0xFFFFFF).to_bytes(3, "little")
        return data[:24] + size + data[30:]
    if data[12:16] == b"VP8 ":
        return data[:26] + small + data[30:]
    if data[4:8] == b"ftyp":
        at = data.find(b"ispe") + 8
        return (
            data if at < 8 else data[:at] + struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF) + data[at + 8 :]
        )
    return _resized_tiff(data, width, height)


def _resized_tiff(data: bytes, width: int, height: int) -> bytes:
    if data[:4] != b"II*\0":
        return data
    out, (at,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for entry in range(at + 2, min(at + 2 + 12 * 40, len(data) - 12), 12):
        tag, kind = struct.unpack_from("<HH", out, entry)
        if tag in (256, 257) and kind in (3, 4):
            value = width if tag == 256 else height
            struct.pack_into("<I", out, entry + 8, value & (0xFFFF if kind == 3 else 0xFFFFFFFF))
    return bytes(out)


def png_of_nothing(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of black 1-bit pixels in a few kilobytes; `rows`: the true number of rows if not the header's `height`."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    return (
        _PNG
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def png_with(name: bytes, content: bytes) -> bytes:
    """An 8 x 8 PNG with this chunk before its pixels."""
    whole = png_of_nothing(8, 8)
    return whole[:33] + _chunk(name, content) + whole[33:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
