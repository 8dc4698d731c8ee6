"""The memory of a service and the processes that it started: measured, and limited where Linux lets us.

with limited(1_500_000_000) as group, started(index, group.prefix) as server, Peak(server.process) as peak: ...
peak.together, str(group)
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

__all__ = ["Group", "Peak", "anonymous", "limited"]

CGROUPS = Path("/sys/fs/cgroup")


class Peak:
    """The most memory that a process and its children have at one time, in bytes, from entering to leaving.

    `together`, `child`: anonymous memory; the files of libraries, which a system can drop, do not count. `resident`:
    the process's own VmHWM, with those files.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._over = process, threading.Event()
        self.together = self.child = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def resident(self) -> int:
        """VmHWM of the process now, in bytes."""
        return _line(self._process.pid, "VmHWM")

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            with suppress(psutil.Error):
                own, child = anonymous(self._process.pid), sum(map(anonymous, _children(self._process)))
                self.together, self.child = max(self.together, own + child), max(self.child, child)


def anonymous(pid: int) -> int:
    """The anonymous memory of a process, in bytes; 0 if it has ended."""
    return _line(pid, "RssAnon")


@dataclass(frozen=True)
class Group:
    """A control group that limits memory, or why there is none. `prefix`: what starts a command inside it."""

    reason: str = ""
    folder: Path | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes before the words of a command, which then runs in the group from its first page on."""
        if self.folder is None:
            return ()
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"))

    def __str__(self) -> str:
        if self.folder is None:
            return f"not enforced by Linux: {self.reason}"
        events = (self.folder / "memory.events").read_text().split()
        peak = self.folder / "memory.peak"
        highest = f", highest {int(peak.read_text()) / 1e6:,.0f} MB" if peak.exists() else ""
        return f"enforced by a control group{highest}, events: {' '.join(events)}"


@contextmanager
def limited(limit: int, root: Path = CGROUPS) -> Iterator[Group]:
    """Make a control group (version 2) of `limit` bytes without swap, as a child of this process's own.

    Where none can be made, the group says why. It is removed at the end; its processes must have ended by then.
    """
    try:
        folder = _new_group(limit, root)
    except OSError as error:
        yield Group(error.strerror or str(error))
        return
    try:
        yield Group(folder=folder)
    finally:
        with suppress(OSError):  # a process of it has not ended
            folder.rmdir()


def _new_group(limit: int, root: Path) -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        raise OSError("Linux runs without control groups of version 2")
    parent = root / own.strip("/")
    if "memory" not in (parent / "cgroup.subtree_control").read_text().split():
        raise OSError(f"{parent} hands no memory controller to its children")
    folder = parent / f"tilebeam-hostile-{os.getpid()}"
    folder.mkdir()
    (folder / "memory.max").write_text(str(limit))
    with suppress(OSError):  # without swap there is no such file
        (folder / "memory.swap.max").write_text("0")
    return folder


def _children(process: psutil.Process) -> list[int]:
    """The children, without those that have just been forked: until they load their own program they have the parent's
    command line, and its pages, which would count twice.
    """
    own = process.cmdline()
    return [each.pid for each in process.children() if _command_line(each) not in (own, [])]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended
        return []


def _line(pid: int, name: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(f"{name}:")), 0)
