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
from marrow.data.views import Augment
from marrow.nn.block_attention import up_to
from marrow.nn.loose_tokens import only, restricted, seen
from marrow.nn.token_relations import relation_kl
from marrow.teach.tinymim import TARGETS, Jittered, TinyMIM

RECIPES = Path(__file__).parents[2] / "recipes"
FIRST = Clock(step=0, epoch=0, progress=0.0)
SMALL = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}


def net(name: str = "vit_tiny_patch16_224", seed: int = 0, size: int | tuple[int, int] = 32, **more) -> TimmBackbone:
    torch.manual_seed(seed)
    return TimmBackbone.create(name, img_size=size, **{**SMALL, **more})


def batch(count: int = 4) -> dict:
    return {"image": torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))}


def losses(method: TinyMIM, on: dict | None = None) -> dict[str, float]:
    return {name: loss.item() for name, loss in method(on or batch(), FIRST).losses.items()}


def test_a_student_equal_to_its_teacher_has_no_loss():
    same = losses(TinyMIM(net(), net(), relations=("qk", "vv", "qq", "kk")))
    assert same.keys() == {"qk", "vv", "qq", "kk"} and max(map(abs, same.values())) < 1e-6
    other = losses(TinyMIM(net(), net(seed=1)))
    assert min(other.values()) > 1e-5


