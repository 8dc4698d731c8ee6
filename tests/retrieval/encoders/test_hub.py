"""What an index names is never fetched unless its operator allows it, and never allocated beyond bounds.

In another process, because the hub's client reads its address and token when it is imported. Every road out of it leads
to a server on loopback that records requests: the hub's endpoint, and the proxy of everything else.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback import TileServer, http, serving
from safetensors.numpy import save_file

from retrieval.encoders.architecture import check_architecture
from retrieval.encoders.open_clip import PhotoEncoder, build_tower
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import EncoderError
from retrieval.testing.fake import fake_pyramid, write_fake_index

ROOT = Path(__file__).parents[3]

OPEN = """
import json, resource, sys
from pathlib import Path
from retrieval.encoders.hub import hub_access
from retrieval.encoders.timm import load_listed_encoder
from retrieval.errors import RetrievalError
from retrieval.locator import Locator
import open_clip, timm, torch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

for line in sys.stdin:
    case, before = json.loads(line), peak()
    try:
        if "prior" in case:
            with hub_access(case["allow"]):
                load_listed_encoder(case["prior"], device="cpu")
        else:
            Locator.open(Path(case["index"]), device="cpu", allow_download=case["allow"])
        outcome = ["opened", ""]
    except Exception as exc:
        outcome = [type(exc).__name__, str(exc)]
    print(json.dumps([*outcome, peak() - before]), flush=True)
"""


@pytest.fixture
def recorder() -> Iterator[TileServer]:
    """A server that has nothing and records what it is asked for."""
    with serving() as server:
        server.answer = lambda request: http(404)
        yield server


def outcomes(recorder: TileServer, home: Path, cases: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Open each case in one process; its error's type and message, and the megabytes that it took at most."""
    address = f"http://127.0.0.1:{recorder.port}"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address)
    environ = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environ |= {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "HOME": str(home), "HF_HOME": str(home / "hf")}
    environ |= {"TORCH_HOME": str(home / "torch"), "NO_PROXY": "127.0.0.1", **proxies}
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        input="\n".join(map(json.dumps, cases)),
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(cases), done.stderr[-3000:]
    return [tuple(json.loads(line)) for line in lines]


def index_of(directory: Path, spec: str) -> Path:
    """An index whose manifest names this photo encoder."""
    directory.mkdir(parents=True)
    write_fake_index(directory, fake_pyramid(5, [2, 4], 8, tiles=30))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["photo_encoder"]["spec"] = spec
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


