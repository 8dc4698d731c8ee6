"""The command `geocells fit`, and the group that `geocells train` joins: parse, call, print."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from indexer.cli import geocell_models as training_cli
from indexer.cli.shared_options import (
    AsJson,
    Images,
    LatitudeColumn,
    Layout,
    Limit,
    LongitudeColumn,
    PathColumn,
    Photos,
    Seed,
    Split,
)
from indexer.cli.terminal import Bars, ending_well, say
from indexer.errors import GeocellError

__all__ = ["geocells", "register"]

GRID_PANEL = "Settings that are tried"

geocells = typer.Typer(
    name="geocells",
    help="Divide the Earth into cells by where photos were taken; train models that name the cell.",
    no_args_is_help=True,
)

Number = TypeVar("Number", int, float)


def _of_grid(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=GRID_PANEL, **more)


def register(app: typer.Typer) -> None:
    """Mount the commands, as `geocells fit` and so on."""
    app.add_typer(geocells)


@geocells.callback()
def _group() -> None:
    """Keeps `geocells` a group, however few commands it has."""


training_cli.register(geocells)


@geocells.command("fit")
def fit(
    photos: Photos,
    out: Annotated[Path, typer.Option(help="The partition's folder; an earlier partition there is replaced.")],
    split: Split = None,
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    limit: Limit = None,
    min_samples: Annotated[
        str, _of_grid("Photos near a photo that make it dense, with commas.", metavar="5,10,20")
    ] = "5,10,20,50",
    eps: Annotated[
        str, _of_grid("Distances of DBSCAN's cut in km; the largest is the ordering's limit.", metavar="50,100")
    ] = "25,50,75,100,150,200,300",
    xi: Annotated[
        str, _of_grid("Shares by which density falls where a cluster ends; empty: none.", metavar="0.02,0.05")
    ] = "0.01,0.02,0.05,0.1,0.2",
    cells: Annotated[
        tuple[int, int] | None,
        _of_grid("Settings with fewer or more cells are not chosen.", metavar="LEAST MOST", show_default="by photos"),
    ] = None,
    optics_photos: Annotated[int, _of_grid("Photos that OPTICS sees; the others join the nearest centroid.")] = 100_000,
    per_cluster: Annotated[float, typer.Option(help="Photos to a cluster within a cell; 5 to 100 clusters.")] = 37.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Divide the Earth into cells and clusters by where photos were taken (of a set with splits: its `train`)."""
    with ending_well("nothing was written"), _clustering():
        from indexer.geocells.partition.fit import fit as run
        from indexer.geocells.partition.write import check_out, summary, write_partition
        from indexer.geocells.settings import FitRequest, Grid
        from indexer.photos.read import ReadOptions

        check_out(out)
        limits = {} if cells is None else {"least_cells": cells[0], "most_cells": cells[1]}
        grid = Grid(
            _numbers("--min-samples", min_samples, int),
            _numbers("--eps", eps, float),
            _numbers("--xi", xi, float),
            most_points=optics_photos,
            **limits,
        )
        reading = ReadOptions(layout, images, path_column, latitude_column, longitude_column)
        request = FitRequest(photos, reading, split, limit, grid, per_cluster, seed)
        with Bars() as bars:
            fitted = run(request, bars)
            write_partition(out, fitted)
        for line in summary(fitted):
            say(line)
        if as_json:
            made = fitted.partition
            told = {
                "out": str(out),
                "fingerprint": made.fingerprint,
                "cells": len(made),
                "clusters": len(made.clusters),
            }
            typer.echo(json.dumps({**told, **made.settings}))


@contextmanager
def _clustering() -> Iterator[None]:
    """What is missing of the extra is said in words."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.partition(".")[0] in ("scipy", "sklearn", "threadpoolctl"):
            raise GeocellError("clustering needs scikit-learn: pip install 'tilebeam[geocells]'") from exc
        raise


def _numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    try:
        return tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError as exc:
        raise typer.BadParameter(f"{option} {text!r}: numbers with commas are expected, such as 10,20") from exc
