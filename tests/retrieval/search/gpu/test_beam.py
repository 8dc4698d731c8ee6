"""The beam on a device, here CPU tensors, against the FAISS lists: beams, masses, answers, early ends, memory.

No test needs a GPU. Faults that only a GPU would show (mixed devices, waiting for the device) are caught with fake CUDA
tensors, which have a device and a shape but no numbers.
"""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from retrieval.encoders import device as encoder_device
from retrieval.encoders.device import use_half
from retrieval.encoders.open_clip import PhotoEncoder, build_tower
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import DeviceMemoryError, EncoderError, QueryError
from retrieval.index.calibration import Calibration, ElsewhereNumbers, Feature, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.search.beam import descend
from retrieval.search.gpu import beam as device_beam
from retrieval.search.gpu import index as device_index
from retrieval.search.gpu.beam import DeviceBeam
from retrieval.search.gpu.index import DeviceIndex, needed_bytes
from retrieval.search.gpu.posterior import best
from retrieval.search.gpu.products import Queries, halved, multiplies_halves, products, products_with_all
from retrieval.search.plan import SearchPlan
from retrieval.search.posterior import best as best_on_host
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, unit_rows, write_fake_index

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**32 - 1)
SETTINGS = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
NEAR = 1e-3  # tiles whose cosine is this close to the k-th may be in one beam and not in the other


@st.composite
def zoom_lists(draw):
    zooms = [draw(st.integers(0, 4))]
    for step in draw(st.lists(st.integers(1, 4), max_size=3)):
        zooms.append(zooms[-1] + step)
    return zooms


@st.composite
def calibrations(draw, zooms):
    numbers = {
        z: ZoomNumbers(
            tau=draw(st.sampled_from([0.02, 0.1, 0.5])),
            gamma=draw(st.sampled_from([1.0, 0.6])),
            b=draw(st.sampled_from([None, -3.0, 2.0])),
            kappa=draw(st.sampled_from([0.0, 0.4, 1.0])),
            rho=draw(st.sampled_from([1.0, 0.4, 1.3])),
        )
        for z in zooms
    }
    features = {f"{name}_{z}": Feature(0.2, 0.5, 0.7) for z in zooms for name in ("best", "entropy", "spread")}
    elsewhere = draw(st.sampled_from([None, ElsewhereNumbers(-1.0, features)]))
    return Calibration(numbers, elsewhere=elsewhere)


@SETTINGS
@given(data=st.data(), seed=SEEDS, zooms=zoom_lists())
def test_beam_equals_that_of_the_lists(fresh, data, seed, zooms):
    """Both scorings, holes, thinned coverage, shards, any steps, fp16 and fp32, kappa, rho, b, elsewhere."""
    draw = data.draw
    thinning, holes = draw(st.sampled_from([0.0, 0.3, 0.8])), draw(st.sampled_from([0.0, 0.2, 0.6]))
    levels = fake_pyramid(seed, zooms, 12, tiles=150, thinning=thinning, holes=holes)
    directory, codec = fresh(), draw(st.sampled_from(["fp16", "fp32"]))
    write_fake_index(directory, levels, codec=codec, shard_parents=draw(st.sampled_from([None, 20])))
    index, calibration = TileIndex.open(directory), draw(calibrations(zooms))
    k, scoring = draw(st.sampled_from([1, 3, 16, 64, 1024])), draw(st.sampled_from(["posterior", "paper"]))
    queries = unit_rows(np.random.default_rng(seed).standard_normal((5, 12)))
    beam = DeviceBeam.of(index, calibration, CPU, draw(st.sampled_from([None, torch.float32])))
    if not levels[0].has_vector.any():
        with pytest.raises(QueryError, match="no vector"):
            beam.descend_batch(queries, k, scoring)
        return
    found = beam.descend_batch(queries, k, scoring)
    for query, descent in zip(queries, found, strict=True):
        check_same(descend(index, query, SearchPlan(calibration, k=k, scoring=scoring)), descent, calibration, scoring)


