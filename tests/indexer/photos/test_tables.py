"""Tables as other programs write them, and tables that would take too much or reach where they should not."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import encoded, picture
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import PhotoSetError
from indexer.photos import parquet, table
from indexer.photos.angles import degrees_of_text
from indexer.photos.embed import embed_photos
from indexer.photos.files import read_picture
from indexer.photos.photo_set import Fault, PhotoSet
from indexer.photos.read import ReadOptions, read_photos
from retrieval.pictures.limits import PhotoLimits
from retrieval.testing.fake import FakePhotoEncoder

PLACES = {"a.jpg": (55.0094, 24.67750), "b.jpg": (-70.6506, -33.4372)}
"""Dubai and Santiago: all four hemispheres' signs."""
DMS = {
    "a.jpg": ("24 deg 40' 39.00\" N", "55 deg 0' 33.84\" E"),
    "b.jpg": ("33 deg 26' 13.92\" S", "70 deg 39' 2.16\" W"),
}


def quoted(*cells: str) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)


def decimal_comma(delimiter: str) -> str:
    return "".join(
        f"{name}{delimiter}{lat:.5f}{delimiter}{lng:.5f}\r\n".replace(".jpg", "#")
        .replace(".", ",")
        .replace("#", ".jpg")
        for name, (lng, lat) in PLACES.items()
    )


TABLES: dict[str, str | bytes] = {
    "exiftool": "SourceFile,GPSLatitude,GPSLongitude\n"
    + "".join(f"./{name},{quoted(*angles)}\n" for name, angles in DMS.items()),
    "exiftool -n": "SourceFile,GPSLatitude,GPSLongitude\n"
    + "".join(f"./{name},{lat},{lng}\n" for name, (lng, lat) in PLACES.items()),
    "exiftool, hemispheres in columns": "SourceFile,FileName,GPSLatitudeRef,GPSLatitude,GPSLongitudeRef,GPSLongitude\n"
    './a.jpg,a.jpg,North,"24 deg 40\' 39.00""",East,"55 deg 0\' 33.84"""\n'
    './b.jpg,b.jpg,south,"33 deg 26\' 13.92""",w,"70 deg 39\' 2.16"""\n',
    "exiftool -n, hemispheres in columns": "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\n"
    "a.jpg,24.6775,N,55.0094,E\nb.jpg,33.4372,S,-70.6506,W\n",
    "exiftool -G": "SourceFile,EXIF:GPSLatitudeRef,EXIF:GPSLatitude,EXIF:GPSLongitudeRef,EXIF:GPSLongitude\n"
    "a.jpg,N,24.6775,E,55.0094\nb.jpg,S,33.4372,W,70.6506\n",
    "signs of degrees": 'path,lat,lon\na.jpg,"24°40\'39""N","E 55°0.564\'"\nb.jpg,33.4372° s,70.6506°W\n',
    "typographic signs": "path;lat;lon\na.jpg;24° 40′ 39″ N;55° 0′ 33,84″ E\nb.jpg;33°26′13,92″S;70°39′2,16″W\n",
    "colons": "path,lat,lon\na.jpg,24:40:39,55:0:33.84\nb.jpg,-33:26:13.92,-70:39:2.16\n",
    "Excel: sep=;": "sep=;\r\npath;latitude;longitude\r\n" + decimal_comma(";"),
    "Excel: sep=, quoted": '"sep=,"\npath,latitude,longitude\na.jpg,24.6775,55.0094\nb.jpg,-33.4372,-70.6506\n',
    "Excel: mark and sep=": "\ufeffSEP=\t\r\npath\tlatitude\tlongitude\r\n" + decimal_comma("\t"),
    "decimal commas in tabs": "path\tlatitude\tlongitude\n" + decimal_comma("\t"),
    "decimal commas in semicolons": "path;latitude;longitude\n" + decimal_comma(";"),
    "decimal commas in bars": "path|latitude|longitude\n" + decimal_comma("|"),
    "decimal commas in quotes": 'path,latitude,longitude\na.jpg,"24,6775","55,0094"\nb.jpg,"-33,4372","-70,6506"\n',
    "UTF-8 with a mark": "\ufeffpath,latitude,longitude\na.jpg,24.6775,55.0094\nb.jpg,-33.4372,-70.6506\n",
    "Excel: Unicode text": ("path\tlatitude\tlongitude\r\n" + decimal_comma("\t")).encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + ("path;latitude;longitude\r\n" + decimal_comma(";")).encode("utf-16-be"),
    "UTF-16 without a mark": ("path,lat,lon\na.jpg,24.6775,55.0094\nb.jpg,-33.4372,-70.6506\n").encode("utf-16-le"),
}


