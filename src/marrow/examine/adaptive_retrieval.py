"""What does a search lose that looks at few numbers first, and what does it save?"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.contracts import Probe, Report
from ..core.errors import MarrowError
from ..nn.embeddings import embeddings
from ..nn.nested import check_trained, nested_sizes
from ..nn.nested_search import check_index, funnel, mega_macs, search
from ..nn.ranking import average_precision_at, precision_at, recall_at, share_found_at
from ..tasks.embed import Embed
from ..tasks.nested_classify import NestedClassify
from ..tasks.retrieve import Retrieve

SHORTLIST = 200  # of the paper


class AdaptiveRetrieval(Probe):
    """A shortlist by the first numbers of an embedding, sorted anew by more of them, beside a search by all of them.

    Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022 (sec. 4.3.1). `train` is searched, `test` asks; both
    are labelled. sizes: that of the shortlist, then those by which it is sorted. By default they are the smallest and the
    largest of those that the model was trained for, where it says them, else of the halved widths; one where there is one.
    The largest that it was trained for is the whole embedding. shortlists: how many are kept before each sorting, by default
    200 or all there are; more than one is funnel retrieval. k: how many answers count. index: "exact" in torch, "flat" and
    "hnsw" by FAISS.

    Rows, of the adaptive search and of that by the whole embedding: top1; map_at_k, the sum of the precision at the hits
    divided by k; precision_at_k, the share of the k answers that have the query's label; recall_at_k, the share of all keys
    of that label that are among them, where the `recall_at_k` of `retrieve` asks for one. mega_macs: what a query costs that
    is compared with every key; "hnsw" compares it with fewer.
    """

    needs = {"model": set()}
    streams = ("train", "test")

    def __init__(
        self,
        *,
        sizes: tuple[int, ...] = (),
        shortlists: tuple[int, ...] = (),
        k: int = 10,
        index: Literal["exact", "flat", "hnsw"] = "exact",
    ):
        if k < 1:
            raise MarrowError(f"{k} answers are too few; 1 or more fit", where="adaptive_retrieval.k")
        kept = shortlists[-1] if shortlists else SHORTLIST
        if k > kept and len(sizes) != 1:
            raise MarrowError(f"{k} answers do not come out of a shortlist of {kept}", where="adaptive_retrieval.k",
                              hint="Name longer shortlists, or one size alone.")  # fmt: skip
        check_index(index)
        self.sizes, self.shortlists, self.k, self.index = sizes, shortlists, k, index

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        model, trained = models["model"], _trained_sizes(models["model"])
        for size in self.sizes if trained else ():
            check_trained(size, trained, "adaptive_retrieval.sizes")
        if self.k > (most := len(data.streams["train"])):
            raise MarrowError(f"{self.k} answers do not come out of {most} images", where="adaptive_retrieval.k")
        keys, known = embeddings(model, data.streams["train"], engine, "adaptive_retrieval.model")
        queries, wanted = embeddings(model, data.streams["test"], engine, "adaptive_retrieval.model")
        if known is None or wanted is None:
            raise MarrowError(f"the stream '{'train' if known is None else 'test'}' has images without labels, and whether two "
                              "images belong together is told by labels", where="adaptive_retrieval")  # fmt: skip
        width = trained[-1] if trained else keys.shape[1]
        keys, queries = keys[:, :width], queries[:, :width]
        named = trained or nested_sizes(width)
        sizes = self.sizes or tuple(sorted({named[0], named[-1]}))
        lists = self.shortlists or (min(SHORTLIST, len(keys)),) * (len(sizes) - 1)
        few = funnel(queries, keys, sizes, lists, self.index)[1]
        whole = search(queries, keys, self.k, self.index)
        there = torch.bincount(known, minlength=int(wanted.max()) + 1)[wanted]
        return Report([
            *self._rows("adaptive", known[few] == wanted[:, None], there, mega_macs(len(keys), sizes, lists)),
            *self._rows("whole", known[whole] == wanted[:, None], there, mega_macs(len(keys), (width,), ())),
        ])  # fmt: skip

    def _rows(self, name: str, hits: Tensor, there: Tensor, cost: float) -> list[dict]:
        facts, k = {"n": len(hits), "search": name, "mega_macs": cost}, self.k
        measured = {
            "top1": recall_at(hits, 1),
            f"map_at_{k}": average_precision_at(hits, k),
            f"precision_at_{k}": precision_at(hits, k),
            f"recall_at_{k}": share_found_at(hits, k, there),
        }
        return [{"metric": metric, "value": float(value.mean()), **facts} for metric, value in measured.items()]


def _trained_sizes(model: Any) -> tuple[int, ...]:
    """The nested sizes that a task says it was trained for; of other models they are not known."""
    return model.sizes if isinstance(model, (Embed, NestedClassify, Retrieve)) else ()
