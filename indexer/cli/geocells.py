"""The commands `geocells fit`, `train`, `grid` and `baseline`. Their options are the fields of their requests.

Torch, scipy and scikit-learn take seconds to load, so the commands import what needs them when they run.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.cli.options import Fields, command, flag
from indexer.cli.terminal import Bars, say
from indexer.geocells.settings import BaselineRequest, FitRequest, GeocellRequest, GeocellSettings, Grid, Pace
from indexer.photos.read import ReadOptions
from indexer.photos.splits import SplitPlan, parse_ratio

__all__ = ["geocells", "register"]

_PHOTOS, _GRID = "Photos", "Settings to try"
_LEARNING, _PRIOR, _MACHINE = "Learning: the geoembeddings paper's values by default", "As a prior", "Machine"
_CONTINUE = "the same command continues from the last saved step"

geocells = typer.Typer(
    name="geocells",
    help="Divide the Earth into cells by where photos were taken; train models that name the cell.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Mount the commands as `geocells fit` and so on."""
    app.add_typer(geocells)


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas, without repetitions; an empty text has none."""
    try:
        return tuple(dict.fromkeys(float(number) for number in text.split(",") if number.strip()))
    except ValueError as exc:
        raise ValueError(f"{text!r}: give numbers separated by commas, such as 10,20") from exc


def _integers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, without repetitions; an empty text has none."""
    try:
        return tuple(dict.fromkeys(int(number) for number in text.split(",") if number.strip()))
    except ValueError as exc:
        raise ValueError(f"{text!r}: give whole numbers separated by commas, such as 5,10") from exc


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _shown_ratio(ratio: tuple[int, int, int]) -> str:
    return ":".join(map(str, ratio))


def _grid_of(
    grid: Annotated[
        Grid,
        Fields(
            panel=_GRID,
            min_samples=flag(parser=_integers, shown=_listed, metavar="5,10,20"),
            eps_km=flag("--eps", parser=_numbers, shown=_listed, metavar="50,100"),
            xi=flag(parser=_numbers, shown=_listed, metavar="0.02,0.05"),
            least_cells=None,
            most_cells=None,
            most_points=None,
            silhouette_points=None,
        ),
    ],
    cells: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Settings with fewer or more cells than this are not chosen.",
            metavar="LEAST MOST",
            show_default="by photos",
            rich_help_panel=_GRID,
        ),
    ] = None,
) -> Grid:
    """The grid, with both limits from the one option --cells."""
    return grid if cells is None else replace(grid, least_cells=cells[0], most_cells=cells[1])


_Reading = Annotated[
    ReadOptions,
    Fields(
        panel=_PHOTOS,
        layout=flag(help="auto, table, folder, mp16, osv5m, im2gps, im2gps3k or yfcc4k."),
        images=flag(show_default="the table's own"),
        path_column=flag(show_default="recognised"),
        latitude_column=flag(show_default="recognised"),
        longitude_column=flag(show_default="recognised"),
        need_place=None,
    ),
]
_Split = Annotated[
    SplitPlan,
    Fields(
        ratio=flag(
            "--split-ratio",
            parser=parse_ratio,
            shown=_shown_ratio,
            metavar="8:1:1",
            help="Shares of train, validation and test, unless the table has splits.",
        ),
        seed=flag(min=0, help="Decides splits, initial weights and batches.", rich_help_panel=_LEARNING),
        geographic=flag(
            "--geographic/--random-split",
            help="Never put photos of one zoom-8 tile into two splits, unless the table has splits.",
        ),
        near_duplicates=None,
    ),
]
_Pace = Annotated[
    Pace,
    Fields(
        panel=_LEARNING,
        save_every=flag(rich_help_panel=_MACHINE),
        log_every=flag(rich_help_panel=_MACHINE),
    ),
]
_LearningPhotos: dict[str, Any] = {
    "photos": flag(rich_help_panel=_PHOTOS),
    "read": _Reading,
    "split": _Split,
    "cache": flag(show_default="OUT/cache", rich_help_panel=_MACHINE),
}
_Threads = Annotated[int, typer.Option(help="CPU threads.", min=1, rich_help_panel=_MACHINE)]


