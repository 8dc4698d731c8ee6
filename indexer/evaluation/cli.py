"""The command `evaluate`: parse, call, print. Torch is imported inside it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.progress import Bars, ending_well, say

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    index: Annotated[list[Path], typer.Option(help="An index; repeat it to hold several side by side.")],
    photos: Annotated[Path, typer.Option(help="A CSV or Parquet table, or a folder of photos with GPS in their EXIF.")],
    split: Annotated[str | None, typer.Option(help="Which split; `test` where the table has splits, else all.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder that the table's paths are in.")] = None,
    layout: Annotated[str, typer.Option(help="auto, table, folder, mp16, osv5m, im2gps, im2gps3k or yfcc4k.")] = "auto",
    path_column: Annotated[str | None, typer.Option(help="The column of paths, if it is not recognised.")] = None,
    latitude_column: Annotated[str | None, typer.Option(help="The column of latitudes, likewise.")] = None,
    longitude_column: Annotated[str | None, typer.Option(help="The column of longitudes, likewise.")] = None,
    k: Annotated[list[str] | None, typer.Option(help="Beam width; repeat it or use commas: 16,64. Default 64.")] = None,
    scoring: Annotated[list[str] | None, typer.Option(help="posterior (default) or paper; may be repeated.")] = None,
    elsewhere: Annotated[
        Path | None,
        typer.Option(help="Pictures without an answer: a folder of families, or a table with a column `family`."),
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Also search without a beam, and compare.")] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95% intervals; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples, and of the photos under --limit.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos, drawn by the seed.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where photos are encoded.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="A folder that keeps embeddings for the next time.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for tables, JSON, pictures and each answer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
) -> None:
    """Accuracy, calibration, recall, time and memory of indexes on photos whose places are known."""
    with ending_well("nothing was written"):
        from indexer.evaluation.folder import check_out, write_out
        from indexer.evaluation.report import evaluate as run
        from indexer.evaluation.request import EvaluationRequest, Measures
        from indexer.photos.reading import ReadOptions

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
            measures=Measures(_widths(k), _scorings(scoring), exhaustive, bootstrap, seed),
        )
        with Bars() as bars:
            done = run(request, bars)
            if out is not None:
                write_out(out, done)
        typer.echo(json.dumps(done.to_json(), allow_nan=False) if as_json else done.markdown())
        if out is not None:
            say(f"{out}: tables, JSON, pictures and every answer")


def _widths(given: list[str] | None) -> tuple[int, ...]:
    parts = [part for text in given or ["64"] for part in text.split(",")]
    try:
        return tuple(dict.fromkeys(int(part) for part in parts))
    except ValueError as exc:
        raise typer.BadParameter(f"--k {','.join(parts)}: whole numbers are expected, such as 16,64") from exc


def _scorings(given: list[str] | None) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(part for text in given or ["posterior"] for part in text.split(",")))