def test_the_gradient_stops_at_the_queries_keys_and_values():
    student = net()
    method = TinyMIM(student, net(seed=1, embed_dim=96))
    sum(method(batch(), FIRST).losses.values()).backward()
    reached = {n for n, p in student.net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    last = {n for n in reached if n.startswith("blocks.2")}
    assert last == {f"blocks.2.{n}" for n in ("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias")}
    assert not any(n.startswith(("norm", "fc_norm")) for n in reached) and "blocks.1.mlp.fc2.weight" in reached
    assert reached == {n for n, p in student.net.named_parameters() if p.requires_grad}


def test_what_is_not_trained_is_kept_as_it_was():
    student = net()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    settings = Settings(steps=3, batch=8, optim={"main": Optim("adamw", lr=1e-2, args={"weight_decay": 0.5})})
    method = TinyMIM(student, net(seed=1), flip=False)
    Engine(settings, device="cpu").train(method, Data({"train": open_source({"images": "digits"}, "train")}))
    moved = {k for k, v in method.product().state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {n for n, p in student.named_parameters() if p.requires_grad}
    assert "net.blocks.2.attn.proj.weight" not in moved and "net.blocks.2.attn.qkv.weight" in moved


def test_distilling_brings_the_relations_closer():
    settings = Settings(steps=25, batch=32, optim={"main": Optim("adamw", lr=3e-3)})
    teacher = net(seed=1)
    with torch.no_grad():
        for block in teacher.net.blocks:  # attention that has something to say
            block.attn.qkv.weight.mul_(8.0)
    method = TinyMIM(net(depth=2), teacher, crop=None, flip=False, jitter=0.0)
    digits = open_source({"images": "digits"}, "train")
    shown = {"image": torch.stack([method.view(digits[i])["image"] for i in range(64)])}
    before = losses(method, shown)
    Engine(settings, device="cpu").train(method, Data({"train": digits}))
    after = losses(method, shown)
    assert all(after[kind] < 0.8 * before[kind] for kind in ("qk", "vv"))


def test_heads_and_widths_may_differ():
    method = TinyMIM(net(), net(seed=1, embed_dim=96, num_heads=6, depth=4), student_layer=1, teacher_layer=2)
    assert (method.heads, method.student_block, method.teacher_block) == (6, 1, 2)
    assert min(losses(method).values()) > 0
    assert method.product().net.blocks[1].attn.num_heads == 3


def test_prefix_tokens_that_only_one_has_are_left_out():
    method = TinyMIM(net(reg_tokens=2), net(seed=1, class_token=False, global_pool="avg"))
    assert method.prefixes == (3, 0)
    assert min(losses(method).values()) > 0
    assert TinyMIM(net(), net(seed=1)).prefixes == (0, 0)


def test_features_are_the_ablation():
    method = TinyMIM(net(), net(seed=1, embed_dim=96), relations=(), features=2.0)
    step = method(batch(), FIRST)
    assert step.losses.keys() == {"features"} and method.projection.weight.shape == (96, 48)
    step.losses["features"].backward()
    assert {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None} == set()
    double = TinyMIM(net(), net(seed=1), relations=(), features=4.0)
    single = TinyMIM(net(), net(seed=1), relations=(), features=2.0)
    double.projection.load_state_dict(single.projection.state_dict())
    assert losses(double)["features"] == pytest.approx(2 * losses(single)["features"], rel=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("distance", ["smooth_l1", "mse"])
def test_any_feature_can_be_the_target(target, distance):
    student, teacher = net(), net(seed=1, embed_dim=96, num_heads=6)
    method = TinyMIM(student, teacher, relations=(), features=2.0, target=target, distance=distance).eval()
    said, wanted = (up_to(each, batch()["image"], [2], feature="block" if target == "class_token" else target)[2].x
                    for each in (student, teacher))  # fmt: skip
    if target == "class_token":
        said, wanted = said[:, 0], wanted[:, 0]
    away = method.projection(said) - F.layer_norm(wanted, (96,))
    plain = away.square() if distance == "mse" else torch.where(away.abs() < 2, away.square() / 4, away.abs() - 1)
    step = method(batch(), FIRST)
    assert step.losses.keys() == {"features"}
    torch.testing.assert_close(step.losses["features"], 2 * plain.mean())
    step.losses["features"].backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in trained.items() if p.grad is None} == set()
    assert ("student.net.blocks.2.mlp.fc2.weight" in trained) == (target in ("mlp", "block", "class_token"))


def test_only_relations_need_the_teachers_heads():
    nets = net(), net(seed=1, embed_dim=70, num_heads=7)
    method = TinyMIM(*nets, relations=(), features=1.0, target="q")
    assert method.heads == 3 and method.projection.weight.shape == (70, 48) and losses(method)["features"] > 0


def test_prefix_tokens_that_only_one_has_are_in_no_feature_but_the_class_token():
    nets = net(reg_tokens=2), net(seed=1)
    patches = TinyMIM(*nets, relations=(), features=1.0, target="block").eval()
    assert patches.prefixes == (3, 1)
    student, teacher = (up_to(each, batch()["image"], [2], feature="block")[2].x for each in nets)
    wanted = F.smooth_l1_loss(patches.projection(student[:, 3:]), F.layer_norm(teacher[:, 1:], (48,)), beta=2.0)
    torch.testing.assert_close(patches(batch(), FIRST).losses["features"], wanted)
    first = TinyMIM(*nets, relations=(), features=1.0, target="class_token").eval()
    wanted = F.smooth_l1_loss(first.projection(student[:, 0]), F.layer_norm(teacher[:, 0], (48,)), beta=2.0)
    torch.testing.assert_close(first(batch(), FIRST).losses["features"], wanted)


def test_relations_without_softmax_are_products():
    student, teacher = net(), net(seed=1)
    method = TinyMIM(student, teacher, relations=("qk", "kk"), softmax=False).eval()
    mine, theirs = (up_to(each, batch()["image"], [2])[2] for each in (student, teacher))
    found = method(batch(), FIRST).losses
    for kind in ("qk", "kk"):
        a, b = ((getattr(each, kind[0]) @ getattr(each, kind[1]).mT) / 16**0.5 for each in (mine, theirs))
        torch.testing.assert_close(found[kind], (a - b).square().mean())
    assert max(losses(TinyMIM(net(), net(), softmax=False)).values()) < 1e-9


def test_a_masked_student_is_compared_on_what_it_sees():
    student, teacher = net(), net(seed=1)
    method = TinyMIM(student, teacher, features=1.0, target="v", mask=0.75).eval()
    torch.manual_seed(4)
    found = method(batch(), FIRST).losses
    torch.manual_seed(4)
    places = seen(4, 16, 0.75)
    assert places.shape == (4, 4)
    with only(student, places):
        mine = up_to(student, batch()["image"], [2], feature="v")[2]
    theirs = restricted(up_to(teacher, batch()["image"], [2], feature="v")[2], places, 1)
    assert mine.q.shape == theirs.q.shape == (4, 3, 5, 16)
    for kind in ("qk", "vv"):
        torch.testing.assert_close(found[kind], relation_kl(mine, theirs, kind))
    wanted = F.smooth_l1_loss(method.projection(mine.x), F.layer_norm(theirs.x, (48,)), beta=2.0)
    torch.testing.assert_close(found["features"], wanted)


def test_what_a_masked_student_does_not_see_does_not_matter_to_it():
    """Its own tokens stay as they are where a hidden patch changes; the teacher sees the whole picture."""
    method = TinyMIM(net(), net(seed=1, class_token=False, global_pool="avg"), mask=0.5).eval()
    torch.manual_seed(4)
    hidden = min(set(range(16)) - set(seen(1, 16, 0.5)[0].tolist()))
    image = batch(1)["image"]
    other = image.clone()
    other[..., hidden // 4 * 8 : hidden // 4 * 8 + 8, hidden % 4 * 8 : hidden % 4 * 8 + 8] = 0.5
    found = []
    for jittered in (image, other):
        torch.manual_seed(4)
        found.append(losses(method, {"image": image, "jittered": jittered}))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    torch.manual_seed(4)
    assert losses(method, {"image": other, "jittered": image}) != pytest.approx(found[0], rel=1e-6)


def test_a_share_of_a_teachers_blocks():
    teacher = net(seed=1, depth=4)
    assert TinyMIM(net(), teacher, teacher_layer=0.75).teacher_block == 2
    assert TinyMIM(net(), teacher, teacher_layer=1.0).teacher_block == 3
    assert TinyMIM(net(), teacher, teacher_layer=1).teacher_block == 1


def test_every_ablation_trains():
    """Two steps on the digits: finite, and the student moves."""
    digits = open_source({"images": "digits"}, "train")
    for arguments in ({"softmax": False, "mask": 0.5}, {"features": 1.0, "target": "class_token", "distance": "mse"}):
        student = net(drop_path_rate=0.1)
        before = student.net.blocks[0].attn.qkv.weight.clone()
        method = TinyMIM(student, net(seed=1), teacher_layer=0.75, **arguments)
        Engine(Settings(steps=2, batch=8, optim={"main": Optim("adamw", lr=1e-3)}), device="cpu").train(
            method, Data({"train": digits})
        )
        assert not torch.equal(before, student.net.blocks[0].attn.qkv.weight)
        assert all(torch.isfinite(p).all() for p in student.parameters())


def test_the_students_drop_path_is_in_the_recipes():
    """0.1 in every student of the paper's size; what is no Python argument here is one of the backbone."""
    students = [stage["student"] for name in ("tinymim", "tinymim_star")
                for stage in yaml.safe_load((RECIPES / f"{name}.full.yaml").read_text("utf-8"))["stages"]
                if stage.get("teach") == "tinymim"]  # fmt: skip
    assert [student["drop_path_rate"] for student in students] == [0.1] * 4


def test_the_recipe_measures_its_classifier_on_pictures_that_it_was_not_trained_on():
    stages = yaml.safe_load((RECIPES / "tinymim.yaml").read_text("utf-8"))["stages"]
    [data] = [stage["data"] for stage in stages if stage["teach"] == "supervised"]
    (train,), (val,) = data["train"], data["val"]
    assert (train["images"], train["split"]) == (val["images"], val["split"]) == ("cifar10", "train")
    assert val["hash"] == [0.0, train["hash"][0]]


def test_each_student_can_teach_the_next():
    """The paper's order, large to base to small to tiny: a product is a teacher, whatever heads taught it."""
    nets = [net(seed=i, embed_dim=dim, num_heads=heads) for i, (dim, heads) in enumerate([(96, 6), (72, 6), (48, 3)])]
    large, base, small = nets
    taught = TinyMIM(base, large).product()
    method = TinyMIM(small, taught)
    assert method.heads == 6 and min(losses(method).values()) > 0


def test_the_teacher_sees_the_same_cut_in_its_own_colours():
    view = Jittered(Augment((32, 32), crop=(0.2, 1.0)), 0.4)
    picture = torch.randint(40, 200, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    shown = view({"image": picture})
    torch.manual_seed(5)
    plain = Augment((32, 32), crop=(0.2, 1.0))({"image": picture})
    assert torch.equal(shown["image"], plain["image"])
    assert shown["jittered"].shape == (3, 32, 32) and not torch.equal(shown["jittered"], shown["image"])
    method = TinyMIM(net(), net(), flip=False)
    moved = {"image": batch()["image"], "jittered": batch()["image"].flip(-1)}
    assert method(moved, FIRST).losses["qk"] > 1e-6 > losses(method)["qk"]


def test_pictures_do_not_depend_on_each_other():
    method = TinyMIM(net(), net(seed=1)).eval()
    whole = method(batch(4), FIRST).losses["vv"]
    halves = [method({"image": batch(4)["image"][part]}, FIRST).losses["vv"] for part in (slice(2), slice(2, 4))]
    torch.testing.assert_close(whole, sum(halves) / 2)


@pytest.mark.parametrize(("student", "teacher", "arguments", "message"), [
    ({"patch_size": 4}, {}, {}, "tinymim: teacher 4 x 4 patch tokens, student 8 x 8: they need the same grid"),
    ({"size": (16, 64)}, {}, {}, "tinymim: teacher 4 x 4 patch tokens, student 2 x 8: they need the same grid"),
    ({}, {"embed_dim": 70, "num_heads": 7}, {}, "tinymim.student: the teacher has 7 heads, into which the student's width 48"),
    ({}, {}, {"teacher_layer": 3}, "tinymim.teacher_layer: there is no block 3 in a net of 3, which are 0 to 2"),
    ({}, {}, {"teacher_layer": 0.1}, "tinymim.teacher_layer: 0.1 of 3 blocks ends with none of them"),
    ({}, {}, {"teacher_layer": -1.0}, "tinymim.teacher_layer: -1.0 of 3 blocks ends with none of them"),
    ({}, {}, {"student_layer": -4}, "tinymim.student_layer: there is no block -4"),
    ({}, {}, {"relations": ("qx",)}, "tinymim.relations: 'qx' is no relation"),
    ({}, {}, {"relations": ()}, "tinymim.relations: there is nothing to learn"),
    ({}, {}, {"features": -1.0}, "tinymim.features: "),
    ({}, {}, {"features": 1.0, "target": "head"}, "tinymim.target: 'head' is none of input, q, k, v, attention, "),
    ({}, {}, {"features": 1.0, "distance": "l1"}, "tinymim.distance: 'l1' is none of smooth_l1, mse"),
    ({}, {}, {"target": "mlp"}, "tinymim.features: 'target' and 'distance' are about features, whose weight is 0"),
    ({}, {}, {"distance": "mse"}, "tinymim.features: 'target' and 'distance' are about features, whose weight is 0"),
    ({}, {}, {"relations": (), "features": 1.0, "softmax": False}, "tinymim.softmax: there are no relations"),
    ({"class_token": False, "global_pool": "avg"}, {}, {"features": 1.0, "target": "class_token"},
     "tinymim.student: a class token is compared, and this net has none"),
    ({}, {"class_token": False, "global_pool": "avg"}, {"features": 1.0, "target": "class_token"},
     "tinymim.teacher: a class token is compared, and this net has none"),
    ({}, {}, {"mask": 0.99}, "tinymim.mask: a share of 0.99 hides 16 of 16 patches"),
    ({}, {}, {"mask": -0.5}, "tinymim.mask: a share of -0.5 hides -8 of 16 patches"),
    ({"name": "eva02_tiny_patch14_224"}, {}, {"mask": 0.5},
     "tinymim.student: tinymim needs a net whose tokens can be left out; eva02_tiny_patch14_224 has the positions"),
    ({}, {}, {"jitter": -0.1}, "tinymim.jitter: a strength of -0.1 is below 0"),
])  # fmt: skip
def test_bad_input(student, teacher, arguments, message):
    with pytest.raises(MarrowError) as error:
        TinyMIM(net(**student), net(**teacher), **arguments)
    assert str(error.value).startswith(message)


def test_published_sizes():
    with torch.device("meta"):
        nets = {size: TimmBackbone.create(f"vit_{size}_patch16_224") for size in ("tiny", "small", "base")}
    params = {size: sum(p.numel() for p in backbone.parameters()) for size, backbone in nets.items()}
    assert {size: round(n / 1e6, 2) for size, n in params.items()} == {"tiny": 5.52, "small": 21.67, "base": 85.8}
