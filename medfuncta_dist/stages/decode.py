"""Decodes one latent into a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation import decode


def decode_key(run: RunFile, key: str, out: str, shape: str | None) -> dict[str, Any]:
    """Decode a scan by key into ``out``; ``shape`` is text like ``128x128``."""
    decoded = decode.decode_key(run, key, _shape(shape))
    decode.save(decoded, Path(out))
    points = "x".join(str(n) for n in decoded.values.shape[1:])
    flag = " (flagged: below fit.min_psnr)" if decoded.below_min else ""
    return {
        "key": decoded.key,
        "file": str(Path(out).resolve()),
        "shape": list(decoded.values.shape),
        "psnr": decoded.psnr,
        "below_min": decoded.below_min,
        "said": [f"decode: {points} points in {out}; its latent reconstructs at {decoded.psnr:.2f} dB{flag}"],
    }


def _shape(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,5}(x\d{1,5}){0,2}", text):
        raise RunFileError(f"{text!r} is not a shape", where="--shape", do="for example --shape 128x128")
    return [int(n) for n in text.split("x")]
