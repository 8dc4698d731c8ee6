"""The commands `prior geoclip` and `prior density`: directories that `calibrate --prior NAME=DIR` takes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.shared_options import AsJson, Images, LatitudeColumn, Layout, LongitudeColumn, Split
from indexer.cli.terminal import ending_well, say

__all__ = ["register"]

Out = Annotated[Path, typer.Option(help="The prior's folder; what is there is replaced.")]

prior = typer.Typer(name="prior", help="Make a prior that needs no training, with settings.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(prior)


@prior.command("geoclip")
def geoclip(
    out: Out,
    weighting: Annotated[str, typer.Option(help="What a logit is weighed by: gallery or area.")] = "gallery",
    temperature: Annotated[float, typer.Option(help="Logits are divided by it.")] = 1.0,
    finest_zoom: Annotated[int, typer.Option(help="The deepest zoom at which GeoCLIP is asked.")] = 14,
) -> None:
    """Settings for GeoCLIP; unless they are to differ from these, `--prior geoclip` alone will do."""
    with ending_well("nothing was written"):
        from retrieval.priors.geoclip import GeoclipPrior, GeoclipSettings

        settings = GeoclipSettings(weighting, temperature, finest_zoom=finest_zoom)  # type: ignore[arg-type]
        GeoclipPrior.write(out, settings)
        say(f"{out}: GeoCLIP, weighed by {weighting}, temperature {temperature:g}")


@prior.command("density")
def density(
    out: Out,
    photos: Annotated[
        Path | None, typer.Option(help="A table or folder of photos with places.", show_default="GeoCLIP's gallery")
    ] = None,
    split: Split = "train",
    images: Images = None,
    layout: Layout = "auto",
    latitude_column: LatitudeColumn = None,
    longitude_column: LongitudeColumn = None,
    as_json: AsJson = False,
) -> None:
    """Where photos are taken, by the places of a photo set (its split `train`, where it has splits)."""
    with ending_well("nothing was written"):
        from indexer.photos.read import ReadOptions, read_photos
        from retrieval.priors.density import DensityPrior
        from retrieval.priors.geoclip_data import gallery

        if photos is None:
            lat, lng = gallery().T
        else:
            options = ReadOptions(layout, images, None, latitude_column, longitude_column)
            found = read_photos(photos, options)
            kept = [split in (None, own) for own in found.split or [split] * len(found)]
            lat, lng = found.lat[kept], found.lng[kept]
        DensityPrior.write(out, lat, lng)
        say(f"{out}: the density of {len(lat):,} photos")
        if as_json:
            typer.echo(json.dumps({"out": str(out), "photos": len(lat)}))
