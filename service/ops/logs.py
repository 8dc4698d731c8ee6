"""Logging as JSON lines on stderr. A line contains the route's template, never path, query, address or picture.

Lines are written by a thread, so that a stderr that nobody reads does not stop the service; what does not fit is
dropped and counted. Audit lines are written at once, and the caller gets an error where that is not possible.
"""

import contextvars
import datetime
import json
import logging
import sys
import threading
import warnings
from typing import Any

from service.ops.line_writer import BackgroundLines, LineWriter

AUDIT_LOGGER = "tilebeam.audit"
START_LOGGER = "tilebeam.start"

request_ids: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("tilebeam_request_ids")
"""The ids of the request that is being worked on, as items of its log lines."""


class JsonLines(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message, request_id, and the items of `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= request_ids.get({})
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class _StderrHandler(logging.Handler):
    """Writes to stderr. A command line's test runner replaces `sys.stderr` by an object without a descriptor."""

    def __init__(self, writer: LineWriter | None) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._writer = writer

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode() + b"\n"


class LogHandler(_StderrHandler):
    """Hands records to a thread that writes them."""

    def __init__(self, writer: LineWriter | None) -> None:
        super().__init__(writer)
        self._lines = None if writer is None else BackgroundLines(writer, self._dropped)
        self.addFilter(lambda record: record.name != AUDIT_LOGGER)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record."""
        try:
            if self._lines is None:
                sys.stderr.write(self._line(record).decode())
            else:
                self._lines.put(self._line(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what is queued, within two seconds."""
        if self._lines is not None:
            self._lines.close()
        super().close()

    def _dropped(self, count: int) -> bytes:
        message = "log lines were dropped, because stderr was not read fast enough"
        record = logging.LogRecord("tilebeam.log", logging.WARNING, __file__, 0, message, None, None)
        record.fields = {"dropped": count}
        return self._line(record)


class AuditHandler(_StderrHandler):
    """Writes an audit line at once; raises OSError, through the logger, where that is not possible."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if self._writer is None:
            sys.stderr.write(self._line(record).decode())
        elif not self._writer.write(self._line(record)):
            raise BlockingIOError("the line was written only in part")


def configure(level: str) -> None:
    """Write the service's log, and the warnings of uvicorn and all libraries, to stderr as JSON lines."""
    writer = _stderr_writer()
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, LogHandler):
            handler.close()
    root.handlers[:] = [LogHandler(writer)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # Pillow's warnings about pictures quote what was sent, and Python would keep every distinct text in memory.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("tilebeam").setLevel(level.upper())
    for name in (AUDIT_LOGGER, START_LOGGER):  # whatever the level of the log
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger(AUDIT_LOGGER).handlers[:] = [AuditHandler(writer)]


def capture_everything() -> None:
    """Make JSON lines of what libraries print to stderr by themselves. Call it once they are loaded.

    Some have a handler of their own for plain text, beside which the root's would write the same again. Errors that
    nothing catches in a thread or a destructor are printed by Python.
    """
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name != AUDIT_LOGGER:
            logger.handlers[:] = [each for each in logger.handlers if not _is_plain_stderr(each)]
            logger.propagate = True
    log = logging.getLogger("tilebeam.service")

    def in_thread(caught: threading.ExceptHookArgs) -> None:
        log.error("a thread ended", exc_info=caught.exc_value)

    def unraisable(caught: "sys.UnraisableHookArgs") -> None:
        log.error("an error that nothing could catch", exc_info=caught.exc_value)

    threading.excepthook, sys.unraisablehook = in_thread, unraisable


def say_started(message: str, audit_is_kept: bool) -> None:
    """Say where the service is: as a line of the log, or in words where a person reads it."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)
    else:
        logging.getLogger(START_LOGGER).info(message)
    if not audit_is_kept:
        logging.getLogger(START_LOGGER).warning(
            "other machines can reach this service, and its audit is part of this log: it is kept as long as the log "
            "is; set TILEBEAM_AUDIT_FILE to keep it in a file of its own"
        )


def _stderr_writer() -> LineWriter | None:
    try:
        return LineWriter(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _is_plain_stderr(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return isinstance(handler, logging.StreamHandler) and stream in (sys.stderr, sys.__stderr__)
