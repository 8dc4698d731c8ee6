"""Open the indexes and embed the photos: once per photo encoder, and the same photos for all indexes."""

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
from indexer.progress import OnProgress, counter
from retrieval.decoding.decoder import shared_decoder
from retrieval.locator import Locator
from retrieval.priors.base import Prior

__all__ = ["Loaded", "Subject", "load"]

_TIMED = 16  # photos whose encoding is timed, after one that warms up


@dataclass(frozen=True)
class Subject:
    """An index and its test pictures. `outside`: pictures without an answer; `families`: the kind of each of them.

    `with_priors` maps the name of each opened prior to the pictures inside and outside with that prior.
    """

    label: str
    directory: Path
    locator: Locator
    inside: Pictures
    outside: Pictures | None = None
    families: tuple[str, ...] = ()
    encode_seconds: Floats | None = None  # (m,) from file to embedding, single photos
    with_priors: Mapping[str, tuple[Pictures, Pictures | None]] = field(default_factory=dict)

    def pictures(self, prior: str | None) -> tuple[Pictures, Pictures | None]:
        """The pictures inside and outside, with an opened prior or without one."""
        return (self.inside, self.outside) if prior is None else self.with_priors[prior]


@dataclass(frozen=True)
class Loaded:
    """The photos that every encoder could read, and the indexes."""

    photos: PhotoSet
    subjects: tuple[Subject, ...]


def load(request: EvaluationRequest, on_progress: OnProgress) -> Loaded:
    """Open, read and embed. Raises PhotoSetError, EvaluationError, and the errors of opening an index."""
    photos = of_split(read_photos(request.photos, request.reading), request.split)
    photos = photos.sample(request.limit, request.measures.seed).check_not_empty()
    names = request.measures.prior_names()
    locators = {
        label: Locator.open(path, device=request.device, priors=names, allow_download=request.allow_download)
        for label, path in labels(request.indexes).items()
    }
    inside = _embedded(photos, locators, request.cache, "Embedding photos", on_progress)
    outside: Mapping[str, Embedded] = {}
    if request.elsewhere is not None:
        out_of_scope = of_split(read_photos(request.elsewhere, ReadOptions(need_place=False)), None)
        text = "Embedding pictures without an answer"
        outside = _embedded(out_of_scope, locators, request.cache, text, on_progress)
    times = {f: encode_seconds(e.photos.paths, _with_encoder(locators, f)) for f, e in inside.items()}
    count = counter(on_progress, "embed", "Embedding for priors")
    subjects = [
        _with_priors(_subject(label, path, locators[label], inside, outside, times), inside, outside, request, count)
        for label, path in labels(request.indexes).items()
    ]
    return Loaded(next(iter(inside.values())).photos, tuple(subjects))


def of_split(photos: PhotoSet, split: str | None) -> PhotoSet:
    """The photos of a split; None: those of `test` if the set has splits, else all."""
    wanted = split or (None if photos.split is None else "test")
    return photos if wanted is None else photos.only(wanted)


def labels(indexes: Sequence[Path]) -> dict[str, Path]:
    """A short, unique name for each index: its folder's name, after as many parent folders as needed."""
    parts = [path.absolute().parts for path in indexes]
    for depth in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-depth:]).lstrip("/") for p in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, indexes, strict=True))
    raise EvaluationError(f"an index is given twice: {', '.join(str(p) for p in indexes)}; give each once")


def encode_seconds(paths: Sequence[str], locator: Locator) -> Floats:
    """The times of single photos from file to embedding, (m,): reading, decoding, preparing, encoding."""
    seconds = []
    for path in paths[: _TIMED + 1]:
        start = time.perf_counter()
        locator.encoder.encode(locator.encoder.prepare(shared_decoder().read(Path(path).read_bytes()).images[0])[None])
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[1:])


def _embedded(
    photos: PhotoSet, locators: Mapping[str, Locator], cache: Path | None, text: str, on_progress: OnProgress
) -> dict[str, Embedded]:
    """Encoder fingerprint to embeddings, for the photos that every encoder could read."""
    by_encoder: dict[str, Embedded] = {}
    for locator in locators.values():
        encoder = locator.encoder
        if encoder.fingerprint not in by_encoder:
            count = counter(on_progress, "embed", f"{text} ({encoder.name} {encoder.fingerprint[:6]})")
            by_encoder[encoder.fingerprint] = embed_photos(photos, encoder, cache=cache, on_progress=count)
    common = set.intersection(*(set(e.photos.names) for e in by_encoder.values()))
    return {
        f: e.take(np.array([i for i, name in enumerate(e.photos.names) if name in common], dtype=np.intp))
        for f, e in by_encoder.items()
    }


def _subject(
    label: str,
    path: Path,
    locator: Locator,
    inside: Mapping[str, Embedded],
    outside: Mapping[str, Embedded],
    times: Mapping[str, Floats],
) -> Subject:
    fingerprint = locator.encoder.fingerprint
    pictures = Pictures.of(inside[fingerprint].known(), locator.index)
    subject = Subject(label, path, locator, pictures, encode_seconds=times[fingerprint])
    if fingerprint not in outside:
        return subject
    out_of_scope = outside[fingerprint]
    families = out_of_scope.photos.families or ("pictures",) * len(out_of_scope.photos)
    return replace(subject, outside=Pictures.of(out_of_scope.known(), locator.index), families=families)


def _with_priors(
    subject: Subject,
    inside: Mapping[str, Embedded],
    outside: Mapping[str, Embedded],
    request: EvaluationRequest,
    on_progress: Callable[[int, int], None],
) -> Subject:
    """The subject with its pictures under each prior that was opened with its index."""
    fingerprint = subject.locator.encoder.fingerprint

    def under(pictures: Pictures, embedded: Embedded, prior: Prior) -> Pictures:
        return replace(pictures, known=known_under(embedded, prior, cache=request.cache, on_progress=on_progress))

    with_priors = {}
    for name, installed in subject.locator.priors.by_name.items():
        out_of_scope = None
        if subject.outside is not None:
            out_of_scope = under(subject.outside, outside[fingerprint], installed.prior)
        with_priors[name] = (under(subject.inside, inside[fingerprint], installed.prior), out_of_scope)
    return replace(subject, with_priors=with_priors)


def _with_encoder(locators: Mapping[str, Locator], fingerprint: str) -> Locator:
    return next(locator for locator in locators.values() if locator.encoder.fingerprint == fingerprint)
