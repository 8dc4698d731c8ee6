"""What people see while an index is made: bars on a terminal, plain words elsewhere, all of it on standard error."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from rich import progress as rich_progress
from rich.console import Console

from indexer.errors import CoverageError, IndexerError
from indexer.progress import Progress
from retrieval.errors import RegionError, RetrievalError
from tile_cache.errors import TileCacheError
from tile_cache.fetch.settings import FetchReport

__all__ = ["Bars", "ending_well", "say"]


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


class Bars:
    """Takes Progress and shows a bar for each thing under way, or a line where there is no terminal."""

    def __init__(self) -> None:
        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, rich_progress.TaskID] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._progress.stop()

    def __call__(self, progress: Progress) -> None:
        """Show a step."""
        if progress.stage == "note":
            say(progress.text)
            return
        if progress.text not in self._tasks:
            self._tasks[progress.text] = self._progress.add_task(progress.text, total=progress.total)
            if self._progress.disable:  # a container's log: one line a stage, so that it does not look hung
                say(f"{progress.text}: {progress.total:,}")
        self._progress.update(self._tasks[progress.text], completed=progress.done, total=progress.total)

    def fetching(self, name: str, total: int) -> Callable[[FetchReport], None]:
        """A callback for the fetcher, with a bar of its own."""
        return lambda report: self(Progress("fetch", f"Fetching {name}", report.done, total))


@contextmanager
def ending_well(go_on: str) -> Iterator[None]:
    """Every error of ours ends in one line and exit 1 (2 for an area that is none), an interrupt in `go_on` and 130.

    A SIGTERM is treated as an interrupt, so that a container that is stopped leaves a state to go on from.
    """
    with _terminable():
        try:
            yield
        except (CoverageError, RegionError) as exc:
            say(f"tilebeam: {exc}")
            raise typer.Exit(2) from exc
        except (IndexerError, TileCacheError, RetrievalError) as exc:
            say(f"tilebeam: {exc}")
            raise typer.Exit(1) from exc
        except KeyboardInterrupt as exc:
            say(f"tilebeam: interrupted; {go_on}")
            raise typer.Exit(130) from exc


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As SIGINT, for which asyncio has a careful handler; raised at once where SIGINT is ignored, as under `nohup`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
