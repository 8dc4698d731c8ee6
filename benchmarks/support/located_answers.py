"""What a picture's answer is worth, from its record and the numbers of a calibration to judge it with.

The answer is made again by the code that the product uses, from the stored embedding and the stored fits.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.support.located_records import Record, accepted_stage, features_of, figures_of, is_right
from retrieval.attempt import Attempt, Square
from retrieval.index.evidence_numbers import RegistrationNumbers
from retrieval.locator import Locator
from retrieval.registrar import Registrar, acceptance_of
from retrieval.registration.accept import Features
from retrieval.registration.fields import Layer
from retrieval.registration.geometry import Frame
from retrieval.registration.result import Registration
from retrieval.search.deadline import NO_DEADLINE
from retrieval.search.query import LocateQuery

__all__ = ["Answered", "Judge", "added_ms"]

_SIZE = 256, 256


@dataclass(frozen=True)
class Answered:
    """A record's answer: of which stage (None: retrieval's), km from the truth, and what it says of itself.

    `levels`: by zoom, the confidence and whether it is right. `cpu_ms`: what turns and registration added to retrieval
    until a stage was accepted. `last_probability`: of the last stage's fit.
    """

    record: Record
    stage: str | None
    km: float
    cpu_ms: float
    last_probability: float
    levels: Mapping[str, Sequence[float]]
    elsewhere: float
    radius_90_km: float | None
    outcome: str

    @property
    def is_right(self) -> bool:
        """Whether the registered place is right: within a quarter of the footprint."""
        return self.stage is not None and is_right(self.record, self.km)

    @property
    def is_inside(self) -> bool:
        """Whether the true place lies in the 90% circle."""
        return bool(self.record["has_place"] and self.radius_90_km is not None and self.km <= self.radius_90_km)


class _NoGround:
    """The reference of a registrar that nothing is registered with."""

    identity = "none"

    def layers(self, lng: object, lat: object, pixel_km: float) -> list[Layer]:
        """Never called."""
        raise AssertionError


class Judge:
    """Makes answers from records with an open index."""

    def __init__(self, locator: Locator) -> None:
        self._locator, self._registrar = locator, Registrar(_NoGround())

    def answered(self, record: Record, numbers: RegistrationNumbers | None) -> Answered:
        """The answer as these numbers have it; None: as a calibration without any has it."""
        plan = self._locator.plan(LocateQuery(register="off"))
        calibration = replace(plan.calibration, registration=numbers)
        plan, acceptance = replace(plan, calibration=calibration, register="on"), acceptance_of(calibration)
        embedding = np.frombuffer(base64.b64decode(record["embedding"]), dtype=np.float32)
        [(answer, descent)] = self._locator.searched(embedding[None], plan)
        assert descent is not None
        stage, last = accepted_stage(record, acceptance), record["stages"][-1]
        square = Square(np.zeros((1, 1, 3), np.uint8), _SIZE, 1)
        attempt = Attempt(self._locator, plan, square, answer, descent, self._registrar, NO_DEADLINE)
        attempt.registration = _registration(stage or last, acceptance.probability, stage is not None)
        answer, registration = attempt.answer()
        figures = figures_of(answer.to_json(), record["truth"] if record["has_place"] else None)
        return Answered(
            record,
            stage["name"] if stage is not None and registration.accepted else None,
            figures["km"],
            added_ms(record, stage),
            0.0 if last["fit"] is None else acceptance.probability(features_of(last["fit"])),
            figures["levels"],
            figures["elsewhere"],
            figures["radius_90_km"],
            answer.outcome,
        )


def added_ms(record: Record, stage: Record | None) -> float:
    """The CPU time that registration adds up to a stage, the turned pictures' embeddings included."""
    spent = 0.0
    for each in record["stages"]:
        spent += each["cpu_ms"] + (record["retrieval"]["turned_cpu_ms"] if each["name"] == "turned" else 0.0)
        if stage is not None and each["name"] == stage["name"]:
            break
    return spent


def _registration(stage: Record, probability: Callable[[Features], float], accepted: bool) -> Registration:
    """The registration that a stage ended with."""
    fit = stage["fit"]
    if fit is None:
        return Registration(_SIZE, reason="nothing fits")
    frame = Frame.upright(fit["lng"], fit["lat"], fit["edge_km"], fit["heading"])
    features = features_of(fit)
    return Registration(_SIZE, accepted, probability(features), frame, features, fit["method"])
