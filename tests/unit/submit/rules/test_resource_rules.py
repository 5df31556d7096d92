from __future__ import annotations

from medfuncta_dist.config.load import parse
from medfuncta_dist.submit.rules.resource_rules import warn_of_unknown_scans
from tests.unit.submit.manifests import RUN


def test_of_scans_whose_size_the_run_file_does_not_tell_it_is_said_before_they_are_packed() -> None:
    patches = parse(
        RUN.replace("shape: [8, 8]", "patches: {size: [8, 8]}"),
        ("kubernetes.cpu.workers=3", "kubernetes.cpu.memory_gigabytes=24"),
    )
    [said] = warn_of_unknown_scans(patches, ("pack", "train"))
    assert "3 workers of a pod share 24 GiB" in said
    assert "docs/how-to/native-resolution.md" in said
    assert warn_of_unknown_scans(patches, ("train", "fit")) == []
    assert warn_of_unknown_scans(parse(RUN), ("pack",)) == []
