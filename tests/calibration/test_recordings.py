"""Each layout's recording with each convention broken in turn, and what the check says of it.

The recordings are those of the writers in ../shared/recordings, where these are. ``pytest -m slow`` looks at a quarter
of the mistakes in each, and so at each in some; with CLIPFEAT_WHOLE_TABLE=1 at all of them in all, and with ``-s`` it
prints a column of the table in docs/check.md for each. A layout that gets a writer gets one there.
"""

import dataclasses
import json
import os
import re
import sys

import conftest
import mistakes
import packed_recordings as packed
import pytest
from data import test_recording_writers as recorded

from clipfeat.calibration.hypotheses import with_depth_scaled
from clipfeat.data.layouts import build_dataset, layouts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not recorded.WRITERS.is_dir(), reason="the writers of recordings are not here"),
]
writers = recorded.writers

ALIKE = {"nerfstudio_per_frame_k", "arkitscenes_3dod", "twelvescenes"}
"""The same frames as those of another."""
MORE = {
    "tum": ("write_tum", "write", {}),
    "replica": ("write_replica", "write_nice_slam", {}),
    "sens": ("write_sens", "write", {"lost": ()}),
    "scannet": ("write_scannet25k", "write", {}),
}
PACKED = {"record3d": packed.write_record3d, "strayscanner": packed.write_stray, "rosbag": packed.write_rosbag}
"""These need packages that may not be here."""

CASES = {name: case for name, case in recorded.CASES.items() if name not in ALIKE} | MORE | PACKED


@pytest.fixture
def smaller(writers, monkeypatch):
    """Pictures of half or a quarter of the size, which is all that the check looks at."""
    room, recording = writers("room"), writers("recording")
    pinhole = room.Pinhole

    def half(*numbers):
        camera = pinhole(*numbers)
        return camera.resized(320, camera.height // 2) if camera.width == 640 else camera

    def quarter(self, i):
        c = self.colour
        return room.render(c.resized(c.width // 4, c.height // 4) if c.width > 900 else c, self.poses[i])[0]

    monkeypatch.setattr(recording.Recording, "picture", quarter)
    return lambda: monkeypatch.setattr(room, "Pinhole", half)


def configured(name, root):
    """The layout of a recording, with what no file of it says."""
    cfg = layouts()[name]
    own = {"root": str(root)}
    if name == "colmap":
        own |= {"root": str(root / "scene"), "metres_per_unit": 2.5}
    if name == "tum":
        own |= {"intrinsics": json.loads((root / "truth.json").read_text())["colour"][:4], "intrinsics_size": None}
    if name == "scannet":
        own |= {"color_intrinsics_size": [1296, 968]}
    return dataclasses.replace(cfg, **own)


def cell(check, mistake):
    """What the check says, in a word or two."""
    expected = mistakes.MISTAKES[mistake][1]
    if check.verdict != "warning":
        return {"ok": "silent" if expected else "ok", "unknown": "can't tell"}[check.verdict]
    first = check.findings[0]
    causes = first.split("; ")[0].split(", or ")
    if expected and any(re.match(f"{re.escape(expected)}(: |$| )", cause) for cause in causes):
        return "named" if len(causes) == 1 else "both"
    unnamed = "depths do not agree", "colour is not of what depth shows"
    return "no cause" if expected and first.startswith(unnamed) else "WRONG"


def frames_of(cfg):
    """The frames of a recording's scene, with their pictures decoded, and the keys of its layout."""
    dataset = build_dataset(cfg)
    scene = dataset.scenes()[-1]  # of Record3D's the archive and not the export
    return {i: mistakes.colored(f, f.image) for i, f in mistakes.frames_of(dataset, scene).items()}, vars(cfg)


def columns_of_page():
    """Of each layout, a cell for each mistake."""
    lines = (conftest.CHECKOUT / "docs" / "check.md").read_text(encoding="utf-8").splitlines()
    head, _, *rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if line.count("|") > 10]
    return {name: {row[0]: row[i] for row in rows} for i, name in enumerate(head) if i}


def written(name, writers, monkeypatch, root):
    if name in PACKED:
        return frames_of(PACKED[name](writers, monkeypatch, root))
    if name in MORE:
        module, function, options = MORE[name]
        getattr(writers(module), function)(root, **options)
    else:
        recorded.write(name, writers, root)
    return frames_of(configured(name, root))


def test_depths_off_by_five_percent_are_not_blamed_on_colour(writers, smaller, monkeypatch, tmp_path):
    """They move its points by a pixel, and the pictures of a rendered room show that."""
    frames, keys = written("rscan", writers, monkeypatch, tmp_path)
    check = mistakes.checked(mistakes.each(with_depth_scaled(1.05))(frames), keys)
    assert (check.verdict, check.color.cause) == ("ok", "")


def looked_at(name):
    """Mistakes that are tried in a layout."""
    whole, first = os.environ.get("CLIPFEAT_WHOLE_TABLE") == "1", list(CASES).index(name)
    return [m for i, m in enumerate(mistakes.MISTAKES) if m == "none" or whole or (i + first) % 4 == 0]


@pytest.mark.parametrize("name", CASES)
def test_the_page_has_what_the_check_says_of_each_layout(name, writers, smaller, monkeypatch, tmp_path):
    if name != "sens":  # whose writer has the size in words
        smaller()
    frames, keys = written(name, writers, monkeypatch, tmp_path)
    found = {m: cell(mistakes.checked(mistakes.MISTAKES[m][0](frames), keys), m) for m in looked_at(name)}
    sys.stdout.write("\n".join((f"\n{name}", *(f"{mistake} | {word}" for mistake, word in found.items()))))
    assert found["none"] == "ok"
    assert "WRONG" not in found.values()
    column = columns_of_page()[name]
    assert list(column) == list(mistakes.MISTAKES)
    assert found == {mistake: column[mistake] for mistake in found}
