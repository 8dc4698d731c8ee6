"""The commands `geocells train`, `grid` and `baseline`: parse, call, print. Torch loads inside them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexer.cli.shared_options import Device, Images, LatitudeColumn, Layout, LongitudeColumn, PathColumn, Photos
from indexer.cli.terminal import Bars, ending_well

if TYPE_CHECKING:
    from indexer.geocells.settings import GeocellRequest

__all__ = ["register"]

_LEARNING, _PRIOR, _MACHINE = "Learning: paper G's recipe by default", "As a prior", "Machine"
_GO_ON = "the same command goes on from the last saved step"


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("train")(train)
    app.command("grid")(grid)
    app.command("baseline")(baseline)


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


Out = Annotated[Path, typer.Option(help="A folder for the run; OUT/model is the model. A killed run goes on.")]
PartitionDir = Annotated[Path, typer.Option(help="What `tilebeam geocells fit` wrote.")]
Ratio = Annotated[str, typer.Option(help="Train, validation and test, unless the table has a split.", metavar="8:1:1")]
Geographic = Annotated[
    bool, typer.Option("--geographic/--random-split", help="No zoom-8 tile in two splits, unless the table has them.")
]
Encoder = Annotated[
    str, typer.Option(help="builtin, MODEL:TAG, MODEL:FILE, timm:NAME, timm:NAME:FILE, hf-hub:NAME or a folder.")
]
LrEncoder = Annotated[float, _option(_LEARNING, "AdamW's rate of the encoder; 0: frozen, embedded once.")]
LrHeads = Annotated[float, _option(_LEARNING, "AdamW's rate of the heads.")]
Decay = Annotated[float, _option(_LEARNING, "AdamW's weight decay.")]
Epochs = Annotated[int, _option(_LEARNING, "Passes over the training photos.")]
Batch = Annotated[int, _option(_LEARNING, "Photos a step.")]
Smoothing = Annotated[float, _option(_LEARNING, "Scale of the haversine-smoothed targets, km.")]
ContrastKm = Annotated[float, _option(_LEARNING, "Over how many km two photos cease to be a pair.")]
GeoDim = Annotated[int, _option(_LEARNING, "Numbers in a geo-embedding.")]
Top = Annotated[int, _option(_LEARNING, "Cells whose clusters are looked at for an answer.")]
Seed = Annotated[int, _option(_LEARNING, "Decides splits, first weights and batches.", min=0)]
SpreadName = Annotated[
    str, _option(_PRIOR, "clusters: their head's probabilities; photos, area: how a cell's is shared among tiles.")
]
CacheDir = Annotated[Path | None, _option(_MACHINE, "Folder for photo embeddings.", show_default="OUT/cache")]
SaveEvery = Annotated[int, _option(_MACHINE, "Steps from one saved state to the next.")]
LogEvery = Annotated[int, _option(_MACHINE, "Steps from one row of log.csv to the next.")]
Threads = Annotated[int, _option(_MACHINE, "CPU threads.", min=1)]


def train(
    photos: Photos,
    partition: PartitionDir,
    out: Out,
    encoder: Encoder = "builtin",
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    split_ratio: Ratio = "8:1:1",
    geographic: Geographic = False,
    alpha: Annotated[float, _option(_LEARNING, "Weight of the contrastive loss; 0: none.")] = 0.5,
    temperature: Annotated[float, _option(_LEARNING, "What cosines are divided by in it (the paper's tau).")] = 0.5,
    lr_encoder: LrEncoder = 1e-7,
    lr_heads: LrHeads = 1e-3,
    weight_decay: Decay = 0.01,
    epochs: Epochs = 10,
    batch: Batch = 64,
    smoothing_km: Smoothing = 75.0,
    contrast_km: ContrastKm = 500.0,
    geo_dim: GeoDim = 256,
    top: Top = 5,
    seed: Seed = 0,
    spread: SpreadName = "clusters",
    cache: CacheDir = None,
    save_every: SaveEvery = 200,
    log_every: LogEvery = 50,
    device: Device = "auto",
    threads: Threads = 2,
) -> None:
    """Learn to name a photo's geocell: paper G's heads over an image encoder.

    Haversine-smoothed cross-entropy of cells and clusters, plus alpha times a geographic contrastive loss; AdamW,
    encoder at 1e-7, heads at 1e-3, 10 epochs; the epoch with the least validation loss is kept. OUT/model is for
    `calibrate --prior geocells=OUT/model`, OUT/photos.csv with its splits for `calibrate` and `evaluate`. OSV-5M's
    train.csv is read as it is (--layout osv5m).
    """
    asked = dict(locals())
    with ending_well(_GO_ON):
        request = _request(asked)
        from indexer.geocells.model.train import train_geocells

        _set_threads(threads)
        with Bars() as bars:
            made = train_geocells(request, bars)
    typer.echo(json.dumps(made))


def grid(
    photos: Photos,
    partition: PartitionDir,
    out: Out,
    tau: Annotated[str, typer.Option(help="Temperatures of the contrastive loss, with commas.")] = "0.3,0.5",
    alpha: Annotated[
        str, typer.Option(help="Its weights, with commas; a row without it is always there.")
    ] = "0.5,0.75",
    encoder: Encoder = "builtin",
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    split_ratio: Ratio = "8:1:1",
    geographic: Geographic = False,
    lr_encoder: LrEncoder = 1e-7,
    lr_heads: LrHeads = 1e-3,
    weight_decay: Decay = 0.01,
    epochs: Epochs = 10,
    batch: Batch = 64,
    smoothing_km: Smoothing = 75.0,
    contrast_km: ContrastKm = 500.0,
    geo_dim: GeoDim = 256,
    top: Top = 5,
    seed: Seed = 0,
    cache: CacheDir = None,
    save_every: SaveEvery = 200,
    log_every: LogEvery = 50,
    device: Device = "auto",
    threads: Threads = 2,
) -> None:
    """Paper G's grid: a model without the contrastive loss and one for every (tau, alpha), measured on the test photos.

    Writes OUT/grid.md: average and median error with 95% bootstrap intervals.
    """
    asked = dict(locals())
    with ending_well(_GO_ON):
        taus, alphas = _numbers("--tau", tau), _numbers("--alpha", alpha)
        request = _request(asked | {"alpha": 0.0, "temperature": taus[0], "spread": "clusters"})
        from indexer.geocells.model.grid import train_grid

        _set_threads(threads)
        with Bars() as bars:
            made = train_grid(request, taus, alphas, bars)
    typer.echo(json.dumps(made))


def baseline(
    photos: Photos,
    out: Annotated[Path, typer.Option(help="A folder for the run; OUT/baseline.json has its figures.")],
    encoder: Encoder = "timm:resnet152",
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    split_ratio: Ratio = "8:1:1",
    geographic: Geographic = False,
    blocks: Annotated[int, _option(_LEARNING, "Last blocks of the encoder that learn.")] = 2,
    lr: Annotated[float, _option(_LEARNING, "AdamW's rate.")] = 1e-3,
    weight_decay: Decay = 1e-4,
    epochs: Epochs = 5,
    batch: Batch = 32,
    seed: Seed = 0,
    cache: CacheDir = None,
    save_every: SaveEvery = 200,
    log_every: LogEvery = 50,
    device: Device = "auto",
    threads: Threads = 2,
) -> None:
    """Paper G's baseline without cells: the last blocks of an image encoder and a linear head regress the place.

    What is regressed is the place's unit vector. Prints and writes the errors on the test photos.
    """
    asked = dict(locals())
    with ending_well(_GO_ON):
        from indexer.geocells.model.baseline import train_baseline
        from indexer.geocells.settings import BaselineRequest, Pace

        pace = Pace(epochs, batch, seed, weight_decay, save_every, log_every)
        request = BaselineRequest(**_photos(asked), encoder=encoder, blocks=blocks, lr=lr, pace=pace)
        _set_threads(threads)
        with Bars() as bars:
            report = train_baseline(request, bars)
    typer.echo(json.dumps(report))


def _request(asked: dict[str, Any]) -> "GeocellRequest":
    from indexer.geocells.settings import GeocellRequest, GeocellSettings, Pace

    pace = Pace(**{name: asked[name] for name in Pace.__dataclass_fields__})
    numbers = {name: asked[name] for name in GeocellSettings.__dataclass_fields__ if name != "pace"}
    settings = GeocellSettings(pace=pace, **numbers)
    return GeocellRequest(**_photos(asked), partition=asked["partition"], encoder=asked["encoder"], settings=settings)


def _photos(asked: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that say where photos come from and what is kept where."""
    from indexer.photos.read import ReadOptions
    from indexer.photos.splits import SplitPlan

    columns = (asked["path_column"], asked["latitude_column"], asked["longitude_column"])
    found = {name: asked[name] for name in ("photos", "out", "cache", "device")}
    found["read"] = ReadOptions(asked["layout"], asked["images"], *columns)
    found["split"] = SplitPlan(_ratio(asked["split_ratio"]), asked["seed"], asked["geographic"])
    return found


def _ratio(text: str) -> tuple[int, int, int]:
    from indexer.photos.splits import parse_ratio

    try:
        return parse_ratio(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--split-ratio {exc}") from exc


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise typer.BadParameter(f"{option} {text!r}: give numbers with commas, such as 0.3,0.5") from exc


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
