import math

import pytest
import torch

from marrow.core.contracts import Backbone, Clock, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.neighbours import nearest, shared
from marrow.teach.feature_distillation import FeatureDistillation, cosine, neighbour, same_grid

FIRST = Clock(step=0, epoch=0, progress=0.0)
NETS = {
    "resnet10t": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "vit_tiny_patch16_224": {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3},
}


class Flat(Backbone):
    """The four pixels of a 2 x 2 grey image as features, times a number."""

    spec, dim, gives, input = {"source": "test:flat"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def features(self, x, *, maps=()):
        return Features(self.factor * x.flatten(1).float())


def net(name: str = "resnet10t", seed: int = 0, size: int = 32, **more) -> TimmBackbone:
    torch.manual_seed(seed)
    return TimmBackbone.create(name, img_size=size, **NETS[name], **more)


class Pictures(Source):
    def __init__(self, labelled: bool = False):
        self.labelled = labelled
        self.images = images(32, 32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], **({"label": index % 4} if self.labelled else {})}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"picture {index}"


def images(count: int, size: int) -> torch.Tensor:
    """Smooth noise: pictures that a net can tell apart."""
    draw = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    return (255 * torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")).to(torch.uint8)


def trained(method: FeatureDistillation, source: Source, steps: int) -> FeatureDistillation:
    settings = Settings(steps=steps, batch=16, optim={"main": Optim("adamw", lr=3e-3)})
    Engine(settings, device="cpu").train(method, Data({"train": source}))
    return method


def identity(method: FeatureDistillation) -> FeatureDistillation:
    with torch.no_grad():
        method.projection.weight.copy_(torch.eye(*method.projection.weight.shape))
        method.projection.bias.zero_()
    return method


def test_the_loss_by_hand():
    method = identity(FeatureDistillation(Flat(), Flat()))
    with torch.no_grad():
        method.projection.weight[1] = 0.0  # the projection forgets the second pixel
    batch = {"image": torch.tensor([[1.0, 1.0, 0.0, 0.0], [3.0, 0.0, 4.0, 0.0]]).view(2, 1, 2, 2)}
    step = method(batch, FIRST)
    # cosines: (1, 0) with (1, 1), and (3, 4) with itself
    wanted = (math.sqrt(0.5) + 1) / 2
    assert step.losses.keys() == {"pooled"}
    assert step.losses["pooled"].item() == pytest.approx(1 - wanted, abs=1e-6)
    assert step.logs["cosine"].item() == pytest.approx(wanted, abs=1e-6)


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient():
    method = identity(FeatureDistillation(net(), net())).eval()
    step = method({"image": images(8, 32)}, FIRST)
    step.losses["pooled"].backward()
    assert step.losses["pooled"].item() == pytest.approx(0.0, abs=1e-6)
    assert max(p.grad.abs().max().item() for p in method.student.parameters()) < 1e-5


def test_how_long_the_features_are_does_not_matter():
    batch = {"image": torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))}
    losses = []
    for factor in (1.0, 100.0):
        torch.manual_seed(0)
        losses.append(FeatureDistillation(Flat(), Flat(factor))(batch, FIRST).losses["pooled"])
    torch.testing.assert_close(*losses)


def test_labels_make_no_difference_to_the_bit():
    methods = []
    for labelled in (True, False):
        torch.manual_seed(0)
        methods.append(trained(FeatureDistillation(net(), net(seed=1)), Pictures(labelled), 3).state_dict())
    assert all(torch.equal(v, methods[1][k]) for k, v in methods[0].items())


def test_the_students_neighbours_become_its_teachers():
    source, student, teacher = Pictures(), net(), net("vit_tiny_patch16_224", seed=1)

    def agreement() -> float:
        found = []
        for model in (student.eval(), teacher.eval()):
            with torch.no_grad():
                pooled = model(source.images).pooled
            # Without the image itself, which is its own nearest.
            found.append(nearest(pooled, pooled, 6)[1][:, 1:])
        return shared(*found).mean().item()

    before = agreement()
    torch.manual_seed(0)
    method = FeatureDistillation(student, teacher, crop=None, flip=False)
    trained(method, source, 60)
    assert method.product() is student
    assert agreement() > before + 0.1


