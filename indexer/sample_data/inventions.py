"""Pictures of no place to test on, drawn from nothing: clouds of noise, mosaics, charts, craters, lands that are not.

Each function takes a generator and a size in pixels and gives (size, size, 3) uint8. Nothing here is shared with the
families that are fitted on: what a test family looks like was never seen in any form.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def noise_clouds(rng: np.random.Generator, size: int) -> Pixels:
    """Fractal noise, of one spectrum, in a passage of two or three colours, or a noise for each channel."""
    power = rng.uniform(0.8, 2.6)
    if rng.uniform() < 0.4:
        picture = np.stack([_fractal(rng, size, power) for _ in range(3)], axis=-1)
        return _bytes(rng.uniform(60, 190, 3) + (picture - 0.5) * rng.uniform(60, 260))
    return _bytes(_coloured(_fractal(rng, size, power), rng.uniform(0, 255, (rng.integers(2, 4), 3))))


def mosaics(rng: np.random.Generator, size: int) -> Pixels:
    """Cells around random points, flat or shaded, with or without seams; straight ones in long blocks too."""
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
    return _bytes(picture.reshape(size, size, 3))


def charts(rng: np.random.Generator, size: int) -> Pixels:
    """Something like a chart on a screen: axes, grid lines, and lines, bars, dots or slices."""
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
    """A dry body from above: craters of all sizes on rough ground, lit from one side, grey to rust red."""
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
    return _bytes((shade * albedo)[..., None] * (tint + rng.normal(0, 10, 3)))


def invented_lands(rng: np.random.Generator, size: int) -> Pixels:
    """Land and sea of a world that is not, in the colours of a satellite picture: heights, coasts, deserts, snow."""
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
    return _bytes(np.where((height < sea)[..., None], water, land))


def _fractal(rng: np.random.Generator, size: int, power: float) -> Floats:
    """Noise whose amplitude falls with the frequency to the `power`; (size, size), spread evenly over 0 to 1."""
    f = np.hypot(np.fft.fftfreq(2 * size)[:, None], np.fft.rfftfreq(2 * size)[None])
    f[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(2 * size, 2 * size))) * f**-power
    values = np.fft.irfft2(spectrum)[:size, :size]  # half of it, as the whole repeats at its edges
    return np.asarray((values - values.min()) / (values.max() - values.min()))


def _coloured(t: Floats, colours: Floats) -> Floats:
    return np.stack([np.interp(t, np.linspace(0, 1, len(colours)), colours[:, c]) for c in range(3)], axis=-1)


def _bytes(values: Floats) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
