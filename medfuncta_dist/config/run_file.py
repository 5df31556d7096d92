"""The run file as a model: its sections, and the rules between them. Rules within a section are in ``sections/``.

Rules that need only the file are checked here; those that need the snapshot or the storage, in ``stages/preflight.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from medfuncta_dist.config.keys import FREE, IDENTITY, Meaning, before, only_for
from medfuncta_dist.config.presets import KIND_DEFAULTS, PresetName
from medfuncta_dist.config.section import Name, Section
from medfuncta_dist.config.sections.cluster_section import Cluster
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.evaluate_section import Evaluate
from medfuncta_dist.config.sections.field_section import FieldSection
from medfuncta_dist.config.sections.fit_section import Fit
from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.config.sections.meta_section import Meta
from medfuncta_dist.config.sections.prior_section import Prior
from medfuncta_dist.config.sections.telemetry_section import Telemetry
from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import normal_root

INNER_RATE_TIMES_OMEGA_SQUARED = 2000.0
"""An inner step stays stable below 2 / curvature, and curvature grows with ω² (docs/method.md, 5). Measured: see
benchmarks/outer_steps.py."""
LARGEST_GAUSS_NEWTON = 4096
"""Latent size: the curvature of one scan is then 64 MiB."""
LARGEST_JACOBIAN = 2 * 2**30
"""Bytes."""
LARGEST_BASIS = 4 * 2**30
"""Bytes that a basis field may need at once, in a process: the preset 3d needs 3 GiB in training, 2 GiB in fitting."""
NUMBER_BYTES = {"float32": 4, "float16": 2, "int8": 1, "curved": 1}
"""Of a stored number, by ``fit.storage_type``."""
LARGEST_PATCH_PART = 2**28
"""Bytes of a part's latents with ``data.patches``: of more, its footer may become too long to be read."""
LEAST_PATCH_ROW = 16
"""Bytes that a row counts there at least."""
MATRICES = 6
"""Float64 numbers per pair of features, held at once when training computes the latent's coordinates."""


def _root(value: str) -> str:
    """Absolute here and now: tasks run in other working directories, where a relative path is another place."""
    try:
        return normal_root(value)
    except RunFileError as error:
        raise ValueError(f"{error.what}; {error.do}") from None


