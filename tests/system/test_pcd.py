import numpy as np
import pytest

from clipfeat.system.pcd import read_pcd, write_pcd

HEADER = "VERSION 0.7\nFIELDS {}\nSIZE {}\nTYPE {}\nCOUNT {}\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA {}\n"


def test_what_is_written_is_read_again(tmp_path):
    xyz = np.random.default_rng(0).normal(size=(7, 3))
    rgb = np.arange(21, dtype=np.uint8).reshape(7, 3)
    size = write_pcd(tmp_path / "a.pcd", xyz, rgb)
    assert (tmp_path / "a.pcd").stat().st_size == size
    np.testing.assert_array_equal(read_pcd(tmp_path / "a.pcd"), xyz.astype(np.float32))
    header, _, body = (tmp_path / "a.pcd").read_bytes().partition(b"DATA binary\n")
    rows = np.frombuffer(body, "<u4").reshape(7, 4)
    assert b"POINTS 7" in header
    np.testing.assert_array_equal(rows[:, 3] >> 16 & 255, rgb[:, 0])
    np.testing.assert_array_equal(rows[:, 3] & 255, rgb[:, 2])


def test_ascii_and_padded_binary_are_read(tmp_path):
    path = tmp_path / "a.pcd"
    path.write_text(HEADER.format("rgb x y z", "4 4 4 4", "F F F F", "1 1 1 1", "ascii") + "9 1 2 3\n9 4 5 6\n")
    assert read_pcd(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    kind = [("p", "u1", 4), ("z", "<f8"), ("y", "<f4"), ("q", "u1", 4), ("x", "<f4")]
    rows = np.array([(0, 3, 2, 0, 1), (0, 6, 5, 0, 4)], kind)
    head = HEADER.format("_ z y _ x", "1 8 4 1 4", "U F F U F", "4 1 1 4 1", "binary")
    path.write_bytes(b"# comment\n" + head.encode() + rows.tobytes())
    assert read_pcd(path).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ply\n", "no line of DATA"),
        ("FIELDS x y z\nDATA ascii\n", "its header lacks"),
        (HEADER.format("x y", "4 4", "F F", "1 1", "ascii"), "its fields are x y"),
        (HEADER.format("x y z", "4 4 4", "F F F", "1 1 1", "binary"), "cut off: 2 points of 12 bytes"),
        (HEADER.format("x y z", "4 4 4", "F F F", "1 1 1", "binary_compressed"), "its data are binary_compressed"),
    ],
)
def test_what_is_no_pcd_is_told(tmp_path, content, message):
    path = tmp_path / "a.pcd"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pcd(path)