@geocells.callback()
def _group() -> None:
    """Keep `geocells` a group: Typer would drop it if there were only one command."""


def fit(
    request: Annotated[
        FitRequest,
        Fields(
            photos=flag(rich_help_panel=_PHOTOS),
            reading=_Reading,
            split=flag(rich_help_panel=_PHOTOS),
            limit=flag(show_default="all", rich_help_panel=_PHOTOS),
            grid=_grid_of,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The partition's folder; an earlier partition there is replaced.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Divide the Earth into cells and clusters by where photos were taken (of a set with splits: its `train`)."""
    from indexer.geocells.partition.fit import fit as fit_partition
    from indexer.geocells.partition.write import check_out, summary, write_partition

    check_out(out)
    with Bars() as bars:
        fitted = fit_partition(request, bars)
        write_partition(out, fitted)
    for line in summary(fitted):
        say(line)
    if as_json:
        partition = fitted.partition
        result = {
            "out": str(out),
            "fingerprint": partition.fingerprint,
            "cells": len(partition),
            "clusters": len(partition.clusters),
        }
        typer.echo(json.dumps({**result, **partition.settings}))


def train(
    request: Annotated[
        GeocellRequest,
        Fields(
            **_LearningPhotos,
            settings=Annotated[
                GeocellSettings, Fields(panel=_LEARNING, pace=_Pace, spread=flag(rich_help_panel=_PRIOR))
            ],
        ),
    ],
    threads: _Threads = 2,
) -> None:
    """Train a model that names a photo's geocell: linear heads over an image encoder.

    The loss is the haversine-smoothed cross-entropy of cells and clusters, plus alpha times a geographic contrastive
    loss. The weights of the epoch with the lowest validation loss are kept. OUT/model is for `calibrate --prior
    geocells=OUT/model`; OUT/photos.csv, with its splits, is for `calibrate` and `evaluate`. OSV-5M's train.csv is read
    as it is (--layout osv5m). The method is the geoembeddings paper's: see docs/method.md, section "Geocells".
    """
    from indexer.geocells.model.train import train_geocells

    _set_threads(threads)
    with Bars() as bars:
        result = train_geocells(request, bars)
    typer.echo(json.dumps(result))


def grid(
    request: Annotated[
        GeocellRequest,
        Fields(
            **_LearningPhotos,
            settings=Annotated[
                GeocellSettings, Fields(panel=_LEARNING, pace=_Pace, alpha=None, temperature=None, spread=None)
            ],
        ),
    ],
    tau: Annotated[str, typer.Option(help="Temperatures of the contrastive loss, separated by commas.")] = "0.3,0.5",
    alpha: Annotated[
        str, typer.Option(help="Weights of the contrastive loss, separated by commas; 0 is always included.")
    ] = "0.5,0.75",
    threads: _Threads = 2,
) -> None:
    """Train a model without the contrastive loss and one for each pair (tau, alpha); compare them on the test photos.

    Writes OUT/grid.md: mean and median error with 95% bootstrap intervals. It is the geoembeddings paper's grid.
    """
    taus, alphas = _number_list("--tau", tau), _number_list("--alpha", alpha)
    from indexer.geocells.model.grid import train_grid

    _set_threads(threads)
    with Bars() as bars:
        result = train_grid(request, taus, alphas, bars)
    typer.echo(json.dumps(result))


def baseline(
    request: Annotated[
        BaselineRequest,
        Fields(
            **_LearningPhotos,
            blocks=flag(rich_help_panel=_LEARNING),
            lr=flag(rich_help_panel=_LEARNING),
            pace=_Pace,
        ),
    ],
    threads: _Threads = 2,
) -> None:
    """Train the baseline without cells: the last blocks of an image encoder and a linear head regress the place.

    The target is the place's unit vector. Prints the errors on the test photos and writes them to OUT/baseline.json.
    """
    from indexer.geocells.model.baseline import train_baseline

    _set_threads(threads)
    with Bars() as bars:
        report = train_baseline(request, bars)
    typer.echo(json.dumps(report))


command(geocells, go_on="nothing was written")(fit)
for _training in (train, grid, baseline):
    command(geocells, go_on=_CONTINUE)(_training)


def _number_list(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r}: give numbers separated by commas", param_hint=option) from exc


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
