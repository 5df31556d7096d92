"""The paper's 2D field, which most claims about speed are made on."""

from __future__ import annotations

from medfuncta_dist.fields.siren import SirenSpec


def paper_field(layers: int = 15, hidden: int = 256, latent: int = 2048, residual: bool = False) -> SirenSpec:
    """As in the paper's text: without the residual and with the first layer free, unless said otherwise."""
    return SirenSpec.linear(
        coords=2,
        channels=1,
        layers=layers,
        hidden=hidden,
        latent=latent,
        omega_first=20.0,
        omega_last=400.0,
        residual=residual,
        modulate_first=False,
    )
