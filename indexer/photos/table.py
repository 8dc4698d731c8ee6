"""Tables as rows of text cells, one row at a time: CSV in its dialects, and Parquet. Knows nothing of photos.

`open_table` is the entry point. A malformed row (an unclosed quote, too few fields) becomes one record with a fault and
does not affect its neighbours. Only regular files are opened, and lines and rows are bounded.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from indexer.errors import PhotoSetError
from indexer.photos.parquet import MAGIC, ParquetTable
from indexer.photos.records import MAX_ROWS, Record, Table, too_many_rows
from retrieval.files import open_regular

__all__ = ["TextTable", "open_table"]

_MAX_ROW_LINES = 32
"""A quoted cell may hold line breaks; a quote that is still open after so many lines is taken to be stray."""
_MAX_LINE = 1 << 20
"""Characters of a line."""
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'\s*"?sep=([^\s"]|\t)"?[,;|\t]*\s*$', re.IGNORECASE)
"""The first line that Excel writes and reads, which names the delimiter."""
_HEAD_BYTES = 1 << 16


def open_table(path: Path) -> Table:
    """Open a table; its format and encoding are detected from the first bytes.

    Raises PhotoSetError for a file that is unreadable, not regular, empty or not a table.
    """
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise PhotoSetError(f"{path} cannot be read ({reason}): give a folder, or a file that is a table") from exc
    if head.startswith(MAGIC):
        return ParquetTable(path)
    return TextTable(path, _encoding(path, head))


def _encoding(path: Path, head: bytes) -> str:
    """UTF-8, or the UTF-16 in which spreadsheets write `Unicode text`. Raises PhotoSetError for other bytes."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise PhotoSetError(f"{path} is text in UTF-32: save it as UTF-8")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    first = head.partition(b"\n")[0][:512]
    if b"\0" not in first:
        return "utf-8-sig"
    for zeros, encoding in ((first[1::2], "utf-16-le"), (first[0::2], "utf-16-be")):
        if len(first) >= 8 and not zeros.strip(b"\0") and first.count(b"\0") == len(zeros):
            return encoding
    raise PhotoSetError(f"{path} is not a table: give a CSV in UTF-8, a Parquet file, or a folder of pictures")


class TextTable:
    """A CSV whose header decides the delimiter (comma, semicolon, tab or bar), unless a line `sep=;` above it does.

    It is UTF-8 with or without a byte order mark, or UTF-16, and may have any line ends.
    """

    def __init__(self, path: Path, encoding: str = "utf-8-sig") -> None:
        self._path, self._encoding, self._header_lines = path, encoding, 1
        with self._open() as stream:
            lines = (text for _, text in _numbered(stream, path) if text.strip())
            first = next(lines, "")
            named = _SEPARATOR_LINE.match(first)
            if named is not None:
                first, self._header_lines = next(lines, ""), 2
        if not first:
            raise PhotoSetError(f"{path} is empty: a header and rows are expected")
        self._delimiter = (
            named[1]
            if named is not None
            else max(_DELIMITERS, key=lambda d: (len(_fields(first, d) or ()), -_DELIMITERS.index(d)))
        )
        self.columns = tuple(_fields(first, self._delimiter) or ())

    def without_header(self, columns: Sequence[str]) -> "TextTable":
        """The same table with its first row taken as data, and these names for its columns."""
        self._header_lines, self.columns = self._header_lines - 1, tuple(columns[: len(self.columns)])
        return self

    def rows(self, wanted: Sequence[int | None]) -> Iterator[Record]:
        """See Table. Blank lines are skipped. A wanted cell holds no line break."""
        with self._open() as stream:
            lines = _numbered(stream, self._path)
            records = _records(lines, self._delimiter, len(self.columns), wanted, skip=self._header_lines)
            for count, record in enumerate(records):
                if count >= MAX_ROWS:
                    raise too_many_rows(self._path)
                yield record

    def _open(self) -> TextIO:
        # Undecodable bytes become lone surrogates, so that they spoil one row and not the file. UTF-16 has no such way.
        errors = "surrogateescape" if self._encoding == "utf-8-sig" else "replace"
        try:
            return TextIOWrapper(open_regular(self._path), encoding=self._encoding, errors=errors, newline="")
        except OSError as exc:
            raise PhotoSetError(f"{self._path} cannot be read ({exc.strerror})") from exc


def _numbered(stream: TextIO, path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1. Raises PhotoSetError for a line of more than _MAX_LINE characters."""
    number = 0
    while text := stream.readline(_MAX_LINE + 1):
        number += 1
        if len(text) > _MAX_LINE:
            raise PhotoSetError(f"{path} is not a table: line {number:,} has more than {_MAX_LINE:,} characters")
        yield number, text


def _records(
    numbered: Iterator[tuple[int, str]], delimiter: str, columns: int, wanted: Sequence[int | None], skip: int
) -> Iterator[Record]:
    lines = ((number, text) for number, text in numbered if text.strip())
    for _ in range(skip):
        next(lines, None)
    put_back: deque[tuple[int, str]] = deque()
    while (line := put_back.popleft() if put_back else next(lines, None)) is not None:
        number, text = line
        fields = _fields(text, delimiter)
        if fields is None and text.count('"') % 2:
            fields = _over_lines(line, put_back, lines, delimiter, wanted)
        if fields is None:
            yield Record(number, None, "its quotes do not match")
        elif len(fields) != columns:
            commas = delimiter == "," and len(fields) == columns + 2
            hint = "; decimal commas need quotes, or semicolons between fields" if commas else ""
            yield Record(number, None, f"{len(fields)} fields, where the header has {columns}{hint}")
        else:
            yield Record(number, tuple("" if i is None else fields[i] for i in wanted))


def _over_lines(
    first: tuple[int, str],
    put_back: deque[tuple[int, str]],
    lines: Iterator[tuple[int, str]],
    delimiter: str,
    wanted: Sequence[int | None],
) -> list[str] | None:
    """The fields of a row whose quoted cells hold line breaks; None, with the lines put back, if it is not one."""
    taken = [first]
    while len(taken) < _MAX_ROW_LINES and (line := put_back.popleft() if put_back else next(lines, None)) is not None:
        taken.append(line)
        if line[1].count('"') % 2:  # an even number leaves the quote open
            fields = _fields("".join(text for _, text in taken), delimiter)
            if fields is not None and not any("\n" in fields[i] for i in wanted if i is not None and i < len(fields)):
                return fields
            break
    put_back.extendleft(reversed(taken[1:]))
    return None


def _fields(text: str, delimiter: str) -> list[str] | None:
    """A line's fields, or None if its quotes do not match."""
    if '"' not in text:
        return text.rstrip("\r\n").split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None