def test_neighbours_by_hand():
    # By angle: 0 and 1 are each other's nearest, 2's is 1, 3's is 2; lengths do not matter.
    a = torch.tensor([[9.0, 0.0], [1.0, 0.2], [1.0, 1.0], [0.0, 3.0]])
    assert neighbour(a, a * torch.tensor([[1.0], [5.0], [0.1], [2.0]])) == 1.0
    # Here 2's nearest is 3, the others' stay.
    b = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 1.0, 0.9], [0.0, 1.0, 1.0]])
    assert neighbour(a, b) == 0.75


def test_neighbours_are_logged_without_a_gradient_and_not_for_one_image():
    method = FeatureDistillation(net(), net()).eval()
    step = method({"image": images(8, 32)}, FIRST)
    assert step.logs["neighbour"] == 1.0 and not step.logs["neighbour"].requires_grad
    assert "neighbour" not in method({"image": images(1, 32)}, FIRST).logs


def test_each_network_gets_the_view_at_its_own_size():
    method = FeatureDistillation(net(size=32), net(size=48, seed=1)).eval()
    assert method.views()(Pictures()[0])["image"].shape == (3, 48, 48)
    sizes = []
    for each in (method.student, method.teacher.module):
        each.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    method({"image": images(4, 48)}, FIRST)
    assert sizes == [(32, 32), (48, 48)]


def test_maps_meet_on_the_coarser_grid():
    fine, coarse = torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    a, b = same_grid(fine, coarse)
    assert a.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(b, coarse)
    assert [m.shape[-2:] for m in same_grid(torch.ones(1, 2, 7, 3), torch.ones(1, 2, 4, 5))] == [(4, 3)] * 2


def test_the_dense_term_is_the_weighted_cosine_of_the_last_maps():
    method = FeatureDistillation(net(), net("vit_tiny_patch16_224", seed=1), dense=0.5).eval()
    batch = {"image": images(4, 32)}
    step = method(batch, FIRST)
    student, teacher = (m(batch["image"], maps=(-1,)).maps[0] for m in (method.student, method.teacher.module))
    assert student.shape == (4, 32, 1, 1) and teacher.shape == (4, 48, 4, 4)
    alike = cosine(method.map_projection(student), teacher.mean((2, 3), keepdim=True))
    torch.testing.assert_close(step.losses["dense"], 0.5 * (1 - alike))
    torch.testing.assert_close(step.logs["dense_cosine"], alike)


def test_without_the_dense_term_it_has_nothing_for_it():
    method = FeatureDistillation(net(), net(seed=1))
    assert not hasattr(method, "map_projection")
    assert method({"image": images(2, 32)}, FIRST).losses.keys() == {"pooled"}


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="feature_distillation.dense: a weight of -1.0 is below 0"):
        FeatureDistillation(net(), net(), dense=-1.0)
    with pytest.raises(MarrowError, match="compares maps, which the teacher does not give"):
        FeatureDistillation(net(), Flat(), dense=1.0)
    with pytest.raises(MarrowError, match="teacher sees 3 channels, student 1; they share every view"):
        FeatureDistillation(net(in_chans=1, mean=(0.5,), std=(0.5,)), net())


def test_stored_features_give_the_same_student_to_the_bit(tmp_path):
    settings = Settings(steps=5, batch=16, optim={"main": Optim("sgd", lr=0.05)}, cached_views=2)
    made = []
    for cache in (None, tmp_path, tmp_path):
        method = FeatureDistillation(net(), net("vit_tiny_patch16_224", seed=1))
        Engine(settings, device="cpu", cache=cache).train(method, Data({"train": Pictures()}))
        made.append(method.state_dict())
    assert all(torch.equal(v, made[1][k]) and torch.equal(v, made[2][k]) for k, v in made[0].items())


def test_maps_are_not_stored(tmp_path):
    method = FeatureDistillation(net(), net(seed=1), dense=0.5)
    with pytest.raises(MarrowError, match="the teacher's 'map' has 32 x 1 x 1 values an example, and only vectors"):
        Engine(Settings(steps=1, batch=8, cached_views=2), device="cpu", cache=tmp_path).train(
            method, Data({"train": Pictures()})
        )
