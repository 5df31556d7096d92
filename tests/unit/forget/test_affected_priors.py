"""A prior that was trained on a forgotten scan goes with it; one that was not stays."""

from __future__ import annotations

from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.forget.affected_priors import priors_of
from medfuncta_dist.forget.affected_runs import runs_on
from medfuncta_dist.forget.carried_latents import HeldLatents
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place, preview
from medfuncta_dist.forget.forget_text import figures, plan_figures
from medfuncta_dist.prior.prior_files import committed_prior, prior_folder, record_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.forget.archives import archive, latents, packed, run_of, write_run_file
from tests.unit.latents.fitted import network, publish
from tests.unit.prior.priors import committed


def with_prior(folder: Path) -> RunFile:
    """A run with latents, a prior, and a checkpoint of one."""
    archive(folder)
    run = run_of(folder)
    packed(run)
    publish(run, network(run))
    write_run_file(run)
    fit(run, map_here)
    committed(run)
    ObjectStore(run.storage).write(f"{prior_folder(run.name)}/1d1d/checkpoints/x.safetensors", b"state")
    return run


def test_the_probe_of_a_run_that_holds_the_scan_goes_and_of_another_stays(tmp_path: Path) -> None:
    run = with_prior(tmp_path)
    store, key = ObjectStore(run.storage), sorted(latents(run))[0]
    files = [f"runs/{{}}/report/probe.{suffix}" for suffix in ("safetensors", "png", "json")]
    for path in files:
        store.write(path.format(run.name), b"of latents")
        store.write(path.format("other"), b"of other latents")
    assert preview(open_place(run), Asked(keys=(key,))).reports == len(files)
    forget(open_place(run), Asked(keys=(key,)), map_here)
    assert not any(store.exists(path.format(run.name)) for path in files)
    assert all(store.exists(path.format("other")) for path in files)


def test_forget_withdraws_the_prior_and_says_so(tmp_path: Path) -> None:
    run = with_prior(tmp_path)
    store, key = ObjectStore(run.storage), sorted(latents(run))[0]
    asked = Asked(keys=(key,))
    planned = plan_figures(preview(open_place(run), asked))
    assert planned["priors"] == (run.name,)
    assert any("would go: small" in line for line in planned["said"])
    assert store.list(prior_folder(run.name)), "a plan deletes nothing"
    [done] = forget(open_place(run), asked, map_here)
    assert store.list(prior_folder(run.name)) == []
    assert done.priors == (run.name,)
    said = figures([done], [])
    assert said["forgotten"][0]["withdrawn_priors"] == [run.name]
    assert any("are gone: small" in line for line in said["said"])


def test_a_prior_goes_record_first_and_stays_where_it_knew_none_of_the_scans(tmp_path: Path) -> None:
    run = with_prior(tmp_path)
    store = ObjectStore(run.storage)
    [affected] = runs_on(store, run.dataset)
    nothing = [(affected, HeldLatents("", [], frozenset()))]
    assert list(priors_of(store, [affected], nothing)) == []
    known = committed_prior(store, run.name)
    assert known is not None
    part = next(i.path for i in store.list(f"runs/{run.name}/latents") if i.path.endswith(f"{known.parts[0]}.parquet"))
    kept = store.read(part)
    store.delete(part)
    gone = list(priors_of(store, [affected], nothing))
    assert gone[0] == record_path(run.name)
    assert len(gone) == 4
    store.write(part, kept)
    store.write(record_path(run.name), b"damaged")
    assert list(priors_of(store, [affected], nothing)) == gone
    store.delete(record_path(run.name))
    assert list(priors_of(store, [affected], nothing)) == gone[1:]
