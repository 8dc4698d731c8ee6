"""Whole runs over a small world: from a table and a tile folder to encoders and an index; interrupts and refusals."""

import csv
import errno
import json
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from damaged import make_damaged
from PIL import Image
from small_world import SmallWorld, log_rows
from typer.testing import CliRunner, Result
from workbench import Server

from indexer.build.compose import Composer
from indexer.build.coverage import neighbours
from indexer.cli.train import register
from indexer.errors import CoverageError, DiskError, PhotoSetError, RunMismatchError, TrainingError
from indexer.learning import loop
from indexer.learning.loop import Checkpoint, save_state
from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import read_photos
from indexer.photos.splits import SplitPlan
from indexer.progress import Progress
from indexer.training.loss import ranks, recalls
from indexer.training.run import train_pairs
from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder, build_tower, trained_layers
from retrieval.encoders.preprocess import Preprocess
from retrieval.encoders.weights import read_tensors
from retrieval.index.reader import TileIndex
from tile_cache.addressing import codes_at, tile_of_code
from tile_cache.fetch.settings import FetchSettings
from tile_cache.open import open_source


def tilebeam(arguments: list[str]) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def trained(world: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run with an index, by the command line; and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    result = tilebeam(
        world.arguments(folder / "run", "--epochs", 4, "--split-ratio", "4:1:1", "--index", folder / "index", "--world")
    )
    assert result.exit_code == 0, (result.stderr, result.exception)
    return folder, json.loads(result.stdout)


def test_one_command_makes_an_index_from_a_table_and_a_folder_of_tiles(
    world: SmallWorld, trained: tuple[Path, dict[str, Any]]
) -> None:
    folder, summary = trained
    assert summary["index_rows"] == {"2": 16, "4": 256}
    index = TileIndex.open(folder / "index")
    photo = PhotoEncoder.load(str(folder / "index" / "encoders"), device="cpu")
    maps = MapEncoders.load(folder / "run" / "encoders", photo)
    assert {z.zoom: z.encoder for z in index.manifest.zooms} == {z: maps.fingerprint(z) for z in (2, 4)}
    assert photo.fingerprint == PhotoEncoder.load(str(world.encoder), device="cpu").fingerprint


def test_stored_encoders_have_the_reported_recall(world: SmallWorld, trained: tuple[Path, dict[str, Any]]) -> None:
    """The recall of validation photos, computed with what `tilebeam index` loads and composes."""
    run = trained[0] / "run"
    photo = PhotoEncoder.load(str(run / "encoders"), device="cpu")
    maps = MapEncoders.load(run / "encoders", photo)
    photos = embed_photos(read_photos(run / "photos.csv").only("validation"), photo)
    for z in (2, 4):
        codes, rows = np.unique(codes_at(photos.photos.lng, photos.photos.lat, z), return_inverse=True)
        composer = Composer(open_source(str(world.tiles)), None, maps.input_size, maps.context(z))
        pixels = np.stack([composer.compose(tile_of_code(int(c), z)).pixels for c in codes])
        tiles = torch.from_numpy(maps.encode(z, pixels))
        recall = recalls(ranks(torch.from_numpy(photos.embeddings), tiles, torch.from_numpy(rows)))
        assert recall == trained[1]["zooms"][str(z)]["recall"]


def test_overlay_changes_the_weights(world: SmallWorld, tmp_path: Path) -> None:
    """Another overlay is another run, too."""
    for z in (2, 4):
        for path in (world.tiles / str(z)).rglob("*.png"):
            label = tmp_path / "labels" / path.relative_to(world.tiles)
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (32, 32), (16 * int(path.stem), 99, 7, 200)).save(label)
    labels = str(tmp_path / "labels")
    train_pairs(world.request(tmp_path / "with", epochs=1, overlay=labels))
    train_pairs(world.request(tmp_path / "without", epochs=1))
    assert not same(tmp_path / "with", tmp_path / "without")
    with pytest.raises(RunMismatchError, match="overlay was None and is now 'folder:"):
        train_pairs(world.request(tmp_path / "without", epochs=1, overlay=labels))


