"""Locates picture files, in order, with a service or with an open index: for the command line.

An outcome is the answer's JSON object, or `{"error": problem}`. A bad file does not affect the others.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from service.client.client import Client
from service.client.photos import opened
from service.client.types import LocateOptions
from service.errors import LocalFileError, ProblemError, problem_of

if TYPE_CHECKING:  # the engine; `locate_there` must work without it
    from retrieval.locator import Locator
    from retrieval.search.query import LocateQuery

Outcome = dict[str, Any]

_FILES_PER_REQUEST = 32
"""Few enough for a service's limits, enough to fill its batches."""


def locate_there(client: Client, photos: Sequence[Path], **options: Unpack[LocateOptions]) -> Iterator[Outcome]:
    """Locate with a service and `Client.locate`'s options; raises ClientError if there is no service."""
    if len(photos) == 1:
        try:
            yield {**client.locate(photos[0], **options)}
        except (ProblemError, LocalFileError) as error:
            yield {"error": problem_of(error)}
        return
    for group in _groups(photos, _FILES_PER_REQUEST):
        for line in client.locate_batch(group, **options):
            yield {**line["result"]} if "result" in line else {"error": line["error"]}


def locate_here(locator: "Locator", photos: Sequence[Path], query: "LocateQuery") -> Iterator[Outcome]:
    """Locate with an open index; raises QueryError if the query has no answer on it."""
    from retrieval.errors import PhotoError
    from retrieval.pictures.limits import PhotoLimits
    from retrieval.pipeline import DecodedPicture, decode, locate

    limits = PhotoLimits()
    for group in _groups(photos, locator.encoder.batch_size):
        decoded: list[DecodedPicture | Outcome] = []
        for photo in group:
            try:
                decoded.append(decode(locator, _head(photo, limits.max_bytes + 1), query, limits))
            except (PhotoError, LocalFileError) as error:
                decoded.append({"error": problem_of(error)})
        pictures = [each for each in decoded if isinstance(each, DecodedPicture)]
        outcomes = iter(locate(pictures) if pictures else ())
        for each in decoded:
            outcome = next(outcomes) if isinstance(each, DecodedPicture) else each
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def _head(photo: Path, limit: int) -> bytes:
    """At most the first `limit` bytes of a file; one more than allowed shows that it is too large."""
    with opened(photo) as file:
        return file.read(limit)


def _groups(photos: Sequence[Path], size: int) -> Iterator[list[Path]]:
    rest = iter(photos)
    while group := list(islice(rest, size)):
        yield group
