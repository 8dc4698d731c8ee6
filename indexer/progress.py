"""Progress of a long job, as plain data: what a build, a training or an evaluation reports while it runs.

Imports nothing but the standard library, so that any module can report progress. It does not know how progress is
displayed: `indexer.cli.terminal.Bars` draws it on a terminal.
"""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["OnProgress", "Progress", "counter", "silent"]


class Progress(NamedTuple):
    """One step of a job. `done` and `total` count what `text` names; a stage `note` carries only `text`.

    Steps with the same `text` belong to one bar. `stage` is a short word for programs: fetch, embed, write, train...
    """

    stage: str
    text: str
    done: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]
"""A callback that receives each step."""


def silent(progress: Progress) -> None:
    """Ignore a step: the default callback."""


def counter(on_progress: OnProgress, stage: str, text: str) -> Callable[[int, int], None]:
    """A callback `(done, total)` that reports each call as a step of `stage` with this `text`."""
    return lambda done, total: on_progress(Progress(stage, text, done, total))
