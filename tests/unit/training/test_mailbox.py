from __future__ import annotations

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.liveness.heartbeat import Beat
from medfuncta_dist.training.mailbox import Mailbox


def beat(attempt: str) -> Beat:
    return Beat(attempt, 0, "node", 1, 0, "reading scans", 1, 0, waits=False, patient=False)


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
    assert mailbox.reached() is None
    mailbox.post("step", {"step": 7})
    reached = mailbox.reached()
    assert reached is not None
    assert (reached.step, reached.cause) == (7, "failure")
    mailbox.ends(9, "preemption")
    reached = mailbox.reached()
    assert reached is not None
    assert (reached.step, reached.cause) == (9, "preemption")
    mailbox.post("step", {"step": 10})
    mailbox.ended_hung()
    reached = mailbox.reached()
    assert reached is not None
    assert (reached.step, reached.cause) == (10, "hang")


def test_a_rank_is_named_until_it_is_known_to_be_gone() -> None:
    mailbox = Mailbox()
    mailbox.beat(beat("1"))
    assert len(mailbox.hung(timeout=0.0)) == 1
    assert len(mailbox.hung(timeout=0.0)) == 1, "the driver could not reach its node, and asks again"
    mailbox.ended_hung()
    assert mailbox.hung(timeout=0.0) == []
    mailbox.beat(beat("2"))
    assert len(mailbox.hung(timeout=0.0)) == 1
    mailbox.over()
    assert mailbox.hung(timeout=0.0) == []


def test_files_are_kept_for_the_checkpoint_under_way_only() -> None:
    mailbox = Mailbox()
    mailbox.hand_in("1", 5, 0, "a")
    mailbox.hand_in("1", 5, 1, "b")
    assert mailbox.handed_in("1", 5) == {0: "a", 1: "b"}
    mailbox.hand_in("1", 10, 1, "c")
    assert mailbox.handed_in("1", 5) == {}
    assert mailbox.handed_in("1", 10) == {1: "c"}
    mailbox.hand_in("2", 5, 0, "d")
    assert mailbox.handed_in("1", 10) == {}
    assert mailbox.handed_in("2", 5) == {0: "d"}
