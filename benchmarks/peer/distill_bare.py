"""A distillation loop written by hand in PyTorch, its two nets and its clock; what libraries are measured against."""

import math
import time

import torch
import torch.nn.functional as F
from torchvision.models import resnet18, resnet50

SIZE, BATCH, CLASSES, LR, MOMENTUM = 64, 16, 1000, 0.001, 0.9
WARM = 4  # steps before the clock starts
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(-1, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(-1, 1, 1)


def nets():
    """(student, teacher), untrained; the teacher's logits are spread as far as a trained one's."""
    torch.manual_seed(0)
    student, teacher = resnet18(num_classes=CLASSES), resnet50(num_classes=CLASSES).eval()
    with torch.no_grad():
        teacher.fc.weight.mul_(8.0 / teacher(torch.randn(8, 3, SIZE, SIZE)).std(1).mean())
    return student, teacher.requires_grad_(False)


def normalized(image):
    """(B, 3, H, W) uint8 -> float with the nets' mean and deviation."""
    return (image / 255.0 - MEAN) / STD


class Clock:
    """Seconds a step by the wall clock and by the processor's, over the steps after the first few."""

    def __init__(self):
        self.steps, self.start, self.end = 0, (), ()

    def tick(self, step):
        now = (time.perf_counter(), time.process_time())
        if step == WARM:
            self.start = now
        self.steps, self.end = step - WARM, now

    def seconds(self):
        return {name: (end - start) / self.steps for name, start, end in zip(("wall", "cpu"), self.start, self.end)}


def hand_written(student, teacher, batches, steps):
    """KL(teacher || student) by SGD; the seconds a step and the mean loss."""
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM, foreach=True)
    student.train()
    clock, losses = Clock(), []
    for step in range(1, steps + 1):
        image = normalized(next(batches))
        with torch.no_grad():
            target = teacher(image).log_softmax(-1)
        loss = F.kl_div(student(image).log_softmax(-1), target, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        clock.tick(step)
    return clock.seconds(), losses


def unequal(ours, theirs):
    """Whether two trainings of the same nets on the same batches had other losses than rounding explains.

    By the first few, which show loss, rate and momentum; later on what is rounded otherwise grows with every step.
    """
    return not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(ours[:WARM], theirs[:WARM], strict=True))
