"""Records of `benchmarks.located`: one JSON object a picture, and what is right in them. Knows no pictures."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.registration.accept import Acceptance, Features
from retrieval.sphere import great_circle_km
from tile_cache.addressing import tile_at

__all__ = [
    "FEATURES",
    "Record",
    "accepted_stage",
    "features_of",
    "figures_of",
    "has_answer",
    "is_right",
    "read_records",
    "write_records",
]

Record = dict[str, Any]
NOWHERE_KM = 20_000.0
FEATURES = tuple(field.name for field in fields(Features))


def read_records(path: Path) -> list[Record]:
    """Records that `write_records` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_records(path: Path, records: list[Record]) -> None:
    """A line of JSON for each."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def has_answer(record: Record) -> bool:
    """Whether a registration can be right: the picture has a place, and the reference shows it."""
    return bool(record["has_place"] and record["set"] != "removed")


def is_right(record: Record, km: float) -> bool:
    """Whether a place so far from the truth is right: within a quarter of the footprint."""
    return has_answer(record) and km < record["truth"]["edge_km"] / 4


def figures_of(answer: Record, truth: Record | None) -> Record:
    """What an answer is worth: km from the truth, its 90% circle, each zoom's confidence and whether it is right.

    `truth`: `lng` and `lat` in degrees; None for a picture of no place, 20,000 km from every answer.
    """
    levels, km = {}, NOWHERE_KM
    if truth is not None:
        places = (answer["lon"], answer["lat"], truth["lng"], truth["lat"])
        km = float(great_circle_km(*(np.float64(v) for v in places)))  # type: ignore[arg-type]
    for level in answer["levels"]:
        place = None if truth is None else tile_at(truth["lng"], truth["lat"], level["zoom"])
        right = place is not None and (level["tile"]["x"], level["tile"]["y"]) == (place.x, place.y)
        levels[str(level["zoom"])] = [level["confidence"], right]
    radius_km = answer["radius_km"]["90"]
    return {"km": km, "levels": levels, "elsewhere": answer["elsewhere"], "radius_90_km": radius_km}


def features_of(fit: dict[str, Any]) -> Features:
    """What the acceptance looks at."""
    return Features(*(fit[name] for name in FEATURES))


def accepted_stage(record: Record, acceptance: Acceptance) -> Record | None:
    """The first stage whose best fit is accepted; None if there is none."""
    for stage in record["stages"]:
        fit = stage["fit"]
        if fit is not None and acceptance.probability(features_of(fit)) >= acceptance.threshold:
            return dict(stage)
    return None
