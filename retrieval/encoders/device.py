"""Where encoders compute, and with what precision. Knows nothing of indexes."""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import EncoderError

__all__ = ["MIN_COSINE", "resolve_device", "use_half"]

MIN_COSINE = 0.999
"""Half precision is used if every test picture's embedding has at least this cosine with its float32 embedding."""
_HALF_DTYPES = (torch.float16, torch.bfloat16)
_log = logging.getLogger("tilebeam.retrieval")


class TorchEncoder(EncodesPhotos, Protocol):
    """A photo encoder that can compute in another dtype: None for float32."""

    autocast: torch.dtype | None


def resolve_device(device: str) -> torch.device:
    """Resolve `auto`, `cpu` or `cuda` (with an optional number) to a device of this machine, or raise EncoderError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EncoderError(f"device {device!r}: torch {torch.__version__} sees no GPU; use auto or cpu")
    try:
        return torch.device(device)
    except RuntimeError as exc:
        raise EncoderError(f"unknown device {device!r}: use auto, cpu or cuda") from exc


def use_half(encoder: TorchEncoder, dtypes: Sequence[torch.dtype] = _HALF_DTYPES) -> torch.dtype | None:
    """Let `encoder` compute in the first of `dtypes` that keeps its embeddings; in float32 if none does.

    Returns the chosen dtype, or None. fp16 is tried first because it rounds eight times finer than bf16; bf16 does not
    overflow where fp16 does.
    """
    pictures = np.stack([encoder.prepare(picture) for picture in _test_pictures()])
    exact = encoder.encode(pictures)
    for dtype in dtypes:
        encoder.autocast = dtype
        cosine = _min_cosine(encoder.encode(pictures), exact)
        _log.info("%s in %s: cosines from %.6f", encoder.name, dtype, cosine)
        if cosine >= MIN_COSINE:
            return dtype
    encoder.autocast = None
    return None


def _min_cosine(embeddings: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """The smallest cosine of two rows; -1 if a value is not finite."""
    return float(np.nan_to_num((embeddings * exact).sum(axis=1), nan=-1.0, posinf=-1.0, neginf=-1.0).min())


def _test_pictures() -> list[Image.Image]:
    """Random patches from coarse to fine, blurred, with noise: similar statistics to photographs."""
    rng, pictures = np.random.default_rng(0), []
    for side in (2, 3, 5, 8, 13, 21, 34, 55):
        patches = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels = np.asarray(patches.resize((320, 240), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += rng.integers(-12, 13, pixels.shape, dtype=np.int16)
        pictures.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return pictures
