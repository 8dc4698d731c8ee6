"""Hostile input with the fake encoder: a short form of benchmarks/hostile.py, which sends ten thousand pictures."""

from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.hostile import attack, reference
from benchmarks.support.api_fuzzing import schemathesis
from benchmarks.support.mutations import Hostile, mutations, originals, tiny
from benchmarks.support.picture_parts import resized, split


@pytest.fixture(scope="module")
def victim(serving: Any, locator: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service with a map of one tile, and as many batches at a time as there are clients."""
    tiles = tmp_path_factory.mktemp("map")
    (tiles / "0" / "0").mkdir(parents=True)
    Image.new("RGB", (256, 256)).save(tiles / "0" / "0" / "0.png")
    with serving(locator, max_batches=4, caller_share=1.0, tiles=str(tiles)) as url:
        yield url


def test_damaged_pictures_change_nothing(victim: str) -> None:
    before = reference(victim, {})
    attack(victim, iter([tiny()] * 3), 1, [{}])
    assert reference(victim, {}) == before
    tally = attack(victim, mutations(7, 300, large=False), 4, [{}])
    assert tally.broken == []
    assert tally.pictures == 300
    assert {status for _, status in tally.statuses} == {200, 400, 413, 415}
    assert reference(victim, {}) == before
    assert httpx.get(f"{victim}/readyz").status_code == 200


@pytest.mark.slow
def test_openapi_document_holds_for_generated_requests(victim: str) -> None:
    code, said = schemathesis(victim, None, 3, "-n", "4")
    assert code == 0, said
    assert "Tested: 10" in said


def test_broken_answer_is_reported() -> None:
    """The attack reports a service that does not answer, and one that answers 500."""
    tally = attack("http://127.0.0.1:9", iter([tiny()]), 1, [{}])
    assert [picture for _, picture in tally.broken] == [tiny()]
    tally.count("form", 500, [tiny()], "internal")
    assert len(tally.broken) == 2


def test_mutations_are_reproducible_and_many_are_readable() -> None:
    made = list(mutations(5, 200, large=False))
    assert made == list(mutations(5, 200, large=False))
    assert made != list(mutations(6, 200, large=False))
    assert len({picture.data for picture in made}) > 170


@pytest.mark.parametrize("picture", originals(1), ids=lambda picture: picture.name)
def test_hostile_pictures_are_sent_alone_and_in_batches(picture: Hostile) -> None:
    head, pieces, tail = split(picture.data)
    assert head + b"".join(pieces) + tail == picture.data
    changed = resized(picture.data, 1234, 77)
    assert len(changed) == len(picture.data)
    assert changed != picture.data or picture.name.startswith(("BMP", "WEBP lossless"))
