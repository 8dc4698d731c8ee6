"""All stages of a calibration in their order: the numbers per zoom, elsewhere, displayed confidences, radii.

The numbers of a zoom (tau, gamma, kappa, rho and, with a prior, lambda; see the glossary in docs/method.md) maximise
the mass of the candidates that hold the pictures' places. Zooms are fitted from coarse to fine, each with the beam as
it is served with the numbers fitted above it. This module knows embeddings and indexes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from indexer.calibration.cases import Chunk, cases_of, chunks_of
from indexer.calibration.displayed import fit_displayed, fit_radii
from indexer.calibration.elsewhere import OutOfScope, fit_elsewhere
from indexer.calibration.likelihood import maximise
from indexer.calibration.request import EXPECTED_SHARE
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex

__all__ = ["MIN_PICTURES", "OnZoom", "fit_all", "fit_numbers", "fit_zooms"]

MIN_PICTURES = 100
"""A zoom whose candidates hold the places of fewer pictures is not fitted, nor is any finer zoom."""
MIN_NEIGHBOUR_GAIN = 0.005
"""Least gain in nats per picture for neighbour smoothing (kappa > 0), which costs time in every search."""
MIN_PRIOR_GAIN = 2.0
"""Least gain in nats over all pictures for a prior (lambda > 0): the 95% point of the likelihood ratio for one more
number. So the weight of a useless prior is 0, not a random number."""
_START = ZoomNumbers(tau=0.05)

OnZoom = Callable[[int, int], None]
"""Receives each zoom and the number of pictures that it is fitted to."""


def fit_all(
    index: TileIndex,
    pictures: KnownPictures,
    out_of_scope: OutOfScope | None,
    k: int,
    *,
    share: float = EXPECTED_SHARE,
    on_zoom: OnZoom = lambda zoom, count: None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Fit everything that the pictures allow, at beam width `k`. `share`: of out-of-scope pictures expected in use.

    Elsewhere is fitted twice: the displayed confidences depend on it, and its features (entropies) depend on the
    deepest zoom's numbers, which are fitted to the displayed confidences.
    """
    fitted = fit_zooms(index, pictures, k, on_zoom=on_zoom)
    if out_of_scope is not None:
        on_stage("Fitting elsewhere")
        fitted = fit_elsewhere(index, pictures, out_of_scope, fitted, k, share)
    on_stage("Fitting displayed confidences")
    displayed = fit_displayed(index, pictures, fitted, k)
    if out_of_scope is not None and displayed is not fitted:
        displayed = fit_elsewhere(index, pictures, out_of_scope, displayed, k, share)
    on_stage("Fitting radii")
    displayed = fit_radii(index, pictures, displayed, k) if displayed.zooms else displayed
    maps = {str(z.zoom): z.encoder for z in index.manifest.zooms}
    return replace(displayed, extra={**displayed.extra, "map_encoders": maps, "fitted_on": len(pictures)})


def fit_zooms(
    index: TileIndex, pictures: KnownPictures, k: int, *, on_zoom: OnZoom = lambda zoom, count: None
) -> Calibration:
    """Fit the numbers of every zoom at beam width `k`; pictures without a place are ignored.

    The fit ends at the first zoom with fewer than MIN_PICTURES pictures.
    """
    calibration = Calibration(
        k=k, coverage=index.manifest.coverage_hash, photo_encoder=index.manifest.photo_encoder["fingerprint"]
    )
    for level, zoom in enumerate(index.zooms):
        trial = replace(calibration, zooms={**calibration.zooms, zoom: _START})
        cases = cases_of(index, pictures, trial, k, level)
        on_zoom(zoom, len(cases))
        if len(cases) < MIN_PICTURES:
            break
        calibration = replace(calibration, zooms={**calibration.zooms, zoom: fit_numbers(chunks_of(cases))})
    return calibration


def fit_numbers(chunks: Sequence[Chunk]) -> ZoomNumbers:
    """The likeliest numbers of one zoom. lambda and kappa stay 0 unless they gain enough."""
    numbers, loss = maximise(chunks, _START, neighbours=False)
    if chunks[0].gains is not None:
        with_prior, prior_loss = maximise(chunks, replace(numbers, lam=1.0), neighbours=False)
        if (loss - prior_loss) * sum(len(chunk.truth) for chunk in chunks) > MIN_PRIOR_GAIN:
            numbers, loss = with_prior, prior_loss
    smoothed, smoothed_loss = maximise(chunks, replace(numbers, kappa=0.3), neighbours=True)
    return smoothed if smoothed_loss < loss - MIN_NEIGHBOUR_GAIN else numbers
