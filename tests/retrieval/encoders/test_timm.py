"""timm's models as photo encoders, with random weights."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from retrieval.encoders.open_clip import PhotoEncoder
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02}q\x00.", r"PyTorch checkpoint \(pickle\).*convert it"),
        (b"PK\x03\x04" + bytes(60), r"PyTorch checkpoint \(pickle\).*convert it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>Sign in</title>", "download it again"),
        (b"\x10\0\0\0\0\0\0\0{}", "cut off or of another format: copy it again"),
        (None, "there is no file"),
    ],
    ids=["old .pt", ".pt", "lfs", "page", "cut", "missing"],
)
def test_weights_of_another_format_are_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EncoderError, match=said):
        load_image_encoder(f"timm:test_vit:{path}")


def test_an_index_says_that_timm_is_for_geocells(tmp_path: Path) -> None:
    load_image_encoder("timm:test_vit:scratch", device="cpu").save(tmp_path)
    for spec in ("timm:resnet10t", str(tmp_path)):
        with pytest.raises(EncoderError, match=r"`geocells train`.*MODEL:TAG"):
            PhotoEncoder.load(spec)
