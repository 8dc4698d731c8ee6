"""Reading photo sets: every table dialect reads the same, every bad row is listed, and good rows survive."""

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import FOUND_WHEN_DECODED, KINDS, encoded, make_damaged, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from indexer.errors import OptionError, PhotoSetError
from indexer.photos.files import read_picture
from indexer.photos.photo_set import Fault, PhotoSet, Reason, Rejection, check_place, write_rejections
from indexer.photos.read import ReadOptions, read_photos
from retrieval.pictures.limits import PhotoLimits

PLACES = {"a.jpg": (2.35, 48.85), "b.jpg": (-0.12, 51.5), "c,1.jpg": (139.7, 35.7)}


def write_pictures(folder: Path, *names: str) -> None:
    for name in names or tuple(PLACES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(np.random.default_rng(len(name)))))


def write_table(folder: Path, text: str | bytes, name: str = "photos.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def places(photos: PhotoSet) -> dict[str, tuple[float, float]]:
    return dict(zip(photos.names, zip(photos.lng.tolist(), photos.lat.tolist(), strict=True), strict=True))


def reasons(photos: PhotoSet) -> dict[int, str]:
    return {rejection.row: rejection.reason for rejection in photos.rejected}


def with_gps(path: Path, gps: dict[int, object], kind: str = "JPEG") -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    if gps:
        exif.get_ifd(0x8825).update(gps)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "TIFF":  # Pillow writes no GPS into TIFFs, but an EXIF block with the tags of an image is one
        size = {ExifTags.Base.ImageWidth: 32, ExifTags.Base.ImageLength: 32, ExifTags.Base.BitsPerSample: 8}
        layout = {ExifTags.Base.Compression: 1, ExifTags.Base.PhotometricInterpretation: 1}
        strips = {ExifTags.Base.StripOffsets: 8, ExifTags.Base.RowsPerStrip: 32, ExifTags.Base.StripByteCounts: 1024}
        exif.update({**size, **layout, **strips})
        path.write_bytes(exif.tobytes().removeprefix(b"Exif\0\0"))
    else:
        path.write_bytes(encoded(picture(np.random.default_rng(1)), kind, exif=exif))


PARIS = {1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)}


@pytest.mark.parametrize(
    "text",
    [
        'path,latitude,longitude\na.jpg,48.85,2.35\nb.jpg,51.5,-0.12\n"c,1.jpg",35.7,139.7\n',
        "\ufeffLON;Lat;File Name\r\n2,35;48,85;a.jpg\r\n-0,12;51,5;b.jpg\r\n139,7;35,7;c,1.jpg\r\n",
        'filename\tlng\tlat\ttitle\ra.jpg\t2.35\t48.85\t5" pipe\rb.jpg\t-0.12\t51.5\t\rc,1.jpg\t139.7\t35.7\t',
        "image| latitude| longitude\n\na.jpg| 48.85| 2.35\nb.jpg | 51.5| -0.12\nc,1.jpg|35.7|139.7",
    ],
    ids=["comma, quoted", "Excel: mark, semicolon, decimal comma", "tab, old Mac lines, stray quotes", "bar, spaces"],
)
def test_every_dialect_reads_the_same(tmp_path: Path, text: str) -> None:
    write_pictures(tmp_path)
    photos = read_photos(write_table(tmp_path, text))
    assert not photos.rejected
    assert {name.strip(): place for name, place in places(photos).items()} == PLACES
    assert all(os.path.isfile(path) for path in photos.paths)


@pytest.mark.parametrize("kinds", ["numbers", "strings", "dictionary"])
def test_parquet_reads_like_csv(tmp_path: Path, kinds: str) -> None:
    write_pictures(tmp_path)
    lng, lat = zip(*PLACES.values(), strict=True)
    columns = {"path": pa.array(PLACES), "lat": pa.array(lat), "lon": pa.array(lng), "embedding": pa.array([[1.0]] * 3)}
    if kinds == "strings":
        columns |= {name: columns[name].cast(pa.string()) for name in ("lat", "lon")}
    if kinds == "dictionary":
        columns["path"] = columns["path"].dictionary_encode()
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    assert places(read_photos(tmp_path / "photos.parquet")) == PLACES


