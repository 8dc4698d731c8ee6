"""What is in an index directory, as JSON and as words. Reads the manifest and the calibration, no vectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.index.calibration import Calibration
from retrieval.index.manifest import FORMAT_VERSION, Manifest

__all__ = ["describe_index", "in_words"]


def describe_index(directory: Path) -> dict[str, Any]:
    """Facts about an index. Raises IndexFormatError kinds and CalibrationError."""
    manifest = Manifest.read(directory)
    manifest.check_files(directory)
    calibration = Calibration.read(directory)
    zooms = [
        {
            "zoom": z.zoom,
            "rows": z.rows,
            "vectors": z.vectors,
            "inferred": z.inferred,
            "shards": len(z.shards),
            "context": z.context,
            "encoder": z.encoder,
        }
        for z in manifest.zooms
    ]
    return {
        "id": manifest.id,
        "format_version": FORMAT_VERSION,
        "calibration_id": calibration.id,
        "calibrated_at_k": calibration.k,
        "prior": manifest.prior,
        "priors": [_prior(directory, name, about) for name, about in manifest.priors.items()],
        "dim": manifest.dim,
        "codec": manifest.codec,
        "zooms": zooms,
        "photo_encoder": dict(manifest.photo_encoder),
        "source": dict(manifest.source),
        "attribution": manifest.attribution,
        "coverage": dict(manifest.coverage),
        "files": len(manifest.files),
        "bytes": sum(f.bytes for f in manifest.files),
    }


def in_words(facts: dict[str, Any]) -> list[str]:
    """The same for people, one line each."""
    source = facts["source"]["name"] + (f" under {facts['source']['overlay']}" if "overlay" in facts["source"] else "")
    calibration = facts["calibration_id"]
    fitted = f"{calibration[:12]}, fitted at k = {facts['calibrated_at_k']}" if calibration else "none"
    lines = [
        f"index        {facts['id']}",
        f"source       {source}",
        f"attribution  {facts['attribution'] or '-'}",
        f"photos by    {facts['photo_encoder'].get('name')} ({facts['photo_encoder']['fingerprint'][:12]})",
        f"calibration  {fitted}",
        f"priors       {'; '.join(_prior_in_words(p, facts['prior']) for p in facts['priors']) or 'none'}",
        f"vectors      {facts['dim']} x {facts['codec']}" if facts["dim"] else "vectors      none: a prior answers",
        f"size         {facts['bytes']:,} bytes in {facts['files']} files",
        "zoom         rows      vectors     inferred  shards  margin",
    ]
    for z in facts["zooms"]:
        counts = f"{z['rows']:>13,}{z['vectors']:>13,}{z['inferred']:>13,}{z['shards']:>8}{z['context']:>8g}"
        lines.append(f"{z['zoom']:>4}{counts}")
    return lines


def _prior(directory: Path, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    fitted = Calibration.read(directory, name)
    return {"name": name, **about, "calibration_id": fitted.id, "calibrated_at_k": fitted.k}


def _prior_in_words(prior: dict[str, Any], default: str | None) -> str:
    asked = "asked unless a question says otherwise" if prior["name"] == default else "asked on request"
    fitted = f"fitted at k = {prior['calibrated_at_k']}" if prior["calibration_id"] else "not fitted"
    return f"{prior['name']} ({asked}, {fitted})"
