"""`tilebeam train --preset builtin`: the built-in Earth's encoders, from nothing but what dependencies install.

Three stages, each resumable: the photo tower against learned tables of tiles; per zoom, the map tower's last layers
against those tables; then the photo tower's last layers against the map towers' vectors. The first layers stay as the
first stage left them, because the map towers share them.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.build.area import Area, coverage_of
from indexer.build.compose import Composer
from indexer.build.coverage import Coverage
from indexer.builtin.map_stage import Queries, train_map_tower, trunk_activations
from indexer.builtin.photo_stage import Batch, Pyramid, Tables, train_photo_tower
from indexer.builtin.pictures import to_pixels
from indexer.builtin.recipe import Recipe
from indexer.builtin.styles import Stylist
from indexer.builtin.tower import forward
from indexer.builtin.views import Centres, Earth, draw_views
from indexer.errors import TrainingError
from indexer.learning.state import load_state, save_state
from indexer.learning.trunk import SplitTower
from retrieval.encoders.open_clip import PhotoEncoder, Tower, build_tower, save_layers, trained_layers
from tile_cache.addressing import tile_of_code
from tile_cache.bluemarble import BlueMarble

__all__ = ["BuiltinTraining", "builtin_coverage"]

Log = Callable[[dict[str, Any]], None]


def builtin_coverage(recipe: Recipe) -> Coverage:
    """The tiles of the built-in Earth: the same that `tilebeam index --source bluemarble --world` covers."""
    return coverage_of(Area(land=recipe.land), recipe.zooms, BlueMarble())


class BuiltinTraining:
    """One run in one folder. Finished stages are read from it, so a killed run resumes where it was."""

    def __init__(self, recipe: Recipe, folder: Path, log: Log) -> None:
        self.recipe, self.folder, self.log = recipe, folder, log
        coverage = builtin_coverage(recipe)
        self.pyramid = Pyramid.from_codes({z: np.concatenate(list(coverage.chunks(z))) for z in recipe.zooms})
        self.centres = Centres(recipe.south, recipe.north, recipe.zooms[-1], recipe.land)
        self.stylist = Stylist(Earth(recipe.products), recipe.style)

    def run(self) -> Path:
        """Run all stages; returns the directory of encoders, which `tilebeam index` takes."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        tower = build_tower(recipe.architecture)
        tables = Tables(self.pyramid, recipe.architecture["embed_dim"])
        state, log = self.folder / "photo.state", self._stage_log("photo")
        train_photo_tower(tower, tables, self.batches(1, recipe.ramp), recipe.photo, state, log)
        tower.requires_grad_(False)
        layers, vectors = self._map_towers(tower, tables)
        tuned = self._tune(tower, tables, vectors)
        return self._write(tuned, layers)

    def batches(self, stream: int, ramp: int = 0) -> Callable[[int], Batch]:
        """Styled queries as a function of the step. Each stage has its own `stream`; styles grow over `ramp` steps."""

        def draw(step: int) -> Batch:
            recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, stream, step])
            views = draw_views(self.centres, recipe.photo.batch, recipe.footprint_km, recipe.turn, rng)
            share = min(1.0, 0.25 + 0.75 * step / ramp) if ramp else 1.0
            # Rounded to 8 bits and preprocessed, as a user's picture is.
            pixels = to_pixels(self.stylist.draw(views, recipe.preprocess.size, rng, share))
            return torch.from_numpy(recipe.preprocess.pixels(pixels)), self.pyramid.classes(views.lng, views.lat)

        return draw

    def _map_towers(self, tower: Tower, tables: Tables) -> tuple[dict[int, dict[str, Tensor]], dict[int, Tensor]]:
        """Layers and tiles' vectors of all zooms, trained or read."""
        layers: dict[int, dict[str, Tensor]] = {}
        vectors: dict[int, Tensor] = {}
        queries: tuple[Tensor, dict[int, NDArray[np.int64]]] | None = None
        for z in self.recipe.zooms:
            path = self.folder / f"map-z{z:02d}.state"
            if not path.exists():
                queries = queries or self._embedded_queries(tower)
                covered = Queries.covered(queries[0], queries[1][z])
                zoom_layers, zoom_vectors = self._map_tower(tower, tables, z, covered)
                save_state(path, zoom_layers | {"vectors": zoom_vectors}, {"zoom": z})
            tensors, _ = load_state(path)
            if len(tensors.get("vectors", ())) != len(self.pyramid.codes[z]):
                raise TrainingError(f"{path} is the state of a run over other tiles: choose another --out or delete it")
            vectors[z] = tensors.pop("vectors")
            layers[z] = tensors
        return layers, vectors

    def _map_tower(self, tower: Tower, tables: Tables, z: int, queries: Queries) -> tuple[dict[str, Tensor], Tensor]:
        with torch.no_grad():
            targets, scale = tables.vectors()[z], float(tables.scale(z))
        pixels = self._tiles(z)

        def tiles(first: int, last: int) -> Tensor:
            return torch.from_numpy(self.recipe.preprocess.pixels(pixels[first:last]))

        split = SplitTower(tower, self.recipe.maps.blocks)
        activations = trunk_activations(split, tiles, len(pixels))
        log = self._stage_log("maps")
        return train_map_tower(split, activations, targets, scale, queries, self.recipe.maps, z, log)

    def _tiles(self, z: int) -> NDArray[np.uint8]:
        """The covered tiles of a zoom as its map tower sees them, (n, s, s, 3) uint8, by the index build's composer."""
        composer = Composer(BlueMarble(), None, self.recipe.preprocess.size, self.recipe.context.get(z, 0.0))
        composed = [composer.compose(tile_of_code(int(code), z)).pixels for code in self.pyramid.codes[z]]
        return np.stack([p for p in composed if p is not None])

    def _embedded_queries(self, tower: Tower) -> tuple[Tensor, dict[int, NDArray[np.int64]]]:
        draw, count = self.batches(2), self.recipe.map_queries // self.recipe.photo.batch
        embeddings, rows = [], []
        with torch.no_grad():
            for step in range(count):
                pictures, batch_rows = draw(step)
                embeddings.append(forward(tower, pictures))
                rows.append(batch_rows)
        return torch.cat(embeddings), {z: np.concatenate([r[z] for r in rows]) for z in self.pyramid.zooms}

    def _tune(self, tower: Tower, tables: Tables, vectors: dict[int, Tensor]) -> Tower:
        """Train the photo tower's last layers against the map towers' vectors; the other layers stay frozen."""
        tuned, fixed = copy.deepcopy(tower), _FixedTables(self.pyramid, vectors, tables)
        names = set(trained_layers(tuned, self.recipe.maps.blocks))
        for name, parameter in tuned.named_parameters():
            parameter.requires_grad_(name in names)
        state, log = self.folder / "tune.state", self._stage_log("tune")
        train_photo_tower(tuned, fixed, self.batches(3), self.recipe.tune, state, log)
        return tuned

    def _write(self, tower: Tower, layers: dict[int, dict[str, Tensor]]) -> Path:
        out = self.folder / "encoders"
        for parameter in tower.parameters():
            parameter.data = parameter.data.half().float()  # the fingerprint is that of the stored fp16 weights
        photo = PhotoEncoder("tilebeam-builtin", tower, self.recipe.preprocess, self.recipe.architecture, "cpu")
        photo.save(out)
        save_layers(out, photo, layers, self.recipe.context)
        return out

    def _stage_log(self, stage: str) -> Log:
        """A log that appends to log.jsonl and passes entries on."""

        def log(entry: dict[str, Any]) -> None:
            line = {"stage": stage, **{k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}}
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.log(line)

        return log


class _FixedTables(Tables):
    """Tables with fixed vectors, those of the map towers, and learned scales."""

    def __init__(self, pyramid: Pyramid, vectors: dict[int, Tensor], tables: Tables) -> None:
        super().__init__(pyramid, next(iter(vectors.values())).shape[1])
        self.rows = nn.ParameterDict()
        self._vectors = vectors
        self.log_scale.load_state_dict(tables.log_scale.state_dict())

    def vectors(self) -> dict[int, Tensor]:
        return self._vectors
