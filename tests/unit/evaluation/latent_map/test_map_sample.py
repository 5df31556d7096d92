from __future__ import annotations

from collections import Counter

import pyarrow as pa

from medfuncta_dist.evaluation.latent_map import map_sample
from medfuncta_dist.evaluation.latent_map.map_sample import choose_scans, keys_in, most_points
from medfuncta_dist.evaluation.score_task import SCHEMA
from medfuncta_dist.fitting.fit_plan import FitWork
from tests.unit.evaluation.made_scores import scores, shard


def work(name: str, start: int, stop: int, split: str = "test") -> FitWork:
    return FitWork(split, shard(name), start, stop)


def test_labels_and_splits_keep_their_share():
    rows = scores(3000, label=lambda i: i % 10 == 0, split=lambda i: "train" if i % 3 else "test")
    chosen = choose_scans(rows, [work("a", 0, 3000)], 300)
    assert chosen.num_rows == 300
    splits, labels = Counter(chosen["split"].to_pylist()), Counter(map(tuple, chosen["labels"].to_pylist()))
    assert abs(splits["test"] - 100) <= 2
    assert abs(labels[(1,)] - 30) <= 2


def test_all_scans_are_chosen_where_there_are_few_and_none_twice():
    chosen = choose_scans(scores(40), [work("a", 0, 40)], 300)
    assert sorted(chosen["key"].to_pylist()) == sorted(scores(40)["key"].to_pylist())
    assert chosen.schema.equals(SCHEMA)


def test_only_scans_of_the_ranges_that_are_read_are_chosen():
    rows = pa.concat_tables([scores(20, "a"), scores(20, "b")])
    works = [work("a", 0, 5), work("a", 10, 12), work("b", 3, 4)]
    chosen = choose_scans(rows, works, 300)
    assert chosen.num_rows == 8
    found = [keys_in(chosen, one) for one in works]
    assert list(map(len, found)) == [5, 2, 1]
    assert set().union(*found) == set(chosen["key"].to_pylist())


def test_the_map_is_bounded_in_points_and_in_numbers():
    assert most_points(128) == map_sample.MOST_POINTS
    assert most_points(2**18) * 2**18 <= map_sample.MOST_NUMBERS
