"""Learning from features of known structure: the trained model finds the clusters again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from known_structure import Known, known_features

from indexer.geocells.model.features import TableFeatures
from indexer.geocells.model.task import GeocellTask, LabelledSplit
from indexer.geocells.model.train import cluster_embeddings, fit_temperature, training_loop, write_model
from indexer.geocells.settings import GeocellSettings, Pace
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.priors.geocells import GeocellModel
from retrieval.sphere import great_circle_km


def task_of(known: Known, settings: GeocellSettings) -> tuple[GeocellTask, np.ndarray]:
    """A task that trains on two thirds of the photos and validates on one; and the rows of the validation photos."""
    rows = np.arange(len(known.cluster))
    held = rows // len(known.partition.clusters) % 3 == 2
    train, validation = (LabelledSplit.of(known.split(rows[chosen]), known.partition) for chosen in (~held, held))
    features = TableFeatures(known.features, torch.device("cpu"))
    return GeocellTask(settings, known.partition, train, validation, features, None), rows[held]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_training_finds_the_clusters_again(tmp_path: Path, alpha: float) -> None:
    known = known_features(photos=30)
    settings = GeocellSettings(Pace(epochs=10, batch=32), lr_encoder=0, lr_heads=5e-3, alpha=alpha, geo_dim=32, top=2)
    task, held = task_of(known, settings)
    before = task.validate()
    reached = training_loop(task, settings.pace, tmp_path).run()
    after = reached.history[-1]
    assert before["val_accuracy"] < 0.5 < 0.93 < after["val_accuracy"]
    assert after["val_mean_km"] < 200 < before["val_mean_km"]

    answers = _model(task, known, tmp_path).answer(known.features[held])
    assert np.mean([a.cluster == known.cluster[row] for a, row in zip(answers, held, strict=True)]) > 0.95
    lat, lng = known.lat_lng[held].T
    km = great_circle_km(np.array([a.lng for a in answers]), np.array([a.lat for a in answers]), lng, lat)
    assert np.median(km) < 80


def _model(task: GeocellTask, known: Known, folder: Path) -> GeocellModel:
    """The task's model, written and read. The features are known, so any encoder will do."""
    encoder = PhotoEncoder.load("builtin", device="cpu")
    encoder.dim = known.features.shape[1]
    write_model(folder / "model", task, known.partition, encoder, {})
    return GeocellModel.load(folder / "model")


def test_numpy_heads_equal_the_trained_heads(tmp_path: Path) -> None:
    known = known_features(photos=6)
    task, held = task_of(known, GeocellSettings(Pace(batch=16), lr_encoder=0, geo_dim=24))
    model = _model(task, known, tmp_path)
    with torch.no_grad():
        output = task.heads(torch.from_numpy(known.features[held]))
    for level, logits in (("cells", output.cells), ("clusters", output.clusters)):
        scaled = torch.log_softmax(logits / model.temperatures[level], dim=1).numpy()
        np.testing.assert_allclose(model.log_probabilities(known.features[held], level), scaled, atol=2e-5)
    np.testing.assert_allclose(model.embed(known.features[held]), output.embedding.numpy(), atol=2e-5)


def test_cluster_without_photos_has_an_embedding_of_zeros() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, -1.0]])
    embeddings = cluster_embeddings(rows, torch.tensor([0, 0, 2]), 4)
    half = 0.5**0.5
    torch.testing.assert_close(embeddings, torch.tensor([[half, half], [0, 0], [0, -1], [0, 0]]))


@pytest.mark.parametrize("true_t", [0.25, 1.0, 6.0])
def test_fitted_temperature_is_the_one_that_labels_were_drawn_with(true_t: float) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (20_000, 6)))
    chances = torch.softmax(logits / true_t, dim=1)
    own = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert fit_temperature(logits, own) == pytest.approx(true_t, rel=0.05)