def check_same(expected, found, calibration, scoring):
    """Compare step by step, until a tie at the k-th score makes the beams differ."""
    if not ties(expected, calibration, scoring):
        assert len(found.steps) == len(expected.steps)
        assert found.elsewhere == pytest.approx(expected.elsewhere, abs=1e-4)
    for one, other in zip(expected.steps, found.steps, strict=False):
        assert other.level is one.level
        assert other.rows.tolist() == one.rows.tolist()
        assert other.slots.tolist() == one.slots.tolist()
        assert other.similarities == pytest.approx(one.similarities, abs=1e-5)
        np.testing.assert_allclose(np.exp(other.log_mass), np.exp(one.log_mass), atol=1e-4)
        assert [v.dtype for v in (other.rows, other.similarities, other.log_mass)] == [
            v.dtype for v in (one.rows, one.similarities, one.log_mass)
        ]
        if other.beam.tolist() != one.beam.tolist():
            assert near_the_kth(one, other.beam, calibration, scoring)
            return
        assert other.expanded.tolist() == one.expanded.tolist()


def near_the_kth(step, kept, calibration, scoring):
    """Whether all tiles that only one of the two keeps are within NEAR of the k-th score, in cosines."""
    tau = calibration.numbers(step.level.zoom).tau
    scores = step.similarities if scoring == "paper" else step.log_mass * tau
    bar = scores[step.beam].min()
    return len(kept) == len(step.beam) and (abs(scores[np.setxor1d(kept, step.beam)] - bar) <= NEAR).all()


def ties(descent, calibration, scoring):
    """Whether some level's k-th and next score are within NEAR."""
    for step in descent.steps:
        tau = calibration.numbers(step.level.zoom).tau
        scores = step.similarities if scoring == "paper" else step.log_mass * tau
        rest = np.delete(scores, step.beam)
        if len(rest) and scores[step.beam].min() - rest.max() <= NEAR:
            return True
    return False


def on_device(locator):
    """The same locator, searching tensors on the CPU."""
    beam = DeviceBeam.of(locator.index, locator.calibration, CPU)
    return Locator(locator.index, locator.calibration, locator.encoder, beam, locator.priors)


@settings(SETTINGS, max_examples=10)
@given(seed=SEEDS, scoring=st.sampled_from(["posterior", "paper"]))
def test_answers_equal_those_of_the_lists(fresh, seed, scoring):
    directory, photo = fresh(), FakePhotoEncoder(32)
    levels = fake_pyramid(seed, [2, 4, 6, 8], 32, tiles=600, thinning=0.2, holes=0.2)
    write_fake_index(directory, levels, photo=photo, shard_parents=100)
    numbers = {z: ZoomNumbers(0.05, 0.9, 0.5, kappa=0.3, rho=0.7) for z in (2, 4, 6, 8)}
    calibration = Calibration(numbers, k=8, elsewhere=ElsewhereNumbers(-2.0, {"best_8": Feature(0.4, 0.1, -0.5)}))
    lists = Locator.open(directory, encoder=photo, calibration=calibration)
    device = on_device(lists)
    query = LocateQuery(k=8, alternatives=2, scoring=scoring, trace=True)
    embeddings = levels[-1].vectors[:20]
    expected, found = lists.locate(embeddings, query), device.locate(embeddings, query)
    clear = [i for i, q in enumerate(embeddings) if not ties(lists.descend(q, lists.plan(query)), calibration, scoring)]
    for i in clear:
        one, other = expected[i], found[i]
        assert [v.tile for v in other.levels] == [v.tile for v in one.levels]
        assert [v.confidence for v in other.levels] == pytest.approx([v.confidence for v in one.levels], abs=1e-4)
        assert (other.lat, other.lng) == pytest.approx((one.lat, one.lng), abs=1e-3)
        assert (other.calibrated, other.index_id) == (one.calibrated, one.index_id)
        assert [len(v.beam) for v in other.trace] == [len(v.beam) for v in one.trace]


@pytest.fixture
def pyramid(tmp_path):
    """An index of four zooms with 32 dimensions, its levels and an encoder."""
    levels, photo = fake_pyramid(5, [2, 4, 6, 8], 32, tiles=500, thinning=0.1, holes=0.1), FakePhotoEncoder(32)
    write_fake_index(tmp_path / "i", levels, photo=photo)
    return tmp_path / "i", levels, photo


