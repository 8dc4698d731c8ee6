"""What the description of an encoder may ask for, checked before anything is allocated.

A description may come from anyone, with an index. Its numbers must be within bounds, its model of timm must be one that
timm registers by name (never a repository, an address or a path), and the tensors that it needs, counted without
memory, must be those of the file of weights beside it: a few bytes of JSON cannot ask for gigabytes. This module builds
no tower for use and reads no files.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from retrieval.encoders.preprocess import MAX_SIZE, Preprocess
from retrieval.errors import EncoderError, damage_as
from tile_cache.addressing import MAX_ZOOM

__all__ = ["MAX_PARAMETERS", "check_architecture", "check_context", "check_timm_name", "shapes_of"]

MAX_PARAMETERS = 5_000_000_000
"""Numbers in an encoder that is read from a directory: 20 GB in memory. The largest CLIP tower has 4.4 billion."""

_MAX_DIM = 16_384
_MAX_CONTEXT = 64
_MAX_PATCHES = 4096
_MAX_ACTIVATION = 1 << 25
"""Numbers of one layer's output for one picture: 134 MB. The widest known tower needs half of that."""
_MAX_ATTENTION = 1 << 28
"""Heads times the square of the number of patches."""
_TIMM_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,99}(\.[a-z0-9_]{1,60})?")

_Rule = Callable[[Any], bool]


def _whole(least: int, most: int) -> _Rule:
    return lambda value: type(value) is int and least <= value <= most


def _number(least: float, most: float) -> _Rule:
    return lambda value: type(value) in (int, float) and least <= value <= most


def _one_of(*values: Any) -> _Rule:
    return lambda value: isinstance(value, type(values[0])) and value in values


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9_]{0,20}", value) is not None


def _layers(value: Any) -> bool:
    if isinstance(value, list | tuple):  # of a ResNet
        return len(value) == 4 and all(map(_whole(1, 64), value))
    return _whole(1, 128)(value)


def _settings(value: Any) -> bool:
    """Keyword arguments of a norm or an activation."""
    return (
        isinstance(value, dict)
        and len(value) <= 8
        and all(isinstance(v, bool) or _number(-1e6, 1e6)(v) or _word(v) for v in value.values())
    )


def _or_none(rule: _Rule) -> _Rule:
    return lambda value: value is None or rule(value)


_FLAGS = (
    *("no_ln_pre", "final_ln_after_pool", "output_tokens", "qk_norm", "scaled_cosine_attn", "scale_heads"),
    *("scale_attn_inner", "scale_attn", "scale_fc", "timm_proj_bias", "timm_model_pretrained"),
)
_RULES: dict[str, _Rule] = {
    "layers": _layers,
    "width": _whole(1, 8192),
    "head_width": _whole(1, 8192),
    "mlp_ratio": _number(0.01, 16),
    "patch_size": _or_none(_whole(1, MAX_SIZE)),
    "image_size": _whole(1, MAX_SIZE),
    "ls_init_value": _or_none(_number(-1e6, 1e6)),
    "patch_dropout": _number(0, 1),
    "attentional_pool": lambda value: _flag(value) or _word(value),
    "attn_pooler_queries": _whole(1, _MAX_PATCHES),
    "attn_pooler_heads": _whole(1, 256),
    "pos_embed_type": _word,
    "pool_type": _word,
    "block_type": _or_none(_word),
    "act_kwargs": _or_none(_settings),
    "norm_kwargs": _or_none(_settings),
    "timm_model_name": _or_none(lambda value: isinstance(value, str)),
    "timm_pool": _word,
    "timm_proj": _or_none(_word),
    "timm_drop": _number(0, 1),
    "timm_drop_path": _or_none(_number(0, 1)),
    **dict.fromkeys(_FLAGS, _flag),
}
_DEFAULTS: dict[str, Any] = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}


