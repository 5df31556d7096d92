"""A manifest as YAML that is readable and that ``kubectl`` accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def to_yaml(manifest: Mapping[str, Any]) -> str:
    """YAML in the manifest's own order, without aliases. Multi-line texts (the run file) become blocks."""
    return yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**16)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represent_text)
