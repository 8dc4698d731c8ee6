"""The road of a picture: bytes -> pixels (`decode`), pixels -> embedding -> search (`locate`), registration -> answer.

`locate_picture` does all of it. The service calls the parts in different threads, so that it can locate several
pictures as one group, and register a picture while others are located. An answer is the JSON object of the HTTP
contract. This module knows nothing of threads, queues or HTTP.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.attempt import Attempt, Square, shrunk, turned_square
from retrieval.encoders.base import EncodesPhotos
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import EncoderError, SearchTimeoutError
from retrieval.locator import Locator
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import Photo, read_photo
from retrieval.registrar import Registrar
from retrieval.registration.registration import Registration
from retrieval.search.answer import Answer
from retrieval.search.beam import Descent
from retrieval.search.deadline import Deadline
from retrieval.search.plan import SearchPlan
from retrieval.search.query import LocateQuery

__all__ = [
    "DecodedPicture",
    "Outcome",
    "ReadsPhotos",
    "Searched",
    "decode",
    "locate",
    "locate_picture",
    "prepared",
    "register",
    "turned_answers",
    "turned_pictures",
    "views_for",
]

_DEFAULT_QUERY = LocateQuery()
_DEFAULT_LIMITS = PhotoLimits()
ReadsPhotos = Callable[[bytes, PhotoLimits, Sequence[View]], Photo]
"""Decodes a picture: `read_photo` in this thread, or `PictureDecoder.read`, which ends what takes too much."""
_SIDE = 256
_SQUARE = View(_SIDE, Preprocess(_SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
"""The central square is all that registration compares, in up to 64 pixels; so no large picture is held for it."""
REGISTRATION_S = 30.0
"""How long `locate_picture` registers a picture at most, in seconds."""


@dataclass(frozen=True)
class DecodedPicture:
    """A picture ready for the encoders, and the plan to locate it with. `decode_ms`: the time that decoding took.

    `pixels`: (3, s, s) float32, for the locator's photo encoder; `prior_pixels`: for the prior's own encoder, if it has
    one. `square`: for registration, if the plan registers. `notes`: what was done to the samples that is not plain
    decoding.
    """

    locator: Locator
    plan: SearchPlan
    pixels: NDArray[np.float32]
    prior_pixels: NDArray[np.float32] | None
    decode_ms: float
    notes: tuple[str, ...] = ()
    square: Square | None = None


@dataclass(frozen=True, eq=False)
class Searched:
    """A picture that was searched and is to be registered: its answer so far, and its times in milliseconds."""

    picture: DecodedPicture
    answer: Answer
    descent: Descent
    times: dict[str, float]

    def attempt(self, registrar: Registrar, deadline: Deadline) -> Attempt:
        """Its registration, to be taken step by step. Loads what the registrar needs."""
        picture = self.picture
        assert picture.square is not None
        square, plan = picture.square, picture.plan
        return Attempt(picture.locator, plan, square, self.answer, self.descent, registrar, deadline)

    def registered(self, attempt: Attempt) -> dict[str, Any]:
        """The answer after an attempt."""
        answer, registration = attempt.answer()
        return _answer_json(self.picture, answer, self.times | {"register": attempt.spent_s * 1000}, registration)

    def unregistered(self, reason: str) -> dict[str, Any]:
        """The answer without an attempt, with the reason."""
        plan = self.picture.plan
        answer = replace(self.answer, alternatives=self.answer.alternatives[: plan.alternatives])
        return _answer_json(self.picture, answer, self.times, None, reason)


Outcome = dict[str, Any] | Searched | Exception
"""The result for one picture of a group: its answer, what is to be registered, or the error that prevented both."""


def locate_picture(
    locator: Locator,
    data: bytes,
    query: LocateQuery = _DEFAULT_QUERY,
    limits: PhotoLimits = _DEFAULT_LIMITS,
    read: ReadsPhotos = read_photo,
    registration_s: float = REGISTRATION_S,
) -> dict[str, Any]:
    """Locate one picture file's bytes, and register it as the query says, for at most `registration_s` seconds.

    For bytes from strangers let `read` be `retrieval.decoding.decoder.shared_decoder().read`. Raises PhotoError,
    DecoderError, QueryError, TypeError for anything but bytes, or what an encoder raises.
    """
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"a picture is the bytes of a file, not {type(data).__name__}: Path('photo.jpg').read_bytes()")
    [outcome] = locate([decode(locator, data, query, limits, read)])
    if isinstance(outcome, Exception):
        raise outcome
    return register(outcome, registration_s) if isinstance(outcome, Searched) else outcome


def register(searched: Searched, seconds: float = math.inf, everywhere: bool = False) -> dict[str, Any]:
    """Register a picture that was searched, in this thread, and return its answer.

    `seconds`: how long it may take, not counting what the locator's registrar loads. `everywhere`: search all land if
    nothing else is accepted. Raises what an encoder raises.
    """
    registrar = searched.picture.locator.registrar
    registrar.load()
    attempt = searched.attempt(registrar, Deadline.after(seconds))
    attempt.search_upright()
    if turns := attempt.turns:
        outcomes = locate(turned_pictures(searched.picture, turns))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        attempt.search_turned(turned_answers(turns, outcomes))
    if everywhere:
        attempt.search_everywhere()
    return searched.registered(attempt)


def turned_pictures(picture: DecodedPicture, turns: Sequence[float]) -> list[DecodedPicture]:
    """A picture's square, turned upright from each of these headings, to be searched without registration."""
    assert picture.square is not None
    plan = replace(picture.plan, register="on", trace=False)
    encoder, prior = picture.locator.encoder, plan.prior_encoder
    edges = [each.min_edge for each in (encoder, prior) if each is not None]
    whole = picture.square.pixels
    square = shrunk(whole, max(edge or whole.shape[0] for edge in edges))
    turned = [turned_square(square, turn) for turn in turns]
    return [
        replace(
            picture,
            plan=plan,
            pixels=encoder.prepare(image),
            prior_pixels=None if prior is None else prior.prepare(image),
        )
        for image in turned
    ]


