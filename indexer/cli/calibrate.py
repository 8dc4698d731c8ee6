"""The command `calibrate`: parse, call, print. Torch is imported inside it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from indexer.calibration.request import CalibrationRequest, PriorSource
from indexer.cli.options import Fields, command, flag
from indexer.cli.shared_options import ALLOW_DOWNLOAD, PHOTOS_PANEL, AsJson, Bootstrap, Reading
from indexer.cli.terminal import Bars, ending_well, say

__all__ = ["register"]


def _prior(
    prior: Annotated[
        str | None,
        typer.Option(
            help="NAME=DIR: fit with this prior, install it in the index, and write calibration-NAME.json. NAME alone "
            "uses the index's prior of this name, or a kind that needs no files.",
            metavar="NAME[=DIR]",
        ),
    ] = None,
    prior_on_request: Annotated[
        bool, typer.Option("--prior-on-request", help="Use the prior only for requests that name it.")
    ] = False,
) -> PriorSource | None:
    return None if prior is None else PriorSource.of(prior, default=not prior_on_request)


def register(app: typer.Typer) -> None:
    """Mount the command."""
    command(app, go_on="the index keeps its old calibration")(calibrate)


def calibrate(
    request: Annotated[
        CalibrationRequest,
        Fields(
            prior=_prior,
            reading=Reading,
            share=flag("--elsewhere-share"),
            photos=flag(rich_help_panel=PHOTOS_PANEL),
            split=flag(rich_help_panel=PHOTOS_PANEL),
            limit=flag(rich_help_panel=PHOTOS_PANEL, show_default="all"),
            elsewhere=flag(rich_help_panel=PHOTOS_PANEL),
            allow_download=ALLOW_DOWNLOAD,
        ),
    ],
    bootstrap: Bootstrap = 1000,
    out: Annotated[Path | None, typer.Option(help="A folder for the report, as JSON and pictures too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit an index's confidence on one half of the photos, measure it on the other, and store it in the index."""
    from indexer.calibration.report import CalibrationReport, check_folder, numbers_in_words
    from indexer.calibration.run import calibrate as run

    if out is not None:
        check_folder(out)
    with Bars() as bars:
        result = run(request, bars)
    with ending_well("the index is calibrated; run the same command again for the report"):
        for line in numbers_in_words(result.calibration.zooms):
            say(line)
        report = CalibrationReport(result, bootstrap)
        typer.echo(json.dumps(report.to_json(), allow_nan=False) if as_json else report.markdown())
        if out is not None:
            report.write(out)
            say(f"{out}: the report, as Markdown, JSON and pictures")
        say(f"{request.index}: calibration {str(result.calibration.id)[:12]} stored")
