"""ViT-B/32 with seeded random weights on disk, and its embeddings computed by open_clip alone."""

import copy
from pathlib import Path

import numpy as np
import open_clip
import torch
from brute_force import TileKey
from PIL import Image
from torch.nn import functional
from world import HOLE_14, HOLES, ZOOMS, covered, imagery, labels, leaves_under

from retrieval.encoders.open_clip import PhotoEncoder, save_layers, trained_layers

MARGINS = {14: 0.5}
SIZE = 224
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


class Towers:
    """The same weights twice: in `folder` for the program, and in memory for the test's own computation."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(16)
        model = _random_clip()
        self.checkpoint = folder / "vit-b-32.pt"
        torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, self.checkpoint)
        self.visual = model.visual.eval()
        self.maps = folder / "maps"
        self.layers = {z: _changed(self.visual) for z in ZOOMS}
        save_layers(self.maps, PhotoEncoder.load(self.spec, device="cpu"), self.layers, MARGINS)

    @property
    def spec(self) -> str:
        return f"ViT-B-32:{self.checkpoint}"

    def photo(self, image: Image.Image) -> np.ndarray:
        """A photo's embedding, (512,) float64, with open_clip's own preprocessing."""
        prepared = open_clip.image_transform(SIZE, is_train=False, mean=MEAN, std=STD)(image)
        return _rows(self.visual, prepared[None])[0].astype(np.float64)

    def vectors(self) -> dict[TileKey, np.ndarray | None]:
        """Every covered tile's vector as an fp16 index stores it; None: no imagery and no children."""
        found: dict[TileKey, np.ndarray | None] = dict.fromkeys(HOLES)
        for z in ZOOMS:
            tower = copy.deepcopy(self.visual)
            tower.load_state_dict(tower.state_dict() | {n: t.float() for n, t in self.layers[z].items()})
            tiles = [t for t in covered() if t[0] == z and t not in HOLES]
            pixels = np.stack([framed(t, MARGINS.get(z, 0.0)) for t in tiles])
            values = (pixels / 255 - np.array(MEAN)) / np.array(STD)
            rows = _rows(tower, torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2))
            found |= dict(zip(tiles, rows.astype(np.float16).astype(np.float64), strict=True))
        mean = np.sum([found[t] for t in leaves_under(HOLE_14)], axis=0)
        return found | {HOLE_14: (mean / np.linalg.norm(mean)).astype(np.float16).astype(np.float64)}


def framed(tile: TileKey, margin: float) -> np.ndarray:
    """The input of the zoom's encoder, (224, 224, 3) float64; with a margin, the middle of a 3 x 3 mosaic."""
    if not margin:
        return blended(tile, SIZE)
    z, x, y = tile
    side = round(SIZE / (1 + 2 * margin))
    near = [[blended((z, x + i, y + j), side) for i in (-1, 0, 1)] for j in (-1, 0, 1)]
    mosaic = np.concatenate([np.concatenate(row, axis=1) for row in near])
    start = side - round(margin * side)
    return mosaic[start : start + SIZE, start : start + SIZE]


def blended(tile: TileKey, side: int) -> np.ndarray:
    """Imagery with labels on top, (side, side, 3) float64 from 0 to 255."""
    base, top = imagery(tile).resize((side, side), Image.Resampling.BICUBIC), labels(tile)
    if top is None:
        return np.asarray(base, dtype=np.float64)
    over = np.asarray(top.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    alpha = over[..., 3:] / 255
    return np.asarray((over[..., :3] * alpha + np.asarray(base, dtype=np.float64) * (1 - alpha)).round())


def _random_clip() -> torch.nn.Module:
    """Sharper attention than open_clip's initialisation, so that embeddings differ by more than a few degrees."""
    model = open_clip.create_model("ViT-B-32")
    with torch.no_grad():
        for block in model.visual.transformer.resblocks:
            block.attn.in_proj_weight.mul_(2)
        for tensor in model.parameters():
            tensor.copy_(tensor.half())  # so that an fp16 file is exact
    return model


def _changed(visual: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The last two blocks, the final norm and the projection, with noise of a tenth of each tensor's size."""
    state = visual.state_dict()
    kept = {name: state[name] for name in trained_layers(visual)}
    return {n: (t + 0.1 * t.square().mean().sqrt() * torch.randn_like(t)).half() for n, t in kept.items()}


def _rows(tower: torch.nn.Module, batch: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return functional.normalize(tower(batch), dim=-1).numpy()
