"""NNCF's quantizer on OpenVINO, and what else OpenVINO makes of the files: `python openvino_int8.py FOLDER SECONDS`.

`marrow.onnx` in the folder is marrow's int8 file.
"""

import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import nncf
import numpy as np
import openvino
from int8_turns import in_onnxruntime, measured

# Left alone, OpenVINO computes fp32 in bf16 where the processor can.
SETTINGS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def main():
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    logging.getLogger("nncf").setLevel(logging.ERROR)
    core, images = openvino.Core(), np.load(folder / "calibration.npy")
    fp32, ours, stored = folder / "fp32.onnx", folder / "marrow.onnx", folder / "nncf.xml"
    quantized = nncf.quantize(core.read_model(fp32), nncf.Dataset([x[None] for x in images]), subset_size=len(images))
    openvino.save_model(quantized, stored)

    def in_openvino(file):
        request = core.compile_model(str(file), "CPU", SETTINGS).create_infer_request()
        return lambda image: np.array(request.infer([image])[0])

    ways = [("none", "onnxruntime", fp32, in_onnxruntime(fp32)), ("none", "openvino", fp32, in_openvino(fp32)),
            ("marrow", "openvino", ours, in_openvino(ours)),
            ("nncf", "openvino", stored.with_suffix(".bin"), in_openvino(stored))]  # fmt: skip
    rows = measured([(q, r, file.stat().st_size, answer) for q, r, file, answer in ways], folder, seconds)
    print(json.dumps({"rows": rows, "versions": {p: version(p) for p in ("openvino", "nncf", "onnxruntime")}}))


if __name__ == "__main__":
    main()
