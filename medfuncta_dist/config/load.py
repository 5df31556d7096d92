"""From a YAML file to a validated ``RunFile``: preset, then file, then ``--set``; later wins."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medfuncta_dist.config.presets import KIND_DEFAULTS, OUR_PREFIXES, PRESETS
from medfuncta_dist.config.run_file import RunFile, older_values
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.field_section import FieldSection, default_features
from medfuncta_dist.errors import RunFileError

ENVIRONMENT = "env:"
MAX_BYTES = 1 << 20  # a run file is a page; anything larger is some other file
MAX_NODES = 50_000  # values and keys, aliases written out: a list of every file of a large archive still fits

BEFORE: Mapping[str, Any] = older_values()
"""What a run that is older than a key was begun with."""

LATER_SECTIONS = ("field", "meta", "train", "fit", "evaluate")
"""What packing does not need."""

KEY_PART = r'[A-Za-z_][\w/-]*|"[^"=]+"'
"""Of the names in a mapping (labels, environment variables), some have capitals, and some have dots and are quoted."""
OVERRIDE = re.compile(rf"(?P<key>(?:{KEY_PART})(?:\.(?:{KEY_PART}))*)=(?P<value>.*)", re.DOTALL)

LONGEST_SHOWN = 200  # characters of a wrong value that an error repeats


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: ``1e-3`` is a number (in YAML 1.1, PyYAML's, it is text); a repeated key is an error."""

    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        _require_few(self.nodes, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _require_few(_expanded(node, {}), node.start_mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # Before merges (<<), which a key may override; only plain keys can repeat each other.
        for key, n in Counter(k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode)).items():
            if n > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _require_few(nodes: float, mark: Any) -> None:
    if nodes > MAX_NODES:
        raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_NODES} values", mark)


def _expanded(node: Any, known: dict[int, float]) -> float:
    """Values below a node with every alias written out: nine lines of aliases of aliases are a billion values."""
    if id(node) not in known:
        known[id(node)] = math.inf  # found again while it is being counted: it contains itself
        below = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        children = [] if isinstance(node, yaml.ScalarNode) else below
        known[id(node)] = 1 + sum(_expanded(child, known) for child in children)
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load(path: Path | str, overrides: Sequence[str] = ()) -> RunFile:
    """Read, merge and validate a run file. ``overrides``: ``section.key=value`` texts. RunFileError: all faults.

    ``env:NAME`` is the text in that environment variable: a submitted job carries its run file so.
    """
    text, where = _text(path)
    return parse(text, overrides, where)


def _text(path: Path | str) -> tuple[str, str]:
    """The run file's text, and where it is from."""
    if str(path).startswith(ENVIRONMENT):
        return _from_environment(str(path).removeprefix(ENVIRONMENT)), str(path)
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode() if len(data) <= MAX_BYTES else None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"the run file cannot be read: {error}", where=str(path), do="check the path") from error
    if text is None:
        raise RunFileError("the run file is larger than 1 MiB", where=str(path), do="give a run file, not data")
    return text, str(path)


