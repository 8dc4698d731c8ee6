"""The built-in model's stages at a tiny size: killed and resumed runs, losses, and the fast pass through a tower."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from indexer.builtin.map_stage import Queries, train_map_tower, trunk_activations
from indexer.builtin.photo_stage import Batch, Pyramid, Tables, schedule, softmax_loss, train_photo_tower
from indexer.builtin.recipe import MapStage, PhotoStage
from indexer.builtin.tower import forward
from indexer.errors import TrainingError
from indexer.learning.state import load_state, save_state
from indexer.learning.trunk import SplitTower
from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder, Tower, build_tower, trained_layers
from retrieval.encoders.preprocess import Preprocess
from tile_cache.addressing import code_of_tile, tile_at

MakeTower = Callable[[int], Tower]
VISION = {"image_size": 24, "patch_size": 12, "width": 32, "layers": 3, "head_width": 16}
STAGE = PhotoStage(steps=7, batch=8, save_every=3, warmup=2)


def pyramid() -> Pyramid:
    codes = np.arange(16, dtype=np.uint64)
    return Pyramid.from_codes({2: codes, 3: np.arange(0, 64, 2, dtype=np.uint64)})


def batches(step: int) -> Batch:
    """Pictures in stripes whose phase and colours follow their tile, so that there is something to learn."""
    rng = np.random.default_rng([5, step])
    deep = rng.integers(0, 32, 8)
    x = np.arange(24)[None, None, None, :]
    phase = deep[:, None, None, None] * np.array([0.2, 0.7, 1.1])[None, :, None, None]
    pictures = np.sin(x * (1 + deep[:, None, None, None]) / 10 + phase) + rng.normal(0, 0.1, (8, 3, 24, 24))
    return torch.from_numpy(pictures).float(), {2: deep // 2, 3: deep}


def no_log(entry: dict[str, Any]) -> None:
    """Ignore an entry."""


def tables(seed: int) -> Tables:
    torch.manual_seed(seed)
    return Tables(pyramid(), 16)


def state_of(tower: Tower, rows: Tables) -> dict[str, torch.Tensor]:
    return {**tower.state_dict(), **rows.state_dict()}


# The first stage


@pytest.mark.parametrize("optimiser", ["muon", "adam"])
@pytest.mark.parametrize("killed_at", [1, 4, 6])
def test_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    make_tower: MakeTower, tmp_path: Path, optimiser: str, killed_at: int
) -> None:
    """To the bit. If a state was saved, the second run starts from other weights: everything comes from the file."""
    stage = replace(STAGE, optimiser=optimiser)
    whole, whole_rows = make_tower(0), tables(0)
    train_photo_tower(whole, whole_rows, batches, stage, tmp_path / "whole.state", no_log)

    def until_killed(step: int) -> Batch:
        if step == killed_at:
            raise KeyboardInterrupt
        return batches(step)

    first, checkpoint = (make_tower(0), tables(0)), tmp_path / "killed.state"
    with pytest.raises(KeyboardInterrupt):
        train_photo_tower(*first, until_killed, stage, checkpoint, no_log)
    seed = 99 if checkpoint.exists() else 0
    assert checkpoint.exists() == (killed_at > 3)
    (tmp_path / ".killed.state.1.tmp").write_bytes(b"half a state that a kill left")
    second = make_tower(seed), tables(seed)
    train_photo_tower(*second, batches, stage, checkpoint, no_log)
    for name, value in state_of(whole, whole_rows).items():
        assert torch.equal(value, state_of(*second)[name]), name
    assert load_state(checkpoint)[1] == {"steps_done": 7}


def test_finished_run_draws_no_batch(make_tower: MakeTower, tmp_path: Path) -> None:
    train_photo_tower(make_tower(0), tables(0), batches, replace(STAGE, steps=3), tmp_path / "s.state", no_log)
    again = make_tower(1), tables(1)

    def never(step: int) -> Batch:
        raise AssertionError(step)

    train_photo_tower(*again, never, replace(STAGE, steps=3), tmp_path / "s.state", no_log)
    assert torch.equal(again[0].proj, load_state(tmp_path / "s.state")[0]["tower.proj"])


@pytest.mark.parametrize("end", [0, 1, 7, 100, -1])
def test_truncated_state_is_refused_with_a_way_out(make_tower: MakeTower, tmp_path: Path, end: int) -> None:
    path = tmp_path / "photo.state"
    save_state(path, {"tower.proj": torch.ones(3, 3)}, {"steps_done": 3})
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(TrainingError, match=r"photo.state is not a training state .*: delete it"):
        train_photo_tower(make_tower(0), tables(0), batches, STAGE, path, no_log)


def test_state_of_another_recipe_is_refused(make_tower: MakeTower, tmp_path: Path) -> None:
    path = tmp_path / "photo.state"
    other = build_tower({"embed_dim": 16, "vision_cfg": {**VISION, "width": 64}, "quick_gelu": False})
    train_photo_tower(other, tables(0), batches, replace(STAGE, steps=1), path, no_log)
    with pytest.raises(TrainingError, match=r"photo.state is the state of a run with another recipe: .*--out"):
        train_photo_tower(make_tower(0), tables(0), batches, STAGE, path, no_log)


def test_state_is_read_as_saved(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(2.5), "c": torch.ones(2).half()}
    save_state(tmp_path / "deep" / "x.state", tensors, {"steps_done": 3, "who": "ü"})
    loaded, notes = load_state(tmp_path / "deep" / "x.state")
    assert notes == {"steps_done": 3, "who": "ü"}
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.state"]


@pytest.mark.parametrize("optimiser", ["muon", "adam"])
def test_first_stage_learns(make_tower: MakeTower, tmp_path: Path, optimiser: str) -> None:
    tower, rows = make_tower(0), tables(0)

    def loss() -> float:
        pictures, truth = batches(10_000)
        with torch.no_grad():
            seen = forward(tower, pictures)
            return float(softmax_loss(seen, rows.vectors()[3], rows.scale(3), torch.from_numpy(truth[3])))

    before = loss()
    stage = PhotoStage(steps=80, batch=8, save_every=80, warmup=5, optimiser=optimiser)
    train_photo_tower(tower, rows, batches, stage, tmp_path / "s.state", no_log)
    assert loss() < before - 1


def test_frozen_layers_do_not_change(make_tower: MakeTower, tmp_path: Path) -> None:
    """As when the photo tower is tuned: the trunk is shared with map towers that were trained on it."""
    tower, before = make_tower(0), make_tower(0).state_dict()
    names = set(trained_layers(tower))
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(name in names)
    train_photo_tower(tower, tables(0), batches, STAGE, tmp_path / "s.state", no_log)
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == names


def test_schedule_warms_up_stays_and_ends_near_zero() -> None:
    shares = [schedule(step, 1000, 50) for step in range(1000)]
    assert shares[0] == 1 / 50
    assert shares[49:401] == [1.0] * 352
    assert shares[700] == pytest.approx(0.5)
    assert 0 < shares[-1] < 0.002
    assert shares[400:] == sorted(shares[400:], reverse=True)


def test_queries_outside_the_coverage_do_not_count() -> None:
    vectors, scale = functional.normalize(torch.randn(5, 4), dim=1), torch.tensor(3.0)
    embeddings = functional.normalize(torch.randn(3, 4), dim=1)
    with_uncovered = softmax_loss(embeddings, vectors, scale, torch.tensor([1, -1, 2]))
    assert torch.allclose(with_uncovered, softmax_loss(embeddings[[0, 2]], vectors, scale, torch.tensor([1, 2])))


# The second stage


def map_setting(tower: Tower) -> tuple[torch.Tensor, torch.Tensor, Queries]:
    """Prepared tiles, table vectors for them, and queries near the right vectors."""
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn((40, 3, 24, 24), generator=generator)
    targets = functional.normalize(torch.randn((40, 16), generator=generator), dim=1)
    rows = torch.randint(0, 40, (300,), generator=generator)
    embeddings = functional.normalize(targets[rows] + 0.2 * torch.randn((300, 16), generator=generator), dim=1)
    return tiles, targets, Queries(embeddings, rows.numpy())


def test_map_tower_learns_its_tables_and_leaves_the_trunk_unchanged(make_tower: MakeTower) -> None:
    tower = make_tower(0).requires_grad_(False)
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    tiles, targets, queries = map_setting(tower)
    split = SplitTower(tower)
    activations = trunk_activations(split, lambda first, last: tiles[first:last], 40)
    entries: list[dict[str, Any]] = []
    stage = MapStage(steps={6: 100}, batch=24)
    layers, vectors = train_map_tower(split, activations, targets, 16.0, queries, stage, 6, entries.append)
    alike = (functional.normalize(forward(tower, tiles), dim=1) * targets).sum(1).mean()
    assert (vectors * targets).sum(1).mean() > alike + 0.5
    assert torch.allclose(vectors.norm(dim=1), torch.ones(40), atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in tower.state_dict().items())
    assert set(layers) == set(trained_layers(tower))
    assert {v.dtype for v in layers.values()} == {torch.float16}
    assert entries[-1]["zoom"] == 6
    assert entries[-1]["cosine_to_table"] == pytest.approx(float((vectors * targets).sum(1).mean()), abs=0.2)
    photo = PhotoEncoder("t", tower, Preprocess(24, (0.5,) * 3, (0.5,) * 3), None, "cpu")
    served = MapEncoders(photo, {6: layers}, {})._towers[6](tiles)
    # What is served computes in float32 what training computed in bfloat16.
    assert (functional.normalize(served, dim=1) * vectors).sum(1).min() > 0.995


def test_map_tower_is_the_same_when_trained_again(make_tower: MakeTower) -> None:
    tower = make_tower(0).requires_grad_(False)
    tiles, targets, queries = map_setting(tower)
    split = SplitTower(tower)
    activations = trunk_activations(split, lambda first, last: tiles[first:last], 40)
    stage = MapStage(steps={6: 6}, batch=24)
    first, second = (train_map_tower(split, activations, targets, 16.0, queries, stage, 6, no_log) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(first[0][k], second[0][k]) for k in first[0])


def test_queries_in_no_tile_are_left_out() -> None:
    embeddings = torch.arange(8.0).reshape(4, 2)
    covered = Queries.covered(embeddings, np.array([3, -1, 0, -1]))
    assert torch.equal(covered.embeddings, embeddings[[0, 2]])
    assert covered.rows.tolist() == [3, 0]


# The tower and the pyramid


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("change", [{}, {"layers": 6, "width": 64}, {"image_size": 36, "head_width": 32}])
def test_fast_pass_equals_open_clips(dtype: torch.dtype, tolerance: float, change: dict[str, int]) -> None:
    torch.manual_seed(1)
    tower = build_tower({"embed_dim": 16, "vision_cfg": {**VISION, **change}, "quick_gelu": False})
    for parameter in tower.parameters():  # fresh norms and biases are ones and zeros, which hide mistakes
        parameter.data += 0.05 * torch.randn(parameter.shape)
    size = change.get("image_size", 24)
    pictures = torch.randn(5, 3, size, size)
    with torch.no_grad():
        expected, actual = functional.normalize(tower(pictures), dim=1), forward(tower, pictures, dtype)
    assert actual.dtype == torch.float32
    assert (expected - actual).abs().max() < tolerance


def test_pyramid_needs_the_parent_of_every_tile() -> None:
    with pytest.raises(ValueError, match="a tile of zoom 3 has no parent at zoom 2"):
        Pyramid.from_codes({2: np.arange(3, dtype=np.uint64), 3: np.array([2, 60], dtype=np.uint64)})


def test_classes_are_the_rows_of_the_tiles_that_contain_the_points() -> None:
    tiles, rng = pyramid(), np.random.default_rng(0)
    lng, lat = rng.uniform(-180, 180, 300), rng.uniform(-85, 85, 300)
    rows = tiles.classes(lng, lat)
    for z in (2, 3):
        for i in range(300):
            code = code_of_tile(tile_at(lng[i], lat[i], z))
            assert tiles.codes[z][rows[z][i]] == code if rows[z][i] >= 0 else code not in tiles.codes[z]
    covered = rows[3] >= 0
    assert 0 < covered.mean() < 1
    assert np.array_equal(tiles.parents[3][rows[3][covered]], rows[2][covered])


def test_tile_vector_includes_its_parents() -> None:
    rows = tables(0)
    vectors = rows.vectors()
    summed = rows.rows["3"] + rows.rows["2"][torch.from_numpy(pyramid().parents[3])]
    assert torch.allclose(vectors[3], functional.normalize(summed, dim=1))
    assert float(rows.scale(2).detach()) == pytest.approx(16)
