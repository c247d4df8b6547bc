import sys

import numpy as np
import pytest
from phone_recordings import deflated, pack_depth_bin

from clipfeat.data import depth_bin
from clipfeat.data.depth_bin import FramedDepth, StreamedDepth, import_lz4, open_depth_bin
from clipfeat.errors import ConfigError, DataError, FrameError

KINDS = ["lz4", "deflate", "stream"]


@pytest.fixture(scope="module")
def depths():
    """Frames that pack well, for the sake of time."""
    ramp = np.linspace(0, 4, 192 * 256).reshape(192, 256).round(2)
    return [np.roll(ramp, 7 * i) for i in range(9)]


def written(tmp_path, depths, kind, cut=None):
    if kind == "lz4":
        pytest.importorskip("lz4")
    path = tmp_path / "depth.bin"
    path.write_bytes(pack_depth_bin(depths, kind)[:cut])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_what_was_written_in_any_order(kind, depths, tmp_path, monkeypatch):
    if kind != "lz4":  # and nobody needs the package
        monkeypatch.setattr(depth_bin, "import_lz4", None)
    monkeypatch.setattr(depth_bin, "_MOST_MARKS", 4)
    file = open_depth_bin(written(tmp_path, depths, kind))
    assert isinstance(file, StreamedDepth if kind == "stream" else FramedDepth)
    for place in [*range(9), *np.random.default_rng(0).permutation(9)]:
        np.testing.assert_allclose(file.metres(place), depths[place], atol=1e-6)
    if kind == "stream":
        assert sorted(file._marks) == [0, 4, 8]
    with pytest.raises(FrameError, match="depth.bin: frame 9: the file holds 9 frames, from 0"):
        file.metres(9)


class NoLz4:
    """Blocks that are none."""

    LZ4BlockError = ValueError

    @staticmethod
    def decompress(*_arguments, **_options):
        raise ValueError


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_file_that_is_cut_off_the_whole_frames_are_used(kind, depths, tmp_path, monkeypatch):
    if kind != "lz4":
        monkeypatch.setattr(depth_bin, "import_lz4", lambda: NoLz4)  # for a block that is no frame
    file = open_depth_bin(written(tmp_path, depths, kind, cut=-1000))
    np.testing.assert_allclose(file.metres(7), depths[7], atol=1e-6)
    with pytest.raises(FrameError, match="depth.bin: frame 8: the file holds 8 frames, from 0.* cut off"):
        file.metres(8)
    np.testing.assert_allclose(file.metres(3), depths[3], atol=1e-6)


def test_another_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_bin, "import_lz4", lambda: NoLz4)
    for data in (b"", b"nonsense" * 100, deflated(bytes(1000))):
        (tmp_path / "depth.bin").write_bytes(data)
        with pytest.raises(DataError, match=r"depth.bin: neither frames packed by LZ4 or deflate nor one stream of"):
            open_depth_bin(tmp_path / "depth.bin")
    with pytest.raises(DataError, match="other.bin: no such file, expected ScanNet"):
        open_depth_bin(tmp_path / "other.bin")


def test_a_package_that_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(ConfigError, match=r"needs the package lz4: pip install 'clipfeat\[video\]'"):
        import_lz4()
