"""Locates picture files, in order, with a service or with an open index: for the command line.

An outcome is the answer's JSON object, or `{"error": problem}`. A bad file does not affect the others.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from service.client.client import Client
from service.client.photos import opened
from service.client.types import LocateOptions
from service.errors import (
    DecoderEndedError,
    LocalFileError,
    OutOfMemoryError,
    ProblemError,
    ProxyAnswerError,
    problem_of,
)

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
        except ProxyAnswerError as error:
            if error.problem["status"] != 413:  # it concerns more than this file
                raise
            yield {"error": problem_of(error)}
        return
    for group in _groups(photos, _FILES_PER_REQUEST):
        for line in client.locate_batch(group, **options):
            yield {**line["result"]} if "result" in line else {"error": line["error"]}


def locate_here(open_index: Callable[[], "Locator"], photos: Sequence[Path], query: "LocateQuery") -> Iterator[Outcome]:
    """Locate with an index, which is opened for the first file that looks like a picture.

    Raises what `open_index` raises, and QueryError if the query has no answer on the index.
    """
    from retrieval.decoding.decoder import shared_decoder
    from retrieval.errors import DecodeMemoryError, DecoderError, PhotoError
    from retrieval.pictures.limits import PhotoLimits
    from retrieval.pipeline import REGISTRATION_S, DecodedPicture, Searched, decode, locate, register

    def outcomes(group: list[DecodedPicture | Outcome]) -> Iterator[Outcome]:
        pictures = [each for each in group if isinstance(each, DecodedPicture)]
        located = iter(locate(pictures) if pictures else ())
        for each in group:
            outcome = next(located) if isinstance(each, DecodedPicture) else each
            if isinstance(outcome, Exception):
                raise outcome
            yield register(outcome, REGISTRATION_S) if isinstance(outcome, Searched) else outcome

    limits = PhotoLimits()
    locator: Locator | None = None
    group: list[DecodedPicture | Outcome] = []
    for photo in photos:
        try:
            data = checked_bytes(photo, limits.max_bytes + 1)
            locator = locator or open_index()
            group.append(decode(locator, data, query, limits, shared_decoder().read))
        except (PhotoError, LocalFileError) as error:
            group.append({"error": problem_of(error)})
        except DecoderError as error:
            kind = OutOfMemoryError if isinstance(error, DecodeMemoryError) else DecoderEndedError
            group.append({"error": problem_of(kind(str(error)))})
        if locator is None or len(group) == locator.encoder.batch_size:
            yield from outcomes(group)
            group = []
    yield from outcomes(group)


def checked_bytes(photo: Path, limit: int) -> bytes:
    """At most the first `limit` bytes of a picture file; one more than allowed shows that it is too large.

    Raises PhotoError if its first bytes are not a picture's.
    """
    from retrieval.pictures.formats import sniff

    with opened(photo) as file:
        data = file.read(limit)
    sniff(data)
    return data


def _groups(photos: Sequence[Path], size: int) -> Iterator[list[Path]]:
    rest = iter(photos)
    while group := list(islice(rest, size)):
        yield group
