"""torchao's static int8 on a CPU, as PyTorch runs it at once and compiled: `python torchao_int8.py FOLDER SECONDS`.

`fp32.pt2` in the folder is the net as `torch.export` writes it. What is compiled needs a C++ compiler; without one it is left
out, and `left_out` says so.
"""

import json
import os
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ["TORCHINDUCTOR_FREEZING"] = (
    "1"  # read when torch is imported; without it weights stay float and int8 is slow
)

import numpy as np
import torch
from int8_turns import in_onnxruntime, measured
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)


def answer(module):
    return lambda image: module(torch.from_numpy(image))[0].numpy()


def bytes_of(module):
    """Of the tensors that the graph reads; what a quantized graph was made of still hangs on its module."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    tensors = {name: t for name, t in (*module.named_parameters(), *module.named_buffers()) if name in read}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def main():
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    warnings.simplefilter("ignore")  # on what torch will do away with
    torch.set_num_threads(1)
    fp32 = torch.export.load(folder / "fp32.pt2").module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with torch.inference_mode():
        watched = prepare_pt2e(torch.export.load(folder / "fp32.pt2").module(), quantizer)
        for image in np.load(folder / "calibration.npy"):
            watched(torch.from_numpy(image[None]))
    quantized = convert_pt2e(watched)
    ways = [("none", "onnxruntime", (folder / "fp32.onnx").stat().st_size, in_onnxruntime(folder / "fp32.onnx")),
            ("none", "torch", bytes_of(fp32), answer(fp32)), ("torchao", "torch", bytes_of(quantized), answer(quantized))]  # fmt: skip
    left_out = ""
    if shutil.which(os.environ.get("CXX", "g++")):
        ways += [("none", "torch compiled", bytes_of(fp32), answer(torch.compile(fp32))),
                 ("torchao", "torch compiled", bytes_of(quantized), answer(torch.compile(quantized)))]  # fmt: skip
    else:
        left_out = "torch compiled: there is no C++ compiler here"
    with torch.no_grad():
        rows = measured(ways, folder, seconds)
    known = {p: version(p) for p in ("torch", "torchao", "onnxruntime")}
    print(json.dumps({"rows": rows, "left_out": left_out, "versions": known}))


if __name__ == "__main__":
    main()
