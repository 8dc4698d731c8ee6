"""The index of a training run's source with the encoders that it made."""

from dataclasses import replace
from typing import Any

from indexer.build.build import build_index
from indexer.build.request import BuildRequest
from indexer.progress import OnProgress
from indexer.training.output import ENCODERS_NAME
from indexer.training.request import TrainRequest

__all__ = ["index_with"]


def index_with(request: TrainRequest, building: BuildRequest, tell: OnProgress) -> dict[str, Any]:
    """Build what `building` says with the encoders that `request` has made; raises what `build_index` raises."""
    encoders = request.out / ENCODERS_NAME
    moved = (encoders / "photo.json").exists()
    made = replace(
        building,
        photo_encoder=str(encoders) if moved else request.photo_encoder,
        map_encoders=encoders,
        cache=request.tile_cache,
        fetch=request.fetch,
        device=request.device,
    )
    report = build_index(made, on_progress=tell)
    return {"index": str(report.out), "index_id": report.index_id, "index_rows": report.rows}
