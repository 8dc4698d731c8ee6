"""The digits of an answer's JSON: one rounding, for HTTP, GeoJSON and the command line. Objects stay unrounded.

Rounding keeps order, so confidences still do not rise with depth and a point stays inside its tile's bounds.
"""

__all__ = ["degrees", "kilometres", "probability"]


def degrees(value: float) -> float:
    """A coordinate to 1e-6 degrees, 11 cm on the ground."""
    return round(value, 6) + 0.0  # 0.0 instead of -0.0


def probability(value: float) -> float:
    """A probability, or a cosine, to 4 digits after the point."""
    return round(value, 4) + 0.0


def kilometres(value: float) -> float:
    """A distance to 0.01 km, 10 m."""
    return round(value, 2) + 0.0
