"""The section ``data`` of the run file: where scans come from, and what a packed scan is."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from medfuncta_dist.config.keys import CONTRACT, FIT_DIGEST, FREE, PUBLIC, Added, Key, Meaning, WithinRun
from medfuncta_dist.config.section import BARE_WORD, Name, NaturalInt, PositiveFloat, PositiveInt, Ratio, Section, Split
from medfuncta_dist.config.sections.patches_section import Patches
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.config.sections.table_section import Table

DIGEST = re.compile(r"[0-9a-f]{64}")


class Intensity(Section):
    """How stored values map to [0, 1]: ``(value - low) / (high - low)``, clipped. Stored with each scan, so that the
    mapping can be reversed.

    ``auto`` takes the whole range of an 8-bit image and the 0-99.9 percentiles of anything else; ``range`` needs
    ``low`` and ``high`` in the scan's own units (for CT, Hounsfield units).
    """

    mode: Literal["auto", "dtype", "minmax", "percentile", "range"] = "auto"
    """Where low and high come from."""
    low: float | None = None
    """Lower end: a value (range) or a percentile (percentile)."""
    high: float | None = None
    """Upper end: a value (range) or a percentile (percentile)."""

    @model_validator(mode="after")
    def _bounds(self) -> Intensity:
        needed = self.mode in ("range", "percentile")
        if needed != (self.low is not None and self.high is not None):
            raise ValueError(f"mode '{self.mode}' {'needs' if needed else 'takes no'} low and high")
        if self.low is None or self.high is None:
            return self
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.mode == "percentile" and (self.low < 0 or self.high > 100):
            raise ValueError(f"percentiles lie in 0..100, got {self.low} and {self.high}")
        return self


class Slices(Section):
    """Pack a volume as 2D slices along an axis of its canonical (RAS+) orientation: 0 sagittal, 1 coronal, 2 axial."""

    axis: Annotated[int, Field(ge=0, le=2)] = 2
    """0 sagittal, 1 coronal, 2 axial."""
    min_foreground: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Smallest share of a slice's values above 10 % of the intensity window. Slices with less are not packed."""


class Slabs(Section):
    """Hold out whole slabs of neighbouring slices; ``gap`` slices on each side of a slab are in neither split.

    Neighbouring slices look alike, so holding out single slices would leave nearly the same data in
    training. Gap slices get the split ``gap``. With ``patches`` of volumes, each slab along the third axis (from
    inferior to superior) is packed as a volume, and gap slices are not packed.
    """

    size: PositiveInt = 16
    """Slices per slab."""
    period: Annotated[int, Field(ge=2)] = 4
    """One slab of every `period` is held out."""
    gap: NaturalInt = 2
    """Slices on each side of a held-out slab that are in neither split."""
    split: Split | Annotated[list[Split], Field(min_length=2)] = "test"
    """The split of held-out slabs. With several, such as [val, test], slabs are assigned in turns."""

    @model_validator(mode="after")
    def _room(self) -> Slabs:
        if {"train", "gap"} & set(self.splits):
            raise ValueError(f"split is '{self.split}', but held-out slabs must go to a split of their own")
        if 2 * self.gap >= self.size * (self.period - 1):
            raise ValueError("the gaps leave no training slices: lower gap, or raise size or period")
        return self

    @property
    def splits(self) -> list[str]:
        """The splits of the first, second, ... held-out slab; then from the first again."""
        return [self.split] if isinstance(self.split, str) else self.split


