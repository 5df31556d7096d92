from __future__ import annotations

import pytest

from medfuncta_dist.scans.segmentation import is_segmentation, pairs


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


IMAGE = "/a/imagesTr/c_0000.nii.gz"


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (IMAGE, "/a/labelsTr/c.nii.gz"),
        (
            "/b/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
            "/b/BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz",
        ),
        ("/b/BraTS2021_00000/BraTS2021_00000_t1.nii.gz", "/b/BraTS2021_00000/BraTS2021_00000_seg.nii.gz"),
        ("/d/sub-01/anat/sub-01_T1w.nii.gz", "/d/derivatives/x/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz"),
        ("/d/images/7.png", "/d/masks/7.png"),
        ("/d/liver.nii", "/d/liver_mask.nii.gz"),
        ("/k/case_00000/imaging.nii.gz", "/k/case_00000/segmentation.nii.gz"),
    ],
)
def test_a_segmentation_and_its_image(image: str, mask: str) -> None:
    assert is_segmentation(mask)
    assert pairs([image], [mask]) == ({image: mask}, 0)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (IMAGE, "/a/labelsTs/c.nii.gz"),
        (IMAGE, "/other/labelsTr/c.nii.gz"),
        ("/b/BraTS-GLI-00000-001-t1n.nii.gz", "/b/BraTS-GLI-00000-000-seg.nii.gz"),
        ("/d/sub-01/sub-01_T1w.nii.gz", "/d/sub-01/sub-01_space-MNI_dseg.nii.gz"),
        ("/d/sub-01/sub-01_T1w.nii.gz", "/d/sub-01/sub-01_label-GM_probseg.nii.gz"),
        ("/d/sub-01/sub-01_ses-2_T1w.nii.gz", "/d/sub-01/sub-01_ses-1_dseg.nii.gz"),
        ("/d/images/7.png", "/d/masks/8.png"),
    ],
)
def test_a_segmentation_of_another_image(image: str, mask: str) -> None:
    assert pairs([image], [mask]) == ({}, 0)


def test_several_segmentations_of_an_image_are_counted_and_one_may_have_several_images() -> None:
    assert pairs(["/a/x.nii"], ["/a/x_seg.nii", "/a/x_mask.nii"]) == ({}, 1)
    both = ["/a/x-t1.nii", "/a/x-t2.nii"]
    assert pairs(both, ["/a/x-seg.nii"]) == (dict.fromkeys(both, "/a/x-seg.nii"), 0)
