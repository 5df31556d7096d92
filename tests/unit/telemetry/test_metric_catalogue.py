from __future__ import annotations

import ast
from pathlib import Path

from medfuncta_dist.telemetry.metric_catalogue import METRICS, reference

ROOT = Path(__file__).parents[3]


def test_the_page_is_what_the_catalogue_says() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == reference()


def test_names_are_unique_and_every_metric_says_what_it_means() -> None:
    assert len({metric.prometheus for metric in METRICS}) == len(METRICS)
    assert all(metric.meaning.endswith(".") for metric in METRICS)


def test_everything_that_the_workers_log_is_in_the_catalogue() -> None:
    """What a worker gives to ``leader.log`` reaches Prometheus, or somebody looks for it there in vain."""
    sources = {metric.source or metric.name for metric in METRICS if metric.stage == "train"}
    logged = _keys_of_pace() | {"rate", "gradient_norm", "psnr"}
    assert logged <= sources


def _keys_of_pace() -> set[str]:
    tree = ast.parse((ROOT / "medfuncta_dist" / "training" / "pace.py").read_text())
    dicts = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    return {key.value for node in dicts for key in node.keys if isinstance(key, ast.Constant)}
