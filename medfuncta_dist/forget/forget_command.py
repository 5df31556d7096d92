"""The command ``forget``: from what the user names to what is done and said."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.forget.forget_driver import Asked, Place, forget, open_place, preview
from medfuncta_dist.forget.forget_text import figures, plan_figures
from medfuncta_dist.forget.patient_names import PatientName
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.scans.private.forgotten_list import Act, read_list
from medfuncta_dist.task_map import FanOut

LEAST_DIGITS = 8
"""Of a key: fewer are more likely a slip than a name."""
STDIN = "-"


def run_forget(
    run: RunFile, keys: Sequence[str], patients: Sequence[str], issuer: str, *, plan: bool, yes: bool
) -> dict[str, Any]:
    """Forget, or say what would be done. RunFileError where nothing is named, or it is not in the data set, or neither
    ``plan`` nor ``yes`` is given."""
    place = open_place(run)
    acts = read_list(place.folder).of(run.dataset)
    asked, known = _left(_asked(keys, patients, issuer), acts, place)
    pending = any(not act.done for act in acts)
    if not (asked or known or pending):
        raise RunFileError("nothing is named", where="KEY", do="name scans by their keys, or a patient by --patient")
    if plan or not yes:
        return _planned(place, asked, confirm=not plan)
    return _done(place, asked, known, cpu_fan_out(run))


def _planned(place: Place, asked: Asked, *, confirm: bool) -> dict[str, Any]:
    found = plan_figures(preview(place, asked))
    if asked.patients and not (found["scans"] or found["sources"]):
        raise _unknown_patient()
    if confirm:
        print("\n".join(found["said"]), file=sys.stderr)
        raise RunFileError("nothing was deleted", do="add --yes to do this; it cannot be undone")
    return found


def _done(place: Place, asked: Asked, known: Iterable[str], fan_out: FanOut) -> dict[str, Any]:
    found = forget(place, asked, fan_out, lambda text: print(f"forget: {text}", file=sys.stderr))
    if asked and not found:
        raise _unknown_patient()
    return figures(found, known)


def _unknown_patient() -> RunFileError:
    return RunFileError(
        "the data set holds no scan of this patient, as far as it knows whose scans are",
        where="--patient",
        do="check the ID and, for DICOM files with an IssuerOfPatientID, --issuer; otherwise name the scans by their "
        "keys, which `medfuncta-dist lookup` finds by file",
    )


def _asked(keys: Sequence[str], patients: Sequence[str], issuer: str) -> Asked:
    for key in keys:
        if len(key) < LEAST_DIGITS or len(key) > 64 or set(key) - set("0123456789abcdef"):
            raise RunFileError(
                "that is not a key", where="KEY", do=f"a key is 64 hex digits, of which the first {LEAST_DIGITS} may do"
            )
    named = [line for text in patients for line in (_from_stdin() if text == STDIN else [text])]
    if any(not text.strip() for text in named):
        raise RunFileError("the patient's ID is empty", where="--patient", do="give the ID as the source says it")
    return Asked(tuple(dict.fromkeys(keys)), tuple(PatientName(text, issuer) for text in dict.fromkeys(named)))


def _from_stdin() -> list[str]:
    """One ID in each line: an argument would stay in the shell's history and the list of processes."""
    return [line for line in sys.stdin.read().splitlines() if line.strip()]


def _left(asked: Asked, acts: Sequence[Act], place: Place) -> tuple[Asked, list[str]]:
    """What is still to be forgotten, and the dates of the acts that had the rest."""
    dates, keys, patients = list[str](), list[str](), list[PatientName]()
    for key in asked.keys:
        had = [act for act in acts if any(one.startswith(key) for one in (*act.scans, *act.sources))]
        dates += [act.date for act in had]
        keys += [] if had else [key]
    for patient in asked.patients:
        groups = patient.groups(place.salted)
        had = [act for act in acts if not groups.isdisjoint(act.groups)]
        dates += [act.date for act in had if act.done]
        patients += [] if had else [patient]
    return replace(asked, keys=tuple(keys), patients=tuple(patients)), sorted(set(dates))