def turned_answers(turns: Sequence[float], outcomes: Sequence[Outcome]) -> list[tuple[float, Answer]]:
    """The answers for `turned_pictures`, each with its heading; those that failed are left out."""
    pairs = zip(turns, outcomes, strict=True)
    return [(turn, outcome.answer) for turn, outcome in pairs if isinstance(outcome, Searched)]


def decode(
    locator: Locator,
    data: bytes,
    query: LocateQuery = _DEFAULT_QUERY,
    limits: PhotoLimits = _DEFAULT_LIMITS,
    read: ReadsPhotos = read_photo,
) -> DecodedPicture:
    """Resolve the query and decode the picture.

    Raises QueryError, PhotoError for bytes that are not a picture, DecoderError.
    """
    started = time.perf_counter()
    plan = locator.plan(query)
    return prepared(locator, plan, read(data, limits, views_for(locator, plan)), started)


def views_for(locator: Locator, plan: SearchPlan) -> tuple[View, ...]:
    """The views of a picture that this plan takes: the locator's encoder's, the prior's if it has its own encoder, and
    the square for registration.
    """
    encoders = [locator.encoder] if plan.prior_encoder is None else [locator.encoder, plan.prior_encoder]
    # An encoder without `preprocess` takes the whole picture.
    views = tuple(View(encoder.min_edge, getattr(encoder, "preprocess", None)) for encoder in encoders)
    return views if plan.register == "off" else (*views, _SQUARE)


def prepared(locator: Locator, plan: SearchPlan, photo: Photo, started: float) -> DecodedPicture:
    """The encoders' input from a photo's views, made for `views_for`. `started`: time.perf_counter() at the begin."""
    pixels = locator.encoder.prepare(photo.images[0])
    prior_pixels = None if plan.prior_encoder is None else plan.prior_encoder.prepare(photo.images[1])
    square = None
    if plan.register != "off":
        size = photo.size[::-1] if photo.turn > 4 else photo.size
        square = Square(np.asarray(photo.images[-1]), size, photo.turn)
    return DecodedPicture(locator, plan, pixels, prior_pixels, _ms_since(started), photo.notes, square)