def read_given(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a run file says, with the overrides, and not what preset and defaults add. RunFileError: no mapping."""
    text, where = _text(path)
    return _given(text, overrides, where)


def load_to_pack(path: Path | str, overrides: Sequence[str] = ()) -> tuple[RunFile, str]:
    """The same for packing alone, which does not need the sections of later stages: they may be wrong.

    Returns their faults, "" where there are none; then these sections are as if they were not given. RunFileError where
    the rest is wrong, or where it is wrong without them.
    """
    try:
        return load(path, overrides), ""
    except RunFileError as error:
        run = _to_pack(path, overrides)
        if run is None:
            raise
        return run, error.what


def _to_pack(path: Path | str, overrides: Sequence[str]) -> RunFile | None:
    text, where = _text(path)
    given = _given(text, overrides, where)
    rest = {name: value for name, value in given.items() if name not in LATER_SECTIONS}
    train = given.get("train")
    batch = {"train": {"batch": train["batch"]}} if isinstance(train, Mapping) and "batch" in train else {}
    # The batch bounds the workers of the cluster; a preset's network or the default fit may not suit the shape.
    known = isinstance(rest.get("preset"), str) and rest["preset"] in PRESETS
    bare = {name: value for name, value in rest.items() if not (known and name == "preset")}
    bare["fit"] = {"closed_form": False}
    for tried in (rest | batch, rest, bare | batch, bare):
        with suppress(RunFileError):
            return _validated(_with_defaults(tried, where), where)
    return None


def _from_environment(name: str) -> str:
    text = os.environ.get(name)
    if not text:
        do = "submitted jobs set it; elsewhere give the path of a run file"
        raise RunFileError(f"the environment variable {name!r} holds no run file", where=ENVIRONMENT + name, do=do)
    return text


def parse_kept(text: str, overrides: Sequence[str] = (), where: str = "run.yaml") -> RunFile:
    """The same from a run's own run.yaml. It may be older than some keys: those are what they were for it."""
    return _validated(_one_gpu(_merge(BEFORE, _given(text, overrides, where))), where)


def parse(text: str, overrides: Sequence[str] = (), where: str = "run file") -> RunFile:
    """The same from YAML text. A resolved run file, as jobs carry it, is read as ``parse_kept`` does: its preset is a
    name from the past, and may mean other settings today."""
    given = _given(text, overrides, where)
    return _validated(_merge(BEFORE, given) if _is_resolved(given) else _with_defaults(given, where), where)


def _one_gpu(kept: dict[str, Any]) -> dict[str, Any]:
    """Earlier versions let a run begin with any number of GPUs per worker. Such a run is not damaged; the number is not
    used, because it may change within a run: the one that counts is in the run file that the user gives."""
    cluster = kept.get("cluster")
    gpus = cluster.get("gpus_per_worker") if isinstance(cluster, Mapping) else None
    if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 < gpus < math.inf:
        return kept
    return _merge(kept, {"cluster": {"gpus_per_worker": 1}})


def _given(text: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
    read = _yaml(text, where)
    if not isinstance(read, dict):
        raise RunFileError("the run file is not a mapping of sections", where=where, do="start from a file in jobs/")
    given: dict[str, Any] = read
    for override in overrides:
        given = _merge(given, _override(override))
    return given


def _is_resolved(given: Mapping[str, Any]) -> bool:
    """Whether every key is written out, but perhaps those that not every run had from the beginning."""
    return all(
        isinstance(found := given.get(name, {}), Mapping)
        and found.keys() >= section.model_fields.keys() - BEFORE.get(name, {})
        for name, section in RunFile.sections().items()
    )


def _with_defaults(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Over its preset, and that over the defaults of the kind of field that is asked for."""
    preset = given.get("preset")
    if isinstance(preset, str) and preset in PRESETS:
        _require_kind(preset, _kind(given), where)
        given = _merge(PRESETS[preset], given)
    given = _merge(KIND_DEFAULTS.get(_kind(given) or "", {}), given)
    return _merge(_features(given), given) if _kind(given) == "basis" else given


def _features(given: Mapping[str, Any]) -> dict[str, Any]:
    """The number of features that a basis field has where the run file does not say: it follows from other keys. None
    where these are wrong, which is said when the run file is validated."""
    data, latent = given.get("data"), given["field"].get("latent", FieldSection.model_fields["latent"].default)
    if not isinstance(data, Mapping):
        return {}
    patches = data.get("patches")
    shape = patches.get("size") if isinstance(patches, Mapping) else data.get("shape")
    if not isinstance(shape, list):
        return {}
    numbers = [latent, data.get("channels", Data.model_fields["channels"].default), *shape]
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        return {}
    return {"field": {"features": default_features(latent, math.prod(numbers[1:]))}}


def _require_kind(preset: str, wanted: str | None, where: str) -> None:
    """Refuse another kind of field than the preset's: most of its settings would be for the wrong kind."""
    kind = PRESETS[preset]["field"].get("kind", "siren")
    if wanted in OUR_PREFIXES and wanted != kind:
        what = f"preset {preset} is of a {kind} field, but field.kind is {wanted}"
        do = f"set preset to {OUR_PREFIXES[wanted]}{preset[-2:]}, or leave out field.kind"
        raise RunFileError(what, where=where, do=do)


def _kind(given: Mapping[str, Any]) -> str | None:
    field = given.get("field")
    kind = field.get("kind") if isinstance(field, Mapping) else None
    return kind if isinstance(kind, str) else None


def _validated(given: Mapping[str, Any], where: str) -> RunFile:
    try:
        return RunFile.model_validate(given)
    except ValidationError as error:
        raise RunFileError(
            explain(error), where=where, do="correct these keys; docs/run-file.md lists them all"
        ) from None


def dump(run: RunFile) -> str:
    """The resolved run file as YAML: every key, defaults included; loading it again gives an equal ``RunFile``."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def explain(error: ValidationError) -> str:
    """One line per fault: key, value, what was expected."""
    lines = [f"the run file is invalid ({error.error_count()} fault{'s' * (error.error_count() > 1)}):"]
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "there is no such key"
        if fault["type"] == "missing":
            lines.append(f"  {key}: required, but missing")
            continue
        value = "" if isinstance(fault["input"], dict) else f" = {_shown(fault['input'])}"
        lines.append(f"  {key}{value}: {message}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "(a huge number)"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines ``key: old -> new`` for every leaf that differs."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        raise RunFileError(f"not valid YAML: {error}", where=where, do="correct the line named above") from None
    except Exception as error:  # PyYAML passes on what its conversions raise: a date of month 13 is a ValueError
        what = f"not valid YAML: {type(error).__name__}"
        raise RunFileError(what, where=where, do="look for values with !! or odd dates and numbers") from None


def _override(text: str) -> dict[str, Any]:
    found = OVERRIDE.fullmatch(text)
    if found is None:
        raise RunFileError(
            f"--set {text!r} is not of the form section.key=value",
            do='for example --set train.steps=100; quote a name with dots: --set kubernetes.node_selector."a.b/c"=d',
        )
    key, value = found["key"], found["value"]
    tree: Any = _yaml(value, f"--set {key}")
    for part in reversed(re.findall(KEY_PART, key)):
        tree = {part.strip('"'): tree}
    assert isinstance(tree, dict)
    return tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
