"""Every code block of the README and the documentation is run, parsed or loaded here, or says why not.

Elsewhere: the Python of docs/formats.md by ``test_formats.py``, the symptoms by ``test_when_it_hurts.py``, and the
tutorials from their first line to their last by ``test_cluster_tutorial.py`` and
``tests/integration/test_own_data_tutorial.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import medfuncta_dist
from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.cli.calls import call
from tests.unit.docs import pages
from tests.unit.docs.pages import ROOT, Block, all_blocks, commands
from tests.unit.latents.fitted import ready, record_training

TEXTS = ("text", "markdown")
"""Languages of blocks that hold no code: what a command prints, a formula, a tree."""
LANGUAGES = ("python", "sh", "yaml", *TEXTS)
CLUSTER = "tests/unit/docs/test_cluster_tutorial.py"
ELSEWHERE = {
    "docs/formats.md": "tests/unit/docs/test_formats.py",
    "docs/tutorials/own-data.md": "tests/integration/test_own_data_tutorial.py",
    "docs/tutorials/cluster.md": CLUSTER,
    "docs/how-to/when-it-hurts.md": "tests/unit/docs/test_when_it_hurts.py",
}
"""Pages whose blocks run in an order of their own, and where."""
ON_A_RUN = ("decode", "verify", "wandb")
"""Commands that are run here."""
COMMANDS_ELSEWHERE = dict.fromkeys(("submit", "status", "list", "cancel", "resume", "doctor"), CLUSTER) | {
    **dict.fromkeys(("pack", "train", "fit", "evaluate", "run"), "tests/integration/test_pipeline.py"),
    "fork": "tests/integration/test_run_life.py",
    "logs": "tests/integration/test_submission.py",
    "quickstart": "tests/fresh_install.py",
    "forget": "tests/unit/forget/test_forget_command.py",
    "lookup": "tests/unit/forget/test_forget_command.py",
    "data-report": "tests/unit/cli/test_data.py",
    "fingerprint": "tests/unit/cli/test_data.py",
    "manifests": "tests/unit/deploy/test_manifests_folder.py",
    "image": "tests/unit/deploy/test_image_context.py",
    "network-policy": "tests/unit/docs/test_private_endpoint.py",
    "probe": "tests/integration/test_pipeline.py",
    "report": "tests/unit/stages/test_report_again.py",
    "compare": "tests/unit/evaluation/comparison/test_comparison_driver.py",
    "publish": "tests/unit/publication/test_publish_command.py",
    "near-duplicates": "tests/unit/neighbours/test_duplicates_report.py",
    **dict.fromkeys(("index", "neighbours"), "tests/unit/neighbours/test_duplicates_report.py"),
    **dict.fromkeys(("import-network", "export-network"), "tests/unit/exchange/test_latents.py"),
    **dict.fromkeys(("import-latents", "export-latents"), "tests/unit/exchange/test_latents.py"),
}
"""Commands that need a cluster, an archive or minutes, by the test that runs them."""
SHELL_WORDS = ("source", "export", "cd")
MEDFUNCTA = str(Path(sys.executable).parent / "medfuncta-dist")
SMALLEST = {"name": "small", "storage": "s3://bucket/x", "data": {"source": "s3://archive/*.png", "shape": [64, 64]}}


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_a_block_names_its_language(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: give the block one of these languages: {', '.join(LANGUAGES)}"


def test_blocks_that_run_elsewhere_do() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(), f"{test} does not read {page}"
    for block in all_blocks():
        if block.remark and block.remark[0] == "run by":
            assert (ROOT / block.remark[1]).exists(), block


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder that pages speak of: a fitted run as ``my-run``, its run file as ``run.yaml``."""
    folder = tmp_path_factory.mktemp("pages")
    run = ready(folder)
    record_training(run, {"0000000000070001-20260711T101500-9f3a": {1: 0.5}})
    fit(run, map_here)
    make_index(run, "image", map_here)
    table = folder / "storage" / locate_table(run, ObjectStore(run.storage)).folder
    (table.parent / "<network>-<fit>").symlink_to(table)
    (folder / "my-run").symlink_to(folder / "storage" / "runs" / run.name)
    (folder / "run.yaml").write_text(dump(run))
    (folder / "my-run" / "run.yaml").write_text(dump(run))
    (folder / "jobs").symlink_to(ROOT / "jobs")
    (folder / "my-xrays.yaml").write_text(_titled("my-xrays.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def _titled(name: str) -> str:
    (text,) = (block.text for block in all_blocks("yaml") if block.title == name)
    return text


def _python_pages() -> list[str]:
    found = [b.page for b in all_blocks("python") if b.remark is None and b.page not in ELSEWHERE]
    return sorted(set(found))


@pytest.mark.parametrize("page", _python_pages())
def test_the_python_of_a_page_runs_from_top_to_bottom(page: str, folder: Path) -> None:
    run = _run()
    network = load_network(ObjectStore("storage"), locate_table(run, ObjectStore("storage")).network)
    names: dict[str, Any] = {"latents": torch.zeros(2, network.spec.latent), "md": medfuncta_dist, "run": run}
    for block in pages.blocks(ROOT / page):
        if block.language == "python" and block.remark is None:
            exec(compile("\n" * block.line + block.text, page, "exec"), names)  # a failure names the page's own line


def _run() -> Any:
    return parse(Path("run.yaml").read_text())


def test_the_readmes_python_is_among_it() -> None:
    assert {"README.md", "docs/reference/api.md"} <= set(_python_pages())


# -- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_a_run_file_or_a_part_of_one_is_accepted(block: Block) -> None:
    if block.remark is not None:
        return
    given = yaml.safe_load(block.text)
    text = block.text if "name" in given else yaml.safe_dump(SMALLEST) + block.text
    parse(text, where=str(block))


# -- Shell ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "arguments"), pages.ours())
def test_a_command_parses(page: str, arguments: tuple[str, ...]) -> None:
    pages.parse(arguments)


def test_a_wrong_command_does_not_parse() -> None:
    with pytest.raises(BaseException, match="no-such-option"):
        pages.parse(("fit", "run.yaml", "--no-such-option"))


@pytest.mark.parametrize("block", all_blocks("sh"), ids=str)
def test_a_command_that_is_not_ours_says_why_it_is_not_run(block: Block) -> None:
    if block.remark is not None or block.page in ELSEWHERE:
        return
    for words in commands(block):
        if words[0] == "make":
            clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            command = ["make", "-n", *words[1:]]
            done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block}: {done.stderr}"
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), f"{block}: no module {words[2]}"
        else:
            assert words[0] in (pages.OURS, *SHELL_WORDS), f"{block}: {words[0]}: run it, or say why not"


