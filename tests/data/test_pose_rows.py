import re

import layouts
import numpy as np
import pytest

from clipfeat.data.config import FramesConfig, PosedRgbdConfig
from clipfeat.data.pose_rows import rows_of_pictures
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.data.selection import list_scenes
from clipfeat.errors import DataError

BOTH = r"say data.pose_rows=picture_order; if pose k is that of picture k and some have none, data.pose_first={first}"


def rows(numbers, frame_ids, by_order=False, first=None):
    return rows_of_pictures(list(numbers), list(frame_ids), by_order=by_order, first=first, where="traj.txt")


@pytest.mark.parametrize(
    ("numbers", "frame_ids", "expected"),
    [
        (range(5), range(5), {i: i for i in range(5)}),
        (range(9), [0, 2, 4], {0: 0, 2: 2, 4: 4}),
        (range(9), [1, 2, 8], {1: 1, 2: 2, 8: 8}),
        (range(3), range(5), {0: 0, 1: 1, 2: 2}),  # the log ends early: two pictures have no pose
        ([7, 3, 5], [3, 5, 7], {7: 0, 3: 1, 5: 2}),
    ],
)
def test_a_pose_is_that_of_the_picture_of_its_number(numbers, frame_ids, expected):
    assert rows(numbers, frame_ids) == expected


@pytest.mark.parametrize(
    ("numbers", "frame_ids"),
    [
        (range(5), range(1, 6)),  # pictures from 1
        (range(5), [1, 2, 4, 5]),  # and one of them is missing
        (range(5), [1, 2, 4, 5, 6]),
        (range(7), range(2, 9)),
        (range(1, 6), range(5)),  # the log begins with 1
        (range(100, 106), range(5)),  # the log begins elsewhere
        (range(5), range(100, 105)),
    ],
)
def test_numbers_that_may_be_off_by_one_are_refused_with_both_readings(numbers, frame_ids):
    with pytest.raises(DataError, match=BOTH.format(first=numbers[0])) as caught:
        rows(numbers, frame_ids)
    assert f"poses {numbers[0]} to {numbers[-1]} ({len(numbers)})" in str(caught.value)
    assert f"pictures {frame_ids[0]} to {frame_ids[-1]} ({len(frame_ids)})" in str(caught.value)


def test_either_reading_can_be_said():
    assert rows(range(5), range(1, 6), by_order=True) == {i + 1: i for i in range(5)}
    assert rows(range(5), range(1, 6), first=0) == {1: 1, 2: 2, 3: 3, 4: 4}
    assert rows(range(5), range(1, 6), first=1) == {i + 1: i for i in range(5)}
    assert rows(range(100, 105), [0, 1, 4], first=0) == {0: 0, 1: 1, 4: 4}


def test_pictures_that_are_missing_do_not_shift_the_poses_after_them():
    assert rows(range(4), [0, 1, 3, 9], by_order=True) == {0: 0, 1: 1, 3: 2, 9: 3}
    assert rows(range(6), range(4), by_order=True) == {i: i for i in range(4)}
    with pytest.raises(DataError, match=r"5 poses for 4 pictures, whose numbers 1 to 5 have gaps.*data.pose_first=1"):
        rows(range(5), [1, 2, 4, 5], by_order=True)


@pytest.fixture
def from_one(demo_root, tmp_path):
    """Replica's layout with pictures that are numbered from 1."""
    root = tmp_path / "replica"
    root.mkdir()
    layouts.write_replica(demo_root, root)
    for folder in root.glob("*/results"):
        for kind, suffix in (("frame", "jpg"), ("depth", "png")):
            for number in reversed(range(4)):
                (folder / f"{kind}{number:06d}.{suffix}").rename(folder / f"{kind}{number + 1:06d}.{suffix}")
    return root


def open_replica(root, **changes):
    return PosedRgbdDataset(
        PosedRgbdConfig(
            root=str(root), color="{scene}/results/frame{frame}.jpg", depth="{scene}/results/depth{frame}.png",
            depth_scale=6553.5, pose="{scene}/traj.txt", pose_format="trajectory_matrices",
            pose_direction="camera_to_world", pose_axes="opencv", intrinsics_file="cam_params.json", **changes,
        )
    )  # fmt: skip


def test_it_is_told_before_anything_runs(from_one):
    cfg = FramesConfig()
    with pytest.raises(DataError, match="traj.txt: poses 0 to 3 .4., but pictures 1 to 4 .4., which may be off by one"):
        list_scenes(cfg, open_replica(from_one), {})
    right = open_replica(from_one, pose_rows="picture_order").load("demo0000_00", 1).cam_to_world
    expected = np.loadtxt(from_one / "demo0000_00/traj.txt")[0].reshape(4, 4)
    np.testing.assert_allclose(right, expected)
    taken = open_replica(from_one, pose_first=1).load("demo0000_00", 1).cam_to_world
    np.testing.assert_allclose(taken, expected)


def test_a_trajectory_that_can_not_be_read_is_told_when_its_poses_are_needed(from_one):
    (from_one / "demo0000_00/traj.txt").unlink()
    dataset = open_replica(from_one)
    assert dataset.frame_ids("demo0000_00") == [1, 2, 3, 4]
    with pytest.raises(DataError, match=re.escape("traj.txt: no such file")):
        dataset.load("demo0000_00", 1)
