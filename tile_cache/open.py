"""Turn the text of `--source` into a tile source: `open_source`. Opens no socket."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from tile_cache.bluemarble import BlueMarble
from tile_cache.errors import SourceError
from tile_cache.folder import FolderSource
from tile_cache.mbtiles import MBTilesSource
from tile_cache.source import TileSource
from tile_cache.urls import shown_template
from tile_cache.xyz import XyzSource, provider_names

__all__ = ["open_source"]

BUILT_IN = "bluemarble"


def open_source(spec: str, environ: Mapping[str, str] = os.environ) -> TileSource | XyzSource:
    """Open the source that `spec` names.

    `spec` is `bluemarble` or `bluemarble:PRODUCT`, a z/x/y folder, an MBTiles file, an http(s) URL template, or a
    name of xyzservices such as `NASAGIBS.BlueMarble`. An API key comes from TILEBEAM_TILE_KEY in `environ`. Raises
    SourceError (RefusedSourceError if the operator forbids bulk download) or StoreError.
    """
    spec = spec.strip()
    if spec == BUILT_IN or spec.startswith(BUILT_IN + ":"):
        product = spec.removeprefix(BUILT_IN).removeprefix(":")
        return BlueMarble(product) if product else BlueMarble()
    if "://" in spec:
        return XyzSource.from_template(spec, environ)
    if (path := _existing(spec)) is not None:
        return FolderSource(path) if path.is_dir() else MBTilesSource(path)
    if "{" in spec or "%7b" in spec.lower():
        shown = shown_template(spec)
        raise SourceError(f"{shown!r} looks like a URL template without a scheme: start it with https://")
    if "/" in spec or os.sep in spec or spec.endswith(".mbtiles"):
        shown = shown_template(spec) if "?" in spec else spec  # perhaps a URL without its scheme
        raise SourceError(f"{shown!r} does not exist: give an existing z/x/y folder or .mbtiles file")
    return _open_named(spec, environ)


def _existing(spec: str) -> Path | None:
    try:
        path = Path(spec).expanduser()
        return path if spec and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # the name is too long, or ~user does not exist
        return None


def _open_named(spec: str, environ: Mapping[str, str]) -> XyzSource:
    names = provider_names()
    if spec in names:
        return XyzSource.from_provider(spec, environ)
    folded = {name.casefold(): name for name in [BUILT_IN, *names]}
    if spec.casefold() in folded:
        similar = [folded[spec.casefold()]]
    else:
        similar = [folded[n] for n in difflib.get_close_matches(spec.casefold(), folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(similar)}? Otherwise " if similar else ""
    raise SourceError(
        f"unknown tile source {spec!r}: {hint}give bluemarble, a folder, an .mbtiles file, "
        "an https://.../{z}/{x}/{y}.jpg template or a name of xyzservices"
    )
