"""One SQLite file, many threads: a pool of connections whose errors are ours. Home of sqlite3.

A connection serves one caller at a time and goes back to the pool; after a fork the child opens its own. Knows
nothing of tiles.
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
"""Seconds to wait for another process's transaction before giving up."""


class Database:
    """A pool of connections to one file; sqlite3's errors leave it as StoreError."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._inherited: list[Connection] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One connection for one caller; put back when the caller is done, closed when it failed."""
        if self._closed:
            raise StoreError(f"{self.path} was closed; open it again to read it")
        if self._pid != os.getpid():
            # A connection must not be used, nor even closed, on the other side of a fork.
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
        """A connection inside one write transaction: all of it is kept or nothing."""
        if self.read_only:
            raise StoreError(f"{self.path} is open for reading only")
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def close(self) -> None:
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
            # Write-ahead mode needs files beside the database; in a folder that cannot be written there are none,
            # and then nobody writes either. A log that does exist must be read, so that case stays an error.
            log = self.path.with_name(self.path.name + "-wal")
            if os.access(self.path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
                raise
            connection = self._open("ro&immutable=1")
        return connection

    def _open(self, mode: str) -> Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        if not self.read_only:
            # A power cut may take the last transactions with it, but not the file; a killed process takes none.
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:  # damaged text comes back undecodable
            raise StoreError(f"{self.path}: {_explained(exc)}") from exc


def _explained(exc: Exception) -> str:
    text = str(exc)
    if "locked" in text or "busy" in text:
        return f"locked by another process for over {BUSY_S:.0f} s; end that one, or run this again later"
    if "full" in text:
        return "the disk is full; what was kept before stays, so free some space and run this again"
    if "no such" in text:
        return f"not laid out as MBTiles ({text})"
    return f"damaged or not to be opened ({text}); restore a copy, or delete it and fetch again"


def enter_wal_mode(c: Connection) -> None:
    """Switch to write-ahead mode for good; unlike statements, this does not wait for other processes by itself."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            c.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
