"""Splits: groups stay together for any order of the rows, and shares follow the ratio."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from damaged import encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from indexer.errors import PhotoSetError
from indexer.photos.duplicates import MAX_BITS, components, dhash, near_duplicates
from indexer.photos.photo_set import PhotoSet
from indexer.photos.splits import SPLIT_ZOOM, SplitPlan, parse_ratio, split
from retrieval.pictures.photo import decode_photo
from tile_cache.addressing import codes_at


def photo_set(n: int, seed: int = 0, spread: float = 80.0) -> PhotoSet:
    rng = np.random.default_rng(seed)
    names = tuple(f"{i:05}.jpg" for i in range(n))
    lng, lat = rng.uniform(-spread, spread, n), rng.uniform(-spread, spread, n)
    return PhotoSet(tuple(f"/photos/{name}" for name in names), names, lng, lat)


def random_hashes(n: int, seed: int = 0) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def flipped(hash_: int, *bits: int) -> int:
    for bit in bits:
        hash_ ^= 1 << bit
    return hash_


def parts(photos: PhotoSet) -> dict[str, str]:
    assert photos.split is not None
    return dict(zip(photos.names, photos.split, strict=True))


def groups_of(hashes: NDArray[np.uint64], places: NDArray[np.uint64] | None = None) -> list[list[int]]:
    places = np.zeros(len(hashes), np.uint64) if places is None else places
    labels = components(len(hashes), *near_duplicates(hashes, places))
    return [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]


def test_shares_are_ten_to_one_to_one() -> None:
    counts = Counter(parts(split(photo_set(12_000), None)).values())
    assert counts["train"] == pytest.approx(10_000, abs=130)  # 4 standard deviations of hashing
    assert counts["validation"] == pytest.approx(1_000, abs=120)
    assert counts["test"] == pytest.approx(1_000, abs=120)


def test_shares_hold_over_groups_of_any_size() -> None:
    """The minimum of many hashes is small: without mixing, all large groups would go to training."""
    hashes = np.repeat(random_hashes(3_000), 5)
    counts = Counter(parts(split(photo_set(15_000), hashes)).values())
    assert counts["train"] / 15_000 == pytest.approx(10 / 12, abs=0.03)


@given(seed=st.integers(0, 10_000), order=st.randoms(use_true_random=False), geographic=st.booleans())
@settings(max_examples=30)
def test_row_order_does_not_change_the_split(seed: int, order: object, geographic: bool) -> None:
    photos, hashes = photo_set(60, seed, spread=8.0), random_hashes(60, seed)
    hashes[::7] = hashes[0] ^ np.uint64(3)
    shuffled = np.random.default_rng(seed).permutation(60)
    plan = SplitPlan(seed=seed, geographic=geographic)
    assert parts(split(photos, hashes, plan)) == parts(split(photos.take(shuffled), hashes[shuffled], plan))


def test_split_depends_only_on_the_seed() -> None:
    photos = photo_set(400)
    assert parts(split(photos, None)) == parts(split(photos, None))
    assert parts(split(photos, None)) != parts(split(photos, None, SplitPlan(seed=1)))


def test_added_photos_do_not_move_the_others() -> None:
    before = parts(split(photo_set(300).take(np.arange(200)), random_hashes(200)))
    after = parts(split(photo_set(300), random_hashes(300)))
    assert after.items() >= before.items()


@given(st.data())
@settings(max_examples=40)
def test_geographic_split_keeps_tiles_whole(data: st.DataObject) -> None:
    n = data.draw(st.integers(20, 80))
    degrees = st.floats(-84, 84) | st.sampled_from([0.0, 1.40625, -1.40625, 0.7, 84.9, np.nan])  # edges of tiles, too
    lng, lat = (np.array(data.draw(st.lists(degrees, min_size=n, max_size=n))) for _ in range(2))
    lng[np.isnan(lat)] = lat[np.isnan(lng)] = np.nan
    hashes = random_hashes(n, n)
    hashes[: n // 4] = hashes[n // 2 : n // 2 + n // 4]  # copies elsewhere tie tiles together
    names = tuple(map(str, range(n)))
    photos = PhotoSet(names, names, lng, lat)
    try:
        result = split(photos, hashes, SplitPlan(geographic=True))
    except PhotoSetError as exc:
        assert "must stay together" in str(exc)  # noqa: PT017 - some examples have too few tiles
        return
    some = np.isfinite(lng)
    part = np.array(result.split)[some]
    tiles = codes_at(lng[some], lat[some], SPLIT_ZOOM)
    assert all(len(set(part[tiles == tile])) == 1 for tile in np.unique(tiles))
    assert np.array(result.split)[: n // 4].tolist() == np.array(result.split)[n // 2 : n // 2 + n // 4].tolist()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_near_duplicates_equal_brute_force_over_all_pairs(seed: int) -> None:
    """Against brute force, on hashes that are dense enough to have neighbours at 3, 4, 5 and 6 bits."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 2**64, 6, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (60, 3), dtype=np.uint64), axis=1)
    hashes = seeds[rng.integers(0, 6, 60)] ^ flips
    close = [(i, j) for i, j in combinations(range(60), 2) if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= MAX_BITS]
    a, b = np.array(close, dtype=np.intp).reshape(-1, 2).T
    assert components(60, *near_duplicates(hashes, np.zeros(60, np.uint64))).tolist() == components(60, a, b).tolist()


