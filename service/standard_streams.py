"""Standard output that cannot be written ends the program with one line, in every command.

A full disk, a closed pipe (`| head`) and a closed descriptor (`>&-`) are reported wherever they show: while a command
prints, or when its output is flushed at the end. Names that are not UTF-8 print as escapes. Knows no command.
"""

import io
import os
import sys
from collections.abc import Callable

__all__ = ["OutputError", "run"]


class OutputError(Exception):
    """Standard output cannot be written; the message says why. No OSError, which commands report in their own words."""


class _Output(io.FileIO):
    """Standard output whose errors are OutputErrors."""

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """Write bytes; raises OutputError."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as exc:
            raise OutputError(f"standard output cannot be written ({exc.strerror})") from exc


def run(program: Callable[[], None]) -> None:
    """Run the program, which prints to sys.stdout and ends with SystemExit or returns; exits with 1 after an error."""
    _open_closed_descriptors()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stdout = _standard_output()
    try:
        try:
            program()
        finally:
            sys.stdout.flush()
    except OutputError as error:
        print(f"tilebeam: {error}", file=sys.stderr)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the interpreter flushes it once more
        os.dup2(sys.stdout.fileno(), 1)
        raise SystemExit(1) from None


def _standard_output() -> io.TextIOWrapper:
    encoding, buffering = getattr(sys.stdout, "encoding", "utf-8"), getattr(sys.stdout, "line_buffering", False)
    # An int, because the object that Python made of descriptor 1 keeps it open.
    raw = _Output(1 if sys.stdout is not None else os.open(os.devnull, os.O_RDONLY), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=buffering
    )


def _open_closed_descriptors() -> None:
    """Let no file that the program opens later get the number of a standard stream that is closed."""
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(descriptor)
