"""open_clip encoders: round trips through files, damage, shared memory, and loading by name."""

import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from retrieval.encoders.open_clip import (
    MapEncoders,
    PhotoEncoder,
    build_tower,
    resolve_device,
    save_layers,
    trained_layers,
)
from retrieval.encoders.preprocess import Preprocess
from retrieval.encoders.threads import measure_single
from retrieval.errors import EncoderError, EncoderMismatchError

ROOT = Path(__file__).parents[3]
HALF = (0.5, 0.5, 0.5)
VISION = {"image_size": 24, "patch_size": 12, "width": 32, "layers": 3, "head_width": 16}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "quick_gelu": False}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 1, "layers": 1}
Layers = dict[str, torch.Tensor]


def tiny(seed: int = 0, *, half: bool = True, preprocess: Preprocess | None = None, **change: object) -> PhotoEncoder:
    """A tiny encoder with random weights; `half`: they are exact in fp16."""
    torch.manual_seed(seed)
    architecture = {**TINY, **change}
    tower = build_tower(architecture)
    for parameter in tower.parameters():
        parameter.data = parameter.data.half().float() if half else parameter.data
    return PhotoEncoder("tiny", tower, preprocess or Preprocess(24, HALF, HALF), architecture, "cpu")


def layers_of(photo: PhotoEncoder, seed: int) -> Layers:
    """Layers as training would change them: the last two blocks, the final norm and the projection."""
    generator = torch.Generator().manual_seed(seed)
    state = photo.tower.state_dict()
    return {
        k: (state[k] + 0.1 * torch.randn(state[k].shape, generator=generator)).half()
        for k in trained_layers(photo.tower)
    }


def photos(n: int = 3) -> np.ndarray:
    return np.random.default_rng(n).uniform(-1, 1, (n, 3, 24, 24)).astype(np.float32)