def test_four_differing_bits_join_and_five_do_not() -> None:
    rng, base = np.random.default_rng(0), 0x0F1E2D3C4B5A6978
    for _ in range(200):
        bits = rng.choice(64, MAX_BITS + 1, replace=False).tolist()
        hashes = np.array([base, flipped(base, *bits[:-1]), flipped(base ^ (2**64 - 1))], dtype=np.uint64)
        assert groups_of(hashes) == [[0, 1], [2]]
        assert groups_of(np.array([base, flipped(base, *bits)], dtype=np.uint64)) == [[0], [1]]


def test_chain_of_near_duplicates_is_one_group() -> None:
    chain = [0x0F1E2D3C4B5A6978]
    for step in range(12):
        chain.append(flipped(chain[-1], *(4 * step + i for i in range(4))))
    order = np.random.default_rng(0).permutation(13)
    assert groups_of(np.array(chain, dtype=np.uint64)[order]) == [list(range(13))]


def test_flat_pictures_are_not_near_duplicates() -> None:
    flat = [dhash(Image.new("RGB", (40, 30), (g, g, g))) for g in (0, 90, 255)]
    ramp = Image.linear_gradient("L").rotate(90).convert("RGB")  # brighter to one side everywhere
    assert flat == [0, 0, 0]
    hashes = np.array([*flat, dhash(ramp), dhash(ramp)], dtype=np.uint64)
    assert groups_of(hashes) == [[i] for i in range(5)]


def test_common_look_is_split_by_place_but_copies_stay_together() -> None:
    """500 horizons, each within 4 bits of another: a chain through the set, of which only some were taken together."""
    rng = np.random.default_rng(0)
    pattern = 0x0F1E2D3C4B5A6978
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (500, 2), dtype=np.uint64), axis=1)
    hashes = np.concatenate([np.uint64(pattern) ^ flips, random_hashes(500)])
    places = np.arange(1000, dtype=np.uint64)
    places[:10] = 5  # a burst at one place
    hashes[20] = hashes[499]  # a copy at another
    groups = groups_of(hashes, places)
    assert list(range(10)) in groups
    assert any({20, 499} <= set(group) for group in groups)
    assert max(map(len, groups)) < 20


def test_only_copies_have_near_hashes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    originals = [picture(rng, 256) for _ in range(40)]
    hashes = [dhash(image) for image in originals]
    for image, own in zip(originals, hashes, strict=True):
        small = image.resize((120, 120), Image.Resampling.LANCZOS)
        copies = [
            decode_photo(encoded(image, quality=60)),
            decode_photo(encoded(small, quality=85)),
            ImageEnhance.Brightness(image).enhance(0.9),
        ]
        assert all((dhash(copy) ^ own).bit_count() <= MAX_BITS for copy in copies)
    assert min((a ^ b).bit_count() for a, b in combinations(hashes, 2)) > 2 * MAX_BITS


def test_small_sets_fill_every_split() -> None:
    for n in range(3, 30):
        for seed in range(5):
            counts = Counter(parts(split(photo_set(n, seed), None, SplitPlan(seed=seed))).values())
            assert set(counts) == {"train", "validation", "test"}
    assert set(parts(split(photo_set(50), None, SplitPlan(ratio=(9, 1, 0)))).values()) == {"train", "validation"}
    assert set(parts(split(photo_set(1), None, SplitPlan(ratio=(0, 0, 1)))).values()) == {"test"}


def test_impossible_split_raises_with_the_reason() -> None:
    names = ("a", "b", "c", "d")
    city = PhotoSet(names, names, np.full(4, 2.35), np.linspace(48.8, 48.9, 4))
    with pytest.raises(PhotoSetError, match="1 groups of photos that must stay together cannot fill 3 splits"):
        split(city, None, SplitPlan(geographic=True))
    for ratio in [(0, 0, 0), (1, -1, 1), (1, 1)]:
        with pytest.raises(PhotoSetError, match="give three shares"):
            SplitPlan(ratio=ratio)  # type: ignore[arg-type]


def test_hundred_thousand_rows_are_split() -> None:
    """Half of the hashes are similar, so buckets are far from even; comparing every pair would take hours."""
    n = 100_000
    hashes, rng = random_hashes(n), np.random.default_rng(1)
    hashes[: n // 2] = np.uint64(0x0F0F0F0F0F0F0F0F) ^ (
        np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (n // 2, 8), dtype=np.uint64), axis=1)
    )
    assert len(split(photo_set(n), hashes, SplitPlan(geographic=True))) == n


def test_ratio_is_parsed_or_refused_with_an_example() -> None:
    assert parse_ratio("10:1:0") == (10, 1, 0)
    for text in ("10:1", "a:b:c", "1.5:1:1"):
        with pytest.raises(ValueError, match="such as 10:1:1"):
            parse_ratio(text)
