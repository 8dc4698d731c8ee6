"""A pool of connections to one SQLite file, for many threads. The only module that imports sqlite3.

A connection serves one caller at a time and then returns to the pool; after a fork the child process opens its own.
sqlite3's errors become StoreError here. A file may come from a stranger: values have a largest size, and with a
deadline no query runs for ever, whatever its views compute. Knows nothing of tiles.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection

from tile_cache.errors import StoreError

__all__ = ["MAX_VALUE_BYTES", "Connection", "Database", "enter_wal_mode", "is_writable", "lost_log"]

BUSY_S = 60.0
"""Seconds to wait for another process's transaction."""

MAX_VALUE_BYTES = 33 << 20
"""Largest row or value that is read or written."""

_INSTRUCTIONS = 20_000  # of SQLite's machine between two looks at the clock: about a millisecond


class Database:
    """A pool of connections to one file. Raises StoreError for every error of sqlite3.

    `deadline_s`: longest time that a connection is lent, in seconds; its query is interrupted then. None: no limit.
    """

    def __init__(self, path: Path, *, read_only: bool, deadline_s: float | None = None) -> None:
        self.path = path
        self.read_only = read_only
        self.deadline_s = deadline_s
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._inherited: list[Connection] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection to one caller. It returns to the pool afterwards, or is closed if the caller raised."""
        if self._closed:
            raise StoreError(f"{self.path} is closed: open it again")
        if self._pid != os.getpid():
            # A connection must not be used or closed in the child of a fork.
            self._inherited, self._idle, self._pid = self._idle, [], os.getpid()
        with self._translated():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            self._limit_time(connection)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection within one write transaction, which is committed whole or not at all."""
        if self.read_only:
            raise StoreError(f"{self.path} is open for reading only: open it for writing")
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def close(self) -> None:
        """Close the idle connections now, and each lent one when its caller is done."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _limit_time(self, connection: Connection) -> None:
        if self.deadline_s is not None:
            end = time.monotonic() + self.deadline_s
            connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)

    def _connect(self) -> Connection:
        if not self.read_only:
            return self._open("rwc")
        connection = self._open("ro")
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            # Write-ahead mode needs to create files beside the database. If the folder is read-only, nobody can be
            # writing, so the file may be opened as immutable, unless there is a log: its contents must be read too.
            if is_writable(self.path) or _has_content(_log_of(self.path)):
                raise
            connection = self._open("ro&immutable=1")
        return connection

    def _open(self, mode: str) -> Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.execute("PRAGMA trusted_schema = OFF")  # a view must not call functions with side effects
        if not self.read_only:
            # A power cut may lose the last transactions but cannot damage the file; a killed process loses none.
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:  # damaged text cannot be decoded
            raise StoreError(f"{self.path}: {self._explained(exc)}") from exc

    def _explained(self, exc: Exception) -> str:
        text = str(exc)
        if "locked" in text or "busy" in text:
            return f"locked by another process for over {BUSY_S:.0f} s; end that process, or run this again later"
        if "full" in text:
            return "the disk is full; stored tiles are kept, so free some space and run this again"
        if "interrupted" in text:
            return (
                f"a query took over {self.deadline_s:g} s: it has no index for its tiles, or its views compute them;"
                " copy the tiles into a plain table with a unique index (zoom_level, tile_column, tile_row)"
            )
        if "too big" in text:
            return f"it holds a value over {MAX_VALUE_BYTES:,} bytes, which no tile has: repair the file"
        if "readonly" in text or ("unable to open" in text and not is_writable(self.path)):
            log = _log_of(self.path)
            beside = f", and {log.name} beside it holds writes that are not merged yet" if _has_content(log) else ""
            return (
                f"the file, its folder or its disk is read-only{beside}: copy it to a folder that can be written"
                f" ({self.path.name} and what begins with {self.path.name}-), or change the permissions"
            )
        lost = lost_log(self.path)
        if "no such" in text:
            return f"not laid out as MBTiles ({text}){lost}"
        return f"damaged or cannot be opened ({text}){lost}; restore a copy, or delete it and fetch again"


def is_writable(path: Path) -> bool:
    """Whether a database can be written: the file, if there is one, and its folder, for the log beside it."""
    return (not path.exists() or os.access(path, os.W_OK)) and os.access(path.absolute().parent, os.W_OK)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def lost_log(path: Path) -> str:
    """What to say of a file that keeps a write-ahead log and has none beside it; empty for another file."""
    try:
        with path.open("rb") as file:
            keeps_log = file.read(20)[18:20] == b"\2\2"
    except OSError:
        return ""
    if not keeps_log or _has_content(_log_of(path)):  # reading creates an empty one
        return ""
    return (
        f"; if it was copied, {path.name}-wal was left behind, which holds the last writes: copy both,"
        " or let the program that writes end first"
    )


def enter_wal_mode(c: Connection) -> None:
    """Switch the file to write-ahead mode permanently. SQLite does not wait for other processes here, so this does."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            c.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
