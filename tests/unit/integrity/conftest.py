"""A small latent table."""

from __future__ import annotations

from tests.unit.latents.fitted_table import run, store, table

__all__ = ["run", "store", "table"]
