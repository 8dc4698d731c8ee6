"""How the built-in model is made, as one typed value read from a committed JSON file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from indexer.builtin.map_stage import MapStage
from indexer.builtin.photo_stage import PhotoStage
from indexer.builtin.styles import Style
from retrieval.encoders.preprocess import Preprocess
from tile_cache.bluemarble import PRODUCTS


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights but the machine: two runs on one machine agree, others nearly so."""

    seed: int
    zooms: tuple[int, ...]
    context: dict[int, float]  # margin that a zoom's map tower sees, in tile widths
    land: float  # least share of land of a covered tile
    south: float  # degrees; centres and tiles lie north of it
    north: float
    footprint_km: tuple[float, float]
    turn: float  # degrees
    products: tuple[str, ...]
    architecture: dict[str, Any]
    preprocess: Preprocess
    style: Style
    ramp: int  # steps of the first stage over which styles grow from a quarter to all of their strength
    photo: PhotoStage
    maps: MapStage
    tune: PhotoStage
    map_queries: int  # pictures embedded for the map stage

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a recipe; ValueError, KeyError or TypeError name what it lacks, before an hour was spent on it."""
        v = json.loads(path.read_text())
        maps = {**v["maps"], "steps": {int(z): n for z, n in v["maps"]["steps"].items()}}
        made = cls(
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
        made._check()
        return made

    def _check(self) -> None:
        vision, size = self.architecture["vision_cfg"], self.preprocess.size
        for wrong, problem in (
            (list(self.zooms) != sorted(set(self.zooms)) or not self.zooms, f"zooms {self.zooms} must ascend"),
            (set(self.maps.steps) != set(self.zooms), f"maps.steps must name the zooms {self.zooms} and no others"),
            (not set(self.context) <= set(self.zooms), f"context names a zoom that is none of {self.zooms}"),
            (not self.products or not set(self.products) <= set(PRODUCTS), f"products must be of {list(PRODUCTS)}"),
            (vision["image_size"] != size, f"image_size {vision['image_size']} is not the preprocessing's {size}"),
            (size % vision["patch_size"] != 0, f"size {size} is no multiple of patch_size {vision['patch_size']}"),
            (bool(self.architecture["quick_gelu"]), "quick_gelu is not trained here: make it false"),
            (self.map_queries < self.photo.batch, f"map_queries {self.map_queries} is less than photo.batch"),
        ):
            if wrong:
                raise ValueError(problem)

    def reduced(self, share: float, left_out: str | None = None) -> "Recipe":
        """At a share of the budget, and without one product: for an honest figure on a rendition never seen."""
        if left_out is not None and left_out not in self.products:
            raise ValueError(f"the recipe has no product {left_out!r}; it has {', '.join(self.products)}")
        if self.products == (left_out,):
            raise ValueError(f"{left_out!r} is the recipe's only product: nothing would be left to learn from")
        maps = replace(self.maps, steps={z: max(1, int(n * share)) for z, n in self.maps.steps.items()})
        return replace(
            self,
            products=tuple(p for p in self.products if p != left_out),
            ramp=int(self.ramp * share),
            photo=replace(self.photo, steps=int(self.photo.steps * share)),
            tune=replace(self.tune, steps=int(self.tune.steps * share)),
            maps=maps,
        )
