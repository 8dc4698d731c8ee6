"""A pool of connections to one SQLite file, for many threads. The only module that imports sqlite3.

A connection serves one caller at a time and then returns to the pool; after a fork the child process opens its own.
sqlite3's errors become StoreError here. Knows nothing of tiles.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection

from tile_cache.errors import StoreError

__all__ = ["Connection", "Database", "enter_wal_mode"]

BUSY_S = 60.0
"""Seconds to wait for another process's transaction."""


class Database:
    """A pool of connections to one file. Raises StoreError for every error of sqlite3."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
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
            log = self.path.with_name(self.path.name + "-wal")
            if os.access(self.path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
                raise
            connection = self._open("ro&immutable=1")
        return connection

    def _open(self, mode: str) -> Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        if not self.read_only:
            # A power cut may lose the last transactions but cannot damage the file; a killed process loses none.
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:  # damaged text cannot be decoded
            raise StoreError(f"{self.path}: {_explained(exc)}") from exc


def _explained(exc: Exception) -> str:
    text = str(exc)
    if "locked" in text or "busy" in text:
        return f"locked by another process for over {BUSY_S:.0f} s; end that process, or run this again later"
    if "full" in text:
        return "the disk is full; stored tiles are kept, so free some space and run this again"
    if "no such" in text:
        return f"not laid out as MBTiles ({text})"
    return f"damaged or cannot be opened ({text}); restore a copy, or delete it and fetch again"


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
