"""The commands `prior geoclip` and `prior density`: directories for `calibrate --prior NAME=DIR`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.options import Fields, command, flag
from indexer.cli.shared_options import PHOTOS_PANEL, AsJson, Split
from indexer.cli.terminal import say
from indexer.photos.read import ReadOptions, read_photos
from retrieval.priors.density import DensityPrior
from retrieval.priors.geoclip import GeoclipPrior, GeoclipSettings
from retrieval.priors.geoclip_data import gallery

__all__ = ["register"]

Out = Annotated[Path, typer.Option(help="The prior's folder; an old prior in it is replaced.")]
Reading = Annotated[ReadOptions, Fields("layout", "images", "latitude_column", "longitude_column", panel=PHOTOS_PANEL)]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    group = typer.Typer(help="Make a prior that needs no training.", no_args_is_help=True)
    command(group, go_on="nothing was written")(geoclip)
    command(group, go_on="nothing was written")(density)
    app.add_typer(group, name="prior")


def geoclip(
    settings: Annotated[GeoclipSettings, Fields("weighting", "temperature", "finest_zoom", weighting=flag(kind=str))],
    out: Out,
) -> None:
    """Write settings for GeoCLIP. With the default settings, `calibrate --prior geoclip` alone is enough."""
    GeoclipPrior.write(out, settings)
    say(f"{out}: GeoCLIP, weighting {settings.weighting}, temperature {settings.temperature:g}")


def density(
    out: Out,
    reading: Reading,
    photos: Annotated[
        Path | None, typer.Option(help="A table or folder of photos with places.", show_default="GeoCLIP's gallery")
    ] = None,
    split: Split = "train",
    as_json: AsJson = False,
) -> None:
    """Write the density of a photo set's places (of its split `train`, if it has splits)."""
    if photos is None:
        lat, lng = gallery().T
    else:
        photo_set = read_photos(photos, reading)
        chosen = [split in (None, own) for own in photo_set.split or [split] * len(photo_set)]
        lat, lng = photo_set.lat[chosen], photo_set.lng[chosen]
        for reason, count in photo_set.summary().items():
            say(f"{count:,} rows not used: {reason}")
    DensityPrior.write(out, lat, lng)
    say(f"{out}: the density of {len(lat):,} photos")
    if as_json:
        typer.echo(json.dumps({"out": str(out), "photos": len(lat)}))
