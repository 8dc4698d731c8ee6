"""One picture's registration, step by step: as it lies, then turned, then on all land; and what its answer becomes.

A step ends at the deadline with what it has. Between the steps the caller embeds and searches the picture's turns,
because the encoder may belong to another thread. This module knows no threads and queues, and no HTTP.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.index.evidence_numbers import RegistrationNumbers
from retrieval.locator import Locator, radius_shares
from retrieval.registrar import Registrar, acceptance_of
from retrieval.registration.canvases import EDGES_KM
from retrieval.registration.geometry import Frame
from retrieval.registration.registration import Candidate, Hints, Registration, Search
from retrieval.search.answer import Answer
from retrieval.search.beam import Descent
from retrieval.search.deadline import Deadline
from retrieval.search.evidence import Mixture, Registered, is_covered, mixed, outcome_of, why_outside
from retrieval.search.plan import SearchPlan

__all__ = ["TURNS", "Attempt", "Square", "hints_for", "shrunk", "turned_square"]

TURNS = (45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0)
"""Headings of the picture's top with which it is searched again, in degrees."""
_PER_TURN = 3
"""Places of a turned picture that become candidates."""
_NEAR_TURN = 22.5 + 1e-6
_LEAST_CONFIDENCE = 1e-6
_REACH = 1.12
"""How far a footprint may be from a scale that is searched."""
_LEAST_PX = 16
"""Pixels of the search's templates: a smaller picture would be compared by what enlarging it has made up."""


@dataclass(frozen=True, eq=False)
class Square:
    """A picture's central square, (s, s, 3) uint8, and what is known of the whole picture.

    `size`: of the upright picture, pixels. `turn`: EXIF's orientation of its file, 1 to 8.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    turn: int


class Attempt:
    """The registration of one picture that was searched with `plan`. For one thread at a time.

    `registration`: the best so far. `spent_s`: seconds of its steps, without what happened between them.
    """

    def __init__(
        self,
        locator: Locator,
        plan: SearchPlan,
        square: Square,
        answer: Answer,
        descent: Descent,
        registrar: Registrar,
        deadline: Deadline,
    ) -> None:
        self._locator, self._plan, self._square = locator, plan, square
        self._answer, self._descent, self._deadline = answer, descent, deadline
        self._numbers = plan.calibration.registration or RegistrationNumbers()
        self._acceptance = acceptance_of(plan.calibration)
        self._registrar, self.spent_s = registrar, 0.0
        hints = hints_for(plan.width_km, plan.heading, square.size)
        self._search: Search | None = None
        reason = hints if isinstance(hints, str) else "there was no time to search any place"
        self.registration = Registration(square.size, reason=reason)
        if isinstance(hints, Hints):
            self._search = Search(square.pixels, registrar.cache, hints)

    def search_upright(self) -> None:
        """Search around the answer and its alternatives: retrieval finds only pictures with about north up."""
        if self._search is not None and _is_near(0.0, self._plan.heading):
            self._near(_candidates([self._answer], 0.0, 1 + len(self._answer.alternatives)))

    @property
    def turns(self) -> tuple[float, ...]:
        """The headings with which to search the picture again; none if it is accepted or the time is over."""
        if self._is_done or self._deadline.is_over:
            return ()
        return tuple(turn for turn in TURNS if _is_near(turn, self._plan.heading))

    def search_turned(self, answers: Iterable[tuple[float, Answer]]) -> None:
        """Search around the answers for the turned picture, each with its heading."""
        candidates = [each for turn, answer in answers for each in _candidates([answer], turn, _PER_TURN)]
        if candidates and not self._is_done:
            self._near(candidates)

    def search_everywhere(self) -> None:
        """Search all land, if the reference knows where land is and there is time."""
        has_ground = self._registrar.has_ground
        if self._search is None or has_ground is None or self._is_done or self._deadline.is_over:
            return
        with self._counted():
            self._search.anywhere(has_ground, self._deadline)
            self.registration = self._search.result(self._acceptance)

    def answer(self) -> tuple[Answer, Registration]:
        """The answer after registration, and the registration, whose `reason` says why it does not count."""
        registration = replace(self.registration, size=self._square.size, turn=self._square.turn)
        levels, plan, frame = self._locator.index.levels, self._plan, registration.frame
        answer, is_registered = self._answer, False
        if registration.accepted and frame is not None:
            outside = why_outside(frame.lng, frame.lat, levels, plan.constraint)
            if outside is None:
                answer, is_registered = self._moved(frame, registration.probability), True
            else:
                reason = f"the picture fits at a place, but {outside}"
                registration = replace(registration, accepted=False, reason=reason)
                if not is_covered(frame.lng, frame.lat, levels):  # otherwise the caller knows better where it lies
                    mixture = Mixture.uncovered(self._descent, registration.probability)
                    answer = mixed(answer, mixture, levels, plan.constraint, radius_shares(plan, answer.calibrated))
        else:
            if not registration.finished:
                reason = f"{registration.reason}; the time was over before all places were searched"
                registration = replace(registration, reason=reason)
            mixture = Mixture.doubted(self._descent, _trust(self._numbers, answer, registration))
            shares = radius_shares(plan, answer.calibrated)
            answer = mixed(answer, mixture, levels, plan.constraint, shares)
        numbers = plan.calibration.outcome_numbers
        outcome = outcome_of(answer, numbers, is_registered=is_registered, is_doubted=not is_registered)
        alternatives = answer.alternatives[: plan.alternatives]
        return replace(answer, outcome=outcome, alternatives=alternatives), registration

    def _moved(self, frame: Frame, probability: float) -> Answer:
        """The answer at a registered place. It counts as calibrated only if registrations were part of the fit."""
        evidence = Registered(frame.lng, frame.lat, probability, frame.edge_km, self._numbers.errors)
        mixture = Mixture.accepted(self._descent, evidence)
        place = (frame.lng, frame.lat) if probability > 0.5 else None
        levels = self._locator.index.levels
        answer = mixed(self._answer, mixture, levels, self._plan.constraint, (0.5, 0.9), place)
        is_fitted = self._plan.calibration.registration is not None
        return replace(answer, calibrated=answer.calibrated and is_fitted)

    @property
    def _is_done(self) -> bool:
        return self._search is None or self.registration.accepted

    def _near(self, candidates: list[Candidate]) -> None:
        assert self._search is not None
        with self._counted():
            self._search.near(candidates, self._deadline)
            self.registration = self._search.result(self._acceptance)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - started


def _trust(numbers: RegistrationNumbers, answer: Answer, registration: Registration) -> float:
    """How far to believe retrieval's answer, 0 to 1, after a registration that was not accepted."""
    if numbers.trust is None:
        return 1.0
    features = registration.features
    figures = (0.0, 0.0, 0.0) if features is None else (features.score, features.margin, features.energy)
    return numbers.trust.trust(*figures, answer.levels[0].confidence, answer.elsewhere)


