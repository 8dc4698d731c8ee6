"""Training settings: the hierarchical-search paper's by default, checked before anything is loaded."""

import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest

from indexer.errors import TrainingError
from indexer.fields import field_docs
from indexer.training.settings import TrainRequest, TrainSettings


def test_defaults_are_those_of_the_hierarchical_search_paper() -> None:
    s = TrainSettings((4, 6, 8))
    assert (s.epochs, s.batch, s.validation_batch) == (5, 64, 128)
    assert (s.lr, s.blocks, s.patience, s.micro_batch, s.margin(4)) == (1e-4, 2, None, None, 0.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch": 1}, "a photo's tile is compared"),
        ({"batch": 0}, "--batch 0"),
        ({"epochs": 0}, "--epochs 0"),
        ({"micro_batch": 0}, "--micro-batch 0"),
        ({"patience": 0}, "--patience 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"context": {5: 0.1}}, "--context names zoom 5"),
        ({"context": {4: -1.0}}, "--context 4=-1.0"),
    ],
)
def test_invalid_values_are_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        TrainSettings((4,), **wrong)


def test_identity_has_every_field_that_decides_weights() -> None:
    """A new field is part of the identity unless it is excluded by name."""
    s = TrainSettings((4, 6), context={4: 0.5, 6: 0.0})
    assert set(s.identity()) == {f.name for f in fields(s)} - {"micro_batch", "save_every", "log_every", "patience"}
    assert s.identity()["context"] == {"4": 0.5}
    assert TrainSettings((4, 6), micro_batch=8, patience=1).identity() == TrainSettings((4, 6)).identity()


@pytest.mark.parametrize("cls", [TrainSettings, TrainRequest])
def test_every_field_is_documented(cls: type) -> None:
    assert set(field_docs(cls)) == {f.name for f in fields(cls)}


def test_settings_do_not_import_torch() -> None:
    code = "import sys, indexer.training.settings; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
