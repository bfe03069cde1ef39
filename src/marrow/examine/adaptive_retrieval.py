"""What does a search lose that looks at few numbers first, and what does it save?"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ..core.contracts import Probe, Report
from ..core.errors import MarrowError
from ..nn.embeddings import embeddings
from ..nn.nested import nested_sizes
from ..nn.nested_search import check_index, funnel, mega_macs, search
from ..nn.ranking import average_precision_at, recall_at

SHORTLIST = 200  # of the paper


class AdaptiveRetrieval(Probe):
    """A shortlist by the first numbers of an embedding, sorted anew by more of them, beside a search by all of them.

    Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022 (sec. 4.3.1). `train` is searched, `test` asks; both
    are labelled. sizes: that of the shortlist, then those by which it is sorted, by default the smallest of the halved
    widths and the width itself. shortlists: how many are kept before each sorting, by default 200 or all
    there are; more than one is funnel retrieval. k: how many answers count. index: "exact" in torch, "flat" and "hnsw" by FAISS.

    Rows, of the adaptive search and of that by the whole embedding: top1, and map_at_k, the sum of the precision at the hits
    divided by k. mega_macs: what a query costs that is compared with every key; "hnsw" compares it with fewer.
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
        if k < 1 or (shortlists and k > shortlists[-1]):
            raise MarrowError(f"{k} answers do not come out of a shortlist of {shortlists[-1]}" if shortlists else
                              f"{k} answers are too few; 1 or more fit", where="adaptive_retrieval.k")  # fmt: skip
        check_index(index)
        self.sizes, self.shortlists, self.k, self.index = sizes, shortlists, k, index

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        keys, known = embeddings(models["model"], data.streams["train"], engine, "adaptive_retrieval.model")
        queries, wanted = embeddings(models["model"], data.streams["test"], engine, "adaptive_retrieval.model")
        if known is None or wanted is None:
            raise MarrowError(f"the stream '{'train' if known is None else 'test'}' has images without labels, and whether two "
                              "images belong together is told by labels", where="adaptive_retrieval")  # fmt: skip
        width = keys.shape[1]
        sizes = self.sizes or (nested_sizes(width)[0], width)
        lists = self.shortlists or (min(SHORTLIST, len(keys)),) * (len(sizes) - 1)
        few = funnel(queries, keys, sizes, lists, self.index)[1]
        whole = search(queries, keys, self.k, self.index)
        return Report([
            *self._rows("adaptive", known[few] == wanted[:, None], mega_macs(len(keys), sizes, lists)),
            *self._rows("whole", known[whole] == wanted[:, None], mega_macs(len(keys), (width,), ())),
        ])  # fmt: skip

    def _rows(self, name: str, hits: Tensor, cost: float) -> list[dict]:
        facts = {"n": len(hits), "search": name, "mega_macs": cost}
        return [
            {"metric": "top1", "value": float(recall_at(hits, 1).mean()), **facts},
            {"metric": f"map_at_{self.k}", "value": float(average_precision_at(hits, self.k).mean()), **facts},
        ]
