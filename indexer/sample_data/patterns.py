"""Pictures of no place, drawn from nothing: patterns to fit on, and other patterns to test on.

Each public function takes a generator and a size in pixels and returns (size, size, 3) uint8. The families to fit on
and those to test on share no motif, so testing shows how a model handles pictures that it never saw in any form.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from indexer.sample_data.writing import Pixels, as_pixels

Floats = NDArray[np.float64]

_SYLLABLES = [
    "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "qui", "ro", "su", "ta", "ve", "wi", "xo",
    "yu", "zan", "ber", "cor", "dal",
]  # fmt: skip


# Families to fit on


def noise(rng: np.random.Generator, size: int) -> Pixels:
    """Independent cells of a random size, grey or in colour, with hard edges or smoothed."""
    cells = int(np.exp(rng.uniform(np.log(3), np.log(size))))
    values = rng.uniform(0, 255, (cells, cells, 3))
    if rng.uniform() < 0.3:
        values = np.repeat(values[..., :1], 3, axis=2)
    middle = rng.uniform(40, 215, 3)
    values = middle + (values - 127) * rng.uniform(0.15, 1.0)
    method = rng.choice([Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
    return np.asarray(Image.fromarray(as_pixels(values)).resize((size, size), Image.Resampling(method)))


def gradients(rng: np.random.Generator, size: int) -> Pixels:
    """A flat colour, or a gradient along a line, around a point or between the corners; with grain."""
    kind, (y, x) = rng.integers(4), _grid(size)
    colours = rng.uniform(0, 255, (4, 3))
    if kind == 0:
        picture = np.broadcast_to(colours[0], (size, size, 3))
    elif kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        t = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
        picture = colours_along(np.clip(t, 0, 1), colours[: rng.integers(2, 5)])
    elif kind == 2:
        t = np.hypot(x - rng.uniform(), y - rng.uniform())
        picture = colours_along(np.clip(t, 0, 1), colours[: rng.integers(2, 5)])
    else:
        corners = colours.reshape(2, 2, 3)
        upper, lower = (corners[i, 0] + (corners[i, 1] - corners[i, 0]) * x[..., None] for i in (0, 1))
        picture = upper + (lower - upper) * y[..., None]
    return as_pixels(picture + rng.normal(0, rng.uniform(0, 8), (size, size, 1)))


def stripes(rng: np.random.Generator, size: int) -> Pixels:
    """Stripes, a checkerboard, plaid or rings in a few colours, rotated and bent."""
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
    return as_pixels(colours[which] + rng.normal(0, rng.uniform(0, 6), (size, size, 1)))


def discs(rng: np.random.Generator, size: int) -> Pixels:
    """Ellipses on a plain background, some of them translucent."""
    (y, x), picture = _grid(size), np.broadcast_to(rng.uniform(0, 255, 3), (size, size, 3)).copy()
    for _ in range(rng.integers(2, 30)):
        wide, high = rng.uniform(0.02, 0.3, 2)
        inside = ((x - rng.uniform()) / wide) ** 2 + ((y - rng.uniform()) / high) ** 2 < 1
        picture[inside] += (rng.uniform(0, 255, 3) - picture[inside]) * rng.uniform(0.4, 1)
    return as_pixels(picture)


def text(rng: np.random.Generator, size: int) -> Pixels:
    """A page of meaningless words in one font, with occasional headings, slightly rotated."""
    paper, ink = rng.uniform(190, 255, 3), rng.uniform(0, 110, 3)
    if rng.uniform() < 0.25:
        paper, ink = ink, paper
    page = Image.new("RGB", (2 * size, 2 * size), tuple(as_pixels(paper).tolist()))
    draw, height, top = ImageDraw.Draw(page), int(rng.integers(12, 40)), 4
    name = str(rng.choice(["DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "DejaVuSans-Bold"]))
    indent = int(rng.integers(4, 40))
    while top < 2 * size:
        tall = int(height * (1.8 if rng.uniform() < 0.08 else 1))
        words = " ".join(_word(rng) for _ in range(rng.integers(3, 40)))
        draw.text((indent, top), words, fill=tuple(as_pixels(ink).tolist()), font=font(name, tall))
        top += int(tall * 1.35)
    turned = page.rotate(rng.normal(0, 4), Image.Resampling.BICUBIC, fillcolor=tuple(as_pixels(paper).tolist()))
    return np.asarray(turned.resize((size, size), Image.Resampling.LANCZOS))


def banded_planets(rng: np.random.Generator, size: int) -> Pixels:
    """A gas giant: coloured belts with waves and storms, close up or as a disc on black."""
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
    picture = colours_along(np.clip(v + 0.5, 0, 1), belts)
    if rng.uniform() < 0.3:
        reach = np.hypot(x - 0.5, y - 0.5) / rng.uniform(0.3, 0.6)
        picture = picture * np.sqrt(np.clip(1 - reach**2, 0, 1))[..., None]
    return as_pixels(picture + rng.normal(0, 3, (size, size, 1)))


# Families to test on


def noise_clouds(rng: np.random.Generator, size: int) -> Pixels:
    """Fractal noise, in a gradient of two or three colours or independent for each channel."""
    power = rng.uniform(0.8, 2.6)
    if rng.uniform() < 0.4:
        picture = np.stack([_fractal(rng, size, power) for _ in range(3)], axis=-1)
        return as_pixels(rng.uniform(60, 190, 3) + (picture - 0.5) * rng.uniform(60, 260))
    return as_pixels(colours_along(_fractal(rng, size, power), rng.uniform(0, 255, (rng.integers(2, 4), 3))))


def mosaics(rng: np.random.Generator, size: int) -> Pixels:
    """Cells around random points by one of three metrics, flat or shaded, with or without seams."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    places = rng.uniform(-0.1, 1.1, (int(np.exp(rng.uniform(np.log(6), np.log(400)))), 2))
    norm = float(rng.choice([1.0, 2.0, np.inf]))
    near, which = KDTree(places).query(np.stack([x.ravel(), y.ravel()], axis=1), k=2, p=norm)
    base, spread = rng.uniform(50, 205, 3), rng.uniform(10, 90)
    picture = (base + rng.normal(0, spread, (len(places), 3)))[which[:, 0]]
    if rng.uniform() < 0.6:
        seam = (near[:, 1] - near[:, 0]) < rng.uniform(0.004, 0.02)
        picture[seam] = rng.uniform(0, 255, 3)
    if rng.uniform() < 0.4:
        picture = picture * (1 - np.clip(near[:, :1] * rng.uniform(1, 4), 0, 0.7))
    return as_pixels(picture.reshape(size, size, 3))


