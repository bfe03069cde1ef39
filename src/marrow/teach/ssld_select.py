"""Which unlabelled images SSLD should see: the first stage of its recipe.

Cui et al., "Beyond Self-Supervision", 2021: of a large pool keep, for each class, the images that the teacher is surest of,
after taking out what resembles the images that the result will be measured on.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor

from ..core.contracts import Backbone, Clock, Method, Step, Task
from ..core.errors import MarrowError
from ..core.table import Table
from ..core.wrappers import Frozen, taps
from ..data.combine import Wrapped
from ..nn.duplicates import difference_hash, near_duplicates
from ..nn.top_k import TopKPerClass


class Numbered(Wrapped):
    """A source whose examples say where they stand in it, since a pass leaves out what cannot be read."""

    def __getitem__(self, index: int) -> dict:
        return {"image": self.base[index]["image"], "index": index}

    def undecoded(self, index: int) -> dict:
        return {"image": self.base.undecoded(index)["image"], "index": index}


class SSLDSelect(Method):
    """The `k` most confident images of each of the teacher's classes, out of the stream `pool`.

    An image of the pool that is a near-duplicate of one in the stream `held_out` (validation, test) is left out: the
    teacher's embeddings have a cosine of at least `cosine` and the 64-bit difference hashes differ in at most `bits` bits.
    The product is a table with the columns index (position in the pool), label and confidence; `removed` counts the
    near-duplicates.

    Owns its loop because nothing is trained: one pass of the teacher over the pool, with memory for k images a class and
    the embeddings of `held_out`.

    Deviation: the paper finds duplicates by matching SIFT key points.
    """

    reads_labels = False
    needs = {"teacher": {"logits"}}
    streams = ("pool", "held_out")
    exempt = {"trains": "it selects images with a teacher and trains nothing"}

    def __init__(self, teacher: Task, *, k: int = 4000, cosine: float = 0.9, bits: int = 8):
        super().__init__()
        if k < 1:
            raise MarrowError(f"{k} images a class is not a positive number", where="ssld_select.k")
        if not -1.0 <= cosine <= 1.0:
            raise MarrowError(f"a cosine of {cosine} is outside -1..1", where="ssld_select.cosine")
        if not 0 <= bits <= 64:
            raise MarrowError(f"{bits} of 64 bits is outside 0..64", where="ssld_select.bits")
        self.teacher, self.k, self.cosine, self.bits = Frozen(teacher), k, cosine, bits
        self.removed = 0
        self.table: Table | None = None

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        raise MarrowError("it selects images and has no training step; call fit(engine, data)", where="ssld_select")

    @torch.no_grad()
    def fit(self, engine: Any, data: Any) -> None:
        self.to(engine.device)
        input = self.teacher.module.input
        held_out = [self.look(batch) for batch in engine.batches(data.streams["held_out"], input)]
        embeddings, hashes = (torch.cat([h[i] for h in held_out]) for i in (1, 2))
        top, seen, self.removed = TopKPerClass(self.k), 0, 0
        for batch in engine.batches(Numbered(data.streams["pool"]), input):
            probs, embedding, hash = self.look(batch)
            twin = near_duplicates(embedding, embeddings, self.cosine, a_hash=hash, b_hash=hashes, bits=self.bits)
            top.update(probs[~twin], batch["index"][~twin])
            seen, self.removed = seen + len(twin), self.removed + int(twin.sum())
        index, label, confidence = top.result()
        if not len(index):
            raise MarrowError(f"nothing is left of the pool's {seen} images, {self.removed} of them near-duplicates of "
                              "held-out ones", where="ssld_select")  # fmt: skip
        self.table = Table({"index": index, "label": label, "confidence": confidence}, self.teacher.module.labels)

    def look(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C) posteriors, (B, D) embeddings and (B, 64) hashes of a batch."""
        teacher = self.teacher.module
        name = next(name for name, child in teacher.named_children() if isinstance(child, Backbone))
        with taps(teacher, name) as inner:
            logits = teacher(batch)["logits"]
        return logits.float().softmax(-1), inner[name].pooled, difference_hash(batch["image"])

    def product(self) -> Table:
        if self.table is None:
            raise MarrowError("nothing was selected yet; fit(engine, data) comes first", where="ssld_select")
        return self.table
