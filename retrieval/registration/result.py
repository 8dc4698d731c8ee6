"""The result of a registration: where a picture lies, how sure that is, and its JSON. Knows no references."""

from dataclasses import dataclass
from typing import Any

from retrieval.registration.accept import Features
from retrieval.registration.footprint import ControlPoint, as_stored, control_points, corners, holds_pole, outline
from retrieval.registration.geometry import Frame
from retrieval.search.rounding import degrees, kilometres, probability

__all__ = ["Registration"]


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a picture lies. Without a frame, `reason` says why there is none.

    `probability`: of the place being right. `finished` is False if the deadline ended the search. `size`: of the
    upright picture, pixels. `turn`: EXIF's orientation of its file, 1 to 8, which control points take back.
    `residual_km`: how far parts of the picture still lie off the fit (`residual_km` in refine.py); None if unknown.
    """

    size: tuple[int, int]
    accepted: bool = False
    probability: float = 0.0
    frame: Frame | None = None
    features: Features | None = None
    method: str = "none"
    reason: str | None = None
    finished: bool = True
    turn: int = 1
    residual_km: float | None = None

    @property
    def aspect(self) -> tuple[float, float]:
        """Width and height in edges of the central square."""
        return self.size[0] / min(self.size), self.size[1] / min(self.size)

    @property
    def width_km(self) -> float | None:
        """The width of the whole picture on the ground, at the scale of its centre."""
        return None if self.frame is None else self.frame.edge_km * self.aspect[0]

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The corners as (lng, lat), upper left first, then clockwise; empty without a frame."""
        return [] if self.frame is None else corners(self.frame, self.aspect)

    @property
    def control_points(self) -> tuple[ControlPoint, ...]:
        """Places in the file's pixels as stored, before EXIF's turn, and on the ground; empty without a frame."""
        if self.frame is None:
            return ()
        return as_stored(control_points(self.frame, self.size), self.size, self.turn)

    @property
    def holds_pole(self) -> bool:
        """Whether a pole lies in the picture."""
        return self.frame is not None and holds_pole(self.frame, self.aspect)

    def to_json(self) -> dict[str, Any]:
        """The contract's `registration` object."""
        verdict = {"accepted": self.accepted, "probability": probability(self.probability), "method": self.method}
        if self.frame is None or self.features is None:
            return verdict | {"reason": self.reason}
        return verdict | {
            "score": probability(self.features.score),
            "margin": probability(self.features.margin),
            "lat": degrees(self.frame.lat),
            "lon": degrees(self.frame.lng),
            "width_km": kilometres(self.frame.edge_km * self.aspect[0]),
            "heading_deg": round(self.frame.heading, 2) + 0.0,
            "footprint": outline(self.frame, self.aspect),
            "gcps": [
                {"x": round(p.x, 2), "y": round(p.y, 2), "lon": degrees(p.lng), "lat": degrees(p.lat)}
                for p in self.control_points
            ],
            "homography": self.frame.matrix.tolist(),
            "residual_km": None if self.residual_km is None else kilometres(self.residual_km),
            "reason": self.reason,
        }
