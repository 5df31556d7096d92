"""From scores and latent table to the map: chooses scans, has their latents read, decoded and projected."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from medfuncta_dist.evaluation.baselines import evenly
from medfuncta_dist.evaluation.counted_tasks import CountedTasks
from medfuncta_dist.evaluation.fitted_table import FittedTable
from medfuncta_dist.evaluation.latent_map.map_sample import (
    FEWEST_POINTS,
    MOST_PARTS,
    choose_scans,
    keys_in,
    most_points,
)
from medfuncta_dist.evaluation.latent_map.map_section import LatentMap
from medfuncta_dist.evaluation.latent_map.map_task import MapScans, MapTask, map_task
from medfuncta_dist.evaluation.latent_map.projections import ProjectionTask, projection_task
from medfuncta_dist.evaluation.latent_map.thumbnails import thumbnail_grid
from medfuncta_dist.evaluation.score_task import ScoreTask


def map_tasks(fitted: FittedTable) -> int:
    """How many tasks the map takes: the parts that are read, and the projection; none where there are too few scans."""
    return len(_parts(fitted)) + 1 if fitted.counts.fitted >= FEWEST_POINTS else 0


def latent_map(
    fitted: FittedTable, scores: pa.Table, tasks: CountedTasks, *, pictures: bool, umap: bool
) -> LatentMap | None:
    """The map of a bounded number of scans, with thumbnails or without; None where there are too few scans."""
    if not map_tasks(fitted):
        return None
    parts = _parts(fitted)
    rows = choose_scans(scores, [part.work for part in parts], most_points(fitted.network.spec.latent))
    grid = thumbnail_grid(fitted.target.snapshot.contract["shape"], fitted.network.spec.channels, rows.num_rows)
    found = _joined(
        tasks.results(
            map_task,
            [
                MapTask(
                    fitted.worker,
                    part.folder,
                    part.network,
                    part.part,
                    keys_in(rows, part.work),
                    grid if pictures else None,
                )
                for part in parts
            ],
        )
    )
    place = {key: at for at, key in enumerate(found.keys)}
    order = [place[key] for key in rows["key"].to_pylist()]
    (places,) = tasks.results(projection_task, [ProjectionTask(found.latents[order], umap)])
    thumbnails = [found.thumbnails[at] for at in order] if pictures else []
    return LatentMap(rows, places, thumbnails, scores.num_rows)


def _parts(fitted: FittedTable) -> list[ScoreTask]:
    return evenly(fitted.score_tasks(), MOST_PARTS)


def _joined(scans: list[MapScans]) -> MapScans:
    return MapScans(
        [key for some in scans for key in some.keys],
        np.concatenate([some.latents for some in scans]),
        [picture for some in scans for picture in some.thumbnails],
    )
