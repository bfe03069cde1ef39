"""Several networks distilled into one trunk, and two-stage fine-tuning said in stages."""

import math

import pytest
import torch

from marrow.core.contracts import Clock
from marrow.core.errors import MarrowError
from marrow.core.recipe import Recipe
from marrow.core.spec import build, edited
from marrow.run import run
from marrow.tasks.classify import Classify
from marrow.teach.rich_representations import RichRepresentations, members_kl
from marrow.teach.supervised import Supervised

FIRST = Clock(step=0, epoch=0, progress=0.0)
SMALL = {"img_size": 32, "channels": (8, 16, 24, 32), "stem_width": 8}
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def net(seed: int):
    torch.manual_seed(seed)
    return build({"source": "timm:resnet10t", "args": dict(SMALL)})


def teacher(count: int = 2) -> Classify:
    return edited("cat", {}, [Classify(net(s), classes=3) for s in range(count)])


def test_the_loss_by_hand():
    """Two members, two classes, T = 2: each KL is that of two coins."""
    student = torch.tensor([[[0.0, 0.0], [math.log(9.0), 0.0]]])
    teacher = torch.tensor([[[math.log(9.0), 0.0], [0.0, 0.0]]])
    p, q = 0.75, 0.5  # 9 to 1 at temperature 2 is 3 to 1
    one = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    other = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert members_kl(student, teacher, 2.0).item() == pytest.approx(4 * (one + other), rel=1e-5)


def test_the_gradient_is_as_large_at_every_high_temperature():
    draw = torch.Generator().manual_seed(1)
    teacher, start = torch.randn(8, 3, 5, generator=draw), torch.randn(8, 3, 5, generator=draw)
    found = []
    for temperature in (20.0, 40.0):
        student = start.clone().requires_grad_()
        members_kl(student, teacher, temperature).backward()
        found.append(student.grad)
    torch.testing.assert_close(*found, rtol=0.1, atol=1e-3)


def test_a_student_that_says_what_every_member_says_has_no_loss():
    """A trunk with the members' features side by side, and their heads."""
    whole = teacher().eval()
    method = RichRepresentations(edited("cat", {}, [net(0), net(1)]), whole).eval()
    with torch.no_grad():
        method.student.load_state_dict(whole.backbone.state_dict())
        method.heads.weight.zero_()
        for i, weight in enumerate(whole.head.weight.split(32, 1)):
            method.heads.weight[3 * i : 3 * i + 3, 32 * i : 32 * i + 32] = 2 * weight
        method.heads.bias.copy_((whole.head.bias + whole.head.offsets).flatten())
    step = method({"image": IMAGES}, FIRST)
    assert step.losses["members"].item() == pytest.approx(0.0, abs=1e-5)
    assert step.logs["agreement"] == 1.0


def test_every_member_is_a_target_of_its_own():
    """Members that contradict each other: their mean says nothing, yet the student is asked for both."""
    whole = teacher().eval()
    with torch.no_grad():
        whole.head.offsets.copy_(torch.tensor([[5.0, 0.0, -5.0], [-5.0, 0.0, 5.0]]))
    method = RichRepresentations(net(7), whole)
    said = method.targets({"image": IMAGES})["logits"].unflatten(1, (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(said.mean(1), whole({"image": IMAGES})["logits"])
    assert (said[:, 0].argmax(-1) == 0).all() and (said[:, 1].argmax(-1) == 2).all()


def test_the_heads_are_thrown_away():
    method = RichRepresentations(net(7), teacher())
    assert method.product() is method.student and method.heads.out_features == 6


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="rich_representations.temperature: 0.0 is not a positive number"):
        RichRepresentations(net(7), teacher(), temperature=0.0)
    with pytest.raises(MarrowError, match="the teacher is one network and has no members"):
        RichRepresentations(net(7), Classify(net(0), classes=3))


def test_polishing_moves_the_head_alone_and_starts_at_the_ensemble():
    whole = teacher()
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    method = Supervised(whole, head_only=True).train()
    loss = sum(method({"image": IMAGES, "label": torch.arange(6) % 3}, FIRST).losses.values())
    loss.backward()
    moved = {n for n, p in whole.named_parameters() if p.grad is not None}
    assert moved == {"head.weight", "head.bias"}
    assert all(torch.equal(v, before[k]) for k, v in whole.state_dict().items())


def test_stages_have_seeds_of_their_own():
    stage = {"teach": "supervised", "task": {"task": "classify", "backbone": {"backbone": "resnet10t"}, "classes": 2},
             "data": {"train": [{"images": "digits"}]}, "steps": 1}  # fmt: skip
    recipe = Recipe.from_dict({"seed": 3, "stages": [stage, stage | {"seed": 0}, stage | {"seed": 1}]})
    assert [s.seed(recipe.seed) for s in recipe.stages] == [3, 3000, 3001]
    assert [s.settings(recipe.seed).seed for s in recipe.stages] == [3, 3000, 3001]


def test_snapshots_of_one_run_are_concatenated(tmp_path):
    """Cat_n-S: stages that go on from one another at a constant step size, then side by side."""
    same = {
        "teach": "supervised",
        "data": {"train": [{"images": "digits", "split": "test", "fraction": 0.1}], "batch": 8},
        "optim": {"sgd": {"lr": 0.05}, "schedule": "constant", "warmup_percent": 0},
        "steps": 2,
    }
    task = {"task": "classify", "backbone": {"backbone": "resnet10t", **SMALL}, "classes": 10}
    snapshots = [{**same, "name": "a", "task": task}, {**same, "name": "b", "task": {"stage": "a"}}]
    cat = {"edit": "cat", "of": [{"stage": name, "part": "backbone"} for name in "ab"]}
    probed = {"examine": "few_shot", "name": "probe", "model": cat, "args": {"queries": 3, "episodes": 4},
              "data": {"test": [{"images": "digits", "split": "test"}]}}  # fmt: skip
    first, second, report = run({"seed": 0, "stages": [*snapshots, probed]}, tmp_path, quiet=True)
    a, b = first.load().backbone.eval(), second.load().backbone.eval()
    both = edited("cat", {}, [a, b]).eval()(IMAGES).pooled
    torch.testing.assert_close(both, torch.cat([a(IMAGES).pooled, b(IMAGES).pooled], 1), rtol=0, atol=0)
    assert (both[:, :32] != both[:, 32:]).any() and report.load().rows[0]["n"] == 4 * 5 * 3