SPECS = {
    "hf-hub:attacker/model": "allow-download",
    "hf-hub:attacker/../model": "neither builtin",
    "hf-hub:attacker/model@main": "neither builtin",
    "hf_hub:attacker/model": "neither builtin",
    "local-dir:/etc": "neither builtin",
    "http://127.0.0.1:9/weights": "neither builtin",
    "/etc": "neither builtin",
    "ViT-B-32:/etc/hostname": "neither builtin",
    "ViT-B-32:../weights.safetensors": "neither builtin",
    "timm:resnet10t": "neither builtin",
    "ViT-B-32:laion2b_s34b_b79k": "allow-download",
    "RN50:openai": "allow-download",
    "xlm-roberta-base-ViT-B-32:laion5b_s13b_b90k": "allow-download",
    "ViT-B-16-SigLIP:webli": "allow-download",
}
PRIORS = {
    "timm:resnet10t": "allow-download",
    "timm:legacy_xception": "allow-download",  # not on the hub: timm knows an address for it
    "timm:hf-hub:attacker/model": "not the name of a model|does not hold",
    "timm:hf-hub": "not the name of a model",
    "timm:resnet10t:/etc/hostname": "does not hold",
    "hf-hub:attacker/model": "allow-download",
    "local-dir:/etc": "neither builtin",
}
VISION: dict[str, Any] = {"image_size": 24, "patch_size": 12, "width": 32, "layers": 2, "head_width": 16}
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "hub": ({"timm_model_name": "hf-hub:attacker/m"}, "not the name of a model of timm"),
    "hub, upper case": ({"timm_model_name": "HF-HUB:attacker/m"}, "not the name of a model of timm"),
    "folder": ({"timm_model_name": "local-dir:/tmp"}, "not the name of a model of timm"),
    "path": ({"timm_model_name": "/etc/resnet10t"}, "not the name of a model of timm"),
    "unknown": ({"timm_model_name": "resnet_of_mine"}, "timm has no model"),
    "pretrained": ({"timm_model_name": "resnet10t", "timm_model_pretrained": True}, "lacks|too"),
    "large timm": ({"timm_model_name": "vit_7b_patch16_dinov3"}, "parameters|lacks"),
    "layers": ({"layers": 1_000_000}, "layers is 1000000"),
    "layers of ResNet": ({"layers": [1, 1, 1, 100_000]}, "layers is"),
    "width": ({"width": 10**6}, "width is"),
    "wide and deep": ({"layers": 128, "width": 8192, "head_width": 64}, "parameters"),
    "image": ({"image_size": 20_000}, "image_size is"),
    "patches": ({"patch_size": 24, "width": 8192, "mlp_ratio": 16, "image_size": 24}, "lacks"),
    "another size": ({"image_size": 1024, "patch_size": 1}, "its tower takes 1024"),
    "no patch": ({"patch_size": 0}, "patch_size is"),
    "one patch too large": ({"patch_size": 1000}, "too large"),
    "heads": ({"head_width": 0}, "head_width is"),
    "queries": ({"attentional_pool": True, "attn_pooler_queries": 10**9}, "attn_pooler_queries is"),
    "ratio": ({"mlp_ratio": 1e9}, "mlp_ratio is"),
    "text": ({"width": "wide"}, "width is"),
    "unknown key": ({"run": "this"}, "no setting 'run'"),
    "unfit file": ({"layers": 64, "width": 2048, "head_width": 64}, "lacks|shape"),
}


def encoder_in(index: Path, vision: dict[str, Any], size: int = 24) -> Path:
    """The index with an encoder of this architecture, whose weights are two numbers."""
    saved = index / "encoders"
    saved.mkdir()
    save_file({"proj": np.zeros(2, np.float32)}, saved / "photo.safetensors")
    preprocess = Preprocess(24, (0.5,) * 3, (0.5,) * 3).to_json() | {"size": size}
    architecture = {"embed_dim": 16, "vision_cfg": VISION | vision, "quick_gelu": False}
    config = {"format": 1, "kind": "photo-encoder", "name": "x", "fingerprint": "x", "preprocess": preprocess}
    (saved / "photo.json").write_text(json.dumps(config | {"architecture": architecture}))
    return index


