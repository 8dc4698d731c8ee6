"""The commands `plan`, `fetch`, `index` and `inspect`: parse, call, print."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.build.estimate import PlanRequest, estimate_cost
from indexer.build.fetch import FetchRequest, fetch_servers
from indexer.build.report import (
    describe_index,
    fetch_in_words,
    index_in_words,
    plan_in_words,
    repeated_in_words,
    report_in_words,
)
from indexer.build.request import BuildRequest
from indexer.cli.options import Fields, command
from indexer.cli.shared_options import FETCHING, ZOOMS, AsJson, area_from_options, fetching
from indexer.cli.terminal import Bars, say
from indexer.progress import Progress

__all__ = ["register"]

_GO_ON = "the same command goes on from here"
_TILES: dict[str, Any] = {"zooms": ZOOMS, "area": area_from_options}


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    command(app, go_on="nothing was begun")(plan)
    command(app, go_on=_GO_ON)(fetch)
    command(app, go_on=_GO_ON)(index)
    command(app)(inspect)


def plan(request: Annotated[PlanRequest, Fields(**_TILES)], as_json: AsJson = False) -> None:
    """Estimate tiles, bytes, hours and disk of a coverage, before anything is fetched."""
    cost = estimate_cost(request)
    typer.echo(json.dumps(cost.to_json()) if as_json else "\n".join(plan_in_words(cost)))


def fetch(
    request: Annotated[FetchRequest, Fields(codec=None, device=None, fetch=fetching("refresh"), **_TILES)],
    as_json: AsJson = False,
) -> None:
    """Fill a tile cache for a coverage and its margins."""
    with Bars() as bars:
        summaries = fetch_servers(request, bars)
    for summary in summaries:
        for line in (fetch_in_words(summary), *repeated_in_words(summary["repeated"], request.fetch.absent_images)):
            say(line)
        if as_json:
            typer.echo(json.dumps(summary))


def index(
    request: Annotated[
        BuildRequest,
        Fields(fetch=FETCHING, calibration=None, unit_rows=None, shard_rows=None, threads=None, **_TILES),
    ],
    as_json: AsJson = False,
) -> None:
    """Fetch missing tiles, embed, and write an index; run it again to go on after an interruption."""
    if request.source is None and not request.rows_only:
        raise typer.BadParameter("say where tiles come from, or give --rows-only", param_hint="--source")
    from indexer.build.build import build_index  # loads FAISS, which the other commands do not need

    with Bars() as bars:
        report = build_index(request, on_progress=bars)
    for line in report_in_words(report):
        say(line)
    if as_json:
        typer.echo(json.dumps(report.to_json()))


def inspect(
    directory: Annotated[Path, typer.Argument(help="An index.", metavar="DIR")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every file's checksum and every list.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in an index."""
    if verify:
        _verify(directory)
    facts = describe_index(directory)
    typer.echo(json.dumps(facts) if as_json else "\n".join(index_in_words(facts)))


def _verify(directory: Path) -> None:
    from retrieval.index.manifest import Manifest
    from retrieval.verify import verify  # loads FAISS

    total, done = sum(f.bytes for f in Manifest.read(directory).files), 0

    def on_file(name: str, size: int) -> None:
        nonlocal done
        done += size
        bars(Progress("write", "Verifying (bytes)", done, total))

    with Bars() as bars:
        faults = verify(directory, on_file)
    for line in faults:
        say(f"tilebeam: {line}")
    if faults:
        raise typer.Exit(1)
    say(f"{directory}: every file and every list is as the manifest says")
