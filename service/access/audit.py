"""The audit log: one line per picture with who sent it and which area the answer named.

It never contains the picture, its EXIF data or its file name. The picture is recorded as its SHA-256: this proves later
whether a given file was sent, but does not reveal its content. The answer is recorded as its tile at zoom 8 at most
(157 km wide at the equator): this shows patterns of misuse, but not where somebody lives.
"""

import datetime
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request

from service.errors import AuditError, SettingsError, problem_type_of
from service.ops.line_writer import LineWriter
from service.ops.logs import AUDIT_LOGGER, AuditHandler

MAX_ZOOM = 8

_log = logging.getLogger(AUDIT_LOGGER)
_service_log = logging.getLogger("tilebeam.service")


class Hashed(Protocol):
    """A picture; `sha256` is None until its bytes were read."""

    sha256: str | None


class Entry:
    """One picture's audit entry; set `answer` before its block ends."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {}


class Audit:
    """Destination of the lines: a file that is appended to, or the logger `tilebeam.audit`, at any level of the log."""

    def __init__(self, file: str) -> None:
        self._path = Path(file) if file else None
        self._writer: LineWriter | None = None
        if not file:
            _log.setLevel(logging.INFO)
            if not _log.hasHandlers():  # an app in a process that does not log
                _log.addHandler(AuditHandler(LineWriter(sys.stderr.fileno())))
        try:
            self.reopen()
        except OSError as exc:
            raise SettingsError(
                f"TILEBEAM_AUDIT_FILE={file!r} cannot be appended to ({exc.strerror}); set a writable file"
            ) from exc

    def reopen(self) -> None:
        """Open the file again by name, because log rotation may have renamed it. Raises OSError."""
        if self._path:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.close()
            self._writer = LineWriter(descriptor, is_torn=_ends_within_a_line(self._path))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            os.close(self._writer.descriptor)
            self._writer = None

    def trail(self, request: Request) -> "Trail":
        """The trail of one request: its lines share the request id, the key and the route."""
        state = request.state
        route = getattr(request.scope.get("route"), "path", "")
        return Trail(self, {**state.ids, "key": state.caller.key, "route": route})

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; raises AuditError, because an answer must not be sent without its line."""
        try:
            if self._path is None:
                _log.info("picture", extra={"fields": line})
            elif self._writer is None or not self._writer.write(json.dumps(line, allow_nan=False).encode() + b"\n"):
                raise OSError(0, "the line was written only in part")
        except OSError as exc:
            _service_log.error("an audit line cannot be written: %s", exc.strerror)
            raise AuditError("the audit log cannot be written, so the answer is withheld; try again later") from exc


def _ends_within_a_line(path: Path) -> bool:
    """Whether a file ends in the middle of a line, as a full disk or a crash leaves it."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1))
            return file.read() not in (b"", b"\n")
    except OSError:  # a file that may be appended to, but not read
        return False


class Trail:
    """Writes the audit lines of one request's pictures."""

    def __init__(self, audit: Audit, common: dict[str, Any]) -> None:
        self._audit = audit
        self._common = common

    @contextmanager
    def picture(self, photo: Hashed) -> Iterator[Entry]:
        """Write the line of one picture when the block ends, with its answer or its error.

        Raises AuditError if an answer's line cannot be written.
        """
        entry = Entry()
        try:
            yield entry
        except BaseException as error:
            if photo.sha256:  # otherwise the picture was not read, and there is nothing to record
                with suppress(AuditError):  # no answer was disclosed, and the log has the failure
                    self.write(photo.sha256, error)
            raise
        self.write(photo.sha256, entry.answer)

    def write(self, sha256: str | None, outcome: dict[str, Any] | BaseException) -> None:
        """Write one line: the answer's tile, or the last word of the problem's type. Raises AuditError."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, **self._common, "sha256": sha256}
        if isinstance(outcome, dict):
            line["tile"] = coarse_tile(outcome)
        else:
            line["problem"] = problem_type_of(outcome).slug if isinstance(outcome, Exception) else "given-up"
        self._audit.write(line)


def coarse_tile(answer: dict[str, Any]) -> dict[str, int] | None:
    """The answer's deepest tile at zoom MAX_ZOOM or above; if all are deeper, the MAX_ZOOM tile that contains them."""
    levels = answer.get("levels") or []
    if not levels:
        return None
    coarse = [level["tile"] for level in levels if level["zoom"] <= MAX_ZOOM]
    tile = coarse[-1] if coarse else levels[0]["tile"]
    up = max(0, tile["z"] - MAX_ZOOM)
    return {"z": tile["z"] - up, "x": tile["x"] >> up, "y": tile["y"] >> up}
