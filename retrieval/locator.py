"""Pictures to places: an index, its calibration and its photo encoder, opened together and safe to share by threads.

It knows nothing of HTTP, files of pictures, or queues.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.encoders.no_encoder import NO_ENCODER, NoEncoder
from retrieval.errors import DeviceMemoryError, EncoderMismatchError, QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import FORMAT_VERSION
from retrieval.index.reader import TileIndex
from retrieval.installed_priors import Asked, OpenPriors, open_installed
from retrieval.priors.base import Belief, Prior
from retrieval.search.answer import Answer, alternative_of, levels_of, trace_of
from retrieval.search.answer_point import radii_km
from retrieval.search.beam import Descent, descend
from retrieval.search.own_answer import answer_alone
from retrieval.search.query import NO_PRIOR, BBox, LocateQuery
from retrieval.search.region_limit import places_of, support_of

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos
    from retrieval.search.gpu.beam import DeviceBeam

__all__ = ["BBox", "Beam", "LocateQuery", "Locator"]

Beam = Literal["auto", "lists", "device"]
"""What searches: FAISS's lists on the CPU, or tensors on the encoder's device; `auto`: tensors where that is a GPU."""
_AT_ONCE = 128
"""Embeddings whose searches on a device are held at once: tens of megabytes."""
_BELIEFS_AT_ONCE = 16
"""Beliefs that are held at once: up to a megabyte each."""
_log = logging.getLogger("tilebeam.retrieval")


class Locator:
    """An open index that answers. `locate` may be called from many threads at once, as may the encoder's `prepare`."""

    def __init__(
        self,
        index: TileIndex,
        calibration: Calibration,
        encoder: "EncodesPhotos",
        device_beam: "DeviceBeam | None" = None,
        priors: OpenPriors | None = None,
    ) -> None:
        _check_encoder(index, encoder)
        self.index, self.calibration, self.encoder = index, calibration, encoder
        self.priors = priors or OpenPriors({})
        self._device_beam = device_beam
        self._coverage_hash, self._id = index.manifest.coverage_hash, index.manifest.id
        self._calibration_id = calibration.id

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        device: str = "auto",
        encoder: "EncodesPhotos | None" = None,
        calibration: Calibration | None = None,
        mmap: bool = True,
        beam: Beam = "auto",
        half: bool = True,
        priors: Iterable[str] | None = None,
        prior: str | None = None,
        kept: Mapping[str, Prior] | None = None,
    ) -> "Locator":
        """Open an index directory with the photo encoder that its manifest names, or with a given one.

        With a `calibration` the one in the directory is not read.
        `mmap` opens at once and lets the system hold what is asked for; without it, all is read into memory first.
        `half` lets an encoder that is loaded here, on a GPU, compute in half precision if its embeddings stay the same.
        `priors` names those of the index's to open, None all; `prior` the one that is asked with unless a question
        names another, None the manifest's; `kept` those that are open already (`priors.installed.open_installed`).
        `beam` says what searches; an index that its device has no room for is searched by the lists if `device` is
        `auto`. Raises IndexFormatError's kinds, CalibrationError, EncoderError, EncoderMismatchError for another
        encoder, and DeviceMemoryError.
        """
        index = TileIndex.open(directory, mmap=mmap)
        calibration = Calibration.read(directory) if calibration is None else calibration
        encoder = encoder or _load_encoder(directory, index.manifest.photo_encoder, device, half)
        searcher = _device_beam(index, calibration, encoder, device, beam)
        opened = open_installed(index, calibration, encoder, device=device, names=priors, default=prior, kept=kept)
        return cls(index, calibration, encoder, searcher, opened)

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB picture to the encoder's input, (3, s, s) float32; thread-safe."""
        return self.encoder.prepare(image)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Prepared pictures, (n, 3, s, s) float32, to embeddings, (n, d) float32, unit rows."""
        return self.encoder.encode(batch)

    def asked(self, query: LocateQuery) -> Asked | None:
        """The prior that a question is to be answered with, None for none; raises QueryError where that cannot be."""
        if query.scoring == "paper" and query.prior in (None, NO_PRIOR):
            return None
        if query.scoring == "paper":
            raise QueryError(f"scoring paper ranks by similarity alone, so it cannot ask the prior {query.prior}")
        asked = self.priors.asked(query.prior)
        if asked is None and (query.scoring == "bolted" or query.alone):
            raise QueryError("a prior's own answer was asked for, alone or bolted on, and no prior: name one")
        return asked

    def encoder_beside(self, query: LocateQuery) -> "EncodesPhotos | None":
        """The encoder of the asked prior, where it has one of its own: what makes `features` for `locate`."""
        asked = self.asked(query)
        return None if asked is None else asked.prior.encoder

    def beliefs(self, features: NDArray[np.float32], query: LocateQuery) -> Iterator[Belief | None]:
        """What the asked prior believes of each picture, by its features, (n, f): of its own encoder, if it has one."""
        asked = self.asked(query)
        for start in range(0, len(features), _BELIEFS_AT_ONCE):
            part = features[start : start + _BELIEFS_AT_ONCE]
            yield from [None] * len(part) if asked is None else asked.prior.beliefs(part)

    def locate(
        self, embeddings: NDArray[np.float32], query: LocateQuery, features: NDArray[np.float32] | None = None
    ) -> list[Answer]:
        """One answer for each embedding, (n, d) unit rows; raises QueryError if the query's area covers no tile.

        `features`, (n, f): of the asked prior's own encoder; of one that has none they are the embeddings.
        """
        rows = self._checked(embeddings)
        beliefs = self.beliefs(self._features(rows, query) if features is None else features, query)
        asked = self.asked(query)
        if query.alone and asked is not None:
            return [answer_alone(belief, asked, self.index.manifest) for belief in beliefs if belief is not None]
        return [self.answer_of(descent, query) for descent in self._descents(rows, query, beliefs)]

    def descend(self, embedding: NDArray[np.float32], query: LocateQuery, belief: Belief | None = None) -> Descent:
        """The search alone, for one embedding, (d,), and what the asked prior believes: all candidates' masses."""
        row = self._checked(embedding[None])
        beliefs = self.beliefs(self._features(row, query), query) if belief is None else iter([belief])
        return next(self._descents(row, query, beliefs))

    def expect_single(self) -> None:
        """Let the encoder find out how it encodes one picture alone soonest, in the thread that will do so."""
        expect = getattr(self.encoder, "expect_single", None)  # not every encoder has a choice
        if expect is not None:
            expect()

    def answer_of(self, descent: Descent, query: LocateQuery) -> Answer:
        """What `locate` answers after this search; `query` must be what was searched for."""
        support = support_of(descent, query)
        place, *others = islice(places_of(descent, support, query), 1 + query.alternatives)
        confidences = descent.confidences()
        asked = self.asked(query)
        calibrated = self._is_calibrated(query, descent, asked)
        numbers = self.calibration if asked is None else asked.calibration
        fitted = numbers if calibrated else Calibration()
        half, most = radii_km(support, descent.elsewhere, place, [fitted.radius_share(p) for p in ("50", "90")])
        return Answer(
            lng=place.lng,
            lat=place.lat,
            levels=levels_of(descent, confidences, place),
            calibrated=calibrated,
            radius_50_km=half,
            radius_90_km=most,
            elsewhere=min(1.0, descent.elsewhere),
            alternatives=tuple(alternative_of(descent, confidences, other) for other in others),
            trace=trace_of(descent, confidences) if query.trace else None,
            index_id=self._id,
            calibration_id=self._calibration_id if asked is None else asked.calibration_id,
            prior=None if asked is None else asked.name,
            zooms=tuple(self.index.zooms),
            attribution=self.index.manifest.attribution,
        )

    def describe(self) -> dict[str, Any]:
        """What GET /index tells."""
        manifest = self.index.manifest
        zooms = [{"zoom": z.zoom, "rows": z.rows, "vectors": z.vectors, "inferred": z.inferred} for z in manifest.zooms]
        maps = {str(z.zoom): {"fingerprint": z.encoder, "context": z.context} for z in manifest.zooms}
        return {
            "id": self._id,
            "calibration_id": self._calibration_id,
            "format_version": FORMAT_VERSION,
            "zooms": zooms,
            "dim": manifest.dim,
            "codec": manifest.codec,
            "coverage": dict(manifest.coverage),
            "encoders": {
                "photo": _public(manifest.photo_encoder),
                "map": _public(manifest.map_encoders) | {"zooms": maps},
            },
            "attribution": manifest.attribution,
            "priors": self.priors.describe(),
            "prior": None if self.priors.default == NO_PRIOR else self.priors.default,
            "engine": "lists on cpu" if self._device_beam is None else f"tensors on {self._device_beam.index.device}",
        }

    def _features(self, rows: NDArray[np.float32], query: LocateQuery) -> NDArray[np.float32]:
        """The embeddings, as features of the asked prior; raises QueryError for one that has an encoder of its own."""
        if (encoder := self.encoder_beside(query)) is not None:
            raise QueryError(f"the asked prior has an encoder of its own, {encoder.name}, whose features are missing")
        return rows

    def _checked(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.index.dim:
            raise QueryError(f"embeddings of shape {rows.shape} for an index of dimension {self.index.dim}")
        if not np.isfinite(rows).all():
            raise QueryError("an embedding is not finite: its picture cannot be compared with anything")
        return rows

    def _descents(
        self, rows: NDArray[np.float32], query: LocateQuery, beliefs: Iterator[Belief | None]
    ) -> Iterator[Descent]:
        """One search for each row, on the device if there is one; boxes and priors are the lists' to heed."""
        asked = self.asked(query)
        numbers = self.calibration if asked is None else asked.calibration
        if self._device_beam is None or query.confined or asked is not None:
            for row, belief in zip(rows, beliefs, strict=False):
                yield descend(self.index, row, numbers, query.k, query.scoring, query.area, belief)
            return
        for start in range(0, len(rows), _AT_ONCE):
            yield from self._device_beam.descend_batch(rows[start : start + _AT_ONCE], query.k, query.scoring)

    def _is_calibrated(self, query: LocateQuery, descent: Descent, asked: Asked | None) -> bool:
        zooms = [step.level.zoom for step in descent.steps]
        fingerprint = self.index.manifest.photo_encoder["fingerprint"]
        numbers, prior = (self.calibration, None) if asked is None else (asked.calibration, asked.prior.fingerprint)
        fits = numbers.fits(query.k, zooms, self._coverage_hash, fingerprint, prior)
        return query.scoring == "posterior" and fits


def _load_encoder(directory: Path, description: Mapping[str, Any], device: str, half: bool) -> "EncodesPhotos":
    if description["fingerprint"] == NO_ENCODER:
        return NoEncoder()
    # Imported here, as torch takes seconds to import and who brings an encoder may need none of it.
    from retrieval.encoders.open_clip import PhotoEncoder
    from retrieval.encoders.precision import use_half

    own = directory / "encoders"
    encoder = PhotoEncoder.load(str(own) if own.is_dir() else str(description["spec"]), device=device)
    if half and _on_gpu(encoder):
        use_half(encoder)
    return encoder


def _device_beam(
    index: TileIndex, calibration: Calibration, encoder: "EncodesPhotos", device: str, beam: Beam
) -> "DeviceBeam | None":
    """The index as tensors where the encoder runs, if that is what should search; None: the lists do."""
    if any(len(level.codes) and not level.has_vectors for level in index.levels):
        return None
    if beam == "lists" or (beam == "auto" and (device == "cpu" or (device == "auto" and not _on_gpu(encoder)))):
        return None
    # Imported here for torch, as above.
    from retrieval.encoders.open_clip import resolve_device
    from retrieval.search.gpu.beam import DeviceBeam

    where = getattr(encoder, "device", "cpu") if device == "auto" else device
    try:
        return DeviceBeam.of(index, calibration, resolve_device(str(where)))
    except DeviceMemoryError as exc:
        if device != "auto":
            raise
        _log.warning("the index's lists are searched on the CPU instead: %s", exc)
        return None


def _on_gpu(encoder: "EncodesPhotos") -> bool:
    """Whether an encoder has a device, which not every one does, and it is a GPU."""
    return str(getattr(encoder, "device", "cpu")).startswith("cuda")


def _check_encoder(index: TileIndex, encoder: "EncodesPhotos") -> None:
    description = index.manifest.photo_encoder
    if encoder.fingerprint != description["fingerprint"]:
        raise EncoderMismatchError(
            f"{index.directory} was indexed for the photo encoder {description.get('name')} "
            f"({description['fingerprint'][:12]}), not {encoder.name} ({encoder.fingerprint[:12]}): "
            "use that encoder, or index again with this one"
        )
    if encoder.dim != index.dim:
        raise EncoderMismatchError(
            f"{encoder.name} gives {encoder.dim} numbers a picture, {index.directory} holds {index.dim}"
        )


def _public(description: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's description without where it lay on the disk of whoever built the index."""
    return {name: value for name, value in description.items() if name != "spec"}
