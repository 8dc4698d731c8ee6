"""Indexes opened and photos embedded: once for each photo encoder, and for all indexes the same photos."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from indexer.errors import EvaluationError
from indexer.evaluation.metrics import Floats
from indexer.evaluation.outcomes import Pictures
from indexer.evaluation.request import EvaluationRequest
from indexer.photos.embed import Embedded, embed_photos, known_under
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import ReadOptions, read_photos
from indexer.progress import OnProgress, Progress
from retrieval.encoders.photo import decode_photo
from retrieval.locator import Locator
from retrieval.priors.base import Prior

__all__ = ["Loaded", "Subject", "load"]

_TIMED = 16  # photos whose encoding is timed, after one that warms up


@dataclass(frozen=True)
class Subject:
    """An index and the pictures it is to answer. `outside`: those without an answer; `families`: their kinds."""

    label: str
    directory: Path
    locator: Locator
    inside: Pictures
    outside: Pictures | None = None
    families: tuple[str, ...] = ()
    encode_seconds: Floats | None = None  # a photo each, file to embedding, one at a time
    believing: Mapping[str, tuple[Pictures, Pictures | None]] = field(default_factory=dict)

    def pictures(self, prior: str | None) -> tuple[Pictures, Pictures | None]:
        """Those inside and outside, under an opened prior or none."""
        return (self.inside, self.outside) if prior is None else self.believing[prior]


@dataclass(frozen=True)
class Loaded:
    """All that is measured: the photos that every encoder could read, and the indexes."""

    photos: PhotoSet
    subjects: tuple[Subject, ...]


def load(request: EvaluationRequest, on_progress: OnProgress) -> Loaded:
    """Open, read, embed. Raises PhotoSetError, EvaluationError and what opening an index raises."""
    photos = of_split(read_photos(request.photos, request.reading), request.split)
    photos = photos.sample(request.limit, request.measures.seed).check_not_empty()
    names = request.measures.prior_names()
    locators = {
        label: Locator.open(path, device=request.device, priors=names)
        for label, path in labels(request.indexes).items()
    }
    inside = _embedded(photos, locators, request.cache, "Embedding photos", on_progress)
    outside: Mapping[str, Embedded] = {}
    if request.elsewhere is not None:
        strange = of_split(read_photos(request.elsewhere, ReadOptions(need_place=False)), None)
        outside = _embedded(strange, locators, request.cache, "Embedding pictures without an answer", on_progress)
    times = {f: encode_seconds(e.photos.paths, _of(locators, f)) for f, e in inside.items()}
    show = _shown("Embedding for priors", on_progress)
    subjects = [
        _under_priors(_subject(label, path, locators[label], inside, outside, times), inside, outside, request, show)
        for label, path in labels(request.indexes).items()
    ]
    return Loaded(next(iter(inside.values())).photos, tuple(subjects))


def of_split(photos: PhotoSet, split: str | None) -> PhotoSet:
    """The photos of a split; by default those of `test` where the set has splits, and else all."""
    wanted = split or (None if photos.split is None else "test")
    return photos if wanted is None else photos.only(wanted)


def labels(indexes: Sequence[Path]) -> dict[str, Path]:
    """A short name for each index: its folder's, with as many of the folders above as tell them apart."""
    parts = [path.absolute().parts for path in indexes]
    for depth in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-depth:]).lstrip("/") for p in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, indexes, strict=True))
    raise EvaluationError(f"an index is given twice: {', '.join(str(p) for p in indexes)}")


def encode_seconds(paths: Sequence[str], locator: Locator) -> Floats:
    """How long single photos take from file to embedding, (m,): reading, decoding, preparing, encoding one by one."""
    taken = []
    for path in paths[: _TIMED + 1]:
        begun = time.perf_counter()
        locator.encode(locator.prepare(decode_photo(Path(path).read_bytes()))[None])
        taken.append(time.perf_counter() - begun)
    return np.array(taken[1:])


def _embedded(
    photos: PhotoSet, locators: Mapping[str, Locator], cache: Path | None, text: str, on_progress: OnProgress
) -> dict[str, Embedded]:
    """Encoder fingerprint to embeddings of the photos that every encoder could read."""
    found: dict[str, Embedded] = {}
    for locator in locators.values():
        encoder = locator.encoder
        if encoder.fingerprint not in found:
            show = _shown(f"{text} ({encoder.name} {encoder.fingerprint[:6]})", on_progress)
            found[encoder.fingerprint] = embed_photos(photos, encoder, cache=cache, on_progress=show)
    common = set.intersection(*(set(e.photos.names) for e in found.values()))
    return {
        f: e.take(np.array([i for i, name in enumerate(e.photos.names) if name in common], dtype=np.intp))
        for f, e in found.items()
    }


def _shown(text: str, on_progress: OnProgress) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(Progress("embed", text, done, total))


def _subject(
    label: str,
    path: Path,
    locator: Locator,
    inside: Mapping[str, Embedded],
    outside: Mapping[str, Embedded],
    times: Mapping[str, Floats],
) -> Subject:
    fingerprint = locator.encoder.fingerprint
    here = Pictures.of(inside[fingerprint].known(), locator.index)
    subject = Subject(label, path, locator, here, encode_seconds=times[fingerprint])
    if fingerprint not in outside:
        return subject
    strange = outside[fingerprint]
    families = strange.photos.families or ("pictures",) * len(strange.photos)
    return replace(subject, outside=Pictures.of(strange.known(), locator.index), families=families)


def _under_priors(
    subject: Subject,
    inside: Mapping[str, Embedded],
    outside: Mapping[str, Embedded],
    request: EvaluationRequest,
    show: Callable[[int, int], None],
) -> Subject:
    """The subject with its pictures under each prior that was opened with its index."""
    fingerprint = subject.locator.encoder.fingerprint

    def under(pictures: Pictures, embedded: Embedded, prior: Prior) -> Pictures:
        return replace(pictures, known=known_under(embedded, prior, cache=request.cache, on_progress=show))

    believing = {}
    for name, asked in subject.locator.priors.by_name.items():
        strange = None
        if subject.outside is not None:
            strange = under(subject.outside, outside[fingerprint], asked.prior)
        believing[name] = (under(subject.inside, inside[fingerprint], asked.prior), strange)
    return replace(subject, believing=believing)


def _of(locators: Mapping[str, Locator], fingerprint: str) -> Locator:
    return next(locator for locator in locators.values() if locator.encoder.fingerprint == fingerprint)
