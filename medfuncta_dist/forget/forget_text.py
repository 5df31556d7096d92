"""What ``forget`` says: figures for --json, and lines for people. No line names a file or a patient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from medfuncta_dist.forget.forget_driver import Forgot, Preview, numbered_series
from medfuncta_dist.scans.private.published_ids import Published

NOT_UNLEARNED = (
    "not undone: these runs may have a network that has learned from these scans, be it their own or one that they "
    "start from: {runs}. Forgetting removes nothing from a network: what it has learned of a scan stays in it. Where "
    "that must go too, train again under another run name on the present snapshot, and delete the former runs"
)
PRIORS = "priors that were trained on these scans {go}: {runs}. `train-prior` makes them again, of the scans that stay"
ELSEWHERE = (
    "not reached: backups and copies of the storage, other data sets, caches of other machines (which keep shards "
    "until they are evicted), files that decode, sample or an export has written, logs of clusters, and the archive "
    "itself"
)
NUMBERED = (
    "warning: volumes of {n} DICOM series have only numbers (data.volume_names: position). When such a series changes, "
    "nothing tells its forgotten volume from the others: it is then quarantined whole"
)
PUBLISHED = (
    "not reached: a publication of {date} holds {n} of these scans: {target}. Withdraw it, or the rows with these ids, "
    "wherever it was given to: {ids}"
)
SHOWN_IDS = 20
VERSIONED = {
    "enabled": "warning: the bucket keeps versions: everything that was deleted is still there, as an older version. "
    "Delete these versions (a lifecycle rule for noncurrent versions, or by hand); only the bucket's owner can",
    "suspended": "warning: the bucket has kept versions before: objects from that time may still be there, as older "
    "versions. Delete these; only the bucket's owner can",
    "unknown": "warning: the bucket does not say whether it keeps versions of deleted objects: ask its owner",
}


def plan_figures(found: Preview) -> dict[str, Any]:
    """What would be done."""
    return {**asdict(found), "said": _plan_lines(found)}


def _plan_lines(found: Preview) -> list[str]:
    lines = [
        f"to forget: {found.scans} scans; {found.sources} files, of which nothing would stay",
        f"to write anew, without them: {found.records} pack records with {found.shards} shards",
        f"to delete: {found.snapshots} snapshots, {found.latents} objects of latents, {found.reports} files of reports",
    ]
    if found.indexes:
        lines.append(
            f"to delete: {found.indexes} objects of indexes of neighbours; `medfuncta-dist index` makes them again"
        )
    if found.patients:
        lines.append("the patient's later scans would be left out, too")
    if found.runs:
        lines.append(f"runs whose latents or reports change: {', '.join(found.runs)}")
    if found.priors:
        lines.append(PRIORS.format(go="would go", runs=", ".join(found.priors)))
    if found.numbered:
        lines.append(NUMBERED.format(n=found.numbered))
    if found.pending:
        lines.append(f"to finish first: {found.pending} earlier calls that were interrupted")
    return [*lines, *_published(found.published), *_limits(found.trained), "nothing was done: this was a plan"]


def figures(found: Sequence[Forgot], known: Iterable[str]) -> dict[str, Any]:
    """What was done. ``known``: dates of earlier acts that had forgotten what was asked for."""
    acts = [
        {
            **asdict(one.record),
            "proof": asdict(one.proof),
            "carried_latents": one.carried,
            "withdrawn_priors": list(one.priors),
            "trained_runs": list(one.trained),
            "equal_scans": list(one.equal),
            "published": [asdict(publication) for publication in one.published],
        }
        for one in found
    ]
    dates = [f"forgotten already, on {date}" for date in known]
    return {"forgotten": acts, "said": [*dates, *(line for one in found for line in _lines(one))]}


def _lines(one: Forgot) -> list[str]:
    record, proof = one.record, one.proof
    lines = [
        f"forgotten: {record.scans} scans, {record.sources} whole files ({record.date})",
        f"the data set is now snapshot {record.snapshot or '(none)'}; {len(record.gone)} former ones are gone",
        f"deleted: {proof.deleted} objects; latents of other scans that were kept: {one.carried}",
        f"proof: {proof.objects} objects, {proof.bytes} bytes of the data set and its runs were read after the "
        f"deletion. None holds one of {proof.scans} keys, their packed values, or one of {proof.latents} latents",
    ]
    if one.priors:
        lines.append(PRIORS.format(go="are gone", runs=", ".join(one.priors)))
    if one.equal:
        lines.append(
            f"warning: {len(one.equal)} other scans have exactly the same values, and stay: {', '.join(one.equal)}. "
            "Forget them too if they are the same patient's"
        )
    if numbered := numbered_series(one.act.pieces):
        lines.append(NUMBERED.format(n=numbered))
    if proof.versioned in VERSIONED:
        lines.append(VERSIONED[proof.versioned])
    lines += [*_published(one.published), *_limits(one.trained)]
    lines.append("keep forgotten.json in the private folder with its backups: it keeps these scans out of later packs")
    return lines


def _published(found: Iterable[Published]) -> list[str]:
    return [PUBLISHED.format(date=one.date[:10], n=len(one.ids), target=one.target, ids=_few(one.ids)) for one in found]


def _few(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN_IDS} more, which --json lists" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + more


def _limits(trained: Sequence[str]) -> list[str]:
    return [*([NOT_UNLEARNED.format(runs=", ".join(trained))] if trained else []), ELSEWHERE]
