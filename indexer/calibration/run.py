"""`tilebeam calibrate` from request to result: load, part, fit on one part, measure on the other, store."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.calibration.elsewhere import Strangers
from indexer.calibration.fit import LEAST_PICTURES
from indexer.calibration.request import CalibrationRequest
from indexer.calibration.stages import calibrated
from indexer.errors import CalibrationFitError
from indexer.evaluation.outcomes import Outcomes, Pictures, search_all
from indexer.photos.embed import Embedded, KnownPictures, embed_photos, known_under
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import ReadOptions, read_photos
from indexer.progress import OnProgress, Progress
from retrieval.index.calibration import Calibration
from retrieval.installed_priors import Asked, OpenPriors, install, staged
from retrieval.locator import Locator
from retrieval.priors.base import Prior
from retrieval.priors.registry import open_prior
from retrieval.search.query import NO_PRIOR, LocateQuery

__all__ = ["Calibrated", "Halves", "calibrate"]

_TEST_SHARE = 3  # one family in so many is kept for measuring, where nothing says which


@dataclass(frozen=True)
class Halves:
    """Pictures to fit to and pictures to measure on; `strangers` are those that have no answer."""

    fit: KnownPictures
    test: KnownPictures
    fit_strangers: Strangers | None
    test_strangers: Strangers | None


@dataclass(frozen=True)
class Calibrated:
    """What came out. `before` and `after`: the second half's outcomes with raw and with fitted numbers."""

    request: CalibrationRequest
    photos: PhotoSet
    calibration: Calibration
    halves: Halves
    reached: dict[int, int]  # pictures that spoke of each zoom
    zooms: Sequence[int]
    before: Outcomes
    after: Outcomes
    strangers: Outcomes | None

    @property
    def unfitted(self) -> list[int]:
        """Zooms that too few pictures spoke of."""
        return [zoom for zoom in self.zooms if zoom not in self.calibration.zooms]


def calibrate(request: CalibrationRequest, on_progress: OnProgress) -> Calibrated:
    """Fit, measure, and put the result into the index without touching its vectors; a prior goes there with it.

    Raises PhotoSetError, CalibrationFitError where not even the first zoom can be fitted, PriorError, and what opening
    raises.
    """
    # An old calibration is not read: it is replaced even where it is damaged or of another format.
    locator = Locator.open(request.index, device=request.device, calibration=Calibration(), priors=(), prior=NO_PRIOR)
    if request.prior is None:
        done = _fitted(request, locator, None, on_progress)
        _store(done.calibration, request.index)
        return done
    with staged(request.index, request.prior.name, request.prior.directory) as place:
        prior = open_prior(place, device=request.device, photo=locator.encoder)
        done = _fitted(request, locator, prior, on_progress)
        _store(done.calibration, request.index, lambda: _install(request, place, prior))
    return done


def _fitted(request: CalibrationRequest, locator: Locator, prior: Prior | None, on_progress: OnProgress) -> Calibrated:
    """Everything but storing it."""
    embedded, halves = _load(request, locator, prior, on_progress)
    reached: dict[int, int] = {}

    def on_zoom(zoom: int, count: int) -> None:
        reached[zoom] = count
        on_progress(Progress("note", f"Zoom {zoom}: {count:,} photos speak of it"))

    say = _said(on_progress)
    fitted = calibrated(
        locator.index, halves.fit, halves.fit_strangers, request.k, share=request.share, on_zoom=on_zoom, say=say
    )
    if not fitted.zooms:
        raise CalibrationFitError(
            f"only {next(iter(reached.values()), 0)} of {len(halves.fit)} photos lie in tiles of zoom "
            f"{locator.index.zooms[0]}, and {LEAST_PICTURES} are needed: give more photos of the indexed region"
        )
    raw, better = locator, Locator(locator.index, fitted, locator.encoder)
    if request.prior is not None and prior is not None:
        fitted = fitted.with_prior(request.prior.name, prior.fingerprint)
        raw, better = (_with_prior(locator, request.prior.name, prior, own) for own in (Calibration(), fitted))
    query = LocateQuery(k=request.k)
    before = _search(raw, halves.test, query, "Measuring, raw", on_progress)
    after = _search(better, halves.test, query, "Measuring, calibrated", on_progress)
    strange = None
    if halves.test_strangers is not None:
        strange = _search(better, halves.test_strangers.pictures, query, "Measuring, elsewhere", on_progress)
    return Calibrated(request, embedded.photos, fitted, halves, reached, locator.index.zooms, before, after, strange)


