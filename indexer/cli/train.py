"""The command `train`: parse, call, print. Torch is imported inside it."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexer.build.request import BuildRequest
from indexer.cli.shared_options import (
    PHOTOS_PANEL,
    Bbox,
    Concurrency,
    Contact,
    Device,
    GeoJson,
    Images,
    Land,
    LatitudeColumn,
    Layout,
    LongitudeColumn,
    Overlay,
    PathColumn,
    Photo,
    Rate,
    World,
    area_of,
    fetch_settings,
    zooms_of,
)
from indexer.cli.terminal import Bars, ending_well, say
from indexer.errors import TrainingError

if TYPE_CHECKING:
    from indexer.training.request import TrainRequest

_BUILTIN, _PHOTOS, _TILES, _LEARNING, _MACHINE, _INDEX = (
    "The built-in Earth (--preset)",
    PHOTOS_PANEL,
    "Tiles",
    "Learning: paper H's recipe by default",
    "Machine",
    "An index of the same source, afterwards",
)


class Preset(StrEnum):
    """What can be trained without photos."""

    builtin = "builtin"


class CacheDtype(StrEnum):
    """How activations are kept."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("train")(train)


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def train(
    out: Annotated[Path, typer.Option(help="A folder for states, log and results; a killed run goes on.")],
    photos: Annotated[Path | None, _option(_PHOTOS, "A CSV or Parquet table, or a folder of JPEGs with GPS.")] = None,
    images: Images = None,
    layout: Layout = "auto",
    path_column: PathColumn = None,
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    split_ratio: Annotated[
        str, _option(_PHOTOS, "Train, validation and test, unless the table has a split.", metavar="10:1:1")
    ] = "10:1:1",
    geographic: Annotated[
        bool, _option(_PHOTOS, "No zoom-8 tile in two splits.", "--geographic/--random-split")
    ] = False,
    source: Annotated[
        str | None, _option(_TILES, "bluemarble, a folder, .mbtiles, a URL template or a name of xyzservices.")
    ] = None,
    overlay: Overlay = None,
    zooms: Annotated[str | None, _option(_TILES, "Ascending; an encoder each.", metavar="4,6,8")] = None,
    context: Annotated[
        list[str] | None, _option(_TILES, "A margin in tile widths that a zoom's encoder sees.", metavar="Z=WIDTHS")
    ] = None,
    tile_cache: Annotated[
        Path | None, _option(_TILES, "File or folder for fetched tiles.", show_default="your cache folder")
    ] = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    contact: Contact = None,
    photo_encoder: Photo = "builtin",
    epochs: Annotated[int, _option(_LEARNING, "Passes over the photos, per zoom.")] = 5,
    batch: Annotated[int, _option(_LEARNING, "Pairs a step, over all processes.")] = 64,
    micro_batch: Annotated[
        int | None, _option(_LEARNING, "Tiles whose graph is in memory at once; same gradients.", show_default="all")
    ] = None,
    lr: Annotated[float, _option(_LEARNING, "Adam's learning rate.")] = 1e-4,
    blocks: Annotated[
        int, _option(_LEARNING, "Last transformer blocks that learn, with final norm and projection.")
    ] = 2,
    temperature: Annotated[float, _option(_LEARNING, "What cosines are divided by; the paper gives none.")] = 0.07,
    learn_temperature: Annotated[
        bool, _option(_LEARNING, "Whether it is learnt along.", "--learn-temperature/--fixed-temperature")
    ] = False,
    patience: Annotated[
        int | None, _option(_LEARNING, "Epochs without a better recall@1 that end a zoom.", show_default="none end it")
    ] = None,
    seed: Annotated[int, _option(_LEARNING, "Decides splits and batches.")] = 0,
    cache: Annotated[
        Path | None, _option(_MACHINE, "Folder for photo embeddings and activations.", show_default="OUT/cache")
    ] = None,
    cache_limit: Annotated[float, _option(_MACHINE, "GB for activations; the rest is computed anew.", min=0)] = 20.0,
    cache_dtype: Annotated[CacheDtype, _option(_MACHINE, "How activations are kept.")] = CacheDtype.float32,
    save_every: Annotated[int, _option(_MACHINE, "Steps from one saved state to the next.")] = 200,
    log_every: Annotated[int, _option(_MACHINE, "Steps from one row of log.csv to the next.")] = 20,
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
    leave_out: Annotated[str | None, _option(_BUILTIN, "A product not to be seen.", show_default=False)] = None,
    share: Annotated[float, _option(_BUILTIN, "Share of the recipe's steps.", min=0.0001, max=1)] = 1.0,
) -> None:
    """Learn map encoders from photos with places, or the built-in Earth's encoders.

    --photos follows paper H: an encoder per zoom, all from the photo encoder's tower, which itself stays as it is; the
    last two transformer blocks, the final norm and the projection learn, by in-batch softmax cross-entropy of cosines
    from photo to tile, Adam at 1e-4, batches of 64, 5 epochs, zooms from the finest to the coarsest, each started from
    the one before. The best epoch by validation recall@1 is kept. Give it to torchrun for several GPUs.

    OUT/encoders is for `tilebeam index --map-encoders`, OUT/photos.csv with its splits for `calibrate` and `evaluate`.
    """
    if (preset is None) == (photos is None):
        raise typer.BadParameter("give either --photos, with --source and --zooms, or --preset builtin")
    if photos is None:
        train_builtin(out, recipe, leave_out, share, threads)
        return
    if source is None or zooms is None:
        raise typer.BadParameter("--photos needs --source and --zooms, too")
    if index is None and (world or bbox or geojson):
        raise typer.BadParameter("--world, --bbox and --geojson are for the index: give --index DIR, too")
    area = None if index is None else area_of(world, bbox, geojson, None, land)
    with ending_well("the same command goes on from the last saved step"):
        from indexer.photos.read import ReadOptions
        from indexer.photos.splits import SplitPlan
        from indexer.training.request import TrainRequest
        from indexer.training.settings import TrainSettings

        settings = TrainSettings(
            zooms=zooms_of(zooms),
            epochs=epochs,
            batch=batch,
            micro_batch=micro_batch,
            lr=lr,
            blocks=blocks,
            temperature=temperature,
            learn_temperature=learn_temperature,
            patience=patience,
            seed=seed,
            context=_margins(context or []),
            cache_dtype=cache_dtype.value,
            save_every=save_every,
            log_every=log_every,
        )
        request = TrainRequest(
            photos=photos,
            source=source,
            out=out,
            settings=settings,
            overlay=overlay,
            photo_encoder=photo_encoder,
            read=ReadOptions(layout, images, path_column, latitude_column, longitude_column),
            split=SplitPlan(_ratio(split_ratio), seed, geographic),
            cache=cache,
            cache_bytes=int(cache_limit * 1e9),
            tile_cache=tile_cache,
            fetch=fetch_settings(rate, concurrency, contact, False),
            device=device,
        )
        building = None
        if index is not None and area is not None:
            building = BuildRequest(source, index, settings.zooms, area, overlay, overwrite=overwrite)
        train_on_photos(request, building, threads)


