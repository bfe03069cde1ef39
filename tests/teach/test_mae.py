from pathlib import Path

import pytest
import torch
import yaml

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.nn.loose_tokens import only, seen
from marrow.teach.mae import MAE, painted

FIRST = Clock(step=0, epoch=0, progress=0.0)
LIGHT = {"width": 48, "depth": 1, "heads": 3}


def net(name: str = "vit_tiny_patch16_224", size: int | tuple[int, int] = 32) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create(name, img_size=size, patch_size=8, depth=2, embed_dim=48, num_heads=3)


def images(count: int = 4, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def test_patches_are_painted_row_by_row_and_each_normalised():
    image = images(2, (16, 24))
    patches = painted(image, (2, 3))
    assert patches.shape == (2, 6, 192)
    patch = image[1, :, 8:16, 8:16].permute(1, 2, 0).flatten()
    torch.testing.assert_close(patches[1, 4], (patch - patch.mean()) / patch.std(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(painted(5 * image + 2, (2, 3)), patches, rtol=1e-3, atol=1e-3)


def test_only_hidden_patches_count_and_what_is_hidden_is_not_seen():
    """Changing a hidden patch moves its own error alone; what the encoder says stays."""
    method = MAE(net(), **LIGHT).eval()
    image = images(1)
    torch.manual_seed(3)
    places = seen(1, 16, 0.75)
    where = min(set(range(16)) - set(places[0].tolist()))
    other = image.clone()
    other[..., where // 4 * 8 : where // 4 * 8 + 8, where % 4 * 8 : where % 4 * 8 + 8] = images(1, (8, 8))
    losses = []
    for each in (image, other):
        torch.manual_seed(3)
        losses.append(method({"image": each}, FIRST).losses["painting"].item())
    with torch.no_grad(), only(method.encoder, places):
        said = method.decoder(method.encoder.features(image).tokens, places)[0, where]
    errors = [(said - painted(each, method.grid)[0, where]).square().mean().item() for each in (image, other)]
    assert losses[1] - losses[0] == pytest.approx((errors[1] - errors[0]) / 12, abs=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-4


def test_a_decoder_that_knows_nothing_has_an_error_of_one():
    method = MAE(net(), **LIGHT)
    torch.nn.init.zeros_(method.decoder.leave.weight)
    torch.nn.init.zeros_(method.decoder.leave.bias)
    assert method({"image": images(16)}, FIRST).losses["painting"].item() == pytest.approx(191 / 192, abs=1e-3)


def test_training_paints_better_than_nothing():
    method = MAE(net(), crop=None, flip=False, **LIGHT)
    settings = Settings(steps=60, batch=32, optim={"main": Optim("adamw", lr=3e-3)})
    digits = open_source({"images": "digits", "split": "train"}, "train")
    Engine(settings, device="cpu").train(method, Data({"train": digits}))
    batch = {"image": torch.stack([method.view(digits[i])["image"] for i in range(64)])}
    blank = painted(batch["image"] / 255.0, method.grid).square().mean()
    assert method.eval()(batch, FIRST).losses["painting"] < 0.8 * blank


def test_grids_need_not_be_square():
    method = MAE(net(size=(16, 32)), **LIGHT)
    assert method.grid == (2, 4) and method({"image": images(2, (16, 32))}, FIRST).losses["painting"] > 0


def test_checkpointing_gradients_changes_nothing():
    gradients = []
    for saving in (False, True):
        backbone = net()
        if saving:
            backbone.checkpoint_gradients()
        torch.manual_seed(1)
        method = MAE(backbone, **LIGHT)
        method({"image": images()}, FIRST).losses["painting"].backward()
        gradients.append(backbone.net.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"mask": 0.99}, "mae.mask: a share of 0.99 hides 16 of 16 patches"),
    ({"mask": 0.0}, "mae.mask: a share of 0.0 hides 0 of 16 patches"),
    ({"heads": 0}, "mae.heads: 0 is below 1, the least that a decoder has"),
    ({"heads": -3}, "mae.heads: -3 is below 1"),
    ({"width": 0}, "mae.width: 0 is below 1"),
    ({"width": -48}, "mae.width: -48 is below 1"),
    ({"depth": 0}, "mae.depth: 0 is below 1"),
    ({"width": 50, "heads": 4}, "mae.width: a width of 50 cannot be cut into 4 heads"),
])  # fmt: skip
def test_bad_input(arguments, message):
    with pytest.raises(MarrowError) as error:
        MAE(net(), **arguments)
    assert str(error.value).startswith(message)


def test_positions_in_the_attention():
    with pytest.raises(MarrowError, match="mae.encoder: mae needs a net whose tokens can be left out; eva02_tiny"):
        MAE(net("eva02_tiny_patch14_224"))


def test_the_recipe_measures_its_classifier_on_pictures_that_it_was_not_trained_on():
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "mae.yaml").read_text("utf-8"))
    [data] = [stage["data"] for stage in recipe["stages"] if stage.get("teach") == "supervised"]
    (train,), (val,) = data["train"], data["val"]
    assert (train["images"], train["split"]) == (val["images"], val["split"]) == ("cifar10", "train")
    assert val["hash"] == [0.0, train["hash"][0]]
