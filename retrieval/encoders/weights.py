"""Encoders on disk: weights as safetensors, a JSON file that describes them, and the digest that identifies them.

Files are written atomically, and no pickle is read. This module knows names and tensors, and nothing of models.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from retrieval.errors import EncoderError, EncoderMismatchError
from retrieval.files import read_json, write_atomically

FORMAT = 1


def digest(facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of facts and float32 weights in name order; equal for fp16 and fp32 files of the same numbers."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors by name; raises EncoderError, with the format found, for a missing or other file."""
    if not path.is_file():
        raise EncoderError(f"there is no file {path}: name a safetensors file of weights")
    try:
        return dict(load_file(str(path)))
    except (OSError, SafetensorError) as exc:
        raise EncoderError(f"{path} is not a usable safetensors file: {_what_is_wrong(path, exc)}") from exc


def check_shapes(path: Path, shapes: Mapping[str, Sequence[int]], *, may_have_more: bool = False) -> None:
    """Compare a safetensors file's header with the tensors that a model needs; reads no tensor.

    Raises EncoderError as `read_tensors`, and EncoderMismatchError, which names the first difference.
    `may_have_more`: tensors that the model does not need are ignored.
    """
    if not path.is_file():
        raise EncoderError(f"there is no file {path}: name a safetensors file of weights")
    try:
        with safe_open(str(path), framework="numpy") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as exc:
        raise EncoderError(f"{path} is not a usable safetensors file: {_what_is_wrong(path, exc)}") from exc
    if missing := sorted(set(shapes) - set(stored)):
        raise EncoderMismatchError(f"{path} lacks {missing[0]} and {len(missing) - 1} more of {len(shapes)} weights")
    for name, shape in stored.items():
        if name not in shapes and not may_have_more:
            raise EncoderMismatchError(
                f"{path} does not hold the weights of the architecture beside it: it has {name!r:.80} too"
            )
        if name in shapes and shape != tuple(shapes[name]):
            raise EncoderMismatchError(
                f"{path} does not hold the weights of the architecture beside it: {name} has shape {shape}, "
                f"{tuple(shapes[name])} is needed"
            )


def _what_is_wrong(path: Path, error: Exception) -> str:
    """What a file is instead of safetensors, by its first bytes, and the way out."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
    except OSError as exc:
        return f"{exc.strerror}"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return (
            "it is a PyTorch checkpoint (pickle), which can run code when it is read. If you trust it, convert it: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull`"
    if head.lstrip()[:1] in (b"<", b"{"):
        return "it is text, perhaps a web page that was saved in its place: download it again"
    return f"{error}. It is cut off or of another format: copy it again"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors: all in fp16 if that is lossless, else unchanged."""
    stored = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    if all(torch.equal(v.half().float(), v.float()) for v in stored.values()):
        stored = {k: v.half() for k, v in stored.items()}
    write_atomically(path, lambda temporary: _save(temporary, stored))


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, str(path))
    path.chmod(0o644)  # safetensors makes files private, but a service reads an index as another user


def read_config(path: Path, kind: str, keys: Sequence[str]) -> dict[str, Any]:
    """Read a description file of a `kind` that has at least `keys`; raises EncoderError for any other file."""
    try:
        config: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as exc:
        raise EncoderError(f"{path} cannot be read as the description of {kind} ({exc}): copy it again") from exc
    if not isinstance(config, dict) or config.get("kind") != kind or config.get("format") != FORMAT:
        raise EncoderError(f"{path} is not a {kind} description of format {FORMAT}: copy it again")
    if missing := [key for key in keys if key not in config]:
        raise EncoderError(f"{path} lacks {', '.join(missing)}: copy it again")
    return config