class RunFile(Section):
    """One run, whole. ``preset`` is already merged in (see ``config/load.py``) and kept for the record."""

    name: Annotated[Name, IDENTITY]
    """The run's identity, permanent: lowercase letters, digits and dashes, at most 40 characters."""
    storage: Annotated[str, Field(min_length=1), AfterValidator(_root), IDENTITY]
    """Root of everything the run writes: a local folder or s3://bucket/prefix."""
    preset: Annotated[PresetName | None, FREE] = None
    """Settings to start from, for scans with that number of axes; see Presets, at the end of this page. The preset may
    change within a run, but not the values of keys that may not change."""
    format_version: Annotated[Literal[1], FREE] = 1
    """Version of the run file's format; also written into the copy that is stored with a run."""
    data: Data
    """Where scans come from."""
    field: FieldSection = FieldSection()
    """The shared network."""
    meta: Meta = Meta()
    """The inner loop."""
    train: Train = Train()
    """The outer loop."""
    fit: Fit = Fit()
    """Fitting."""
    evaluate: Evaluate = Evaluate()
    """The report."""
    prior: Prior = Prior()
    """New scans."""
    cluster: Cluster = Cluster()
    """Resources."""
    kubernetes: Kubernetes = Kubernetes()
    """Submitted jobs."""
    telemetry: Telemetry = Telemetry()
    """Metrics."""

    @model_validator(mode="after")
    def _preset_fits_shape(self) -> RunFile:
        axes = len(self.data.shape)
        if self.preset is not None and not self.preset.endswith(f"{axes}d"):
            raise ValueError(f"preset {self.preset} is for other scans: data.shape has {axes} axes, {self.data.shape}")
        return self

    @model_validator(mode="after")
    def _flips_are_axes(self) -> RunFile:
        flips, axes = self.train.augment.flip if self.train.augment else [], len(self.data.shape)
        if wrong := [axis for axis in flips if axis >= axes]:
            raise ValueError(
                f"train.augment.flip names axis {wrong[0]}, but axes count from 0 and data.shape has {axes}: "
                f"{self.data.shape}"
            )
        return self

    @model_validator(mode="after")
    def _patches_to_draw(self) -> RunFile:
        drawn = self.train.patches_per_scan
        if self.data.patches is None and drawn != Train().patches_per_scan:
            raise ValueError(f"train.patches_per_scan = {drawn} does nothing without data.patches: leave it out")
        return self

    @model_validator(mode="after")
    def _workers_fit_batch(self) -> RunFile:
        if self.cluster.most_workers > self.train.batch:
            raise ValueError(
                f"cluster.workers is {self.cluster.most_workers}, but a global batch of train.batch = "
                f"{self.train.batch} scans cannot use more workers than it has scans: lower cluster.workers or raise "
                "train.batch"
            )
        return self

    @model_validator(mode="after")
    def _kind_of_field(self) -> RunFile:
        kind, basis = self.field.kind, self.field.kind == "basis"
        if basis != (self.fit.method == "exact"):
            allowed = "exact" if basis else "sgd, momentum or gauss-newton"
            raise ValueError(f"fit.method is {self.fit.method}, but field.kind is {kind}: set fit.method to {allowed}")
        if wrong := self._of_other_kind():
            raise ValueError(f"{' and '.join(wrong)} would do nothing with field.kind {kind}: leave out")
        values = self.data.points * self.data.channels
        if basis and self.field.latent > values:
            raise ValueError(
                f"field.latent is {self.field.latent}, but a scan has {values} values (data.shape {self.data.shape}, "
                f"data.channels {self.data.channels}): set field.latent to far fewer, at most {values}, and "
                "leave out field.features"
            )
        if self.fit.keep is not None and self.fit.keep > self.field.latent:
            raise ValueError(f"fit.keep is {self.fit.keep}, more than the {self.field.latent} numbers of field.latent")
        return self

    @model_validator(mode="after")
    def _latents_of_patches(self) -> RunFile:
        if self.data.patches is not None and self.fit.storage_type == "curved":
            raise ValueError(
                "latents of patches cannot be stored as curved yet: set fit.storage_type to float32, float16 or int8"
            )
        # Whoever reads a few patches reads the part's footer first; a row costs it as much as one of 16 bytes.
        latent = max(LEAST_PATCH_ROW, NUMBER_BYTES[self.fit.storage_type] * (self.fit.keep or self.field.latent))
        rows = self.fit.scans_per_task or 0
        if self.data.patches is not None and rows * latent > LARGEST_PATCH_PART:
            raise ValueError(
                f"fit.scans_per_task is {rows}: with rows of {latent} bytes, a part of patches would have more than "
                f"{LARGEST_PATCH_PART // 2**20} MiB; set it to at most {LARGEST_PATCH_PART // latent}, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _basis_in_memory(self) -> RunFile:
        if self.field.kind != "basis":
            return self
        values, features = self.data.points * self.data.channels, self.field.feature_count
        # The matrices of all pairs of features, and the scans of a global batch, which every worker holds.
        training = MATRICES * 8 * features**2 + 4 * self.train.batch * values
        allowed = f"at most {LARGEST_BASIS / 2**30:.0f} GiB are allowed"
        if training > LARGEST_BASIS:
            raise ValueError(
                f"training a basis field of {features} features on batches of {self.train.batch} scans needs "
                f"{training / 2**30:.1f} GiB of memory per worker, {allowed}; lower field.features (which is "
                "field.latent, if not set) or train.batch"
            )
        numbers = self.fit.keep or self.field.latent
        fitting = 2 * 4 * values * numbers  # the functions at all points, and the matrix that solves for their weights
        if fitting > LARGEST_BASIS:
            raise ValueError(
                f"fitting {numbers} numbers to the {values} values of a scan needs {fitting / 2**30:.1f} GiB of memory "
                f"per worker, {allowed}; lower field.latent, or fit.keep to store fewer numbers"
            )
        return self

    @model_validator(mode="after")
    def _fit_in_memory(self) -> RunFile:
        if self.fit.method == "gauss-newton" and self.field.latent > LARGEST_GAUSS_NEWTON:
            raise ValueError(
                f"fit.method gauss-newton needs field.latent² numbers per scan: field.latent is {self.field.latent}, "
                f"at most {LARGEST_GAUSS_NEWTON} is supported; set fit.method to sgd or momentum"
            )
        jacobian = 4 * self.data.points * self.data.channels * (self.field.layers - 1) * self.field.hidden
        if self.field.kind == "siren" and self.fit.closed_form and jacobian > LARGEST_JACOBIAN:
            raise ValueError(
                f"fit.closed_form keeps a Jacobian of {jacobian / 2**30:.1f} GiB in memory at this data.shape, at most "
                f"{LARGEST_JACOBIAN / 2**30:.0f} GiB are allowed; set fit.closed_form to false"
            )
        return self

    def _of_other_kind(self) -> list[str]:
        """Keys that would do nothing for this kind of field, and their values, which are not the defaults."""
        found = []
        for name, section in self.sections().items():
            defaults = KIND_DEFAULTS.get(self.field.kind, {}).get(name, {})
            for key, only in only_for(section.model_fields).items():
                value, default = getattr(getattr(self, name), key), defaults.get(key, section.model_fields[key].default)
                if only.kind != self.field.kind and value not in (default, *only.idle):
                    found.append(f"{name}.{key} = {value!r}")
        return found

    @property
    def dataset(self) -> str:
        """Name of the data set in storage."""
        return self.data.dataset or self.name

    @property
    def visits(self) -> int:
        """Times that an epoch visits each training scan: with patches, each draws one."""
        return 1 if self.data.patches is None else self.train.patches_per_scan

    @property
    def inner_rate(self) -> float:
        """α: as given, or small enough for the field's largest ω."""
        if self.meta.inner_rate is not None:
            return self.meta.inner_rate
        return INNER_RATE_TIMES_OMEGA_SQUARED / max(self.field.omegas or [self.field.omega_last]) ** 2

    @property
    def context_sets(self) -> int:
        """How many context sets an outer step draws: one per inner step, or one to solve on."""
        return 1 if self.field.kind == "basis" else self.meta.inner_steps

    @property
    def fit_rate(self) -> float:
        """Step size of fitting."""
        return self.fit.rate if self.fit.rate is not None else self.inner_rate

    @property
    def gpus_per_task(self) -> float:
        """GPUs of a task that fits or evaluates."""
        return self.cluster.gpus_per_worker if self.fit.gpus_per_task is None else self.fit.gpus_per_task

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """The class of each section, by the section's name."""
        kinds = {name: key.annotation for name, key in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}

    def parts(self, wanted: Callable[[Meaning], bool]) -> dict[str, Any]:
        """The keys of a meaning with their JSON values, by section; sections that have none are left out.

        Keys outside all sections are included under their own names.
        """
        return self._with_outside(wanted, {name: getattr(self, name).part(wanted) for name in self.sections()})

    def digested(self, wanted: Callable[[Meaning], bool]) -> dict[str, Any]:
        """The same as a digest covers them: without keys that came later and have their earlier value."""
        return self._with_outside(wanted, {name: getattr(self, name).digested(wanted) for name in self.sections()})

    def _with_outside(self, wanted: Callable[[Meaning], bool], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
        outside = set(self.keys_where(wanted)) - sections.keys()
        return self.model_dump(mode="json", include=outside) | {name: part for name, part in sections.items() if part}

    def digest(self, *sections: str) -> str:
        """SHA-256 (hex) over the canonical JSON of the named sections; all of the file when none is named. A section of
        which nothing is digested (all of its keys came later, and have their earlier values) is left out."""
        whole = self.digested(lambda _: True)
        part = {name: whole[name] for name in sections if name in whole} if sections else whole
        return digest_json(part)

    @property
    def results_digest(self) -> str:
        """Digest of the sections that decide results, whole: two requests that differ in it are not the same.

        Whole sections, free keys included: records of earlier versions hold it so.
        """
        deciding = [n for n, kind in self.sections().items() if kind.keys_where(lambda key: key.decides_results)]
        return self.digest(*deciding)


def older_values() -> dict[str, dict[str, Any]]:
    """What a run that is older than a key was begun with, by section and key."""
    found = {name: before(kind.model_fields) for name, kind in RunFile.sections().items()}
    return {name: values for name, values in found.items() if values}
