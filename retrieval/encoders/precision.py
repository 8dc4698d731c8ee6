"""Half precision for a photo encoder, if its embeddings stay what they are. Knows nothing of indexes."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from retrieval.encoders.open_clip import PhotoEncoder

LEAST_COSINE = 0.999
"""Between an embedding in half precision and the same in float32."""
_KINDS = (torch.float16, torch.bfloat16)
_log = logging.getLogger("tilebeam.retrieval")


def use_half(encoder: PhotoEncoder, kinds: Sequence[torch.dtype] = _KINDS) -> torch.dtype | None:
    """Let `encoder.encode` compute in the first of `kinds` that keeps the cosine on drawn pictures, else as before.

    Returns what was taken. fp16 comes first, as it rounds eight times finer; where it overflows, bf16 does not.
    """
    pictures = np.stack([encoder.prepare(picture) for picture in _pictures()])
    exact = encoder.encode(pictures)
    for kind in kinds:
        encoder.autocast = kind
        least = _least_cosine(encoder.encode(pictures), exact)
        _log.info("%s in %s: cosines from %.6f", encoder.name, kind, least)
        if least >= LEAST_COSINE:
            return kind
    encoder.autocast = None
    return None


def _least_cosine(some: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """The least over the rows, -1 where something is not finite."""
    return float(np.nan_to_num((some * exact).sum(axis=1), nan=-1.0, posinf=-1.0, neginf=-1.0).min())


def _pictures() -> list[Image.Image]:
    """Patches from coarse to fine, blurred, with grain: a little of what photographs have."""
    rng, found = np.random.default_rng(0), []
    for side in (2, 3, 5, 8, 13, 21, 34, 55):
        patches = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels = np.asarray(patches.resize((320, 240), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += rng.integers(-12, 13, pixels.shape, dtype=np.int16)
        found.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return found