@pytest.mark.timeout(600)
def test_no_request_is_made_for_what_an_index_names(recorder: TileServer, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = []
    for number, (spec, words) in enumerate(SPECS.items()):
        cases.append(({"index": str(index_of(tmp_path / f"spec{number}", spec)), "allow": False}, words))
    for number, (vision, words) in enumerate(ARCHITECTURES.values()):
        index = encoder_in(index_of(tmp_path / f"architecture{number}", "encoders"), vision)
        cases.append(({"index": str(index), "allow": number % 2 == 0}, words))
    large = encoder_in(index_of(tmp_path / "preprocess", "encoders"), {}, size=20_000)
    cases.append(({"index": str(large), "allow": False}, "unknown preprocessing.*1 to 1024"))
    cases += [({"prior": spec, "allow": False}, words) for spec, words in PRIORS.items()]
    results = outcomes(recorder, tmp_path / "home", [case for case, _ in cases])
    assert [request.path for request in recorder.log] == []
    for (case, words), (kind, message, megabytes) in zip(cases, results, strict=True):
        assert kind in ("EncoderError", "EncoderMismatchError"), (case, kind, message)
        assert re.search(words, message), (case, message)
        assert megabytes < 700, (case, megabytes)  # a text tower of XLM-RoBERTa, before its weights are missed


@pytest.mark.timeout(300)
def test_with_permission_the_hub_is_asked(recorder: TileServer, tmp_path: Path) -> None:
    cases = [
        {"index": str(index_of(tmp_path / "hub", "hf-hub:someone/model")), "allow": True},
        {"index": str(index_of(tmp_path / "tag", "ViT-B-32:laion2b_s34b_b79k")), "allow": True},
    ]
    results = outcomes(recorder, tmp_path / "home", cases)
    assert [kind for kind, _, _ in results] == ["EncoderError"] * 2
    asked = {request.path.partition("?")[0] for request in recorder.log}
    assert "/someone/model/resolve/main/open_clip_config.json" in asked
    assert any(path.startswith("/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/") for path in asked)
    files = [request for request in recorder.log if "/resolve/" in request.path]
    assert all(request.headers["authorization"] == "Bearer hf_secret" for request in files)


def test_weights_that_an_earlier_download_left_are_used(recorder: TileServer, tmp_path: Path) -> None:
    """A repository in the hub's cache, as its client lays it out, serves an index that names it."""
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 1, "layers": 1}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}, "preprocess_cfg": {}}
    import open_clip

    folder = tmp_path / "home/hf/hub/models--someone--model"
    snapshot = folder / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    path = tmp_path / "Tilebeam-Cached.json"
    path.write_text(json.dumps(config["model_cfg"]))
    open_clip.add_model_config(path)
    torch.manual_seed(3)
    model = open_clip.create_model("Tilebeam-Cached")
    save_file({k: v.numpy() for k, v in model.state_dict().items()}, snapshot / "open_clip_model.safetensors")
    index = index_of(tmp_path / "index", "hf-hub:someone/model")
    [(kind, message, _)] = outcomes(recorder, tmp_path / "home", [{"index": str(index), "allow": False}])
    assert kind == "EncoderMismatchError", message  # loaded: the fake index was made with another encoder
    assert "indexed for the photo encoder" in message
    assert recorder.log == []


def test_known_architectures_are_within_bounds() -> None:
    import open_clip

    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        quick = bool(config.get("quick_gelu", False))
        vision = {k: v for k, v in config["vision_cfg"].items() if k != "timm_model_name"}
        if "timm_model_name" in config["vision_cfg"]:
            assert config["vision_cfg"]["timm_model_name"]
            vision = {"timm_model_name": config["vision_cfg"]["timm_model_name"]}
        check_architecture({"embed_dim": config["embed_dim"], "vision_cfg": vision, "quick_gelu": quick})


@pytest.mark.parametrize(
    "vision",
    [{"image_size": 1024, "patch_size": 1}, {"image_size": 20, "patch_size": 24}, {"width": 8192, "layers": 1}],
)
def test_a_picture_that_would_take_too_much_memory_is_refused(vision: dict[str, Any]) -> None:
    architecture = {"embed_dim": 16, "vision_cfg": {"image_size": 1024, "patch_size": 14} | vision, "quick_gelu": False}
    with pytest.raises(EncoderError, match="too large"):
        check_architecture(architecture)


def test_timm_tower_of_a_saved_encoder_round_trips(tmp_path: Path) -> None:
    """`timm_model_pretrained` in a model's own configuration fetches nothing: the weights lie beside it."""
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": True, "timm_pool": "token", "image_size": 160}
    architecture = {"embed_dim": 16, "vision_cfg": vision, "quick_gelu": False}
    encoder = PhotoEncoder("x", build_tower(architecture), Preprocess(160, (0.5,) * 3, (0.5,) * 3), architecture, "cpu")
    encoder.save(tmp_path)
    assert PhotoEncoder.load(str(tmp_path), device="cpu").fingerprint == encoder.fingerprint
