"""A ``data.root`` that is not the folder which holds the scenes is told what it is."""

import dataclasses
import functools

import pytest

from clipfeat.data.layouts import build_dataset, layouts
from clipfeat.errors import DataError

SIGNS = {
    "nerfstudio": "transforms.json",
    "polycam": "keyframes/corrected_images/17.jpg",
    "rscan": "sequence/frame-000001.color.jpg",
    "strayscanner": "odometry.csv",
    "record3d": "metadata.json",
    "scannetpp_raw": "iphone/pose_intrinsic_imu.json",
}
"""A file that a scene of the layout has, whatever is in it."""


KNOWN = functools.cache(layouts)


def scenes(name, root):
    return build_dataset(dataclasses.replace(KNOWN()[name], root=str(root))).scenes()


@pytest.fixture(params=SIGNS)
def layout(request, tmp_path):
    path = tmp_path / "data/raw/kitchen" / SIGNS[request.param]
    path.parent.mkdir(parents=True)
    path.touch()
    (path.parent / "depth.bin").touch()  # of scannetpp_raw
    (path.parent / "rgb").mkdir(exist_ok=True)  # of record3d
    return request.param


def test_the_root_above_the_scene_itself_and_a_part_of_it_are_told(layout, tmp_path):
    raw = tmp_path / "data/raw"
    assert scenes(layout, raw) == ["kitchen"]
    with pytest.raises(DataError, match=rf"^data.root=.*/data: holds no .*; {raw} holds 1 scene$"):
        scenes(layout, tmp_path / "data")
    with pytest.raises(DataError, match="; it is there for data.root_is_scene=true$"):
        scenes(layout, raw / "kitchen")
    (raw / "kitchen/keyframes").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=rf"; this is a part of a scene, say data.root={raw}$"):
        scenes(layout, raw / "kitchen/keyframes")
    with pytest.raises(DataError, match="a file, expected the folder that holds it"):
        scenes(layout, raw / "kitchen" / SIGNS[layout])


def test_pictures_that_end_otherwise_are_told(tmp_path):
    (tmp_path / "kitchen/keyframes/corrected_images").mkdir(parents=True)
    (tmp_path / "kitchen/keyframes/corrected_images/17.JPG").touch()
    with pytest.raises(DataError, match=r"; the files are there for data.color='\{scene\}/.*/\{frame\}.JPG'$"):
        scenes("polycam", tmp_path)
