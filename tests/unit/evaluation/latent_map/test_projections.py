from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.latent_map import umap_projection
from medfuncta_dist.evaluation.latent_map.projections import (
    ProjectionTask,
    principal_plane,
    projection_task,
    within_square,
)
from tests.unit.evaluation.made_scores import latents

GROUPS = np.arange(60) % 2


def test_pca_is_that_of_the_singular_values():
    found = latents(GROUPS)
    centred = found - found.mean(axis=0)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    plane, explained = principal_plane(found)
    for axis in range(2):
        mine, theirs = plane[:, axis], left[:, axis] * strength[axis]
        assert min(np.abs(mine - theirs).max(), np.abs(mine + theirs).max()) < 1e-4
    assert explained == pytest.approx(strength[:2] ** 2 / (strength**2).sum(), abs=1e-5)


@pytest.mark.parametrize("shape", [(3, 1), (3, 5), (9, 2)])
def test_there_is_a_plane_whatever_the_size(shape: tuple[int, int]):
    plane, explained = principal_plane(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert plane.shape == (shape[0], 2)
    assert 0.999 < sum(explained) < 1.001 or shape == (9, 2) or shape[1] > 2


def test_equal_latents_lie_on_one_point():
    plane, explained = principal_plane(np.ones((5, 4), np.float32))
    assert explained == (0.0, 0.0)
    assert np.array_equal(within_square(plane), np.full((5, 2), 0.5))


def test_places_fill_the_square_with_one_scale_for_both_axes():
    places = within_square(np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 5.0]]))
    assert 0 < places.min() < 0.05 < 0.95 < places.max() < 1
    assert places[1, 0] - places[0, 0] == pytest.approx(2 * (places[2, 1] - places[0, 1]))


def test_umap_keeps_groups_together_and_is_the_same_twice():
    pytest.importorskip("umap", reason="the extra map is not installed")
    task = ProjectionTask(latents(GROUPS), umap=True)
    first, second = projection_task(task), projection_task(task)
    assert first.umap is not None
    assert second.umap is not None
    assert np.array_equal(first.umap, second.umap)
    centres = np.stack([first.umap[np.equal(GROUPS, one)].mean(axis=0) for one in (0, 1)])
    nearest = np.argmin(np.linalg.norm(first.umap[:, None] - centres[None], axis=2), axis=1)
    assert (nearest == GROUPS).mean() > 0.95


def test_without_the_extra_umap_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(umap_projection, "find_spec", lambda name: None)
    with pytest.raises(RunFileError) as refused:
        umap_projection.require_umap()
    assert "medfuncta-dist[map]" in refused.value.do
