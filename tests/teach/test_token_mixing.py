"""Mixed pictures: both losses written out, what the patch classifier reads, that it learns, what is refused."""

from functools import partial

import pytest
import torch

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.mixed_patches import mixed
from marrow.tasks.classify import Classify
from marrow.tasks.embed import Embed
from marrow.teach.multi_architectural import MultiArchitectural
from marrow.teach.token_mixing import TokenMixing

from .test_multi_architectural import END, NET, Bright, batch


def task(**arguments) -> Classify:
    torch.manual_seed(0)
    return Classify(
        TimmBackbone.create("vit_res_tiny", **{**NET, "patch_size": 2, **arguments}), classes=2, label_smoothing=0.2
    )


def written_out(classifier: Classify, head: torch.nn.Linear, given: dict) -> dict[str, torch.Tensor]:
    """Loop over pictures and patches; the patches are the last stage's 2 x 2."""
    picture = mixed(given["image"], torch.eye(2)[given["label"]], (2, 2), END.rng)
    features = classifier.backbone(picture.image)

    def against(logits, shares):
        shares = 0.8 * shares + 0.1  # smoothed by 0.2
        return -(shares * logits.log_softmax(-1)).sum(-1)

    image = torch.stack([against(classifier.head(p), s) for p, s in zip(features.pooled, picture.shares)]).mean()
    each = [against(head(t), s) for ts, ss in zip(features.tokens, picture.patch_shares) for t, s in zip(ts, ss)]
    return {"image": image, "patches": torch.stack(each).mean()}


def test_the_losses_written_out():
    method = TokenMixing(task()).eval()
    losses = method(batch(), END).losses
    wanted = written_out(method.task, method.patches.head, batch())
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value)


@pytest.mark.slow
def test_compiled_it_learns_the_same():
    made = []
    for compiled in (False, True):
        method = TokenMixing(task())
        settings = Settings(steps=3, batch=16, optim={"main": Optim("sgd", 0.05)}, compile=compiled)
        Engine(settings, device="cpu").train(method, Data({"train": Bright()}))
        made.append(method.state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(made[1][name], value, rtol=1e-3, atol=1e-5)


def test_a_step_mixes_by_its_number_alone():
    method = TokenMixing(task()).eval()
    first, again, other = (method(batch(), Clock(step, 0, 0.5)).losses["patches"] for step in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["classifier", "supernet"])
def test_it_learns_pictures_and_patches_and_keeps_the_task_alone(name):
    made = task()
    method = TokenMixing(made) if name == "classifier" else MultiArchitectural(made, dims=(1.0, 0.75), mixing=True)
    before = method.patches.head.weight.clone()
    engine = Engine(Settings(steps=40, batch=16, optim={"main": Optim("adamw", 3e-3)}), device="cpu")
    method.fit(engine, Data({"train": Bright()}))
    assert not torch.equal(method.patches.head.weight, before)
    assert not any("patches" in key for key in method.product().state_dict())
    assert engine.evaluate(method.product(), Bright())[0]["value"] == 1.0
    with torch.no_grad():
        said = method.patches.head(method.task.eval().backbone(batch()["image"].mul(0.4)).tokens).argmax(-1)
        bright = method.patches.head(method.task.backbone(batch()["image"].mul(0.4) + 0.6).tokens).argmax(-1)
    assert not said.any() and bright.all()


def test_what_does_not_fit_is_named():
    embed = Embed(TimmBackbone.create("vit_res_tiny", **NET))
    for method in (TokenMixing, partial(MultiArchitectural, mixing=True)):
        with pytest.raises(MarrowError, match="mixed pictures are for the task classify, this is embed"):
            method(embed)
    with pytest.raises(MarrowError, match="the batch has no 'label'"):
        TokenMixing(task())({"image": batch()["image"]}, END)
    with pytest.raises(MarrowError, match="pictures of 15 x 16 have no 2 x 2 equal patches"):
        TokenMixing(task())({"image": torch.rand(2, 3, 15, 16), "label": torch.tensor([0, 1])}, END)
