"""What is on the disk when the power goes: nothing bears its name before all of it is there."""

import ast
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT

from clipfeat.errors import OutputError
from clipfeat.output.files import FORMATS, write_arrays
from clipfeat.output.folders import remove_files
from clipfeat.output.frame_files import open_files
from clipfeat.system import atomic
from clipfeat.system.atomic import atomic_file, sync_to_disk, sync_tree
from clipfeat.system.direct import direct_file

BOTH = pytest.mark.parametrize("open_file", [atomic_file, direct_file])
SYNC = "fdatasync" if hasattr(os, "fdatasync") else "fsync"


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """What the disk is asked to do, in order: ("through", name), ("rename", name) and ("remove", name)."""
    events = []
    real_sync, real_replace, real_unlink = getattr(os, SYNC), os.replace, os.unlink

    def sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("through", os.path.relpath(path, tmp_path)))
        real_sync(descriptor)

    def replace(source, target, **kwargs):
        events.append(("rename", os.path.relpath(source, tmp_path)))
        real_replace(source, target, **kwargs)

    def unlink(path, **kwargs):
        real_unlink(path, **kwargs)
        events.append(("remove", os.path.relpath(path, tmp_path)))

    monkeypatch.setattr(atomic.os, SYNC, sync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", unlink)
    return events


@BOTH
@pytest.mark.parametrize("size", [0, 10, 3_000_001])
def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_after(tmp_path, disk, open_file, size):
    with open_file(tmp_path / "x") as file:
        file.write(bytes(size))
    (through, temporary), (rename, renamed), folder = disk
    assert (through, rename, folder) == ("through", "rename", ("through", "."))
    assert temporary == renamed
    assert temporary.startswith(".x.")


@pytest.mark.parametrize("name", FORMATS)
def test_the_files_of_a_scene_are_whole_one_by_one_and_their_names_last_together(tmp_path, disk, name):
    files = open_files(tmp_path, name)
    for i in range(3):
        write_arrays(files.frame_path("s", i), name, {"x": np.arange(9.0)}, {"frame_id": i}, one_of_many=True)
        assert [event for event, _ in disk[-2:]] == ["through", "rename"]
        assert disk[-2][1] == disk[-1][1]
    assert len(disk) == 6
    files.finish_scene("s")
    if name == "h5_scene":
        # The scene's file is whole, and its name lasts, before the others go.
        (_, temporary), renamed, *rest = disk[6:]
        assert renamed == ("rename", temporary)
        assert rest == [("through", "."), *(("remove", f"s/frame_{i}.h5") for i in range(3))]
    else:
        assert disk[6:] == [("through", "s")]


def test_what_is_removed_is_gone_before_anything_takes_its_place(tmp_path, disk):
    for name in ("a/x", "a/y", "b/x", "b/stays"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_files(tmp_path / name for name in ("a/x", "a/y", "b/x"))
    assert {name for event, name in disk if event == "through"} == {"b", "."}  # a itself is gone
    assert [event for event, _ in disk] == ["remove"] * 3 + ["through"] * 2


def test_a_tree_is_on_the_disk_with_all_that_is_in_it(tmp_path, disk):
    (tmp_path / "scene" / "color").mkdir(parents=True)
    (tmp_path / "scene" / "color" / "0.jpg").touch()
    (tmp_path / "scene" / "demo.json").touch()
    sync_tree(tmp_path / "scene")
    assert {name for _, name in disk} == {"scene", "scene/color", "scene/color/0.jpg", "scene/demo.json"}


@BOTH
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_write_through_will_do(tmp_path, monkeypatch, open_file, number):
    def refuse(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, SYNC, refuse)
    with open_file(tmp_path / "x") as file:
        file.write(b"all")
    assert (tmp_path / "x").read_bytes() == b"all"


@BOTH
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_finds_out_late_that_it_fails_is_named(tmp_path, monkeypatch, open_file, number):
    """Network disks, and those with quotas, may say only then that there was no room."""
    (tmp_path / "x").write_bytes(b"before")

    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, SYNC, fail)
    with (
        pytest.raises(OutputError, match=f"x: can't be written .{os.strerror(number)}"),
        open_file(tmp_path / "x") as f,
    ):
        f.write(b"half")
    assert (tmp_path / "x").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(OutputError, match=r"can't be written through to the disk"):
        sync_to_disk(tmp_path)


def test_nothing_to_write_through_is_no_error(tmp_path):
    sync_to_disk(tmp_path / "nowhere")
    sync_to_disk(tmp_path / "nowhere" / "deeper")


def test_nothing_is_written_but_by_the_files_that_appear_whole():
    """A file that is opened for writing elsewhere would have its name at once, and nothing in it after a power cut."""
    allowed = {
        "system/atomic.py": "the temporary file itself, and the lock",
        "output/run_folder.py": "frames.jsonl, whose lines are read one by one",
        "data/demo/scans.py": "in a folder that takes its name whole",
        "results/export.py": "members of an npz in a file that appears whole",
    }
    found = {}
    for path in sorted((CHECKOUT / "clipfeat").rglob("*.py")):
        name = path.relative_to(CHECKOUT / "clipfeat").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                called = getattr(node.func, "attr", None) or node.func.id
                values = [
                    n.value for n in (*node.args, *(k.value for k in node.keywords)) if isinstance(n, ast.Constant)
                ]
                modes = [v for v in values if isinstance(v, str) and set(v) <= set("rwaxb+t") and set(v) & set("wax+")]
                if called in ("write_text", "write_bytes", "savetxt") or (called == "open" and modes):
                    found.setdefault(name, []).append(node.lineno)
    assert found.keys() == allowed.keys(), found
