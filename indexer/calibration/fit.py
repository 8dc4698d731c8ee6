"""The posterior's numbers per zoom, by maximum likelihood on pictures whose places are known.

Coarse to fine: at each zoom the beam is run as it is served, with the numbers already fitted above, and tau, gamma,
kappa, rho and, under a prior, lambda maximise the mass of the candidates that hold the pictures' places. Knows
embeddings and indexes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from indexer.calibration.cases import Chunk, cases_of, chunks_of
from indexer.calibration.likelihood import maximise
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex

LEAST_PICTURES = 100
"""Fewer that reach a zoom with their true tile leave it, and all finer ones, as they were."""
WORTH_NATS = 0.005
"""Neighbours are asked (which costs time in every search) where they make pictures likelier by at least this."""
PRIOR_WORTH_NATS = 2.0
"""A prior counts at a zoom where it makes all pictures together likelier by at least this (the likelihood ratio's 95%
point for one number more), so that the weight of a useless one is 0 and not what chance makes of it."""
_START = ZoomNumbers(tau=0.05)


def fit(
    index: TileIndex, pictures: KnownPictures, k: int, *, on_zoom: Callable[[int, int], None] = lambda zoom, count: None
) -> Calibration:
    """Fit every zoom at beam width `k`; pictures without a place do not count.

    `on_zoom` hears of each zoom and how many pictures speak of it; at the first with fewer than LEAST_PICTURES the fit
    ends.
    """
    calibration = Calibration(
        k=k, coverage=index.manifest.coverage_hash, photo_encoder=index.manifest.photo_encoder["fingerprint"]
    )
    for level, zoom in enumerate(index.zooms):
        trial = replace(calibration, zooms={**calibration.zooms, zoom: _START})
        cases = cases_of(index, pictures, trial, k, level)
        on_zoom(zoom, len(cases))
        if len(cases) < LEAST_PICTURES:
            break
        calibration = replace(calibration, zooms={**calibration.zooms, zoom: likeliest(chunks_of(cases))})
    return calibration


def likeliest(chunks: Sequence[Chunk]) -> ZoomNumbers:
    """The numbers of one zoom, with the prior's and the neighbours' parts only where they are worth it."""
    alone, loss = maximise(chunks, _START, neighbours=False)
    if chunks[0].gains is not None:
        believing, less = maximise(chunks, replace(alone, lam=1.0), neighbours=False)
        if (loss - less) * sum(len(chunk.truth) for chunk in chunks) > PRIOR_WORTH_NATS:
            alone, loss = believing, less
    together, less = maximise(chunks, replace(alone, kappa=0.3), neighbours=True)
    return together if less < loss - WORTH_NATS else alone
