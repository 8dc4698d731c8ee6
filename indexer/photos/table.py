"""Tables as rows of text cells, one row at a time: CSV in its dialects, and Parquet. Knows nothing of photos.

`open_table` is the entry point. A malformed row (an unclosed quote, too few fields) becomes one record with a fault and
does not affect its neighbours. This is one of the homes of pyarrow.
"""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from indexer.errors import PhotoSetError

__all__ = ["ParquetTable", "Record", "Table", "TextTable", "open_table"]

_MAX_ROW_LINES = 32
"""A quoted cell may hold line breaks; a quote that is still open after so many lines is taken to be stray."""
_DELIMITERS = ",;\t|"
_BATCH_ROWS = 1 << 16


class Record(NamedTuple):
    """A row: its line and its cells, or its fault. The header is line 1; Parquet counts as if it had a header line."""

    line: int
    cells: tuple[str, ...] | None
    fault: str = ""


class Table(Protocol):
    """A table from which a photo set is read."""

    columns: tuple[str, ...]
    decimal_comma: bool
    """Whether numbers may be written as 48,85."""

    def rows(self, wanted: Sequence[int | None]) -> Iterator[Record]:
        """Every row, with the cells of the wanted columns in the order of `wanted`, "" for None."""
        ...


def open_table(path: Path) -> Table:
    """Open a table; its format is detected from the first bytes.

    Raises PhotoSetError for a file that is unreadable, empty or not a table.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(1 << 16)
    except (OSError, ValueError) as exc:
        raise PhotoSetError(f"{path} cannot be read ({exc})") from exc
    if head.startswith(b"PAR1"):
        return ParquetTable(path)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PhotoSetError(f"{path} is UTF-16: save it as CSV in UTF-8")
    if b"\0" in head.partition(b"\n")[0]:
        raise PhotoSetError(f"{path} is not a table but begins with {head[:16]!r}: give a CSV or Parquet file")
    return TextTable(path)


class TextTable:
    """A CSV whose header decides the delimiter (comma, semicolon, tab or bar).

    It is UTF-8 with or without a byte order mark, and may have any line ends.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._header_lines = path, 1
        with self._open() as stream:
            lines = enumerate(stream, start=1)
            first = next((text for _, text in lines if text.strip()), "")
        if not first:
            raise PhotoSetError(f"{path} is empty: a header and rows are expected")
        self._delimiter = max(_DELIMITERS, key=lambda d: (len(_fields(first, d) or ()), -_DELIMITERS.index(d)))
        self.columns = tuple(_fields(first, self._delimiter) or ())
        self.decimal_comma = self._delimiter == ";"

    def without_header(self, columns: Sequence[str]) -> "TextTable":
        """The same table with its first row taken as data, and these names for its columns."""
        self._header_lines, self.columns = 0, tuple(columns[: len(self.columns)])
        return self

    def rows(self, wanted: Sequence[int | None]) -> Iterator[Record]:
        """See Table. Blank lines are skipped. A wanted cell holds no line break."""
        with self._open() as stream:
            yield from _records(stream, self._delimiter, len(self.columns), wanted, skip=self._header_lines)

    def _open(self) -> TextIO:
        # Undecodable bytes become lone surrogates, so that they spoil one row and not the file.
        return open(self._path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _records(stream: TextIO, delimiter: str, columns: int, wanted: Sequence[int | None], skip: int) -> Iterator[Record]:
    lines = ((number, text) for number, text in enumerate(stream, start=1) if text.strip())
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
            yield Record(number, None, f"{len(fields)} fields, where the header has {columns}")
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


class ParquetTable:
    """A Parquet file, read in batches of the wanted columns, as a table of text.

    Raises PhotoSetError for a damaged file, and if pyarrow is not installed.
    """

    decimal_comma = False

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # loads slowly, and only the extra `learn` installs it
            import pyarrow.parquet as pq
        except ImportError as exc:
            raise PhotoSetError(f"{path} is Parquet, which needs pyarrow: pip install 'tilebeam[learn]'") from exc
        self._path, self._arrow = path, pa
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as exc:
            raise PhotoSetError(f"{path} is a damaged Parquet file ({exc})") from exc
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)

    def rows(self, wanted: Sequence[int | None]) -> Iterator[Record]:
        """See Table. Numbers become the shortest text that reads back as the same number, null becomes ""."""
        names = [self._scalar_column(i) for i in wanted if i is not None]
        line = 2
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(names))):
                texts = {name: self._texts(batch.column(name)) for name in batch.schema.names}
                blank = [""] * batch.num_rows
                columns = [blank if i is None else texts[self.columns[i]] for i in wanted]
                for cells in zip(*columns, strict=True):
                    yield Record(line, cells)
                    line += 1
        except (self._arrow.ArrowException, OSError) as exc:
            raise PhotoSetError(f"{self._path} is damaged at about row {line:,} ({exc})") from exc

    def _scalar_column(self, column: int) -> str:
        """The name of a column; raises PhotoSetError if its values are not scalars."""
        field = self._file.schema_arrow.field(column)
        if self._arrow.types.is_nested(field.type):
            raise PhotoSetError(
                f"column {field.name!r} of {self._path} holds {field.type}: pictures inside a Parquet file are not "
                "read; write them out as files and give a column with their paths"
            )
        return str(field.name)

    def _texts(self, column: Any) -> list[str]:
        types = self._arrow.types
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if types.is_string(column.type) or types.is_large_string(column.type):
            column = column.cast(self._arrow.large_binary())  # so that one undecodable cell does not spoil the batch
        return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():  # integer ids in a column with nulls are stored as floats
        return str(int(value))
    return str(value)
