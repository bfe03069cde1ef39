from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.teach.hybrid_distillation import HybridDistillation, behind, same_depth, student_layers

FIRST = Clock(step=0, epoch=0, progress=0.0)
SMALL = {"patch_size": 8, "depth": 6, "embed_dim": 48, "num_heads": 3}


def net(name: str = "vit_tiny_patch16_224", seed: int = 0, **more) -> TimmBackbone:
    torch.manual_seed(seed)
    return TimmBackbone.create(name, **{"img_size": 32, **SMALL, **more})


def batch(count: int = 3) -> dict:
    return {"image": torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))}


def losses(method: HybridDistillation, on: dict | None = None) -> dict[str, float]:
    return {name: loss.item() for name, loss in method(on or batch(), FIRST).losses.items()}


def test_a_student_equal_to_its_relation_teacher_has_no_loss_while_all_tokens_live():
    same = losses(HybridDistillation(net(), net(), net(seed=2), keep=1.0, beta=0.0))
    assert same.keys() == {"qk", "vv"} and max(map(abs, same.values())) < 1e-5
    assert min(losses(HybridDistillation(net(), net(seed=1), net(seed=2), keep=1.0, beta=0.0)).values()) > 1e-4


def test_without_alpha_it_is_feature_distillation():
    method = HybridDistillation(net(), net(seed=1), net(seed=2, embed_dim=24), alpha=0.0, keep=1.0)
    step = method(batch(), FIRST)
    with torch.no_grad():
        last = method.feature_teacher(batch()["image"], maps=(-1,)).maps[0].flatten(2).transpose(1, 2)
        mine = method.projection(method.student(batch()["image"]).tokens)
    wanted = F.smooth_l1_loss(mine, F.layer_norm(last, (24,)), beta=2.0)
    assert step.losses.keys() == {"features"}
    torch.testing.assert_close(step.losses["features"].detach(), wanted)


def test_weights_scale_the_losses():
    torch.manual_seed(0)
    method = HybridDistillation(net(), net(seed=1), net(seed=2))
    one = losses(method)
    method.alpha, method.beta = 3.0, 0.5
    for name, factor in (("qk", 3.0), ("vv", 3.0), ("features", 0.5)):
        assert losses(method)[name] == pytest.approx(factor * one[name], rel=1e-5)


def test_each_block_is_compared_on_the_tokens_that_it_sees():
    early, late = torch.tensor([[0, 1]]), torch.tensor([[0]])
    live = {1: early, 3: late}
    assert [
        behind(live, block) is want for block, want in ((0, None), (1, None), (2, early), (3, early), (4, late))
    ] == [True] * 5


def test_the_loss_sees_live_tokens_alone():
    """A teacher that differs in the dropped tokens only cannot matter: teachers with the student's own weights prove it."""
    method = HybridDistillation(net(), net(), net(seed=2), layers=(1,), beta=0.0)
    assert (
        method.after == [2, 4] and max(map(abs, losses(method).values())) < 1e-5
    )  # block 1 runs before anything leaves
    shown = []
    method = HybridDistillation(net(), net(seed=1), net(seed=2), layers=(1, 2, 4), beta=0.0)
    teacher = method.asked(batch())
    live = {1: torch.arange(12).expand(3, -1), 3: torch.arange(9).expand(3, -1)}
    for tokens, block in zip(teacher, method.layers):
        shown.append(method.shown(tokens, live, block).q.shape[2])
    assert shown == [17, 13, 10]


def test_layers_by_default_leave_out_the_last():
    assert student_layers((), 12) == [9, 10] and student_layers((), 2) == [0]
    assert student_layers((-3, 1), 6) == [1, 3]
    assert [same_depth(i, 12, 24) for i in (9, 10)] == [19, 21] and same_depth(4, 6, 6) == 4
    assert same_depth(0, 12, 2) == 0


def test_the_feature_teacher_may_be_a_convolutional_net():
    resnet = TimmBackbone.create("cifar_resnet20", img_size=32)
    method = HybridDistillation(net(patch_size=4), net(seed=1, patch_size=4), resnet)
    assert method.projection.out_features == 64 and losses(method).keys() == {"qk", "vv", "features"}


def test_other_heads_prefixes_and_depths():
    method = HybridDistillation(
        net(), net(seed=1, num_heads=6, depth=3, class_token=False, global_pool="avg"), net(seed=2)
    )
    assert method.heads == 6 and method.teacher_layers == [1, 2] and method.prefixes == (1, 0)
    assert min(losses(method).values()) > 0


