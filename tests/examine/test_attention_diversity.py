import math

import pytest
import torch

from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.examine.attention_diversity import (
    AttentionDiversity,
    distances,
    head_similarity,
    mean_distance,
    shared_information,
)
from marrow.tasks.classify import Classify


def net(name: str = "vit_tiny_patch16_224", **more) -> TimmBackbone:
    torch.manual_seed(0)
    shape = {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3, **more}
    return TimmBackbone.create(name, img_size=32, **shape)


def rows(model, count: int = 40) -> dict[tuple[str, int], float]:
    digits = open_source({"images": "digits", "indices": list(range(count))}, "test")
    report = AttentionDiversity().run({"model": model}, Data({"test": digits}), Engine(Settings(), device="cpu"))
    assert {row["n"] for row in report.rows} == {count}
    return {(row["metric"], row["layer"]): row["value"] for row in report.rows} | {("tensors", 0): report.tensors}


def test_attention_to_oneself_is_near_and_informative():
    alone = torch.eye(16).expand(2, 3, -1, -1)
    assert mean_distance(alone, distances((4, 4), (32, 32))).abs().max() == 0
    torch.testing.assert_close(shared_information(alone), torch.ones(2, 3))


def test_even_attention_says_nothing_about_the_query():
    even = torch.full((2, 3, 16, 16), 1 / 16)
    assert shared_information(even).max() < 1e-4
    torch.testing.assert_close(mean_distance(even, torch.ones(16, 16)), torch.ones(2, 3))


def test_all_queries_on_one_key_say_nothing():
    one = torch.zeros(1, 1, 9, 9)
    one[..., 4] = 1
    assert shared_information(one).item() == 0


def test_information_by_hand():
    # two queries look at key 0, two at key 1: I = H(k) = ln 2, H(q) = ln 4
    split = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])[None, None]
    wanted = math.log(2) / math.sqrt(math.log(2) * math.log(4))
    assert shared_information(split).item() == pytest.approx(wanted, abs=1e-6)


def test_pixels_between_patches():
    found = distances((2, 3), (32, 24))  # patches of 16 x 8
    assert found.shape == (6, 6) and found[0, 2] == 16 and found[0, 3] == 16
    assert found[0, 4].item() == pytest.approx(math.hypot(16, 8))


def test_likeness_of_heads_is_the_mean_over_pairs():
    maps = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    flat = maps.flatten(2)
    pairs = [torch.cosine_similarity(flat[:, i], flat[:, j], dim=-1) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(head_similarity(maps), sum(pairs) / 3)
    torch.testing.assert_close(head_similarity(maps[:, :1].expand(-1, 4, -1, -1)), torch.ones(2))
    assert head_similarity(maps[:, :1]).tolist() == [1, 1]


def test_a_net_whose_queries_say_nothing_looks_evenly():
    backbone = net()
    with torch.no_grad():
        for block in backbone.net.blocks:
            block.attn.qkv.weight[:48] = 0
    found = rows(backbone)
    even = distances((4, 4), (32, 32)).mean().item()
    for layer in (0, 1):
        assert found["attention_distance", layer] == pytest.approx(even, rel=1e-5)
        assert found["query_key_information", layer] < 1e-3
        assert found["head_similarity", layer] == pytest.approx(1.0, abs=1e-5)
    assert found["tensors", 0]["attention_distance"].shape == (2, 3)


def test_a_task_is_looked_into_and_batches_do_not_matter():
    backbone = net()
    with torch.no_grad():
        backbone.net.blocks[1].attn.qkv.weight.mul_(20)
    found, again = rows(backbone), rows(Classify(backbone, classes=10))
    found.pop(("tensors", 0)), again.pop(("tensors", 0))
    assert found == again
    assert found["query_key_information", 1] > found["query_key_information", 0]


def test_a_bias_in_the_attention_is_refused():
    with pytest.raises(MarrowError, match="attention_diversity.model: .* adds a bias of relative positions"):
        rows(net("beit_base_patch16_224"))
