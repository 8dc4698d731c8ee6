"""Plots: PNG files that open, from arrays of any size, and no partial file after a failure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from indexer.evaluation import plots
from indexer.evaluation.metrics import Floats
from tile_cache.errors import SourceError

RNG = np.random.default_rng(0)


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text of the figures that are saved."""
    found: list[str] = []
    save = Figure.savefig

    def saving(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(figure, *arguments, **options)
        found.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", saving)
    return found


def test_plots_say_how_many_pictures_they_show(tmp_path: Path, texts: list[str]) -> None:
    km, right = RNG.lognormal(5, 1, 1234), RNG.uniform(size=1234) < 0.5
    drawings: list[Callable[[Path], None]] = [
        lambda path: plots.error_curve(path, {"k=64": km}),
        lambda path: plots.error_map(path, np.zeros(1234), np.zeros(1234), km, "Where"),
        lambda path: plots.reliability_diagram(path, {"zoom 4": (RNG.uniform(size=1234), right)}, "How true"),
        lambda path: plots.risk_coverage_plot(path, {"k=64": (km, right)}, "Risk"),
    ]
    for draw in drawings:
        texts.clear()
        draw(tmp_path / "plot.png")
        assert [text for text in texts if "n = 1,234" in text], texts


def test_logarithmic_axis_is_said(tmp_path: Path, texts: list[str]) -> None:
    plots.error_curve(tmp_path / "e.png", {"k=64": RNG.lognormal(5, 1, 50)})
    assert "error, km (logarithmic)" in texts


@pytest.mark.parametrize(("photos", "legend"), [(50, "photo, in the"), (90_000, "one photo in 3, in the")])
def test_partition_map_has_a_legend(tmp_path: Path, texts: list[str], photos: int, legend: str) -> None:
    ring = np.array([[0.0, 0], [10, 0], [10, 10], [0, 0]])
    lng, lat, cell = RNG.uniform(0, 10, photos), RNG.uniform(0, 10, photos), np.zeros(photos, np.intp)
    plots.cells_map(tmp_path / "m.png", [ring], lng, lat, cell, np.array([[5.0, 5]]), "1 cell")
    assert {"edge of a cell", "centre of a cluster"} < set(texts)
    assert any(text.startswith(legend) for text in texts), texts


@pytest.mark.parametrize("n", [0, 1, 400])
def test_reliability_diagram(tmp_path: Path, n: int) -> None:
    confidence = RNG.uniform(size=n)
    curves = {f"zoom {z}": (confidence, RNG.uniform(size=n) < confidence) for z in (4, 6, 8)}
    plots.reliability_diagram(tmp_path / "r.png", curves, "How true?")
    drawn = picture(tmp_path / "r.png")
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


def test_more_curves_than_colours_have_distinct_styles(tmp_path: Path) -> None:
    styles = [(s["color"], str(s["linestyle"])) for _, s in zip(range(28), plots._styles(), strict=False)]
    assert len(set(styles)) == 28
    plots.error_curve(tmp_path / "e.png", {f"row {i}": RNG.lognormal(5, 1, 50) for i in range(9)})
    plots.risk_coverage_plot(tmp_path / "c.png", {"a": (RNG.uniform(size=9), RNG.uniform(size=9) > 0.5)}, "Risk")
    assert picture(tmp_path / "e.png").shape[1] > 1000
    assert picture(tmp_path / "c.png").shape[1] > 1000


@pytest.mark.parametrize(
    ("lng", "lat"),
    [
        (RNG.uniform(-180, 180, 300), RNG.uniform(-85, 85, 300)),
        (RNG.uniform(5, 12, 300), RNG.uniform(46, 49, 300)),  # a region
        (np.array([179.9, -179.9]), np.array([85.0, -85.0])),
        (np.array([10.0]), np.array([50.0])),
        (np.empty(0), np.empty(0)),
    ],
    ids=["world", "region", "edges", "one", "none"],
)
def test_error_map(tmp_path: Path, lng: Floats, lat: Floats) -> None:
    plots.error_map(tmp_path / "m.png", lng, lat, np.linspace(0, 20000, len(lng)), "Where?")
    assert picture(tmp_path / "m.png").shape[1] > 1000


def test_map_is_drawn_without_land_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise SourceError("not installed")

    monkeypatch.setattr(plots, "load_land", missing)
    plots.error_map(tmp_path / "m.png", np.array([1.0]), np.array([2.0]), np.array([3.0]), "No land")
    picture(tmp_path / "m.png")


def test_failed_plot_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        plots.error_map(tmp_path / "m.png", np.zeros(3), np.zeros(2), np.zeros(3), "?")
    assert list(tmp_path.iterdir()) == []


def test_share_intervals_are_wilsons() -> None:
    low, high = plots._wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 10.0, 10.0]))
    assert low == pytest.approx([0, 0.2366, 0.7225], abs=1e-3)
    assert high == pytest.approx([0.2775, 0.7634, 1], abs=1e-3)
