"""HEIC pictures with pillow-heif; without it they are rejected with 415 and a reason."""

import sys
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from retrieval.pictures.photo import decode_photo


def heic(image: Image.Image, turn: int = 1) -> bytes:
    """The picture as HEIC; `turn` is the EXIF orientation."""
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif: pip install 'tilebeam[heic]'")
    exif = Image.Exif()
    exif[0x0112] = turn
    out = BytesIO()
    heif.from_pillow(image).save(out, quality=95, exif=exif.tobytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    patches = np.random.default_rng(3).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((240, 160), Image.Resampling.NEAREST)


@pytest.mark.parametrize("turn", [1, 6])
def test_heic_gets_same_answer_as_png(http: httpx.Client, photo: Image.Image, turn: int) -> None:
    data, png, exif = heic(photo, turn), BytesIO(), Image.Exif()
    exif[0x0112] = turn
    photo.save(png, "PNG", exif=exif)
    far = np.abs(np.asarray(decode_photo(data)).astype(int) - np.asarray(decode_photo(png.getvalue())))
    assert np.mean(far) < 3
    lossy, exact = (http.post("/locate", files={"image": each}).json() for each in (data, png.getvalue()))
    assert lossy["levels"][0]["tile"] == exact["levels"][0]["tile"]
    assert lossy["levels"][0]["similarity"] == pytest.approx(exact["levels"][0]["similarity"], abs=0.02)


def test_damaged_or_too_large_heic_is_rejected(
    serving: Any, locator: Any, photo: Image.Image, check_problem: Any
) -> None:
    data = heic(photo)
    with serving(locator, max_image_pixels=240 * 160 - 1) as url:
        check_problem(httpx.post(f"{url}/locate", files={"image": data}), 413, "photo-too-large")
        line = httpx.post(f"{url}/locate/batch", files={"images": data}).json()
        assert line["error"]["status"] == 413
    with serving(locator) as url:
        check_problem(httpx.post(f"{url}/locate", files={"image": data[: len(data) // 2]}), 400, "unreadable-photo")


def test_formats_setting_can_exclude_heic(serving: Any, locator: Any, photo: Image.Image, check_problem: Any) -> None:
    with serving(locator, formats="JPEG, PNG") as url:
        refused = httpx.post(f"{url}/locate", files={"image": heic(photo)})
        assert "HEIC is not accepted here" in check_problem(refused, 415, "unsupported-photo")


def test_heic_without_library_is_rejected_with_reason(
    http: httpx.Client, check_problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    head = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)
    detail = check_problem(http.post("/locate", files={"image": head}), 415, "unsupported-photo")
    assert "HEIC" in detail
    assert "pillow-heif" in detail
