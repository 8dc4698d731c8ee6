"""Training state on disk: tensors in a safetensors file, with notes as JSON in its header. No pickle.

A file is replaced atomically. It does not know what the tensors mean.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexer.errors import TrainingError
from retrieval.files import write_atomically

__all__ = ["load_state", "optimiser_tensors", "restore_optimiser", "save_state", "with_prefix", "without_prefix"]


def save_state(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors and notes (JSON values) to `path`. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(plain, str(temporary), {"notes": json.dumps(notes)}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote. Raises TrainingError if the file is truncated or of another kind."""
    try:
        with safe_open(str(path), "pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
        return load_file(str(path)), notes
    except (OSError, SafetensorError, KeyError, ValueError) as exc:
        raise TrainingError(f"{path} is not a training state ({exc}): delete it to start this stage again") from exc


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's tensors, named `name.PARAMETER.KEY`; PARAMETER is the parameter's number."""
    state = optimiser.state_dict()["state"]
    return {
        f"{name}.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimiser_tensors` returned. Learning rates stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in without_prefix(f"{name}.", tensors).items():
        index, _, key = full.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, with `prefix` before every name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
