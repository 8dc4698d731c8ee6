"""The commands `plan`, `fetch`, `index` and `inspect`: parse, call, print."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from indexer.build.area import cache_file, coverage_of, open_cache, reach_of
from indexer.build.estimate import EncoderFacts, Estimate, make_plan, measured_rate, tile_bytes
from indexer.build.report import fetch_in_words, plan_in_words, report_in_words
from indexer.build.request import BuildReport, BuildRequest, Encoders, RowsRequest
from indexer.cli.shared_options import (
    SOURCE,
    AsJson,
    Bbox,
    Cache,
    Concurrency,
    Contact,
    DeepGeoJson,
    Device,
    GeoJson,
    Land,
    Maps,
    Overlay,
    Photo,
    Rate,
    Source,
    World,
    Zooms,
    area_of,
    fetch_settings,
    zooms_of,
)
from indexer.cli.terminal import Bars, ending_well, say
from indexer.errors import BuildError
from indexer.progress import Progress
from tile_cache.fetch.settings import FetchSettings
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
from tile_cache.source import TileSource
from tile_cache.xyz import XyzSource

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Mount this package's commands."""
    for name, command in (("plan", plan), ("fetch", fetch), ("index", index), ("inspect", inspect)):
        app.command(name)(command)


def plan(
    source: Source,
    zooms: Zooms,
    overlay: Overlay = None,
    world: World = False,
    bbox: Bbox = None,
    geojson: GeoJson = None,
    deep_geojson: DeepGeoJson = None,
    land: Land = None,
    cache: Cache = None,
    photo_encoder: Photo = "builtin",
    map_encoders: Maps = None,
    codec: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    dim: Annotated[int | None, typer.Option(help="Components of a vector, where the encoder is not at hand.")] = None,
    tile_size: Annotated[
        int | None, typer.Option("--tile-bytes", help="Bytes of a tile; else measured in the cache.")
    ] = None,
    rate: Rate = None,
    embed_rate: Annotated[float | None, typer.Option(help="Tiles embedded a second; else no hours are told.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Load the encoders and measure that rate here.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Tiles, bytes, hours and disk for a coverage, before anything is fetched."""
    with ending_well("nothing was begun"), ExitStack() as stack:
        area = area_of(world, bbox, geojson, deep_geojson, land)
        opened = open_source(source)
        coverage = coverage_of(area, zooms_of(zooms), opened)
        over = None if overlay is None else open_source(overlay)
        store = _existing_cache(stack, cache, opened)
        made = make_plan(
            coverage,
            opened,
            EncoderFacts.read(photo_encoder, map_encoders, dim),
            store=store,
            tile_bytes=tile_bytes(tile_size, store, coverage),
            fetch_rate=Estimate(rate, "given") if rate else Estimate(FetchSettings().rate_per_s, "default"),
            embed_rate=_embed_rate(embed_rate, measure, coverage.zooms[-1], photo_encoder, map_encoders, device),
            component_bytes=4 if codec == "fp32" else 2,
            overlay=over,
            overlay_store=_existing_cache(stack, cache, over, overlay=True),
        )
        typer.echo(json.dumps(made.to_json()) if as_json else "\n".join(plan_in_words(made)))


def fetch(
    source: Source,
    zooms: Zooms,
    overlay: Overlay = None,
    world: World = False,
    bbox: Bbox = None,
    geojson: GeoJson = None,
    deep_geojson: DeepGeoJson = None,
    land: Land = None,
    cache: Cache = None,
    photo_encoder: Photo = "builtin",
    map_encoders: Maps = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    contact: Contact = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask again for tiles that are past their time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill a tile cache for a coverage, margins included."""
    from indexer.build.fetch import fetch_coverage, fetch_summary, tiles_to_read

    with ending_well("the same command goes on from here"), ExitStack() as stack:
        opened = open_source(source)
        servers = _servers(opened, None if overlay is None else open_source(overlay))
        coverage = coverage_of(area_of(world, bbox, geojson, deep_geojson, land), zooms_of(zooms), opened)
        contexts = EncoderFacts.read(photo_encoder, map_encoders).contexts
        reach = {z: reach_of(contexts.get(z, 0.0)) for z in coverage.zooms}
        settings = fetch_settings(rate, concurrency, contact, refresh)
        bars = stack.enter_context(Bars())
        summaries = []
        for server, is_overlay in servers:
            path = cache_file(cache, server.info, overlay=is_overlay)
            store = stack.enter_context(open_cache(path, server.info))
            total = sum(tiles_to_read(coverage, reach, server.info).values())
            show = bars.fetching(server.info.name, total)
            report = fetch_coverage(server, store, coverage, reach, settings, show)
            summaries.append(fetch_summary(server, report) | {"cache": str(path)})
    for summary in summaries:
        say(fetch_in_words(summary))
        if as_json:
            typer.echo(json.dumps(summary))


def index(
    out: Annotated[Path, typer.Option(help="The index directory to make.")],
    zooms: Zooms,
    source: Annotated[str | None, SOURCE] = None,
    overlay: Overlay = None,
    world: World = False,
    bbox: Bbox = None,
    geojson: GeoJson = None,
    deep_geojson: DeepGeoJson = None,
    land: Land = None,
    photo_encoder: Photo = "builtin",
    map_encoders: Maps = None,
    codec: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    cache: Cache = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    contact: Contact = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another index at --out.")] = False,
    rows_only: Annotated[
        bool,
        typer.Option("--rows-only", help="Tiles without vectors, in seconds: a prior answers. --source: for --land."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch what is missing, embed, and write an index; run it again to go on after whatever ended it."""
    with ending_well("the same command goes on from here"):
        if rows_only:
            area = area_of(world, bbox, geojson, deep_geojson, land)
            _tell(_rows(RowsRequest(out, zooms_of(zooms), area, source, overwrite)), as_json)
            return
        if source is None:
            raise typer.BadParameter("name what the tiles come from, or take --rows-only", param_hint="--source")
        request = BuildRequest(
            source=source,
            overlay=overlay,
            out=out,
            zooms=zooms_of(zooms),
            area=area_of(world, bbox, geojson, deep_geojson, land),
            photo_encoder=photo_encoder,
            map_encoders=map_encoders,
            device=device,
            codec=codec,
            cache=cache,
            fetch=fetch_settings(rate, concurrency, contact, False),
            overwrite=overwrite,
            calibration=builtin_calibration() if photo_encoder == "builtin" and map_encoders is None else None,
        )
        from indexer.build.build import build_index  # loads torch by and by, which `plan` and `inspect` do not need

        with Bars() as bars:
            report = build_index(request, on_progress=bars)
    _tell(report, as_json)


def inspect(
    directory: Annotated[Path, typer.Argument(help="An index.", metavar="DIR")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every file's checksum and every list.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is in an index."""
    from indexer.build.inspection import describe_index, in_words

    with ending_well("nothing was changed"):
        if verify:
            _verify(directory)
        facts = describe_index(directory)
        typer.echo(json.dumps(facts) if as_json else "\n".join(in_words(facts)))


def _rows(request: RowsRequest) -> BuildReport:
    from indexer.build.rows_only import build_rows  # loads FAISS

    with Bars() as bars:
        return build_rows(request, on_progress=bars)


def _tell(report: BuildReport, as_json: bool) -> None:
    for line in report_in_words(report):
        say(line)
    if as_json:
        typer.echo(json.dumps(report.to_json()))


def _verify(directory: Path) -> None:
    from retrieval.index.manifest import Manifest
    from retrieval.verify import verify

    total, done = sum(f.bytes for f in Manifest.read(directory).files), 0

    def on_file(name: str, size: int) -> None:
        nonlocal done
        done += size
        bars(Progress("write", "Verifying (bytes)", done, total))

    with Bars() as bars:
        wrong = verify(directory, on_file)
    for line in wrong:
        say(f"tilebeam: {line}")
    if wrong:
        raise typer.Exit(1)
    say(f"{directory}: every file and every list is as the manifest says")


def _servers(source: TileSource | XyzSource, overlay: TileSource | XyzSource | None) -> list[tuple[XyzSource, bool]]:
    """What has to be fetched, each with whether it is the overlay."""
    found = [(s, s is overlay) for s in (source, overlay) if isinstance(s, XyzSource)]
    if not found:
        raise BuildError(f"{source.info.name} is on this machine already: there is nothing to fetch")
    return found


def _embed_rate(
    given: float | None, measure: bool, zoom: int, photo_encoder: str, map_encoders: Path | None, device: str
) -> Estimate | None:
    if not measure:
        return Estimate(given, "given") if given else None
    from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder

    photo = PhotoEncoder.load(photo_encoder, device=device)
    return measured_rate(Encoders(photo, MapEncoders.load(map_encoders, photo)), zoom)


def _existing_cache(
    stack: ExitStack, cache: Path | None, source: TileSource | XyzSource | None, *, overlay: bool = False
) -> TileStore | None:
    """The cache of a source that needs one, if it is there already."""
    if not isinstance(source, XyzSource):
        return None
    path = cache_file(cache, source.info, overlay=overlay)
    return stack.enter_context(TileStore.open(path, source.info, read_only=True)) if path.exists() else None


def builtin_calibration() -> Path:
    from importlib import resources

    return Path(str(resources.files("indexer.builtin").joinpath("calibration.json")))
