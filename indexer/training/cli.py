"""The command `train`: parse, call, print. Torch is imported inside it."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.progress import ending_well, say


class Preset(StrEnum):
    """What can be trained."""

    builtin = "builtin"


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("train")(train)


def train(
    preset: Annotated[Preset, typer.Option(help="builtin: the built-in Earth's encoders.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A folder for states, log and results; a killed run goes on.")],
    recipe: Annotated[Path | None, typer.Option(help="Another recipe (JSON).", show_default="built-in")] = None,
    leave_out: Annotated[str | None, typer.Option(help="A product not to be seen.", show_default=False)] = None,
    share: Annotated[float, typer.Option(min=0.0001, max=1, help="Share of the recipe's steps.")] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Learn encoders, for `tilebeam index --photo-encoder OUT/encoders --map-encoders OUT/encoders`."""
    with ending_well("the same command goes on from the last saved step"):
        import torch

        from indexer.retrieval.encoders import builtin_directory
        from indexer.training.builtin import BuiltinTraining
        from indexer.training.finish import calibrate, describe

        torch.set_num_threads(threads)
        path = recipe or builtin_directory() / "recipe.json"
        chosen = _read(path, share, leave_out)
        encoders = BuiltinTraining(chosen, out, _show).run()
        numbers = calibrate(chosen, encoders, out / "index")
        describe(path, {"share": share, "leave_out": leave_out}, encoders, numbers, out / "log.jsonl")
        typer.echo(json.dumps({"encoders": str(encoders), "index": str(out / "index"), "calibration": numbers}))


def _read(path: Path, share: float, leave_out: str | None) -> Any:
    from indexer.retrieval.errors import EncoderError
    from indexer.training.recipe import Recipe

    try:
        return Recipe.read(path).reduced(share, leave_out)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EncoderError) as exc:
        said = f"it lacks {exc}" if isinstance(exc, KeyError) else str(exc)
        say(f"tilebeam: {path} is no recipe to train by: {said}")
        raise typer.Exit(2) from exc


def _show(entry: dict[str, Any]) -> None:
    print(" ".join(f"{k}={v}" for k, v in entry.items()), file=sys.stderr, flush=True)
