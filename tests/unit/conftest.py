"""One thread a process, and every shape annotation of the mathematics checked at run time."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

from tests.unit import typecheck

# Only in the tests: a user's run does not pay for the checks, nor need beartype.
MATHEMATICS = ["medfuncta_dist.fields", "medfuncta_dist.meta", "medfuncta_dist.latents.fit"]
install_import_hook(MATHEMATICS, f"{typecheck.__name__}.check")
