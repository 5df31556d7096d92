"""The input of one rank's steps: its scans, in their order, and each step's context sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.shards.snapshot import Snapshot, split_digest
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.augment import augmented
from medfuncta_dist.streaming.device_transfer import Contexts, DrawContexts, Placed, no_contexts, on_device
from medfuncta_dist.streaming.patch_samples import PatchDraws, patch_samples, spread_patches
from medfuncta_dist.streaming.prefetch import Prefetched
from medfuncta_dist.streaming.sample_order import EpochOrder, SampleId, position, rank_slice
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache, cache_folder
from medfuncta_dist.streaming.stream import Batch, Change, Read, pass_stream, scan_batches, training_stream
from medfuncta_dist.training.validation import Validation, evenly_spread, held_out_split
from medfuncta_dist.training.world import World

TRAIN = "train"
"""The split that is trained on."""
SHARDS_AT_ONCE = 64
"""Shards that an epoch of several visits reads at a time: half of those that a reader keeps open. It decides the order,
so it stays as it is, also where a reader keeps more."""


def augmentation(train: Train) -> Change | None:
    """What the run file does to training scans; None for nothing."""
    settings, seed = train.augment, train.seed
    if settings is None:
        return None
    return lambda values, epoch, key: augmented(values, settings, seed=seed, epoch=epoch, key=key)


class Feed:
    """A rank's share of the snapshot's scans; with ``data.patches``, of patches of them."""

    def __init__(self, run: RunFile, store: ObjectStore, snapshot: Snapshot, world: World) -> None:
        self._run, self._store, self.snapshot, self._world = run, store, snapshot, world
        cluster = run.cluster
        self._cache = ShardCache(store, cache_folder(cluster.cache), int(cluster.cache_gigabytes * 2**30))
        self._change = augmentation(run.train)

    @property
    def digest(self) -> str:
        """Of the snapshot."""
        return self.snapshot.digest

    @contextmanager
    def batches(self, first: int) -> Iterator[Iterable[Placed]]:
        """This rank's rows of every global batch from outer step ``first`` (0-based) on, each with the context sets of
        its step, on this rank's device.

        They are fetched and drawn while the block runs, from its beginning on.
        """
        train = self._run.train
        rows = rank_slice(train.batch, self._world.size, self._world.rank)
        reader = self._reader()
        stream = training_stream(reader, self._order, first, train.steps, rows, self._change, self._draws(reader))
        with self._left(stream, self._contexts) as fed:
            yield fed

    def finishing_scans(self, wanted: int) -> Iterator[Tensor]:
        """This rank's part of about ``wanted`` training scans, the same ones whenever it is asked, in batches.

        Each scan (with patches, each visit of a scan) once, as far as there are so many; where augmentation changes
        them, or where patches are drawn anew, pass after pass.
        """
        reader, patched = self._reader(), self._run.data.patches is not None
        found = self._order(0, bounded=False).scans(wanted)  # of more scans: each is read once only
        if patched:
            found.sort()  # which opens no shard twice
        differ = self._change is not None or patched
        passes = math.ceil(wanted / max(len(found), 1)) if differ else 1
        share = found[self._world.rank :: self._world.size]
        if share:
            batch, draws = self._run.train.batch, self._draws(reader)
            stream = pass_stream(reader, [share] * passes, batch, self._change, draws)
            with self._left(stream) as fed:
                yield from (placed.targets for placed in fed)

    @contextmanager
    def _left(self, stream: Prefetched[Batch], draw: DrawContexts = no_contexts) -> Iterator[Iterable[Placed]]:
        """The batches on this rank's device; the stream is left when the block ends."""
        try:
            with closing(on_device(stream, self._world.device, draw)) as batches:
                yield batches
        finally:
            stream.leave()

    def _reader(self) -> SampleReader:
        return SampleReader(self._store, self.snapshot.shards(TRAIN), self._cache)

    def epoch_and_batch(self, step: int) -> tuple[int, int]:
        """Epoch and batch of an outer step (0-based)."""
        return position(step, self._order(0).batches)

    def inputs(self, targets: Tensor, contexts: Contexts) -> tuple[Any, ...]:
        """The arguments of the learner's forward: scans, initial latents, and the step's context sets."""
        # Requires grad, although no code reads its gradient: at ZeRO 3 its hook gathers the parameters (engine.py).
        latents = torch.zeros(len(targets), self._run.field.latent, device=self._world.device, requires_grad=True)
        return targets, latents, contexts

    def zero_inputs(self) -> tuple[Any, ...]:
        """The same arguments, of a scan of zeros."""
        targets = torch.zeros(1, self._run.data.points, self._run.data.channels, device=self._world.device)
        return self.inputs(targets, [context.to(self._world.device) for context in self._contexts(targets, step=0)])

    def _contexts(self, targets: Tensor, step: int) -> Contexts:
        """The context sets of an outer step (0-based)."""
        ratio, seed = self._run.meta.selection_ratio, self._run.train.seed
        return context_sets(targets.shape[1], ratio, self._run.context_sets, seed=seed, outer_step=step)

    def validation(self) -> Validation | None:
        """The held-out scans, if there are any."""
        split = held_out_split(self.snapshot)
        if split is None:
            return None
        shards = self.snapshot.shards(split)
        ids = evenly_spread([shard.samples for shard in shards], self._run.train.validate_scans)
        return Validation(self._run, self._held_out(SampleReader(self._store, shards, self._cache), ids), self._world)

    def _held_out(self, reader: SampleReader, ids: Sequence[SampleId]) -> Iterator[Sample]:
        """This rank's part of these scans; with patches, of as many patches as there may be scans."""
        patches, mine = self._run.data.patches, slice(self._world.rank, None, self._world.size)
        if patches is None:
            return scan_batches(reader, ids[mine])
        found = spread_patches(reader, ids, patches.size, patches.overlaps, self._run.train.validate_scans)
        return patch_samples(reader, found[mine], patches.size)

    def _draws(self, reader: SampleReader) -> Read | None:
        """How a visit of a training scan is read, where that is a patch of it."""
        patches, train = self._run.data.patches, self._run.train
        if patches is None:
            return None
        return PatchDraws(reader, tuple(patches.size), train.patches_per_scan, train.seed)

    def _order(self, epoch: int, *, bounded: bool = True) -> EpochOrder:
        """The epoch's visits; where there are several of each scan, of few shards at once."""
        train = self._run.train
        return EpochOrder(
            [shard.samples * self._run.visits for shard in self.snapshot.shards(TRAIN)],
            batch=train.batch,
            seed=train.seed,
            epoch=epoch,
            digest=split_digest(self.snapshot, TRAIN),
            window=train.shuffle_window,
            shards_at_once=SHARDS_AT_ONCE if bounded and self._run.visits > 1 else None,
        )
