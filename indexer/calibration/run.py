"""`tilebeam calibrate` from request to result: read and embed, fit on one half, measure on the other, store."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.calibration.elsewhere import OutOfScope
from indexer.calibration.fit import MIN_PICTURES, fit_all
from indexer.calibration.request import CalibrationRequest
from indexer.errors import CalibrationFitError
from indexer.evaluation.outcomes import Outcomes, Pictures, search_all
from indexer.photos.embed import Embedded, KnownPictures, embed_photos, known_under
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import ReadOptions, read_photos
from indexer.progress import OnProgress, Progress, counter
from retrieval.encoders.hub import hub_access
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import Manifest
from retrieval.index.reader import TileIndex
from retrieval.installed_priors import OpenPriors, check_origin, install, staged
from retrieval.locator import Locator
from retrieval.priors.base import Prior
from retrieval.priors.registry import open_prior
from retrieval.search.plan import InstalledPrior
from retrieval.search.query import NO_PRIOR, LocateQuery
from tile_cache.addressing import codes_at

__all__ = ["Calibrated", "Halves", "calibrate", "families_of", "halves_of"]

_TEST_SHARE = 3
"""Without splits, one in this many families of out-of-scope pictures is only measured on."""


@dataclass(frozen=True)
class Halves:
    """Pictures to fit to and pictures to measure on."""

    fit: KnownPictures
    test: KnownPictures
    fit_out_of_scope: OutOfScope | None
    test_out_of_scope: OutOfScope | None


@dataclass(frozen=True)
class Calibrated:
    """The result of a calibration.

    `before` and `after`: outcomes of the second half with raw and with fitted numbers; `out_of_scope`: outcomes of the
    out-of-scope pictures that were not fitted to.
    """

    request: CalibrationRequest
    photos: PhotoSet
    calibration: Calibration
    halves: Halves
    reached: dict[int, int]  # by zoom: the number of pictures whose true tile is among its candidates
    zooms: Sequence[int]
    before: Outcomes
    after: Outcomes
    out_of_scope: Outcomes | None

    @property
    def unfitted(self) -> list[int]:
        """The zooms that too few pictures reached."""
        return [zoom for zoom in self.zooms if zoom not in self.calibration.zooms]


def calibrate(request: CalibrationRequest, on_progress: OnProgress) -> Calibrated:
    """Fit, measure, and store the calibration in the index, with its prior if there is one. Vectors are not touched.

    Raises PhotoSetError, PriorError, CalibrationFitError if not even the first zoom can be fitted, and the errors of
    opening the index.
    """
    if request.prior is not None:
        check_origin(request.index, request.prior.name, request.prior.directory)
    photos = _photos(request)
    # The old calibration is not read: it is replaced even if it is damaged or of another format.
    locator = Locator.open(
        request.index,
        device=request.device,
        calibration=Calibration(),
        priors=(),
        prior=NO_PRIOR,
        allow_download=request.allow_download,
    )
    if request.prior is None:
        result = _fitted(request, locator, None, photos, on_progress)
        _store(result.calibration, request.index)
        return result
    with staged(request.index, request.prior.name, request.prior.directory) as directory:
        with hub_access(request.allow_download or _is_named(request)):
            prior = open_prior(directory, device=request.device, photo=locator.encoder)
        result = _fitted(request, locator, prior, photos, on_progress)
        _store(result.calibration, request.index, lambda: _install(request, directory, prior))
    return result


def _is_named(request: CalibrationRequest) -> bool:
    """Whether the user names a kind of prior itself, with weights of its own, and no directory that does."""
    prior = request.prior
    return prior is not None and prior.directory is None and prior.name not in Manifest.read(request.index).priors


def _fitted(
    request: CalibrationRequest, locator: Locator, prior: Prior | None, photos: PhotoSet, on_progress: OnProgress
) -> Calibrated:
    """Everything but storing."""
    _check_enough(request, photos, locator.index)
    embedded, halves = _load(request, locator, prior, photos, on_progress)
    reached: dict[int, int] = {}

    def on_zoom(zoom: int, count: int) -> None:
        reached[zoom] = count
        on_progress(Progress("note", f"Zoom {zoom}: fitting to {count:,} photos"))

    fitted = fit_all(
        locator.index,
        halves.fit,
        halves.fit_out_of_scope,
        request.k,
        share=request.share,
        on_zoom=on_zoom,
        on_stage=lambda text: on_progress(Progress("note", text)),
    )
    if not fitted.zooms:
        raise CalibrationFitError(
            f"only {next(iter(reached.values()), 0)} of {len(halves.fit)} photos to fit to lie in tiles of zoom "
            f"{locator.index.zooms[0]}, and {MIN_PICTURES} are needed: give more photos of the indexed region"
        )
    raw, calibrated = locator, Locator(locator.index, fitted, locator.encoder)
    if request.prior is not None and prior is not None:
        fitted = fitted.with_prior(request.prior.name, prior.fingerprint)
        raw, calibrated = (_with_prior(locator, request.prior.name, prior, own) for own in (Calibration(), fitted))
    query = LocateQuery(k=request.k)
    before = _search(raw, halves.test, query, "Measuring, raw", on_progress)
    after = _search(calibrated, halves.test, query, "Measuring, calibrated", on_progress)
    out_of_scope = None
    if halves.test_out_of_scope is not None:
        pictures = halves.test_out_of_scope.pictures
        out_of_scope = _search(calibrated, pictures, query, "Measuring, elsewhere", on_progress)
    zooms = locator.index.zooms
    return Calibrated(request, embedded.photos, fitted, halves, reached, zooms, before, after, out_of_scope)


def _with_prior(locator: Locator, name: str, prior: Prior, own: Calibration) -> Locator:
    installed = InstalledPrior.of(name, prior, Calibration(), locator.index.zooms, own)
    return Locator(locator.index, Calibration(), locator.encoder, priors=OpenPriors({name: installed}, name))


def _photos(request: CalibrationRequest) -> PhotoSet:
    """The photos of the request's split."""
    photos = read_photos(request.photos, request.reading)
    split = request.split or (None if photos.split is None else "validation")
    photos = photos if split is None else photos.only(split)
    return photos.sample(request.limit, request.seed).check_not_empty()