def test_batch_split_by_memory_gives_the_same_descents(pyramid, monkeypatch):
    """With so little scratch memory that both queries and gathered vectors are taken a few at a time."""
    directory, levels, _ = pyramid
    beam = DeviceBeam.of(TileIndex.open(directory), Calibration(), CPU)
    queries = levels[-1].vectors[:9]
    whole = beam.descend_batch(queries, 16)
    # A candidate's vector, 128 bytes, must take more than a candidate for gathers to be split.
    monkeypatch.setattr(device_beam, "_CANDIDATE_BYTES", 80)
    monkeypatch.setattr(device_beam, "SCRATCH_BYTES", {"cpu": 50_000})
    little = DeviceBeam(beam.index, Calibration())
    assert 1 < little.batch_size(16) < 9
    for one, *others in zip(
        whole, little.descend_batch(queries, 16), (beam.descend_batch(q[None], 16)[0] for q in queries), strict=True
    ):
        for other in others:
            check_same(one, other, Calibration(), "posterior")
    assert beam.descend_batch(queries[:0], 16) == []


@pytest.mark.parametrize("k", [64, 1024])
@pytest.mark.parametrize("seed", range(4))
def test_unused_places_of_a_wide_beam_have_no_children(tmp_path, seed, k):
    levels = fake_pyramid(seed, [1, 3, 5, 7], 12, tiles=150, thinning=0.3, holes=0.2)
    write_fake_index(tmp_path / "i", levels)
    index, query = TileIndex.open(tmp_path / "i"), levels[1].vectors[:1]
    (found,) = DeviceBeam.of(index, Calibration(), CPU).descend_batch(query, k)
    check_same(descend(index, query[0], SearchPlan(Calibration(), k=k)), found, Calibration(), "posterior")


def test_equal_tiles_tie_to_the_lower_row(tmp_path):
    levels = fake_pyramid(1, [3, 4], 8, tiles=1000, holes=0)
    for level in levels:
        level.vectors[:] = levels[0].vectors[0]  # an ocean: all tiles equal to the bit
    write_fake_index(tmp_path / "i", levels)
    beam = DeviceBeam.of(TileIndex.open(tmp_path / "i"), Calibration(), CPU)
    for scoring in ("posterior", "paper"):
        (descent,) = beam.descend_batch(levels[0].vectors[:1], 10, scoring)
        assert [step.rows[step.beam].tolist() for step in descent.steps] == [list(range(10))] * 2


@SETTINGS
@given(seed=SEEDS, n=st.integers(1, 40), k=st.integers(1, 50), values=st.integers(1, 12))
def test_best_equals_the_hosts_best_among_unmasked_scores(seed, n, k, values):
    rng = np.random.default_rng(seed)
    scores, mask = rng.integers(0, values, (3, n)).astype(np.float64), rng.random((3, n)) < 0.7
    found = best(torch.from_numpy(scores), torch.from_numpy(mask), k)
    assert found.shape == (3, min(k, n))
    for row, there, places in zip(scores, mask, found.tolist(), strict=True):
        where = np.flatnonzero(there)
        expected = where[best_on_host(row[where], k)].tolist()
        assert places == expected + [-1] * (min(k, n) - len(expected))


