"""A geocell model's answers and beliefs, with heads that are set by hand."""

from pathlib import Path

import numpy as np
import pytest
from known_structure import known_partition

from retrieval.errors import PriorError
from retrieval.priors.geocells import ClusterSpread, GeocellModel, GeocellPrior, unit_rows
from retrieval.priors.partition import Partition
from retrieval.testing.fake import FakePhotoEncoder
from tile_cache.addressing import area_shares, centres_of_codes, codes_at

DIM = 24


@pytest.fixture(scope="module")
def partition() -> Partition:
    """Six cells of three clusters."""
    return known_partition()


def model_of(partition: Partition, unknown: tuple[int, ...] = (), temperature: float = 1.0) -> GeocellModel:
    """Feature i is the logit of cluster i and adds to that of its cell; the geo-embedding is the feature itself."""
    count, cells = len(partition.clusters), len(partition.cells)
    embeddings = np.eye(count, DIM, dtype=np.float32)
    embeddings[list(unknown)] = 0
    of_cells = np.zeros((cells, DIM), np.float32)
    of_cells[partition.clusters["cell"], np.arange(count)] = 1
    tensors = {
        "embedding.weight": np.eye(DIM, dtype=np.float32),
        "embedding.bias": np.zeros(DIM),
        "cells.weight": of_cells,
        "cells.bias": np.zeros(cells),
        "clusters.weight": np.eye(count, DIM, dtype=np.float32),
        "clusters.bias": np.zeros(count),
        "cluster_embeddings": embeddings,
    }
    encoder = {"spec": "fake", "fingerprint": FakePhotoEncoder(DIM).fingerprint, "dim": DIM, "inside": False}
    config = {"encoder": encoder, "temperature": {"cells": temperature, "clusters": temperature}, "top": 2}
    config |= {"partition": partition.fingerprint, "spread": "photos", "fingerprint": "f"}
    return GeocellModel(config, tensors, partition, Path("here"))


def cells_of_tiles(partition: Partition, codes: np.ndarray) -> np.ndarray:
    """The cells that hold the centres of tiles of zoom 8."""
    lng, lat = centres_of_codes(codes, 8)
    return partition.cell_of(lat, lng)


def photos(partition: Partition) -> np.ndarray:
    """One of each cluster."""
    return np.eye(len(partition.clusters), DIM, dtype=np.float32)


def test_answer_is_the_centroid_of_the_nearest_cluster_embedding(partition: Partition) -> None:
    answers = model_of(partition).answer(photos(partition))
    assert [a.cluster for a in answers] == list(range(18))
    assert [a.cell for a in answers] == partition.clusters["cell"].tolist()
    np.testing.assert_allclose([(a.lat, a.lng) for a in answers], partition.cluster_centres)


def test_only_clusters_of_the_likeliest_cells_compete(partition: Partition) -> None:
    """The embedding is nearest to a cluster of cell 5, and cell 0 is likeliest: with `top` 1 cell 0 answers."""
    model = model_of(partition)
    features = np.zeros((1, DIM), np.float32)
    features[0, [0, 1, 2, 17]] = 0.5, 0.5, 0.4, 0.6  # cell 0 by the sum, cluster 17 by the single number
    features = unit_rows(features)
    assert model.answer(features, top=1)[0].cell == 0
    assert model.answer(features, top=6)[0].cluster == 17


def test_cell_without_cluster_embeddings_answers_with_its_own_centroid(partition: Partition) -> None:
    answer = model_of(partition, unknown=(3, 4, 5)).answer(photos(partition)[4:5], top=1)[0]
    assert (answer.cluster, answer.cell) == (-1, 1)
    assert (answer.lat, answer.lng) == pytest.approx(tuple(partition.centroids[1]))


@pytest.mark.parametrize("spread", ["photos", "area", "clusters"])
def test_belief_puts_the_mass_of_cells_on_their_tiles(partition: Partition, spread: str) -> None:
    model = model_of(partition, temperature=0.5)
    prior = GeocellPrior(model, FakePhotoEncoder(DIM), spread=spread)  # type: ignore[arg-type]
    features = photos(partition)[[0, 16]]
    beliefs = prior.beliefs(features)
    codes = np.arange(4**8, dtype=np.uint64)
    masses = [np.exp(belief.log_mass(codes, 8).astype(np.float64)) for belief in beliefs]
    assert [mass.sum() for mass in masses] == pytest.approx([1, 1], rel=1e-4)
    owner = cells_of_tiles(partition, codes)
    of_cells = [np.bincount(owner, mass, len(partition.cells)) for mass in masses]
    wanted = np.exp(model.log_probabilities(features))
    if spread == "clusters":
        by_cluster = np.exp(model.log_probabilities(features, "clusters"))
        wanted = np.stack([np.bincount(partition.clusters["cell"], row) for row in by_cluster])
    np.testing.assert_allclose(of_cells, wanted, atol=0.02)  # tiles on borders count as their centre's cell
    assert beliefs[1].best() == pytest.approx(tuple(partition.cluster_centres[16][::-1]))


def test_spread_by_area_is_even_and_by_photos_is_not(partition: Partition) -> None:
    model = model_of(partition)
    codes = np.arange(4**8, dtype=np.uint64)
    inside = codes[cells_of_tiles(partition, codes) == 2]
    at = codes_at(partition.clusters["lng"][6:7], partition.clusters["lat"][6:7], 8)

    def density(spread: str, tiles: np.ndarray) -> np.ndarray:
        prior = GeocellPrior(model, FakePhotoEncoder(DIM), spread=spread)  # type: ignore[arg-type]
        belief = prior.beliefs(photos(partition)[6:7])[0]
        return np.asarray(np.exp(belief.log_mass(tiles, 8).astype(np.float64)) / area_shares(tiles, 8))

    even = density("area", inside)
    assert even.std() / even.mean() < 1e-3
    assert density("photos", at)[0] > 10 * density("photos", inside).mean()
    assert density("clusters", at)[0] > 1.5 * density("area", at)[0]


def test_cluster_spread_keeps_the_probability_of_each_cluster(partition: Partition) -> None:
    spread, count = ClusterSpread(partition), len(partition.clusters)
    codes = np.arange(4**8, dtype=np.uint64)
    for cluster in (0, 7, count - 1):
        mass = spread.mass(np.eye(count)[cluster])
        assert mass.sum() == pytest.approx(1)
        heaviest = codes[mass > 0.5 * mass.max()]
        assert (cells_of_tiles(partition, heaviest) == partition.clusters["cell"][cluster]).mean() > 0.9


def test_prior_uses_its_own_encoder_unless_the_index_has_the_same(partition: Partition) -> None:
    model = model_of(partition)
    assert GeocellPrior(model, FakePhotoEncoder(DIM)).encoder is None
    own = FakePhotoEncoder(DIM)
    model.__dict__["encoder"] = own  # as though loaded
    assert GeocellPrior(model, FakePhotoEncoder(DIM, seed=1)).encoder is own
    assert GeocellPrior(model, None).encoder is own


def test_features_of_another_width_are_refused(partition: Partition) -> None:
    with pytest.raises(PriorError, match=r"\(n, 24\)"):
        model_of(partition).answer(np.zeros((2, 12), np.float32))
