"""Do measures of the nucleus keep what they are worth on pictures from another microscope?"""

import os
from pathlib import Path

from marrow.claims import statement
from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")

# The arms are those of the claim olconvnet, whose rates were chosen on set 1, the first 300 rows: pictures of 120 x 120. Set 2
# is the last 100, of 300 x 300 in other colours; nothing was chosen on it.
SET_2 = [{"images": str(DATA / "wbc"), "only": ["1", "2", "3", "4"], "objects": 2, "indices": list(range(300, 400))}]

CLAIM = Claim(
    paper="Tripathi and Singh, Cell Nuclei Classification in Histopathological Images using Hybrid OLConvNet, ACM TOMM 2020; "
    "the change of domain is a check of ours",
    says="measures of the nucleus, joined with a shallow net's features, carry over to another microscope better than the "
    "features alone",
    arms=statement("olconvnet").arms,
    measure="weighted_f1",
    better="hybrid",
    than="deep",
    by=0.02,
    test=SET_2,
    data="white blood cells: trained on five draws of 70 % of set 1, measured on the 97 cells of four classes of set 2",
    minutes=20,
    full_scale="recipes/olconvnet.full.yaml",
    unlike="Lengths and areas are in pixels, and the second set's pictures are two and a half times as large: only measures without "
    "a unit can carry over. Colours differ too. All seeds are measured on the same cells.",
    seeds=(0, 1, 2, 3, 4),
)
