"""From bytes to the answer's JSON, synchronously: the road that the service and `tilebeam locate --index` share.

It knows nothing of threads, queues or HTTP; its caller decides where each half runs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.retrieval.locator import Locator
from indexer.retrieval.photo import PhotoLimits, decode_photo
from indexer.retrieval.query import LocateQuery

__all__ = ["Prepared", "locate_group", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A decoded photo as the encoder wants it, (3, s, s) float32, and the milliseconds that this took."""

    pixels: NDArray[np.float32]
    decode_ms: float


def prepare(locator: Locator, data: bytes, limits: PhotoLimits) -> Prepared:
    """Decode and preprocess one photo; raises PhotoError for bytes that are none."""
    started = time.perf_counter()
    pixels = locator.prepare(decode_photo(data, limits, locator.encoder.least_edge))
    return Prepared(pixels, _ms_since(started))


def locate_group(locator: Locator, photos: Sequence[Prepared], query: LocateQuery) -> list[dict[str, Any]]:
    """Encode and locate photos together: one JSON object of the HTTP contract each, in order.

    `timing_ms` divides what the group shared by its photos. Raises QueryError for a query that has no answer.
    """
    started = time.perf_counter()
    embeddings = locator.encode(np.stack([photo.pixels for photo in photos]))
    encode_ms = _ms_since(started) / len(photos)
    started = time.perf_counter()
    found = [answer.to_json() for answer in locator.locate(embeddings, query)]
    search_ms = _ms_since(started) / len(photos)
    return [
        answer | {"timing_ms": _rounded(decode=photo.decode_ms, encode=encode_ms, search=search_ms)}
        for photo, answer in zip(photos, found, strict=True)
    ]


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _rounded(**stages: float) -> dict[str, float]:
    return {name: round(value, 3) for name, value in stages.items()}
