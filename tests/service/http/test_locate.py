"""POST /locate: the documented answer, equal to the locator's, and every query parameter."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.pictures.photo import decode_photo

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def direct(locator: Locator, data: bytes, query: LocateQuery | None = None) -> dict[str, Any]:
    """The answer without a service."""
    pixels = locator.encoder.prepare(decode_photo(data))
    return locator.locate(locator.encoder.encode(np.stack([pixels])), query or LocateQuery())[0].to_json()


def without_timing(answer: dict[str, Any]) -> dict[str, Any]:
    timing = answer.pop("timing_ms")
    assert set(timing) == {"decode", "encode", "search"}
    assert all(0 <= value < 20_000 for value in timing.values())
    assert answer.pop("registration") is None
    answer.pop("registration_reason", None)
    return answer


def test_form_and_raw_body_give_answer_of_locator(http: httpx.Client, locator: Locator, make_picture: Picture) -> None:
    data = make_picture(1)
    form = http.post("/locate", files={"image": ("photo.jpg", data)})
    raw = http.post("/locate", content=data, headers={"Content-Type": "image/jpeg"})
    mistyped = http.post("/locate", content=data, headers={"Content-Type": "image/png; q=1"})
    for response in (form, raw, mistyped):
        assert response.status_code == 200, response.text
        assert without_timing(response.json()) == direct(locator, data)


def test_answer_has_documented_fields_in_order(http: httpx.Client, make_picture: Picture) -> None:
    answer = http.post("/locate?alternatives=3&trace=true", files={"image": make_picture()}).json()
    assert list(answer) == [
        "outcome", "lat", "lon", "confidence", "calibrated", "radius_km", "zoom", "levels", "alternatives", "trace",
        "elsewhere", "index", "attribution", "registration", "registration_reason", "timing_ms",
    ]  # fmt: skip
    assert set(answer["levels"][0]) == {
        "zoom", "tile", "quadkey", "lat", "lon", "bounds", "confidence", "similarity",
    }  # fmt: skip
    confidences = [level["confidence"] for level in answer["levels"]]
    assert confidences == sorted(confidences, reverse=True)
    assert answer["confidence"] == confidences[-1]
    assert len(answer["alternatives"]) == 3
    assert [level["zoom"] for level in answer["trace"]] == [4, 6, 8]


def test_query_parameters_reach_locator(http: httpx.Client, locator: Locator, make_picture: Picture) -> None:
    data = make_picture(2)
    cases = {
        "k=1": LocateQuery(k=1),
        "k=1024": LocateQuery(k=1024),  # more than the index has tiles: all are kept
        "alternatives=20": LocateQuery(alternatives=20),
        "trace=1&k=16": LocateQuery(k=16, trace=True),
        "bbox=-10,-20,60,70": LocateQuery(bbox=BBox(-10, -20, 60, 70)),
        "bbox=170,-60,-170,60": LocateQuery(bbox=BBox(170, -60, -170, 60)),
        "bbox=": None,
    }
    for text, query in cases.items():
        response = http.post(f"/locate?{text}", files={"image": data})
        if query is None:
            assert response.status_code == 422
        else:
            assert without_timing(response.json()) == direct(locator, data, query), text


def test_region_notes_stand_in_the_answer(http: httpx.Client, make_picture: Picture) -> None:
    def ask(ring: str, kind: str = "application/json") -> dict[str, Any]:
        within = f'{{"type":"Polygon","coordinates":[{ring}]}}'
        sent = http.post(
            "/locate", params={"within": within}, files={"image": make_picture(2)}, headers={"Accept": kind}
        )
        return dict(sent.json())

    long_way = "[[170,-80],[-170,-80],[-170,80],[170,80],[170,-80]]"
    assert "the long way round" in ask(long_way)["notes"][0]
    assert "the long way round" in ask(long_way, "application/geo+json")["features"][0]["properties"]["notes"][0]
    assert "repaired" in ask("[[-170,-80],[170,80],[170,-80],[-170,80],[-170,-80]]")["notes"][-1]
    assert "notes" not in ask("[[-80,-80],[80,-80],[80,80],[-80,80],[-80,-80]]")


@pytest.mark.parametrize("bbox", ["50,20,60,20", "50,20,50,30", "180,20,-180,30", "0,86,10,90", "0,90,10,90"])
def test_bbox_without_area_is_refused(http: httpx.Client, check_problem: Any, make_picture: Picture, bbox: str) -> None:
    sent = http.post("/locate", params={"bbox": bbox}, files={"image": make_picture(2)})
    assert bbox in check_problem(sent, 422, "invalid-query")


def test_scoring_is_a_setting_of_the_service(serving: Any, locator: Locator, make_picture: Picture) -> None:
    data = make_picture(3)
    with serving(locator, scoring="paper") as url:
        answer = httpx.post(f"{url}/locate", files={"image": data}).json()
    assert without_timing(answer) == direct(locator, data, LocateQuery(scoring="paper"))
    assert answer["calibrated"] is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k=0", "k='0'"),
        ("k=1025", "k='1025'"),
        ("k=many", "k='many'"),
        ("k=", "k=''"),
        ("k=1e2", "k='1e2'"),
        ("k=8&k=9", "'k' is given more than once"),
        ("alternatives=-1", "alternatives='-1'"),
        ("alternatives=21", "alternatives='21'"),
        ("trace=perhaps", "trace='perhaps'"),
        ("bbox=1,2,3", "3 values instead of 4"),
        ("bbox=1,2,3,x", "'x' is not a number"),
        (
            "kk=3",
            "unknown query parameter 'kk'; use alternatives, bbox, heading, k, prior, register, ",
        ),
        ("scoring=paper", "unknown query parameter 'scoring'"),
    ],
)
@pytest.mark.parametrize("route", ["/locate", "/locate/batch"])
def test_error_names_invalid_parameter(
    http: httpx.Client, check_problem: Problem, make_picture: Picture, route: str, text: str, expected: str
) -> None:
    field = "image" if route == "/locate" else "images"
    response = http.post(f"{route}?{text}", files={field: make_picture()})
    assert expected in check_problem(response, 422, "invalid-request")


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ("0,50,10,40", "south 50"),
        ("-181,0,0,1", "-181"),
        ("0,0,1,91", "91"),
        ("nan,0,1,1", "nan"),
        ("0,0,inf,1", "inf"),
        ("0,88,10,89", ""),  # covers no tile: beyond the Mercator square
    ],
)
def test_invalid_or_empty_bbox_is_invalid_query(
    http: httpx.Client, check_problem: Problem, make_picture: Picture, bbox: str, expected: str
) -> None:
    response = http.post("/locate", params={"bbox": bbox}, files={"image": make_picture()})
    assert expected in check_problem(response, 422, "invalid-query")


def test_concurrent_requests_get_their_own_answers(url: str, locator: Locator, make_picture: Picture) -> None:
    pictures = [make_picture(seed, kind) for seed in range(12) for kind in ("JPEG", "PNG")]
    expected = [direct(locator, data) for data in pictures]

    def ask(data: bytes) -> dict[str, Any]:
        return without_timing(httpx.post(f"{url}/locate", files={"image": data}, timeout=30).json())

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, pictures)) == expected
    assert len({(answer["lat"], answer["lon"]) for answer in expected}) > 3


def test_connection_stays_open_after_error(http: httpx.Client, make_picture: Picture) -> None:
    for _ in range(3):
        assert http.post("/locate", files={"image": b"no"}).status_code == 400
        assert http.post("/locate", files={"image": make_picture()}).status_code == 200


def test_picture_without_file_name_is_accepted(http: httpx.Client, make_picture: Picture) -> None:
    """File names are optional (RFC 7578); the part's content type identifies the picture."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: image/jpeg\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = http.post("/locate", content=head + make_picture(3) + b"\r\n--x--\r\n", headers=headers).json()
    named = http.post("/locate", files={"image": ("a.jpg", make_picture(3))}).json()
    assert (answer["lat"], answer["lon"]) == (named["lat"], named["lon"])
