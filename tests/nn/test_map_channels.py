import pytest
import torch

from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.map_channels import map_channels

NETS = {
    "resnet10t": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "vit_tiny_patch16_224": {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3},
}


@pytest.mark.parametrize("name", NETS)
def test_it_is_what_a_real_image_gives_and_leaves_no_trace(name):
    net = TimmBackbone.create(name, img_size=32, **NETS[name]).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for stage in (0, -1):
        assert map_channels(net, stage) == net(torch.rand(2, 3, 32, 32), maps=(stage,)).maps[0].shape[1]
        net.load_state_dict(before)  # a pass in training mode moves BatchNorm's statistics
    map_channels(net)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(m.training for m in net.modules())