def _on_a_run() -> list[tuple[str, tuple[str, ...]]]:
    """The commands that need a run and its storage, and no cluster and no archive."""
    return [(page, words) for page, words in pages.ours() if words[0] in ON_A_RUN and page not in ELSEWHERE]


def test_commands_that_need_a_run_are_among_those_that_are_run() -> None:
    assert {words[0] for _, words in _on_a_run()} == set(ON_A_RUN)


@pytest.mark.parametrize(("page", "arguments"), _on_a_run())
def test_a_command_on_a_run_ends_well(
    page: str, arguments: tuple[str, ...], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever run file it names, it is the small run's, and whatever key, the one of a scan of it."""
    key = medfuncta_dist.LatentTable.open("run.yaml").keys[0]
    words = [re.sub(r".*\.yaml", "run.yaml", re.sub(r"[0-9a-f]+…", key, word)) for word in arguments]
    code, out = call(capfd, *words)
    assert (code, out != "") == (0, True)


@pytest.mark.parametrize("name", sorted({words[0] for _, words in pages.ours()} - set(ON_A_RUN)))
def test_a_command_that_is_not_run_here_is_run_by_another_test(name: str) -> None:
    assert name in COMMANDS_ELSEWHERE, f"{name}: write a test that runs it, and name that here"
    test = COMMANDS_ELSEWHERE[name]
    followed = {page for page, by in ELSEWHERE.items() if by == test}
    followed |= {block.page for block in all_blocks("sh") if block.remark == ("run by", test)}
    text = "\n".join((ROOT / path).read_text() for path in (test, *followed))
    assert re.search(rf"\b{name}\b", text), f"{test} does not run {name}"


def _dry_runs() -> list[tuple[str, ...]]:
    return sorted({arguments for _, arguments in pages.ours() if "--dry-run" in arguments})


@pytest.mark.parametrize("arguments", _dry_runs(), ids=" ".join)
def test_a_dry_run_prints_what_would_be_sent(arguments: tuple[str, ...], folder: Path, s3_server: EmbeddedS3) -> None:
    s3_server.create_bucket("my-bucket")
    environment = os.environ | {"MEDFUNCTA_COMMIT": "0" * 40}
    done = subprocess.run([MEDFUNCTA, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sent = list(yaml.safe_load_all(done.stdout))
    assert [job["kind"] for job in sent] == ["RayJob"] * 4
    assert re.search(r"-pack-\d+$", sent[0]["metadata"]["name"])
