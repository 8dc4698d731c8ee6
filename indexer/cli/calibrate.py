"""The command `calibrate`: parse, call, print. Torch is imported inside it."""

import json
from pathlib import Path
from typing import Annotated

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
    app.command("calibrate")(calibrate)


def calibrate(
    index: Annotated[Path, typer.Option(help="The index whose calibration.json is written.")],
    photos: Photos,
    prior: Annotated[
        str | None,
        typer.Option(
            help="NAME=DIR: fit with this prior, install it in the index, and write calibration-NAME.json; NAME alone "
            "takes the one that the index has, or a kind that needs no files.",
            metavar="NAME[=DIR]",
        ),
    ] = None,
    prior_on_request: Annotated[
        bool, typer.Option("--prior-on-request", help="Ask the prior only where a request names it.")
    ] = False,
    split: Split = None,
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    limit: Limit = None,
    elsewhere: Elsewhere = None,
    elsewhere_share: Annotated[
        float, typer.Option(help="Share of such pictures that the index will be asked in use.")
    ] = 0.1,
    k: Annotated[
        int, typer.Option(help="The beam width to calibrate; answers at others say `calibrated: false`.")
    ] = 64,
    seed: Seed = 0,
    bootstrap: Bootstrap = 1000,
    device: Device = "auto",
    cache: EmbeddingCache = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the report, as JSON and pictures too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit an index's confidence on one half of the photos, measure it on the other, and store it in the index."""
    with ending_well("the index has the calibration that it had"):
        from indexer.calibration.report import CalibrationReport, check_folder, numbers_in_words
        from indexer.calibration.request import CalibrationRequest, PriorSource
        from indexer.calibration.run import calibrate as run
        from indexer.photos.read import ReadOptions

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
            prior=None if prior is None else PriorSource.of(prior, default=not prior_on_request),
        )
        if out is not None:
            check_folder(out)
        with Bars() as bars:
            done = run(request, bars)
    with ending_well("the index is calibrated; the same command makes the report"):
        for line in numbers_in_words(done.calibration.zooms):
            say(line)
        report = CalibrationReport(done, bootstrap)
        typer.echo(json.dumps(report.to_json(), allow_nan=False) if as_json else report.markdown())
        if out is not None:
            report.write(out)
            say(f"{out}: the report, as Markdown, JSON and pictures")
        say(f"{index}: calibration {str(done.calibration.id)[:12]} stored")
