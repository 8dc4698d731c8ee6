"""What a picture's answer is worth, from its record and the numbers to judge it with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.support.located_records import Record, accepted_stage, features_of, is_right
from retrieval.registration.accept import Acceptance

__all__ = ["Answered", "answered"]


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


def answered(record: Record, acceptance: Acceptance) -> Answered:
    """Retrieval's answer, or the place of the first stage that is accepted."""
    stage, last, retrieval = accepted_stage(record, acceptance), record["stages"][-1]["fit"], record["retrieval"]
    return Answered(
        record,
        None if stage is None else stage["name"],
        retrieval["km"] if stage is None else stage["fit"]["km"],
        added_ms(record, stage),
        0.0 if last is None else acceptance.probability(features_of(last)),
        retrieval["levels"],
        retrieval["elsewhere"],
        retrieval["radius_90_km"],
        "uncertain" if stage is None else "located",
    )


def added_ms(record: Record, stage: Record | None) -> float:
    """The CPU time that registration adds up to a stage, the turned pictures' embeddings included."""
    spent = 0.0
    for each in record["stages"]:
        spent += each["cpu_ms"] + (record["retrieval"]["turned_cpu_ms"] if each["name"] == "turned" else 0.0)
        if stage is not None and each["name"] == stage["name"]:
            break
    return spent
