from dataclasses import replace
from pkgutil import resolve_name

import pytest

from clipfeat.data.config import LAYOUTS, DataConfig, ScanNetConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ConfigError, DataError, FrameError


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_row_names_what_is_there(name):
    schema, place = LAYOUTS[name]
    assert schema.name == name
    assert callable(resolve_name(place))


def test_a_layout_is_opened_by_its_name(demo_root):
    assert isinstance(build_dataset(ScanNetConfig(root=str(demo_root))).dataset, ScanNetDataset)


def test_an_unknown_layout_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"^data.name=mine: expected one of scannet, sens, demo, posed_rgbd, "):
        build_dataset(DataConfig("mine", "x"))


def test_masks_of_no_frame_are_refused_before_anything_is_read(demo_root):
    cfg = replace(ScanNetConfig(root=str(demo_root)), masks="masks/{scene}.png")
    with pytest.raises(ConfigError, match=r"^data.masks=masks/\{scene\}.png: expected a path with \{scene\} and"):
        build_dataset(cfg)


class Foreign:
    """A layout of somebody else's, who knows nothing of our errors."""

    def __init__(self, cfg):
        self.names = ["a"] if cfg.root == "full" else []

    def scenes(self):
        return self.names

    def frame_ids(self, scene_id):
        return {"a": [0]}[scene_id]

    def load(self, scene_id, frame_id):
        if frame_id:
            raise MemoryError
        return {}[frame_id]


def test_whatever_a_layout_raises_is_told_as_a_bad_frame_or_scene(monkeypatch):
    monkeypatch.setitem(LAYOUTS, "foreign", (DataConfig, f"{__name__}:Foreign"))
    dataset = build_dataset(DataConfig("foreign", "full"))
    assert dataset.scenes() == ["a"]
    with pytest.raises(FrameError, match=r"^data=foreign, scene a, frame 0: the layout's own code raised KeyError: 0$"):
        dataset.load("a", 0)
    with pytest.raises(MemoryError):  # which is nothing of the frame's
        dataset.load("a", 1)
    with pytest.raises(DataError, match=r"^data=foreign, scene b: the layout's own code raised KeyError: "):
        dataset.frame_ids("b")
    with pytest.raises(DataError, match=r"^data=foreign: holds no scene; is data.root the folder"):
        build_dataset(DataConfig("foreign", "empty")).scenes()
