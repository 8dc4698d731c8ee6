"""The last step of the built-in preset: index the Earth with the trained encoders, and calibrate the index."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from indexer.build.build import build_index
from indexer.build.request import BuildRequest
from indexer.builtin.pictures import embed_pictures, embed_views, nowhere_pictures, sea_views
from indexer.builtin.recipe import Recipe
from indexer.builtin.styles import Style, Stylist
from indexer.builtin.views import Centres, Earth, draw_views
from indexer.calibration.elsewhere import OutOfScope
from indexer.calibration.fit import fit_all
from indexer.photos.embed import KnownPictures, joined
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.files import write_json
from retrieval.index.reader import TileIndex

K = 64
_SEED = 77
"""Seed of the pictures for calibration; no training stage and no test set uses it."""
_CLEAN, _STYLED, _SEA, _NOWHERE, _SIZE = 4000, 4000, 300, 300, 120


def calibrate(recipe: Recipe, encoders: Path, index_dir: Path) -> dict[str, Any]:
    """Build the index at `index_dir`, and write its calibration there and beside the encoders; returns its numbers."""
    build_index(
        BuildRequest(
            source="bluemarble",
            out=index_dir,
            zooms=recipe.zooms,
            photo_encoder=str(encoders),
            map_encoders=encoders,
            overwrite=True,
        )
    )
    index = TileIndex.open(index_dir)
    encoder = PhotoEncoder.load(str(encoders), device="cpu")
    fitted = fit_all(index, _pictures(recipe, encoder), _out_of_scope(recipe, encoder), K)
    fitted.write(encoders)
    fitted.write(index_dir)
    return {str(z): asdict(n) for z, n in fitted.zooms.items()}


def _pictures(recipe: Recipe, encoder: PhotoEncoder) -> KnownPictures:
    """Views of land, clean and in styles of half their strength."""
    rng = np.random.default_rng([_SEED, recipe.seed])
    earth, centres = Earth(recipe.products), Centres(recipe.south, recipe.north, recipe.zooms[-1], recipe.land)
    parts = []
    for count, style in ((_CLEAN, Style()), (_STYLED, recipe.style.scaled(0.5))):
        views = draw_views(centres, count, recipe.footprint_km, recipe.turn, rng)
        parts.append(embed_views(Stylist(earth, style), views, _SIZE, encoder, rng))
    return joined(parts)


def _out_of_scope(recipe: Recipe, encoder: PhotoEncoder) -> OutOfScope:
    """Views of the open sea, and drawings of no place; `tilebeam calibrate --elsewhere` takes more kinds."""
    rng = np.random.default_rng([_SEED, recipe.seed, 1])
    sea = sea_views(_SEA, recipe.footprint_km, recipe.turn, _SEED, recipe.zooms[-1] - 1)
    seen = embed_views(Stylist(Earth(recipe.products), recipe.style), sea, _SIZE, encoder, rng)
    drawn = embed_pictures(nowhere_pictures(_NOWHERE, _SIZE, _SEED), encoder)
    families = ["sea"] * len(seen) + [f"drawing {i % 5}" for i in range(len(drawn))]  # the sea may have fewer than _SEA
    nowhere = np.full(len(families), np.nan)
    return OutOfScope(KnownPictures(np.concatenate([seen.embeddings, drawn]), nowhere, nowhere), np.array(families))


def describe(recipe_file: Path, options: dict[str, Any], encoders: Path, numbers: dict[str, Any], log: Path) -> None:
    """Write training.json beside the encoders: recipe, options, last losses, calibration."""
    facts = {
        "command": "tilebeam train --preset builtin",
        "options": options,
        "recipe": json.loads(recipe_file.read_text()),
        "last_logged": last_logged(log),
        "calibration": numbers,
    }
    write_json(encoders / "training.json", facts)


def last_logged(log: Path) -> list[dict[str, Any]]:
    """The last entry of each stage and zoom; incomplete lines and a missing file are ignored."""
    last: dict[tuple[Any, Any], dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            last[entry["stage"], entry.get("zoom")] = entry
    return list(last.values())
