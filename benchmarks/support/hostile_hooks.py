"""Pictures for schemathesis to send: real ones and other bytes. Schemathesis loads this module (SCHEMATHESIS_HOOKS)."""

from io import BytesIO
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _encoded(kind: str, mode: str, size: tuple[int, int]) -> bytes:
    out = BytesIO()
    Image.new(mode, size).save(out, kind)
    return out.getvalue()


_KINDS = [
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("PNG", "RGBA"),
    ("PNG", "P"),
    ("WEBP", "RGB"),
    ("TIFF", "I;16"),
    ("BMP", "L"),
]
_PICTURES = st.sampled_from([_encoded(kind, mode, size) for kind, mode in _KINDS for size in ((1, 1), (40, 30))])

_LONGEST = 5_000
"""Limit in characters, each at most twelve bytes of a URL: the server answers a URL over 64 kB with 400."""


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """Return whether this query fits into a URL."""
    return len(str(query)) < _LONGEST


schemathesis.openapi.format("binary", _PICTURES | st.binary(max_size=200))
schemathesis.openapi.media_type("image/*", _PICTURES | st.binary(max_size=200))
