"""The process that decodes: equal pixels, and what ends it: time, memory, signals, its parent."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.bombs import fax, floats, png_of_zeros, progressive, tiff, webp_of_one_colour
from retrieval.decoding.decoder import Abandoning, PictureDecoder
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import (
    DecodeMemoryError,
    DecoderDiedError,
    PhotoTooLargeError,
    PhotoTooSlowError,
    UnreadablePhotoError,
    UnsupportedPhotoError,
)
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import read_photo
from retrieval.pictures.work import ORDINARY_MEMORY, inspect
from tests.support.decoding_processes import children, until

MEAN = (0.5, 0.5, 0.5)
SMALL = View(8, Preprocess(32, MEAN, MEAN))
PATIENT_S = 120.0


def encoded(kind: str, size: tuple[int, int] = (90, 70), mode: str = "RGB", **options: Any) -> bytes:
    patches = np.random.default_rng(3).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def decoder() -> Iterator[PictureDecoder]:
    decoder = PictureDecoder(timeout_s=PATIENT_S)
    yield decoder
    decoder.close()


def processor_s(pid: int) -> float:
    """The processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("AVIF", "RGB", {}),
    ],
)
def test_pixels_from_the_process_are_equal(
    decoder: PictureDecoder, kind: str, mode: str, options: dict[str, Any]
) -> None:
    data = encoded(kind, mode=mode, **options)
    views = [View(), SMALL, View(8, Preprocess(16, MEAN, MEAN, resize="squash"))]
    there, here = decoder.read_apart(data, views=views), read_photo(data, views=views)
    assert [image.size for image in there.images] == [image.size for image in here.images]
    assert [image.tobytes() for image in there.images] == [image.tobytes() for image in here.images]
    assert there.notes == here.notes


def test_a_whole_picture_of_many_strips_is_equal(decoder: PictureDecoder) -> None:
    data = encoded("PNG", (3001, 2003))
    assert decoder.read_apart(data).images[0].tobytes() == read_photo(data).images[0].tobytes()


def test_ordinary_pictures_start_no_process(decoder: PictureDecoder) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        decoder.read(encoded(kind))
    assert children() == set()
    decoder.read(encoded("TIFF"))
    first = children()
    assert len(first) == 1
    decoder.read(encoded("AVIF"))
    assert children() == first


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (encoded("TIFF", compression="tiff_lzw")[:4000], UnreadablePhotoError),
        (encoded("TIFF", mode="LAB"), UnsupportedPhotoError),
        (webp_of_one_colour(10_000, 10_000), PhotoTooLargeError),
    ],
)
def test_errors_are_the_same_as_without_the_process(
    decoder: PictureDecoder, data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error) as here:
        read_photo(data)
    with pytest.raises(error) as there:
        decoder.read_apart(data)
    assert str(there.value) == str(here.value)
    assert decoder.read(encoded("TIFF")).images[0].size == (90, 70)


def test_a_decode_past_its_deadline_is_ended_and_the_next_is_decoded(decoder: PictureDecoder) -> None:
    decoder.read(encoded("TIFF"))
    slow = children()
    decoder.timeout_s = 0.3
    with pytest.raises(PhotoTooSlowError, match=r"longer than 0\.3 s"):
        decoder.read(floats(10_000), views=[SMALL])
    assert children() == set()
    decoder.timeout_s = PATIENT_S
    assert decoder.read(encoded("TIFF")).images[0].size == (90, 70)
    assert children() & slow == set()


def test_more_memory_than_the_process_may_take_is_refused(decoder: PictureDecoder) -> None:
    """The process's own limit holds where the computed one is wrong, here because it is larger."""
    small = PictureDecoder(50_000_000, PATIENT_S)
    with pytest.raises(PhotoTooLargeError, match="more than 50,000,000 bytes"):
        small.read(png_of_zeros(9_000, 9_000, 8, 6), PhotoLimits(max_memory=10**9), [SMALL])
    assert small.read(encoded("TIFF")).images[0].size == (90, 70)
    small.close()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGSEGV, DecoderDiedError), (signal.SIGKILL, DecodeMemoryError)])
def test_a_process_that_is_killed_is_replaced(decoder: PictureDecoder, number: int, error: type[Exception]) -> None:
    decoder.read(encoded("TIFF"))
    [pid] = children()
    before = processor_s(pid)
    outcomes: list[Exception] = []

    def decode() -> None:
        try:
            decoder.read(floats(10_000), views=[SMALL])
        except Exception as exc:
            outcomes.append(exc)

    thread = threading.Thread(target=decode)
    thread.start()
    until(lambda: processor_s(pid) > before)
    os.kill(pid, number)
    thread.join()
    assert [type(outcome) for outcome in outcomes] == [error]
    assert decoder.read(encoded("TIFF")).images[0].size == (90, 70)


def test_an_idle_process_that_was_killed_is_replaced_without_an_error(decoder: PictureDecoder) -> None:
    decoder.read(encoded("TIFF"))
    [pid] = children()
    os.kill(pid, signal.SIGKILL)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert decoder.read(encoded("TIFF")).images[0].size == (90, 70)