class Grouping(Section):
    """Which sources are one patient's, where they do not say so themselves: by a rule for their paths, or by a table.

    Paths are relative to the part of ``data.source`` before its first wildcard, as in the private mapping's keys.
    """

    path: str | None = None
    """A regular expression with one group, which names the patient: `^(patient_\\d+)/`. It is searched in the path of
    each source; a path that does not match is refused."""
    table: str | None = None
    """A CSV file (a path or an s3:// URI) with a header, and a row for each source. A source without a row is refused;
    rows without a source are counted."""
    source: str = "source"
    """The table's column of paths."""
    group: str = "group"
    """The table's column that names the patient."""
    split: str | None = None
    """The table's column of splits, where they are given."""
    label: str | None = None
    """The table's column of labels: whole numbers, several with spaces between, or empty. They replace those that a
    file has."""

    @field_validator("path")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        try:
            groups = 1 if value is None else re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"expected one group in parentheses, which names the patient; found {groups}")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Grouping:
        if (self.path is None) == (self.table is None):
            raise ValueError("give either path or table")
        if self.table is None and (self.source, self.group, self.split, self.label) != ("source", "group", None, None):
            raise ValueError("source, group, split and label are columns of a table")
        return self


class Csv(Section):
    """What the columns of CSV files with signals are, where that is not plain: every column that is not named here is a
    sample. Columns count from 0; -1 is the last one."""

    skip: list[int] = Field(default=[])
    """Columns that are no samples: row numbers, identifiers, names. They are not read."""
    label: int | None = None
    """The column of the label, a whole number."""
    header: bool | None = None
    """Whether the first line holds names. Default: as it looks."""
    separator: Literal[",", ";", "\t", " "] | None = None
    """What separates columns. Default: as the first lines look."""
    decimal: Literal[".", ","] | None = None
    """The decimal sign. Default: as the numbers look."""

    @model_validator(mode="after")
    def _consistent(self) -> Csv:
        if self.label in self.skip:
            raise ValueError(f"column {self.label} is in skip, and is the label")
        if self.decimal is not None and self.decimal == self.separator:
            raise ValueError("decimal and separator are the same sign")
        return self


