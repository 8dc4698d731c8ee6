"""The command `train`: parse, call, print. Torch is imported inside it, so that `--help` does not wait for it."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.build.request import BuildRequest
from indexer.cli.options import Fields, command, flag
from indexer.cli.shared_options import (
    FETCHING,
    PHOTOS_PANEL,
    Bbox,
    Device,
    GeoJson,
    Land,
    Overlay,
    Photo,
    Reading,
    World,
    area_of,
    zooms_of,
)
from indexer.cli.terminal import Bars, say
from indexer.errors import OptionError
from indexer.fields import field_docs
from indexer.photos.splits import SplitPlan, parse_ratio
from indexer.training.settings import TrainRequest, TrainSettings

__all__ = ["register"]

_BUILTIN, _TILES, _LEARNING, _MACHINE, _INDEX = (
    "The built-in Earth (--preset)",
    "Tiles",
    "Learning: the hierarchical-search paper's recipe by default",
    "Machine",
    "An index of the same source, afterwards",
)


class Preset(StrEnum):
    """What can be trained without photos."""

    builtin = "builtin"


class CacheDtype(StrEnum):
    """Number formats of cached activations."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def register(app: typer.Typer) -> None:
    """Mount the command."""
    command(app, go_on="the same command goes on from the last saved step")(train)


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def _of_request(field: str, panel: str, **more: Any) -> Any:
    """The option of a field of `TrainRequest`, which --preset does not build."""
    return _option(panel, field_docs(TrainRequest)[field], **more)


def _ratio(text: str) -> tuple[int, int, int]:
    train, validation, test = parse_ratio(text)
    if min(train, validation, test) < 0 or not train or not validation:
        raise OptionError(f"--split-ratio {text}: train and validation must be above 0, test 0 or more")
    return train, validation, test


def _margins(texts: list[str]) -> dict[int, float]:
    try:
        return {int(zoom): float(margin) for zoom, _, margin in (text.partition("=") for text in texts)}
    except ValueError as exc:
        raise ValueError(f"--context {' '.join(texts)}: give ZOOM=WIDTHS, such as 8=0.25") from exc


_SPLIT = Annotated[
    SplitPlan,
    Fields(
        panel=PHOTOS_PANEL,
        ratio=flag(
            "--split-ratio",
            parser=_ratio,
            metavar="10:1:1",
            show_default="10:1:1",
            help="Train, validation and test, unless the table has a split.",
        ),
        geographic=flag("--geographic/--random-split"),
        near_duplicates=None,
    ),
]
_SETTINGS = Annotated[
    TrainSettings,
    Fields(
        panel=_LEARNING,
        zooms=flag(parser=zooms_of, metavar="4,6,8", rich_help_panel=_TILES),
        context=flag(kind=list[str], parser=_margins, metavar="Z=WIDTHS", rich_help_panel=_TILES),
        validation_batch=None,
        micro_batch=flag(show_default="all"),
        learn_temperature=flag("--learn-temperature/--fixed-temperature"),
        patience=flag(show_default="never"),
        cache_dtype=flag(kind=CacheDtype, parser=str, show_default="float32", rich_help_panel=_MACHINE),
        save_every=flag(rich_help_panel=_MACHINE),
        log_every=flag(rich_help_panel=_MACHINE),
    ),
]


