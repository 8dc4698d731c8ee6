"""Parquet tables, read in batches of the columns that are asked for. One of the homes of pyarrow."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from indexer.errors import PhotoSetError
from indexer.photos.tables import Record

__all__ = ["ParquetTable"]

_BATCH_ROWS = 1 << 16


class ParquetTable:
    """A Parquet file as a table of text; raises PhotoSetError for a file that is damaged, or without pyarrow."""

    decimal_comma = False

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
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
        names = [self._scalar(i) for i in wanted if i is not None]
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

    def _scalar(self, column: int) -> str:
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
            column = column.cast(self._arrow.large_binary())  # so that one undecodable cell spoils no batch
        return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():  # ids that went through a column with gaps
        return str(int(value))
    return str(value)