def _check_enough(request: CalibrationRequest, photos: PhotoSet, index: TileIndex) -> None:
    """Raise CalibrationFitError before anything is embedded if too few photos lie in the index's first zoom."""
    zoom, (rows, _) = index.zooms[0], halves_of(photos.names, request.seed)
    own = photos.take(rows)
    placed = np.isfinite(own.lng) & np.isfinite(own.lat)
    codes = codes_at(own.lng[placed], own.lat[placed], zoom)
    inside = int(np.isin(codes, index.levels[0].codes).sum())
    if inside < MIN_PICTURES:
        raise CalibrationFitError(
            f"only {inside:,} of the {len(rows):,} photos to fit to lie in tiles of zoom {zoom}, and {MIN_PICTURES} "
            f"are needed: give more photos of the indexed region than the {len(photos):,} of {request.photos}, "
            "about 200 (half of them are only measured on)"
        )


def _load(
    request: CalibrationRequest, locator: Locator, prior: Prior | None, photos: PhotoSet, on_progress: OnProgress
) -> tuple[Embedded, Halves]:
    """Embed and divide the photos and the out-of-scope pictures."""
    embedded, known = _embedded(photos, "photos", request, locator, prior, on_progress)
    first, second = halves_of(embedded.photos.names, request.seed)
    if request.elsewhere is None:
        return embedded, Halves(known.take(first), known.take(second), None, None)
    others = read_photos(request.elsewhere, ReadOptions(need_place=False))
    embedded_others, unknown = _embedded(others, "out-of-scope pictures", request, locator, prior, on_progress)
    fit, test = (_out_of_scope(embedded_others, unknown, rows) for rows in families_of(embedded_others.photos))
    if fit is None:
        raise CalibrationFitError(
            f"{request.elsewhere}: all {len(embedded_others.photos)} usable pictures are in split `test`, which is "
            "only measured on: put some families into `train`"
        )
    return embedded, Halves(known.take(first), known.take(second), fit, test)


def _embedded(
    photos: PhotoSet,
    noun: str,
    request: CalibrationRequest,
    locator: Locator,
    prior: Prior | None,
    on_progress: OnProgress,
) -> tuple[Embedded, KnownPictures]:
    on_picture = counter(on_progress, "embed", f"Embedding {noun}")
    embedded = embed_photos(photos, locator.encoder, cache=request.cache, on_progress=on_picture)
    _report_rejected(noun, embedded.photos, on_progress)
    on_picture = counter(on_progress, "embed", f"Embedding {noun} for the prior")
    return embedded, known_under(embedded, prior, cache=request.cache, on_progress=on_picture)


def _report_rejected(noun: str, photos: PhotoSet, on_progress: OnProgress) -> None:
    if photos.rejected:
        counts = "; ".join(f"{count:,} {reason}" for reason, count in photos.summary().items())
        on_progress(Progress("note", f"Unused {noun}: {counts}"))


def halves_of(names: Sequence[str], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the two halves, by a hash of each name, so that a photo's half depends on no other photo."""
    hashes = np.array([_hash(name, seed) for name in names], dtype=np.uint64)
    return np.flatnonzero(hashes % 2 == 0), np.flatnonzero(hashes % 2 == 1)


def families_of(pictures: PhotoSet) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the out-of-scope pictures to fit to and to measure on: by split, else whole families by hash."""
    if pictures.split is not None:
        test = np.array([split == "test" for split in pictures.split])
    else:
        families = sorted(set(pictures.families or ()), key=lambda name: _hash(name, 0))
        test_families = set(families[: len(families) // _TEST_SHARE])
        test = np.array([family in test_families for family in pictures.families or ("",) * len(pictures)])
    return np.flatnonzero(~test), np.flatnonzero(test)


def _out_of_scope(embedded: Embedded, known: KnownPictures, rows: NDArray[np.intp]) -> OutOfScope | None:
    if not len(rows):
        return None
    families = embedded.photos.families or ("pictures",) * len(embedded.photos)
    return OutOfScope(known.take(rows), np.array(families)[rows])


def _store(fitted: Calibration, index: Path, install_prior: Callable[[], None] = lambda: None) -> None:
    try:
        install_prior()
        fitted.write(index)
    except OSError as exc:
        raise CalibrationFitError(
            f"{index} cannot be written to ({exc.strerror}) and has its old calibration: free some space or give "
            "write permission, then run again (--cache saves embedding the photos again)"
        ) from exc


def _install(request: CalibrationRequest, directory: Path, prior: Prior) -> None:
    assert request.prior is not None
    install(request.index, request.prior.name, directory, prior.fingerprint, default=request.prior.default)


def _search(
    locator: Locator, pictures: KnownPictures, query: LocateQuery, text: str, on_progress: OnProgress
) -> Outcomes:
    show = counter(on_progress, "embed", text)
    n = len(pictures)
    return search_all(
        locator, Pictures.of(pictures, locator.index), locator.plan(query), on_picture=lambda i: show(i, n)
    )


def _hash(text: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(errors="surrogateescape"), digest_size=8).digest())
