"""A source, a net, a task and methods small enough to train in a second; with everything that can break a resume."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from marrow.core.contracts import Backbone, Features, Input, Method, Step, Task
from marrow.core.engine import Engine
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source, Unreadable
from marrow.core.wrappers import Frozen

CLASSES = 4


class Pictures(Source):
    """Random 8 px pictures whose class is the brightest quarter; `broken` ones cannot be read."""

    def __init__(self, count=48, seed=0, broken=()):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 120, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
        self.labels = torch.randint(0, CLASSES, (count,), generator=generator).tolist()
        for image, label in zip(self.images, self.labels):
            image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 90
        self.broken, self.classes = set(broken), [str(c) for c in range(CLASSES)]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index in self.broken:
            raise Unreadable(self.name(index), "truncated")
        return {"image": self.images[index], "label": self.labels[index], "index": index}

    def fraction(self, index):
        return self.images[index].float().mean().item() / 256

    def name(self, index):
        return f"picture-{index}"

    def label(self, index):
        return self.labels[index]


class SmallNet(Backbone):
    """Two convolutions; BatchNorm and dropout are what makes it a hard case, and can be left out."""

    spec, dim, gives = {}, 12, frozenset({"pooled"})
    input = Input(size=(8, 8))

    def __init__(self, plain=False):
        super().__init__()
        norm, drop = (nn.Identity(), nn.Identity()) if plain else (nn.BatchNorm2d(8), nn.Dropout(0.2))
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm, nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), drop)

    def features(self, x, *, maps=()):
        x = x / 255.0 if x.dtype == torch.uint8 else x
        return Features(self.net(x).flatten(2).mean(2))


class Sort(Task):
    fields = {"image": "(B, 3, 8, 8) uint8", "label": "(B,) int"}

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.dim, CLASSES)

    def forward(self, batch):
        return {"logits": self.head(self.backbone(batch["image"]).pooled)}

    def losses(self, out, batch):
        return {"cross_entropy": F.cross_entropy(out["logits"], batch["label"])}

    def decode(self, out, batch):
        return out["logits"].argmax(1)

    def metric(self):
        return Accuracy()


class Accuracy:
    def __init__(self):
        self.right, self.n = 0, 0

    def update(self, decoded, batch):
        self.right, self.n = self.right + int((decoded == batch["label"]).sum()), self.n + len(decoded)

    def compute(self):
        return [{"metric": "top1", "value": self.right / self.n, "n": self.n}]


def noisy(example):
    """A random view that draws from torch, numpy and random alike."""
    import random

    import numpy as np

    noise = torch.randint(0, 20, (3, 8, 8), dtype=torch.uint8) + np.random.randint(0, 5) + random.randrange(5)
    return {**example, "image": example["image"] + noise.to(torch.uint8)}


class Supervise(Method):
    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, batch, clock, player="main"):
        losses = self.task.losses(self.task(batch), batch)
        return Step(losses, {"drawn": torch.rand(())})

    def views(self):
        return noisy

    def product(self):
        return self.task


class Plainly(Supervise):
    """Without random views and random logs."""

    def forward(self, batch, clock, player="main"):
        return Step(self.task.losses(self.task(batch), batch))

    def views(self):
        return None


class Duel(Method):
    """Two players: noise that is to hurt, a task that is to bear it; and a running mean kept in a buffer."""

    players = ("noise", "task")

    def __init__(self, task):
        super().__init__()
        self.task, self.noise = task, nn.Parameter(torch.zeros(3, 8, 8))
        self.register_buffer("mean", torch.zeros(()))

    def groups(self):
        return {"noise": [self.noise], "task": list(self.task.parameters())}

    def forward(self, batch, clock, player="task"):
        image = batch["image"] / 255.0 + 0.1 * torch.tanh(self.noise) + 0.01 * torch.randn(3, 8, 8)
        loss = self.task.losses(self.task({**batch, "image": image}), batch)["cross_entropy"]
        return Step({"hurt": -loss} if player == "noise" else {"cross_entropy": loss})

    def after_step(self, clock):
        self.mean.lerp_(self.noise.detach().mean() + torch.rand(()), 0.1)

    def views(self):
        return noisy

    def product(self):
        return self.task


@dataclasses.dataclass(frozen=True)
class Cut:
    """A random cut of a picture, enlarged again."""

    side: int = 6

    def __call__(self, example):
        top, left = torch.randint(0, 9 - self.side, (2,)).tolist()
        part = example["image"][:, top : top + self.side, left : left + self.side]
        return {**example, "image": F.interpolate(part[None], (8, 8))[0]}


class Learn(Method):
    """A student learns what a frozen teacher says; `asked` holds the sizes of the batches it saw."""

    def __init__(self, student, *, outputs=CLASSES, sure=30.0, batch_stats=False, view=Cut(), output="logits"):
        super().__init__()
        torch.manual_seed(1)
        teacher = Sort(SmallNet())
        teacher.head, student.head = nn.Linear(12, outputs), nn.Linear(12, outputs)
        with torch.no_grad():
            teacher.head.weight.mul_(sure)
        self.student, self.teacher, self.view, self.asked = student, Frozen(teacher, batch_stats), view, []
        self.output = output

    def targets(self, batch):
        self.asked.append(len(batch["image"]))
        return {self.output: self.teacher(batch)["logits"].float()}

    def forward(self, batch, clock, player="main"):
        teacher, student = self.taught(batch)[self.output], self.student(batch)["logits"]
        return Step({"kl": F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")})

    def views(self):
        return self.view

    def product(self):
        return self.student


SGD = {"main": Optim("sgd", 0.1, schedule="constant", warmup_percent=0)}


def plainly(cls=Plainly, **net):
    torch.manual_seed(0)
    return cls(Sort(SmallNet(plain=True, **net)))


def train(method, *, val=None, streams=None, logger=None, progress=None, **settings):
    settings = {"steps": 5, "batch": 12, "optim": SGD, **settings}
    engine = Engine(Settings(**settings), device="cpu", logger=logger, progress=progress)
    engine.train(method, Data(streams or {"train": Pictures(40)}, val))
    return engine


def same(a, b, **tolerance):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, **tolerance, msg=lambda m, name=name: f"{name}: {m}")


class Rows:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.rows = []

    def log(self, step, values):
        self.rows.append((step, values))

    def close(self):
        pass

    def column(self, name):
        return {step: values[name] for step, values in self.rows if name in values}
