import pytest
import torch

from marrow.backbones.vit_resnas_masks import head_importance, hidden_importance
from marrow.backbones.vit_resnas_subnet import supernet
from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify
from marrow.teach.multi_architectural import MultiArchitectural

NET = dict(
    img_size=16, patch_size=4, dims=(8, 12, 16), head_dims=(4, 4, 4), heads=((4, 4),) * 3, hidden=((16, 16),) * 3
)
END = Clock(step=9, epoch=0, progress=0.9)


class Bright(Source):
    """Dark and bright pictures with noise."""

    classes = ["dark", "bright"]

    def __init__(self):
        self.noise = torch.randint(0, 128, (32, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"image": self.noise[index] + 127 * (index % 2), "label": index % 2}

    def fraction(self, index):
        return (index + 0.5) / 32

    def name(self, index):
        return str(index)

    def label(self, index):
        return index % 2


def method(**arguments) -> MultiArchitectural:
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create("vit_res_tiny", **NET), classes=2)
    for block in (b for s in supernet(task).stages for b in s.blocks):
        torch.nn.init.normal_(block.mlp.fc1.weight)  # so that units differ in importance
    return MultiArchitectural(task, dims=(1.0, 0.75), **arguments)


def batch(count: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"image": torch.rand(count, 3, 16, 16), "label": torch.arange(count) % 2}


def test_before_the_warm_up_every_example_goes_through_the_whole_net():
    ours = method().eval()
    loss = ours(batch(), Clock(0, 0, 0.0)).losses["cross_entropy"]
    torch.testing.assert_close(loss, ours.task.losses(ours.task(batch()), batch())["cross_entropy"])
    assert not torch.allclose(ours(batch(), END).losses["cross_entropy"], loss)


def test_the_same_step_draws_the_same_sub_nets_and_another_step_others():
    ours = method().eval()
    first, again = (ours(batch(), END).losses["cross_entropy"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(ours(batch(), Clock(10, 0, 0.9)).losses["cross_entropy"], first)


def test_units_are_ranked_in_the_warm_up_and_only_there():
    ours = method(warmup=0.5)
    ours.after_step(Clock(0, 0, 0.0))
    block, rank = supernet(ours.task).stages[0].blocks[1], ours.ranks()[0][1]
    assert torch.equal(rank.hidden, torch.arange(16))
    ours.after_step(Clock(1, 0, 0.25))
    assert hidden_importance(block.mlp)[rank.hidden.argsort()].diff().max() <= 0
    assert head_importance(block.attn)[rank.heads.argsort()].diff().max() <= 0
    assert not torch.equal(rank.hidden, torch.arange(16))
    ours.after_step(Clock(2, 0, 0.5))
    before = rank.hidden.clone()
    torch.nn.init.normal_(block.mlp.fc1.weight)
    ours.after_step(Clock(3, 0, 0.75))
    assert torch.equal(rank.hidden, before)


def test_the_product_is_sorted_and_says_what_it_said(tmp_path):
    ours = method(architectures=4, warmup=0.3)
    settings = Settings(steps=12, batch=16, optim={"main": Optim("adamw", 2e-3)})
    kept = {}

    class Last:
        """The weights as the engine leaves them, before `fit` sorts."""

        def log(self, step, values):
            if step == 12:
                kept["ranks"] = [r.hidden.clone() for stage in ours.ranks() for r in stage]
                kept["logits"] = said()

        def close(self):
            pass

    def said():
        modes = ours.task.training
        with torch.inference_mode():
            found = ours.task.eval()({"image": batch()["image"]})["logits"]
        ours.task.train(modes)
        return found

    ours.fit(Engine(settings, device="cpu", logger=Last()), Data({"train": Bright()}))
    assert any(not torch.equal(r, torch.arange(16)) for r in kept["ranks"])
    assert all(torch.equal(r.hidden, torch.arange(16)) for stage in ours.ranks() for r in stage)
    torch.testing.assert_close(said(), kept["logits"], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(MarrowError, match="a batch of 8 cannot be shared out evenly among 3 sub-nets"):
        method(architectures=3)(batch(), END)
    with pytest.raises(MarrowError, match="0 sub-nets cannot share a batch"):
        method(architectures=0)
    with pytest.raises(MarrowError, match="0 is no share of the training"):
        method(warmup=0)
    engine = Engine(Settings(steps=1, compile=True), device="cpu")
    with pytest.raises(MarrowError, match="neither compiled"):
        method().fit(engine, Data({"train": Bright()}))
