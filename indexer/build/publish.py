"""The last steps of a build: describe encoders and sources, write the manifest, add a calibration that fits.

It knows the index format's own modules and plain descriptions; nothing of units or resuming.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import CalibrationError
from retrieval.index import writer
from retrieval.index.calibration import CALIBRATION_NAME, Calibration
from retrieval.index.manifest import Manifest, ZoomEntry
from tile_cache.source import SourceInfo

if TYPE_CHECKING:  # loads torch
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["describe_photo", "fitting_calibration", "write_manifest"]


def describe_photo(photo: "EncodesPhotos") -> dict[str, Any]:
    """What the manifest keeps of a photo encoder: its own description, or name, fingerprint and dimension."""
    describe = getattr(photo, "describe", None)
    if describe is not None:
        return dict(describe())
    return {"name": photo.name, "spec": photo.name, "fingerprint": photo.fingerprint, "dim": photo.dim}


def write_manifest(
    directory: Path,
    zooms: Sequence[ZoomEntry],
    *,
    photo: "EncodesPhotos",
    input_size: int,
    codec: str,
    source: SourceInfo,
    overlay: SourceInfo | None,
    coverage: dict[str, Any],
    others: Sequence[str],
) -> Manifest:
    """Save a local photo encoder into the directory, then write the manifest, which declares it whole.

    `others` are further files to list, those of them that exist.
    """
    described = describe_photo(photo)
    if getattr(photo, "local", False):
        photo.save(directory / writer.ENCODERS)  # type: ignore[attr-defined]  # only encoders that came from files have it
        described |= {"spec": writer.ENCODERS}  # where it lay on this machine means nothing on another
    return writer.write_manifest(
        directory,
        zooms,
        dim=photo.dim,
        codec=codec,
        photo_encoder=described,
        map_encoders={"input_size": input_size},
        source=_described(source, overlay),
        attribution=_attribution(source, overlay),
        coverage=coverage,
        other_files=others,
    )


def fitting_calibration(path: Path | None, manifest: Manifest, directory: Path) -> bool:
    """Copy a calibration into the index if it was fitted for it; whether it was.

    Raises CalibrationError if the file is damaged; one that was fitted for another index is left where it is.
    """
    if path is None or not path.exists():
        return False
    if path.name != CALIBRATION_NAME:
        raise CalibrationError(f"{path} must be named {CALIBRATION_NAME}")
    calibration = Calibration.read(path.parent)
    fingerprint = str(manifest.photo_encoder["fingerprint"])
    zooms = [z.zoom for z in manifest.zooms]
    fitted_maps = calibration.extra.get("map_encoders")
    maps = {str(z.zoom): z.encoder for z in manifest.zooms}
    if calibration.k is None or not calibration.fits(calibration.k, zooms, manifest.coverage_hash, fingerprint):
        return False
    if fitted_maps not in (None, maps):
        return False
    calibration.write(directory)
    return True


def _described(source: SourceInfo, overlay: SourceInfo | None) -> dict[str, Any]:
    if overlay is None:
        return {"identity": source.identity, "name": source.name}
    identity = f"{source.identity} + {overlay.identity}"
    return {"identity": identity, "name": source.name, "overlay": overlay.name}


def _attribution(source: SourceInfo, overlay: SourceInfo | None) -> str:
    lines = [source.attribution, overlay.attribution if overlay else ""]
    return "; ".join(dict.fromkeys(line for line in lines if line))
