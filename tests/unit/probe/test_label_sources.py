from __future__ import annotations

from pathlib import Path

from medfuncta_dist.probe.label_sources import explain_missing_labels
from tests.unit.latents.fitted import run_file


def test_each_place_that_labels_come_from_is_named(tmp_path: Path) -> None:
    def said(**data: object) -> str:
        return explain_missing_labels(run_file(tmp_path, data=data).data)

    assert said().startswith("an npz gives them as `train_labels`")
    assert "`data.csv.label`" in said(source="s3://b/*.csv", shape=[187])
    assert "`data.csv.label`" in said(source="s3://b/signals/", reader="ecg-csv", shape=[187])
    assert said(source="s3://b/v1.csv/scans/").startswith("these files hold none"), "a folder, whatever its name"
    both = said(source=None, splits={"train": ["a/*.npz", "b/*.png"], "test": "c/*.npz"})
    assert both.startswith("an npz gives")
    assert "; these files hold none" in both
    assert "drop` packs a file without labels" in said(identifying_labels="drop")
    table = {"path": "t.csv", "label": ["class", {"column": "sex", "categories": ["F", "M"]}]}
    assert said(table=table).startswith("fill the table's column 'class', 'sex'")
    assert said(group={"table": "t.csv", "label": "class"}).startswith("fill the table's column 'class'")
