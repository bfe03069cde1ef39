"""Weight files for a composite backbone: its own, one net's for all members, and the released detectors'."""

from __future__ import annotations

import re
from typing import Any, Mapping

from torch import Tensor, nn

# What a single net calls its parts -> what a member of the composite calls them.
PARTS = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^maxpool\.", "enters.0."),
    (r"^layer(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}."),
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d+)\.downsample\.", r"enters.\1."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1."),
    (r"^norm(\d+)\.", r"norms.\1."),
)
HEAD = re.compile(r"^(fc|linear|head\.fc|head)\.(?=weight$|bias$)")
COMPUTED = ("relative_position_index", "attn_mask")  # older Swin files hold what follows from the window's size


def checkpoint_filter_fn(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file under the names of the composite.

    A single net's file goes to every member, and connections stay as they were built. Its norm behind the last stage is the
    lead's, whose classifier reads it: assistants got none of it in the released code either.
    """
    state = state.get("state_dict", state)
    if any(key.startswith("members.") for key in state):
        return dict(state)
    if any(key.startswith("backbone.cb_modules.") for key in state):  # a whole detector
        state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    own = model.state_dict()
    if any(key.startswith("cb_modules.") for key in state):
        return _released(state, own)
    return _from_single(state, own)


def _from_single(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    lead = max(int(key.split(".")[1]) for key in own if key.startswith("members."))
    last = max(int(key.split(".")[3]) for key in own if key.startswith("members.0.stages."))
    filled = {k: v for k, v in own.items() if k.startswith("feeds.") or re.match(r"members\.\d+\.norms\.", k)}
    for key, tensor in _parts(state).items():
        if HEAD.match(key):
            if "fc.weight" in own:
                filled[HEAD.sub("fc.", key)] = tensor
        elif key.startswith("norm."):
            filled[f"members.{lead}.norms.{last}.{key.removeprefix('norm.')}"] = tensor
        else:
            filled[f"members.0.{key}"] = tensor
            shared = [f"members.{k}.{key}" for k in range(1, lead + 1)]  # later members lack what they share
            filled |= {name: tensor for name in shared if name in own}
    return filled


def _released(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """cb_modules.k holds net k, cb_linears.i.j the connection from stage i + j to stage i."""
    filled: dict[str, Tensor] = {}
    members: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if found := re.match(r"cb_linears\.(\d+)\.(\d+)\.(0\.|1\.|)(\w+)$", key):
            i, j, part, name = int(found[1]), int(found[2]), "norm" if found[3] == "1." else "conv", found[4]
            filled[f"feeds.0.{i}.{i + j}.{part}.{name}"] = tensor
        elif found := re.match(r"cb_modules\.(\d+)\.(.+)$", key):
            members.setdefault(found[1], {})[found[2]] = tensor
        else:
            filled[key] = tensor
    for member, parts in members.items():
        # The lead of a released ResNet gave up its stem and kept the stem's norm, which nothing reads.
        filled |= {f"members.{member}.{key}": tensor for key, tensor in _parts(parts).items()
                   if member == "0" or not key.startswith("stem.bn1.")}  # fmt: skip
    return filled


def _parts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One net's tensors by the parts of a `Member`; classifiers and the last norm keep their names."""
    merges_late = (
        "layers.0.downsample.reduction.weight" in state
    )  # at the end of a stage, where timm does so at a start
    renamed = {}
    for key, tensor in state.items():
        if key.endswith(COMPUTED):
            continue
        if merges_late:
            key = re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", key)
        for pattern, ours in PARTS:
            if re.match(pattern, key):
                key = re.sub(pattern, ours, key)
                break
        renamed[key] = tensor
    return renamed
