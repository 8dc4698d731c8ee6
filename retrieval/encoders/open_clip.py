"""Encoders made of open_clip's image towers. The only module that imports open_clip.

`PhotoEncoder` is any open_clip image tower: given by model and pretrained tag, `hf-hub:` name, local checkpoint, or a
directory that `save` wrote. `MapEncoders` are the same tower with, per zoom, the few layers that training changed, read
from small safetensors files; the other layers are shared in memory. Weights load with `weights_only`; no pickle is
read. This module knows nothing of tiles, indexes or HTTP.
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from retrieval.encoders.architecture import check_architecture, check_context, shapes_of
from retrieval.encoders.device import resolve_device
from retrieval.encoders.hub import NO_DOWNLOAD, is_offline
from retrieval.encoders.preprocess import Preprocess
from retrieval.encoders.threads import limited_threads, threads_for_single
from retrieval.encoders.towers import assign, embed, run, share_trunk
from retrieval.encoders.weights import FORMAT, check_shapes, digest, read_config, read_tensors, write_tensors
from retrieval.errors import EncoderError, EncoderMismatchError, damage_as
from retrieval.files import is_inside, write_json

Tower = Any
"""An open_clip image tower: a torch module whose attributes have no type annotations."""

_PHOTO_FILE, _PHOTO_CONFIG, _MAP_CONFIG = "photo.safetensors", "photo.json", "maps.json"
_TIMM_IS_FOR_GEOCELLS = (
    "encoders of timm are for `geocells train`, `grid` and `baseline`; an index and map encoders need a CLIP tower: "
    "use builtin, MODEL:TAG, MODEL:FILE, hf-hub:ORG/NAME or a directory that `tilebeam train` wrote"
)
_HUB_NAME = re.compile(r"hf-hub:[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_DEFAULT_TAGS = {"ViT-B-32": "openai", "ViT-B-16": "openai", "ViT-L-14": "openai"}


class PhotoEncoder:
    """An open_clip image tower with its preprocessing; satisfies EncodesPhotos."""

    def __init__(
        self,
        name: str,
        tower: nn.Module,
        preprocess: Preprocess,
        architecture: dict[str, Any] | None,
        device: str = "auto",
    ) -> None:
        self.name, self.preprocess, self.architecture = name, preprocess, architecture
        self.device = resolve_device(device)
        self.spec, self.local = name, False
        self.autocast: torch.dtype | None = None  # what `encode` computes in; see `retrieval.encoders.device.use_half`
        self._single_threads: int | None = None  # None: as many threads as for a batch
        tower = tower.float().eval().requires_grad_(False)
        self.fingerprint = digest(
            {"architecture": architecture, "preprocess": preprocess.to_json()}, tower.state_dict()
        )
        self.tower = tower.to(self.device)
        self.batch_size = 128 if preprocess.size <= 96 else 32
        with torch.inference_mode(), damage_as(EncoderError, f"the encoder {name}", "use another, or copy it again"):
            blank = torch.zeros(1, 3, preprocess.size, preprocess.size, device=self.device)
            self.dim = int(embed(self.tower, blank).shape[-1])

    @classmethod
    def load(cls, spec: str, *, device: str = "auto") -> "PhotoEncoder":
        """Load an encoder by its spec: `builtin`, a saved directory, MODEL:TAG, MODEL:FILE or hf-hub:ORG/NAME.

        Raises EncoderError with the specs that would work.
        """
        if spec.startswith("timm:"):
            raise EncoderError(f"{spec}: {_TIMM_IS_FOR_GEOCELLS}")
        if spec == "builtin":
            encoder = cls._from_directory(builtin_directory(), device)
            encoder.spec, encoder.local = "builtin", False
        elif (Path(spec) / _PHOTO_CONFIG).is_file():
            encoder = cls._from_directory(Path(spec), device)
            encoder.spec, encoder.local = spec, True
        else:
            encoder = cls._from_open_clip(spec, device)
        return encoder

    @classmethod
    def load_listed(cls, spec: str, *, device: str = "auto") -> "PhotoEncoder":
        """Load the encoder that an index names: `builtin`, MODEL:TAG of open_clip, or hf-hub:ORG/NAME.

        Raises EncoderError for any other spec, such as a path: what an index needs of files lies in the index. Whether
        weights may be fetched is for the caller to say (`retrieval.encoders.hub.hub_access`).
        """
        if spec == "builtin":
            return cls.load(spec, device=device)
        if not _HUB_NAME.fullmatch(spec) and not _is_tag(spec):
            raise EncoderError(
                f"the photo encoder {spec!r:.120} that the index names is neither builtin, MODEL:TAG of open_clip nor "
                "hf-hub:ORG/NAME, and the index does not hold it: build it again"
            )
        return cls._from_open_clip(spec, device)

    @classmethod
    def _from_directory(cls, directory: Path, device: str) -> "PhotoEncoder":
        keys = ("name", "architecture", "preprocess", "fingerprint")
        config = read_config(directory / _PHOTO_CONFIG, "photo-encoder", keys)
        if isinstance(config["architecture"], dict) and "timm" in config["architecture"]:
            raise EncoderError(f"{directory} holds an encoder of timm: {_TIMM_IS_FOR_GEOCELLS}")
        preprocess, architecture = Preprocess.from_json(config["preprocess"]), config["architecture"]
        check_architecture(architecture, preprocess)
        shapes = shapes_of(lambda: build_tower(architecture), f"the encoder in {directory}")
        check_shapes(directory / _PHOTO_FILE, shapes)
        tower = build_tower(architecture)
        assign(tower, read_tensors(directory / _PHOTO_FILE), directory / _PHOTO_FILE)
        encoder = cls(str(config["name"]), tower, preprocess, architecture, device)
        if config["fingerprint"] != encoder.fingerprint:
            raise EncoderMismatchError(
                f"{directory / _PHOTO_FILE} is not the file that {_PHOTO_CONFIG} describes "
                f"(fingerprint {encoder.fingerprint[:12]}, not {str(config['fingerprint'])[:12]}): copy both again"
            )
        return encoder

    @classmethod
    def _from_open_clip(cls, spec: str, device: str) -> "PhotoEncoder":
        import open_clip

        model_name, weights = (spec, None) if spec.startswith("hf-hub:") else _split(spec)
        known = None if weights is None else _known_config(model_name, weights)
        try:
            _check_cached(model_name, weights)
            model = open_clip.create_model(
                model_name,
                weights,
                device="cpu",
                force_quick_gelu=bool(known and known["quick_gelu"]),
                pretrained_text=False,
                require_pretrained=True,
            )
        except Exception as exc:  # open_clip, the hub client and torch raise many types
            way_out = f"Weights that are not on this machine are needed: {NO_DOWNLOAD}. " if is_offline() else ""
            raise EncoderError(
                f"cannot load the encoder {spec!r}: {exc}. {way_out}{_ways_out(model_name, weights)}"
            ) from exc
        preprocess = _preprocess_of(open_clip.get_model_preprocess_cfg(model))
        local = weights is not None and Path(weights).is_file()
        # The service shows the name to its users, so it must not contain a local path.
        name = f"{model_name}:{Path(str(weights)).name}" if local else spec
        encoder = cls(name, model.visual, preprocess, known, device)
        encoder.spec, encoder.local = spec, local
        return encoder

    @property
    def min_edge(self) -> int:
        """Twice the input size: the final resize then hides how the decoder scaled."""
        return 2 * self.preprocess.size

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Preprocess an RGB picture of any size to (3, size, size) float32; thread-safe."""
        return self.preprocess.picture(image)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed prepared pictures: (n, 3, size, size) float32 to (n, dim) float32 unit rows."""
        size = self.preprocess.size
        if batch.ndim != 4 or batch.shape[1:] != (3, size, size):
            raise EncoderError(f"{self.name} needs pictures of shape (n, 3, {size}, {size}), got {batch.shape}")
        rows = torch.from_numpy(batch).to(self.device)
        with limited_threads(self._single_threads if len(batch) == 1 else None):
            return run(self.tower, rows, self.dim, self.autocast)

    def tune_for_single(self) -> None:
        """Measure the best thread count for single pictures on a CPU, and use it from now on.

        Call it in the thread that will encode; see `retrieval.encoders.threads`.
        """
        if self.device.type == "cpu":
            blank = torch.zeros(1, 3, self.preprocess.size, self.preprocess.size)
            self._single_threads = threads_for_single(
                self.fingerprint, lambda: run(self.tower, blank, self.dim, self.autocast)
            )

    def save(self, directory: Path) -> None:
        """Write photo.json and photo.safetensors (fp16 if lossless), which `load(str(directory))` reads."""
        if self.architecture is None:
            raise EncoderError(f"{self.name} has no known architecture and cannot be saved: use its hub name instead")
        directory.mkdir(parents=True, exist_ok=True)
        write_tensors(directory / _PHOTO_FILE, self.tower.state_dict())
        config = {"format": FORMAT, "kind": "photo-encoder", "name": self.name, "architecture": self.architecture}
        config |= {"preprocess": self.preprocess.to_json(), "fingerprint": self.fingerprint}
        write_json(directory / _PHOTO_CONFIG, config)

    def describe(self) -> dict[str, Any]:
        """The description for a manifest: enough to load the encoder again and to check that it is the same."""
        return {
            "name": self.name,
            "spec": self.spec,
            "fingerprint": self.fingerprint,
            "dim": self.dim,
            "preprocess": self.preprocess.to_json(),
        }


class MapEncoders:
    """Map towers per zoom that share a photo encoder's trunk; satisfies EncodesTiles."""

    def __init__(
        self, photo: PhotoEncoder, layers: Mapping[int, Mapping[str, Tensor]], contexts: Mapping[int, float]
    ) -> None:
        self.photo, self.dim, self.input_size = photo, photo.dim, photo.preprocess.size
        self.batch_size, self.zooms = photo.batch_size, tuple(sorted(layers))
        self._contexts = dict(contexts)
        self._digests = {z: digest({"zoom": z}, tensors) for z, tensors in layers.items()}
        self._towers = share_trunk(photo.tower, {z: layers[z] for z in self.zooms})

    @classmethod
    def load(cls, directory: Path | None, photo: PhotoEncoder) -> "MapEncoders":
        """Load from a directory that `save_layers` wrote.

        None: the built-in layers for the built-in photo encoder; for others, no layers. A zoom without layers is
        encoded by the photo tower itself, without margin.
        """
        if directory is None:
            if photo.spec != "builtin":
                return cls(photo, {}, {})
            directory = builtin_directory()
        config = read_config(directory / _MAP_CONFIG, "map-encoders", ("photo", "zooms"))
        if config["photo"] != photo.fingerprint:
            raise EncoderMismatchError(
                f"the map encoders in {directory} were trained from a photo encoder with fingerprint "
                f"{str(config['photo'])[:12]}, but {photo.name} has {photo.fingerprint[:12]}: use the photo encoder "
                "that they were trained from"
            )
        try:
            files = {int(z): directory / _file_name(entry["file"]) for z, entry in config["zooms"].items()}
            contexts = {int(z): check_context(int(z), entry["context"]) for z, entry in config["zooms"].items()}
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as exc:
            raise EncoderError(
                f"{directory / _MAP_CONFIG} does not describe map encoders ({exc!r:.200}): copy it again"
            ) from exc
        return cls(photo, {z: read_tensors(path) for z, path in files.items()}, contexts)

    def context(self, zoom: int) -> float:
        """The margin around a tile that this zoom's encoder sees, in tile widths; 0 for a zoom without layers."""
        return self._contexts.get(zoom, 0.0)

    def fingerprint(self, zoom: int) -> str:
        """Digest of the photo tower, this zoom's layers and its context; independent of device and dtype."""
        return digest(
            {"photo": self.photo.fingerprint, "layers": self._digests.get(zoom), "context": self.context(zoom)}, {}
        )

    def encode(self, zoom: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed composed tiles: (n, s, s, 3) uint8 RGB to (n, dim) float32 unit rows."""
        size = self.input_size
        if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3) or pixels.dtype != np.uint8:
            raise EncoderError(
                f"the map encoders need uint8 tiles of shape (n, {size}, {size}, 3), got {pixels.dtype} {pixels.shape}"
            )
        batch = torch.from_numpy(self.photo.preprocess.pixels(pixels)).to(self.photo.device)
        return run(self._towers.get(zoom, self.photo.tower), batch, self.dim)


def save_layers(
    directory: Path, photo: PhotoEncoder, layers: Mapping[int, Mapping[str, Tensor]], contexts: Mapping[int, float]
) -> None:
    """Write maps.json and, per zoom, the layers that differ from the photo tower's, with the tower's names."""
    directory.mkdir(parents=True, exist_ok=True)
    zooms = {}
    for z in sorted(layers):
        write_tensors(directory / f"z{z:02d}.safetensors", layers[z])
        zooms[str(z)] = {"file": f"z{z:02d}.safetensors", "context": contexts.get(z, 0.0)}
    config = {"format": FORMAT, "kind": "map-encoders", "photo": photo.fingerprint, "zooms": zooms}
    write_json(directory / _MAP_CONFIG, config)


def trained_layers(tower: Tower, blocks: int = 2) -> list[str]:
    """The layers of a ViT that the hierarchical-search paper trains: last blocks, final norm and projection."""
    count = len(tower.transformer.resblocks)
    prefixes = tuple(f"transformer.resblocks.{i}." for i in range(count - blocks, count))
    return [k for k in tower.state_dict() if k.startswith((*prefixes, "ln_post.")) or k == "proj"]


def builtin_directory() -> Path:
    """The directory of the built-in Earth's encoders."""
    return Path(str(resources.files("indexer.builtin").joinpath("encoders.json"))).parent


def build_tower(architecture: dict[str, Any]) -> Tower:
    """An image tower with fresh weights; `architecture` has embed_dim, vision_cfg and quick_gelu. Fetches nothing.

    Raises EncoderError for values out of bounds.
    """
    check_architecture(architecture)
    # `_build_vision_tower` is private; the version of open_clip is pinned.
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    try:
        vision = CLIPVisionCfg(**architecture["vision_cfg"] | {"timm_model_pretrained": False})
        tower = _build_vision_tower(architecture["embed_dim"], vision, architecture["quick_gelu"])
    except Exception as exc:  # open_clip and timm raise many types
        raise EncoderError(f"open_clip cannot build the architecture {architecture!r:.300} ({exc})") from exc
    return tower


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or not is_inside(name):
        raise ValueError(f"{name!r:.100} is no file of the directory")
    return name


def _is_tag(spec: str) -> bool:
    """Whether a spec is a model of open_clip with one of its tags."""
    import open_clip

    model, tag = _split(spec)
    return model in open_clip.list_models() and tag in open_clip.list_pretrained_tags_by_model(model)


def _check_cached(model: str, weights: str | None) -> None:
    """Raise FileNotFoundError for a tag whose weights open_clip would fetch from another place than the hub."""
    import open_clip

    tag = None if weights is None else open_clip.get_pretrained_cfg(model, weights)
    if tag and not tag.get("hf_hub") and is_offline():
        raise FileNotFoundError(f"the weights {weights} are not on the hub, and nothing may be downloaded")


def _split(spec: str) -> tuple[str, str]:
    model, _, weights = spec.partition(":")
    return model, weights or _DEFAULT_TAGS.get(model, "")


def _known_config(model: str, weights: str) -> dict[str, Any]:
    """open_clip's configuration of a model, with the activation that its weights were trained with."""
    import open_clip

    config = open_clip.get_model_config(model.replace("/", "-"))
    if config is None and model and Path(model).is_dir():
        raise EncoderError(f"{model} is a directory without {_PHOTO_CONFIG}: `tilebeam train` and an index write one")
    if config is None:
        raise EncoderError(f"open_clip has no model {model!r}. {_ways_out(model, weights)}")
    if not weights:
        raise EncoderError(f"the encoder {model!r} is given without weights. {_ways_out(model, weights)}")
    tag = open_clip.get_pretrained_cfg(model, weights) or {}
    quick = bool(config.get("quick_gelu", False) or tag.get("quick_gelu", False))
    return {"embed_dim": config["embed_dim"], "vision_cfg": config["vision_cfg"], "quick_gelu": quick}


def _ways_out(model: str, weights: str | None) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    tried = f" ({weights!r} is neither a tag of it nor a file here)" if weights else ""
    known = f"tags of {model}: {', '.join(tags)}{tried}" if tags else "models: see open_clip.list_models()"
    return f"Give builtin, MODEL:TAG, MODEL:/path/to/checkpoint, hf-hub:ORG/NAME or a directory; {known}"


def _preprocess_of(config: Mapping[str, Any]) -> Preprocess:
    sizes = {config["size"]} if isinstance(config["size"], int) else set(config["size"])
    if len(sizes) != 1:
        raise EncoderError(f"the model needs pictures of {config['size']} pixels, but only square input is supported")
    values: dict[str, Any] = {"size": sizes.pop(), "mean": config["mean"], "std": config["std"]}
    # `random` is for training; open_clip uses bicubic for inference then.
    values["interpolation"] = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    values["resize"] = config.get("resize_mode") or "shortest"
    return Preprocess.from_json(values)
