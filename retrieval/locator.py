"""An open index with its calibration, photo encoder and priors; it answers queries. Safe to share between threads.

It knows nothing of HTTP, picture files or queues; `retrieval.pipeline` is the way from a picture's bytes to an answer.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import NO_ENCODER, EncodesPhotos, NoEncoder
from retrieval.encoders.hub import hub_access
from retrieval.errors import (
    DeviceMemoryError,
    EncoderError,
    EncoderMismatchError,
    IndexDamagedError,
    QueryError,
    damage_as,
)
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import FORMAT_VERSION
from retrieval.index.reader import MEMORY_BYTES, TileIndex
from retrieval.installed_priors import OpenPriors, open_installed
from retrieval.priors.base import Belief, Prior
from retrieval.registrar import Registrar, acceptance_of
from retrieval.search.answer import Answer, alternative_of, levels_of, trace_of
from retrieval.search.answer_point import Place, paper_places, places, radii_km
from retrieval.search.beam import Descent, descend
from retrieval.search.evidence import outcome_of
from retrieval.search.own_answer import answer_alone
from retrieval.search.plan import SearchPlan
from retrieval.search.points import Support
from retrieval.search.query import NO_PRIOR, BBox, LocateQuery

if TYPE_CHECKING:  # loads torch, which takes seconds
    from retrieval.search.gpu.beam import DeviceBeam

__all__ = ["BBox", "LocateQuery", "Locator", "radius_shares"]

_DESCENTS_PER_CALL = 128
"""Embeddings that are searched in one call on a device; their descents take tens of megabytes."""
_BELIEFS_PER_CALL = 16
"""Beliefs that a prior makes in one call; each takes up to a megabyte."""
_log = logging.getLogger("tilebeam.retrieval")


class Locator:
    """An open index that answers queries. All methods may be called from many threads at once."""

    def __init__(
        self,
        index: TileIndex,
        calibration: Calibration,
        encoder: EncodesPhotos,
        device_beam: "DeviceBeam | None" = None,
        priors: OpenPriors | None = None,
    ) -> None:
        _check_encoder(index, encoder)
        self.index, self.calibration, self.encoder = index, calibration, encoder
        self.priors = priors or OpenPriors({})
        for fitted in (calibration, *(prior.calibration for prior in self.priors.by_name.values())):
            acceptance_of(fitted)
        self._device_beam = device_beam
        self._coverage_hash, self._id = index.manifest.coverage_hash, index.manifest.id
        self._calibration_id = calibration.id
        self.registrar = Registrar.of(index.manifest)
        """For callers that have no other; loaded when the first picture needs it."""

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        device: str = "auto",
        encoder: EncodesPhotos | None = None,
        calibration: Calibration | None = None,
        priors: Iterable[str] | None = None,
        prior: str | None = None,
        reuse_priors: Mapping[str, Prior] | None = None,
        memory_bytes: int = MEMORY_BYTES,
        allow_download: bool = False,
    ) -> "Locator":
        """Open an index directory; `encoder` and `calibration` replace the ones that it names.

        On a GPU the search runs on the device too; if the index does not fit and `device` is `auto`, it runs on the
        CPU. An encoder that is loaded here computes in half precision on a GPU if that keeps its embeddings.
        `priors`: the names to open, None for all of the index. `prior`: the default prior, None for the manifest's.
        `reuse_priors`: see `open_installed`; `memory_bytes`: see `TileIndex.open`. `allow_download`: weights that the
        index or a prior names may be fetched from a model hub; otherwise only what earlier downloads left in its cache
        is used, and no request is made. Raises the IndexFormatErrors, CalibrationError, EncoderError,
        EncoderMismatchError for a different encoder, PriorError, and DeviceMemoryError.
        """
        directory = Path(directory)
        with (
            hub_access(allow_download),
            damage_as(IndexDamagedError, directory, "copy the index again or build it again"),
        ):
            index = TileIndex.open(directory, memory_bytes=memory_bytes)
            calibration = Calibration.read(directory) if calibration is None else calibration
            encoder = encoder or _load_encoder(directory, index.manifest.photo_encoder, device)
            device_beam = _device_beam(index, calibration, encoder, device)
            open_priors = open_installed(
                index, calibration, encoder, device=device, names=priors, default=prior, reuse=reuse_priors
            )
            return cls(index, calibration, encoder, device_beam, open_priors)

    def plan(self, query: LocateQuery, registrar: Registrar | None = None) -> SearchPlan:
        """Resolve a query against this index; `registrar`: used instead of the index's own.

        Raises QueryError for a prior that it does not have or cannot use, and where `register=on` is impossible.
        """
        if query.scoring == "paper":
            if query.prior not in (None, NO_PRIOR):
                raise QueryError(f"scoring paper ranks by similarity alone and cannot use the prior {query.prior}")
            prior = None
        else:
            prior = self.priors.select(query.prior)
        if prior is None and query.prior_only:
            raise QueryError("a prior's own answer was requested without a prior: name one")
        why_not = _why_unregistered(query, registrar or self.registrar)
        if why_not is not None and query.register == "on":
            raise QueryError(f"the picture cannot be registered: {why_not}; leave register=on out")
        return SearchPlan(
            calibration=self.calibration if prior is None else prior.calibration,
            k=query.k,
            scoring=query.scoring,
            constraint=query.constraint,
            prior=prior,
            prior_only=query.prior_only,
            alternatives=query.alternatives,
            trace=query.trace,
            register=query.register if why_not is None else "off",
            width_km=query.width_km if why_not is None else None,
            heading=query.heading if why_not is None else None,
            unregistered=why_not if query.register == "auto" else None,
        )

    def locate(self, embeddings: NDArray[np.float32], query: LocateQuery) -> list[Answer]:
        """One answer per embedding, (n, d) float32 unit rows; for priors without an encoder of their own.

        Raises QueryError, for example if the constraint covers no tile.
        """
        return self.answers(embeddings, self.plan(query))

    def answers(
        self, embeddings: NDArray[np.float32], plan: SearchPlan, features: NDArray[np.float32] | None = None
    ) -> list[Answer]:
        """One answer per embedding, (n, d) float32 unit rows; raises QueryError if the constraint covers no tile.

        `features`, (n, f) float32: made by the plan's `prior_encoder`, if there is one.
        """
        return [answer for answer, _ in self.searched(embeddings, plan, features)]

    def searched(
        self, embeddings: NDArray[np.float32], plan: SearchPlan, features: NDArray[np.float32] | None = None
    ) -> list[tuple[Answer, Descent | None]]:
        """The same as `answers`, each with its search; None for a prior's own answer.

        If the plan registers, the answers have all the alternatives that registration looks at.
        """
        rows = self._checked(embeddings)
        beliefs = self._beliefs(plan, rows, features)
        if plan.prior_only and plan.prior is not None:
            manifest = self.index.manifest
            return [(answer_alone(belief, plan.prior, manifest), None) for belief in beliefs if belief is not None]
        return [(self.answer_of(descent, plan), descent) for descent in self._descents(rows, plan, beliefs)]

    def descend(self, embedding: NDArray[np.float32], plan: SearchPlan, belief: Belief | None = None) -> Descent:
        """The search alone, for one embedding, (d,) float32; `belief`: what the plan's prior makes of the picture."""
        rows = self._checked(embedding[None])
        beliefs = self._beliefs(plan, rows, None) if belief is None else iter([belief])
        return next(self._descents(rows, plan, beliefs))

    def answer_of(self, descent: Descent, plan: SearchPlan) -> Answer:
        """The answer that follows from a search with this plan."""
        support = Support.of(descent, plan.constraint, plan.deadline)
        candidates = places if plan.scoring == "posterior" else paper_places
        place, *others = _in_time(islice(candidates(descent, support, plan.constraint), plan.places), plan)
        confidences = descent.confidences()
        calibrated = self._is_calibrated(plan, descent)
        radius_50_km, radius_90_km = radii_km(support, descent.elsewhere, place, radius_shares(plan, calibrated))
        answer = Answer(
            lng=place.lng,
            lat=place.lat,
            levels=levels_of(descent, confidences, place),
            calibrated=calibrated,
            radius_50_km=radius_50_km,
            radius_90_km=radius_90_km,
            elsewhere=min(1.0, descent.elsewhere),
            alternatives=tuple(alternative_of(descent, confidences, other) for other in others),
            trace=trace_of(descent, confidences) if plan.trace else None,
            index_id=self._id,
            calibration_id=self._calibration_id if plan.prior is None else plan.prior.calibration_id,
            prior=None if plan.prior is None else plan.prior.name,
            zooms=tuple(self.index.zooms),
            attribution=self.index.manifest.attribution,
            pictures=self.index.manifest.viewpoint,
        )
        return replace(answer, outcome=outcome_of(answer, plan.calibration.outcome_numbers, is_registered=False))

    def describe(self) -> dict[str, Any]:
        """The JSON object of GET /index."""
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
                "photo": _without_spec(manifest.photo_encoder),
                "map": _without_spec(manifest.map_encoders) | {"zooms": maps},
            },
            "attribution": manifest.attribution,
            "pictures": manifest.viewpoint,
            "priors": self.priors.describe(),
            "prior": None if self.priors.default == NO_PRIOR else self.priors.default,
            "engine": "lists on cpu" if self._device_beam is None else f"tensors on {self._device_beam.index.device}",
        }

    def _checked(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.index.dim:
            raise QueryError(f"embeddings have shape {rows.shape}: this index needs (n, {self.index.dim})")
        if not np.isfinite(rows).all():
            raise EncoderError("an embedding is not finite: the photo encoder failed on this picture")
        return rows

    def _beliefs(
        self, plan: SearchPlan, rows: NDArray[np.float32], features: NDArray[np.float32] | None
    ) -> Iterator[Belief | None]:
        """The belief of the plan's prior for each picture; None without a prior."""
        if plan.prior is None:
            yield from [None] * len(rows)
            return
        if plan.prior_encoder is not None and features is None:
            raise QueryError(
                f"the prior {plan.prior.name} has its own encoder, {plan.prior_encoder.name}: give its features"
            )
        rows = rows if features is None else features
        for start in range(0, len(rows), _BELIEFS_PER_CALL):
            yield from plan.prior.prior.beliefs(rows[start : start + _BELIEFS_PER_CALL])

    def _descents(
        self, rows: NDArray[np.float32], plan: SearchPlan, beliefs: Iterator[Belief | None]
    ) -> Iterator[Descent]:
        """One search per row; on the device if there is one, which supports neither constraints nor priors."""
        if self._device_beam is None or plan.constraint is not None or plan.prior is not None:
            for row, belief in zip(rows, beliefs, strict=False):
                yield descend(self.index, row, plan, belief)
            return
        for start in range(0, len(rows), _DESCENTS_PER_CALL):
            yield from self._device_beam.descend_batch(rows[start : start + _DESCENTS_PER_CALL], plan.k, plan.scoring)

    def _is_calibrated(self, plan: SearchPlan, descent: Descent) -> bool:
        zooms = [step.level.zoom for step in descent.steps]
        photo = self.index.manifest.photo_encoder["fingerprint"]
        prior = None if plan.prior is None else plan.prior.prior.fingerprint
        fits = plan.calibration.fits(plan.k, zooms, self._coverage_hash, photo, prior)
        return plan.scoring == "posterior" and fits


def _why_unregistered(query: LocateQuery, registrar: Registrar) -> str | None:
    if query.scoring == "paper":
        return "scoring paper ranks by similarity alone"
    if query.prior_only:
        return "a prior's own answer is not searched"
    return registrar.why_not


def radius_shares(plan: SearchPlan, calibrated: bool) -> list[float]:
    """The shares of the mass that the 50% and the 90% circle hold."""
    fitted = plan.calibration if calibrated else Calibration()
    return [fitted.radius_share(percent) for percent in ("50", "90")]


def _in_time(found: Iterable[Place], plan: SearchPlan) -> Iterator[Place]:
    """The same places; raises SearchTimeoutError once the plan's deadline is over."""
    for place in found:
        plan.deadline.check()
        yield place


def _load_encoder(directory: Path, description: Mapping[str, Any], device: str) -> EncodesPhotos:
    if description["fingerprint"] == NO_ENCODER:
        return NoEncoder()
    # Imported here because torch takes seconds to import, and callers that bring an encoder may not need it.
    from retrieval.encoders.device import use_half
    from retrieval.encoders.open_clip import PhotoEncoder

    saved = directory.absolute() / "encoders"
    if saved.is_dir():
        encoder = PhotoEncoder.load(str(saved), device=device)
    else:
        encoder = PhotoEncoder.load_listed(str(description["spec"]), device=device)
    if _on_gpu(encoder):
        use_half(encoder)
    return encoder


def _device_beam(
    index: TileIndex, calibration: Calibration, encoder: EncodesPhotos, device: str
) -> "DeviceBeam | None":
    """The index as tensors on the GPU that the encoder runs on; None if the search runs on the CPU."""
    if any(len(level.codes) and not level.has_vectors for level in index.levels):
        return None
    if device == "cpu" or (device == "auto" and not _on_gpu(encoder)):
        return None
    # Imported here for the same reason as above: torch.
    from retrieval.encoders.device import resolve_device
    from retrieval.search.gpu.beam import DeviceBeam

    name = getattr(encoder, "device", "cpu") if device == "auto" else device
    try:
        return DeviceBeam.of(index, calibration, resolve_device(str(name)))
    except DeviceMemoryError as exc:
        if device != "auto":
            raise
        _log.warning("the search runs on the CPU: %s", exc)
        return None


def _on_gpu(encoder: EncodesPhotos) -> bool:
    """Whether the encoder computes on a GPU; an encoder without a `device` does not."""
    return str(getattr(encoder, "device", "cpu")).startswith("cuda")


def _check_encoder(index: TileIndex, encoder: EncodesPhotos) -> None:
    description = index.manifest.photo_encoder
    if encoder.fingerprint != description["fingerprint"]:
        raise EncoderMismatchError(
            f"{index.directory} was indexed for the photo encoder {description.get('name')} "
            f"({description['fingerprint'][:12]}), not {encoder.name} ({encoder.fingerprint[:12]}): "
            "use that encoder, or index again with this one"
        )
    if encoder.dim != index.dim:
        raise EncoderMismatchError(
            f"{encoder.name} makes embeddings of dimension {encoder.dim}, {index.directory} needs {index.dim}: "
            "index again with this encoder"
        )


def _without_spec(description: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's description without `spec`, which may be a path on the machine that built the index."""
    return {name: value for name, value in description.items() if name != "spec"}
