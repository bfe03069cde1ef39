"""Which versions made a result; no host, user or path among them."""

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

PACKAGES = ("marrow", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "onnx", "onnxruntime")


def versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
