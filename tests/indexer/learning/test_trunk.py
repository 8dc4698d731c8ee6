"""Trunk and tail compute what the whole tower computes, for all options of the tower; other towers are refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from indexer.errors import TrainingError
from indexer.learning.activations import ActivationCache, CacheLimits
from indexer.learning.trunk import SplitTower
from indexer.training.loss import in_batch_loss
from retrieval.encoders.open_clip import Tower, build_tower, trained_layers

SHAPE = {"image_size": 64, "patch_size": 32, "width": 64, "layers": 4, "head_width": 32}


def tower_of(quick_gelu: bool = False, **options: Any) -> Tower:
    """A narrow ViT-B/32 whose every parameter, norms and biases too, is random, as PhotoEncoder holds towers."""
    torch.manual_seed(1)
    tower = build_tower({"embed_dim": 24, "vision_cfg": SHAPE | options, "quick_gelu": quick_gelu})
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return tower.eval().requires_grad_(False)


def pictures(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def whole(tower: Tower, pixels: torch.Tensor) -> torch.Tensor:
    output = tower(pixels)
    return functional.normalize(output[0] if isinstance(output, tuple) else output, dim=-1)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"quick_gelu": True},
    {"pool_type": "avg"},
    {"pool_type": "avg", "final_ln_after_pool": True, "quick_gelu": True},
    {"patch_dropout": 0.5},
    {"ls_init_value": 0.1, "no_ln_pre": True},
    {"pos_embed_type": "sin_cos_2d", "output_tokens": True},
    {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_trunk_and_tail_equal_the_tower(options: dict[str, Any], blocks: int) -> None:
    tower = tower_of(**options)
    split = SplitTower(tower, blocks)
    tokens = split.trunk(pictures())
    assert tuple(tokens.shape) == (5, *split.token_shape)
    assert not tokens.requires_grad
    embeddings = split.tail()(tokens)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, whole(tower, pictures()), atol=2e-6, rtol=0)


def test_trunk_and_tail_equal_the_tower_for_the_shape_of_vit_b_32() -> None:
    config = {"image_size": 224, "layers": 3, "width": 768, "patch_size": 32}
    torch.manual_seed(0)
    tower = build_tower({"embed_dim": 512, "vision_cfg": config, "quick_gelu": True}).eval().requires_grad_(False)
    split = SplitTower(tower)
    pixels = torch.randn(2, 3, 224, 224)
    assert split.token_shape == (50, 768)
    torch.testing.assert_close(split.tail()(split.trunk(pixels)), whole(tower, pixels), atol=2e-6, rtol=0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_equal_those_of_the_tower_with_frozen_first_layers(options: dict[str, Any]) -> None:
    tower = tower_of(**options)
    split = SplitTower(tower)
    tail = split.tail()
    weights = torch.randn(5, 24)
    (tail(split.trunk(pictures())) * weights).sum().backward()
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(name in split.names)
    (whole(tower, pictures()) * weights).sum().backward()
    gradients = {name: tail.get_parameter(split._name_in_tail(name)).grad for name in split.names}
    assert len(gradients) == len(list(tail.parameters()))
    for name, grad in gradients.items():
        assert grad is not None
        torch.testing.assert_close(grad, tower.get_parameter(name).grad, atol=1e-4, rtol=1e-3, msg=name)


def test_training_a_tail_does_not_change_the_tower() -> None:
    tower = tower_of(patch_dropout=0.3).train()
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    split = SplitTower(tower)
    tail = split.tail().train()
    first = split.trunk(pictures())
    optimiser = torch.optim.Adam(tail.parameters(), 0.01)
    tail(first).sum().backward()
    optimiser.step()
    assert all(torch.equal(before[k], v) for k, v in tower.state_dict().items())
    assert tower.training
    assert not any(p.requires_grad for p in tower.parameters())
    torch.testing.assert_close(split.trunk(pictures()), first, atol=0, rtol=0)  # patch dropout stays off
    torch.testing.assert_close(split.tail()(first), whole(tower.eval(), pictures()), atol=2e-6, rtol=0)


def test_trunk_shares_the_weights_of_the_tower() -> None:
    tower = tower_of()
    split = SplitTower(tower)
    owned = {p.data_ptr() for p in tower.parameters()}
    assert {p.data_ptr() for p in split.first.parameters()} <= owned
    assert {p.data_ptr() for p in split.tail().parameters()}.isdisjoint(owned)


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-5), ("float16", 1e-2)])
def test_training_from_a_cache_equals_training_the_whole_tower(tmp_path: Path, dtype: str, apart: float) -> None:
    """Thirty steps of Adam, fast enough that the losses fall by half: step for step the same."""
    tower, tiles = tower_of(), torch.randn(16, 3, 64, 64)
    photos = functional.normalize(torch.randn(16, 24), dim=-1)
    split, learner = SplitTower(tower), copy.deepcopy(tower)
    for name in split.names:
        learner.get_parameter(name).requires_grad_(True)

    def learn(seen: torch.Tensor, rows: np.ndarray, optimiser: torch.optim.Optimizer) -> float:
        loss = in_batch_loss(photos[torch.from_numpy(rows)], seen, torch.arange(len(seen)), torch.tensor(1 / 0.07))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def compute(rows: np.ndarray) -> torch.Tensor:
        return split.trunk(tiles[torch.from_numpy(rows)])

    tail = split.tail()
    adams = [torch.optim.Adam([p for p in m.parameters() if p.requires_grad], 1e-3) for m in (learner, tail)]
    rng, plain, cached = np.random.default_rng(0), [], []
    with ActivationCache.open(tmp_path, "k", 16, split.token_shape, CacheLimits(dtype=dtype)) as cache:
        for _ in range(30):
            rows = rng.choice(16, 8, replace=False)
            plain.append(learn(whole(learner, tiles[torch.from_numpy(rows)]), rows, adams[0]))
            cached.append(learn(tail(cache.get(rows, compute)), rows, adams[1]))
        assert cache.filled == 16
    assert plain[-1] < plain[0] / 2
    assert max(abs(a - b) for a, b in zip(plain, cached, strict=True)) < apart


def test_layers_have_the_names_of_the_tower_and_can_be_loaded() -> None:
    tower = tower_of()
    split = SplitTower(tower)
    assert split.names == tuple(trained_layers(tower))
    tail = split.tail()
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    layers = split.layers(tail)
    assert set(layers) == set(split.names)
    changed = build_tower({"embed_dim": 24, "vision_cfg": SHAPE, "quick_gelu": False}).eval()
    changed.load_state_dict(tower.state_dict() | layers)
    tokens = split.trunk(pictures())
    torch.testing.assert_close(tail(tokens), whole(changed, pictures()), atol=2e-6, rtol=0)
    torch.testing.assert_close(split.tail_from(layers)(tokens), tail(tokens), atol=0, rtol=0)
    with torch.no_grad():
        next(tail.parameters()).zero_()
    assert layers[split.names[0]].any(), "layers are a copy: further training does not change them"


def test_layers_of_another_tower_are_refused() -> None:
    split, other = SplitTower(tower_of()), SplitTower(tower_of(width=32, head_width=16))
    with pytest.raises(TrainingError, match="not the last ones"):
        split.tail_from(other.layers(other.tail()))
    with pytest.raises(TrainingError, match="not the last ones"):
        split.tail_from({})
    with pytest.raises(TrainingError, match="not a tail"):
        split.layers(nn.Linear(2, 2))


def test_autocast_and_half_activations_pass_through_the_tail() -> None:
    split = SplitTower(tower_of())
    tokens = split.trunk(pictures())
    exact = split.tail()(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = split.tail()(tokens)
        assert split.trunk(pictures()).dtype == torch.float32
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).detach().abs().max() < 0.05
    torch.testing.assert_close(split.tail()(tokens.half()), exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("blocks", [-1, 0, 5])
def test_invalid_number_of_blocks_is_refused(blocks: int) -> None:
    with pytest.raises(TrainingError, match="give 1 to 4"):
        SplitTower(tower_of(), blocks)


def test_unsupported_towers_are_refused_with_the_supported_kinds() -> None:
    pytest.importorskip("timm")
    timm = {"image_size": 64, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear"}
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
    pooling = {**SHAPE, "attentional_pool": True, "attn_pooler_heads": 2}
    unpooled = {**SHAPE, "pool_type": "none"}
    for config in (timm, resnet, pooling, unpooled):
        tower = build_tower({"embed_dim": 24, "vision_cfg": config, "quick_gelu": False})
        with pytest.raises(TrainingError, match="ViT-B-32"):
            SplitTower(tower)


def test_tokens_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    split, tiles = SplitTower(tower_of()), torch.randn(40, 3, 64, 64)
    together = split.trunk_of_rows(np.arange(40), lambda rows: tiles[torch.from_numpy(rows)])
    alone = split.trunk_of_rows(np.array([35]), lambda rows: tiles[torch.from_numpy(rows)])
    assert tuple(together.shape) == (40, *split.token_shape)
    assert torch.equal(together[35:36], alone)
