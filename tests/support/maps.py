"""A map of one tile, for tests that need some map."""

from pathlib import Path

from PIL import Image


def one_tile_map(folder: Path, colour: str | tuple[int, int, int] = (90, 110, 130)) -> Path:
    """Make the tile 0/0/0 of this colour in a z/x/y folder, and return that folder."""
    (folder / "0" / "0").mkdir(parents=True)
    Image.new("RGB", (256, 256), colour).save(folder / "0" / "0" / "0.png")
    return folder