def train(
    *,
    out: Annotated[Path, typer.Option(help=field_docs(TrainRequest)["out"])],
    photos: Annotated[Path | None, _of_request("photos", PHOTOS_PANEL)] = None,
    read: Reading,
    split: _SPLIT,
    source: Annotated[str | None, _of_request("source", _TILES)] = None,
    overlay: Overlay = None,
    tile_cache: Annotated[Path | None, _of_request("tile_cache", _TILES, show_default="your cache folder")] = None,
    fetch: FETCHING,
    photo_encoder: Photo = "builtin",
    settings: _SETTINGS,
    cache: Annotated[Path | None, _of_request("cache", _MACHINE, show_default="OUT/cache")] = None,
    cache_limit: Annotated[
        float, _option(_MACHINE, "GB of disk for activations; the rest is computed each time.", min=0)
    ] = 20.0,
    device: Device = "auto",
    threads: Annotated[int, _option(_MACHINE, "CPU threads.", min=1)] = 2,
    index: Annotated[Path | None, _option(_INDEX, "The index directory to make.")] = None,
    world: World = False,
    bbox: Bbox = None,
    geojson: GeoJson = None,
    land: Land = None,
    overwrite: Annotated[bool, _option(_INDEX, "Replace another index there.", "--overwrite")] = False,
    preset: Annotated[
        Preset | None, _option(_BUILTIN, "builtin: the built-in Earth's encoders.", show_default=False)
    ] = None,
    recipe: Annotated[Path | None, _option(_BUILTIN, "Another recipe (JSON).", show_default="built-in")] = None,
    leave_out: Annotated[
        str | None, _option(_BUILTIN, "A product to leave out of training.", show_default=False)
    ] = None,
    share: Annotated[float, _option(_BUILTIN, "Share of the recipe's steps.", min=0.0001, max=1)] = 1.0,
) -> None:
    """Train map encoders on photos with places, or the built-in Earth's encoders.

    --photos follows the hierarchical-search paper: one encoder per zoom, each from the photo encoder's tower, which
    itself stays frozen. The last two transformer blocks, the final norm and the projection are trained, by in-batch
    softmax cross-entropy of cosines from photo to tile; Adam at 1e-4, batches of 64, 5 epochs; zooms from the finest
    to the coarsest, each started from the one before. The best epoch by validation recall@1 is kept. Start it with
    torchrun for several GPUs.

    OUT/encoders is for `tilebeam index --map-encoders`, OUT/photos.csv with its splits for `calibrate` and `evaluate`.
    """
    if (preset is None) == (photos is None):
        raise typer.BadParameter("give either --photos, with --source and --zooms, or --preset builtin")
    if photos is None:
        _train_builtin(out, recipe, leave_out, share, threads)
        return
    if source is None or not settings.zooms:
        raise typer.BadParameter("--photos needs --source and --zooms, too")
    if index is None and (world or bbox or geojson):
        raise typer.BadParameter("--world, --bbox and --geojson are for the index: give --index DIR, too")
    build = None
    if index is not None:
        area = area_of(world, bbox, geojson, None, land)
        build = BuildRequest(
            source=source, out=index, zooms=settings.zooms, area=area, overlay=overlay, overwrite=overwrite
        )
    request = TrainRequest(
        photos=photos,
        source=source,
        out=out,
        settings=settings,
        overlay=overlay,
        photo_encoder=photo_encoder,
        read=read,
        split=split,
        cache=cache,
        cache_bytes=int(cache_limit * 1e9),
        tile_cache=tile_cache,
        fetch=fetch,
        device=device,
    )
    _train_on_photos(request, build, threads)


def _train_on_photos(request: TrainRequest, build: BuildRequest | None, threads: int) -> None:
    """Train, build the index of `build`, and print a summary as one JSON line."""
    import torch  # with the modules below, seconds to load

    from indexer.learning.distributed import Group
    from indexer.training.output import index_with
    from indexer.training.run import train_pairs

    torch.set_num_threads(threads)
    with Group.from_environment() as group, Bars() as bars:
        summary = train_pairs(request, group, bars)
        if not group.first:
            return
        if build is not None:
            summary |= index_with(request, build, bars)
    typer.echo(json.dumps(summary))


def _train_builtin(out: Path, recipe: Path | None, leave_out: str | None, share: float, threads: int) -> None:
    """Train the built-in Earth's encoders, for `--photo-encoder` and `--map-encoders` of `tilebeam index`."""
    import torch  # with the modules below, seconds to load

    from indexer.builtin.finish import calibrate, describe
    from indexer.builtin.train import BuiltinTraining
    from retrieval.encoders.open_clip import builtin_directory

    torch.set_num_threads(threads)
    path = recipe or builtin_directory() / "recipe.json"
    chosen = _read_recipe(path, share, leave_out)
    encoders = BuiltinTraining(chosen, out, _print_entry).run()
    numbers = calibrate(chosen, encoders, out / "index")
    describe(path, {"share": share, "leave_out": leave_out}, encoders, numbers, out / "log.jsonl")
    typer.echo(json.dumps({"encoders": str(encoders), "index": str(out / "index"), "calibration": numbers}))


def _read_recipe(path: Path, share: float, leave_out: str | None) -> Any:
    from indexer.builtin.recipe import Recipe  # loads torch
    from retrieval.errors import EncoderError

    try:
        return Recipe.read(path).reduced(share, leave_out)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EncoderError) as exc:
        problem = f"it lacks {exc}" if isinstance(exc, KeyError) else str(exc)
        say(f"tilebeam: {path} is not a valid recipe: {problem}")
        raise typer.Exit(2) from exc


def _print_entry(entry: dict[str, Any]) -> None:
    print(" ".join(f"{name}={value}" for name, value in entry.items()), file=sys.stderr, flush=True)
