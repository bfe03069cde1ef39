import math

import pytest
import torch
from torch.nn import functional as F

from marrow.core.contracts import Clock
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.pixel_pairs import positive_pairs
from marrow.teach.pixcontrast import PixContrast, pixel_nce

FIRST = Clock(step=0, epoch=0, progress=0.0)


def method(**args) -> PixContrast:
    torch.manual_seed(0)
    net = TimmBackbone.create("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3)
    return PixContrast(net, hidden=16, out=8, **args)


def test_against_a_written_out_loop():
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 5, 3, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    boxes = torch.tensor([[[0.0, 0.0, 0.6, 0.6], [0.3, 0.2, 0.9, 0.8]], [[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]],
                          [[0.0, 0.0, 0.2, 0.2], [0.7, 0.7, 1.0, 1.0]]], dtype=torch.float64)  # fmt: skip
    positive = positive_pairs(boxes[:, 0], boxes[:, 1], (3, 3), (3, 3), 0.9)
    pictures = []
    for p in range(3):
        one, two = (F.normalize(x[p].flatten(1), dim=0) for x in (a, b))
        lost = []
        for i in range(9):
            alike = [math.exp(float(one[:, i] @ two[:, j]) / 0.3) for j in range(9)]
            mine = sum(value for value, own in zip(alike, positive[p, i].tolist()) if own)
            lost += [-math.log(mine / sum(alike))] if mine else []
        pictures.append(sum(lost) / len(lost) if lost else 0.0)
    assert pictures[2] == 0.0 and positive[0].any() and not positive[0].any(1).all()
    assert pixel_nce(a, b, positive, 0.3).item() == pytest.approx(sum(pictures) / 3)


def test_orthogonal_places_of_the_same_view_by_hand():
    x = torch.eye(4).view(1, 4, 2, 2)
    positive = torch.eye(4, dtype=torch.bool)[None]
    assert pixel_nce(x, x, positive, 0.5).item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-6)
    assert pixel_nce(x, x, torch.ones_like(positive), 0.5).item() == pytest.approx(0.0, abs=1e-6)


def test_views_that_share_nothing_have_neither_loss_nor_gradient():
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = pixel_nce(x, x.detach(), torch.zeros(1, 4, 4, dtype=torch.bool), 0.3)
    loss.backward()
    assert loss == 0 and x.grad.abs().max() == 0


def test_the_copy_is_aimed_at_and_follows():
    trained = method()
    draw = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2, 4, 3, 32, 32), generator=draw, dtype=torch.uint8)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)
    batch = {"view_1": views[0], "view_2": views[1], "box_1": whole, "box_2": whole}
    loss = trained(batch, FIRST).losses["pixels"]
    loss.backward()
    assert 0 < loss < 10 and all(p.grad is None for p in trained.copy.parameters())
    with torch.no_grad():
        trained.online.pixels[0].bias.add_(1.0)
    before = trained.copy.module.pixels[0].bias.clone()
    trained.after_step(FIRST)
    torch.testing.assert_close(trained.copy.module.pixels[0].bias, before + 0.01)


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="^pixcontrast.temperature: 0.0 is not above 0"):
        method(temperature=0.0)
    with pytest.raises(MarrowError, match="^pixcontrast.momentum: a momentum of 1.5 is outside"):
        method(momentum=1.5)
