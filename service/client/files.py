"""Locates picture files, in order, with a service or with an open index: for the command line.

An outcome is the answer's JSON object, or `{"error": problem}`. A bad file does not affect the others.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.client.client import Client
from service.errors import LocalFileError, ProblemError, problem_of

if TYPE_CHECKING:  # the engine, which `locate_there` must not import
    from retrieval.locator import Locator
    from retrieval.pipeline import DecodedPicture
    from retrieval.search.query import LocateQuery

__all__ = ["locate_here", "locate_there"]

Outcome = dict[str, Any]

_AT_ONCE = 32
"""Files a request: few enough to stay under a service's limits, enough to fill its batches."""


def locate_there(client: Client, photos: Sequence[Path], **question: Any) -> Iterator[Outcome]:
    """Ask a service, with `Client.locate`'s parameters; raises ClientError where it cannot be asked at all."""
    if len(photos) == 1:
        yield _single(client, photos[0], **question)
        return
    for group in _groups(photos, _AT_ONCE):
        for line in client.locate_batch(group, **question):
            yield {**line["result"]} if "result" in line else {"error": line["error"]}


def _single(client: Client, photo: Path, **question: Any) -> Outcome:
    try:
        return {**client.locate(photo, **question)}
    except (ProblemError, LocalFileError) as error:
        return {"error": problem_of(error)}


def locate_here(locator: "Locator", photos: Sequence[Path], query: "LocateQuery") -> Iterator[Outcome]:
    """Locate with an opened index; raises QueryError for a query that has no answer on it."""
    from retrieval.pipeline import DecodedPicture, locate

    for group in _groups(photos, locator.encoder.batch_size):
        decoded = [_decoded(locator, photo, query) for photo in group]
        outcomes = iter(locate([photo for photo in decoded if isinstance(photo, DecodedPicture)]))
        for photo in decoded:
            outcome = next(outcomes) if isinstance(photo, DecodedPicture) else photo
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def _decoded(locator: "Locator", photo: Path, query: "LocateQuery") -> "DecodedPicture | Outcome":
    from retrieval.encoders.photo import PhotoLimits
    from retrieval.errors import PhotoError
    from retrieval.pipeline import decode

    limits = PhotoLimits()
    try:
        return decode(locator, _head(photo, limits.max_bytes + 1), query, limits)
    except (PhotoError, LocalFileError) as error:
        return {"error": problem_of(error)}


def _head(photo: Path, most: int) -> bytes:
    """The file's first bytes: one more than the limit is enough to see that it is too large."""
    try:
        with photo.open("rb") as file:
            return file.read(most)
    except OSError as exc:
        raise LocalFileError(f"{photo}: {exc.strerror}; check the path") from exc


def _groups(photos: Sequence[Path], size: int) -> Iterator[list[Path]]:
    rest = iter(photos)
    while group := list(islice(rest, size)):
        yield group
