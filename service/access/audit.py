"""Who asked about which picture and what they were told, a line for each; never the picture, its EXIF or its name.

The picture is its SHA-256: enough to say later whether a given file was asked about, useless to see what was on it.
The answer is its tile at zoom 8 at most (157 km wide at the equator): enough to see a pattern of misuse, too coarse to
be a second copy of where somebody lives.
"""

import datetime
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request

from service.errors import AuditError, SettingsError, problem_type_of

__all__ = ["MAX_ZOOM", "Audit", "Seen", "Trail", "coarse_tile", "sha256_of"]

MAX_ZOOM = 8

_log = logging.getLogger("tilebeam.audit")


class Audit:
    """Where the lines go: a file, appended to and opened anew by `reopen`, or the logger `tilebeam.audit`."""

    def __init__(self, file: str) -> None:
        self._path = Path(file) if file else None
        self._descriptor = -1
        try:
            self.reopen()
        except OSError as exc:
            raise SettingsError(
                f"TILEBEAM_AUDIT_FILE={file!r} cannot be appended to ({exc.strerror}); name a file that can"
            ) from exc

    def reopen(self) -> None:
        """Open the file of that name again: the old one may have been moved away. Raises OSError."""
        if self._path:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.close()
            self._descriptor = descriptor

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def trail(self, request: Request) -> "Trail":
        """What is the same in every line of a request."""
        state = request.state
        route = getattr(request.scope.get("route"), "path", "")
        return Trail(self, {"request_id": state.request_id, "key": state.caller.key, "route": route})

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; raises AuditError, for an answer that cannot be written down must not be given."""
        if not self._path:
            _log.info("picture", extra={"fields": line})
            return
        text = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            # One write a line: several processes may append to one file.
            if os.write(self._descriptor, text) < len(text):
                raise OSError(0, "not all of it was taken")
        except OSError as exc:
            _log.error("an audit line cannot be written: %s", exc.strerror)
            raise AuditError("the audit log cannot be written, so the answer is withheld; try again later") from exc


class Trail:
    """The audit of one request's pictures."""

    def __init__(self, audit: Audit, common: dict[str, Any]) -> None:
        self._audit = audit
        self._common = common

    @contextmanager
    def picture(self) -> Iterator["Seen"]:
        """Write one picture's line when the block ends, well or not. Raises AuditError instead of ending well."""
        seen = Seen()
        try:
            yield seen
        except BaseException as error:
            if seen.sha256:  # nobody looked at one that was not read
                with suppress(AuditError):  # nothing was disclosed, and the log says it
                    self.write(seen.sha256, error)
            raise
        self.write(seen.sha256, seen.answer)

    def write(self, sha256: str | None, outcome: dict[str, Any] | BaseException) -> None:
        """One picture's line: the answer's tile, or the last word of the problem's type. Raises AuditError."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, **self._common, "sha256": sha256}
        if isinstance(outcome, dict):
            line["tile"] = coarse_tile(outcome)
        else:
            line["problem"] = problem_type_of(outcome).slug if isinstance(outcome, Exception) else "given-up"
        self._audit.write(line)


class Seen:
    """One picture's hash, made where its bytes are read, and the answer that it was given."""

    def __init__(self) -> None:
        self.sha256: str | None = None
        self.answer: dict[str, Any] = {}

    def read(self, data: bytes) -> bytes:
        """The same bytes, noted. Slow for large ones: to be called where they are decoded."""
        self.sha256 = sha256_of(data)
        return data


def sha256_of(data: bytes) -> str:
    """What the audit calls a picture, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def coarse_tile(answer: dict[str, Any]) -> dict[str, int] | None:
    """The answer's tile at MAX_ZOOM, or the deepest that is not deeper; of deeper ones, what contains them."""
    levels = answer.get("levels") or []
    if not levels:
        return None
    kept = [level["tile"] for level in levels if level["zoom"] <= MAX_ZOOM]
    tile = kept[-1] if kept else levels[0]["tile"]
    up = max(0, tile["z"] - MAX_ZOOM)
    return {"z": tile["z"] - up, "x": tile["x"] >> up, "y": tile["y"] >> up}
