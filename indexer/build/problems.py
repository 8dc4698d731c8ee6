"""What was wrong with tiles, for people: `problems.jsonl` in the index, counts and examples in the report.

One JSON object a line: z, x, y, layer, reason. A tile that is simply not there has the reason "no imagery".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexer.build.decode import TileProblem
from indexer.build.rows import ZoomRows
from retrieval.files import write_atomically
from tile_cache.addressing import Tile, code_of_tile, tile_of_code

__all__ = ["PROBLEMS_NAME", "ProblemCounts", "write_problems"]

PROBLEMS_NAME = "problems.jsonl"
NO_IMAGERY = "no imagery"
_EXAMPLES = 10


@dataclass
class ProblemCounts:
    """`missing`: rows without imagery; `broken`: tiles (of source or overlay) that are there and are no image."""

    missing: int = 0
    broken: int = 0
    examples: list[TileProblem] = field(default_factory=list)

    def add(self, problem: TileProblem) -> None:
        """Count one, and keep it if it is among the first."""
        if problem.reason == NO_IMAGERY:
            self.missing += 1
        else:
            self.broken += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(problem)


def write_problems(directory: Path, zooms: list[ZoomRows]) -> ProblemCounts:
    """Write problems.jsonl if there is anything to write."""
    counts = ProblemCounts()

    def write(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as stream:
            for rows in zooms:
                for problem in _problems(rows):
                    counts.add(problem)
                    stream.write(json.dumps(problem._asdict()) + "\n")

    path = directory / PROBLEMS_NAME
    write_atomically(path, write)
    if not counts.missing + counts.broken:
        path.unlink()
    return counts


def _problems(rows: ZoomRows) -> Iterator[TileProblem]:
    """Each once: a broken tile stands in every unit whose margins it touches, so its own unit tells of it."""
    outside: set[TileProblem] = set()
    for number in range(rows.unit_count):
        unit = rows.original(number)
        stop = unit.first_row + len(unit.has_imagery)
        places = [(_row_of(rows, p), p) for p in unit.problems]
        own = {(row, p) for row, p in places if unit.first_row <= row < stop}
        outside.update(p for row, p in places if row < 0)
        broken = {row for row, p in own if p.layer == "source"}
        missing = [int(r) + unit.first_row for r in np.flatnonzero(~unit.has_imagery)]
        own |= {(row, _absent(rows, row)) for row in missing if row not in broken}
        yield from (p for _, p in sorted(own))
    yield from sorted(outside)


def _row_of(rows: ZoomRows, problem: TileProblem) -> int:
    """The row of a tile, or -1 if it is only some row's neighbour."""
    code = np.uint64(code_of_tile(Tile(problem.x, problem.y, problem.z)))
    row = int(np.searchsorted(rows.codes, code))
    return row if row < len(rows.codes) and rows.codes[row] == code else -1


def _absent(rows: ZoomRows, row: int) -> TileProblem:
    tile = tile_of_code(int(rows.codes[row]), rows.zoom)
    return TileProblem(tile.z, tile.x, tile.y, "source", NO_IMAGERY)