def test_two_float16_halves_keep_float32_precision():
    """CUDA multiplies float16 and sums in float32; here the halves are converted to float32 first."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(unit_rows(rng.standard_normal((3 * 50, 512)))).half().view(3, 50, 512)
    queries = torch.from_numpy(unit_rows(rng.standard_normal((3, 512))))
    exact = (vectors.double() @ queries.double()[:, :, None])[:, :, 0]
    high, low = (vectors.float() @ half.float()[:, :, None] for half in halved(queries))
    assert (exact - (high + low / 2048)[:, :, 0]).abs().max() < 1e-6
    assert (exact - high[:, :, 0]).abs().max() > 1e-6  # one half alone is less exact
    assert (exact - products(vectors, Queries(queries, None))).abs().max() < 1e-6
    flat = products_with_all(vectors.view(-1, 512), Queries(queries, None)).view(3, 3, 50)
    assert (exact - torch.stack([flat[i, i] for i in range(3)])).abs().max() < 1e-6


@pytest.mark.parametrize(("scoring", "kind"), [("posterior", torch.float32), ("paper", torch.float16)])
def test_search_neither_waits_for_the_device_nor_mixes_devices(pyramid, scoring, kind):
    """On fake CUDA tensors, reading a number on the host or using a CPU tensor raises."""
    directory, _, _ = pyramid
    numbers = Calibration({z: ZoomNumbers(0.05, 0.9, 0.5, kappa=0.3, rho=0.7) for z in (2, 4, 6, 8)})
    real = DeviceBeam.of(TileIndex.open(directory), numbers, CPU, kind)
    shape = real.search(torch.zeros(4, 32), 16, scoring).shape
    cuda = torch.device("cuda:0")
    with FakeTensorMode():
        levels = tuple(
            replace(level, **{n: torch.empty(v.shape, dtype=v.dtype, device=cuda) for n, v in tensors_of(level)})
            for level in real.index.levels
        )
        beam = DeviceBeam(DeviceIndex(levels, cuda, kind, 32), numbers)
        multiplies_halves.cache_clear()
        found = beam.search(torch.empty(4, 32, device=cuda), 16, scoring)
    multiplies_halves.cache_clear()  # the cached result came from fake tensors
    assert (found.shape, found.device, found.dtype) == (shape, cuda, torch.uint8)


def tensors_of(level):
    return [(name, v) for name, v in vars(level).items() if isinstance(v, torch.Tensor)]


def test_error_for_an_index_that_does_not_fit_gives_the_bytes_needed(pyramid, monkeypatch):
    directory, levels, _ = pyramid
    index = TileIndex.open(directory)
    vectors = sum(int(level.has_vector.sum()) for level in levels)
    needed = needed_bytes(index, torch.float16)
    assert vectors * (64 + 8) <= needed <= vectors * (64 + 8 + 16) + 16
    monkeypatch.setattr(device_index, "free_bytes", lambda device: needed - 1)
    with pytest.raises(DeviceMemoryError, match=rf"needs {needed:,} bytes there, {needed - 1:,} are free: use"):
        DeviceIndex.of(index, CPU)
    monkeypatch.setattr(device_index, "free_bytes", lambda device: needed)
    copied = DeviceIndex.of(index, CPU)
    assert sum(v.nbytes for level in copied.levels for _, v in tensors_of(level)) <= needed


def test_auto_falls_back_to_the_lists_and_a_named_device_raises(pyramid, monkeypatch, caplog):
    directory, levels, photo = pyramid
    monkeypatch.setattr(device_index, "free_bytes", lambda device: 1000)
    monkeypatch.setattr("retrieval.encoders.device.resolve_device", lambda name: CPU)
    photo.device = "cuda"
    with pytest.raises(DeviceMemoryError):
        Locator.open(directory, device="cuda", encoder=photo)
    with caplog.at_level(logging.WARNING):
        locator = Locator.open(directory, device="auto", encoder=photo)
    assert "1,000 are free" in caplog.text
    assert locator.describe()["engine"] == "lists on cpu"
    assert locator.locate(levels[-1].vectors[:2], LocateQuery())[0].levels


def test_locator_names_its_engine_and_searches_boxes_by_lists(pyramid):
    directory, levels, photo = pyramid
    lists = Locator.open(directory, encoder=photo)
    device = on_device(lists)
    assert (device.describe()["engine"], lists.describe()["engine"]) == ("tensors on cpu", "lists on cpu")
    boxed = LocateQuery(bbox=BBox(-100, -60, 120, 60))
    assert device.locate(levels[-1].vectors[:3], boxed) == lists.locate(levels[-1].vectors[:3], boxed)
    assert device.locate(levels[-1].vectors[:0], LocateQuery()) == []


def tiny_encoder():
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    architecture = {"embed_dim": 16, "vision_cfg": vision, "quick_gelu": False}
    torch.manual_seed(0)
    return PhotoEncoder("tiny", build_tower(architecture), Preprocess(32, (0.5,) * 3, (0.5,) * 3), architecture, "cpu")


def test_half_precision_is_used_only_if_embeddings_stay_the_same(monkeypatch):
    encoder, picture = tiny_encoder(), Image.linear_gradient("L").convert("RGB")
    batch = encoder.prepare(picture)[None]
    exact = encoder.encode(batch)
    assert use_half(encoder, [torch.bfloat16]) == encoder.autocast == torch.bfloat16
    halved = encoder.encode(batch)
    assert halved.dtype == np.float32
    assert 0.999 < float((exact * halved).sum()) != 1
    assert not np.array_equal(exact, halved)
    monkeypatch.setattr(encoder_device, "MIN_COSINE", 1.01)
    assert use_half(encoder, [torch.bfloat16]) is encoder.autocast is None
    assert np.array_equal(encoder.encode(batch), exact)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_raises(pyramid):
    directory, _, photo = pyramid
    with pytest.raises(EncoderError, match="sees no GPU"):
        Locator.open(directory, device="cuda", encoder=photo)
