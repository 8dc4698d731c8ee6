"""Records of `benchmarks.located`: one JSON object a picture, and what is right in them. Knows no pictures."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from retrieval.registration.accept import Acceptance, Features

__all__ = ["FEATURES", "Record", "accepted_stage", "features_of", "is_right", "read_records", "write_records"]

Record = dict[str, Any]
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