def tiles(n: int = 3) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 24, 24, 3), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A photo encoder and map encoders of zooms 4 and 6, in one directory."""
    photo = tiny()
    photo.save(tmp_path / "encoders")
    save_layers(tmp_path / "encoders", photo, {4: layers_of(photo, 4), 6: layers_of(photo, 6)}, {6: 0.5})
    return tmp_path / "encoders"


# Round trips


@pytest.mark.parametrize(("half", "dtype"), [(True, torch.float16), (False, torch.float32)])
def test_saved_photo_encoder_loads_bit_identical(tmp_path: Path, half: bool, dtype: torch.dtype) -> None:
    photo = tiny(half=half)
    photo.save(tmp_path)
    assert {v.dtype for v in load_file(tmp_path / "photo.safetensors").values()} == {dtype}
    again = PhotoEncoder.load(str(tmp_path), device="cpu")
    assert again.fingerprint == photo.fingerprint
    assert (again.name, again.dim, again.preprocess) == ("tiny", 16, photo.preprocess)
    assert (again.spec, again.local) == (str(tmp_path), True)
    assert np.array_equal(again.encode(photos()), photo.encode(photos()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo.json", "photo.safetensors"]
    assert (tmp_path / "photo.safetensors").stat().st_mode & 0o044  # the service reads it as another user


def test_fingerprint_is_the_same_for_fp16_and_fp32_files(saved: Path) -> None:
    before = PhotoEncoder.load(str(saved), device="cpu").fingerprint
    path = saved / "photo.safetensors"
    save_file({k: v.float() for k, v in load_file(path).items()}, path)
    assert PhotoEncoder.load(str(saved), device="cpu").fingerprint == before


def test_fingerprint_depends_on_architecture_and_preprocessing() -> None:
    wide = Preprocess(24, HALF, (0.25, 0.25, 0.25))
    levelled = Preprocess(24, HALF, HALF, contrast_floor=0.04)
    same = PhotoEncoder("renamed", tiny().tower, Preprocess(24, HALF, HALF), TINY, "cpu")
    others = [tiny(1), tiny(preprocess=wide), tiny(preprocess=levelled), tiny(quick_gelu=True)]
    assert same.fingerprint == tiny().fingerprint
    assert len({tiny().fingerprint, *(o.fingerprint for o in others)}) == 5


def test_fingerprint_depends_on_every_weight() -> None:
    photo = tiny()
    with torch.no_grad():
        photo.tower.proj[3, 4] += 1e-3
    assert PhotoEncoder("tiny", photo.tower, photo.preprocess, TINY, "cpu").fingerprint != tiny().fingerprint


def test_saving_replaces_an_older_encoder(saved: Path) -> None:
    tiny(7).save(saved)
    assert PhotoEncoder.load(str(saved), device="cpu").fingerprint == tiny(7).fingerprint


def test_description_is_json_and_loads_the_encoder(saved: Path) -> None:
    photo = PhotoEncoder.load(str(saved), device="cpu")
    described = json.loads(json.dumps(photo.describe()))
    assert PhotoEncoder.load(described["spec"], device="cpu").fingerprint == described["fingerprint"]
    assert Preprocess.from_json(described["preprocess"]) == photo.preprocess


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def garble(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["photo.json", "photo.safetensors", "maps.json", "z06.safetensors"])
@pytest.mark.parametrize("harm", [cut, garble, remove])
def test_damaged_file_is_named(saved: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(saved / name)
    with pytest.raises(EncoderError) as caught:
        MapEncoders.load(saved, PhotoEncoder.load(str(saved), device="cpu"))
    # Without photo.json the directory is not recognised as an encoder, so the error names the directory.
    assert str(saved if name == "photo.json" and harm is remove else saved / name) in str(caught.value)


def test_changed_weight_does_not_match_the_description(saved: Path) -> None:
    path = saved / "photo.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(EncoderMismatchError, match=r"photo.safetensors is not the file that photo.json describes"):
        PhotoEncoder.load(str(saved), device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "map-encoders"},
        {"format": 2},
        {"format": None},
        {"architecture": None},
        {"architecture": {**TINY, "vision_cfg": {**VISION, "wings": 2}}},
        {"architecture": {**TINY, "vision_cfg": {**VISION, "width": 33}}},
        {"architecture": {**TINY, "vision_cfg": {**VISION, "head_width": 0}}},
        {"architecture": {**TINY, "embed_dim": "16"}},
        {"architecture": {"embed_dim": 16}},
        {"architecture": {**TINY, "vision_cfg": {**VISION, "layers": 4}}},
        {"preprocess": {"size": 24}},
        {"fingerprint": 7},
        {"fingerprint": ...},
        {"preprocess": ...},
    ],
)
def test_wrong_description_raises(saved: Path, change: dict[str, object]) -> None:
    config = json.loads((saved / "photo.json").read_text()) | change
    (saved / "photo.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    with pytest.raises(EncoderError):
        PhotoEncoder.load(str(saved), device="cpu")


@pytest.mark.parametrize("zooms", [[], {"x": {}}, {"4": {"file": "z04.safetensors"}}, {"4": 7}])
def test_wrong_map_encoder_description_raises(saved: Path, zooms: object) -> None:
    config = json.loads((saved / "maps.json").read_text()) | {"zooms": zooms}
    (saved / "maps.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"maps.json does not describe map encoders"):
        MapEncoders.load(saved, tiny())


def test_weights_of_another_architecture_raise(saved: Path) -> None:
    wider = tiny(vision_cfg={**VISION, "width": 64})
    save_file(wider.tower.state_dict(), saved / "photo.safetensors")
    with pytest.raises(EncoderMismatchError, match=r"photo.safetensors does not hold the weights"):
        PhotoEncoder.load(str(saved), device="cpu")


# Map encoders


def test_saved_map_encoders_load_and_differ_between_zooms(saved: Path) -> None:
    photo = PhotoEncoder.load(str(saved), device="cpu")
    maps = MapEncoders.load(saved, photo)
    direct = MapEncoders(photo, {z: layers_of(photo, z) for z in (4, 6)}, {6: 0.5})
    assert (maps.zooms, maps.dim, maps.input_size) == ((4, 6), 16, 24)
    assert [maps.context(z) for z in (4, 6, 8)] == [0.0, 0.5, 0.0]
    vectors = {z: maps.encode(z, tiles()) for z in (4, 6, 8)}
    for z in (4, 6):
        assert maps.fingerprint(z) == direct.fingerprint(z)
        assert np.array_equal(vectors[z], direct.encode(z, tiles()))
    assert np.abs(vectors[4] - vectors[6]).max() > 0.01
    # A zoom without layers is encoded by the photo tower.
    assert np.array_equal(vectors[8], photo.encode(photo.preprocess.pixels(tiles())))
    assert len({maps.fingerprint(z) for z in (4, 6, 8)}) == 3


def test_map_fingerprint_depends_on_layers_context_and_trunk() -> None:
    photo, other = tiny(), tiny(1)
    made = [
        MapEncoders(photo, {4: layers_of(photo, 1)}, {4: 0.0}),
        MapEncoders(photo, {4: layers_of(photo, 2)}, {4: 0.0}),
        MapEncoders(photo, {4: layers_of(photo, 1)}, {4: 1.0}),
        MapEncoders(other, {4: layers_of(photo, 1)}, {4: 0.0}),
    ]
    assert len({m.fingerprint(4) for m in made}) == 4


def test_towers_share_memory_with_the_trunk() -> None:
    photo = tiny()
    maps = MapEncoders(photo, {z: layers_of(photo, z) for z in (4, 6)}, {})
    own = set(trained_layers(photo.tower))
    assert any(name.startswith("transformer.resblocks.1.") for name in own)
    for z in (4, 6):
        for name, parameter in maps._towers[z].named_parameters():
            assert (parameter.data_ptr() == photo.tower.get_parameter(name).data_ptr()) == (name not in own), name


def test_towers_share_buffers_outside_the_state() -> None:
    """Some towers keep tables of angles or masks outside their state."""
    photo = tiny()
    photo.tower.transformer.register_buffer("angles", torch.ones(3), persistent=False)
    maps = MapEncoders(photo, {4: layers_of(photo, 1)}, {})
    assert maps._towers[4].transformer.angles.device == photo.device
    assert torch.equal(maps._towers[4].transformer.angles, torch.ones(3))


def test_trained_layers_are_two_blocks_norm_and_projection() -> None:
    names = trained_layers(tiny().tower)
    heads = {n if n == "proj" else n.split(".")[0] if n.startswith("ln") else ".".join(n.split(".")[:3]) for n in names}
    assert heads == {"transformer.resblocks.1", "transformer.resblocks.2", "ln_post", "proj"}


def test_map_encoders_of_another_photo_encoder_raise(saved: Path) -> None:
    with pytest.raises(EncoderMismatchError, match="use the photo encoder that they were"):
        MapEncoders.load(saved, tiny(1))


@pytest.mark.parametrize("name", ["proj", "transformer.resblocks.2.ln_1.weight", "wings.weight"])
def test_layers_that_do_not_fit_are_named(saved: Path, name: str) -> None:
    path = saved / "z06.safetensors"
    save_file({**load_file(path), name: torch.zeros(5)}, path)
    with pytest.raises(EncoderMismatchError, match=f"zoom 6: {name}"):
        MapEncoders.load(saved, tiny())


def test_map_encoders_without_directory_use_the_photo_tower() -> None:
    photo = tiny()
    maps = MapEncoders.load(None, photo)
    assert maps.zooms == ()
    assert np.array_equal(maps.encode(4, tiles()), photo.encode(photo.preprocess.pixels(tiles())))


# Encoding


def test_embeddings_are_unit_rows_in_order() -> None:
    photo, batch = tiny(), photos(5)
    rows = photo.encode(batch)
    assert rows.shape == (5, 16)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert np.allclose(photo.encode(batch[3:4]), rows[3:4], atol=1e-6)
    assert photo.encode(batch[:0]).shape == (0, 16)


def test_picture_and_tile_with_same_pixels_get_same_embedding() -> None:
    photo = tiny(preprocess=Preprocess(24, HALF, HALF, contrast_floor=0.04))
    pixels = tiles(4)
    prepared = np.stack([photo.prepare(Image.fromarray(p)) for p in pixels])
    assert np.allclose(photo.encode(prepared), MapEncoders(photo, {}, {}).encode(6, pixels), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 3, 24, 25), (1, 24, 24, 3), (2, 3, 48, 48)])
def test_pictures_of_wrong_shape_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match=r"\(n, 3, 24, 24\), got"):
        tiny().encode(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((24, 24, 3), "u1"), ((1, 3, 24, 24), "u1"), ((1, 25, 24, 3), "u1"), ((1, 24, 24, 3), "f4")]
)
def test_tiles_of_wrong_shape_or_dtype_raise(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(EncoderError, match=r"uint8 tiles of shape \(n, 24, 24, 3\), got"):
        MapEncoders(tiny(), {}, {}).encode(4, np.zeros(shape, dtype=dtype))


def test_towers_stay_frozen() -> None:
    photo = tiny()
    maps = MapEncoders(photo, {4: layers_of(photo, 1)}, {})
    for tower in (photo.tower, maps._towers[4]):
        assert not tower.training
        assert not any(p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda"])
def test_missing_device_is_named(device: str) -> None:
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(EncoderError, match=device):
        resolve_device(device)
    assert resolve_device("cpu").type == "cpu"


# open_clip's models by name


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny CLIP that open_clip knows by name, and a checkpoint of it such as open_clip's training writes."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    config = folder / "Tilebeam-Tiny.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(config)
    torch.manual_seed(3)
    model = open_clip.create_model("Tilebeam-Tiny")
    torch.save({"epoch": 5, "state_dict": model.state_dict()}, folder / "epoch_5.pt")
    return "Tilebeam-Tiny", folder / "epoch_5.pt"


def test_local_checkpoint_of_a_named_model_loads(tiny_clip: tuple[str, Path], tmp_path: Path) -> None:
    import open_clip

    name, checkpoint = tiny_clip
    photo = PhotoEncoder.load(f"{name}:{checkpoint}", device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(name, str(checkpoint))
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (90, 131, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = model.eval().encode_image(transform(picture)[None], normalize=True).numpy()
    found = photo.encode(photo.prepare(picture)[None])
    assert float((found * expected).sum()) > 0.9999
    assert photo.local
    assert photo.dim == 16
    assert photo.name == "Tilebeam-Tiny:epoch_5.pt"  # shown to users of the service, so without local paths
    assert photo.describe()["spec"] == f"{name}:{checkpoint}"
    photo.save(tmp_path)
    again = PhotoEncoder.load(str(tmp_path), device="cpu")
    assert again.fingerprint == photo.fingerprint
    assert np.array_equal(again.encode(photos()), photo.encode(photos()))


@pytest.mark.slow
def test_vit_b_32_checkpoint_loads(tmp_path: Path) -> None:
    """The default in real use: 151 million weights, loaded by the same code as pretrained tags."""
    import open_clip

    torch.manual_seed(1)
    model = open_clip.create_model("ViT-B-32")
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    photo = PhotoEncoder.load(f"ViT-B-32:{tmp_path / 'clip.safetensors'}", device="cpu")
    assert (photo.dim, photo.preprocess.size, photo.preprocess.resize) == (512, 224, "shortest")
    assert torch.equal(photo.tower.proj, model.visual.proj)
    assert len(trained_layers(photo.tower)) == 2 * 12 + 3


def test_pickle_that_would_run_code_raises(tiny_clip: tuple[str, Path], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pt", "plain.pt"):
        with pytest.raises(EncoderError, match="cannot load the encoder"):
            PhotoEncoder.load(f"{tiny_clip[0]}:{tmp_path / name}", device="cpu")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_model_raise(tiny_clip: tuple[str, Path], tmp_path: Path) -> None:
    name, checkpoint = tiny_clip
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["visual.proj"] = torch.zeros(4, 4)
    torch.save(state, tmp_path / "odd.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("hello", "world")
    save_file({}, tmp_path / "nothing.safetensors")
    for file in ("odd.pt", "cut.pt", "empty.pt", "zip.pt", "nothing.safetensors"):
        with pytest.raises(EncoderError, match=file):
            PhotoEncoder.load(f"{name}:{tmp_path / file}", device="cpu")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-Z-99", "open_clip has no model 'ViT-Z-99'"),
        ("", "open_clip has no model ''"),
        ("ViT-B-32-256", "is given without weights.*datacomp_s34b_b86k"),
        ("ViT-B-32:nosuchtag", "'nosuchtag' is neither a tag of it nor a file here"),
        ("ViT-B-32:nosuchtag", "laion2b_s34b_b79k"),
        ("ViT-B-32:/no/such/checkpoint.pt", "/no/such/checkpoint.pt"),
        (str(ROOT / "docs"), "docs is a directory without photo.json"),
    ],
)
def test_unknown_spec_lists_valid_specs(spec: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        PhotoEncoder.load(spec, device="cpu")


OFFLINE = """
import sys, time
import open_clip, torch
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.errors import EncoderError
for spec in sys.argv[1:]:
    started = time.monotonic()
    try:
        PhotoEncoder.load(spec, device="cpu")
    except EncoderError as exc:
        print(f"{time.monotonic() - started:.1f} {exc}".replace("\\n", " "))
