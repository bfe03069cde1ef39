"""Answers and latencies of ways to run one net, measured in turns at batch 1; numpy and ONNX Runtime are all it needs.

A folder holds a net as `fp32.onnx`, images `calibration.npy` and `test.npy` (N, 3, H, W) float32 in [0, 1], and gets the
answers of each way as `NUMBER-NAME.npy`.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime

ROUNDS, WARM_UP, LEAST_RUNS = 5, 5, 50


def in_onnxruntime(file):
    """One thread, all optimisations, as `InferenceSession` comes otherwise."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def take_turns(runs, seconds):
    """The milliseconds that the calls of each took: at least 50 of them and so many seconds, in five rounds."""
    for run in runs:
        for _ in range(WARM_UP):
            run()
    times = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, taken in zip(runs, times):
            run()  # the others emptied the caches
            least, end = len(taken) + LEAST_RUNS // ROUNDS, time.perf_counter() + seconds / ROUNDS
            while len(taken) < least or time.perf_counter() < end:
                start = time.perf_counter()
                run()
                taken.append(1e3 * (time.perf_counter() - start))
    return times


def measured(ways, folder, seconds):
    """A row a way. ways: (quantizer, runtime, bytes of its weights, image -> logits); the first is fp32 in ONNX Runtime,
    and `faster` says how many times faster the others are."""
    images = np.load(Path(folder) / "test.npy")
    times = take_turns([lambda answer=answer: answer(images[:1]) for *_, answer in ways], seconds)
    base, rows = statistics.median(times[0]), []
    for number, ((quantizer, runtime, size, answer), taken) in enumerate(zip(ways, times)):
        file = f"{number}-{quantizer}.npy"
        np.save(Path(folder) / file, np.concatenate([answer(image[None]) for image in images]))
        rows.append({"quantizer": quantizer, "runtime": runtime, "bytes": size, "answers": file,
                     "median": round(statistics.median(taken), 3), "p90": round(statistics.quantiles(taken, n=10)[-1], 3),
                     "runs": len(taken), "faster": round(base / statistics.median(taken), 3)})  # fmt: skip
    return rows
