"""What the client takes: pictures, folders, boxes and regions of every kind; and a TypeError for anything else."""

import asyncio
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client.client import AsyncClient, Client
from service.client.options import query_of
from service.client.photos import pictures_below, upload_of
from service.errors import ClientError, LocalFileError

Picture = Callable[..., bytes]
TRIANGLE = {"type": "Polygon", "coordinates": [[[-170, -80], [170, -80], [0, 80], [-170, -80]]]}


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def data(make_picture: Picture) -> bytes:
    return make_picture(3, kind="PNG")


def place(answer: Any) -> tuple[float, float]:
    return round(answer["lat"], 3), round(answer["lon"], 3)


class _Entry:
    """A PathLike, as `os.scandir` gives."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_every_kind_of_picture_is_taken(client: Client, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(data)
    expected = place(client.locate(path))
    with path.open("rb") as file:
        kinds = [str(path), _Entry(path), bytearray(data), memoryview(data), io.BytesIO(data), file]
        assert {place(client.locate(kind)) for kind in kinds} == {expected}
    with path.open("rb") as file:
        lines = list(client.locate_batch(iter([str(path), _Entry(path), data, io.BytesIO(data), file])))
    assert [line["name"] for line in lines] == ["street.png", "street.png", "photo", "photo", "street.png"]
    assert {place(line["result"]) for line in lines} == {expected}


def test_relative_text_is_a_path(client: Client, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "street.jpg").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    assert client.locate("street.jpg")["levels"]


@pytest.mark.parametrize("photo", [None, 42, 1.5, ["a.jpg"], ("a.jpg",), {"a": 1}, {"a.jpg"}, object(), Path])
def test_what_is_no_picture_is_a_type_error_that_says_what_is(client: Client, photo: Any) -> None:
    with pytest.raises(TypeError, match="a picture is a path, the bytes"):
        client.locate(photo)
    with pytest.raises(TypeError, match=r"photos\[1\] is a path, the bytes"):
        client.locate_batch([b"", photo])


@pytest.mark.parametrize(
    "photos", [None, 42, "a.jpg", b"data", Path("a.jpg"), {"a.jpg": 1}, {"a.jpg"}, io.BytesIO(), np.zeros((4, 4, 3))]
)
def test_a_batch_takes_lists_only(client: Client, photos: Any) -> None:
    with pytest.raises(TypeError, match="locate_batch takes a list of pictures"):
        client.locate_batch(photos)


def test_an_array_of_pictures_is_a_batch(client: Client, data: bytes) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    lines = list(client.locate_batch(np.stack([pixels, pixels])))  # type: ignore[call-overload]
    assert ["result" in line for line in lines] == [True, True]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)), np.zeros((3, 40, 50), np.uint8), np.zeros((4, 4, 3), np.uint16), np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.float32),
    ],
)  # fmt: skip
def test_an_array_that_is_no_picture_is_a_type_error_with_its_shape(array: Any) -> None:
    with pytest.raises(TypeError, match=r"an array of shape \(.*uint8"):
        upload_of(array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_images_of_every_mode_can_be_sent(client: Client, data: bytes, mode: str) -> None:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    grey = image.convert("L")
    turned = grey.convert("I").convert(mode) if mode == "I;16" else (grey if mode == "F" else image).convert(mode)
    assert client.locate(turned)["levels"]


def test_a_file_in_text_mode_is_a_type_error(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with (tmp_path / "a.jpg").open() as file, pytest.raises(TypeError, match="'rb'"):
        client.locate(file)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing.jpg", "missing.jpg: No such file"), ("", "folder"), ("folder", "it is a folder"),
        ("nul\0.jpg", "null byte"), ("x" * 300, "File name too long"), ("/dev/zero", "a device"),
        ("http://a.example/b.jpg", "download the picture first"), (b"caf\xe9.jpg", r"caf\\xe9.jpg: No such file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | bytes, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    text = os.fsdecode(path)
    with pytest.raises(LocalFileError, match=words):
        client.locate(text)
    assert [line["error"]["type"].rpartition(":")[2] for line in client.locate_batch([text])] == ["unreadable-file"]


def test_a_name_that_is_not_utf8_is_located_and_printable(client: Client, data: bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9\n".png'))
    path.write_bytes(data)
    answer = client.locate(path)
    [line] = client.locate_batch([path])
    assert place(line["result"]) == place(answer)
    assert line["name"] == r'caf\xe9\n".png'
    json.dumps(line).encode("utf-8")


def test_a_pipe_is_read_once(client: Client, data: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    assert client.locate(f"/dev/fd/{reader}")["levels"]
    os.close(reader)


def test_folders_hold_pictures_of_every_suffix_in_any_case(client: Client, data: bytes, tmp_path: Path) -> None:
    names = ["a.JPG", "b.jpeg", "c.Png", "d.WEBP", "e.tif", "f.TIFF", "g.gif", "h.BMP", "i.avif", "j.HEIC", "k.heif"]
    (tmp_path / "deep").mkdir()
    for name in [*names, "deep/l.jfif", "notes.txt", ".hidden.jpg", "deep/m.csv"]:
        (tmp_path / name).write_bytes(data)
    lines = list(client.locate_folder(str(tmp_path)))
    assert [path.name for path, _ in lines] == [*names[:4], "l.jfif", *names[4:]]
    assert [line["index"] for _, line in lines] == list(range(12))
    assert all("result" in line for _, line in lines)


def test_a_folder_through_a_loop_of_links_is_entered_once(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert pictures_below(tmp_path) == [tmp_path / "a.png"]


def test_a_missing_folder_raises_before_the_first_line(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(LocalFileError, match="none: No such file"):
        client.locate_folder(tmp_path / "none")
    with pytest.raises(LocalFileError, match="for one file use locate"):
        client.locate_folder(tmp_path / "a.jpg")
    with pytest.raises(TypeError, match="a folder is a path, not NoneType"):
        client.locate_folder(None)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    assert list(client.locate_folder(tmp_path / "empty")) == []


def test_async_client_takes_the_same(url: str, client: Client, data: bytes, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.AVIF"):
        (tmp_path / name).write_bytes(data)

    async def ask() -> list[Any]:
        async with AsyncClient(url) as other:
            answers = [
                await other.locate(str(tmp_path / "a.jpg"), within=TRIANGLE),
                await other.locate(io.BytesIO(data)),
            ]
            with pytest.raises(TypeError, match="not NoneType"):
                await other.locate(None)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="locate_batch takes a list"):
                other.locate_batch("a.jpg")
            with pytest.raises(LocalFileError, match="none: No such file"):
                other.locate_folder(tmp_path / "none")
            return [*answers, [pair async for pair in other.locate_folder(tmp_path)]]

    limited, plain, lines = asyncio.run(ask())
    assert place(limited) == place(client.locate(data, within=TRIANGLE))
    assert place(plain) == place(client.locate(data))
    assert [(path.name, "result" in line) for path, line in lines] == [("a.jpg", True), ("b.AVIF", True)]


def test_regions_are_mappings_text_and_files(client: Client, data: bytes, tmp_path: Path) -> None:
    class Shape:
        def __init__(self) -> None:
            ring = ((-170, -80), (170, -80), (0, 80), (-170, -80))
            self.__geo_interface__ = {"type": "Polygon", "coordinates": (ring,)}

    text = json.dumps(TRIANGLE)
    (tmp_path / "region.geojson").write_text("\ufeff" + text, encoding="utf-8")
    arrays = {"type": "Polygon", "coordinates": np.array(TRIANGLE["coordinates"])}
    files = [tmp_path / "region.geojson", str(tmp_path / "region.geojson")]
    regions: list[Any] = [
        TRIANGLE,
        text,
        "\ufeff " + text,
        Shape(),
        arrays,
        {"type": "Feature", "geometry": TRIANGLE},
        *files,
    ]
    answers = [client.locate(data, within=region) for region in regions]
    assert {place(answer) for answer in answers} == {place(answers[0])}
    assert [line["error"]["status"] for line in client.locate_batch([b"", b""], within=TRIANGLE)] == [400, 400]


@pytest.mark.parametrize(
    ("within", "error", "words"),
    [
        (42, TypeError, "within takes a GeoJSON object .* not int"), ([1, 2], TypeError, "not list"),
        ({"type": object()}, TypeError, "not a GeoJSON object"), (Path("none.geojson"), LocalFileError, "No such file"),
        ("none.geojson", LocalFileError, "No such file"), ({"x": float("nan")}, TypeError, "not a GeoJSON object"),
    ],
)  # fmt: skip
def test_a_region_of_another_kind_is_refused_before_anything_is_sent(within: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        query_of({"within": within})


def _star(corners: int) -> dict[str, Any]:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = [
        [float(60 * np.cos(a) * r), float(60 * np.sin(a) * r)] for a, r in zip(angles, [1, 0.9] * corners, strict=False)
    ]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def test_a_long_region_is_shortened_and_one_that_stays_too_long_is_refused(client: Client, data: bytes) -> None:
    long = {"type": "Feature", "properties": {"name": "x" * 20_000}, "geometry": _star(500)}
    assert len(json.dumps(long)) > 36_000
    assert client.locate(data, within=long)["levels"]
    with pytest.raises(ClientError, match=r"characters and a service takes 16,000; simplify it"):
        client.locate(data, within=_star(5000))


@pytest.mark.parametrize(
    "bbox", [(-170, -80, 170, 80), [-170.0, -80.0, 170.0, 80.0], np.array([-170, -80, 170, 80]), "-170,-80,170,80"]
)
def test_boxes_are_four_numbers_of_any_kind(client: Client, data: bytes, bbox: Any) -> None:
    assert place(client.locate(data, bbox=bbox)) == place(client.locate(data, bbox=(-170, -80, 170, 80)))


@pytest.mark.parametrize(
    ("bbox", "error"),
    [
        ((1, 2, 3), ValueError), ((1, 2, 3, 4, 5), ValueError), ("1,2,3", ValueError), ((1, 2, 3, None), TypeError),
        (42, TypeError), ({"west": 1}, TypeError), ([[1, 2], [3, 4]], TypeError), ((1, 2, 3, float("nan")), ValueError),
    ],
)  # fmt: skip
def test_a_box_of_another_shape_is_refused_with_its_value(bbox: Any, error: Any) -> None:
    with pytest.raises(error, match="west,"):
        query_of({"bbox": bbox})


def test_numbers_of_numpy_are_numbers() -> None:
    options: Any = {"k": np.int64(8), "alternatives": 2.0, "trace": np.bool_(True), "prior": None}
    assert query_of(options) == {"k": "8", "alternatives": "2", "trace": "true"}
    with pytest.raises(TypeError, match=r"k=\[1\] is list"):
        query_of({"k": [1]})  # type: ignore[typeddict-item]
