"""timm's image models as photo encoders. The only module that imports timm.

A `timm:` encoder sees 224 pixels (or the fixed size of its model) with ImageNet's normalisation, as in the
geoembeddings paper, regardless of its pretraining. Like all preprocessing, this is stored with the encoder.
"""

from pathlib import Path
from typing import Any

from retrieval.encoders.architecture import check_timm_name, shapes_of
from retrieval.encoders.hub import NO_DOWNLOAD, is_offline
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.encoders.preprocess import MAX_SIZE, Preprocess
from retrieval.encoders.weights import check_shapes, read_config, read_tensors
from retrieval.errors import EncoderError, EncoderMismatchError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "TIMM", "load_image_encoder", "load_listed_encoder"]

TIMM = "timm:"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONFIG, _WEIGHTS = "photo.json", "photo.safetensors"
_SCRATCH = "scratch"
_SIZE = 224


def load_image_encoder(spec: str, *, device: str = "auto") -> PhotoEncoder:
    """Load any photo encoder, by any spec of `PhotoEncoder.load` or one of timm's.

    `timm:NAME`: pretrained weights, from the hub or its cache; `timm:NAME:FILE`: a safetensors checkpoint of the model;
    `timm:NAME:scratch`: seeded random weights; or a directory that a `timm:` encoder's `save` wrote. Raises
    EncoderError.
    """
    if spec.startswith(TIMM):
        name, _, weights = spec.removeprefix(TIMM).partition(":")
        return _from_timm(spec, name, weights, device)
    config = Path(spec) / _CONFIG
    if config.is_file():
        keys = ("name", "architecture", "preprocess", "fingerprint")
        saved = read_config(config, "photo-encoder", keys)
        if isinstance(saved["architecture"], dict) and "timm" in saved["architecture"]:
            return _from_directory(Path(spec), saved, device)
    return PhotoEncoder.load(spec, device=device)


def load_listed_encoder(spec: str, *, device: str = "auto") -> PhotoEncoder:
    """Load the encoder that a prior names: what `PhotoEncoder.load_listed` takes, or timm:NAME.

    Raises EncoderError for any other spec, such as a path. Whether weights may be fetched is for the caller to say
    (`retrieval.encoders.hub.hub_access`).
    """
    if not spec.startswith(TIMM):
        return PhotoEncoder.load_listed(spec, device=device)
    name, _, weights = spec.removeprefix(TIMM).partition(":")
    if weights not in ("", _SCRATCH):
        raise EncoderError(
            f"a prior names the encoder {spec!r:.120}, a file that it does not hold: train the prior again"
        )
    return _from_timm(spec, name, weights, device)


def _from_timm(spec: str, name: str, weights: str, device: str) -> PhotoEncoder:
    file = Path(weights) if weights and weights != _SCRATCH else None
    tower = _build(name, pretrained=not weights)
    if file is not None:
        _assign(tower, file)
    shown = f"{TIMM}{name}:{file.name}" if file is not None else spec
    encoder = _encoder(shown, name, tower, device)
    encoder.spec, encoder.local = spec, bool(weights)
    return encoder


def _from_directory(directory: Path, saved: dict[str, Any], device: str) -> PhotoEncoder:
    name = saved["architecture"]["timm"]
    check_timm_name(name)
    shapes = shapes_of(lambda: _build(name, pretrained=False), f"the encoder in {directory}")
    check_shapes(directory / _WEIGHTS, shapes, may_have_more=True)
    tower = _build(name, pretrained=False)
    _assign(tower, directory / _WEIGHTS)
    encoder = _encoder(str(saved["name"]), name, tower, device)
    if encoder.fingerprint != saved["fingerprint"]:
        raise EncoderMismatchError(f"{directory / _WEIGHTS} is not the file that {_CONFIG} describes: copy both again")
    encoder.spec, encoder.local = str(directory), True
    return encoder


def _build(name: str, *, pretrained: bool) -> Any:
    """A timm model without its classifier: one pooled row per picture."""
    import timm
    import torch

    check_timm_name(name)
    if pretrained:
        _check_cached(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as exc:  # timm, the hub client and torch raise many types
        if pretrained and is_offline():
            raise EncoderError(f"cannot load timm:{name} ({exc}): {NO_DOWNLOAD}") from exc
        raise EncoderError(
            f"cannot load timm:{name} ({exc}). Give timm:{name}:FILE.safetensors where the hub cannot be reached"
        ) from exc


def _check_cached(name: str) -> None:
    """Raise EncoderError for weights that timm would fetch from another place than the hub, if nothing may be."""
    import timm
    import torch

    config = timm.get_pretrained_cfg(name)
    if not is_offline() or config is None or config.hf_hub_id or not config.url:
        return
    file = Path(config.url if isinstance(config.url, str) else config.url[1]).name
    if not (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file():
        raise EncoderError(f"the weights of timm:{name} are not on this machine: {NO_DOWNLOAD}")


def _encoder(shown: str, name: str, tower: Any, device: str) -> PhotoEncoder:
    fixed = tower.default_cfg.get("fixed_input_size", False)
    size = min(MAX_SIZE, int(tower.default_cfg["input_size"][-1])) if fixed else _SIZE
    return PhotoEncoder(shown, tower, Preprocess(size, IMAGENET_MEAN, IMAGENET_STD), {"timm": name}, device)


def _assign(tower: Any, path: Path) -> None:
    """Load weights from a safetensors file; the file's classifier, which the tower lacks, is ignored."""
    tensors = {k: v.float() for k, v in read_tensors(path).items()}
    wanted = tower.state_dict()
    weights = {k: tensors[k].to(v.dtype) for k, v in wanted.items() if k in tensors}
    if missing := sorted(set(wanted) - set(weights)):
        raise EncoderMismatchError(f"{path} lacks {missing[0]} and {len(missing) - 1} more of {len(wanted)} weights")
    try:
        tower.load_state_dict(weights)
    except RuntimeError as exc:
        raise EncoderMismatchError(f"{path} does not hold this model's weights: {exc}") from exc