def hints_for(width_km: float | None, heading: float | None, size: tuple[int, int]) -> Hints | str:
    """What is known of the central square of a picture of this size, or why it cannot be searched."""
    if min(size) < _LEAST_PX:
        return f"the picture has {size[0]} x {size[1]} pixels: both edges need at least {_LEAST_PX}"
    if width_km is None:
        return Hints(heading=heading)
    edge_km = width_km * min(size) / size[0]
    low, high = EDGES_KM[0] / _REACH, EDGES_KM[-1] * _REACH
    if not low <= edge_km <= high:
        return f"the shorter edge would be {edge_km:,.0f} km, and {low:,.0f} to {high:,.0f} km can be searched"
    return Hints(width_km=edge_km, heading=heading)


def shrunk(pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """A square, (s, s, 3) uint8, with at most `edge` pixels an edge: turning a large one takes longer than encoding."""
    if pixels.shape[0] <= edge:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((edge, edge), Image.Resampling.BOX))


def turned_square(pixels: NDArray[np.uint8], heading: float) -> Image.Image:
    """The square with north up if the top of the picture points to `heading`, degrees clockwise of north.

    Corners that the picture does not show repeat its edge.
    """
    quarter, rest = divmod(heading, 90.0)
    upright = np.rot90(pixels, -int(quarter)) if quarter else pixels  # clockwise
    if not rest:
        return Image.fromarray(np.ascontiguousarray(upright))
    edge = upright.shape[0]
    margin = math.ceil(edge * (math.sqrt(2) - 1) / 2) + 1
    wide = Image.fromarray(np.pad(upright, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    turned = wide.rotate(-rest, Image.Resampling.BILINEAR)
    return turned.crop((margin, margin, margin + edge, margin + edge))


def _candidates(answers: Iterable[Answer], heading: float | None, count: int) -> list[Candidate]:
    """The places of answers, the first `count` of each."""
    found = []
    for answer in answers:
        places = [(answer.lng, answer.lat, answer.confidence)]
        places += [(other.lng, other.lat, other.confidence) for other in answer.alternatives]
        found += [
            Candidate(lng, lat, math.log(max(confidence, _LEAST_CONFIDENCE)), heading=heading)
            for lng, lat, confidence in places[:count]
        ]
    return found


def _is_near(turn: float, heading: float | None) -> bool:
    return heading is None or abs((turn - heading + 180) % 360 - 180) <= _NEAR_TURN
