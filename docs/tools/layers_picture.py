"""docs/understand/layers.svg, drawn from import-linter's layers:
``python docs/tools/layers_picture.py > docs/understand/layers.svg``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]

KINDS = {
    "command": ("#dfe6ee", "commands"),
    "run": ("#dcecf7", "one run, start to end"),
    "cluster": ("#fbe7cf", "work spread over a cluster"),
    "data": ("#ece2f3", "data"),
    "core": ("#dff0df", "mathematics, on torch alone"),
    "ground": ("#ececea", "what all others use"),
}
"""Kind of room: colour, and what the legend calls it."""

ROOMS = {
    "cli": ("command", "parses, calls, prints"),
    "api": ("command", "the public functions"),
    "doctor": ("command", "what is missing here"),
    "deploy": ("command", "manifests and image, written"),
    "quickstart": ("command", "the whole job on one machine"),
    "data_report": ("data", "what a data set holds"),
    "fingerprint": ("data", "what an archive holds"),
    "exchange": ("data", "to and from the public code"),
    "stages": ("run", "pack, train, fit, evaluate, in order"),
    "publication": ("run", "latents for others, gated"),
    "forget": ("run", "forgetting scans, with proof"),
    "integrity": ("run", "verify and repair"),
    "run": ("run", "frozen run file, lease, progress"),
    "submit": ("run", "jobs on Kubernetes or Ray"),
    "prior": ("cluster", "new scans from latents"),
    "probe": ("run", "classifiers on latents and pixels"),
    "evaluation": ("cluster", "decode, scores, report"),
    "neighbours": ("cluster", "scans that are alike"),
    "training": ("cluster", "the training loop and its driver"),
    "latent_table": ("data", "open, filter, find latents"),
    "fitting": ("cluster", "latents on many workers"),
    "network": ("run", "the run's shared network"),
    "latents": ("core", "fit one batch; the table"),
    "fanout": ("cluster", "a window of Ray tasks"),
    "remote_calls": ("cluster", "where the tasks run"),
    "streaming": ("data", "sample order, cache, batches"),
    "packing": ("cluster", "from archive to shards"),
    "shards": ("data", "samples, indexes, snapshots"),
    "meta": ("core", "inner loop, exact meta-gradient"),
    "fields": ("core", "the SIREN and its coordinates"),
    "archive": ("data", "inventory of the archive, changes"),
    "patches": ("data", "a scan as a grid of patches"),
    "scans": ("data", "a reader per format"),
    "report_style": ("ground", "the page of every report"),
    "telemetry": ("ground", "events, metrics, progress"),
    "config": ("ground", "the run file"),
    "storage": ("ground", "objects, records, leases"),
    "task_map": ("ground", "done or failed, per task"),
    "random_numbers": ("ground", "drawn by name, alike everywhere"),
    "errors": ("ground", "what a user can meet"),
    "version": ("ground", "of the package"),
}
"""Layer: its kind, and what it does in a few words."""

WIDTH, ROW, TOP = 640, 36, 92
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


def picture() -> str:
    """The SVG: one row per layer, the top layer first."""
    layers = linted_layers()
    height = TOP + ROW * len(layers) + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" role="img" '
        f'aria-label="Layers, top first: {", ".join(layers)}">'
    )
    parts = [head, f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *_legend(), *_arrow(height)]
    for row, layer in enumerate(layers):
        parts += _room(TOP + ROW * row, layer)
    return "\n".join([*parts, "</svg>"]) + "\n"


def linted_layers() -> list[str]:
    """The layers that `make check` holds, top first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return list(layers)


def _legend() -> Iterator[str]:
    for number, (colour, name) in enumerate(KINDS.values()):
        x, y = 14 + 306 * (number % 2), 12 + 25 * (number // 2)
        yield f'<rect x="{x}" y="{y}" width="18" height="18" rx="4" fill="{colour}" stroke="#8a93a0"/>'
        yield f'<text x="{x + 26}" y="{y + 14}" font-size="16" fill="#333">{escape(name)}</text>'


def _arrow(height: int) -> Iterator[str]:
    """Beside the rows: imports go down."""
    end = height - 14
    yield f'<path d="M24 {TOP + 4} V{end}" stroke="#556" stroke-width="2" fill="none"/>'
    yield f'<path d="M18 {end - 8} L24 {end + 2} L30 {end - 8} z" fill="#556"/>'
    middle = (TOP + height) // 2
    turned = f'transform="rotate(-90 14 {middle})" text-anchor="middle"'
    yield f'<text x="14" y="{middle}" {turned} font-size="15" fill="#556">imports only downwards</text>'


def _room(y: int, layer: str) -> Iterator[str]:
    kind, purpose = ROOMS[layer]
    box = f'x="40" y="{y}" width="{WIDTH - 54}" height="{ROW - 5}" rx="6"'
    yield f'<rect {box} fill="{KINDS[kind][0]}" stroke="#8a93a0"/>'
    yield f'<text x="54" y="{y + 21}" font-size="18" font-weight="600" fill="#1d2733">{layer}</text>'
    yield f'<text x="196" y="{y + 21}" font-size="18" fill="#333">{escape(purpose)}</text>'


if __name__ == "__main__":
    print(picture(), end="")