"""


def test_offline_mode_makes_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(EncoderError, match=r"cannot load the encoder 'hf-hub:nobody/nothing'.*directory"):
        PhotoEncoder.load("hf-hub:nobody/nothing", device="cpu")


@pytest.mark.slow
def test_unreachable_hub_raises_quickly(tmp_path: Path) -> None:
    """In another process, because the hub's address is read once. Nothing listens at this address."""
    environ = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    specs = ["hf-hub:nobody/nothing", "ViT-B-32:laion2b_s34b_b79k"]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *specs], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    for spec, line in zip(specs, lines, strict=True):
        assert f"cannot load the encoder '{spec}'" in line
        assert "MODEL:/path/to/checkpoint" in line
        assert float(line.split()[0]) < 60


def test_single_picture_uses_the_faster_thread_count() -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def work(cost: dict[int, float]) -> int:
        def encode() -> None:
            seen.append(torch.get_num_threads())
            time.sleep(cost[torch.get_num_threads()])

        return measure_single(encode)

    torch.set_num_threads(2)
    try:
        assert work({1: 0.001, 2: 0.004}) == 1
        assert work({1: 0.004, 2: 0.001}) == 2
        seen.clear()
        assert work({1: 0.2, 2: 0.1}) == 2  # long work uses all threads after one measurement
        assert seen == [2]
        photo = tiny()
        photo.tune_for_single()
        batch = photos(3)
        np.testing.assert_allclose(photo.encode(batch[:1]), photo.encode(batch)[:1], atol=1e-6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
