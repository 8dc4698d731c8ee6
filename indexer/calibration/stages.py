"""All of a calibration in its order: numbers per zoom, elsewhere, what users see, circles.

Elsewhere is fitted twice, as what users see depends on it and its features (entropies) on the deepest zoom's numbers.
"""

from collections.abc import Callable
from dataclasses import replace

from indexer.calibration.elsewhere import EXPECTED_SHARE, Strangers, with_elsewhere
from indexer.calibration.fit import fit
from indexer.calibration.shown import as_shown, with_circles
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex

__all__ = ["calibrated"]

Say = Callable[[str], None]


def calibrated(
    index: TileIndex,
    pictures: KnownPictures,
    strangers: Strangers | None,
    k: int,
    *,
    share: float = EXPECTED_SHARE,
    on_zoom: Callable[[int, int], None] = lambda zoom, count: None,
    say: Say = lambda text: None,
) -> Calibration:
    """Fit everything that the pictures allow, at beam width `k`; `share`: of strangers expected in use."""
    fitted = fit(index, pictures, k, on_zoom=on_zoom)
    if strangers is not None:
        say("Fitting elsewhere")
        fitted = with_elsewhere(index, pictures, strangers, fitted, k, share)
    say("Fitting what users see")
    shown = as_shown(index, pictures, fitted, k)
    if strangers is not None and shown is not fitted:
        shown = with_elsewhere(index, pictures, strangers, shown, k, share)
    say("Fitting circles")
    shown = with_circles(index, pictures, shown, k) if shown.zooms else shown
    maps = {str(z.zoom): z.encoder for z in index.manifest.zooms}
    return replace(shown, extra={**shown.extra, "map_encoders": maps, "fitted_on": len(pictures)})
