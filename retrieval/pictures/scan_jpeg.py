"""A bounded walk over a JPEG's segments: its kind of coding, size, scans, and what a decoder has to hold for them.

A progressive JPEG is decoded scan by scan over the whole picture, and a scan may be as short as 190 bytes: a file's
size says nothing about the time. Pillow reads segments in Python, padding byte by byte.
"""

import re

from retrieval.errors import UnsupportedPhotoError
from retrieval.pictures.formats import damaged, too_much
from retrieval.pictures.limits import Header

__all__ = ["scan_jpeg"]

_MAX_SCANS = 100
"""Encoders write 6 to 20; each costs up to 0.13 ms a megapixel of processor time where it says nothing."""
_MAX_SEGMENTS = 2_000
"""A depth map in extended XMP takes some hundred."""
_MAX_PADDING = 4_096
_MAX_EXIF = 131_072
"""Bytes; a segment holds at most half of this, and Pillow reads EXIF in Python."""

_SOI_BYTES = 2
_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_KINDS = {0xC3: "lossless", 0xCB: "lossless", 0xF7: "JPEG-LS"}
_SOS, _EOI, _APP1, _APP2 = 0xDA, 0xD9, 0xE1, 0xE2
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Any marker but those that stand between entropy-coded bytes: stuffing and restarts."""


def scan_jpeg(data: bytes) -> Header:
    """Size and memory of a JPEG; see the package for what is raised."""
    at, padding, frame, exif, has_profile = _SOI_BYTES, 0, None, b"", False
    for _ in range(_MAX_SEGMENTS):
        found = data.find(b"\xff", at)
        while found >= 0 and data[found + 1 : found + 2] == b"\xff" and padding + found - at <= _MAX_PADDING:
            found += 1
        padding += max(0, found - at)
        if padding > _MAX_PADDING:
            raise too_much("JPEG", "bytes of padding between its segments", padding, _MAX_PADDING)
        if found < 0 or found + 4 > len(data):
            raise damaged("JPEG", "it ends before its pixels")
        marker, at = data[found + 1], found + 2
        if marker in _BARE or not marker:
            continue
        if marker == _EOI:
            raise damaged("JPEG", "it has no pixels")
        body = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        if marker in _SOF or marker in _KINDS:
            if frame is not None:
                raise damaged("JPEG", "it has two frame headers")
            frame = _Frame(marker, body)
        if marker == _SOS:
            break
        has_profile |= marker == _APP2 and body.startswith(b"ICC_PROFILE\0")
        if marker == _APP1 and body.startswith(b"Exif\0\0"):
            exif += body if not exif else body[6:]
            if len(exif) > _MAX_EXIF:
                raise too_much("JPEG", "bytes of EXIF", len(exif), _MAX_EXIF)
        at += max(2, len(body) + 2)
    else:
        raise too_much("JPEG", "segments", _MAX_SEGMENTS + 1, _MAX_SEGMENTS)
    if frame is None:
        raise damaged("JPEG", "it has no frame header")
    fixed = 0
    if frame.is_progressive or body[:1] != bytes([len(frame.sampling)]):
        _check_scans(data, at)
        fixed = frame.coefficient_bytes
    return Header(
        "JPEG",
        frame.width,
        frame.height,
        decoding=frame.pixel_bytes,
        decoded=frame.pixel_bytes,
        fixed=fixed,
        is_rgb=len(frame.sampling) == 3 and not has_profile,
        shrinks=True,
        exif=exif,
    )


class _Frame:
    """A frame header: size and the sampling of each component, (horizontal, vertical)."""

    def __init__(self, marker: int, body: bytes) -> None:
        if len(body) < 6 or len(body) < 6 + 3 * body[5]:
            raise damaged("JPEG", "its frame header is cut off")
        bits, count = body[0], body[5]
        self.height, self.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        self.is_progressive = marker in _PROGRESSIVE
        kind = _KINDS.get(marker) or ("" if marker in (*_SEQUENTIAL, *_PROGRESSIVE) else "hierarchical")
        if kind or bits != 8 or count not in (1, 3, 4):
            what = [kind, f"{bits} bits a sample" if bits != 8 else "", f"{count} components" if count == 2 else ""]
            raise UnsupportedPhotoError(
                f"a JPEG of this kind ({', '.join(filter(None, what)) or f'{count} components'}) is not supported; "
                "save the picture as an ordinary JPEG or as PNG"
            )
        codes = body[7 : 7 + 3 * count : 3]
        self.sampling = [(code >> 4, code & 15) for code in codes]
        if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in self.sampling):
            raise damaged("JPEG", "its sampling factors are out of range")

    @property
    def pixel_bytes(self) -> float:
        return 1.0 if len(self.sampling) == 1 else 4.0

    @property
    def coefficient_bytes(self) -> int:
        """What a decoder holds where a picture comes in several scans: 2 bytes for each coefficient."""
        most = max(h for h, _ in self.sampling) * max(v for _, v in self.sampling)
        blocks = (-(-self.width // 8) + 4) * (-(-self.height // 8) + 4)
        return sum(128 * blocks * h * v // most for h, v in self.sampling)


def _check_scans(data: bytes, at: int) -> None:
    """Count the scans from the first one's header at `at` on."""
    scans = 1
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.start() + 1] == _EOI:
            return
        scans += data[found.start() + 1] == _SOS
        if scans > _MAX_SCANS:
            raise too_much("JPEG", "scans", scans + data.count(b"\xff\xda", found.end()), _MAX_SCANS)
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise too_much("JPEG", "segments between its scans", _MAX_SEGMENTS + 1, _MAX_SEGMENTS)
