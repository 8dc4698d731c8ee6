"""The command `evaluate`: parse, call, print. Torch is imported inside it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.cli.shared_options import (
    AsJson,
    Bootstrap,
    Device,
    Elsewhere,
    EmbeddingCache,
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

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    index: Annotated[list[Path], typer.Option(help="An index; repeat it to hold several side by side.")],
    photos: Photos,
    split: Split = None,
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    limit: Limit = None,
    elsewhere: Elsewhere = None,
    k: Annotated[list[str] | None, typer.Option(help="Beam width; repeat it or use commas: 16,64. Default 64.")] = None,
    scoring: Annotated[
        list[str] | None,
        typer.Option(
            help="posterior (default), paper, or bolted: paper's with the prior's answer as one candidate more."
        ),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="A prior of the index's to ask with, or none; repeat it or use commas.", show_default="its own"
        ),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="beam (default), or a prior's name: that prior alone; may be repeated.")
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Also search without a beam, and compare.")] = False,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    cache: EmbeddingCache = None,
    out: Annotated[Path | None, typer.Option(help="A folder for tables, JSON, pictures and each answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, calibration, recall, time and memory of indexes on photos whose places are known."""
    with ending_well("nothing was written"):
        from indexer.evaluation.page import markdown
        from indexer.evaluation.request import EvaluationRequest, Measures
        from indexer.evaluation.run import evaluate as run
        from indexer.evaluation.write import check_out, to_json, write_out
        from indexer.photos.read import ReadOptions

        if out is not None:
            check_out(out)
        request = EvaluationRequest(
            indexes=tuple(index),
            photos=photos,
            reading=ReadOptions(layout, images, path_column, latitude_column, longitude_column),
            split=split,
            elsewhere=elsewhere,
            limit=limit,
            device=device,
            cache=cache,
            measures=Measures(
                _widths(k),
                _names(scoring, "posterior"),
                exhaustive,
                bootstrap,
                seed,
                _names(prior, None),
                _names(method, "beam"),
            ),
        )
        with Bars() as bars:
            done = run(request, bars)
            if out is not None:
                write_out(out, done)
        typer.echo(json.dumps(to_json(done), allow_nan=False) if as_json else markdown(done))
        if out is not None:
            say(f"{out}: tables, JSON, pictures and every answer")


def _widths(given: list[str] | None) -> tuple[int, ...]:
    parts = [part for text in given or ["64"] for part in text.split(",")]
    try:
        return tuple(dict.fromkeys(int(part) for part in parts))
    except ValueError as exc:
        raise typer.BadParameter(f"--k {','.join(parts)}: whole numbers are expected, such as 16,64") from exc


def _names(given: list[str] | None, default: str | None) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(part for text in given for part in text.split(","))) if given else (default,)
