"""torchdistill's DistillationBox with its KD loss against the hand-written loop: `python torchdistill_loop.py ROUNDS STEPS`."""

import json
import logging
import sys
from importlib.metadata import version

import torch
from distill_bare import BATCH, LR, MOMENTUM, SIZE, Clock, hand_written, nets, normalized, unequal
from torchdistill.core.distillation import get_distillation_box

logits = {"requires_grad": True, "forward_proc": "forward_batch_only", "forward_hook": {"input": [], "output": ["fc"]}}
CONFIG = {
    "num_epochs": 1,
    "student": logits,
    "teacher": {**logits, "requires_grad": False},
    "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM, "foreach": True}},
    "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"weight": 1.0, "criterion": {
        "key": "KDLoss", "kwargs": {"student_module_path": "fc", "student_module_io": "output", "temperature": 1.0, "beta": 1.0,
                                    "teacher_module_path": "fc", "teacher_module_io": "output"},
    }}}}},
}  # fmt: skip


def torchdistill(student, teacher, batches, steps):
    """Its own steps of an epoch, without its data loader, printing and evaluation."""
    box = get_distillation_box(
        teacher, student, {}, json.loads(json.dumps(CONFIG)), torch.device("cpu"), None, False, 1
    )
    box.pre_epoch_process(epoch=0)
    clock, losses = Clock(), []
    for step in range(1, steps + 1):
        image = normalized(next(batches))
        box.pre_forward_process()
        loss = box.forward_process(image)
        box.post_forward_process(loss)
        losses.append(loss.item())
        clock.tick(step)
    box.clean_modules()
    return clock.seconds(), losses


ARMS = {"hand-written": hand_written, "torchdistill": torchdistill}


def main():
    rounds, steps = int(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps, BATCH, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    found = {arm: [] for arm in ARMS}
    for round in range(rounds + 1):  # the first warms up
        losses = {}
        for name, arm in ARMS.items():
            seconds, losses[name] = arm(*nets(), iter(images), steps)
            if round:
                found[name].append(seconds)
        if unequal(*losses.values()):
            sys.exit(f"the losses differ, so the arms do not do the same: {losses}")
    print(
        json.dumps({"rounds": found, "versions": {"torchdistill": version("torchdistill"), "torch": torch.__version__}})
    )


if __name__ == "__main__":
    main()
