"""Stand-ins for GeoCLIP's encoders in tests: a fast location encoder, and a tiny seeded CLIP backbone."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tile_cache.addressing import LngLat


class SeededPlaces:
    """A location encoder of smooth random features of the unit sphere. `asked` counts the encoded places."""

    logit_scale = 12.0

    def __init__(self, seed: int = 0, frequency: float = 20.0, dim: int = 24) -> None:
        self.dim = dim
        rng = np.random.default_rng(seed)
        self._waves, self._phases = rng.normal(0, frequency, (3, dim)), rng.uniform(0, 6.28, dim)
        self.fingerprint = f"{seed:060x}{dim:04x}"
        self.asked = 0

    def encode(self, lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
        self.asked += len(lat)
        up, round_ = np.radians(lat), np.radians(lng)
        at = np.stack([np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up)], axis=1)
        rows = np.cos(at @ self._waves + self._phases)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class FeaturesOfPlaces:
    """An image encoder that reads x and y of a tile of zoom 8 from red and green, and encodes the tile's centre."""

    name, batch_size, min_edge = "stand-in", 4, None

    def __init__(self, places: SeededPlaces) -> None:
        self._places, self.dim, self.fingerprint = places, places.dim, "f" * 64

    def prepare(self, image: Image.Image) -> np.ndarray:
        x, y, _ = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
        return np.array([x, y, 0], dtype=np.float32).reshape(3, 1, 1)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        x, y = batch[:, 0, 0, 0].astype(np.float64), batch[:, 1, 0, 0].astype(np.float64)
        lat = np.degrees(2 * np.arctan(np.exp(2 * np.pi * (0.5 - (y + 0.5) / 256))) - np.pi / 2)
        return self._places.encode(lat, 360 * (x + 0.5) / 256 - 180)


def picture_of(place: LngLat) -> Image.Image:
    """A picture that `FeaturesOfPlaces` encodes as this place."""
    y = 128 - 128 / np.pi * np.arctanh(np.sin(np.radians(place.lat)))
    return Image.new("RGB", (8, 8), (int((place.lng + 180) / 360 * 256), int(y), 0))


def photos_around(places: list[LngLat], each: int, seed: int = 0) -> np.ndarray:
    """A gallery: (n, 2) latitudes and longitudes, scattered by half a degree around some places."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.array([p.lat, p.lng]) + rng.normal(0, 0.5, (each, 2)) for p in places])


def tiny_clip(folder: Path, features: int = 768) -> Path:
    """A checkpoint in transformers' format, both towers, with random weights: 32 pixels, one layer, `features` out."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=features,
        text_config=tower | {"projection_dim": features, "vocab_size": 64},
        vision_config=tower | {"projection_dim": features, "image_size": 32, "patch_size": 16},
    )
    CLIPModel(config).save_pretrained(folder)
    preprocess = {
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": {"shortest_edge": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocess))
    return folder
