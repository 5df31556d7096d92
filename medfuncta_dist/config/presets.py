"""Settings to start from, by name: preset, then file, then ``--set``. What a preset does not name keeps its default.

- ``1d``, ``2d``, ``3d``: ours, basis fields, in the paper's latent sizes. Their settings are those that won on smaller
  fields (benchmarks/results/fields-*); these sizes themselves have not been measured. To be used unless a SIREN is
  wanted.
- ``siren-1d``, ``siren-2d``, ``siren-3d``: our best settings of a SIREN (benchmarks/results/presets-*). Runs that were
  begun with ``1d``, ``2d`` or ``3d`` before these meant basis fields go on with them.
- ``paper-*``: what the text of MedFuncta says (MIDL 2026, Table 5 and Section 3).
- ``public-code-*``: what its public code does (github.com/pfriedri/medfuncta, March 2025), where that differs from the
  text: residual layers, a modulated first layer, smaller ω, AdamW's own weight decay, no schedule.
- ``medfuncta-*``: the names of ``paper-*`` in earlier versions. Kept for ever, so that old runs resume.

Where the paper has one setting per resolution (2D), a preset holds that of 64 x 64.
"""

from __future__ import annotations

from typing import Any, Literal

Preset = dict[str, dict[str, Any]]
PresetName = Literal[
    "1d",
    "2d",
    "3d",
    "siren-1d",
    "siren-2d",
    "siren-3d",
    "paper-1d",
    "paper-2d",
    "paper-3d",
    "public-code-1d",
    "public-code-2d",
    "public-code-3d",
    "medfuncta-1d",
    "medfuncta-2d",
    "medfuncta-3d",
]
"""All names. A name that a run was begun with stays, for it is part of the run's digest."""

SIZES: dict[str, dict[str, int]] = {
    "1d": {"layers": 8, "hidden": 64, "latent": 64},
    "2d": {"layers": 15, "hidden": 256, "latent": 2048},
    "3d": {"layers": 15, "hidden": 256, "latent": 8192},
}
"""Layers, width and latent size of the paper's Table 5, for 187 samples, 64 x 64 and 32 x 32 x 32."""
BATCHES = {"1d": 64, "2d": 24, "3d": 4}
SELECTION_RATIOS = {"1d": 1.0, "2d": 0.25, "3d": 0.25}


def _paper(axes: str, omega_last: float) -> Preset:
    """The text's equations: no residual term, ω₁ = 20, a cosine schedule."""
    return {
        "field": SIZES[axes] | {"omega_first": 20.0, "omega_last": omega_last, "residual": False},
        "meta": {"inner_rate": 1e-2, "rate_policy": "scalar", "selection_ratio": SELECTION_RATIOS[axes]},
        "train": {"optimizer": "adamw", "rate": 3e-6, "rate_by_omega": False, "batch": BATCHES[axes]},
        "fit": {"method": "sgd", "steps": 20, "closed_form": False},
    }


def _public_code(axes: str, increment: float) -> Preset:
    """The public code: ω = 10 at the first layer and ``increment`` more at each further one."""
    omegas = [10.0 + increment * k for k in range(SIZES[axes]["layers"] - 1)]
    ratio = SELECTION_RATIOS[axes]
    return {
        "field": SIZES[axes] | {"omegas": omegas, "residual": True, "modulate_first": True},
        "meta": {"inner_steps": 10, "inner_rate": 1e-2, "rate_policy": "scalar", "selection_ratio": ratio},
        "train": {
            "optimizer": "adamw",
            "rate": 3e-6,
            "rate_by_omega": False,
            "weight_decay": 0.01,
            "schedule": "constant",
            "clip": 1.0,
            "batch": BATCHES[axes],
        },
        # Its second gradient, for the size of a step, sees as many points as a context set; all of them change nothing.
        "fit": {"method": "sgd", "steps": 20, "closed_form": False, "rescale": ratio if ratio < 1 else None},
    }