def test_training_raises_recall(trained: tuple[Path, dict[str, Any]]) -> None:
    """The finest zoom from nothing, as tiles are negatives of photos; the coarser one starts from what that learnt."""
    fine, coarse = trained[1]["zooms"]["4"], trained[1]["zooms"]["2"]
    assert fine["recall_before"]["recall@5"] < 0.1
    assert fine["recall"]["recall@5"] > fine["recall_before"]["recall@5"] + 0.1
    assert coarse["recall"]["recall@1"] >= coarse["recall_before"]["recall@1"]


def test_run_writes_photos_and_log(trained: tuple[Path, dict[str, Any]]) -> None:
    run = trained[0] / "run"
    photos = read_photos(run / "photos.csv")
    assert Counter(photos.split) == trained[1]["splits"]
    assert len(photos) == 320
    assert (run / "rejected.csv").read_text() == "row,name,reason,detail\n"
    rows = log_rows(run)
    steps = trained[1]["splits"]["train"] // 32
    by_epoch = [(r["zoom"], r["epoch"], r["step"]) for r in rows if r["val_loss"]]
    assert by_epoch == [(z, str(e), str(steps if e else 0)) for z in "42" for e in range(5)]
    assert all(
        0 <= float(r["recall@1"]) <= float(r["recall@5"]) <= float(r["recall@10"]) <= 1 for r in rows if r["val_loss"]
    )


def test_encoders_are_fp16_with_a_training_json(world: SmallWorld, trained: tuple[Path, dict[str, Any]]) -> None:
    folder = trained[0] / "run" / "encoders"
    facts = json.loads((folder / "training.json").read_text())
    assert facts["arguments"]["batch"] == 32
    assert facts["data"]["splits"] == trained[1]["splits"]
    assert facts["data"]["data"] == read_photos(world.photos).digest()
    assert facts["versions"]["torch"]
    assert str(trained[0]) not in json.dumps(facts)
    for zoom in (2, 4):
        layers = read_tensors(folder / f"z{zoom:02d}.safetensors")
        assert {t.dtype for t in layers.values()} == {torch.float16}
        figures = facts["zooms"][str(zoom)]
        assert figures["stored"]["least_cosine_to_float32"] > 0.999
        assert (
            figures["best_epoch"]
            == max(figures["epochs"], key=lambda e: (e["recalls"]["recall@1"], -e["val_loss"]))["epoch"]
        )