def pictures(folder: Path, *names: str) -> None:
    for name in names or tuple(PLACES):
        (folder / name).write_bytes(encoded(picture(np.random.default_rng(len(name) + ord(name[0])))))


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_other_programs_read_the_same(tmp_path: Path, name: str) -> None:
    pictures(tmp_path)
    text = TABLES[name]
    (tmp_path / "photos.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    photos = read_photos(tmp_path / "photos.csv")
    assert not photos.rejected, photos.rejected
    assert [os.path.basename(path) for path in photos.paths] == list(PLACES)
    expected = np.array(list(PLACES.values()))
    np.testing.assert_allclose(np.stack([photos.lng, photos.lat], axis=1), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("lat", "lon", "reason", "words"),
    [
        ("24.1 E", "55", "coordinates not a number", "hemisphere of a latitude is 'E'"),
        ("N 24.1 S", "55", "coordinates not a number", "two hemispheres"),
        ("24°70'N", "55", "coordinates not a number", "70 minutes"),
        ("24.5°30'N", "55", "coordinates not a number", "fraction before"),
        ("-24.1 N", "55", "coordinates not a number", "negative and N"),
        ("24 40", "55", "coordinates not a number", "no number of degrees"),
        ("1e999", "55", "coordinates not a number", "not finite"),
        ("inf", "55", "coordinates not a number", "no number"),
        ("24°40'39\"N", "190°E", "coordinates out of range", "longitude 190"),
        ("95°S", "10", "coordinates look swapped", "swapped"),
        ("24 deg 40' 39.00\"", "55", "coordinates not a number", "write GPSLatitudeRef too"),
    ],
)
def test_angles_that_are_none_are_named(tmp_path: Path, lat: str, lon: str, reason: str, words: str) -> None:
    pictures(tmp_path)
    (tmp_path / "photos.csv").write_text(f"path;lat;lon\na.jpg;{lat};{lon}\nb.jpg;1;1\n")
    [rejection] = read_photos(tmp_path / "photos.csv").rejected
    assert rejection.reason == reason
    assert words in rejection.detail


@pytest.mark.parametrize(
    "header", ["lat,lat,lon", "latitude,Lat,lon", "lon,lat,LNG", "EXIF:GPSLatitude,XMP:GPSLatitude,lon"]
)
def test_several_columns_of_coordinates_are_refused(tmp_path: Path, header: str) -> None:
    pictures(tmp_path)
    (tmp_path / "p.csv").write_text(f"path,{header}\na.jpg,24,-33,55\n")
    with pytest.raises(PhotoSetError, match=r"several columns may hold l\w+tudes: .*--l\w+tude-column"):
        read_photos(tmp_path / "p.csv")


def test_option_chooses_among_columns_of_coordinates(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "p.csv").write_text("path,latitude,lat,lon\na.jpg,24,-33,55\n")
    assert read_photos(tmp_path / "p.csv", ReadOptions(latitude_column="lat")).lat.tolist() == [-33]
    (tmp_path / "p.csv").write_text("path,lat,lat,lon\na.jpg,24,-33,55\n")
    with pytest.raises(PhotoSetError, match="several columns"):
        read_photos(tmp_path / "p.csv", ReadOptions(latitude_column="lat"))


def test_exiftools_composite_group_is_taken_before_its_exif_group(tmp_path: Path) -> None:
    pictures(tmp_path)
    groups = "SourceFile,EXIF:GPSLatitude,Composite:GPSLatitude,EXIF:GPSLongitude,Composite:GPSLongitude"
    (tmp_path / "p.csv").write_text(f"{groups}\na.jpg,33.5,-33.5,70.5,-70.5\n")
    photos = read_photos(tmp_path / "p.csv")
    assert (photos.lat.tolist(), photos.lng.tolist()) == ([-33.5], [-70.5])
    (tmp_path / "p.csv").write_text("SourceFile,EXIF:GPSLatitude,EXIF:GPSLongitude\na.jpg,33.5,70.5\n")
    with pytest.raises(PhotoSetError, match=r"'EXIF:GPSLatitude' has no hemisphere.*GPSLatitudeRef"):
        read_photos(tmp_path / "p.csv")


def test_contradicting_hemispheres_are_named(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "p.csv").write_text("path,lat,lon,lat_ref\na.jpg,24.1 N,55,S\nb.jpg,1,1,\n")
    assert "contradicts the hemisphere 'S'" in read_photos(tmp_path / "p.csv").rejected[0].detail


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    pictures(tmp_path)
    cases = {
        "path,lat,lon\na.jpg,24,6775,55,0094\n": "decimal commas need quotes",
        "SourceFile,GPSPosition\na.jpg,24.1 55.2\n": "exiftool -csv -n",
    }
    for text, words in cases.items():
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(PhotoSetError, match=words):
            read_photos(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_bytes("path,lat,lon\n".encode("utf-32"))
    with pytest.raises(PhotoSetError, match="UTF-32"):
        read_photos(tmp_path / "p.csv")


@given(st.text(max_size=40), st.sampled_from(["", "N", "s", "x"]))
def test_any_text_is_an_angle_or_a_worded_error(text: str, side: str) -> None:
    with contextlib.suppress(ValueError):
        assert np.isfinite(degrees_of_text(text, "latitude", side))


# Bounds


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["fifo", "device", "folder of a name"])
def test_a_table_that_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photos.csv"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path)
    with pytest.raises(PhotoSetError, match=r"photos\.csv cannot be read"):
        read_photos(path)


@pytest.mark.timeout(60)
def test_parquet_of_thirty_million_rows_is_refused_before_reading(tmp_path: Path) -> None:
    path = pa.array(["a.jpg"] * 1_000_000).dictionary_encode()
    zeros = pa.array(np.zeros(1_000_000))
    part = pa.table({"path": path, "lat": zeros, "lon": zeros})
    with pq.ParquetWriter(tmp_path / "p.parquet", part.schema) as writer:
        for _ in range(30):
            writer.write_table(part)
    assert (tmp_path / "p.parquet").stat().st_size < 1_000_000
    with pytest.raises(PhotoSetError, match="at most 10,000,000 rows are read, and it has 30,000,000"):
        read_photos(tmp_path / "p.parquet")


def test_parquet_that_unpacks_to_too_much_is_refused_before_reading(tmp_path: Path) -> None:
    text = pa.array(["a" * 150_000_000, "b" * 150_000_000])
    pq.write_table(
        pa.table({"path": text, "lat": [1.0, 1.0], "lon": [1.0, 1.0]}),
        tmp_path / "p.parquet",
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    assert (tmp_path / "p.parquet").stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    with pytest.raises(PhotoSetError, match=r"path, lat, lon take 300,\d+,\d+ bytes in row group 0"):
        read_photos(tmp_path / "p.parquet")
    assert pa.total_allocated_bytes() - before < 10_000_000


@pytest.mark.parametrize("encoding", ["dictionary", "DELTA_BYTE_ARRAY"])
def test_repeated_long_cells_take_the_memory_of_one(tmp_path: Path, encoding: str) -> None:
    """1 MB in 3,000 rows: 3 GB, were each cell a text of its own."""
    rows = 3000
    options = {"use_dictionary": ["path"]} if encoding == "dictionary" else {"use_dictionary": False}
    if encoding != "dictionary":
        options["column_encoding"] = {"path": encoding}
    part = pa.table({"path": pa.array(["a" * 1_000_000] * 100), "lat": [1.0] * 100, "lon": [1.0] * 100})
    with pq.ParquetWriter(tmp_path / "p.parquet", part.schema, **options) as writer:
        for _ in range(rows // 100):
            writer.write_table(part)
    peak = pa.default_memory_pool().max_memory()
    records = list(parquet.ParquetTable(tmp_path / "p.parquet").rows((0, 1)))[:1]
    assert len(records[0].cells[0]) == 1_000_000
    assert pa.default_memory_pool().max_memory() - peak < 600_000_000
    with pytest.raises(PhotoSetError, match=f"{rows:,} malformed row.*1,000,000 characters"):
        read_photos(tmp_path / "p.parquet")


def test_parquet_with_a_damaged_or_endless_footer_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"], "lat": [1.0], "lon": [1.0]}), tmp_path / "p.parquet")
    data = (tmp_path / "p.parquet").read_bytes()
    for length in (2**32 - 1, len(data), 0):
        (tmp_path / "p.parquet").write_bytes(data[:-8] + length.to_bytes(4, "little") + b"PAR1")
        with pytest.raises(PhotoSetError, match=r"p\.parquet"):
            read_photos(tmp_path / "p.parquet")
    with open(tmp_path / "p.parquet", "wb") as sparse:
        sparse.write(b"PAR1")
        sparse.seek(1 << 30)
        sparse.write((1 << 29).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(PhotoSetError, match="footer has 536,870,912 bytes"):
        read_photos(tmp_path / "p.parquet")


def test_endless_lines_and_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.csv").write_text("path,lat,lon\n" + "a" * 2_000_000)
    with pytest.raises(PhotoSetError, match=r"line 2 has more than 1,048,576 characters"):
        read_photos(tmp_path / "p.csv")
    monkeypatch.setattr(table, "MAX_ROWS", 3)
    (tmp_path / "p.csv").write_text("path,lat,lon\n" + "a.jpg,1,1\n" * 4)
    with pytest.raises(PhotoSetError, match="rows are read, and it has more"):
        read_photos(tmp_path / "p.csv")


# Files that a table names


def test_a_file_that_is_no_picture_is_never_quoted(tmp_path: Path) -> None:
    """A table of someone else may name any file of this machine; reports are published."""
    secret = tmp_path / "elsewhere/secret.txt"
    secret.parent.mkdir()
    secret.write_text("root:$6$salt$hash:19000:0:99999:7:::\n" * 100)
    folder = tmp_path / "set"
    folder.mkdir()
    pictures(folder)
    (folder / "photos.csv").write_text(f"path,lat,lon\na.jpg,1,1\n{secret},2,2\n../elsewhere/secret.txt,3,3\n")
    photos = embed_photos(read_photos(folder / "photos.csv"), FakePhotoEncoder(8)).photos
    assert photos.names == ("a.jpg",)
    assert {r.reason for r in photos.rejected} == {"conflicting duplicate"}
    (folder / "photos.csv").write_text(f"path,lat,lon\na.jpg,1,1\n{secret},2,2\n")
    photos = embed_photos(read_photos(folder / "photos.csv"), FakePhotoEncoder(8)).photos
    [rejection] = photos.rejected
    assert rejection.reason == "unreadable image"
    assert "is not a picture" in rejection.detail
    assert not any(text in rejection.detail for text in ("root:", "$6$", "b'"))


@pytest.mark.timeout(60)
def test_of_a_file_that_is_no_picture_only_the_first_bytes_are_read(tmp_path: Path) -> None:
    with open(tmp_path / "log.txt", "wb") as sparse:
        sparse.truncate(19_000_000)
    fault = read_picture(str(tmp_path / "log.txt"), PhotoLimits())
    assert isinstance(fault, Fault)
    assert fault.reason == "unreadable image"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert isinstance(read_picture(str(tmp_path / "pipe.jpg"), PhotoLimits()), Fault)


def test_a_set_on_several_disks_keeps_its_order(tmp_path: Path) -> None:
    pictures(tmp_path)
    lines = "".join(f"{tmp_path / name},{lat},{lng}\n" for name, (lng, lat) in PLACES.items())
    (tmp_path / "p.csv").write_text(f"path,lat,lon\n{lines}")
    photos: PhotoSet = read_photos(tmp_path / "p.csv")
    assert len(photos) == 2
