"""docs/run-file.md, written from the model itself:
``python -m medfuncta_dist.config.run_file_reference > docs/run-file.md``."""

from __future__ import annotations

from collections.abc import Iterator

from medfuncta_dist.config.key_reference import KeyFacts, SectionFacts, default_text, sections
from medfuncta_dist.config.presets import ALIASES, KIND_DEFAULTS, OURS, PAPER, PUBLIC_CODE, SIREN, Preset

HEAD = """\
# The run file

There is one YAML file per run, used by all stages. Every key has a default except `name`, `storage` and `data` (with
`data.shape`, and one of `data.source`, `data.splits`, `data.snapshot`). Values are taken from the
preset, then the file, then `--set section.key=value`; later ones override earlier ones. An unknown key, a wrong type or
a contradiction between keys is refused before anything starts; the error gives the key, the value and what is expected.

A minimal run file:

```yaml
name: ecg-mitbih
storage: s3://bucket/medfuncta     # or a local folder
data:
  source: s3://archive/mit-bih/*.csv
  reader: ecg-csv                  # default: by suffix
  shape: [187]
preset: 1d
```

The resolved file (every key) is kept as `runs/<name>/run.yaml`. The column *may change* says whether the same run
can be started again with another value:

- yes: at any time.
- no: a changed file is refused, with the difference.
- no, once settled: if you do not set the key, the run chooses a value once and keeps it.
- new run: another value means another run.

This page is generated from the code (`python -m medfuncta_dist.config.run_file_reference`).
"""
HEADER = "| key | type | default | may change | meaning |\n|---|---|---|---|---|"


def reference() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *map(_table, sections()), *_presets()]) + "\n"


def _table(section: SectionFacts) -> str:
    head = f"\n## `{section.path}`\n\n{section.about}" if section.path else "## Top level"
    return "\n".join([f"{head}\n\n{HEADER}", *map(_row, section.keys)])


def _row(key: KeyFacts) -> str:
    default = {None: "required", "": "see below"}.get(key.default, f"`{key.default}`")
    about = key.about.replace("|", "\\|")
    return f"| `{key.name}` | {key.type} | {default} | {key.may_change} | {about} |"


PRESETS_HEAD = """
## Presets

A preset sets the network and the training settings for scans of one, two or three axes; other keys keep their
defaults. Start from `1d`, `2d` or `3d`, or for a SIREN from `siren-1d`, `siren-2d` or `siren-3d`. The other presets
reproduce published networks, and give much worse results after the same time. A preset is of one kind of field.

The defaults in the tables above are those of a SIREN. With `field.kind: basis` they are, where they differ:
{defaults}.
"""
FAMILIES = {
    "**Ours**, basis fields (`benchmarks/results/fields-cpu-2core.md`): `1d` was measured at its own size; `2d` and "
    "`3d` carry the choice over to the paper's latent sizes, which we have not trained yet.": OURS,
    "**A SIREN with our settings**, chosen on small networks (`benchmarks/results/presets-cpu-2core.md`): what `1d`, "
    "`2d` and `3d` were before there were basis fields. Runs that were begun with these continue with them.": SIREN,
    "**The paper's text** (MedFuncta, MIDL 2026, Table 5 and Section 3): no residual term, ω from 20.": PAPER,
    "**The paper's public code** (github.com/pfriedri/medfuncta, March 2025), which differs from the text: residual "
    "layers, a modulated first layer, ω = 10 and 5 more per layer (1D: 10 more), AdamW's default weight decay, no "
    "schedule, and rescaled steps when fitting.": PUBLIC_CODE,
}


def _presets() -> Iterator[str]:
    yield PRESETS_HEAD.format(defaults=_settings(KIND_DEFAULTS["basis"]))
    for about, presets in FAMILIES.items():
        yield f"{about}\n"
        yield from (f"- `{name}`: {_settings(preset)}" for name, preset in presets.items())
        yield ""
    names = ", ".join(f"`{old}` is `{new}`" for old, new in ALIASES.items())
    yield f"**Earlier names** remain valid, so that runs begun with them can continue: {names}."


def _settings(preset: Preset) -> str:
    return ", ".join(
        f"{section}.{key} {default_text(value)}" for section, keys in preset.items() for key, value in keys.items()
    )


if __name__ == "__main__":
    print(reference(), end="")
