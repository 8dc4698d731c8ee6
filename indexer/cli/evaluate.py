"""The command `evaluate`: parse, call, print. What loads torch is imported inside it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.cli.options import Fields, command, flag
from indexer.cli.shared_options import ALLOW_DOWNLOAD, PHOTOS_PANEL, AsJson, Reading
from indexer.cli.terminal import Bars, say
from indexer.evaluation.request import EvaluationRequest, Measures

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    command(app, go_on="nothing was written")(evaluate)


def _names(texts: list[str]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(name for text in texts for name in text.split(",")))


def _widths(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in _names(texts))
    except ValueError as exc:
        raise ValueError(f"{','.join(texts)}: whole numbers are expected, such as 16,64") from exc


_MEASURES = Annotated[
    Measures,
    Fields(
        widths=flag("--k", kind=list[str], parser=_widths, show_default="64"),
        scorings=flag("--scoring", kind=list[str], parser=_names, show_default="posterior"),
        replicates=flag("--bootstrap"),
        priors=flag("--prior", kind=list[str], parser=_names, show_default="the index's default"),
        methods=flag("--method", kind=list[str], parser=_names, show_default="beam"),
    ),
]


def _photos(**settings: Any) -> Any:
    return flag(rich_help_panel=PHOTOS_PANEL, **settings)


def evaluate(
    request: Annotated[
        EvaluationRequest,
        Fields(
            indexes=flag("--index", kind=list[Path], parser=tuple),
            photos=_photos(),
            split=_photos(),
            reading=Reading,
            limit=_photos(show_default="all"),
            elsewhere=_photos(),
            measures=_MEASURES,
            allow_download=ALLOW_DOWNLOAD,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="A folder for tables, JSON, plots and each answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy, calibration, recall, time and memory of indexes on photos whose places are known."""
    from indexer.evaluation.page import markdown  # these load torch
    from indexer.evaluation.run import evaluate as run
    from indexer.evaluation.write import check_out, to_json, write_out

    if out is not None:
        check_out(out)
    with Bars() as bars:
        evaluation = run(request, bars)
        if out is not None:
            write_out(out, evaluation)
    typer.echo(json.dumps(to_json(evaluation), allow_nan=False) if as_json else markdown(evaluation))
    if out is not None:
        say(f"{out}: tables, JSON, plots and every answer")