def test_a_teacher_that_is_left_out_is_neither_held_against_the_student_nor_run():
    """One of another grid, and with heads or channels that would not fit; its own passes are counted."""
    strange = {"patch_size": 4, "embed_dim": 70, "num_heads": 7, "img_size": 64}
    for left_out, arguments in ((1, {"alpha": 0.0, "layers": (1,)}), (2, {"beta": 0.0})):
        nets = [net(seed=i, **(strange if i == left_out else {})) for i in range(3)]
        method = HybridDistillation(*nets, **arguments)
        ran = []
        for index, each in enumerate(nets):
            each.net.patch_embed.register_forward_hook(lambda *_, ran=ran, index=index: ran.append(index))
        assert min(losses(method).values()) > 0 and sorted(ran) == [i for i in range(3) if i != left_out]
        assert method.views().size == (32, 32)


def test_the_blocks_that_a_teacher_of_another_depth_answers_from_are_said():
    assert HybridDistillation(net(), net(seed=1), net(seed=2)).remarks(None) == []
    deep = HybridDistillation(net(), net(seed=1, depth=12), net(seed=2), layers=(1, 3))
    [sentence] = deep.remarks(None)
    assert sentence.endswith("blocks of the student take over relations so: 1 from 3, 3 from 7")


def test_the_recipe_measures_its_classifiers_on_pictures_that_neither_was_trained_on():
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "hybrid_distillation.yaml").read_text("utf-8"))
    found = {s["name"]: s["data"] for s in recipe["stages"] if s.get("teach") == "supervised"}
    assert found.keys() == {"features", "probe"}
    for data in found.values():
        (train,), (val,) = data["train"], data["val"]
        assert (train["images"], train["split"]) == (val["images"], val["split"]) == ("cifar10", "train")
        assert val["hash"] == [0.0, train["hash"][0]]


def test_training_lowers_all_three():
    teachers = net(seed=1), net(seed=2)
    with torch.no_grad():
        for block in teachers[0].net.blocks:
            block.attn.qkv.weight.mul_(8.0)
    torch.manual_seed(0)
    method = HybridDistillation(net(), *teachers, crop=None, flip=False)
    digits = open_source({"images": "digits"}, "train")
    shown = {"image": torch.stack([method.view(digits[i])["image"] for i in range(64)])}
    before = losses(method, shown)
    settings = Settings(steps=20, batch=32, optim={"main": Optim("adamw", lr=3e-3)})
    Engine(settings, device="cpu").train(method, Data({"train": digits}))
    after = losses(method.train(), shown)
    assert all(after[name] < 0.9 * before[name] for name in before)
    assert type(method.product()) is TimmBackbone and not any("projection" in k for k in method.product().state_dict())


@pytest.mark.parametrize(("models", "arguments", "message"), [
    ({}, {"layers": (5,)}, "hybrid_distillation.layers: the last block of 6 is left to the features"),
    ({}, {"layers": (6,)}, "hybrid_distillation.layers: there is no block 6 in a net of 6"),
    ({}, {"keep": 0.0}, "hybrid_distillation.keep: 0.0 is no share"),
    ({}, {"keep": 1.2}, "hybrid_distillation.keep: 1.2 is no share"),
    ({}, {"alpha": -1.0}, "hybrid_distillation.alpha: "),
    ({}, {"alpha": 0.0, "beta": 0.0}, "hybrid_distillation.alpha: weights of 0.0 and 0.0 leave nothing to learn"),
    ({1: {"patch_size": 4}}, {}, "hybrid_distillation.relation_teacher: teacher 8 x 8 patch tokens, student 4 x 4: "),
    ({0: {"img_size": (16, 64)}}, {},
     "hybrid_distillation.relation_teacher: teacher 4 x 4 patch tokens, student 2 x 8: "),
    ({2: {"patch_size": 4}}, {},
     "hybrid_distillation.feature_teacher: the last map of the teacher is 8 x 8, the student has 4 x 4 patch tokens: "),
    ({2: {"img_size": (16, 64)}}, {},
     "hybrid_distillation.feature_teacher: the last map of the teacher is 2 x 8, the student has 4 x 4 patch tokens: "),
    ({1: {"embed_dim": 70, "num_heads": 7}}, {}, "hybrid_distillation.student: the teacher has 7 heads"),
])  # fmt: skip
def test_bad_input(models, arguments, message):
    with pytest.raises(MarrowError) as error:
        HybridDistillation(*(net(seed=i, **models.get(i, {})) for i in range(3)), **arguments)
    assert str(error.value).startswith(message)


def test_tokens_cannot_leave_a_student_that_knows_positions_in_its_attention():
    student = net("eva02_tiny_patch14_224")
    with pytest.raises(MarrowError, match="hybrid_distillation needs a net whose tokens can be left out; eva02_tiny"):
        HybridDistillation(student, net(seed=1), net(seed=2))
    assert min(losses(HybridDistillation(student, net(seed=1), net(seed=2), keep=1.0)).values()) > 0
