"""The command `calibrate`: parse, call, print. Torch is imported inside it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from indexer.progress import Bars, ending_well, say

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("calibrate")(calibrate)


def calibrate(
    index: Annotated[Path, typer.Option(help="The index whose calibration.json is written.")],
    photos: Annotated[Path, typer.Option(help="A CSV or Parquet table, or a folder of photos with GPS in their EXIF.")],
    split: Annotated[str | None, typer.Option(help="`validation` where the table has splits, else all.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder that the table's paths are in.")] = None,
    layout: Annotated[str, typer.Option(help="auto, table, folder, mp16, osv5m, im2gps, im2gps3k or yfcc4k.")] = "auto",
    path_column: Annotated[str | None, typer.Option(help="The column of paths, if it is not recognised.")] = None,
    latitude_column: Annotated[str | None, typer.Option(help="The column of latitudes, likewise.")] = None,
    longitude_column: Annotated[str | None, typer.Option(help="The column of longitudes, likewise.")] = None,
    k: Annotated[
        int, typer.Option(help="The beam width to calibrate; answers at others say `calibrated: false`.")
    ] = 64,
    elsewhere: Annotated[
        Path | None,
        typer.Option(help="Pictures without an answer: a folder of families, or a table with a column `family`."),
    ] = None,
    elsewhere_share: Annotated[
        float, typer.Option(help="Share of such pictures that the index will be asked in use.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the halves (fitted to, measured on), and under --limit.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos, drawn by the seed.")] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95% intervals; 0: none.")] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where photos are encoded.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="A folder that keeps embeddings for the next time.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the report, as JSON and pictures too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
) -> None:
    """Fit an index's confidence on one half of the photos, measure it on the other, and store it in the index."""
    with ending_well("the index has the calibration that it had"):
        from indexer.calibration.report import CalibrationReport, numbers_in_words
        from indexer.calibration.request import CalibrationRequest
        from indexer.calibration.run import calibrate as run
        from indexer.photos.reading import ReadOptions

        request = CalibrationRequest(
            index=index,
            photos=photos,
            reading=ReadOptions(layout, images, path_column, latitude_column, longitude_column),
            split=split,
            k=k,
            elsewhere=elsewhere,
            share=elsewhere_share,
            seed=seed,
            limit=limit,
            device=device,
            cache=cache,
        )
        with Bars() as bars:
            done = run(request, bars)
        for line in numbers_in_words(done.calibration.zooms):
            say(line)
        report = CalibrationReport(done, bootstrap)
        typer.echo(json.dumps(report.to_json(), allow_nan=False) if as_json else report.markdown())
        if out is not None:
            report.write(out)
            say(f"{out}: the report, as Markdown, JSON and pictures")
        say(f"{index}: calibration {str(done.calibration.id)[:12]} stored")
