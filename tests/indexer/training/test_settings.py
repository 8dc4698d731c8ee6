"""Training settings: the hierarchical-search paper's by default, checked before anything is loaded."""

import ast
import inspect
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest

from indexer.errors import TrainingError
from indexer.training import settings
from indexer.training.settings import TrainSettings


def test_defaults_are_those_of_the_hierarchical_search_paper() -> None:
    s = TrainSettings((4, 6, 8))
    assert (s.epochs, s.batch, s.validation_batch) == (5, 64, 128)
    assert (s.lr, s.blocks, s.patience, s.micro_batch, s.margin(4)) == (1e-4, 2, None, None, 0.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch": 1}, "nothing to tell its photo's tile apart from"),
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
def test_what_cannot_be_is_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        TrainSettings((4,), **wrong)


def test_what_decides_weights_is_the_runs_identity() -> None:
    """A field that is added is in it unless it is said not to matter."""
    s = TrainSettings((4, 6), context={4: 0.5, 6: 0.0})
    assert set(s.identity()) == {f.name for f in fields(s)} - {"micro_batch", "save_every", "log_every", "patience"}
    assert s.identity()["context"] == {"4": 0.5}
    assert TrainSettings((4, 6), micro_batch=8, patience=1).identity() == TrainSettings((4, 6)).identity()


def test_every_field_is_documented() -> None:
    body = ast.parse(inspect.getsource(settings)).body
    made = next(node for node in body if isinstance(node, ast.ClassDef)).body
    for node, after in pairwise(made):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(node)


def test_a_mistake_is_answered_without_torch() -> None:
    code = "import sys, indexer.training.settings; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
