"""Measures of an object: closed forms, invariances, the values of scikit-image, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.preprocess import plain
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.data.object_features import feature_names, object_features

pytest.importorskip("skimage", reason="the extra histology is not installed")

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("MARROW_GOLDEN") or ROOT.parent / "shared" / "golden") / "olconvnet"
CELLS = Path(os.environ.get("MARROW_DATA") or ROOT.parent / "shared" / "data") / "wbc"
NAMES = feature_names()
needs_cells = pytest.mark.skipif(not CELLS.is_dir(), reason="the white blood cells (MARROW_DATA) are not here")


def measured(image: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    return dict(zip(NAMES, object_features(image, mask).tolist()))


def flat(size: int = 41) -> torch.Tensor:
    return torch.tensor([180, 120, 160], dtype=torch.uint8).view(3, 1, 1).expand(3, size, size).clone()


def disc(radius: int, size: int = 41) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (y - size // 2) ** 2 + (x - size // 2) ** 2 <= radius**2


def noise(size: int = 41, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def lobed() -> torch.Tensor:
    mask = disc(8)
    mask[5:20, 22:30] = True
    mask[20, 20] = False
    return mask


def test_there_are_thirteen_of_shape_24_of_colour_15_of_texture():
    groups = [name.split(".")[0] for name in NAMES]
    assert [groups.count(g) for g in ("shape", "colour", "texture")] == [13, 24, 15]
    assert len(set(NAMES)) == 52


def test_a_nucleus_has_the_values_of_scikit_image():
    file = GOLDEN / "ellipse_nucleus.npz"
    if not file.is_file():
        pytest.skip("the golden cases (MARROW_GOLDEN) are not here")
    case = np.load(file)
    found = measured(torch.from_numpy(case["image"]).permute(2, 0, 1), torch.from_numpy(case["mask"]))
    ours = {"major": "shape.major_axis", "minor": "shape.minor_axis"}
    for name in ("area", "major", "minor", "eccentricity", "solidity", "extent", "convex_area", "equivalent_diameter",
                 "circularity"):  # fmt: skip
        assert found[ours.get(name, f"shape.{name}")] == pytest.approx(float(case[name]), rel=1e-6), name
    assert found["shape.perimeter"] == pytest.approx(float(case["perimeter"]), abs=1e-4)
    for i, dye in enumerate(("haematoxylin", "eosin")):
        assert found[f"colour.{dye}_mean"] == pytest.approx(case["hed_mean"][i], abs=1e-6)
        assert found[f"colour.{dye}_std"] == pytest.approx(case["hed_std"][i], abs=1e-6)
    for name in ("contrast", "dissimilarity", "homogeneity", "energy", "correlation"):
        assert found[f"texture.{name}"] == pytest.approx(float(case[f"glcm_{name}"]), abs=1e-6)


def test_a_disc_is_round():
    found = measured(flat(), disc(10))
    assert 0.85 < found["shape.circularity"] < 1.15
    assert found["shape.eccentricity"] == pytest.approx(0, abs=1e-6)
    assert found["shape.aspect_ratio"] == pytest.approx(1, abs=1e-6)
    # scikit-image's hull goes around the pixels' corners, so a small disc is a little less than solid.
    assert found["shape.solidity"] > 0.92 and measured(flat(121), disc(50, 121))["shape.solidity"] > 0.98


def test_a_rectangle_fills_its_box():
    mask = torch.zeros(41, 41, dtype=torch.bool)
    mask[5:17, 8:38] = True
    found = measured(flat(), mask)
    assert found["shape.area"] == found["shape.convex_area"] == 12 * 30
    assert found["shape.extent"] == found["shape.solidity"] == 1
    assert found["shape.aspect_ratio"] == pytest.approx(((30**2 - 1) / (12**2 - 1)) ** 0.5, rel=0.01)


def test_one_colour_has_no_texture_and_no_skewness():
    found = measured(flat(), disc(10))
    for channel in ("haematoxylin", "eosin", "grey"):
        assert found[f"colour.{channel}_entropy"] == found[f"colour.{channel}_range"] == 0
        assert np.isnan(found[f"colour.{channel}_skewness"]) and np.isnan(found[f"colour.{channel}_kurtosis"])
    assert found["texture.contrast"] == found["texture.dissimilarity"] == 0
    assert found["texture.homogeneity"] == found["texture.energy"] == pytest.approx(1)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_cell_has_the_same_shape_and_colour(quarters):
    image, mask = noise(), lobed()
    first, second = measured(image, mask), measured(image.rot90(quarters, (1, 2)), mask.rot90(quarters, (0, 1)))
    for name in NAMES:
        if not name.startswith("texture"):
            assert second[name] == pytest.approx(first[name], rel=1e-3 if "circ" in name or "peri" in name else 1e-6), (
                name
            )
        elif "pattern" not in name:  # the four directions are averaged
            assert second[name] == pytest.approx(first[name], rel=1e-5), name


def test_colour_does_not_depend_on_where_the_pixels_are():
    image, mask = noise(), lobed()
    mixed = image.clone()
    mixed[:, mask] = image[:, mask][:, torch.randperm(int(mask.sum()), generator=torch.Generator().manual_seed(1))]
    first, second = measured(image, mask), measured(mixed, mask)
    assert all(second[n] == pytest.approx(first[n], rel=1e-5) for n in NAMES if n.startswith("colour"))
    assert second["texture.contrast"] != first["texture.contrast"]


def test_what_is_far_from_the_object_does_not_count():
    image, other, mask = noise(), noise(seed=1), disc(6)
    near = disc(12)
    assert measured(torch.where(near, image, other), mask) == measured(image, mask)


def test_bytes_and_fractions_are_the_same_picture():
    assert measured(noise().float() / 255, lobed()) == measured(noise(), lobed())


def test_an_empty_mask_has_no_measure_and_a_cell_at_the_edge_those_of_what_is_seen():
    assert np.isnan(object_features(noise(), torch.zeros(41, 41, dtype=torch.bool))).all()
    cut = torch.zeros(41, 41, dtype=torch.bool)
    cut[:9, :5] = True
    assert measured(noise(), cut)["shape.area"] == 45
    line = torch.zeros(41, 41, dtype=torch.bool)
    line[20, 10:20] = True
    assert np.isnan(measured(noise(), line)["texture.contrast"])
    point = torch.zeros(41, 41, dtype=torch.bool)
    point[20, 20] = True
    found = measured(noise(), point)
    assert found["shape.area"] == 1 and np.isnan(found["shape.circularity"]) and np.isnan(found["shape.aspect_ratio"])


@pytest.mark.parametrize(("image", "mask", "said"), [
    (noise(), disc(5, 27), r"image: the mask has 27 x 27 pixels, its image 41 x 41"),
    (noise()[:1], disc(5), r"in colour is needed, this one is \(1, 41, 41\)"),
    (noise()[:1].expand(3, -1, -1), disc(5), "this image is grey"),
    (noise().float(), disc(5), r"a float image lies in \[0, 1\], this one reaches from 0 to 255"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(image, mask, said):
    with pytest.raises(MarrowError, match=said):
        object_features(image, mask)


def stained(size: int = 49) -> tuple[torch.Tensor, torch.Tensor]:
    """A violet disc with a pale hole in a pink cell, and a larger violet piece in the corner."""
    image = torch.tensor([235, 190, 205], dtype=torch.uint8).view(3, 1, 1).expand(3, size, size).clone()
    violet = torch.tensor([90, 50, 140], dtype=torch.uint8)
    image[:, disc(9, size)] = violet[:, None]
    image[:, :24, :8] = violet[:, None, None]
    image[:, disc(2, size)] = torch.tensor([235, 190, 205], dtype=torch.uint8)[:, None]
    return image, disc(9, size)


def test_without_a_mask_the_nucleus_is_the_dark_part_at_the_centre_without_holes():
    from marrow.data.nucleus import nucleus

    image, drawn = stained()
    assert (nucleus(image.permute(1, 2, 0).numpy()) == drawn.numpy()).all()
    assert not nucleus(flat().permute(1, 2, 0).numpy()).any()


@pytest.fixture
def folder(tmp_path):
    from torchvision.io import write_png

    (tmp_path / "images" / "round").mkdir(parents=True)
    (tmp_path / "masks" / "round").mkdir(parents=True)
    image, drawn = stained()
    write_png(image, str(tmp_path / "images" / "round" / "a.png"))
    write_png((drawn * 2).to(torch.uint8)[None], str(tmp_path / "masks" / "round" / "a.png"))
    return {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "labels": True}


def test_a_source_measures_its_pictures_as_they_are_stored(folder):
    image, drawn = stained()
    wanted = torch.from_numpy(object_features(image, drawn))
    for source in (open_source({**folder, "objects": 2}), open_source({**folder, "objects": "otsu"})):
        assert torch.equal(source[0]["objects"], wanted) and source[0]["label"] == 0
        small = plain(TimmBackbone.create("cnn_3l").input)(source.undecoded(0))
        assert small["image"].shape == (3, 27, 27) and torch.equal(small["objects"], wanted)
    assert open_source({**folder, "objects": 1})[0]["objects"].isnan().all()


def test_a_source_without_masks_is_refused_where_a_mask_is_meant(folder):
    del folder["masks"]
    with pytest.raises(MarrowError, match=r"data\.objects: the images have no masks in which 2 could mark the object"):
        open_source({**folder, "objects": 2})
    with pytest.raises(MarrowError, match=r"data\.objects: otsu or the class id of the objects in the masks is needed"):
        open_source({**folder, "objects": "nucleus"})


@needs_cells
def test_blood_cells_are_labelled_and_masked_at_once():
    source = open_source({"images": str(CELLS), "only": ["1", "2", "3", "4"], "objects": 2})
    assert len(source) == 396 and source.classes == ["1", "2", "3", "4"]
    example = source[0]
    assert example["mask"].shape == example["image"].shape[1:] and 0 <= example["label"] < 4
    assert example["objects"][0] == (example["mask"] == 2).sum()
