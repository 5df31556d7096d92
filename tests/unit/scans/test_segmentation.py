from __future__ import annotations

import pytest

from medfuncta_dist.scans.segmentation import is_segmentation


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/labelsTr/case_001.nii.gz",
        "/a/masks/0001.png",
        "/a/BraTS-GLI-00000-000-seg.nii.gz",
        "/a/BraTS20_Training_001_seg.nii",
        "/kits/case_00000/segmentation.nii.gz",
        "/ds/derivatives/sub-01_space-T1w_dseg.nii.gz",
        "/ds/sub-01_label-GM_probseg.nii.gz",
        "/ds/sub-01_desc-brain_mask.nii.gz",
        "/fs/bert/mri/aseg.mgz",
        "/fs/bert/mri/aparc+aseg.mgz",
        "/fs/bert/mri/wmparc.mgz",
        "mask.nii.gz",
        "maskfloat.nii.gz",
        "MASK_01.tif",
        "liver_mask2.png",
    ],
)
def test_segmentations(uri: str) -> None:
    assert is_segmentation(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://masks/imagesTr/case_001_0000.nii.gz",
        "/fs/bert/mri/brainmask.mgz",
        "masked_brain.nii.gz",
        "/a/masking-study/01.png",
        "/ds/sub-01_T1w.nii.gz",
        "segment_anything.png",
        "damask.png",
        "labelled_frames.png",
        "/a/labels/case_001/image.nii.gz",
        "T1.nii.gz",
    ],
)
def test_images(uri: str) -> None:
    assert not is_segmentation(uri)
