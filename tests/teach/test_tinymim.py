import pytest
import torch

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.data.views import Augment
from marrow.teach.tinymim import Jittered, TinyMIM

FIRST = Clock(step=0, epoch=0, progress=0.0)
SMALL = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}


def net(name: str = "vit_tiny_patch16_224", seed: int = 0, size: int = 32, **more) -> TimmBackbone:
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
    ({"patch_size": 4}, {}, {}, "tinymim: teacher 16 patch tokens, student 64: they need the same grid"),
    ({}, {"embed_dim": 70, "num_heads": 7}, {}, "tinymim.student: the teacher has 7 heads, into which the student's width 48"),
    ({}, {}, {"teacher_layer": 3}, "tinymim.teacher_layer: there is no block 3 in a net of 3, which are 0 to 2"),
    ({}, {}, {"student_layer": -4}, "tinymim.student_layer: there is no block -4"),
    ({}, {}, {"relations": ("qx",)}, "tinymim.relations: 'qx' is no relation"),
    ({}, {}, {"relations": ()}, "tinymim.relations: there is nothing to learn"),
    ({}, {}, {"features": -1.0}, "tinymim.features: "),
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
