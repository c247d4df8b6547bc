import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import CHECKOUT
from recordings import DEPTH, SCENE, assert_same_frames, one_frame, small_frames, small_recording
from sens_writer import FIXED, encode_color, patch, write_like

from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.sens import SensDataset
from clipfeat.errors import FrameError


@pytest.fixture
def frames():
    return small_frames()


@pytest.fixture
def sens(tmp_path):
    return small_recording(tmp_path / "scans")


@pytest.fixture
def export():
    """``scripts/export_sens.py`` as a function of its arguments."""
    spec = importlib.util.spec_from_file_location("export_sens", CHECKOUT / "scripts" / "export_sens.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["export_sens"] = module
    spec.loader.exec_module(module)
    yield lambda *arguments: module.main([str(a) for a in arguments])
    del sys.modules["export_sens"]


@pytest.mark.parametrize(("color", "depth"), [("jpeg", "zlib"), ("png", "raw"), ("raw", "zlib")])
def test_the_export_gives_identical_frames(tmp_path, frames, export, capsys, color, depth):
    frames[1] = replace(frames[1], cam_to_world=np.full((4, 4), -np.inf))
    write_like(tmp_path / "scans" / SCENE / f"{SCENE}.sens", frames, color=color, depth=depth)
    assert export(tmp_path / "scans", tmp_path / "out") == 0
    assert "5 frames written" in capsys.readouterr().out
    recorded, exported = SensDataset(tmp_path / "scans"), ScanNetDataset(tmp_path / "out")
    assert exported.scenes() == recorded.scenes()
    assert exported.frame_ids(SCENE) == recorded.frame_ids(SCENE)
    for i in (0, 2, 3, 4):
        assert_same_frames(recorded.load(SCENE, i), exported.load(SCENE, i))
    with pytest.raises(FrameError, match="tracking was lost"):
        exported.load(SCENE, 1)
    if color != "raw":
        stored = (tmp_path / "out" / SCENE / "color").glob("2.*")
        assert next(stored).read_bytes() == recorded.file(SCENE).color_blob(2)


def test_the_export_goes_on_where_it_stopped_and_takes_every_nth(sens, tmp_path, export, capsys):
    path, _ = sens
    out = tmp_path / "out"
    assert export(path, out, "--every", 2) == 0
    assert sorted(p.name for p in (out / SCENE / "color").iterdir()) == ["0.png", "2.png", "4.png"]
    kept = (out / SCENE / "color" / "2.png").stat().st_mtime_ns
    (out / SCENE / "depth" / "4.png").unlink()
    capsys.readouterr()
    assert export(path, out) == 0
    assert "3 frames written" in capsys.readouterr().out
    assert (out / SCENE / "color" / "2.png").stat().st_mtime_ns == kept
    assert len(ScanNetDataset(out).frame_ids(SCENE)) == 5
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    assert_same_frames(SensDataset(path.parent).load(SCENE, 4), ScanNetDataset(out).load(SCENE, 4))


def test_the_export_keeps_the_k_of_pictures_that_differ_from_the_header(tmp_path, export):
    scans = tmp_path / "scans"
    scans.mkdir()
    recorded = one_frame(scans / "a.sens", encode_color(np.zeros((24, 32, 3), np.uint8)), DEPTH)
    assert export(scans, tmp_path / "out") == 0
    assert_same_frames(recorded.load("a", 0), ScanNetDataset(tmp_path / "out").load("a", 0))


def test_the_export_names_what_it_leaves_out(sens, frames, tmp_path, export, capsys):
    path, starts = sens
    patch(path, starts[1] + FIXED, b"no picture")
    (path.parent / "broken.sens").write_bytes(b"")
    write_like(path.parent / "other.sens", frames, depth_shift=500.0)
    assert export(path.parent, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "9 frames written" in said.out
    assert "1 failed" in said.out
    assert "not exported:" in said.err
    assert f"{SCENE}.sens: frame 1, colour: not a picture" in said.err
    assert "broken.sens: empty file" in said.err
    assert "other.sens: read the export with data.depth_scale=500" in said.err
    assert ScanNetDataset(tmp_path / "out").frame_ids(SCENE) == [0, 2, 3, 4]
    (tmp_path / "out" / SCENE / "intrinsic" / "intrinsic_color.txt").write_text("1 0 0\n")
    assert export(path, tmp_path / "out") == 1
    assert "intrinsic_color.txt: of another recording" in capsys.readouterr().err
    assert export(tmp_path / "none.sens", tmp_path / "out") == 1
    assert "none.sens: no such file" in capsys.readouterr().err


def test_the_exports_help_and_its_bad_numbers(export, capsys):
    with pytest.raises(SystemExit) as stop:
        export("--help")
    assert stop.value.code == 0
    assert "--every 20 scans exported" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export("a", "b", "--every", 0)
    assert "0: expected a whole number of at least 1" in capsys.readouterr().err