def train_on_photos(request: "TrainRequest", building: BuildRequest | None, threads: int) -> None:
    """Train, index what `building` says, and print what was made as one JSON line."""
    import torch

    from indexer.learning.distributed import Group
    from indexer.training.indexing import index_with
    from indexer.training.run import train_pairs

    torch.set_num_threads(threads)
    with Group.from_environment() as group, Bars() as bars:
        made = train_pairs(request, group, bars)
        if not group.first:
            return
        if building is not None:
            made |= index_with(request, building, bars)
    typer.echo(json.dumps(made))


def train_builtin(out: Path, recipe: Path | None, leave_out: str | None, share: float, threads: int) -> None:
    """Learn the built-in Earth's encoders: both of `tilebeam index --photo-encoder` and `--map-encoders`."""
    with ending_well("the same command goes on from the last saved step"):
        import torch

        from indexer.builtin.finish import calibrate, describe
        from indexer.builtin.train import BuiltinTraining
        from retrieval.encoders.open_clip import builtin_directory

        torch.set_num_threads(threads)
        path = recipe or builtin_directory() / "recipe.json"
        chosen = _read(path, share, leave_out)
        encoders = BuiltinTraining(chosen, out, _show).run()
        numbers = calibrate(chosen, encoders, out / "index")
        describe(path, {"share": share, "leave_out": leave_out}, encoders, numbers, out / "log.jsonl")
        typer.echo(json.dumps({"encoders": str(encoders), "index": str(out / "index"), "calibration": numbers}))


def _margins(given: list[str]) -> dict[int, float]:
    try:
        return {int(z): float(margin) for z, _, margin in (text.partition("=") for text in given)}
    except ValueError as exc:
        raise typer.BadParameter(f"--context {' '.join(given)}: give ZOOM=WIDTHS, such as 8=0.25") from exc


def _ratio(text: str) -> tuple[int, int, int]:
    from indexer.photos.splits import parse_ratio

    try:
        train, validation, test = parse_ratio(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--split-ratio {exc}") from exc
    if min(train, validation, test) < 0 or not train or not validation:
        raise TrainingError(f"--split-ratio {text}: train and validation must be above 0, test 0 or more")
    return train, validation, test


def _read(path: Path, share: float, leave_out: str | None) -> Any:
    from indexer.builtin.recipe import Recipe
    from retrieval.errors import EncoderError

    try:
        return Recipe.read(path).reduced(share, leave_out)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EncoderError) as exc:
        said = f"it lacks {exc}" if isinstance(exc, KeyError) else str(exc)
        say(f"tilebeam: {path} is no recipe to train by: {said}")
        raise typer.Exit(2) from exc


def _show(entry: dict[str, Any]) -> None:
    print(" ".join(f"{k}={v}" for k, v in entry.items()), file=sys.stderr, flush=True)