def test_parquet_rejects_bad_rows_but_refuses_a_damaged_file(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    paths = pa.array([b"a.jpg", b"\xff.jpg", None, b"b.jpg"])
    # As from a writer that does not check its bytes: the type says text, the content is Latin-1.
    unchecked = pa.StringArray.from_buffers(4, *[paths.buffers()[i] for i in (1, 2)], paths.buffers()[0])
    pq.write_table(
        pa.table({"path": unchecked, "lat": [1.0, 2.0, 3.0, None], "lon": [1.0] * 4}), tmp_path / "p.parquet"
    )
    photos = read_photos(tmp_path / "p.parquet")
    assert places(photos) == {"a.jpg": (1.0, 1.0)}
    assert reasons(photos) == {3: "undecodable text", 4: "empty path", 5: "coordinates missing"}
    data = (tmp_path / "p.parquet").read_bytes()
    with pytest.raises(PhotoSetError, match="damaged Parquet"):
        read_photos(write_table(tmp_path, data[: len(data) // 2], "half.parquet"))
    pq.write_table(pa.table({"image": [{"bytes": b""}], "lat": [1.0], "lon": [1.0]}), tmp_path / "hf.parquet")
    with pytest.raises(PhotoSetError, match="inside a Parquet file are not read"):
        read_photos(tmp_path / "hf.parquet")


def test_every_kind_of_damage_is_reported_and_good_rows_survive(tmp_path: Path) -> None:
    damaged = make_damaged(tmp_path, rows=300)
    assert len(KINDS) >= 20
    photos = read_photos(damaged.table)
    expected = {row: reason for row, reason in damaged.expected.items() if reason not in FOUND_WHEN_DECODED}
    assert reasons(photos) == expected
    assert photos.summary() == Counter(expected.values())
    assert set(damaged.good) <= set(photos.names)
    assert [name for name in photos.names if name.startswith("good")] == [
        n for n in damaged.good if n.startswith("good")
    ]
    for line, name in zip(photos.lines.tolist(), photos.names, strict=True):
        text = b"".join(damaged.table.read_bytes().splitlines(keepends=True)[line - 1 : line])
        assert text.startswith(name.encode()), "a photo knows its line"


def test_stray_quote_does_not_swallow_other_rows(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    rows = ['"a.jpg,1,1,x', "a.jpg,48.85,2.35,x", 'b.jpg,51.5,-0.12,x"', '"c,1.jpg",35.7,139.7,"two\nlines"', '"']
    photos = read_photos(write_table(tmp_path, "path,lat,lon,title\n" + "\n".join(rows)))
    assert places(photos) == PLACES
    assert reasons(photos) == {2: "malformed row", 7: "malformed row"}


def test_named_columns_take_precedence(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    table = write_table(tmp_path, "path,lat,lon,true path,y,x\nnone.jpg,0,0,a.jpg,48.85,2.35\n")
    options = ReadOptions(path_column="true path", latitude_column="y", longitude_column="x")
    assert places(read_photos(table, options)) == {"a.jpg": PLACES["a.jpg"]}


def test_picture_at_two_places_is_rejected_in_both_rows(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    rows = ["a.jpg,1,1", "b.jpg,51.5,-0.12", "./a.jpg,2,2", f"{tmp_path}/b.jpg,51.5,-0.12", "a.jpg,1,1"]
    photos = read_photos(write_table(tmp_path, "path,lat,lon\n" + "\n".join(rows)))
    assert photos.names == ("b.jpg",)
    conflict = "conflicting duplicate"
    assert reasons(photos) == {2: conflict, 4: conflict, 5: "duplicate row", 6: conflict}


def test_split_and_family_columns_are_read(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    rows = 'path,lat,lon,split,family\na.jpg,1,1,training,maps\nb.jpg,1,2,VAL,indoor\n"c,1.jpg",1,3,later,x\n'
    photos = read_photos(write_table(tmp_path, rows))
    assert (photos.split, photos.families) == (("train", "validation"), ("maps", "indoor"))
    assert reasons(photos) == {4: "unknown split"}
    assert photos.only("validation").names == ("b.jpg",)
    with pytest.raises(PhotoSetError, match=r"'test'; there are: train \(1\), validation \(1\)"):
        photos.only("test")


def test_without_need_place_only_invalid_places_are_rejected(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    table = write_table(tmp_path, 'path,lat,lon\na.jpg,,\nb.jpg,51.5,-0.12\n"c,1.jpg",91,999\n')
    photos = read_photos(table, ReadOptions(need_place=False))
    assert [math.isnan(lng) for lng in photos.lng] == [True, False]
    assert reasons(photos) == {4: "coordinates out of range"}
    names_only = write_table(tmp_path, "image\na.jpg\nb.jpg\n", "names.csv")
    assert np.isnan(read_photos(names_only, ReadOptions(need_place=False)).lat).all()
    with pytest.raises(PhotoSetError, match="holds latitudes"):
        read_photos(names_only)


@pytest.mark.parametrize(
    ("layout", "files", "header", "name", "rows"),
    [
        ("mp16", ["34/8d/9055806529.jpg"], "IMG_ID,AUTHOR,LAT,LON", "34/8d/9055806529.jpg", "x@N0,1.5,2.5"),
        ("mp16", ["all/34_8d_9055806529.jpg"], "IMG_ID,AUTHOR,LAT,LON", "34/8d/9055806529.jpg", "x@N0,1.5,2.5"),
        ("im2gps3k", ["images/1_a_1_9@N00.jpg"], "IMG_ID,AUTHOR,LAT,LON", "1_a_1_9@N00.jpg", "9@N00,1.5,2.5"),
        ("im2gps3k", ["im2gps3ktest/1_a.jpg"], "name,AUTHOR,LAT,LON", "1_a.jpg", "9@N00,1.5,2.5"),
        ("im2gps", ["img/Ankara_00003_6@N07.JPG"], "IMG_ID,AUTHOR,LAT,LON", "Ankara_00003_6@N07.jpg", "y,1.5,2.5"),
        ("osv5m", ["images/train/00/3859149887465501.jpg"], "id,x,latitude,longitude", "3859149887465501", ",1.5,2.5"),
        ("yfcc4k", ["yfcc4k/77.jpg"], None, "77", "\t".join(["h"] * 10) + "\t2.5\t1.5" + "\tz" * 11),
    ],
)
def test_known_layouts_are_recognised(
    tmp_path: Path, layout: str, files: list[str], header: str | None, name: str, rows: str
) -> None:
    write_pictures(tmp_path, *files, "images/other.jpg")
    delimiter, first = (",", f"{header}\n") if header else ("\t", "")
    lead = "" if header else "1\t"
    row = f"{lead}{name}{delimiter}{rows}\n"
    table = write_table(tmp_path, first + row + row.replace(name, "12345"))
    for options in (ReadOptions(layout=layout), ReadOptions()):
        if options.layout == "auto" and header and header.startswith("name"):
            continue  # `name` could be a path there
        photos = read_photos(table, options)
        assert places(photos) == {name: (2.5, 1.5)}
        assert photos.paths == (str(tmp_path / files[0]),)
        assert list(reasons(photos).values()) == ["missing file"]


def test_table_with_swapped_coordinate_columns_is_refused(tmp_path: Path) -> None:
    """One published IM2GPS3k table is swapped; rows that are valid both ways would silently be misplaced."""
    rng = np.random.default_rng(0)
    write_pictures(tmp_path, *(f"{i}.jpg" for i in range(40)))
    rows = [f"{i}.jpg,{rng.uniform(-80, 80):.3f},{rng.uniform(-180, 180):.3f}" for i in range(40)]
    table = write_table(tmp_path, "IMG_ID,LON,LAT\n" + "\n".join(rows))
    with pytest.raises(PhotoSetError, match="--latitude-column LON --longitude-column LAT"):
        read_photos(table)
    assert len(read_photos(table, ReadOptions(latitude_column="LON", longitude_column="LAT"))) == 40


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b,c\n1,2,3\n", "columns are 'a', 'b', 'c'; give --path-column"),
        ("path,lat\nx,2\n", "--longitude-column"),
        ("path,lat,lon\n", "no photo can be used of 0"),
        ("path,lat,lon\nx.jpg,1,1\ny.jpg,2,91000\n", "1 coordinates out of range; 1 missing file"),
        (b"\x89PNG\0\0\r\n", "is not a table"),
        ("path,lat,lon\n".encode("utf-16"), "no photo can be used of 0"),
        (b"PAR1nonsense", "damaged Parquet"),
    ],
)
def test_unusable_table_raises_with_the_way_out(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(PhotoSetError, match=says):
        read_photos(write_table(tmp_path, text))


def test_missing_files_and_wrong_options_are_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,lat,lon\nx.jpg,1,1\n")
    for path, options, says in [
        (tmp_path / "none.csv", ReadOptions(), "cannot be read"),
        (tmp_path, ReadOptions(), "hold no picture"),
        (tmp_path, ReadOptions(layout="mp16"), "read from its table"),
        (table, ReadOptions(layout="folder"), "not a folder"),
        (table, ReadOptions(images=tmp_path / "none"), "--images"),
        (table, ReadOptions(latitude_column="Y"), "'Y' is not in the table; its columns are 'path', 'lat', 'lon'"),
    ]:
        with pytest.raises(PhotoSetError, match=says):
            read_photos(path, options)
    with pytest.raises(OptionError, match="use one of auto, folder"):
        read_photos(table, ReadOptions(layout="mp17"))


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "x.JPG"), ("PNG", "x.png"), ("WEBP", "x.webp"), ("TIFF", "x.tif")])
def test_folder_takes_places_from_exif(tmp_path: Path, kind: str, name: str) -> None:
    with_gps(tmp_path / "city" / name, PARIS, kind)
    with_gps(tmp_path / "city/south.jpg", {**PARIS, 1: "S", 3: "W"})
    photos = read_photos(tmp_path)
    assert photos.families == ("city", "city")
    assert places(photos)["city/south.jpg"] == pytest.approx((-2.2945, -48.85822), abs=1e-5)
    assert places(photos)[f"city/{name}"] == pytest.approx((2.2945, 48.85822), abs=1e-5)


def test_folder_lists_each_unusable_file_with_its_reason(tmp_path: Path) -> None:
    with_gps(tmp_path / "0.jpg", PARIS)
    broken = {
        "no hemisphere": {2: PARIS[2], 4: PARIS[4]},
        "half": {1: "N", 2: PARIS[2]},
        "seventy minutes": {**PARIS, 2: (48.0, 70.0, 0.0)},
    }
    for name, gps in broken.items():
        with_gps(tmp_path / f"broken {name}.jpg", gps)
    with_gps(tmp_path / "none.jpg", {})
    with_gps(tmp_path / "pole.jpg", {**PARIS, 2: (89.0, 0.0, 0.0)})
    (tmp_path / "wavelets.jp2").write_bytes(encoded(picture(np.random.default_rng(0)), "JPEG2000"))
    (tmp_path / "moving.gif").write_bytes(encoded(picture(np.random.default_rng(0)), "GIF"))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:40])
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.jpg").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    photos = read_photos(tmp_path)
    assert photos.names == ("0.jpg",)
    assert photos.families is None
    assert {r.name: r.reason for r in photos.rejected} == {
        **{f"broken {name}.jpg": "broken EXIF GPS" for name in broken},
        **dict.fromkeys(("none.jpg", "moving.gif"), "EXIF without GPS"),
        "pole.jpg": "beyond Web-Mercator's limit",
        "wavelets.jp2": "unsupported format",
        "empty.jpg": "empty file",
        "cut.jpg": "unreadable image",
        "page.jpg": "unreadable image",
        "\udcff.jpg": "undecodable text",
    }
    placeless = read_photos(tmp_path, ReadOptions(need_place=False))
    assert {"0.jpg", "none.jpg", "moving.gif"} <= set(placeless.names)
    assert [r.detail for r in photos.rejected if "rename the file" in r.detail]
    write_rejections(tmp_path / "refused.csv", photos.rejected)  # the undecodable name included
    assert "\\udcff.jpg,undecodable text" in (tmp_path / "refused.csv").read_text("utf-8")


@given(data=st.binary(max_size=200), magic=st.sampled_from([b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b""]))
def test_arbitrary_picture_bytes_do_not_stop_a_folder(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jpg").write_bytes(magic + data)
    with_gps(folder / "b.jpg", PARIS)
    assert "b.jpg" in read_photos(folder).names


@given(text=st.binary(max_size=300))
def test_arbitrary_bytes_do_not_stop_a_table(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_pictures(folder, "a.jpg")
    photos = read_photos(write_table(folder, b"path,lat,lon\na.jpg,1,1\n" + text))
    assert "a.jpg" in photos.names or any(r.name.endswith("a.jpg") for r in photos.rejected)


@given(lng=st.floats(), lat=st.floats())
def test_place_is_accepted_exactly_if_it_is_on_the_map(lng: float, lat: float) -> None:
    place = check_place(lng, lat)
    on_map = -180 <= lng <= 180 and abs(lat) <= 85.0511287798066 and (lng, lat) != (0, 0)
    assert (place == (lng, lat)) == on_map


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\0"), min_size=1, max_size=8)


@given(
    names=st.lists(
        NAMES.filter(lambda n: n.strip(" .") == n and n not in (".", "..")), min_size=1, max_size=5, unique=True
    ),
    seed=st.integers(0, 99),
    split=st.booleans(),
)
def test_written_set_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], seed: int, split: bool
) -> None:
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(seed)
    for name in names:
        (folder / f"{name}.jpg").touch()
    n = len(names)
    photos = PhotoSet(
        paths=tuple(str(folder / f"{name}.jpg") for name in names),
        names=tuple(f"p/{name}" for name in names),
        lng=rng.uniform(-180, 180, n),
        lat=np.where(rng.random(n) < 0.2, np.nan, rng.uniform(-85, 85, n)),
        split=tuple(rng.choice(["train", "test"], n).tolist()) if split else None,
        families=tuple(names),
    )
    photos.lng[np.isnan(photos.lat)] = np.nan
    photos.write(folder / "set.csv")
    back = read_photos(folder / "set.csv", ReadOptions(need_place=False))
    assert (back.paths, back.names, back.split, back.families) == (
        photos.paths,
        photos.names,
        photos.split,
        photos.families,
    )
    assert back.digest() == photos.digest()
    assert not back.rejected


def test_written_set_has_no_absolute_path_and_can_be_moved_with_its_pictures(tmp_path: Path) -> None:
    """A run beside its photos, as `train` makes it: photos.csv names no folder of the machine."""
    (tmp_path / "one/run").mkdir(parents=True)
    (tmp_path / "one/earth").mkdir()
    write_pictures(tmp_path / "one/earth")
    table = write_table(tmp_path / "one/earth", "path,lat,lon\na.jpg,1,1\nb.jpg,1,1\n")
    read_photos(table).write(tmp_path / "one/run/photos.csv")
    assert str(tmp_path) not in (tmp_path / "one/run/photos.csv").read_text()
    (tmp_path / "one").rename(tmp_path / "two")
    back = read_photos(tmp_path / "two/run/photos.csv")
    assert (back.names, back.paths) == (("a.jpg", "b.jpg"), tuple(str(tmp_path / "two/earth" / n) for n in back.names))


def test_written_set_keeps_the_path_of_a_picture_that_shares_no_folder(tmp_path: Path) -> None:
    elsewhere = PhotoSet(("/no-such-disk/a.jpg",), ("a",), np.ones(1), np.ones(1))
    elsewhere.write(tmp_path / "photos.csv")
    assert "\n/no-such-disk/a.jpg,a," in (tmp_path / "photos.csv").read_text().replace("\r", "")


def test_os_errors_become_reasons_not_exceptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, which may read everything, so the errors are simulated."""
    write_pictures(tmp_path)
    table = write_table(tmp_path, "path,lat,lon\na.jpg,1,1\nb.jpg,1,1\n")
    refusals = {"a.jpg": PermissionError(13, "Permission denied"), "b.jpg": OSError(5, "Input/output error")}

    def refusing(path: Path) -> bytes:
        raise refusals[path.name]

    monkeypatch.setattr("indexer.photos.files.open_regular", refusing)
    pictures = [read_picture(path, PhotoLimits()) for path in read_photos(table).paths]
    assert [fault.reason for fault in pictures if isinstance(fault, Fault)] == ["permission denied", "unreadable file"]


def test_digest_covers_names_places_and_split() -> None:
    one = PhotoSet(("/x/a", "/x/b"), ("a", "b"), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert one.digest() == PhotoSet(("/y/a", "/y/b"), ("a", "b"), one.lng.copy(), one.lat.copy()).digest()
    others = [
        PhotoSet(one.paths, ("ab", ""), one.lng, one.lat),
        PhotoSet(one.paths, one.names, one.lat, one.lng),
        PhotoSet(one.paths, one.names, one.lng, one.lat, split=("train", "test")),
        one.take(np.array([1, 0])),
    ]
    assert len({one.digest(), *(other.digest() for other in others)}) == 5


def test_later_rejection_keeps_line_numbers_and_order() -> None:
    photos = PhotoSet(("a", "b", "c"), ("a", "b", "c"), np.zeros(3), np.ones(3), lines=np.array([2, 5, 9]))
    left = photos.without(dict.fromkeys((2, 0), Fault(Reason.NO_TILE, "beyond the coverage")))
    assert left.names == ("b",)
    assert left.rejected == (
        Rejection(2, "a", "no tile", "beyond the coverage"),
        Rejection(9, "c", "no tile", "beyond the coverage"),
    )


def test_sample_is_seeded_and_keeps_the_order() -> None:
    names = tuple(f"{i:03}" for i in range(100))
    photos = PhotoSet(names, names, np.zeros(100), np.ones(100))
    sample = photos.sample(10, seed=1)
    assert len(sample) == 10
    assert sample.names == tuple(sorted(sample.names))
    assert sample.names == photos.sample(10, seed=1).names
    assert sample.names != photos.sample(10, seed=2).names
    assert photos.sample(None, seed=1) is photos.sample(100, seed=1) is photos