def charts(rng: np.random.Generator, size: int) -> Pixels:
    """A chart: axes, grid lines, and lines, bars, dots or slices."""
    ground, ink = ((255, 255, 255), (60, 60, 60)) if rng.uniform() < 0.7 else ((24, 26, 32), (190, 190, 190))
    page = Image.new("RGB", (2 * size, 2 * size), ground)
    draw, n = ImageDraw.Draw(page), int(rng.integers(4, 14))
    left, right, top, bottom = 0.14 * size, 1.9 * size, 0.1 * size, 1.8 * size
    across = np.linspace(left, right, n + 1)
    for down in np.linspace(top, bottom, 6):
        draw.line([(left, down), (right, down)], fill=tuple((2 * g + i) // 3 for g, i in zip(ground, ink, strict=True)))
    colours = [tuple(c) for c in rng.integers(20, 235, (4, 3)).tolist()]
    kind = rng.integers(4)
    for colour in colours[: rng.integers(1, 5)]:
        heights = np.clip(bottom - (bottom - top) * np.abs(np.cumsum(rng.normal(0, 0.25, n + 1))), top, bottom)
        if kind == 0:
            draw.line(list(zip(across, heights, strict=True)), fill=colour, width=int(rng.integers(2, 7)))
        elif kind == 1:
            for a, h in zip(across[:-1], heights, strict=False):
                draw.rectangle([a + 2, h, a + (right - left) / n * 0.8, bottom], fill=colour)
        elif kind == 2:
            for px, py in np.column_stack([rng.uniform(left, right, 40), rng.uniform(top, bottom, 40)]):
                draw.ellipse([px - 5, py - 5, px + 5, py + 5], fill=colour)
        else:
            start = float(rng.uniform(0, 360))
            draw.pieslice([left, top, right, bottom], start, start + rng.uniform(40, 250), fill=colour)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=ink, width=3)
    return np.asarray(page.resize((size, size), Image.Resampling.LANCZOS))


def cratered_bodies(rng: np.random.Generator, size: int) -> Pixels:
    """The surface of a dry planet: craters of all sizes on rough ground, lit from one side, grey to rust red."""
    (y, x), ground = np.mgrid[:size, :size] / size, 0.05 * _fractal(rng, size, rng.uniform(1.6, 2.4))
    for _ in range(rng.integers(5, 120)):
        radius = np.exp(rng.uniform(np.log(0.01), np.log(0.2)))
        away = np.hypot(x - rng.uniform(-0.1, 1.1), y - rng.uniform(-0.1, 1.1)) / radius
        bowl = np.where(away < 1, away**2 - 1, 0) + 0.45 * np.exp(-(((away - 1.05) / 0.18) ** 2))
        ground = ground + bowl * radius * rng.uniform(0.05, 0.25)
    light = rng.uniform(0, 2 * np.pi)
    slope = np.gradient(gaussian_filter(ground, 0.6)) * np.array([np.sin(light), np.cos(light)])[:, None, None]
    shade = np.clip(0.55 + slope.sum(0) * size * rng.uniform(0.6, 2.0), 0, 1)
    albedo = 0.75 + 0.5 * (_fractal(rng, size, 2.2) - 0.5) * rng.uniform(0, 1)
    tint = np.array([[200, 200, 200], [214, 140, 90], [196, 170, 132], [170, 178, 190]])[rng.integers(4)]
    return as_pixels((shade * albedo)[..., None] * (tint + rng.normal(0, 10, 3)))


def invented_lands(rng: np.random.Generator, size: int) -> Pixels:
    """An invented landscape in the colours of a satellite picture: heights, coasts, deserts and snow."""
    height, wet = _fractal(rng, size, rng.uniform(1.7, 2.3)), _fractal(rng, size, 2.2)
    sea = np.quantile(height, rng.uniform(0, 0.75)) if rng.uniform() < 0.85 else -1.0
    dry, green = np.array([188, 160, 118]) + rng.normal(0, 14, 3), np.array([52, 78, 38]) + rng.normal(0, 12, 3)
    rise = np.clip((height - sea) / max(1e-6, 1 - sea), 0, 1)[..., None]
    land = dry + (green - dry) * np.clip(wet * 1.6 - rng.uniform(0, 0.8), 0, 1)[..., None]
    land = land + (np.array([238, 240, 244]) - land) * np.clip((rise - rng.uniform(0.5, 1.1)) * 6, 0, 1)
    light = rng.uniform(0, 2 * np.pi)
    slope = np.gradient(height) * np.array([np.sin(light), np.cos(light)])[:, None, None]
    land = land * (1 + np.clip(slope.sum(0) * size * 0.25, -0.4, 0.4))[..., None]
    depth = np.clip((sea - height) * 4, 0, 1)[..., None]
    water = np.array([22, 62, 104]) + (np.array([6, 14, 44]) - np.array([22, 62, 104])) * depth + rng.normal(0, 4, 3)
    return as_pixels(np.where((height < sea)[..., None], water, land))


# Shared parts


@lru_cache(maxsize=256)
def font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib installs, at a height in pixels."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), height)


def _word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(_SYLLABLES, rng.integers(1, 5)))


def _grid(size: int) -> tuple[Floats, Floats]:
    """Rows and columns of pixel centres, (size, size) from 0 to 1 each."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return y, x


def _fractal(rng: np.random.Generator, size: int, power: float) -> Floats:
    """Noise whose amplitude falls with the frequency to the `power`: (size, size), scaled to 0 to 1."""
    f = np.hypot(np.fft.fftfreq(2 * size)[:, None], np.fft.rfftfreq(2 * size)[None])
    f[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(2 * size, 2 * size))) * f**-power
    values = np.fft.irfft2(spectrum)[:size, :size]  # a part of it, because the whole is periodic
    return np.asarray((values - values.min()) / (values.max() - values.min()))


def colours_along(t: Floats, colours: Floats) -> Floats:
    """Colours at positions from 0 to 1 along a row of colours: (h, w) and (n, 3) to (h, w, 3)."""
    knots = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(t, knots, colours[:, c]) for c in range(3)], axis=-1)
