"""The faults that the product survives, each with its criterion: rows of the table in docs/reliability.md.

A test of one is marked ``@pytest.mark.fault("<name>")`` and may call the fixture ``measured`` with a few words.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is done to a run from outside, and what must hold then."""

    what: str
    criterion: str


FAULTS = {
    "worker-kill": Fault(
        "a training worker gets SIGKILL in the middle of a step, several times at random",
        "end bit-equal to the uninterrupted run's at equal world size; each time at most one interval redone",
    ),
    "save-kill": Fault(
        "SIGKILL while a checkpoint is saved, uploaded, committed",
        "the partial one is never seen as committed; the one before is used",
    ),
    "node-lost": Fault(
        "a node is lost, 4 → 2 workers",
        "same scans in each global batch; first resumed loss within 1e-6",
    ),
    "drain": Fault(
        "a node is drained with a deadline of 30 s, and of 12 s",
        "the checkpoint lands before it; at most one step redone; its duration is a metric",
    ),
    "cluster-gone": Fault(
        "the whole cluster deleted, driver included, without warning, then made again",
        "the same run goes on; at most one interval redone",
    ),
    "hang": Fault(
        "one rank stopped (SIGSTOP), or stuck in a collective",
        "named, and the workers restarted, within train.hang_timeout",
    ),
    "driver-frozen": Fault(
        "the driver stopped past its lease, the run taken over, then SIGCONT",
        "the old one notices before its next commit and stops; nothing that it writes counts",
    ),
    "driver-kill": Fault(
        "the driver gets SIGKILL and is started again; two drivers at once",
        "it resumes; the second is refused",
    ),
    "storage": Fault(
        "S3 answers 20 % of requests with 500 or 503; hangs; is slow; cuts connections inside an object",
        "the work completes, nothing lost or doubled; a hang fails within its deadline, by name",
    ),
    "damage": Fault(
        "a shard cut short (also at a member's border); one bit flipped in shard, checkpoint, latent part",
        "noticed before use, 100 of 100 random positions; counted; passed over or quarantined",
    ),
    "random-archive": Fault(
        "random archives: files renamed, moved, copied, changed, removed; packs killed, shards lost, scans forgotten",
        "packed as a first pack of the same archive would; no patient in two splits; no name leaves the owner's folder",
    ),
    "foreign-files": Fault(
        "empty, corrupt or foreign files in every place that a run reads at its start",
        "refused by name or ignored; no crash without a cause; never a silent start from zero",
    ),
    "hostile-input": Fault(
        "scans, shards, tables and records made to harm, and mutations of real ones",
        "a result or an error of ours, in bounded time and memory",
    ),
    "disk-full": Fault(
        "the disk is full in the cache, and under a checkpoint",
        "a clear error, no partial commit; the run resumes when there is room again",
    ),
    "poison": Fault(
        "1000 scans, 7 poison (pack: NaN, cut short, wrong shape, crashing reader; fit: NaN, failing, killing)",
        "993 fitted, 7 quarantined with the right reason",
    ),
    "fit-kill": Fault(
        "the fitting driver killed at random moments",
        "the table byte-identical; no range fitted twice after its commit",
    ),
    "credentials": Fault(
        "credentials expire in the middle of a run",
        "refreshed, or a stop that can be resumed",
    ),
}
