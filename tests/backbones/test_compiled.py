"""Every architecture of ours as one graph for `torch.compile`, with the numbers that it says without."""

import pytest
import torch

from marrow.core.timm_backbone import TimmBackbone

from ..common import pieces

# One of each class, and the kinds of nets that a composite may have.
NETS = {name: {} for name in pieces.our_classes().values()}
NETS["cb_resnet50"] = {"base": "test_resnet"}
NETS["vit_resnas_tiny"] = {"distilled": True, "drop_path_rate": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_forward_and_gradients_are_those_of_eager(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = TimmBackbone.create(name, **{"img_size": pieces.SIZE, **pieces.tiny(name), **NETS[name]}).eval()
    # Tracing, functions without side effects and gradients ahead of time, as the default has them; only no code is made.
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    image = torch.rand(2, 3, *net.input.size)
    weights = [p for p in net.parameters() if p.requires_grad]
    found = []
    for each in (net, compiled):
        pooled = each(image).pooled
        found.append([pooled, *torch.autograd.grad(pooled.square().sum(), weights, allow_unused=True)])
    for got, wanted in zip(*found, strict=True):
        if wanted is None:
            assert got is None
        else:
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
