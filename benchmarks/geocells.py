"""Geocell models on the built-in Earth and on a set of known structure: the tables of docs/experiments.md.

    OMP_NUM_THREADS=1 python -m benchmarks.geocells --photos EARTH/photos.csv --out DIR

Splits the photos as `tilebeam train --split-ratio 8:2:2` does, fits a partition to the training photos, trains the grid
of (tau, alpha) with a frozen encoder, one epoch each with a frozen and a learning encoder, and the regression without
cells; measures answers and beliefs on the test photos. Every step is a command, which is printed before it runs.
Finished steps are kept, so an interrupted run continues. --only selects some of the parts.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.geocells.model.features import PhotoData, SplitData, TableFeatures
from indexer.geocells.model.grid import ErrorRow, error_figures, error_table, errors_km
from indexer.geocells.model.task import GeocellTask, LabelledSplit
from indexer.geocells.model.train import model_content, training_loop
from indexer.geocells.partition.fit import fit_photos
from indexer.geocells.settings import FitRequest, GeocellSettings, Grid, Pace
from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import ReadOptions, read_photos
from indexer.photos.splits import SplitPlan
from indexer.progress import silent
from retrieval.encoders.timm import load_image_encoder
from retrieval.priors.geocells import GeocellModel, GeocellPrior, Spread
from retrieval.priors.partition import Partition
from retrieval.sphere import great_circle_km
from tile_cache.addressing import area_shares, codes_at

PARTS = ("known", "grid", "encoder", "baseline", "prior")
PAIRS = ((0.3, 0.5), (0.5, 0.5), (0.5, 0.75))
SPREADS: tuple[Spread, ...] = ("photos", "area", "clusters")
FINE = ("--per-cluster", "8")


def main() -> None:
    """Parse, run the parts, print the tables and write them to tables.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="photos.csv of `tilebeam sample-data photos`")
    parser.add_argument("--out", type=Path, required=True, help="a folder for models and tables")
    parser.add_argument("--only", action="append", choices=PARTS, help="some of the parts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    selected = arguments.only or PARTS
    tables = []
    if "known" in selected:
        tables.append(known_structure())
    if set(selected) - {"known"}:
        if arguments.photos is None:
            parser.error("--photos is needed for all parts but `known`")
        tables += earth(arguments.photos, out, selected)
    text = "\n\n".join(tables) + "\n"
    (out / "tables.md").write_text(text)
    print(text)


def earth(photos: Path, out: Path, selected: tuple[str, ...]) -> list[str]:
    """The tables for the built-in Earth."""
    table, partition = prepare(photos, out)
    learn = ("--photos", table, "--partition", partition, "--cache", out / "cache", "--threads", 1)
    test = read_photos(table).only("test")
    sections = []
    if "grid" in selected:
        tilebeam("geocells", "grid", *learn, "--lr-encoder", 0, "--tau", "0.3,0.5", "--alpha", "0.5,0.75",
                 "--out", out / "grid")  # fmt: skip
        sections.append("### The grid of (tau, alpha)\n\n" + (out / "grid/grid.md").read_text())
    if "encoder" in selected or "baseline" in selected:
        sections.append(others(out, learn, table, test, selected))
    if "prior" in selected:
        tilebeam("geocells", "train", *learn, "--lr-encoder", 0, "--out", out / "grid/tau-0.5-alpha-0.5")
        sections.append(as_prior(out / "grid/tau-0.5-alpha-0.5/model", table, out))
    return sections


def prepare(photos: Path, out: Path) -> tuple[Path, Path]:
    """Photos with the splits that `tilebeam train --split-ratio 8:2:2` makes, and a partition of the training ones."""
    if not (out / "photos.csv").exists():
        encoder = load_image_encoder("builtin", device="cpu")
        plan = SplitPlan(ratio=(8, 2, 2))
        data = PhotoData.read(photos, ReadOptions(), plan, encoder, out / "cache", silent)
        data.write(out)
    if not (out / "partition/partition.json").exists():
        tilebeam("geocells", "fit", "--photos", out / "photos.csv", *FINE, "--out", out / "partition")
    return out / "photos.csv", out / "partition"


def others(out: Path, learn: tuple[Any, ...], table: Path, test: PhotoSet, selected: tuple[str, ...]) -> str:
    """A table of a learning encoder and of the regression without cells, over the same test photos."""
    rows = []
    if "encoder" in selected:
        for name, rate in (("encoder frozen, 1 epoch", 0.0), ("encoder at 1e-7, 1 epoch", 1e-7)):
            folder = out / f"one-epoch-{rate:g}"
            tilebeam("geocells", "train", *learn, "--lr-encoder", rate, "--epochs", 1, "--out", folder)
            rows.append(ErrorRow(name, errors_km(GeocellModel.load(folder / "model"), test, out / "cache")))
    if "baseline" in selected:
        folder, photos = out / "baseline", ("--photos", table, "--cache", out / "cache", "--threads", 1)
        tilebeam("geocells", "baseline", *photos, "--encoder", "builtin", "--out", folder)
        rows.append(
            ErrorRow("regression, last two blocks of the built-in encoder, 5 epochs", np.load(folder / "errors.npy"))
        )
    return "### Other methods\n\n" + error_table(rows, error_figures(rows))


def as_prior(model: Path, table: Path, out: Path) -> str:
    """A table of the mean natural logarithm of the mass that beliefs give to the true tile."""
    loaded = GeocellModel.load(model, device="cpu")
    about = "Mean natural logarithm of the photos' true tiles' masses; the higher, the better."
    lines = ["### As a prior, unfused", "", about, ""]
    lines += ["| photos | spread | zoom 4 | zoom 6 | zoom 8 |", "|---|---|---:|---:|---:|"]
    for split in ("validation", "test"):
        embedded = embed_photos(read_photos(table).only(split), loaded.encoder, cache=out / "cache/photos")
        codes = {z: codes_at(embedded.photos.lng, embedded.photos.lat, z) for z in (4, 6, 8)}
        even = [f"{np.log(area_shares(codes[z], z)).mean():.2f}" for z in codes]
        lines.append(f"| {split} | even by area | " + " | ".join(even) + " |")
        for spread in SPREADS:
            beliefs = GeocellPrior(loaded, loaded.encoder, spread=spread).beliefs(embedded.embeddings)
            logs = {z: [b.log_mass(codes[z][i : i + 1], z)[0] for i, b in enumerate(beliefs)] for z in codes}
            lines.append(f"| {split} | {spread} | " + " | ".join(f"{np.mean(logs[z]):.2f}" for z in codes) + " |")
    config = json.loads((model / "config.json").read_text())
    lines += ["", f"Temperatures fitted on the validation photos: {config['temperature']}."]
    return "\n".join(lines)


def known_structure(seeds: int = 5) -> str:
    """Six cells of six clusters, features of a direction per cluster plus noise: accuracy with and without pairs."""
    ways = {"haversine loss alone": (0.5, 0.0, 500.0)}
    ways |= {f"tau {tau:g}, alpha {alpha:g}": (tau, alpha, 500.0) for tau, alpha in PAIRS}
    ways["tau 0.5, alpha 0.5, pairs within 100 km"] = (0.5, 0.5, 100.0)
    names = list(ways)
    km: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    right: dict[str, list[float]] = {name: [] for name in names}
    pure = []
    for seed in range(seeds):
        photos, cluster, features = known_set(seed)
        request = FitRequest(Path(), grid=Grid((10,), (500.0,), (), 2), per_cluster=60)
        fitted = fit_photos(photos, request, silent)
        pure.append(agreement(fitted.partition, photos, cluster))
        for name, (tau, alpha, reach_km) in ways.items():
            settings = GeocellSettings(
                Pace(seed=seed), lr_encoder=0, alpha=alpha, temperature=tau, contrast_km=reach_km
            )
            errors, share = learn_known(fitted.partition, photos, features, settings)
            km[name].append(errors)
            right[name].append(share)
    rows = [ErrorRow(name, np.concatenate(km[name])) for name in names]
    cells, clusters = np.mean(pure, axis=0)
    accuracy = ", ".join(f"{name} {np.mean(right[name]):.1%}" for name in names)
    by_draw = np.array([[km[name][i].mean() for i in range(seeds)] for name in names])
    lower = ", ".join(f"{name} {int(n)}" for name, n in zip(names[1:], (by_draw[1:] < by_draw[0]).sum(1), strict=True))
    return (
        f"### A set of known structure ({seeds} draws)\n\nOf the photos, {cells:.1%} lie in a fitted cell, and "
        f"{clusters:.1%} in a fitted cluster, whose photos are mostly of their own true one. Test photos whose own "
        f"cluster is the answer: {accuracy}. Draws, of {seeds}, in which the average is lower than without "
        f"pairs: {lower}.\n\n{error_table(rows, error_figures(rows))}"
    )


def known_set(seed: int, photos: int = 60, dim: int = 64, noise: float = 2.0) -> tuple[PhotoSet, Any, Any]:
    """Photos (n), their true clusters (n,), their features (n, dim): rings of six clusters, 700 km wide."""
    rng = np.random.default_rng(seed)
    homes = np.array([[48.0, 2.0], [-15.0, -55.0], [35.0, 139.0], [-30.0, 140.0], [60.0, -150.0], [5.0, 178.0]])
    turns = np.arange(6) * np.pi / 3
    rings = homes[:, None] + 3 * np.stack([np.sin(turns), np.cos(turns)], axis=1)
    cluster = np.tile(np.arange(36), photos)
    lat, lng = (rings.reshape(-1, 2)[cluster] + rng.normal(0, 0.3, (len(cluster), 2))).T
    # Clusters of the same cell have similar directions, as pictures of one region look alike.
    directions = np.repeat(rng.normal(0, 1, (6, dim)), 6, axis=0) + 0.7 * rng.normal(0, 1, (36, dim))
    features = directions[cluster] + noise * rng.normal(0, 1, (len(cluster), dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    names = tuple(str(i) for i in range(len(cluster)))
    return PhotoSet(names, names, (lng + 180) % 360 - 180, lat), cluster, features.astype(np.float32)


def agreement(partition: Partition, photos: PhotoSet, cluster: NDArray[np.int64]) -> tuple[float, float]:
    """The purity of the fitted cells, and of the fitted clusters."""
    fitted = (partition.cell_of(photos.lat, photos.lng), partition.cluster_of(photos.lat, photos.lng))
    return purity(fitted[0], cluster // 6), purity(fitted[1], cluster)


def purity(groups: NDArray[Any], true: NDArray[Any]) -> float:
    """The share of rows whose true class is the most frequent one of their group."""
    table = np.zeros((int(groups.max()) + 1, int(true.max()) + 1))
    np.add.at(table, (groups, true), 1)
    return float(table.max(axis=1).sum() / len(true))


def learn_known(
    partition: Partition, photos: PhotoSet, features: NDArray[np.float32], settings: GeocellSettings
) -> tuple[NDArray[np.float64], float]:
    """The errors on the test third, (n,) km, and the share of its photos whose own cluster is the answer."""
    rows = np.arange(len(photos))
    thirds = [rows[rows // 36 % 3 == i] for i in range(3)]
    places = np.stack([photos.lat, photos.lng], axis=1)
    parts = [SplitData(r, torch.from_numpy(places[r]), torch.from_numpy(features[r])) for r in thirds]
    train, validation, test = (LabelledSplit.of(p, partition) for p in parts)
    task = GeocellTask(settings, partition, train, validation, TableFeatures(features, torch.device("cpu")), None)
    with tempfile.TemporaryDirectory() as folder:
        training_loop(task, settings.pace, Path(folder)).run()
    encoder = {"spec": "none", "fingerprint": "none", "dim": features.shape[1], "inside": False}
    config, tensors = model_content(task, partition, encoder)
    model = GeocellModel(config, {k: v.numpy() for k, v in tensors.items()}, partition, Path("known"))
    answers = model.answer(features[thirds[2]])
    lat, lng = np.array([(a.lat, a.lng) for a in answers]).T
    own = np.array([a.cluster for a in answers]) == test.cluster.numpy()
    return great_circle_km(lng, lat, photos.lng[thirds[2]], photos.lat[thirds[2]]), float(own.mean())


def tilebeam(*arguments: object) -> None:
    """Run a command of Tilebeam; if it fails, end this program with its exit code."""
    words = ["-m", "tilebeam", *map(str, arguments)]
    print(f"$ python {shlex.join(words)}", file=sys.stderr, flush=True)
    status = subprocess.run([sys.executable, *words], check=False, stdout=subprocess.DEVNULL).returncode
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
