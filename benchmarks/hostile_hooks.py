"""What schemathesis sends as a picture: real ones among bytes that are none. Loaded by it (SCHEMATHESIS_HOOKS)."""

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
"""Characters, at most twelve bytes of an address each: of one over 64 kB the server does not read the end (400)."""


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """Whether this question fits into an address."""
    return len(str(query)) < _LONGEST


schemathesis.openapi.format("binary", _PICTURES | st.binary(max_size=200))
schemathesis.openapi.media_type("image/*", _PICTURES | st.binary(max_size=200))
