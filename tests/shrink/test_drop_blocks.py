import pytest
import torch
from torch import nn

from marrow.core.errors import MarrowError
from marrow.core.spec import apply, build, cut, load_weights, saved_weights
from marrow.core.timm_backbone import TimmBackbone
from marrow.shrink.drop_blocks import Drop, DropBlocks
from marrow.tasks.classify import Classify

NETS = [
    ("cifar_resnet32", {}, "layer3", 2),
    ("resnet18", {}, "layer3", 1),
    ("vit_tiny_patch16_224", {"patch_size": 8, "depth": 4, "embed_dim": 24, "num_heads": 2}, "blocks", 3),
    ("convnext_atto", {"depths": (1, 1, 3, 1), "dims": (8, 16, 24, 32)}, "stages.2.blocks", 2),
    ("swin_tiny_patch4_window7_224", {"window_size": 4, "depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4)},
     "layers.1.blocks", 1),
    ("efficientnet_b0", {}, "blocks.4", 2),
    ("pvt_tiny", {"dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4), "depths": (1, 1, 3, 1)}, "stages.2.blocks", 2),
    ("emo_1m", {"depths": (1, 1, 3, 1)}, "stages.stage3", 2),
    ("cb_resnet50", {"base": "cifar_resnet20"}, "members.1.stages.2", 1),
    ("eca_resnet18", {}, "layer4", 1),
]  # fmt: skip


class Same(nn.Module):
    """A block that does nothing, whatever else its owner tells it."""

    def forward(self, x, *rest):
        return x


IMAGE = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def backbone(name: str, **arguments) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create(name, img_size=32, **arguments).eval()


def dropped(model: nn.Module, stage: str, count: int) -> nn.Module:
    return cut([model], DropBlocks(stage=stage, count=count).plan({"model": model}, None, None))


@pytest.mark.parametrize("name, arguments, stage, count", NETS, ids=[n[0] for n in NETS])
def test_the_net_is_the_same_with_identities_for_the_last_blocks(name, arguments, stage, count):
    whole, net = backbone(name, **arguments), dropped(backbone(name, **arguments), stage, count)
    blocks = whole.net.get_submodule(stage)
    assert len(net.net.get_submodule(stage)) == len(blocks) - count
    for i in range(len(blocks) - count, len(blocks)):
        blocks[i] = Same()
    with torch.inference_mode():
        torch.testing.assert_close(net(IMAGE).pooled, whole(IMAGE).pooled, rtol=0, atol=0)


@pytest.mark.parametrize("name, arguments, stage, count", NETS, ids=[n[0] for n in NETS])
def test_feature_maps_stay_in_reach(name, arguments, stage, count):
    net = dropped(backbone(name, **arguments), stage, count)
    known = dict(net.net.named_modules())
    assert all(info["module"] in known for info in net.net.feature_info)
    count = len(net.net.feature_info)
    with torch.inference_mode():
        maps = net(IMAGE, maps=range(count)).maps
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in net.net.feature_info]
    assert maps[-1].shape[-1] == 32 // net.net.feature_info[-1]["reduction"]


def test_a_vits_list_of_features_shortens_with_its_blocks():
    net = dropped(backbone(*[NETS[2][0]], **NETS[2][1]), "blocks", 3)
    assert [info["module"] for info in net.net.feature_info] == ["blocks.0"]


def test_a_task_is_rebuilt_from_its_spec_and_keeps_its_weights():
    task = Classify(backbone("cifar_resnet20"), classes=5)
    kept = task.backbone.net.layer3[1].conv2.weight.clone()
    edited = dropped(task, "layer3", 1).eval()
    assert torch.equal(edited.backbone.net.layer3[1].conv2.weight, kept)
    for spec, part in ((edited.spec, edited), (edited.backbone.spec, edited.backbone)):
        again = build(spec).eval()
        load_weights(again, saved_weights(part))
        x = {"image": IMAGE} if part is edited else IMAGE
        a, b = part(x), again(x)
        assert torch.equal(a["logits"] if part is edited else a.pooled, b["logits"] if part is edited else b.pooled)


def test_planning_leaves_the_model_alone_and_the_edit_works_on_the_meta_device():
    net = backbone("cifar_resnet20")
    before = saved_weights(net)
    planned = DropBlocks(stage="layer2", count=2).plan({"model": net}, None, None)
    assert planned.edit == Drop("layer2", 2) and planned.weights is None
    assert saved_weights(net).keys() == before.keys()
    with torch.device("meta"):
        bare = apply(planned.edit, [backbone("cifar_resnet20")])
    assert len(bare.net.layer2) == 1 and next(bare.parameters()).is_meta


@pytest.mark.parametrize(
    "stage, count, words",
    [
        ("layer4", 1, "no stage 'layer4'"),
        ("layr3", 1, "did you mean 'layer"),
        ("layer3", 3, "3 is outside 1..2: 'layer3' has 3 blocks and keeps one"),
        ("layer3", 0, "0 is outside 1..2"),
    ],
)
def test_what_does_not_fit_is_refused(stage, count, words):
    with pytest.raises(MarrowError, match=words):
        DropBlocks(stage=stage, count=count).plan({"model": backbone("cifar_resnet20")}, None, None)


def test_blocks_that_what_follows_depends_on_are_refused():
    with pytest.raises(MarrowError, match="what follows no longer fits"):
        DropBlocks(stage="blocks", count=1).plan({"model": backbone("efficientnet_b0")}, None, None)
    with pytest.raises(MarrowError, match="neither a backbone nor a task"):
        DropBlocks(stage="0").plan({"model": nn.Sequential(nn.Linear(2, 2))}, None, None)


def test_what_the_rest_gives_is_found_out_anew():
    net = dropped(Classify(backbone("cifar_resnet20"), classes=3), "layer3", 1).backbone
    assert net.gives == backbone("cifar_resnet20").gives