def check_architecture(architecture: Any, preprocess: Preprocess | None = None) -> None:
    """Raise EncoderError, naming the value, for an architecture of open_clip that is out of bounds.

    `architecture`: `embed_dim`, `vision_cfg` and `quick_gelu`; `preprocess`: what makes its input, if that is known.
    """
    vision = architecture.get("vision_cfg") if isinstance(architecture, dict) else None
    if not isinstance(vision, dict):
        raise EncoderError(f"{architecture!r:.200} is not an architecture of open_clip: copy the encoder again")
    _check("embed_dim", architecture.get("embed_dim"), _whole(1, _MAX_DIM))
    _check("quick_gelu", architecture.get("quick_gelu"), _flag)
    for name, value in vision.items():
        if name not in _RULES:
            raise EncoderError(f"open_clip's image towers have no setting {name!r:.60}: copy the encoder again")
        _check(name, value, _RULES[name])
    if vision.get("timm_model_name") is not None:
        check_timm_name(vision["timm_model_name"])
    else:
        _check_work({**_DEFAULTS, "image_size": 224, **vision}, preprocess)


def check_context(zoom: int, context: Any) -> float:
    """A map encoder's margin in tile widths; raises ValueError for a zoom or margin that no map has."""
    if not 0 <= zoom <= MAX_ZOOM or not _number(0, _MAX_CONTEXT)(context):
        raise ValueError(f"zoom {zoom} with a margin of {context!r:.40}: 0 to {_MAX_CONTEXT} tile widths are allowed")
    return float(context)


def check_timm_name(name: Any) -> None:
    """Raise EncoderError for anything but the name of a model that timm registers, with or without a tag."""
    import timm

    if not isinstance(name, str) or not _TIMM_NAME.fullmatch(name):
        raise EncoderError(
            f"{name!r:.100} is not the name of a model of timm: an encoder that is read from files names one by its "
            "registered name, not by a repository, an address or a path; copy the encoder again"
        )
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "listed by timm.list_models()"
        raise EncoderError(f"timm has no model {name!r}: similar names are {similar}")


def shapes_of(build: Callable[[], nn.Module], what: str) -> Mapping[str, torch.Size]:
    """The shapes of the tensors of a tower's state, by name, without memory for their numbers.

    `build`: makes the tower. Raises EncoderError if it cannot, or if the tower has more than MAX_PARAMETERS numbers;
    `what` names it.
    """
    with damage_as(EncoderError, what, "copy the encoder again"), torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    count = sum(shape.numel() for shape in shapes.values())
    if count > MAX_PARAMETERS:
        raise EncoderError(
            f"{what} has {count:,} parameters, at most {MAX_PARAMETERS:,} are allowed: use a smaller encoder"
        )
    return shapes


def _check(name: str, value: Any, rule: _Rule) -> None:
    if not rule(value):
        raise EncoderError(f"an encoder's {name} is {value!r:.60}, which is out of bounds: copy the encoder again")


def _check_work(vision: Mapping[str, Any], preprocess: Preprocess | None) -> None:
    """Raise EncoderError if one picture would take too much memory, or has another size than the tower's input."""
    size, width = vision["image_size"], vision["width"]
    if preprocess is not None and preprocess.size != size:
        raise EncoderError(
            f"the encoder's pictures have {preprocess.size} pixels along an edge, its tower takes {size}: "
            "copy the encoder again"
        )
    if isinstance(vision["layers"], int):
        if vision["patch_size"] is None:
            raise EncoderError("an encoder's patch_size is None: copy the encoder again")
        patches = (size // vision["patch_size"]) ** 2
        heads = width // vision["head_width"]
        activation = patches * width * max(1.0, vision["mlp_ratio"])
    else:
        patches, heads, activation = 1, 1, width * (size / 2) ** 2
    if not 1 <= patches <= _MAX_PATCHES or activation > _MAX_ACTIVATION or heads * patches**2 > _MAX_ATTENTION:
        raise EncoderError(
            f"a picture of {size} pixels along an edge is too large for a tower of width {width} with "
            f"{patches:,} patches: copy the encoder again"
        )