KIND_DEFAULTS: dict[str, Preset] = {
    "basis": {
        "field": {"layers": 3, "omega_last": 20.0},
        "meta": {"selection_ratio": 1.0},
        "train": {"batch": 64, "rate": 1e-3, "warmup_steps": 20, "steps": 200, "validate_steps": 100, "clip": None},
        "fit": {"method": "exact", "steps": 1, "closed_form": False},
    }
}
"""What a kind of field has for defaults, where the run file's sections have those of a SIREN. Presets go over them.

A basis field's trunk is one hidden layer and the features, with one ω for both. 400 steps gained less than 0.01 dB
over 200 on chest X-rays, and 100 as little over 60 on the quickstart's slices (validation scans)."""

OURS: dict[str, Preset] = {
    # As many features as numbers: on a small data set, choosing P of more features by their variance over the training
    # scans followed these too closely (1.4 dB on the electrocardiogram's validation rows after 100 steps).
    "1d": {
        "field": {"kind": "basis", "hidden": 128, "latent": 64, "features": 64},
        "train": {"batch": BATCHES["1d"], "rate": 5e-4, "steps": 100, "validate_steps": 50},
    },
    "2d": {
        "field": {"kind": "basis", "hidden": 256, "latent": 2048},
        "train": {"batch": 64, "rate": 1e-3, "steps": 200, "validate_steps": 100},
    },
    # A step takes a minute on two cores, a validation more. On 167 cubes (F = 512) one step was 0.2 dB better than
    # thirty on validation cubes; no larger archive has been measured.
    "3d": {
        "field": {"kind": "basis", "hidden": 256, "latent": 8192, "omega_first": 10.0, "omega_last": 10.0},
        "train": {"batch": 16, "rate": 1e-3, "steps": 100, "validate_steps": 100},
    },
}
SIREN: dict[str, Preset] = {
    # The best that was measured, at this very size (batch 16). Of inner rates .02 to .3 the middle ones won.
    "siren-1d": {
        "field": {"layers": 5, "hidden": 64, "latent": 64, "omega_first": 20.0, "omega_last": 80.0, "residual": True},
        "meta": {"inner_steps": 5, "inner_rate": 0.05, "selection_ratio": 1.0},
        "train": {"rate": 1e-3, "rate_by_omega": True, "batch": BATCHES["1d"]},
        "fit": {"method": "gauss-newton", "steps": 10},
    },
    # Sizes and ω of the paper, as published results are; residual layers and rates that follow ω are what won on small
    # networks. No GPU has run these sizes yet: rates are the careful defaults.
    "siren-2d": {
        "field": SIZES["2d"] | {"omega_first": 20.0, "omega_last": 400.0, "residual": True},
        "meta": {"selection_ratio": SELECTION_RATIOS["2d"]},
        "train": {"rate": 6e-5, "rate_by_omega": True, "batch": BATCHES["2d"]},
        "fit": {"method": "gauss-newton", "steps": 10},
    },
    # Gauss-Newton would need latent² numbers per scan, 256 MiB here.
    "siren-3d": {
        "field": SIZES["3d"] | {"omega_first": 20.0, "omega_last": 300.0, "residual": True},
        "meta": {"selection_ratio": SELECTION_RATIOS["3d"]},
        "train": {"rate": 6e-5, "rate_by_omega": True, "batch": BATCHES["3d"]},
        "fit": {"method": "momentum", "steps": 20},
    },
}
OUR_PREFIXES = {"basis": "", "siren": "siren-"}
"""What the names of our presets begin with, by kind of field; then come the axes."""
PAPER = {"paper-1d": _paper("1d", 200.0), "paper-2d": _paper("2d", 400.0), "paper-3d": _paper("3d", 300.0)}
PUBLIC_CODE = {
    "public-code-1d": _public_code("1d", 10.0),
    "public-code-2d": _public_code("2d", 5.0),
    "public-code-3d": _public_code("3d", 5.0),
}
ALIASES = {f"medfuncta-{axes}": f"paper-{axes}" for axes in SIZES}
"""Earlier names, and the presets that they mean."""
SIRENS_OF: dict[str, str] = {axes: f"siren-{axes}" for axes in OURS}
"""Names that meant a SIREN in earlier versions, and the presets that have its settings now."""

PRESETS: dict[str, Preset] = {
    **OURS,
    **SIREN,
    **PAPER,
    **PUBLIC_CODE,
    **{old: PAPER[new] for old, new in ALIASES.items()},
}
