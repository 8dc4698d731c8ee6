"""Pictures of no place to fit on, drawn from nothing: noise, gradients, stripes, discs, text, banded planets.

Each function takes a generator and a size in pixels and gives (size, size, 3) uint8. None of them is used by a family
that tests are made of.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

_SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "qui",
    "ro",
    "su",
    "ta",
    "ve",
    "wi",
    "xo",
    "yu",
    "zan",
    "ber",
    "cor",
    "dal",
]


def noise(rng: np.random.Generator, size: int) -> Pixels:
    """Independent cells of some size, grey or in colour, hard-edged or smoothed."""
    cells = int(np.exp(rng.uniform(np.log(3), np.log(size))))
    values = rng.uniform(0, 255, (cells, cells, 3))
    if rng.uniform() < 0.3:
        values = np.repeat(values[..., :1], 3, axis=2)
    middle = rng.uniform(40, 215, 3)
    values = middle + (values - 127) * rng.uniform(0.15, 1.0)
    method = rng.choice([Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
    return np.asarray(Image.fromarray(_bytes(values)).resize((size, size), Image.Resampling(method)))


def gradients(rng: np.random.Generator, size: int) -> Pixels:
    """A flat colour, or a passage between some: along a line, around a point, over the corners; with grain."""
    kind, (y, x) = rng.integers(4), _grid(size)
    colours = rng.uniform(0, 255, (4, 3))
    if kind == 0:
        picture = np.broadcast_to(colours[0], (size, size, 3))
    elif kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        t = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
        picture = _between(np.clip(t, 0, 1), colours[: rng.integers(2, 5)])
    elif kind == 2:
        t = np.hypot(x - rng.uniform(), y - rng.uniform())
        picture = _between(np.clip(t, 0, 1), colours[: rng.integers(2, 5)])
    else:
        corners = colours.reshape(2, 2, 3)
        upper, lower = (corners[i, 0] + (corners[i, 1] - corners[i, 0]) * x[..., None] for i in (0, 1))
        picture = upper + (lower - upper) * y[..., None]
    return _bytes(picture + rng.normal(0, rng.uniform(0, 8), (size, size, 1)))


def stripes(rng: np.random.Generator, size: int) -> Pixels:
    """Stripes, checkers, plaid or rings in a few colours, turned and bent."""
    (y, x), colours = _grid(size), rng.uniform(0, 255, (4, 3))
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 24)
    u = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 0.06) * np.sin(2 * np.pi * rng.uniform(1, 4) * y)
    v = y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(4)
    if kind == 0:
        which = (np.floor(u * waves) % rng.integers(2, 5)).astype(int)
    elif kind == 1:
        which = ((np.floor(u * waves) + np.floor(v * waves)) % 2).astype(int)
    elif kind == 2:
        which = (np.sin(2 * np.pi * waves * u) > 0).astype(int) + 2 * (np.sin(2 * np.pi * waves * v / 2) > 0.5)
    else:
        which = (np.floor(np.hypot(u - rng.uniform(), v - rng.uniform(-0.5, 0.5)) * waves) % 3).astype(int)
    return _bytes(colours[which] + rng.normal(0, rng.uniform(0, 6), (size, size, 1)))


def discs(rng: np.random.Generator, size: int) -> Pixels:
    """Discs and ellipses on a ground, some see-through."""
    (y, x), picture = _grid(size), np.broadcast_to(rng.uniform(0, 255, 3), (size, size, 3)).copy()
    for _ in range(rng.integers(2, 30)):
        wide, high = rng.uniform(0.02, 0.3, 2)
        inside = ((x - rng.uniform()) / wide) ** 2 + ((y - rng.uniform()) / high) ** 2 < 1
        picture[inside] += (rng.uniform(0, 255, 3) - picture[inside]) * rng.uniform(0.4, 1)
    return _bytes(picture)


def text(rng: np.random.Generator, size: int) -> Pixels:
    """A page of nonsense: words in lines, in one face, with a heading now and then; seldom straight."""
    paper, ink = rng.uniform(190, 255, 3), rng.uniform(0, 110, 3)
    if rng.uniform() < 0.25:
        paper, ink = ink, paper
    page = Image.new("RGB", (2 * size, 2 * size), tuple(_bytes(paper).tolist()))
    draw, height, top = ImageDraw.Draw(page), int(rng.integers(12, 40)), 4
    name = str(rng.choice(["DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "DejaVuSans-Bold"]))
    indent = int(rng.integers(4, 40))
    while top < 2 * size:
        tall = int(height * (1.8 if rng.uniform() < 0.08 else 1))
        words = " ".join(_word(rng) for _ in range(rng.integers(3, 40)))
        draw.text((indent, top), words, fill=tuple(_bytes(ink).tolist()), font=font(name, tall))
        top += int(tall * 1.35)
    turned = page.rotate(rng.normal(0, 4), Image.Resampling.BICUBIC, fillcolor=tuple(_bytes(paper).tolist()))
    return np.asarray(turned.resize((size, size), Image.Resampling.LANCZOS))


def banded_planets(rng: np.random.Generator, size: int) -> Pixels:
    """A gas giant: belts in a row of colours, sheared by waves, with storms; close up, or as a ball in the dark."""
    (y, x), turn = _grid(size), rng.uniform(0, np.pi)
    zoom = rng.uniform(0.4, 1.2)
    u = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn)
    v = ((y - 0.5) * np.cos(turn) - (x - 0.5) * np.sin(turn)) * zoom
    for scale in (2, 5, 11, 23, 47):
        phase = rng.uniform(0, 2 * np.pi, 2)
        v = v + 0.05 / scale * np.sin(2 * np.pi * scale * u + phase[0] + 9 * np.sin(9 * v + phase[1]))
    for _ in range(rng.integers(0, 4)):
        at, wide = rng.uniform(-0.4, 0.4, 2), rng.uniform(0.03, 0.12)
        v = v + 0.2 * wide * np.exp(-(((u - at[0]) / (2 * wide)) ** 2) - ((v - at[1]) / wide) ** 2) * 5
    hue = rng.uniform(90, 230, 3)
    belts = hue + rng.normal(0, rng.uniform(15, 45), (rng.integers(6, 24), 1)) + rng.normal(0, 14, (1, 3))
    picture = _between(np.clip(v + 0.5, 0, 1), belts)
    if rng.uniform() < 0.3:
        reach = np.hypot(x - 0.5, y - 0.5) / rng.uniform(0.3, 0.6)
        picture = picture * np.sqrt(np.clip(1 - reach**2, 0, 1))[..., None]
    return _bytes(picture + rng.normal(0, 3, (size, size, 1)))


@lru_cache(maxsize=256)
def font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """One of the faces that matplotlib installs, at a height in pixels."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), height)


def _word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(_SYLLABLES, rng.integers(1, 5)))


def _grid(size: int) -> tuple[Floats, Floats]:
    """Rows and columns of pixel middles, (size, size) from 0 to 1 each."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return y, x


def _between(t: Floats, colours: Floats) -> Floats:
    """Colours at places from 0 to 1 along a row of colours: (h, w) and (n, 3) to (h, w, 3)."""
    knots = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(t, knots, colours[:, c]) for c in range(3)], axis=-1)


def _bytes(values: Floats) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