class Data(Section):
    """Where scans come from and what shape they are packed in."""

    MEANING: ClassVar = Meaning()

    source: str | list[str] | None = None
    """Where the scans are: a path, an s3:// URI, a folder, a glob, or a list of these. Zip and tar files are opened;
    ``studies/*.zip!/**/*.dcm`` names files inside them."""
    splits: dict[Split, str | list[str]] | None = None
    """Sources of each split, if the splits are given as files. Not together with ``source``."""
    reader: Annotated[str | None, CONTRACT] = None
    """The reader of all files. Default: by each file's suffix."""
    shape: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1, max_length=3), CONTRACT, PUBLIC]
    """Points per axis to which every scan is resampled: one, two or three axes. With ``patches``, it is their size, and
    is left out."""
    patches: Annotated[Patches | None, FIT_DIGEST, Added(None)] = None
    """Keep scans at their own resolution, as grids of patches. Default: every scan is one patch, resampled to
    `shape`."""
    channels: Annotated[PositiveInt, CONTRACT] = 1
    """Values per point: 1 grey, 3 colour."""
    length: Annotated[Literal["exact", "resample", "windows"] | None, CONTRACT, Added(None)] = None
    """Signals (a `shape` of one axis) with another number of samples than `shape`: `exact` quarantines them, `resample`
    stretches them, `windows` packs every whole piece of that length, one after the other (samples after the last whole
    piece are left out). Default: `exact` in a new data set; an existing one keeps its own, which is `resample` for CSV
    if it was packed by a version without this key."""
    leads: Annotated[list[str | NaturalInt] | None, Field(min_length=1), CONTRACT, Added(None)] = None
    """The leads of a WFDB record or a DICOM electrocardiogram that become channels, in this order: by name, such as
    `II`, or by number from 0. Default: all."""
    csv: Annotated[Csv | None, CONTRACT, Added(None)] = None
    """What the columns of CSV files with signals are. Default: as they look; a file that allows more than one reading
    is refused."""
    dataset: Name | None = None
    """Name of the data set in storage. Default: the run's name."""
    snapshot: Annotated[str | None, Key(within_run=WithinRun.FREE)] = None
    """Digest of an existing snapshot to use. Default: the newest of ``dataset``; training keeps the snapshot with
    which it began."""
    intensity: Annotated[Intensity, CONTRACT] = Intensity()
    """How stored values map to [0, 1]."""
    ct_window: Annotated[
        Annotated[list[float], Field(min_length=2, max_length=2)] | Annotated[Literal["off"], BARE_WORD] | None,
        CONTRACT,
        Added(None),
    ] = None
    """With ``intensity.mode: auto``, the window `[low, high]` of CT images whose DICOM file gives Hounsfield units;
    `off` treats them like others. Default: [-1000, 1000] in a new data set; an existing one keeps its own, which is
    `off` if it was packed by a version without this key."""
    pet: Annotated[Literal["suv", "stored"] | None, CONTRACT, Added(None)] = None
    """Values of PET images from DICOM: `suv`, standardized uptake values by body weight (g/ml), and images whose header
    does not allow them are quarantined with the reason; `stored`, whatever the files hold (Bq/ml, counts). Default:
    `suv` in a new data set; an existing one keeps its own, which is `stored` if it was packed by a version without this
    key."""
    aspect: Annotated[Literal["pad", "crop", "stretch"], CONTRACT] = "pad"
    """How a field of view with another aspect ratio is fitted to ``shape``."""
    spacing: Annotated[list[PositiveFloat] | None, CONTRACT, Added(None)] = None
    """Distance of neighbouring points along each axis of ``shape``, in mm (in pixels, where a file does not say): the
    same for all scans, centred; what lies beyond is cropped, what is missing is background. `[8, 8, 8]` with a shape of
    `[32, 32, 32]` is a cube of 256 mm. With `patches`, nothing is cropped. Default: as wide as the whole scan needs
    (``aspect``), another for each scan; with `patches`, the scan's own."""
    slices: Annotated[Slices | None, CONTRACT] = None
    """Pack volumes as slices."""
    slabs: Annotated[Slabs | None, CONTRACT] = None
    """Hold out slabs of slices."""
    fractions: Annotated[dict[Split, Ratio], CONTRACT] = Field(default={"train": 0.8, "val": 0.1, "test": 0.1})
    """Share of patients (see ``group``) per split, chosen by key, if neither the source nor ``slabs`` gives splits."""
    group: Annotated[Literal["patient", "source"] | Grouping | None, CONTRACT, Added(None)] = None
    """Which scans stay in one split: all of a `patient` (as the DICOM file tells, a BIDS folder `sub-*`, an nnU-Net
    case, or a folder such as `patient_001`; where nothing does, those of an examination, else each scan by itself), or
    each `source` by itself. Default: `patient` in a new data set; an existing one keeps its own, which is `source` if
    it was packed by a version without this key."""
    series: Annotated[Literal["file"] | Series | None, CONTRACT, Added(None)] = None
    """What becomes of DICOM series: a section, or `file` to pack each file by itself, with a window of its own.
    Default: the section's defaults in a new data set; an existing one keeps its own, which is `file` if it was packed
    by a version without this key."""
    volume_names: Annotated[Literal["instance", "position"] | None, CONTRACT, Added(None)] = None
    """What the volumes of a DICOM series are called: by the smallest key of their images' identifiers (`instance`), or
    by their place among the volumes of the series (`position`), which another one may take when the series grows.
    Default: `instance` in a new data set; an existing one keeps its own, which is `position` if it was packed by a
    version without this key."""
    table: Annotated[Table | None, CONTRACT, Added(None)] = None
    """Labels, patients and splits from a CSV or Parquet file. A change of what it says is seen by the next pack, which
    packs those scans again."""
    identifying_labels: Annotated[
        Literal["refuse", "drop", "keep"], Key(within_run=WithinRun.FREE), Added("refuse")
    ] = "refuse"
    """Labels that look like identifiers: dates, numbers of seven digits or more, columns of mostly different values.
    ``refuse`` quarantines the scans of such a file, and refuses such a table; ``drop`` packs the scans of such a file
    without labels; ``keep`` packs them with these labels. Labels of an npz that are no whole numbers, such as 0.5, are
    kept as targets, and dropped by ``drop``, too."""
    look_alikes: Annotated[Literal["report", "off"], FREE, Added("report")] = "report"
    """Whether scans that look alike in different splits, or of different patients, are searched for and reported."""
    burned_in: Annotated[Literal["refuse", "keep"], Key(within_run=WithinRun.FREE), Added("refuse")] = "refuse"
    """DICOM images whose pixels may name or show the patient: text burned in or not ruled out (secondary captures,
    screen saves, ultrasound, fluoroscopy), recognizable features. ``refuse`` quarantines them with the reason;
    ``keep`` packs them. A change counts for files that are packed later."""
    masks: Annotated[Literal["skip", "keep", "pair"], Key(within_run=WithinRun.FREE), Added("skip")] = "skip"
    """Segmentations: files of NIfTI, MGH, TIFF, PNG, JPEG and BMP that are called so (`labelsTr/`, `masks/`,
    `*_seg`, `*_dseg`, `mask*`, ...), and NIfTI files whose header says so. ``skip`` packs none: the former are set
    aside and counted, the latter are quarantined. ``keep`` packs them as if they were images. ``pair`` keeps those that
    belong to an image by their names beside its sample, for evaluation, and DICOM segmentations beside the images of
    the series that they name; these are never images. A change counts for files that are packed
    later; scans that have or get a segmentation beside them are packed again."""
    volume: Annotated[Literal["each"] | NaturalInt, CONTRACT, Added("each")] = "each"
    """Of NIfTI and MGH files with several volumes (four axes): pack `each` as a scan, all in one split, or only the one
    with this number, from 0."""
    non_finite: Annotated[Literal["refuse", "background"], Key(within_run=WithinRun.FREE), Added("refuse")] = "refuse"
    """Scans with values that are not finite (NaN, infinities): ``refuse`` quarantines them; ``background`` gives these
    values the smallest one of the rest of the scan. A change counts for files that are packed later."""
    shard_scans: PositiveInt = 1024
    """Largest number of scans per shard."""
    shard_megabytes: PositiveInt = 128
    """Largest size of a shard (MiB of array data)."""
    sources_per_task: Annotated[PositiveInt, FREE] = 256
    """Files per pack task."""
    private: Annotated[str | None, FREE] = None
    """Folder for the salt and the key-to-path mapping. Default: ~/.medfuncta/<dataset>. Never inside storage."""
    removed: Annotated[Literal["keep", "drop"], Key(within_run=WithinRun.FREE), Added("keep")] = "keep"
    """What becomes of scans whose source is no longer among the files that ``source`` or ``splits`` name: ``drop``
    leaves them out of the next snapshot."""
    max_quarantined: Annotated[float, Field(ge=0, le=1), FREE] = 0.05
    """Largest share of all scans found that may be quarantined. With more, a stage fails."""

    @field_validator("snapshot")
    @classmethod
    def _digest(cls, value: str | None) -> str | None:
        if value is not None and not DIGEST.fullmatch(value):
            raise ValueError("expected a dataset digest: 64 lowercase hex digits")
        return value

    @field_validator("source", "splits")
    @classmethod
    def _no_shell(cls, value: Any) -> Any:
        values = value.values() if isinstance(value, dict) else [value]
        flat = [u for v in values for u in (v if isinstance(v, list) else [v])]
        if not flat or any(u is not None and (u == "" or u.startswith("pipe:") or "\n" in u) for u in flat):
            raise ValueError("expected a local path or an s3:// URI, or a glob of either")
        return value

    @model_validator(mode="before")
    @classmethod
    def _shape_of_patches(cls, given: Any) -> Any:
        """With patches, the grid of the field is theirs. Anything invalid is left to the keys' own checks."""
        patches = given.get("patches") if isinstance(given, dict) else None
        size = (
            patches.size if isinstance(patches, Patches) else patches.get("size") if isinstance(patches, dict) else None
        )
        if size is None:
            return given
        if given.get("shape", size) != size:
            raise ValueError(f"with patches, scans keep their own shape: leave shape {given['shape']} out")
        return given | {"shape": size}

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        given = [n for n in ("source", "splits", "snapshot") if getattr(self, n) is not None]
        if not given:
            raise ValueError("give source (where the scans are), splits, or snapshot (an existing data set)")
        if self.source is not None and self.splits is not None:
            raise ValueError("give source or splits, not both")
        if isinstance(self.ct_window, list):
            if self.intensity.mode != "auto":
                raise ValueError(f"ct_window does nothing where intensity.mode is '{self.intensity.mode}'")
            if not self.ct_window[0] < self.ct_window[1]:
                raise ValueError(f"ct_window is [low, high], and low must be below high; got {self.ct_window}")
        self._check_spacing()
        if self.patches is not None and self.aspect != "pad":
            raise ValueError(
                "with patches, scans keep their own field of view, so aspect would do nothing: leave it out"
            )
        if self.patches is not None and self.length is not None:
            raise ValueError("with patches, signals keep their own length: leave length out")
        if self.slices is not None and len(self.shape) != 2:
            raise ValueError(f"slices are two-dimensional, but shape has {len(self.shape)} axes")
        if self.slabs is not None and self.slices is None and (self.patches is None or len(self.shape) != 3):
            raise ValueError("slabs need slices, or patches of volumes")
        if self.table is not None:
            self._check_table(self.table)
        if self.slabs is not None and self.group not in (None, "source"):
            raise ValueError("slabs part each volume, so group would do nothing: leave one of them out")
        if self.splits is not None and isinstance(self.group, Grouping) and self.group.split is not None:
            raise ValueError("splits and group.split both give the splits: leave one of them out")
        if self.length is not None and len(self.shape) != 1:
            raise ValueError(f"length is for signals, but shape has {len(self.shape)} axes: leave length out")
        if self.volume_names is not None and (self.series == "file" or not self.takes_volumes):
            raise ValueError("volume_names is for the volumes of DICOM series, which are not packed: leave it out")
        if self.leads is not None and len(self.leads) != self.channels:
            raise ValueError(f"leads names {len(self.leads)} leads, but channels is {self.channels}")
        if abs(sum(self.fractions.values()) - 1) > 1e-6 or "train" not in self.fractions:
            raise ValueError(f"fractions must contain train and sum to 1, got {self.fractions}")
        return self

    def _check_spacing(self) -> None:
        if self.spacing is None:
            return
        if len(self.shape) == 1:
            raise ValueError("spacing is for images, but shape has one axis: leave spacing out")
        if len(self.spacing) != len(self.shape):
            raise ValueError(f"spacing has {len(self.spacing)} numbers, but shape has {len(self.shape)} axes")
        if self.aspect != "pad":
            raise ValueError("spacing decides the field of view, so aspect would do nothing: leave aspect out")

    def _check_table(self, table: Table) -> None:
        if isinstance(self.group, Grouping) and self.group.table is not None:
            raise ValueError("data.table and group.table are both tables: give data.table alone")
        if table.group is not None and self.group is not None:
            raise ValueError("group and table.group both say which scans are one patient's: leave one of them out")
        if table.split is not None and self.splits is not None:
            raise ValueError("splits and table.split both give the splits: leave one of them out")
        if self.slabs is not None and (table.group is not None or table.split is not None):
            raise ValueError("slabs part each volume, so table.group and table.split would do nothing: leave them out")

    @property
    def grouping(self) -> Literal["patient", "source"] | Grouping | Table | None:
        """What says which scans are one patient's: ``group``, or a table with such a column; None where it is open."""
        return self.table if self.table is not None and self.table.group is not None else self.group

    @property
    def takes_volumes(self) -> bool:
        """Whether a DICOM series is packed as its volumes, and not as its images."""
        return len(self.shape) == 3 or self.slices is not None

    @property
    def points(self) -> int:
        """Number of coordinates of one scan."""
        total = 1
        for n in self.shape:
            total *= n
        return total
