"""Numbers are rounded in one place: HTTP JSON, GeoJSON and the command line show the same digits, objects show all."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from retrieval.locator import Locator
from retrieval.search.query import LocateQuery
from retrieval.search.rounding import degrees, kilometres, probability

Picture = Callable[..., bytes]
DIGITS = {"confidence": 4, "similarity": 4, "elsewhere": 4, "lat": 6, "lon": 6, "50": 2, "90": 2, "radius_km": 2}


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The floats of a JSON document with their names; those of a list have the list's name."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from numbers(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each, name)
    elif isinstance(value, float):
        yield name, value


def check(document: Any) -> None:
    shown = [(name, value) for name, value in numbers(document) if name not in ("decode", "encode", "search", "share")]
    digits = {**DIGITS, "bounds": 6, "coordinates": 6}
    assert len(shown) > 20
    assert [(name, value) for name, value in shown if round(value, digits[name]) != value] == []


def test_json_and_geojson_are_rounded(http: httpx.Client, make_picture: Picture) -> None:
    for seed in range(5):
        options: dict[str, Any] = {"params": {"trace": "true", "alternatives": 5}, "content": make_picture(seed)}
        kind = {"Content-Type": "image/jpeg"}
        plain = http.post("/locate", headers=kind, **options).json()
        check(plain)
        check(http.post("/locate", headers={**kind, "Accept": "application/geo+json"}, **options).json())
        confidences = [level["confidence"] for level in plain["levels"]]
        assert confidences == sorted(confidences, reverse=True)
        assert plain["confidence"] == confidences[-1]
        for level in plain["levels"]:
            west, south, east, north = level["bounds"]
            assert west <= plain["lon"] <= east
            assert south <= plain["lat"] <= north
        total = plain["elsewhere"] + sum(row["confidence"] for row in plain["trace"][0]["kept"])
        assert total == pytest.approx(1, abs=5e-5 * 300)


def test_objects_are_not_rounded(locator: Locator) -> None:
    query = np.random.default_rng(3).standard_normal((1, 32)).astype(np.float32)
    query /= np.linalg.norm(query)
    [answer] = locator.answers(query, locator.plan(LocateQuery()))
    shown = answer.to_json()
    assert shown["confidence"] == probability(answer.confidence) != answer.confidence
    assert shown["lat"] == degrees(answer.lat) != answer.lat
    assert shown["elsewhere"] == probability(answer.elsewhere)
    assert answer.radius_90_km is None or shown["radius_km"]["90"] == kilometres(answer.radius_90_km)


def test_rounding_keeps_order_and_has_no_negative_zero() -> None:
    values = np.sort(np.random.default_rng(0).random(1000) ** 8)
    assert [probability(v) for v in values] == sorted(probability(v) for v in values)
    assert str(degrees(-1e-9)) == str(probability(-1e-9)) == "0.0"
    assert (degrees(179.99999999), probability(0.99999), kilometres(0.005001)) == (180.0, 1.0, 0.01)
