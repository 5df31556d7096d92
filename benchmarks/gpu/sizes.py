"""How large everything is: the issue's sizes on a GPU, tiny ones where the command is only tried out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.paper_field import paper_field
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.siren import SirenSpec


@dataclass(frozen=True)
class BasisSize:
    """A basis field as a preset has it, and its global batch."""

    name: str
    shape: tuple[int, ...]
    hidden: int
    latent: int
    omega: float
    batch: int

    @property
    def spec(self) -> BasisSpec:
        """As it is trained: as many features as numbers."""
        return BasisSpec(
            len(self.shape), 1, 3, self.hidden, self.latent, self.latent, (self.omega, self.omega), mapped=False
        )


@dataclass(frozen=True)
class Sizes:
    """Of one run of the command."""

    layers: int = 15
    hidden: int = 256
    latent: int = 2048
    side: int = 64
    scans: int = 24
    """B, of a meta step."""
    rank_scans: int = 3
    """Of one rank, where B scans are dealt to eight."""
    inner_steps: int = 10
    ratio: float = 0.25
    """γ."""
    rate: float = 1e-2
    """Of the inner loop and of plain fit steps."""
    rounds: int = 3
    plain_steps: int = 20
    newton_steps: int = 3
    fit_scans: int = 144
    """Whole blocks."""
    quality_scans: int = 4
    oracle_scans: int = 2
    training_steps: int = 100
    """Of the network that gradients and fits are compared on."""
    training_rate: float = 6e-5
    wide_latents: tuple[int, ...] = (4096, 8192, 16384)
    largest_side: int = 224
    copy_bytes: int = 2**30
    products: tuple[int, ...] = (4096, 8192)
    basis: tuple[BasisSize, ...] = (
        BasisSize("2d", (64, 64), 256, 2048, 20.0, 64),
        BasisSize("3d", (32, 32, 32), 256, 8192, 10.0, 16),
    )
    basis_scans: int = 4096
    validation_scans: int = 64
    validate_seconds: float = 15.0
    longest_training: float = 3600.0
    """Seconds, whatever is left."""

    def spec(self, latent: int | None = None, residual: bool = False) -> SirenSpec:
        """The paper's 2D field, of its text unless ``residual``; with another latent size where one is given."""
        return paper_field(self.layers, self.hidden, latent or self.latent, residual)


FULL = Sizes()
DRY = replace(
    FULL,
    layers=4,
    hidden=16,
    latent=24,
    side=12,
    scans=4,
    rank_scans=2,
    inner_steps=2,
    rounds=1,
    plain_steps=2,
    fit_scans=4,
    quality_scans=2,
    training_steps=4,
    training_rate=1e-3,
    wide_latents=(32, 48),
    largest_side=20,
    copy_bytes=2**16,
    products=(64,),
    basis=(BasisSize("2d", (12, 12), 16, 24, 20.0, 4), BasisSize("3d", (4, 4, 4), 16, 24, 10.0, 4)),
    basis_scans=8,
    validation_scans=4,
    validate_seconds=0.3,
    longest_training=1.0,
)
"""Every section's own code in seconds on one core."""
