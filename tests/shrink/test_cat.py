"""Concatenated backbones and classifiers: equal to their members, saved and opened, exported, and what is refused."""

import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.models import resolve
from marrow.core.spec import build, edited
from marrow.core.static_check import check_static
from marrow.tasks.classify import Classify

SMALL = {"img_size": 32, "channels": [8, 16, 24, 32], "stem_width": 8}
IMAGES = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def net(seed: int = 0, name: str = "resnet10t", **more):
    torch.manual_seed(seed)
    return build({"source": f"timm:{name}", "args": SMALL | more if name == "resnet10t" else {"img_size": 32, **more}})


def classifier(seed: int, labels: list[str] | None = None, classes: int = 3) -> Classify:
    made = Classify(net(seed), classes=classes)
    made.labels = labels
    return made.eval()


def test_each_member_says_to_the_bit_what_it_says_alone():
    members = [net(0), net(1, mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2]), net(2, "cifar_resnet20")]
    whole = edited("cat", {}, members).eval()
    assert whole.dim == 32 + 32 + 64 and whole.gives == {"pooled"}
    with torch.inference_mode():
        parts = whole(IMAGES).pooled.split([32, 32, 64], 1)
        assert all(torch.equal(part, member(IMAGES).pooled) for part, member in zip(parts, members))


def test_classifiers_become_the_mean_of_their_logits():
    members = [classifier(s, ["a", "b", "c"]) for s in range(3)]
    with torch.inference_mode():
        alone = torch.stack([m({"image": IMAGES})["logits"] for m in members])
        whole = edited("cat", {}, members).eval()
        torch.testing.assert_close(whole({"image": IMAGES})["logits"], alone.mean(0))
    assert whole.labels == ["a", "b", "c"] and whole.gives == {"logits", "members"}


@pytest.mark.parametrize("kind", ["backbone", "task"])
def test_it_is_saved_and_opened(tmp_path, kind):
    made = edited("cat", {}, [net(s) if kind == "backbone" else classifier(s) for s in (0, 1)]).eval()
    again = Artifact.open(save(tmp_path / "cat", made).path).load()
    assert again.spec == made.spec and again.gives == made.gives
    with torch.inference_mode():
        for mine, theirs in zip(_said(made), _said(again)):
            assert torch.equal(mine, theirs)
    if kind == "task":
        assert torch.equal(again.head.offsets, made.head.offsets) and again.head.offsets.any()


def _said(model) -> list[torch.Tensor]:
    return [model({"image": IMAGES})["logits"]] if isinstance(model, Classify) else [model(IMAGES).pooled]


def test_five_resnet50_trunks_have_117_million_parameters():
    with torch.device("meta"):
        whole = edited("cat", {}, [build({"source": "timm:resnet50", "args": {}}) for _ in range(5)])
    assert cost(whole).params == 5 * 23_508_032


def test_a_recipe_can_name_it():
    spec = {"edit": "cat", "of": [{"backbone": "resnet10t", **SMALL}, {"backbone": "cifar_resnet20", "img_size": 32}]}
    assert resolve(spec, {}, "model").dim == 32 + 64
    stage = {"examine": "linear_probe", "model": spec,
             "data": {"train": [{"images": "digits"}], "test": [{"images": "digits"}]}}  # fmt: skip
    assert check_static({"seed": 0, "stages": [stage]}) == []
    for wrong, said in ((spec | {"edit": "cats"}, "'cats' is no edit"), (spec | {"with": 3}, "unknown key 'with'"),
                        (spec | {"of": [{"stage": 3}]}, "no earlier stage 3"), (spec | {"of": []}, "a model is one of")):  # fmt: skip
        [problem, *_] = check_static({"seed": 0, "stages": [stage | {"model": wrong}]})
        assert said in problem


def test_members_that_add_nothing_or_do_not_fit_are_refused():
    with pytest.raises(MarrowError, match="one model alone is not concatenated"):
        edited("cat", {}, [net()])
    with pytest.raises(MarrowError, match="members 0 and 2 have the same weights: concatenating them adds nothing"):
        edited("cat", {}, [net(0), net(1), net(0)])
    with pytest.raises(MarrowError, match="the members' classes are a, b, c and c, b, a"):
        edited("cat", {}, [classifier(0, ["a", "b", "c"]), classifier(1, ["c", "b", "a"])])
    with pytest.raises(MarrowError, match="the classifiers have 3, 4 classes"):
        edited("cat", {}, [classifier(0), classifier(1, classes=4)])
    with pytest.raises(MarrowError, match=r"either backbones or classifiers .* got resnet10t, classify\(resnet10t\)"):
        edited("cat", {}, [net(0), classifier(1)])
    with pytest.raises(MarrowError, match="different sizes: 3 x 32 x 32, 3 x 64 x 64"):
        edited("cat", {}, [net(0), net(1, img_size=64)])
    with pytest.raises(MarrowError, match="pooled features and no maps"):
        edited("cat", {}, [net(0), net(1)])(IMAGES, maps=(-1,))


def test_the_exported_graph_says_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    whole = edited("cat", {}, [classifier(0), classifier(1)]).eval()
    image = IMAGES.float() / 255
    torch.onnx.export(whole.exported().eval(), (image,), tmp_path / "cat.onnx", dynamo=True, external_data=False)
    [said] = onnxruntime.InferenceSession(str(tmp_path / "cat.onnx")).run(None, {"image": image.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(said), whole({"image": IMAGES})["logits"], rtol=1e-4, atol=1e-5)
