import pytest
import torch
from torch.nn import functional as F

from marrow.core.artifact import Artifact, save
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.spec import build, cut, edited
from marrow.core.timm_backbone import TimmBackbone
from marrow.shrink.nested_size import NestedSize
from marrow.tasks.classify import Classify
from marrow.tasks.embed import Embed
from marrow.tasks.nested_classify import NestedClassify
from marrow.tasks.retrieve import Retrieve

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def net() -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)


def nested(kind: str, tied: bool = False):
    if kind == "classify":
        return NestedClassify(net(), classes=3, sizes=(4, 16, 32), tied=tied).eval()
    if kind == "retrieve":
        return Retrieve(net(), classes=3, sizes=(4, 16, 32)).eval()
    return Embed(net(), sizes=(4, 16, 32)).eval()


def said(model) -> torch.Tensor:
    with torch.inference_mode():
        value, *_ = model({"image": IMAGES}).values()
    return value


def to_size(model, size: int):
    return cut([model], NestedSize(size=size).plan({"model": model}, None, None)).eval()


@pytest.mark.parametrize("tied", [False, True])
def test_a_cut_classifier_says_what_that_size_said(tied):
    whole = nested("classify", tied)
    with torch.inference_mode():
        wanted = whole({"image": IMAGES})["logits_16"]
    small = to_size(whole, 16)
    assert type(small) is Classify and small.backbone.dim == 16
    torch.testing.assert_close(said(small), wanted)
    assert cost(small).params == cost(small.backbone).params + 16 * 3 + 3


@pytest.mark.parametrize("kind", ["retrieve", "embed"])
def test_a_cut_embedding_has_length_one_again(kind):
    whole = nested(kind)
    wanted = F.normalize(said(whole)[:, :16], dim=-1)
    small = to_size(whole, 16)
    decoded = small.decode({"embedding": said(small)}, {})["embedding"]
    torch.testing.assert_close(decoded, wanted)
    if kind == "retrieve":  # it leaves the net at length one, exported too
        torch.testing.assert_close(said(small), wanted)
        assert small.directions.shape == (3, 16)


@pytest.mark.parametrize("kind", ["classify", "retrieve", "embed"])
def test_it_is_saved_and_opened_without_its_parent(tmp_path, kind):
    small = to_size(nested(kind), 16)
    again = Artifact.open(save(tmp_path / "cut", small).path).load()
    assert again.spec == small.spec and torch.equal(said(again), said(small))
    part = build(again.backbone.spec)
    assert part.dim == 16


def test_sizes_in_between_are_for_heads_that_share_columns_and_for_embeddings():
    assert to_size(nested("classify", tied=True), 9).backbone.dim == 9
    assert to_size(nested("embed"), 9).backbone.dim == 9
    with pytest.raises(MarrowError, match="nested_size.size: size 9 was not trained; one of 4, 16, 32 fits"):
        to_size(nested("classify"), 9)
    with pytest.raises(MarrowError, match="size 2 was not trained; a size from 4 to 32 fits"):
        to_size(nested("retrieve"), 2)


def test_a_model_that_was_not_trained_for_it_is_refused():
    for model, name in (
        (Classify(net(), classes=3), "classify"),
        (Embed(net()), "embed"),
        (Retrieve(net(), classes=3), "retrieve"),
    ):
        with pytest.raises(MarrowError, match=f"this {name} names no nested sizes"):
            to_size(model, 8)
    with pytest.raises(MarrowError, match="size 64 > embedding width 32"):
        Embed(net(), sizes=(8, 64))


@pytest.mark.parametrize("kind", ["classify", "retrieve"])
def test_the_exported_graph_says_the_same(tmp_path, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    small = edited("nested_size", {"size": 16}, [nested(kind)]).eval()
    image = IMAGES.float() / 255
    torch.onnx.export(small.exported().eval(), (image,), tmp_path / "cut.onnx", dynamo=True, external_data=False)
    [found] = onnxruntime.InferenceSession(str(tmp_path / "cut.onnx")).run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), said(small), rtol=1e-4, atol=1e-5)
    assert found.shape == (3, 3 if kind == "classify" else 16)
