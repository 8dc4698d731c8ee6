"""How the built-in model is made: one typed value, read from a committed JSON file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from indexer.builtin.styles import Style
from retrieval.encoders.preprocess import Preprocess
from tile_cache.bluemarble import PRODUCTS

__all__ = ["MapStage", "PhotoStage", "Recipe"]


@dataclass(frozen=True)
class PhotoStage:
    """Numbers of a stage that trains the photo tower."""

    steps: int
    batch: int = 128
    muon_lr: float = 0.02
    """Of the matrices of transformer blocks."""
    adam_lr: float = 1.5e-3
    """Of the tower's other parameters."""
    table_lr: float = 3e-3
    """Of the tables of tile vectors."""
    weight_decay: float = 0.02
    warmup: int = 200
    """Steps until the learning rates are reached."""
    save_every: int = 500
    """Steps between two saved states."""
    optimiser: str = "muon"
    """muon, or adam for the matrices, too."""


@dataclass(frozen=True)
class MapStage:
    """Numbers of the stage that trains map towers; `steps` by zoom."""

    steps: dict[int, int]
    batch: int = 192
    muon_lr: float = 0.01
    adam_lr: float = 1e-3
    query_share: float = 0.5
    """Weight of the query loss beside the cosine distance to the table."""
    blocks: int = 2
    """Last transformer blocks that are trained."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights except the machine: two runs on one machine agree, on two nearly so."""

    seed: int
    zooms: tuple[int, ...]
    context: dict[int, float]
    """Margin that a zoom's map tower sees, in tile widths."""
    land: float
    """Minimum share of land of a covered tile."""
    south: float
    """Degrees; centres and tiles lie north of it."""
    north: float
    footprint_km: tuple[float, float]
    turn: float
    """Degrees, to either side."""
    products: tuple[str, ...]
    architecture: dict[str, Any]
    preprocess: Preprocess
    style: Style
    ramp: int
    """Steps of the first stage over which styles grow from a quarter of their strength to all of it."""
    photo: PhotoStage
    maps: MapStage
    tune: PhotoStage
    map_queries: int
    """Pictures embedded for the map stage."""

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read and check a recipe. ValueError, KeyError or TypeError say what is wrong."""
        v = json.loads(path.read_text())
        maps = {**v["maps"], "steps": {int(z): n for z, n in v["maps"]["steps"].items()}}
        recipe = cls(
            seed=int(v["seed"]),
            zooms=tuple(v["zooms"]),
            context={int(z): float(c) for z, c in v["context"].items()},
            land=float(v["land"]),
            south=float(v["south"]),
            north=float(v["north"]),
            footprint_km=(float(v["footprint_km"][0]), float(v["footprint_km"][1])),
            turn=float(v["turn"]),
            products=tuple(v["products"]),
            architecture=v["architecture"],
            preprocess=Preprocess.from_json(v["preprocess"]),
            style=Style.from_json(v["style"]),
            ramp=int(v["ramp"]),
            photo=PhotoStage(**v["photo"]),
            maps=MapStage(**maps),
            tune=PhotoStage(**v["tune"]),
            map_queries=int(v["map_queries"]),
        )
        recipe._check()
        return recipe

    def _check(self) -> None:
        vision, size = self.architecture["vision_cfg"], self.preprocess.size
        for wrong, problem in (
            (list(self.zooms) != sorted(set(self.zooms)) or not self.zooms, f"zooms {self.zooms} must ascend"),
            (set(self.maps.steps) != set(self.zooms), f"maps.steps must name the zooms {self.zooms} and no others"),
            (not set(self.context) <= set(self.zooms), f"context names a zoom that is not in {self.zooms}"),
            (not self.products or not set(self.products) <= set(PRODUCTS), f"products must be of {list(PRODUCTS)}"),
            (vision["image_size"] != size, f"image_size {vision['image_size']} is not the preprocessing's {size}"),
            (size % vision["patch_size"] != 0, f"size {size} is not a multiple of patch_size {vision['patch_size']}"),
            (bool(self.architecture["quick_gelu"]), "quick_gelu is not supported here: make it false"),
            (self.map_queries < self.photo.batch, f"map_queries {self.map_queries} is less than photo.batch"),
        ):
            if wrong:
                raise ValueError(problem)

    def reduced(self, share: float, left_out: str | None = None) -> "Recipe":
        """This recipe with a share of the steps, and without one product, to measure on a product never seen."""
        if left_out is not None and left_out not in self.products:
            raise ValueError(f"the recipe has no product {left_out!r}; it has {', '.join(self.products)}")
        if self.products == (left_out,):
            raise ValueError(f"{left_out!r} is the recipe's only product: nothing would be left to train on")
        maps = replace(self.maps, steps={z: max(1, int(n * share)) for z, n in self.maps.steps.items()})
        return replace(
            self,
            products=tuple(p for p in self.products if p != left_out),
            ramp=int(self.ramp * share),
            photo=replace(self.photo, steps=int(self.photo.steps * share)),
            tune=replace(self.tune, steps=int(self.tune.steps * share)),
            maps=maps,
        )