def locate(pictures: Sequence[DecodedPicture], search_timeout_s: float = math.inf) -> list[Outcome]:
    """Encode pictures of one locator together, and search those with equal plans together; outcomes in order.

    A picture whose plan registers has a Searched as its outcome, for `register`.
    `timing_ms` divides shared time by the number of pictures. If a group fails, its pictures are located one by one, so
    that only those that cause the failure get an error. A search that takes longer than `search_timeout_s` a picture is
    ended: SearchTimeoutError. Raises nothing.
    """
    started = time.perf_counter()
    try:
        embeddings = _encoded(pictures[0].locator.encoder, [picture.pixels for picture in pictures])
    except Exception as error:
        if len(pictures) == 1:
            return [error]
        return [outcome for picture in pictures for outcome in locate([picture], search_timeout_s)]
    encode_ms = _ms_since(started) / len(pictures)
    rows_of: dict[SearchPlan, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault(picture.plan, []).append(row)
    outcomes: dict[int, Outcome] = {}
    for rows in rows_of.values():
        group = [pictures[row] for row in rows]
        outcomes |= zip(rows, _search(group, embeddings[rows], encode_ms, search_timeout_s), strict=True)
    return [outcomes[row] for row in range(len(pictures))]


def _search(
    pictures: list[DecodedPicture], embeddings: NDArray[np.float32], encode_ms: float, timeout_s: float
) -> list[Outcome]:
    """Outcomes of pictures with the same plan; after a failure one by one, as far as there is time."""
    plan = replace(pictures[0].plan, deadline=Deadline.after(timeout_s * len(pictures)))
    try:
        return list(_answers(pictures, plan, embeddings, encode_ms))
    except SearchTimeoutError as error:  # of the whole group: their plans are equal, and so are their costs
        return [error] * len(pictures)
    except Exception as error:
        if len(pictures) == 1:
            return [error]
    rows = range(len(pictures))
    return [outcome for i in rows for outcome in _search([pictures[i]], embeddings[i : i + 1], encode_ms, timeout_s)]


def _answers(
    pictures: list[DecodedPicture], plan: SearchPlan, embeddings: NDArray[np.float32], encode_ms: float
) -> list[dict[str, Any] | Searched]:
    locator = pictures[0].locator
    started = time.perf_counter()
    features = None
    if plan.prior_encoder is not None:
        prior_pixels = [picture.prior_pixels for picture in pictures if picture.prior_pixels is not None]
        features = _encoded(plan.prior_encoder, prior_pixels)
        encode_ms += _ms_since(started) / len(pictures)
    started = time.perf_counter()
    found = locator.searched(embeddings, plan, features)
    search_ms = _ms_since(started) / len(pictures)
    outcomes: list[dict[str, Any] | Searched] = []
    for picture, (answer, descent) in zip(pictures, found, strict=True):
        times = {"decode": picture.decode_ms, "encode": encode_ms, "search": search_ms}
        if descent is not None and plan.register != "off":
            outcomes.append(Searched(picture, answer, descent, times))
        else:
            outcomes.append(_answer_json(picture, answer, times, None, plan.unregistered))
    return outcomes


def _answer_json(
    picture: DecodedPicture,
    answer: Answer,
    times: dict[str, float],
    registration: Registration | None,
    reason: str | None = None,
) -> dict[str, Any]:
    """The contract's object. `reason`: why nothing was registered, None if nobody wanted it."""
    why = {} if reason is None else {"registration_reason": reason}
    registered = {"registration": None if registration is None else registration.to_json()} | why
    return answer.to_json() | registered | _notes(picture) | {"timing_ms": _rounded(**times)}


def _notes(picture: DecodedPicture) -> dict[str, list[str]]:
    """The answer's `notes`: how region and picture were read; absent if there is nothing to say."""
    constraint = picture.plan.constraint
    region = None if constraint is None else constraint.region
    notes = [*(() if region is None else region.notes), *picture.notes]
    return {"notes": notes} if notes else {}


def _encoded(encoder: EncodesPhotos, pixels: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Embeddings of prepared pictures, (n, d). Raises EncoderError if one is not finite: no fault of the picture."""
    embeddings = encoder.encode(np.stack(pixels))
    if not np.isfinite(embeddings).all():
        raise EncoderError(f"an embedding by {encoder.name} is not finite: the encoder failed on this picture")
    return embeddings


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _rounded(**stages: float) -> dict[str, float]:
    return {name: round(ms, 3) for name, ms in stages.items()}
