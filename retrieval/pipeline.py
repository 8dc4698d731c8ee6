"""From bytes to the answer's JSON, synchronously: the road that the service and `tilebeam locate --index` share.

It knows nothing of threads, queues or HTTP; its caller decides where each half runs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.photo import PhotoLimits, decode_photo
from retrieval.locator import Locator
from retrieval.search.query import LocateQuery

__all__ = ["Outcome", "Prepared", "locate_group", "locate_mixed", "prepare"]

Outcome = dict[str, Any] | Exception
"""What became of one photo of a group: the answer's JSON, or why there is none."""
_ANYTHING = LocateQuery()


@dataclass(frozen=True)
class Prepared:
    """A decoded photo as its locator's encoder wants it, (3, s, s) float32, and the milliseconds that this took.

    `for_prior`: also as the asked prior's own encoder wants it, where there is such.
    """

    pixels: NDArray[np.float32]
    decode_ms: float
    locator: Locator
    for_prior: NDArray[np.float32] | None = None


def prepare(locator: Locator, data: bytes, limits: PhotoLimits, query: LocateQuery = _ANYTHING) -> Prepared:
    """Decode and preprocess one photo to be asked this; raises PhotoError for bytes that are none, and QueryError."""
    started, own = time.perf_counter(), locator.encoder_beside(query)
    if own is None:
        pixels, for_prior = locator.prepare(decode_photo(data, limits, locator.encoder.least_edge)), None
    else:
        edges = (locator.encoder.least_edge, own.least_edge)
        image = decode_photo(data, limits, None if None in edges else max(edge or 0 for edge in edges))
        pixels, for_prior = locator.prepare(image), own.prepare(image)
    return Prepared(pixels, _ms_since(started), locator, for_prior)


def locate_group(locator: Locator, photos: Sequence[Prepared], query: LocateQuery) -> list[dict[str, Any]]:
    """Encode and locate photos together: one JSON object of the HTTP contract each, in order.

    `timing_ms` divides what the group shared by its photos. Raises QueryError for a query that has no answer.
    """
    embeddings, encode_ms = _encoded(locator, photos)
    return _searched(locator, photos, embeddings, query, encode_ms)


def locate_mixed(asked: Sequence[tuple[Prepared, LocateQuery]]) -> list[Outcome]:
    """Encode photos of one locator together, search equal questions together: an outcome each, in order.

    Whoever breaks the group is found out by going one by one; the others are answered. Raises nothing.
    """
    photos = [photo for photo, _ in asked]
    try:
        embeddings, encode_ms = _encoded(photos[0].locator, photos)
    except Exception as error:
        return [error] if len(asked) == 1 else [outcome for one in asked for outcome in locate_mixed([one])]
    rows_of: dict[LocateQuery, list[int]] = {}
    for row, (_, query) in enumerate(asked):
        rows_of.setdefault(query, []).append(row)
    found: dict[int, Outcome] = {}
    for query, rows in rows_of.items():
        found |= zip(rows, _each(photos, embeddings, rows, query, encode_ms), strict=True)
    return [found[row] for row in range(len(asked))]


def _each(
    photos: list[Prepared], embeddings: NDArray[np.float32], rows: list[int], query: LocateQuery, encode_ms: float
) -> list[Outcome]:
    chosen = [photos[row] for row in rows]
    try:
        return list(_searched(chosen[0].locator, chosen, embeddings[rows], query, encode_ms))
    except Exception as error:
        if len(rows) == 1:
            return [error]
    return [outcome for row in rows for outcome in _each(photos, embeddings, [row], query, encode_ms)]


def _encoded(locator: Locator, photos: Sequence[Prepared]) -> tuple[NDArray[np.float32], float]:
    """Embeddings, (n, d), and the milliseconds that each took."""
    started = time.perf_counter()
    embeddings = locator.encode(np.stack([photo.pixels for photo in photos]))
    return embeddings, _ms_since(started) / len(photos)


def _searched(
    locator: Locator,
    photos: Sequence[Prepared],
    embeddings: NDArray[np.float32],
    query: LocateQuery,
    encode_ms: float,
) -> list[dict[str, Any]]:
    features, more_ms = _features(locator, photos, query)
    encode_ms += more_ms
    started = time.perf_counter()
    found = [answer.to_json() for answer in locator.locate(embeddings, query, features)]
    search_ms = _ms_since(started) / len(photos)
    return [
        answer | {"timing_ms": _rounded(decode=photo.decode_ms, encode=encode_ms, search=search_ms)}
        for photo, answer in zip(photos, found, strict=True)
    ]


def _features(
    locator: Locator, photos: Sequence[Prepared], query: LocateQuery
) -> tuple[NDArray[np.float32] | None, float]:
    """What the asked prior's own encoder makes of the photos, (n, f), and the milliseconds that each took."""
    own = locator.encoder_beside(query)
    if own is None:
        return None, 0.0
    started = time.perf_counter()
    features = own.encode(np.stack([photo.for_prior for photo in photos if photo.for_prior is not None]))
    return features, _ms_since(started) / len(photos)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _rounded(**stages: float) -> dict[str, float]:
    return {name: round(value, 3) for name, value in stages.items()}
