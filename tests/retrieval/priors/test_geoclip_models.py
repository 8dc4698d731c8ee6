"""GeoCLIP's image encoder: the real loading code and the package's head, on a tiny random backbone."""

from pathlib import Path

import numpy as np
import pytest
from geoclip_stand_ins import tiny_clip
from PIL import Image

from retrieval.errors import EncoderError
from retrieval.priors.geoclip_models import GeoclipPhotos, weights


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def photos(clip: Path) -> GeoclipPhotos:
    return GeoclipPhotos.load(str(clip), "cpu")


def picture(seed: int, size: tuple[int, int] = (50, 37)) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def test_embeddings_equal_clip_and_the_packages_head(photos: GeoclipPhotos, clip: Path) -> None:
    """Compared with transformers' whole CLIP and the head's layers multiplied by hand."""
    import torch
    from transformers import CLIPModel

    batch = np.stack([photos.prepare(picture(seed)) for seed in range(3)])
    with torch.inference_mode():
        found = CLIPModel.from_pretrained(clip).get_image_features(pixel_values=torch.from_numpy(batch))
    features = getattr(found, "pooler_output", found).numpy()
    head = {name: tensor.numpy() for name, tensor in weights("image_encoder_mlp").items()}
    middle = np.maximum(features @ head["0.weight"].T + head["0.bias"], 0)
    expected = middle @ head["2.weight"].T + head["2.bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    rows = photos.encode(batch)
    assert rows.dtype == np.float32
    assert rows == pytest.approx(expected, abs=1e-5)
    assert photos.encode(batch[:0]).shape == (0, 512)


def test_preprocessing_equals_that_of_transformers(photos: GeoclipPhotos, clip: Path) -> None:
    """Up to crops that half a pixel decides: transformers rounds down, torchvision and this code to even."""
    from transformers import CLIPImageProcessor

    for size in ((60, 40), (32, 32), (20, 90)):
        image = picture(5, size)
        theirs = CLIPImageProcessor.from_pretrained(clip)(images=image, return_tensors="np")["pixel_values"][0]
        assert np.abs(photos.prepare(image) - np.asarray(theirs)).mean() < 0.05  # of values from -2 to 2


def test_fingerprint_changes_with_the_weights(photos: GeoclipPhotos, clip: Path, tmp_path: Path) -> None:
    assert GeoclipPhotos.load(str(clip), "cpu").fingerprint == photos.fingerprint
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    other.mkdir()
    for path in clip.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tensors = load_file(other / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    assert GeoclipPhotos.load(str(other), "cpu").fingerprint != photos.fingerprint


def test_clip_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="gives 512 features, GeoCLIP's head takes 768"):
        GeoclipPhotos.load(str(tiny_clip(tmp_path, features=512)), "cpu")


def test_folder_without_clip_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot be read as CLIP"):
        GeoclipPhotos.load(str(tmp_path), "cpu")


def test_pickled_weights_are_not_loaded(clip: Path, tmp_path: Path) -> None:
    """A pickle beside the configuration is ignored."""
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(EncoderError, match="cannot be read as CLIP"):
        GeoclipPhotos.load(str(tmp_path), "cpu")


def test_unreachable_hub_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on an offline machine with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"clip-vit-large-patch14 .*not on this machine.*TILEBEAM_CLIP"):
        GeoclipPhotos.load(device="cpu")


def test_pixels_of_another_shape_are_refused(photos: GeoclipPhotos) -> None:
    with pytest.raises(EncoderError, match=r"\(n, 3, 32, 32\)"):
        photos.encode(np.zeros((1, 3, 16, 16), dtype=np.float32))
