from dataclasses import replace
from pkgutil import resolve_name

import pytest

from clipfeat.data.config import LAYOUTS, DataConfig, ScanNetConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ConfigError


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_row_names_what_is_there(name):
    schema, place = LAYOUTS[name]
    assert schema.name == name
    assert callable(resolve_name(place))


def test_a_layout_is_opened_by_its_name(demo_root):
    assert isinstance(build_dataset(ScanNetConfig(root=str(demo_root))), ScanNetDataset)


def test_an_unknown_layout_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"^data.name=mine: expected one of scannet, sens, demo, posed_rgbd, "):
        build_dataset(DataConfig("mine", "x"))


def test_masks_of_no_frame_are_refused_before_anything_is_read(demo_root):
    cfg = replace(ScanNetConfig(root=str(demo_root)), masks="masks/{scene}.png")
    with pytest.raises(ConfigError, match=r"^data.masks=masks/\{scene\}.png: expected a path with \{scene\} and"):
        build_dataset(cfg)
