"""A Parquet file as a table of text, within bounds that its footer is checked against before any row is read.

A few kilobytes of Parquet can hold millions of rows, or gigabytes of text: rows, bytes a row group and the cells of
repeated values are bounded. Knows nothing of photos.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from indexer.errors import PhotoSetError
from indexer.photos.records import MAX_ROWS, Record, too_many_rows
from retrieval.files import open_regular

__all__ = ["MAGIC", "ParquetTable"]

MAGIC = b"PAR1"
_MAX_FOOTER = 1 << 24
"""Bytes of the footer; that of a file of 1,000 columns in 100 row groups has fewer."""
_MAX_GROUP = 1 << 28
"""Bytes of the wanted columns in one row group, unpacked."""
_BATCH_ROWS = 1 << 16
_DELTA = "DELTA_"
"""The encodings in one of which a cell repeats the beginning of the one before, so that a byte stands for many."""


class ParquetTable:
    """A Parquet file, read in batches of the wanted columns, as a table of text.

    Raises PhotoSetError for a damaged file or one beyond the bounds, and if pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # loads slowly, and only the extra `learn` installs it
        except ImportError as exc:
            raise PhotoSetError(f"{path} is Parquet, which needs pyarrow: pip install 'tilebeam[learn]'") from exc
        self._path, self._arrow = path, pa
        _check_footer(path)
        self._file = self._open(())
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        if self._file.metadata.num_rows > MAX_ROWS:
            raise too_many_rows(path, self._file.metadata.num_rows)

    def rows(self, wanted: Sequence[int | None]) -> Iterator[Record]:
        """See Table. Numbers become the shortest text that reads back as the same number, null becomes ""."""
        names = list(dict.fromkeys(self._scalar_column(i) for i in wanted if i is not None))
        sizes, deltas = self._sizes(names), self._deltas(names)
        batch_rows = min([_BATCH_ROWS, *(max(1, _MAX_GROUP // max(1, sizes[name])) for name in deltas)])
        line = 2
        try:
            # Repeated texts stay one text: otherwise a dictionary of one long cell would be unpacked for every row.
            file = self._open(tuple(name for name in names if self._is_text(name) and name not in deltas))
            for batch in file.iter_batches(batch_size=batch_rows, columns=names):
                texts = {name: self._texts(batch.column(name)) for name in batch.schema.names}
                blank = [""] * batch.num_rows
                columns = [blank if i is None else texts[self.columns[i]] for i in wanted]
                for cells in zip(*columns, strict=True):
                    yield Record(line, cells)
                    line += 1
                if line > MAX_ROWS + 2:  # the footer counted fewer
                    raise too_many_rows(self._path)
        except (self._arrow.ArrowException, OSError, MemoryError) as exc:
            raise PhotoSetError(f"{self._path} is damaged at about row {line:,} ({exc})") from exc

    def _open(self, as_dictionary: tuple[str, ...]) -> Any:
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(
                self._path,
                read_dictionary=list(as_dictionary),
                thrift_string_size_limit=_MAX_FOOTER,
                thrift_container_size_limit=1_000_000,
            )
        except (self._arrow.ArrowException, OSError, MemoryError) as exc:
            raise PhotoSetError(f"{self._path} is a damaged Parquet file ({str(exc)[:200]})") from exc

    def _sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes of each column in its largest row group, unpacked; raises PhotoSetError for too many together."""
        sizes = dict.fromkeys(names, 0)
        for group in range(self._file.metadata.num_row_groups):
            own = {column.path_in_schema: column.total_uncompressed_size for column in self._chunks(group, names)}
            total = sum(max(0, size) for size in own.values())
            if total > _MAX_GROUP:
                raise PhotoSetError(
                    f"{self._path}: {', '.join(names)} take {total:,} bytes in row group {group}, at most "
                    f"{_MAX_GROUP:,} are read: write it with smaller row groups, or as CSV"
                )
            sizes = {name: max(size, own.get(name, 0)) for name, size in sizes.items()}
        return sizes

    def _deltas(self, names: Sequence[str]) -> set[str]:
        """The columns in which a cell may repeat the one before, and is as long as the whole column at most."""
        groups = range(self._file.metadata.num_row_groups)
        chunks = (column for group in groups for column in self._chunks(group, names))
        return {c.path_in_schema for c in chunks if any(encoding.startswith(_DELTA) for encoding in c.encodings)}

    def _chunks(self, group: int, names: Sequence[str]) -> Iterator[Any]:
        """The metadata of these columns in a row group."""
        metadata = self._file.metadata
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema in names:
                yield column

    def _is_text(self, name: str) -> bool:
        kind, types = self._file.schema_arrow.field(name).type, self._arrow.types
        return bool(
            types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
        )

    def _scalar_column(self, column: int) -> str:
        """The name of a column; raises PhotoSetError if its values are not scalars."""
        field = self._file.schema_arrow.field(column)
        if self._arrow.types.is_nested(field.type):
            raise PhotoSetError(
                f"column {field.name!r} of {self._path} holds {field.type}: pictures inside a Parquet file are not "
                "read; write them out as files and give a column with their paths"
            )
        if self.columns.count(field.name) > 1:
            raise PhotoSetError(f"{self._path} has several columns {field.name!r}: rename them")
        return str(field.name)

    def _texts(self, column: Any) -> list[str]:
        if self._arrow.types.is_dictionary(column.type):
            texts = [*self._texts(column.dictionary), ""]
            return [texts[-1 if i is None else i] for i in column.indices.to_pylist()]
        if self._is_unicode(column.type):
            column = column.cast(self._arrow.large_binary())  # so that one undecodable cell does not spoil the batch
        return [_text(value) for value in column.to_pylist()]

    def _is_unicode(self, kind: Any) -> bool:
        return bool(self._arrow.types.is_string(kind) or self._arrow.types.is_large_string(kind))


def _check_footer(path: Path) -> None:
    """Raise PhotoSetError if the footer, which is read as a whole, is too long or lies beyond the file."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - 8))
            tail = stream.read(8)
    except OSError as exc:
        raise PhotoSetError(f"{path} cannot be read ({exc})") from exc
    length = int.from_bytes(tail[:4], "little")
    if not tail.endswith(MAGIC) or length > size - 12:
        raise PhotoSetError(f"{path} is a damaged Parquet file (it does not end with a footer): copy it again")
    if length > _MAX_FOOTER:
        raise PhotoSetError(f"{path}: its footer has {length:,} bytes, at most {_MAX_FOOTER:,} are read")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():  # integer ids in a column with nulls are stored as floats
        return str(int(value))
    return str(value)
