"""Where the maps inside a net are, over nets that say it in different ways."""

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.spec import build
from marrow.nn.inner_maps import InnerMap, inner_maps


def net(name: str, **arguments):
    with torch.device("meta"):
        return build({"source": f"timm:{name}", "args": arguments})


def named(name: str, *at: str, **arguments) -> list[tuple]:
    return [tuple(found)[:4] for found in inner_maps(net(name, **arguments), at, "advstyle.at")]


def test_the_stem_and_the_stages_of_a_resnet():
    found = named("resnet18", img_size=64)
    assert [f[:3] for f in found] == [("conv1", 64, 1024), ("act1", 64, 1024), ("layer1", 64, 256), ("layer2", 128, 64),
                                      ("layer3", 256, 16), ("layer4", 512, 4)]  # fmt: skip


def test_channels_come_last_in_swin_but_not_behind_its_first_convolution():
    found = named("swin_tiny_patch4_window7_224")
    assert found[0] == ("patch_embed.proj", 96, 56 * 56, False)
    assert found[1:] == [(f"layers.{i}", 96 * 2**i, (56 // 2**i) ** 2, True) for i in range(4)]
    assert named("swin_tiny_patch4_window7_224", "patch_embed") == [("patch_embed", 96, 56 * 56, True)]


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050", "efficientnet_b0", "regnetx_002", "densenet121",
                                  "vgg11_bn", "repvgg_a0", "dla34", "poolformer_s12", "pvt_v2_b0", "ghostnet_100",
                                  "mobilevit_xxs", "nfnet_f0", "emo_1m", "cifar_resnet20", "cb_resnet50"])  # fmt: skip
def test_convolutional_nets_of_all_kinds_say_where_their_maps_are(name):
    model = net(name)
    found = inner_maps(model, (), "advstyle.at")
    assert len(found) >= 4 and all(not f.last and f.places > 1 for f in found)
    known = dict(model.root.named_modules())
    assert all(f.module in known for f in found)


def test_maps_of_one_place_are_left_out_unless_they_are_asked_for():
    assert [f[0] for f in named("resnet18", img_size=32)][-1] == "layer3"
    with pytest.raises(MarrowError, match="'layer4' of timm:resnet18 makes maps of 1 x 1 from 32 x 32 pixels"):
        named("resnet18", "layer4", img_size=32)


@pytest.mark.parametrize(("name", "before", "blocks"), [
    ("vit_tiny_patch16_224", 1, 12), ("deit_tiny_distilled_patch16_224", 2, 12), ("cait_xxs24_224", 0, 24),
    ("vit_small_patch16_dinov3", 5, 12), ("mixer_s32_224", 0, 8),
])  # fmt: skip
def test_blocks_of_transformers_are_places_behind_their_class_tokens(name, before, blocks):
    stem, *found = inner_maps(net(name), (), "advstyle.at")
    assert stem.before is None and len(found) == blocks
    assert {f.before for f in found} == {before} and {f.places for f in found} == {stem.places}


def test_a_change_reaches_places_only():
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 2, 4, generator=draw)
    tokens = torch.cat([torch.zeros(2, 1, 3), maps.flatten(2).mT], 1)  # a class token in front
    behind = torch.arange(3.0).view(1, 3, 1, 1)
    wanted = maps + behind * maps.mean((2, 3), keepdim=True)

    def change(x):
        return x + behind * x.mean((2, 3), keepdim=True)

    def place(last=False, before=None):
        return InnerMap("stage", 3, 8, last, before)

    torch.testing.assert_close(place().changed(maps, change), wanted)
    last = place(last=True).changed(maps.permute(0, 2, 3, 1), change)
    torch.testing.assert_close(last, wanted.permute(0, 2, 3, 1))
    found = place(before=1).changed(tokens, change)
    assert (found[:, 0] == 0).all()
    torch.testing.assert_close(found[:, 1:].mT, wanted.flatten(2))


@pytest.mark.parametrize(("name", "said"), [
    ("pvt_tiny", "advstyle needs maps .*'stages.0' of timm:pvt_tiny gives no single tensor"),
    ("hrnet_w18_small", "advstyle needs maps inside the backbone, and timm:hrnet_w18_small does not tell which modules"),
])  # fmt: skip
def test_nets_without_such_maps_are_refused(name, said):
    with pytest.raises(MarrowError, match=said):
        named(name)


def test_an_unknown_module_is_named():
    with pytest.raises(MarrowError, match="resnet18 has no module 'layr1'; did you mean 'layer1'"):
        named("resnet18", "layr1")


def test_a_net_that_names_no_modules_is_told_which_could_be_named():
    with pytest.raises(
        MarrowError, match="does not tell which modules make them. Name modules of its net, such as conv1, "
    ) as refused:
        named("hrnet_w18_small", img_size=64)
    for module in refused.value.hint.removesuffix(".").partition("such as ")[2].split(", "):
        [(found, _, places, last)] = named("hrnet_w18_small", module, img_size=64)
        assert (found, last) == (module, False) and places > 1
