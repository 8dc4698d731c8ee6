"""The bundled samples: eight overhead pictures at seeded centres, in two styles, with their true places.

`python -m indexer.builtin.samples` writes them anew, the same to the bit on one version of Pillow and torch.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from indexer.builtin.pictures import to_pixels
from indexer.builtin.styles import Style, Stylist
from indexer.builtin.views import Centres, Earth, draw_views
from retrieval.encoders.open_clip import builtin_directory

SEED, COUNT, SIZE = 2026, 8, 320
_HAZY = Style(haze=1.0, haze_strength=0.35, contrast=0.2, noise=1.0, noise_strength=0.02)


def make_samples(folder: Path) -> None:
    """Write sample-1.jpg to sample-8.jpg and samples.json: Blue Marble as it is, and shaded relief through haze."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    views = draw_views(Centres(-60, 78, 8, 0.01), COUNT, (450, 1000), 15, rng)
    styles = (("bmng", Style()), ("shadedrelief", _HAZY))
    entries = []
    for i in range(COUNT):
        product, style = styles[i % 2]
        one = views.take(np.array([i]))
        pixels = to_pixels(Stylist(Earth((product,)), style).draw(one, SIZE, rng))[0]
        name = f"sample-{i + 1}.jpg"
        Image.fromarray(pixels).save(folder / name, "JPEG", quality=90)
        place = {"lat": round(float(one.lat[0]), 4), "lon": round(float(one.lng[0]), 4)}
        entries.append({"file": name, **place, "footprint_km": round(float(one.footprint_km[0])), "product": product})
    (folder / "samples.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    make_samples(builtin_directory() / "samples")
