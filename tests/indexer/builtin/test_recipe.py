"""Recipes: the committed one, reduced ones, and invalid ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from indexer.builtin.finish import last_logged
from indexer.builtin.recipe import Recipe
from indexer.cli.train import register
from retrieval.encoders.open_clip import build_tower, builtin_directory
from retrieval.index.calibration import Calibration
from retrieval.registration.accept import BUILT_IN

COMMITTED = builtin_directory() / "recipe.json"
Change = Callable[[dict[str, Any]], object]


def train(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_committed_recipe_is_valid() -> None:
    recipe = Recipe.read(COMMITTED)
    assert recipe.zooms == (4, 6, 8)
    assert set(recipe.products) == {"bmng", "shadedrelief", "etopo1"}
    assert build_tower(recipe.architecture).image_size == (recipe.preprocess.size,) * 2


def test_reduced_recipe_has_fewer_steps_and_products() -> None:
    whole = Recipe.read(COMMITTED)
    part = whole.reduced(0.25, "shadedrelief")
    assert part.products == ("bmng", "etopo1")
    assert part.photo.steps == int(whole.photo.steps * 0.25)
    assert part.maps.steps == {z: int(n * 0.25) for z, n in whole.maps.steps.items()}
    assert (part.tune.steps, part.ramp) == (int(whole.tune.steps * 0.25), int(whole.ramp * 0.25))
    assert (part.seed, part.architecture, part.style) == (whole.seed, whole.architecture, whole.style)
    assert min(whole.reduced(0.0001).maps.steps.values()) == 1
    assert whole.reduced(1.0) == whole


def test_product_that_is_missing_cannot_be_left_out() -> None:
    recipe = Recipe.read(COMMITTED)
    with pytest.raises(ValueError, match="no product 'mars'; it has bmng"):
        recipe.reduced(1, "mars")
    with pytest.raises(ValueError, match="only product"):
        recipe.reduced(1, "bmng").reduced(1, "etopo1").reduced(1, "shadedrelief")


WRONG: dict[str, tuple[Change, str]] = {
    "no seed": (lambda v: v.pop("seed"), "lacks 'seed'"),
    "no steps": (lambda v: v["photo"].pop("steps"), "steps"),
    "a word": (lambda v: v.update(land="much"), "much"),
    "half a footprint": (lambda v: v.update(footprint_km=[200]), "index"),
    "zooms that fall": (lambda v: v.update(zooms=[8, 6, 4]), "must ascend"),
    "a zoom without steps": (lambda v: v["maps"]["steps"].pop("6"), "maps.steps must name the zooms"),
    "steps of no zoom": (lambda v: v["maps"]["steps"].update({"10": 5}), "maps.steps must name the zooms"),
    "context of no zoom": (lambda v: v["context"].update({"5": 1}), "context names a zoom"),
    "an unknown product": (lambda v: v.update(products=["bmng", "mars"]), "products must be of"),
    "no product": (lambda v: v.update(products=[]), "products must be of"),
    "another size": (lambda v: v["preprocess"].update(size=72), "is not the preprocessing's 72"),
    "odd patches": (lambda v: v["architecture"]["vision_cfg"].update(patch_size=7), "not a multiple"),
    "quick gelu": (lambda v: v["architecture"].update(quick_gelu=True), "make it false"),
    "too few queries": (lambda v: v.update(map_queries=5), "less than photo.batch"),
    "an unknown style": (lambda v: v["style"].update(fog=1), "fog"),
    "an unknown number": (lambda v: v["tune"].update(lr=1), "lr"),
    "no preprocessing": (lambda v: v["preprocess"].update(std=[0, 1, 1]), "unknown preprocessing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_recipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    change, said = WRONG[name]
    values = json.loads(COMMITTED.read_text())
    change(values)
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    result = train("--preset", "builtin", "--out", tmp_path / "out", "--recipe", tmp_path / "recipe.json")
    assert result.exit_code == 2
    assert f"{tmp_path / 'recipe.json'} is not a valid recipe: " in result.stderr
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"x"', None])
def test_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "recipe.json").write_text(text)
    result = train("--preset", "builtin", "--out", tmp_path / "out", "--recipe", tmp_path / "recipe.json")
    assert result.exit_code == 2, result.exception
    assert "is not a valid recipe" in result.stderr


def test_truncated_log_lines_are_ignored(tmp_path: Path) -> None:
    assert last_logged(tmp_path / "none.jsonl") == []
    lines = [
        '{"stage": "photo", "step": 100}',
        '{"stage": "photo", "st{"stage": "photo", "step": 150}',
        '{"stage": "photo", "step": 200}',
        '{"stage": "maps", "zoom": 4, "step": 100}',
        '{"stage": "maps", "zoom": 6, "step": 100}',
        "[]",
        '{"stage": "ma',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [(e["stage"], e.get("zoom"), e["step"]) for e in last_logged(tmp_path / "log.jsonl")] == [
        ("photo", None, 200),
        ("maps", 4, 100),
        ("maps", 6, 100),
    ]


def test_numbers_without_a_calibration_are_those_of_the_built_in_one() -> None:
    fitted = Calibration.read(builtin_directory()).registration
    assert fitted is not None
    assert fitted.acceptance == pytest.approx(BUILT_IN.to_json(), abs=1e-3)
    assert fitted.trust is not None
    assert fitted.error_quantiles is not None
