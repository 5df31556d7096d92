from __future__ import annotations

import json
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, IntegrityError, RunFileError, StageOrderError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.evaluation.latent_map import umap_projection
from medfuncta_dist.evaluation.report_driver import write_report_again
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.unit.evaluation.test_probe_section import probe
from tests.unit.evaluation.test_report import Page
from tests.unit.latents.fitted import COUNTS, ready

FILES = ("report.html", "summary.json", "metrics.parquet")
SCANS = sum(COUNTS.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = ready(tmp_path_factory.mktemp("run"), evaluate={"pictures": 2})
    fit(run, map_here)
    evaluate(run, map_here)
    return run


def report(run: RunFile, name: str) -> bytes:
    return ObjectStore(run.storage).read(f"runs/{run.name}/report/{name}")


def test_every_scan_is_on_the_map_with_its_picture(run):
    page = Page(report(run, "report.html").decode())
    decoded = [image for image in page.images if image["alt"].endswith(", decoded")]
    assert len(decoded) == SCANS
    assert len({image["src"] for image in decoded}) == SCANS
    assert f"{SCANS} scans, as near to each other as their latents" in page.words


def test_the_page_written_again_is_the_same_and_nothing_else_is_written(run):
    before = {name: report(run, name) for name in FILES}
    seen: list[ProgressReport] = []
    where = write_report_again(run, map_here, seen.append)
    assert where.endswith("report.html")
    assert {name: report(run, name) for name in FILES} == before
    assert [one.done for one in seen] == list(range(1, seen[0].total + 1))


def test_a_probe_that_came_later_is_on_it_and_a_damaged_one_is_no_reason_to_fail(run):
    store = ObjectStore(run.storage)
    path = f"runs/{run.name}/report/probe.json"
    store.write(path, json.dumps(probe(latents=json.loads(report(run, "summary.json"))["latents"])).encode())
    write_report_again(run, map_here)
    assert "receiver operating curve" in report(run, "report.html").decode()
    store.write(path, b"nonsense")
    evaluate(run, map_here)
    assert "of another version, or damaged" in report(run, "report.html").decode()
    store.delete(path)
    write_report_again(run, map_here)


def test_without_pictures_the_map_has_none(run):
    before = report(run, "report.html")
    bare = run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"pictures": 0})})
    write_report_again(bare, map_here)
    page = report(run, "report.html").decode()
    assert not [image for image in Page(page).images if "png" in image["src"]]
    assert "Map of the latents" in page
    ObjectStore(run.storage).write(f"runs/{run.name}/report/report.html", before)


def test_umap_without_its_extra_is_refused_before_anything_is_computed(run, monkeypatch):
    monkeypatch.setattr(umap_projection, "find_spec", lambda name: None)
    asked = run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"umap": True})})
    for stage in (evaluate, write_report_again):
        with pytest.raises(RunFileError, match="not installed"):
            stage(asked, lambda task, items: pytest.fail("it computed"))


def test_what_was_not_evaluated_or_is_damaged_has_no_report(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    with pytest.raises(StageOrderError, match="not been evaluated"):
        write_report_again(run, map_here)
    evaluate(run, map_here)
    store, folder = ObjectStore(run.storage), f"runs/{run.name}/report"
    summary, scores = store.read(f"{folder}/summary.json"), store.read(f"{folder}/metrics.parquet")
    for changed, error in (
        (summary.replace(b'"format_version":1', b'"format_version":9'), FormatVersionError),
        (b'{"format_version":1}', IntegrityError),
        (b"nonsense", IntegrityError),
    ):
        store.write(f"{folder}/summary.json", changed)
        with pytest.raises(error):
            write_report_again(run, map_here)
    store.write(f"{folder}/summary.json", summary)
    store.write(f"{folder}/metrics.parquet", scores[:-40])
    with pytest.raises(IntegrityError):
        write_report_again(run, map_here)
