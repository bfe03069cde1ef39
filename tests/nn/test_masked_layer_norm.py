import numpy as np
import torch
from torch.nn import functional as F

from marrow.nn.masked_layer_norm import masked_layer_norm


def test_golden(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "vit_resnas" / "masked_layernorm_16.npz").items()}
    found = masked_layer_norm(case["x"], case["w:weight"], case["w:bias"], case["mask"], float(case["eps"]))
    torch.testing.assert_close(found, case["y"], rtol=0, atol=1e-4)


def test_with_all_channels_it_is_the_usual_one():
    x, weight, bias = torch.randn(2, 5, 8), torch.randn(8), torch.randn(8)
    found = masked_layer_norm(x, weight, bias, torch.ones(2, 1, 8))
    torch.testing.assert_close(found, F.layer_norm(x, (8,), weight, bias, 1e-6))


def test_each_example_has_the_net_of_its_own_channels():
    torch.manual_seed(0)
    weight, bias = torch.randn(8), torch.randn(8)
    mask = (torch.arange(8) < torch.tensor([[8], [5]])).float()[:, None]
    x = (torch.randn(2, 3, 8) * mask).requires_grad_()
    found = masked_layer_norm(x, weight, bias, mask)
    narrow = x.detach()[1:, :, :5].requires_grad_()
    wanted = F.layer_norm(narrow, (5,), weight[:5], bias[:5], 1e-6)
    torch.testing.assert_close(found[1:, :, :5], wanted)
    assert not found[1, :, 5:].any()
    cotangent = torch.randn(1, 3, 5)
    found[1:, :, :5].backward(cotangent)
    wanted.backward(cotangent)
    torch.testing.assert_close(x.grad[1:, :, :5], narrow.grad)
    assert not x.grad[1, :, 5:].any()