def test_a_picture_that_nobody_waits_for_is_given_up(decoder: PictureDecoder) -> None:
    decoder.read(encoded("TIFF"))
    [pid] = children()
    before, abandon = processor_s(pid), Abandoning()

    def decode() -> None:
        with pytest.raises(DecodeMemoryError):
            decoder.read_apart(floats(10_000), abandoning=abandon)

    thread = threading.Thread(target=decode)
    thread.start()
    until(lambda: processor_s(pid) > before)
    abandon()
    thread.join()
    assert pid not in children()
    assert decoder.read(encoded("TIFF")).images[0].size == (90, 70)


@pytest.mark.parametrize("line", ["", "go\n"], ids=["idle", "busy"])
def test_the_process_ends_with_its_parent(line: str) -> None:
    """Also with one that is killed in the middle of a picture: the process has a timer of its own."""
    code = (
        "import sys; from benchmarks.support.bombs import floats\n"
        "from retrieval.decoding.decoder import PictureDecoder;"
        "d = PictureDecoder(timeout_s=1.0); d.read_apart(floats(10)); print(d._process._process.pid, flush=True);"
        "sys.stdin.readline(); d.read_apart(floats(10_000))"
    )
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    before = processor_s(pid)
    parent.stdin.write(line)
    parent.stdin.flush()
    until(lambda: not line or processor_s(pid) > before)
    parent.kill()
    parent.communicate()
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_process_knows_neither_the_engine_nor_the_environment(
    decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    decoder.read(encoded("TIFF"))
    [pid] = children()
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    libraries = Path(f"/proc/{pid}/maps").read_text()
    assert "/PIL/" in libraries
    assert not any(name in libraries for name in ("/torch/", "/faiss", "/pydantic"))


@pytest.mark.parametrize("compression", [2, 3, 4])
def test_what_libtiff_prints_goes_nowhere(compression: int) -> None:
    code = (
        "import sys; from benchmarks.support.bombs import fax; from retrieval.pictures.photo import read_photo;"
        "from retrieval.decoding.decoder import shared_decoder;"
        f"read = {{'here': read_photo, 'apart': shared_decoder().read}}[sys.argv[1]];\n"
        f"try: read(fax(2_000, {compression}))\nexcept Exception: pass"
    )
    printed = {
        way: subprocess.run([sys.executable, "-c", code, way], capture_output=True, check=True).stderr
        for way in ("here", "apart")
    }
    assert printed["apart"] == b""
    assert compression == 4 or printed["here"].count(b"\n") > 1_000  # the picture is one that makes it print


LARGE = {
    "PNG with alpha": png_of_zeros(6_000, 6_000, 8, 6),
    "PNG of 16 bits": png_of_zeros(5_000, 3_000, 16, 6),
    "PNG of grey": png_of_zeros(9_000, 9_000, 8, 0),
    "PNG that is tall": png_of_zeros(250, 400_000, 8, 0),
    "PNG that is wide": png_of_zeros(400_000, 250, 8, 0),
    "PNG of one column": png_of_zeros(1, 20_000_000, 8, 0),
    "WebP": webp_of_one_colour(4_000, 4_000),
    "JPEG of many scans": progressive(8_000, 90),
    "TIFF of floats": floats(6_000),
    "TIFF of bad lines": fax(1_000_000, 3),
    "TIFF of wide floats": tiff(1_000_000, 20, 32, 1, bytes(80_000_000), form=3),
    "TIFF of one row": tiff(30_000_000, 1, 8, 1, bytes(30_000_000)),
    "AVIF": encoded("AVIF", (3_000, 3_000), speed=10),
}


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("name", LARGE)
def test_decoding_takes_no_more_memory_than_computed(name: str, resize: str, tmp_path: Path) -> None:
    """The figures of `retrieval.pictures`, measured as the peak of a process that decodes nothing else."""
    limits, view = PhotoLimits(10**9, 10**9, (), 10**11), View(32, Preprocess(224, MEAN, MEAN, resize=resize))  # type: ignore[arg-type]
    memory = inspect(LARGE[name], limits, [view]).memory
    if memory > 2 * 10**9:  # refused in any case
        return
    path = tmp_path / "picture"
    path.write_bytes(LARGE[name])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), resize], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < memory


MEASURE = """
import sys
from pathlib import Path
from retrieval.encoders.preprocess import Preprocess
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import read_photo
from benchmarks.support.bombs import floats, png_of_zeros

def peak():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))

mean = (0.5, 0.5, 0.5)
limits, view = PhotoLimits(10**9, 10**9, (), 10**11), View(32, Preprocess(224, mean, mean, resize=sys.argv[2]))
for small in (floats(10), png_of_zeros(10, 10, 8, 6)):
    read_photo(small, limits, [view])
data = Path(sys.argv[1]).read_bytes()
before = peak()
read_photo(data, limits, [view])
print(peak() - before)
"""


def test_one_column_of_pixels_is_no_ordinary_picture() -> None:
    """Its rows at the width of a view would take gigabytes in the service itself."""
    column = png_of_zeros(1, 20_000_000, 8, 0)
    squash = View(32, Preprocess(224, MEAN, MEAN, resize="squash"))
    with pytest.raises(PhotoTooLargeError, match="bytes of memory"):
        inspect(column, PhotoLimits(), [squash])
    cropped = inspect(column, PhotoLimits(max_memory=10**9), [View(32, Preprocess(224, MEAN, MEAN))])
    assert cropped.memory > ORDINARY_MEMORY
