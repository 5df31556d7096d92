from __future__ import annotations

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.liveness.heartbeat import Heartbeat
from medfuncta_dist.training.mailbox import Mailbox


def beat(attempt: str) -> Heartbeat:
    return Heartbeat(attempt, 0, "node", 1, 0, "reading scans", 1, 0, waits_for_others=False, may_be_slow=False)


def test_messages_come_out_once_in_order_and_the_first_failure_counts() -> None:
    mailbox = Mailbox()
    mailbox.post("step", {"step": 1})
    mailbox.post("note", {"text": "x"})
    assert [kind for kind, _ in mailbox.drain()] == ["step", "note"]
    assert mailbox.drain() == []
    first = MedfunctaError("first")
    mailbox.fail(first)
    mailbox.fail(MedfunctaError("second"))
    assert mailbox.failure() is first


def test_why_an_attempt_ended_is_known_to_the_next() -> None:
    mailbox = Mailbox()
    assert mailbox.previous_attempt_end() is None
    mailbox.post("step", {"step": 7})
    end = mailbox.previous_attempt_end()
    assert end is not None
    assert (end.step, end.cause) == (7, "failure")
    mailbox.end_attempt(9, "preemption")
    end = mailbox.previous_attempt_end()
    assert end is not None
    assert (end.step, end.cause) == (9, "preemption")
    mailbox.post("step", {"step": 10})
    mailbox.mark_hung_killed()
    end = mailbox.previous_attempt_end()
    assert end is not None
    assert (end.step, end.cause) == (10, "hang")


def test_a_rank_is_found_until_it_is_known_to_be_gone() -> None:
    mailbox = Mailbox()
    mailbox.record_heartbeat(beat("1"))
    assert len(mailbox.find_hung(timeout=0.0)) == 1
    assert len(mailbox.find_hung(timeout=0.0)) == 1, "the driver could not reach its node, and asks again"
    mailbox.mark_hung_killed()
    assert mailbox.find_hung(timeout=0.0) == []
    mailbox.record_heartbeat(beat("2"))
    assert len(mailbox.find_hung(timeout=0.0)) == 1
    mailbox.mark_finished()
    assert mailbox.find_hung(timeout=0.0) == []


def test_files_are_kept_for_the_checkpoint_under_way_only() -> None:
    mailbox = Mailbox()
    mailbox.submit_share("1", 5, 0, "a")
    mailbox.submit_share("1", 5, 1, "b")
    assert mailbox.submitted_shares("1", 5) == {0: "a", 1: "b"}
    mailbox.submit_share("1", 10, 1, "c")
    assert mailbox.submitted_shares("1", 5) == {}
    assert mailbox.submitted_shares("1", 10) == {1: "c"}
    mailbox.submit_share("2", 5, 0, "d")
    assert mailbox.submitted_shares("1", 10) == {}
    assert mailbox.submitted_shares("2", 5) == {0: "d"}
