"""A contact sheet: one row a family, its first pictures side by side, for the eye."""

import csv
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_EDGE, _NAME = 96, 150  # pixels


def contact_sheet(table: Path, out: Path, columns: int = 12) -> None:
    """Read a set's table and write the sheet as PNG; a table without families is one row after another."""
    rows: dict[str, list[Path]] = defaultdict(list)
    with table.open(newline="") as file:
        for number, entry in enumerate(csv.DictReader(file)):
            name = (
                f"{entry['family']}\n{entry['split']}, {entry['kind']}" if "family" in entry else f"{number // columns}"
            )
            rows[name].append(table.parent / entry["path"])
    shown = dict(list(rows.items())[:40])
    sheet = Image.new("RGB", (_NAME + columns * _EDGE, len(shown) * _EDGE), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (name, paths) in enumerate(shown.items()):
        draw.text((6, y * _EDGE + 24), name, fill="black", font=ImageFont.load_default(14))
        for x, path in enumerate(paths[:columns]):
            with Image.open(path) as picture:
                sheet.paste(picture.resize((_EDGE - 4, _EDGE - 4)), (_NAME + x * _EDGE + 2, y * _EDGE + 2))
    sheet.save(out, "PNG")