def _with_prior(locator: Locator, name: str, prior: Prior, own: Calibration) -> Locator:
    asked = Asked.of(name, prior, Calibration(), locator.index.zooms, own)
    return Locator(locator.index, Calibration(), locator.encoder, priors=OpenPriors({name: asked}, name))


def _load(
    request: CalibrationRequest, locator: Locator, prior: Prior | None, on_progress: OnProgress
) -> tuple[Embedded, Halves]:
    photos = read_photos(request.photos, request.reading)
    wanted = request.split or (None if photos.split is None else "validation")
    photos = photos if wanted is None else photos.only(wanted)
    photos = photos.sample(request.limit, request.seed).check_not_empty()
    embedded, known = _embedded(photos, "photos", request, locator, prior, on_progress)
    first, second = halves_of(embedded.photos.names, request.seed)
    if request.elsewhere is None:
        return embedded, Halves(known.take(first), known.take(second), None, None)
    strangers = read_photos(request.elsewhere, ReadOptions(need_place=False))
    strange, unknown = _embedded(strangers, "pictures without an answer", request, locator, prior, on_progress)
    parts = [_strangers(strange, unknown, rows) for rows in families_of(strange.photos)]
    if parts[0] is None:
        raise CalibrationFitError(
            f"{request.elsewhere}: all {len(strange.photos)} usable pictures are in split `test`, which is only "
            "measured on: put some families into `train`"
        )
    return embedded, Halves(known.take(first), known.take(second), parts[0], parts[1])


def _embedded(
    photos: PhotoSet,
    what: str,
    request: CalibrationRequest,
    locator: Locator,
    prior: Prior | None,
    on_progress: OnProgress,
) -> tuple[Embedded, KnownPictures]:
    show = _shown(f"Embedding {what}", on_progress)
    embedded = embed_photos(photos, locator.encoder, cache=request.cache, on_progress=show)
    _note_refused(what, embedded.photos, on_progress)
    show = _shown(f"Embedding {what} for the prior", on_progress)
    return embedded, known_under(embedded, prior, cache=request.cache, on_progress=show)


def _note_refused(what: str, photos: PhotoSet, on_progress: OnProgress) -> None:
    if photos.rejected:
        counts = "; ".join(f"{count:,} {reason}" for reason, count in photos.summary().items())
        on_progress(Progress("note", f"Not used of the {what}: {counts}"))


def halves_of(names: Sequence[str], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the two halves: by a hash of the name, so that a photo's half depends on no other photo."""
    order = np.array([_hash(name, seed) for name in names], dtype=np.uint64)
    return np.flatnonzero(order % 2 == 0), np.flatnonzero(order % 2 == 1)


def families_of(strangers: PhotoSet) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the pictures to fit to and to measure on: by their split, else whole families by their hash."""
    if strangers.split is not None:
        test = np.array([split == "test" for split in strangers.split])
    else:
        families = sorted(set(strangers.families or ()), key=lambda name: _hash(name, 0))
        kept = set(families[: len(families) // _TEST_SHARE])
        test = np.array([family in kept for family in strangers.families or ("",) * len(strangers)])
    return np.flatnonzero(~test), np.flatnonzero(test)


def _strangers(embedded: Embedded, known: KnownPictures, rows: NDArray[np.intp]) -> Strangers | None:
    if not len(rows):
        return None
    families = embedded.photos.families or ("pictures",) * len(embedded.photos)
    return Strangers(known.take(rows), np.array(families)[rows])


def _store(fitted: Calibration, index: Path, first: Callable[[], None] = lambda: None) -> None:
    try:
        first()
        fitted.write(index)
    except OSError as exc:
        raise CalibrationFitError(
            f"{index} cannot be written to ({exc.strerror}), so it has the calibration that it had: "
            "make room or give the right to write, and run again (--cache spares the embedding)"
        ) from exc


def _install(request: CalibrationRequest, place: Path, prior: Prior) -> None:
    assert request.prior is not None
    install(request.index, request.prior.name, place, prior.fingerprint, default=request.prior.default)


def _search(
    locator: Locator, pictures: KnownPictures, query: LocateQuery, text: str, on_progress: OnProgress
) -> Outcomes:
    show = _shown(text, on_progress)
    n = len(pictures)
    return search_all(locator, Pictures.of(pictures, locator.index), query, on_picture=lambda i: show(i, n))


def _shown(text: str, on_progress: OnProgress) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(Progress("embed", text, done, total))


def _said(on_progress: OnProgress) -> Callable[[str], None]:
    return lambda text: on_progress(Progress("note", text))


def _hash(text: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(errors="surrogateescape"), digest_size=8).digest())
