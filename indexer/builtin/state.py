"""Training state on disk: tensors as safetensors, the rest as JSON, replaced whole or not at all; no pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexer.errors import TrainingError
from retrieval.files import write_atomically


def save_state(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write `path` (safetensors; `notes` as JSON in its metadata) beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {k: v.detach().contiguous() for k, v in tensors.items()}
    write_atomically(path, lambda temporary: save_file(contiguous, str(temporary), {"notes": json.dumps(notes)}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote; TrainingError if the file is cut off or something else."""
    try:
        with safe_open(str(path), "pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
        return load_file(str(path)), notes
    except (OSError, SafetensorError, KeyError, ValueError) as exc:
        raise TrainingError(f"{path} is no training state ({exc}): delete it, and its stage begins anew") from exc


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's per-parameter tensors under `name.parameter.key`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{name}.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(name: str, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave; learning rates are set by the schedule each step."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        head, _, rest = full.partition(".")
        if head == name:
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
