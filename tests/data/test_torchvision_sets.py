import pickle

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.data import open_source, splits_of


def test_original_files(mnist):
    train = open_source({"images": "torchvision:MNIST", "root": str(mnist), "split": "train"})
    test = open_source({"images": "torchvision:MNIST", "root": str(mnist), "split": "test"})
    assert (len(train), len(test)) == (20, 6) and len(train.classes) == 10
    assert train[3]["image"].shape == (3, 28, 28) and train[3]["image"].dtype == torch.uint8
    assert train[13]["label"] == train.label(13) == 3 and train.name(13) == "MNIST-train/13"
    assert train.fraction(0) != train.fraction(1) and splits_of("torchvision:MNIST") == ("train", "test")
    assert torch.equal(pickle.loads(pickle.dumps(train))[5]["image"], train[5]["image"])


def test_a_set_without_splits_is_cut_by_hash():
    test = open_source({"images": "torchvision:FakeData", "split": "test"})
    assert 100 < len(test) < 200 and all(test.fraction(i) < 0.15 for i in range(len(test)))
    assert splits_of("torchvision:FakeData") == ()


def test_missing_files(tmp_path):
    with pytest.raises(MarrowError, match="torchvision's CIFAR10 is not in .* marrow does not download"):
        open_source({"images": "torchvision:CIFAR10", "root": str(tmp_path), "split": "train"})
    assert not list(tmp_path.iterdir())


def test_unknown_set_root_and_split(tmp_path):
    with pytest.raises(MarrowError, match="torchvision has no data set 'CIFAR11'; did you mean 'CIFAR10"):
        open_source({"images": "torchvision:CIFAR11", "root": str(tmp_path)})
    with pytest.raises(MarrowError, match="'root' is missing: the folder with the files of torchvision's CIFAR10"):
        open_source({"images": "torchvision:CIFAR10", "split": "train"})
    with pytest.raises(MarrowError, match="^data.split: torchvision's CIFAR10 comes in splits; say which"):
        open_source({"images": "torchvision:CIFAR10", "root": str(tmp_path)})
    with pytest.raises(MarrowError, match="CIFAR10 has the splits train and test, not 'val'"):
        open_source({"images": "torchvision:CIFAR10", "root": str(tmp_path), "split": "val"})


def test_sets_that_are_no_classification(tmp_path):
    with pytest.raises(MarrowError, match="CocoDetection cannot be opened so: .*annFile"):
        open_source({"images": "torchvision:CocoDetection", "root": str(tmp_path)})
