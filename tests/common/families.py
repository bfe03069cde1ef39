"""Backbones of many families, each tiny: what every method is tried on, and what the table in docs/ is made from."""

from __future__ import annotations

from typing import Any

# Attention nets that keep a grid of 4 x 4 patches, and stages whose last map is 2 x 2.
SIZE = {"img_size": 64}
PLAIN = {**SIZE, "depth": 2, "embed_dim": 48, "num_heads": 3}
STAGES = {**SIZE, "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
CHANNELS = {**SIZE, "channels": (8, 16, 24, 32)}

# Name -> arguments; none is among `pieces.TIMM`. timm fixes the widths of those without any.
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": CHANNELS,
    "res2net50_26w_4s": {**CHANNELS, "layers": (1, 1, 1, 1)},
    "regnetx_002": SIZE,
    "densenet121": {**SIZE, "growth_rate": 8, "block_config": (2, 2, 2, 2)},
    "repvgg_a0": SIZE,
    "hrnet_w18_small": SIZE,
    "mobilenetv2_035": SIZE,
    "efficientnet_lite0": SIZE,
    "ghostnet_050": SIZE,
    "convnext_femto": STAGES,
    "convnextv2_atto": STAGES,
    "edgenext_xx_small": STAGES,
    "poolformer_s12": SIZE,
    "focalnet_tiny_srf": SIZE,
    "mobilevit_xxs": SIZE,
    "efficientvit_b0": SIZE,
    "vit_small_patch16_224": PLAIN,
    "deit_tiny_distilled_patch16_224": PLAIN,
    "vit_relpos_small_patch16_224": PLAIN,
    "beit_base_patch16_224": PLAIN,
    "eva02_tiny_patch14_224": {**PLAIN, "patch_size": 16},
    "cait_xxs24_224": PLAIN,
    "xcit_nano_12_p16_224": PLAIN,
    "mixer_s32_224": SIZE,
    "levit_128s": {**SIZE, "embed_dim": (16, 32, 48), "num_heads": (2, 2, 3), "depth": (1, 1, 1)},
    "swin_small_patch4_window7_224": {
        **SIZE,
        "window_size": 4,
        "depths": (1, 1, 1),
        "embed_dim": 24,
        "num_heads": (2, 4, 4),
    },
    "swinv2_tiny_window8_256": {**SIZE, "window_size": 4, "depths": (1, 1, 1), "embed_dim": 24, "num_heads": (2, 4, 4)},
    "pvt_v2_b0": {**SIZE, "depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 4)},
    "twins_svt_small": {**SIZE, "depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    "davit_tiny": {**SIZE, "depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    "maxvit_rmlp_pico_rw_256": {**SIZE, "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 32, 32)},
    "coatnet_nano_rw_224": {**SIZE, "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 32, 64)},
}
