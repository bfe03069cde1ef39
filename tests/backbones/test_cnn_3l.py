"""CNN_3L: its numbers of weights, its maps at any size, and what timm expects of a net."""

import pytest
import timm
import torch

import marrow.backbones  # noqa: F401  registers it
from marrow.core.errors import MarrowError


def net(**args) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("cnn_3l", **args).eval()


@pytest.mark.parametrize("classes", [4, 11])
def test_the_weights_of_every_layer_at_27_pixels(classes):
    sizes = [sum(p.numel() for p in m.parameters()) for m in net(num_classes=classes).children()]
    assert [s for s in sizes if s] == [896, 18_496, 73_856, 128 * 36 * 256 + 256, 256 * classes + classes]


def test_it_computes_three_convolutions_two_halvings_and_two_layers():
    model, x = net(), torch.rand(2, 3, 27, 27)
    conv = [stage[-2] for stage in (model.stage1, model.stage2, model.stage3)]
    by_hand = torch.relu(conv[0](x))
    for layer in conv[1:]:
        by_hand = torch.relu(layer(torch.nn.functional.max_pool2d(by_hand, 2)))
    assert by_hand.shape == (2, 128, 6, 6)
    torch.testing.assert_close(model(x), model.head(torch.relu(model.fc(by_hand.flatten(1)))))


def test_maps_at_another_size_that_is_not_square():
    model, x = net(num_classes=0), torch.rand(2, 3, 40, 56)
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    for found, info in zip(maps, model.feature_info, strict=True):
        assert found.shape == (2, info["num_chs"], 40 // info["reduction"], 56 // info["reduction"])
    assert [torch.equal(a, b) for a, b in zip(maps, model.forward_intermediates(x, stop_early=True)[1])] == [True] * 3
    assert torch.equal(
        model.forward_intermediates(x, indices=(1,), stop_early=True, intermediates_only=True)[0], maps[1]
    )
    assert model(x).shape == (2, 256)


def test_features_only_gives_the_same_maps():
    x, model = torch.rand(1, 3, 32, 48), net(num_classes=0)
    only = timm.create_model("cnn_3l", features_only=True, out_indices=(0, 2)).eval()
    assert only.feature_info.reduction() == [1, 4] and only.feature_info.channels() == [32, 128]
    only.load_state_dict({f"model.{k}": v for k, v in model.state_dict().items() if not k.startswith("fc")})
    wanted = model.forward_intermediates(x, indices=(0, 2), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(only(x), wanted, strict=True))
    pruned = net(num_classes=0)
    pruned.prune_intermediate_layers((1,))
    assert pruned(x).shape == (1, 64, 16, 24) and not list(pruned.stage3.parameters())


def test_the_classifier_changes_without_the_layer_before_it():
    model = net()
    before = model.fc.weight.clone()
    model.reset_classifier(7)
    assert model(torch.rand(1, 3, 27, 27)).shape == (1, 7) and torch.equal(model.fc.weight, before)
    model.reset_classifier(7, "avg")
    assert model.fc.weight.shape == (256, 128) and model(torch.rand(1, 3, 20, 20)).shape == (1, 7)
    model.reset_classifier(0, "")
    assert model(torch.rand(1, 3, 27, 27)).shape == (1, 128, 6, 6)


def test_checkpointed_gradients_are_the_same():
    x, found = torch.rand(2, 3, 27, 27), []
    for saved in (False, True):
        model = net(drop_rate=0.0).train()
        model.set_grad_checkpointing(saved)
        model(x).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


def test_a_picture_smaller_than_two_halvings_is_refused():
    with pytest.raises(
        MarrowError, match="cnn_3l.img_size: 3 x 27 pixels are halved twice; each side needs 4 at least"
    ):
        net(img_size=(3, 27))
