"""timm's models as photo encoders, with random weights."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from retrieval.encoders.timm import IMAGENET_MEAN, load_image_encoder
from retrieval.errors import EncoderError, EncoderMismatchError


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def test_timm_encoder_round_trips_through_directory(tmp_path: Path) -> None:
    encoder = load_image_encoder("timm:test_vit:scratch", device="cpu")
    assert encoder.preprocess.mean == IMAGENET_MEAN
    encoder.save(tmp_path)
    again = load_image_encoder(str(tmp_path), device="cpu")
    assert again.fingerprint == encoder.fingerprint
    batch = encoder.prepare(picture())[None]
    np.testing.assert_array_equal(again.encode(batch), encoder.encode(batch))
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(batch), axis=1), 1, rtol=1e-5)


def test_classifier_of_checkpoint_is_ignored(tmp_path: Path) -> None:
    import timm

    whole = timm.create_model("resnet10t", pretrained=False, num_classes=7)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    encoder = load_image_encoder(f"timm:resnet10t:{tmp_path / 'weights.safetensors'}", device="cpu")
    assert encoder.preprocess.size == 224
    assert str(tmp_path) not in encoder.name
    same = whole.state_dict()["layer4.0.conv1.weight"]
    np.testing.assert_array_equal(encoder.tower.state_dict()["layer4.0.conv1.weight"].numpy(), same.numpy())
    save_file({"conv1.weight": same}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderMismatchError, match="lacks"):
        load_image_encoder(f"timm:resnet10t:{tmp_path / 'other.safetensors'}")


def test_random_weights_are_seeded() -> None:
    one, other = (load_image_encoder("timm:test_vit:scratch") for _ in range(2))
    assert one.fingerprint == other.fingerprint


def test_unknown_timm_model_raises() -> None:
    with pytest.raises(EncoderError, match="no model 'vit_of_mine'"):
        load_image_encoder("timm:vit_of_mine")


def test_other_specs_load_with_open_clip() -> None:
    assert load_image_encoder("builtin", device="cpu").spec == "builtin"
    with pytest.raises(EncoderError, match="open_clip has no model"):
        load_image_encoder("no-such-model:none")
