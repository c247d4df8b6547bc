"""What the head of a room says of adding to it holds: a file, a YAML and a row, and nothing else."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from clipfeat.data.config import LAYOUTS, DataConfig
from clipfeat.evaluate import candidates
from clipfeat.model.config import HEADS, ModelConfig
from clipfeat.output import files, frame_files
from clipfeat.output.store import FeatureStore
from clipfeat.vis.config import PAINTERS

LAYOUT = """
from pathlib import Path

from clipfeat.data.scannet import ScanNetDataset


class MineDataset:
    def __init__(self, cfg):
        self.inner = ScanNetDataset(Path(cfg.root))

    def scenes(self):
        return self.inner.scenes()[:1]

    def frame_ids(self, scene_id):
        return self.inner.frame_ids(scene_id)[:2]

    def load(self, scene_id, frame_id):
        return self.inner.load(scene_id, frame_id)
"""

HEAD = """
from torch import nn

from clipfeat.model.heads import Head


class MineHead(Head):
    def __init__(self, width):
        super().__init__(width)
        self.conv = nn.Conv2d(width, 5, 1)

    def to_map(self, tokens):
        return self.conv(tokens)
"""

FORMAT = """
import json

import numpy as np


def write_mine(file, arrays, meta):
    file.write(json.dumps([meta, {k: [a.dtype.str, a.tolist()] for k, a in arrays.items()}]).encode())


def read_mine(path, *, arrays):
    meta, found = json.loads(path.read_bytes())
    return ({k: np.array(v, t) for k, (t, v) in found.items()} if arrays else {}), meta
"""

PICTURE = """
import numpy as np


class MinePainter:
    def __init__(self, cfg, weights_note, seed):
        self.value = cfg.dpi

    def draw(self, scene_id, frames):
        for _ in frames:
            yield np.full((4, 6, 3), self.value, np.uint8)
"""


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """Writes the file (which lies apart, or the tests would write into the package) and the YAML; gives the flag."""

    def write(module, text, group, yaml):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "files"))
        monkeypatch.delitem(sys.modules, module, raising=False)
        folder = tmp_path / "conf" / group
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(yaml)
        return f"--config-dir={tmp_path / 'conf'}"

    return write


def test_a_layout(newcomer, monkeypatch, run_cli, demo_root, tmp_path):
    flag = newcomer("mine_layout", LAYOUT, "data", "defaults: [mine_schema]\nname: mine\n")
    monkeypatch.setitem(LAYOUTS, "mine", (DataConfig, "mine_layout:MineDataset"))
    code, err = run_cli(flag, "data=mine", f"data.root={demo_root}", "output_dir=out")
    assert code == 0, err
    store = FeatureStore(tmp_path / "out")
    assert {scene: store.frames(scene) for scene in store.scenes} == {"demo0000_00": [0, 20]}


def test_a_head(newcomer, monkeypatch, run_cli, demo_root, tmp_path):
    flag = newcomer("mine_head", HEAD, "model/head", "name: mine\n")
    monkeypatch.setitem(HEADS, "mine", "mine_head:MineHead")
    code, err = run_cli(flag, "model/head=mine", f"data.root={demo_root}", "frames_per_scene=1", "output_dir=out")
    assert code == 0, err
    store = FeatureStore(tmp_path / "out")
    assert store.load("demo0000_00", 0).pts_feat.shape[1] == 5
    assert store.model["head"] == "mine"
    assert (tmp_path / "out" / "head_mine.safetensors").is_file()


def test_a_format(newcomer, monkeypatch, run_cli, demo_root, tmp_path):
    flag = newcomer("mine_format", FORMAT, "output", "name: mine\n")
    from mine_format import read_mine, write_mine

    row = files.FrameFormat(".mine", write_mine, read_mine, sequential=True, bytes_of=files.arrays_bytes)
    monkeypatch.setitem(files.FORMATS, "mine", row)
    monkeypatch.setitem(frame_files._BY_SUFFIX, ".mine", "mine")  # made of FORMATS when the file is imported
    arguments = [f"data.root={demo_root}", "frames_per_scene=1"]
    code, err = run_cli(flag, "output=mine", *arguments, "output_dir=out")
    assert code == 0, err
    assert (tmp_path / "out" / "demo0000_00" / "frame_0.mine").is_file()
    assert run_cli("output=npz", *arguments, "output_dir=npz")[0] == 0
    mine, npz = (FeatureStore(tmp_path / name).load("demo0000_00", 0) for name in ("out", "npz"))
    for name in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(npz, name))
    assert "all 2 frames are done already" in run_cli(flag, "output=mine", *arguments, "output_dir=out")[1]


def test_a_picture(newcomer, monkeypatch, run_cli, demo_root, tmp_path):
    flag = newcomer("mine_picture", PICTURE, "vis", "name: mine\n")
    monkeypatch.setitem(PAINTERS, "mine", "mine_picture:MinePainter")
    code, err = run_cli(
        flag, "vis=mine", "vis.dpi=33", f"data.root={demo_root}", "frames_per_scene=1", "output_dir=out",
        "sampling.num_points=200", "num_workers=1", small=False,
    )  # fmt: skip
    assert code == 0, err
    with Image.open(tmp_path / "out" / "demo0000_00" / "vis_0.png") as picture:
        assert picture.getpixel((0, 0)) == (33, 33, 33)


def test_a_candidate(newcomer, monkeypatch):
    newcomer("mine_candidate", HEAD, "unused", "")
    from mine_candidate import MineHead

    monkeypatch.setitem(candidates.HEADS, "mine", lambda width, _cfg, _seed: MineHead(width))
    found = candidates.parse_candidates(["none", "mine", "mine+nearest"], ModelConfig())
    assert [(one.head, one.nearest) for one in found] == [("none", False), ("mine", False), ("mine", True)]
    assert json.dumps([one.offered for one in found]) == "[true, false, false]"
