"""The paper's settings (MedFuncta, MIDL 2026, Table 5 and Section 3) as presets: preset, then file, then ``--set``.

Where the paper has one setting per resolution (2D), the preset holds 64 x 64. All others are the model's defaults.
"""

from __future__ import annotations

from typing import Any

PUBLISHED_FIT = {"method": "sgd", "steps": 20, "closed_form": False}

PUBLISHED_META = {"inner_rate": 1e-2, "rate_policy": "scalar"}
PUBLISHED_TRAIN = {"optimizer": "adamw", "rate": 3e-6, "rate_by_omega": False}

PRESETS: dict[str, dict[str, Any]] = {
    "medfuncta-1d": {
        "field": {"layers": 8, "hidden": 64, "latent": 64, "omega_first": 20.0, "omega_last": 200.0, "residual": False},
        "meta": PUBLISHED_META | {"selection_ratio": 1.0},
        "train": PUBLISHED_TRAIN | {"batch": 64},
        "fit": PUBLISHED_FIT,
    },
    "medfuncta-2d": {
        "field": {
            "layers": 15,
            "hidden": 256,
            "latent": 2048,
            "omega_first": 20.0,
            "omega_last": 400.0,
            "residual": False,
        },
        "meta": PUBLISHED_META | {"selection_ratio": 0.25},
        "train": PUBLISHED_TRAIN | {"batch": 24},
        "fit": PUBLISHED_FIT,
    },
    "medfuncta-3d": {
        "field": {
            "layers": 15,
            "hidden": 256,
            "latent": 8192,
            "omega_first": 20.0,
            "omega_last": 300.0,
            "residual": False,
        },
        "meta": PUBLISHED_META | {"selection_ratio": 0.25},
        "train": PUBLISHED_TRAIN | {"batch": 4},
        "fit": PUBLISHED_FIT,
    },
}