def test_same_command_again_finds_all_done(world: SmallWorld, trained: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = trained
    before = (folder / "run" / "log.csv").read_bytes()
    result = tilebeam(
        world.arguments(folder / "run", "--epochs", 4, "--split-ratio", "4:1:1", "--index", folder / "index", "--world")
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == summary
    assert (folder / "run" / "log.csv").read_bytes() == before
    assert "zoom 4 is done already" in result.stderr


# Interrupted


def weights(out: Path) -> dict[int, dict[str, torch.Tensor]]:
    return {z: Checkpoint.read(out / "states" / f"z{z:02d}.state").best for z in (2, 4)}


def same(a: Path, b: Path) -> bool:
    pairs = zip(weights(a).values(), weights(b).values(), strict=True)
    return all(torch.equal(v, other[k]) for one, other in pairs for k, v in one.items())


class Stopper:
    """A progress callback that raises SIGINT at these calls."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.calls = at, 0

    def __call__(self, progress: Progress) -> None:
        self.calls += 1
        if self.calls in self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("options", [{}, {"learn_temperature": True, "micro_batch": 8}])
def test_run_interrupted_anywhere_ends_with_the_same_weights(
    world: SmallWorld, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Interrupts while photos are embedded, tiles read and caches filled, in steps, and at an epoch's end."""
    torch.set_num_threads(1)
    whole, cut = world.request(tmp_path / "whole", **options), world.request(tmp_path / "cut", **options)
    train_pairs(whole)
    rng, interrupted = np.random.default_rng(0), 0
    while True:
        try:
            train_pairs(cut, on_progress=Stopper({int(rng.integers(1, 14))}))
            break
        except KeyboardInterrupt:
            interrupted += 1
            assert interrupted < 60
    assert interrupted > 3
    assert same(whole.out, cut.out)
    assert (whole.out / "log.csv").read_bytes() == (cut.out / "log.csv").read_bytes()


@pytest.mark.parametrize("cache", [{"cache_bytes": 0}, {"cache_bytes": 200_000}])
def test_weights_do_not_depend_on_the_cache(world: SmallWorld, tmp_path: Path, cache: dict[str, int]) -> None:
    train_pairs(world.request(tmp_path / "a", epochs=1))
    train_pairs(world.request(tmp_path / "b", epochs=1, **cache))
    assert same(tmp_path / "a", tmp_path / "b")


# Refused


def test_other_arguments_in_the_same_folder_are_refused(world: SmallWorld, tmp_path: Path) -> None:
    train_pairs(world.request(tmp_path, epochs=1))
    changed = world.request(tmp_path, epochs=1, lr=2e-3, learn_temperature=True)
    with pytest.raises(
        RunMismatchError, match=r"lr was 0.001 and is now 0.002; learn-temperature was False and is now True"
    ):
        train_pairs(changed)
    with pytest.raises(RunMismatchError, match="split-ratio was '10:1:1' and is now '5:1:1'"):
        train_pairs(replace(world.request(tmp_path, epochs=1), split=SplitPlan((5, 1, 1))))
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("".join(world.photos.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunMismatchError, match="data was"):
        train_pairs(
            replace(
                world.request(tmp_path, epochs=1),
                photos=fewer,
                read=replace(world.request(tmp_path).read, images=world.photos.parent),
            )
        )


def test_run_that_trained_nothing_yet_may_change_its_arguments(world: SmallWorld, tmp_path: Path) -> None:
    """For example a run that ended because its batch was too large."""
    with pytest.raises(TrainingError, match="fewer than one batch"):
        train_pairs(world.request(tmp_path / "run", batch=512, zooms=(4,)))
    train_pairs(world.request(tmp_path / "run", epochs=1))
    train_pairs(world.request(tmp_path / "whole", epochs=1))
    assert same(tmp_path / "run", tmp_path / "whole")


def test_run_resumes_after_a_full_disk(world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = [0]

    def full(path: Path, *rest: Any) -> None:
        saves[0] += 1
        if saves[0] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_state(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", full)
        with pytest.raises(DiskError, match="free some space and run the same command again"):
            train_pairs(world.request(tmp_path / "cut", epochs=1))
    train_pairs(world.request(tmp_path / "cut", epochs=1))
    train_pairs(world.request(tmp_path / "whole", epochs=1))
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_resumed_run_may_change_how_it_computes(world: SmallWorld, tmp_path: Path) -> None:
    train_pairs(world.request(tmp_path, epochs=1))
    train_pairs(world.request(tmp_path, epochs=1, micro_batch=8, save_every=100, cache_bytes=0))


def test_too_few_photos_for_a_batch_are_refused(world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"\d+ training photos, fewer than one batch of 512: give a --batch of at"):
        train_pairs(world.request(tmp_path, batch=512))


def with_split(world: SmallWorld, path: Path, split: str) -> Path:
    photos = read_photos(world.photos)
    PhotoSet(photos.paths, photos.names, photos.lng, photos.lat, (split,) * len(photos)).write(path)
    return path


@pytest.mark.parametrize(("split", "lacking"), [("validation", "train"), ("train", "validation"), ("test", "train")])
def test_empty_split_is_refused_by_name(world: SmallWorld, tmp_path: Path, split: str, lacking: str) -> None:
    table = with_split(world, tmp_path / "given.csv", split)
    with pytest.raises(TrainingError, match=f"none of the 320 usable photos is in the {lacking} split"):
        train_pairs(world.request(tmp_path / "run", photos=table))


@pytest.mark.parametrize(
    ("zooms", "words"), [((2, 4, 6), "ends at zoom 4, but --zooms has"), ((1, 4), "begins at zoom 2")]
)
def test_zoom_that_the_source_lacks_is_refused(
    world: SmallWorld, tmp_path: Path, zooms: tuple[int, ...], words: str
) -> None:
    with pytest.raises(CoverageError, match=words):
        train_pairs(world.request(tmp_path, zooms=zooms))


def test_encoder_that_is_not_a_vit_is_refused(world: SmallWorld, tmp_path: Path) -> None:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None}
    resnet = {"embed_dim": 16, "vision_cfg": vision, "quick_gelu": False}
    size = Preprocess(64, (0.5,) * 3, (0.25,) * 3)
    PhotoEncoder("resnet", build_tower(resnet), size, resnet, "cpu").save(tmp_path / "resnet")
    with pytest.raises(TrainingError, match="ModifiedResNet cannot be cut"):
        train_pairs(world.request(tmp_path / "run", photo_encoder=str(tmp_path / "resnet")))


def test_photos_without_a_tile_are_rejected(world: SmallWorld, tmp_path: Path) -> None:
    photos = read_photos(world.photos)
    holes = np.unique(codes_at(photos.lng, photos.lat, 2))[:2]
    shutil.copytree(world.tiles, tmp_path / "tiles")
    gone, broken = (tile_of_code(int(c), 2) for c in holes)
    (tmp_path / "tiles" / "2" / str(gone.x) / f"{gone.y}.png").unlink()
    (tmp_path / "tiles" / "2" / str(broken.x) / f"{broken.y}.png").write_bytes(b"<html>404</html>")
    summary = train_pairs(world.request(tmp_path / "run", source=str(tmp_path / "tiles"), epochs=1))
    inside = np.isin(codes_at(photos.lng, photos.lat, 2), holes)
    assert summary["rejected"] == {"no tile": int(inside.sum())}
    listed = list(csv.DictReader((tmp_path / "run" / "rejected.csv").open()))
    assert {r["name"] for r in listed} == {n for n, i in zip(photos.names, inside, strict=True) if i}
    assert f"tile 2/{gone.x}/{gone.y}: no imagery" in {r["detail"] for r in listed}
    assert any(
        r["detail"].startswith(f"tile 2/{broken.x}/{broken.y}: ") and "no imagery" not in r["detail"] for r in listed
    )
    left = read_photos(tmp_path / "run" / "photos.csv")
    assert len(left) == int((~inside).sum())


def test_splits_do_not_depend_on_the_tiles(
    world: SmallWorld, tmp_path: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    shutil.copytree(world.tiles, tmp_path / "tiles")
    shutil.rmtree(tmp_path / "tiles" / "4" / "3")
    plan = SplitPlan((4, 1, 1))
    train_pairs(world.request(tmp_path / "run", source=str(tmp_path / "tiles"), split=plan, epochs=1))

    def splits(out: Path) -> dict[str, str]:
        photos = read_photos(out / "photos.csv")
        return dict(zip(photos.names, photos.split or (), strict=True))

    some, every = splits(tmp_path / "run"), splits(trained[0] / "run")
    assert 0 < len(some) < len(every)
    assert all(every[name] == split for name, split in some.items())


def test_source_without_any_tile_of_a_photo_is_refused(world: SmallWorld, tmp_path: Path) -> None:
    for z, last in ((2, 0), (4, 15)):  # no photo lies in both
        (tmp_path / "tiles" / str(z) / str(last)).mkdir(parents=True)
        shutil.copy(world.tiles / str(z) / "0" / "0.png", tmp_path / "tiles" / str(z) / str(last) / f"{last}.png")
    with pytest.raises(PhotoSetError, match=r"no photo can be used of 320 \(320 no tile\)"):
        train_pairs(world.request(tmp_path / "run", source=str(tmp_path / "tiles")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x"], "give either --photos"),
        (["--out", "x", "--preset", "builtin", "--photos", "p.csv"], "give either --photos"),
        (["--out", "x", "--photos", "p.csv", "--zooms", "4"], "--source and --zooms"),
        (["--out", "x", "--photos", "p.csv", "--source", "s", "--zooms", "4", "--world"], "give --index"),
        (["--out", "x", "--photos", "p.csv", "--source", "s", "--zooms", "4", "--index", "i"], "exactly one of"),
        (["--out", "x", "--photos", "p.csv", "--source", "s", "--zooms", "4", "--context", "big"], "--context big"),
        (["--out", "x", "--photos", "p.csv", "--source", "s", "--zooms", "4", "--split-ratio", "9:1"], "three whole"),
    ],
)
def test_wrong_usage_is_reported(arguments: list[str], words: str) -> None:
    result = tilebeam(["train", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not result.stdout


@pytest.mark.parametrize("option", ["--batch=1", "--lr=0", "--temperature=-1", "--context=3=0.5", "--blocks=9"])
def test_invalid_numbers_are_reported_in_one_line(world: SmallWorld, tmp_path: Path, option: str) -> None:
    result = tilebeam(world.arguments(tmp_path / "run", option))
    assert result.exit_code == (1 if option == "--blocks=9" else 2)  # how many there are is known from the encoder
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("tilebeam: ")


def test_only_the_named_layers_differ_from_the_photo_encoder(
    world: SmallWorld, trained: tuple[Path, dict[str, Any]]
) -> None:
    tower = PhotoEncoder.load(str(world.encoder), device="cpu").tower
    layers = read_tensors(trained[0] / "run" / "encoders" / "z04.safetensors")
    assert set(layers) == set(trained_layers(tower))


def test_only_tiles_with_photos_and_their_margins_are_fetched(
    world: SmallWorld, tmp_path: Path, server: Server
) -> None:
    """And the run is the same as from a folder."""
    server.answer = lambda tile: (world.tiles / str(tile.z) / str(tile.x) / f"{tile.y}.png").read_bytes()
    options: dict[str, Any] = {"epochs": 1, "context": {4: 0.25}}
    fetch = FetchSettings(rate_per_s=1e6)
    train_pairs(world.request(tmp_path / "a", source=server.url, tile_cache=tmp_path / "t", fetch=fetch, **options))
    photos = read_photos(world.photos)
    tiles = {tile_of_code(int(c), 2) for c in codes_at(photos.lng, photos.lat, 2)}
    near = neighbours(np.unique(codes_at(photos.lng, photos.lat, 4)), 4, 1)
    assert set(server.log) == tiles | {tile_of_code(int(c), 4) for c in np.unique(near)}
    train_pairs(world.request(tmp_path / "b", **options))
    assert same(tmp_path / "a", tmp_path / "b")


def test_table_with_many_kinds_of_damage_trains_to_the_end(world: SmallWorld, tmp_path: Path) -> None:
    damaged = make_damaged(tmp_path / "damaged", bounds=(-179.0, -84.0, 179.0, 84.0))
    shutil.copytree(world.tiles, tmp_path / "tiles")
    shutil.rmtree(tmp_path / "tiles" / "4" / "7")
    out = tmp_path / "run"
    result = tilebeam(world.arguments(out, "--photos", damaged.table, "--source", tmp_path / "tiles", "--epochs", 1))
    assert result.exit_code == 0, (result.stderr, result.exception)
    listed = list(csv.DictReader((out / "rejected.csv").open(encoding="utf-8")))
    without = {r["name"] for r in listed if r["reason"] == "no tile"}
    reported = {int(r["row"]): r["reason"] for r in listed if r["reason"] != "no tile"}
    assert reported == damaged.expected
    assert len(set(reported.values())) >= 19
    assert without
    assert without < set(damaged.good)
    assert set(read_photos(out / "photos.csv").names) == set(damaged.good) - without
    counts = Counter(reported.values()) | Counter({"no tile": len(without)})
    assert json.loads(result.stdout)["rejected"] == counts
    assert all(f"{count:,} photos not used: {reason}" in result.stderr for reason, count in counts.items())
