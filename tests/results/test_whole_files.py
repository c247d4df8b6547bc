import gzip
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipfeat.errors import DataError
from clipfeat.output.files import write_arrays
from clipfeat.output.folders import write_config
from clipfeat.output.glb import write_glb
from clipfeat.output.ply import write_ply
from clipfeat.results.inspect import inspect_folder
from clipfeat.results.whole_files import READERS, read_whole
from clipfeat.system.pcd import write_pcd

RNG = np.random.default_rng(0)
XYZ, RGB = RNG.normal(size=(30, 3)), RNG.integers(0, 256, (30, 3)).astype(np.uint8)
FACES = np.arange(30).reshape(10, 3)
PICTURES = [Image.fromarray(RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)) for _ in range(3)]

MADE = {
    ".ply": lambda path: write_ply(path, XYZ, RGB, FACES, values={"score": XYZ[:, 0]}),
    ".pcd": lambda path: write_pcd(path, XYZ, RGB),
    ".npy": lambda path: np.save(path, XYZ),
    ".npz": lambda path: write_arrays(path, "npz", {"scores": XYZ}, {"scene_id": "s"}),
    ".pt": lambda path: torch.save({"pts_feat": torch.from_numpy(XYZ), "meta": "{}"}, path),
    ".safetensors": lambda path: save_file({"weight": torch.from_numpy(XYZ)}, path),
    ".gz": lambda path: path.write_bytes(gzip.compress(XYZ.tobytes())),
    ".glb": lambda path: write_glb(path, XYZ, RGB, FACES),
    ".png": lambda path: PICTURES[0].save(path),
    ".gif": lambda path: PICTURES[0].save(path, save_all=True, append_images=PICTURES[1:]),
    ".json": lambda path: path.write_text(json.dumps({"a": 1})),
    ".md": lambda path: path.write_text("| a | b |\n| --- | --- |\n"),
    ".csv": lambda path: path.write_text('a,b\n1,"2, 3"\n'),
}


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_is_cut_off_is_told_in_a_line(tmp_path, suffix):
    path = tmp_path / f"room.1{suffix}"
    MADE[suffix](path)
    read_whole(path)
    content = path.read_bytes()
    line = rf"{re.escape(str(path))}: not a whole {suffix[1:]} file \(.+\); delete it and run the same command again"
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError) as told:
            read_whole(path)
        assert re.fullmatch(line, str(told.value))


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".gz", ".png"])
def test_where_there_are_checksums_a_bit_is_missed(tmp_path, suffix):
    path = tmp_path / f"room{suffix}"
    MADE[suffix](path)
    content = bytearray(path.read_bytes())
    values = content.find(XYZ.tobytes())
    content[values + 9 if values >= 0 else len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"not a whole {suffix[1:]} file"):
        read_whole(path)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"glTF\x02", b"glTF\x01", "no binary glTF 2.0"),
        (b"JSON", b"JSOM", "where a chunk b'JSON' was expected"),
        (b'"byteLength":360', b'"byteLength":999', "it names more than the 720 bytes of its buffer"),
    ],
)
def test_a_gltf_that_does_not_fit_itself(tmp_path, old, new, why):
    path = tmp_path / "room.glb"
    write_glb(path, XYZ, RGB, FACES)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=re.escape(why)):
        read_whole(path)


def test_all_files_of_a_folder_are_read_and_counted_and_those_of_other_kinds_are_told(tmp_path):
    write_config(tmp_path, {"format": "openlex3d", "store": "out/fused"})
    for scene_id in ("s1", "s2"):
        (tmp_path / scene_id).mkdir()
        MADE[".pcd"](tmp_path / scene_id / "point_cloud.pcd")
        MADE[".npy"](tmp_path / scene_id / "index.npy")
    found = inspect_folder(tmp_path)
    assert "read" not in found.facts
    assert found.text().endswith("broken      nothing seen; --verify reads all files")
    found = inspect_folder(tmp_path, verify=True)
    assert (found.facts["read"], found.broken) == ("2 .npy, 2 .pcd", [])
    assert found.text().endswith("broken      nothing: all files were read")
    (tmp_path / "s1" / "notes.txt").write_text("mine")
    path = tmp_path / "s2" / "index.npy"
    path.write_bytes(path.read_bytes()[:-1])
    found = inspect_folder(tmp_path, verify=True)
    assert found.facts["not read"] == f"1 ({tmp_path}/s1/notes.txt): --verify does not know how"
    claim = "it claims to be float64 of shape (30, 3), but 719 bytes of it are there"
    assert found.broken == [f"{path}: not a whole npy file ({claim}); delete it and run the same command again"]
    path.unlink()
    found = inspect_folder(tmp_path, verify=True)
    assert found.broken == []
    assert "nothing" not in found.text()  # or a file that nobody read would count as whole
