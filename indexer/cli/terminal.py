"""Output for people and exit codes: progress bars on a terminal, plain lines elsewhere, all on standard error."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from rich import progress as rich_progress
from rich.console import Console

from indexer.errors import CoverageError, IndexerError, OptionError
from indexer.progress import Progress
from retrieval.errors import RegionError, RetrievalError
from tile_cache.errors import TileCacheError

__all__ = ["Bars", "ending_well", "say"]


def say(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


class Bars:
    """Shows each step of a job as a bar, or as one line for each bar if standard error is not a terminal."""

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
            if self._progress.disable:  # a container's log: one line for each bar, so that the job does not look hung
                say(f"{progress.text}: {progress.total:,}")
        self._progress.update(self._tasks[progress.text], completed=progress.done, total=progress.total)


@contextmanager
def ending_well(go_on: str, code: int = 1) -> Iterator[None]:
    """Turn errors into one line and an exit code: `code`, 2 for wrong usage, 130 and `go_on` for an interrupt.

    `code`: 1 where the work failed, 2 where options name what no request can be made of. What the operating system
    refuses is an error like others: a full disk, a file where a folder is needed, a current folder that was deleted.
    SIGTERM counts as an interrupt, so that a stopped container leaves a state from which the job resumes.
    """
    with _terminable():
        try:
            yield
        except (CoverageError, OptionError, RegionError) as exc:
            say(f"tilebeam: {exc}")
            raise typer.Exit(2) from exc
        except (IndexerError, TileCacheError, RetrievalError) as exc:
            say(f"tilebeam: {exc}")
            raise typer.Exit(code) from exc
        except OSError as exc:
            if exc.errno is None or isinstance(exc, BrokenPipeError):  # of a library, or of standard output
                raise
            say(f"tilebeam: {_failed_call(exc)}; {go_on}")
            raise typer.Exit(code) from exc
        except KeyboardInterrupt as exc:
            say(f"tilebeam: interrupted; {go_on}")
            raise typer.Exit(130) from exc


def _failed_call(exc: OSError) -> str:
    """What the operating system refused, such as a full disk or a file where a folder is needed, in words."""
    if exc.filename is not None:
        return f"{os.fsdecode(exc.filename) if isinstance(exc.filename, bytes) else exc.filename}: {exc.strerror}"
    try:
        os.getcwd()
    except OSError:
        return "the current folder does not exist any more: change to another"
    return str(exc.strerror)


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
    """Forward SIGTERM as SIGINT, which asyncio handles well; raise at once if SIGINT is ignored, as under `nohup`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
