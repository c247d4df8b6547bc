"""A few of the cases of scripts/mutate.py; and that its judge finds what it looks for."""

import multiprocessing
import time

import mutations
import numpy as np
import pytest
from mutation_judge import Judge, sens_frames, unclear
from mutation_kinds import KINDS
from mutation_worlds import make_worlds, register_arch
from mutations import Case, draw_case, run_cases

import clipfeat.data.scannet
from clipfeat.errors import FrameError

pytestmark = pytest.mark.skipif(not hasattr(mutations.resource, "RLIMIT_AS"), reason="memory can't be limited here")


@pytest.fixture(scope="session")
def worlds(made_once):
    root = made_once("worlds", make_worlds)
    register_arch(root)
    return root


@pytest.fixture
def warm_children(warm, monkeypatch):
    """The children that cases run in are forked from one that has imported all; to import it takes them seconds."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: warm)


@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize(("rounds", "step"), [(1, 9), pytest.param(10, 1, marks=pytest.mark.slow)])
def test_damaged_inputs_fail_cleanly_and_leave_the_others_alone(worlds, rounds, step):
    results = list(run_cases(worlds, range(0, rounds * len(KINDS), step), 0, list(KINDS)))
    assert [f"{r.case}: {r.outcome} {r.detail}" for r in results if r.outcome not in mutations.GOOD] == []
    outcomes = [r.outcome for r in results]
    assert outcomes.count("failed") > len(results) / 3
    assert outcomes.count("done") > len(results) * 5 / 3 / len(KINDS)


def test_a_case_follows_from_its_number_and_the_seed(worlds):
    kinds = list(KINDS)
    cases = [draw_case(worlds, number, 0, kinds) for number in range(len(kinds))]
    assert [case.kind for case in cases] == kinds
    assert cases == [draw_case(worlds, number, 0, kinds) for number in range(len(kinds))]
    assert cases != [draw_case(worlds, number, 1, kinds) for number in range(len(kinds))]


@pytest.fixture
def judge(worlds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stderr").touch()
    return Judge(worlds, tmp_path / "stderr", ["pose"])


POSE = "demo0000_00/pose/20.txt"
WHOLE = Case(0, "pose", "text", POSE, b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")


def test_the_judge_knows_a_clean_end(judge):
    assert judge(WHOLE) == ("done", "")
    outcome, detail = judge(Case(0, "pose", "text", POSE, b"1 2 3"))
    assert outcome == "failed"
    assert detail == "case/demo0000_00/pose/20.txt: pose of shape (1, 3), expected 4×4 camera-to-world"


def raises(error):
    def read(path):
        if path.match("*/demo0000_00/pose/20.txt"):
            raise error
        return np.eye(4)

    return read


@pytest.mark.parametrize(
    ("read", "outcome", "detail"),
    [
        (raises(IndexError("off by one")), "TRACEBACK", "IndexError: off by one"),
        (raises(MemoryError()), "MEMORY", "MemoryError"),
        (lambda _: np.eye(4), "WRONG", "('demo0000_00', 'frame_0') differs"),
    ],
)
def test_the_judge_finds_what_it_looks_for(judge, monkeypatch, read, outcome, detail):
    monkeypatch.setattr(clipfeat.data.scannet, "read_pose", read)
    if outcome != "WRONG":  # all other frames would differ too
        judge.expected = {"pose": {("demo0000_00", "frame_20"): None}}
    found, said = judge(WHOLE)
    assert found == outcome
    assert detail in said


def test_a_frame_that_is_missing_though_it_does_not_depend_on_the_file_is_wrong(judge, monkeypatch):
    real = clipfeat.data.scannet.read_pose

    def read(path):
        if path.match("*/demo0001_00/pose/0.txt"):
            raise FrameError("demo0000_00 frame 20: blamed on another")
        return real(path)

    monkeypatch.setattr(clipfeat.data.scannet, "read_pose", read)
    found, said = judge(WHOLE)
    assert found == "WRONG"
    assert "('demo0001_00', 'frame_0') is missing" in said


@pytest.mark.usefixtures("warm_children")
def test_a_child_that_hangs_or_crashes_is_followed_by_another(worlds):
    begin = time.monotonic()
    results = list(run_cases(worlds, [0, 1], 0, ["pose"], limit_s=0.0))
    assert [r.outcome for r in results] == ["HANG", "HANG"]
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("case/a/pose/20.txt: no pose; copy it again", ""),
        ("demo0000_00 frame 20: no pose", ""),
        ("a pose is damaged", "does not name the file"),
        ("20.txt: damaged\nand more", "not one line"),
        ("20.txt: '\x1b'", "holds what can't be printed"),
        ("20.txt: " + "x" * 1000, "1008 characters"),
    ],
)
def test_a_clear_line_names_the_file(message, why):
    assert unclear(message, ["20.txt"], POSE) == why


def test_which_frames_of_a_recording_a_change_reaches(worlds):
    whole = (worlds / "sens" / "demo0000_00.sens").read_bytes()
    second = 12 + 15 + 256 + 36 + 96 + sum(np.frombuffer(whole, "<u8", 2, 12 + 15 + 256 + 36 + 80).tolist())

    def reached(at, length=1):
        changed = whole[:at] + bytes(b ^ 1 for b in whole[at : at + length]) + whole[at + length :]
        return sorted(frame for _, frame in sens_frames(whole, changed, "s"))

    assert reached(20) == ["frame_0", "frame_1", "frame_2"]
    assert reached(second) == ["frame_1"]  # its pose
    assert reached(second + 80) == ["frame_1", "frame_2"]  # its length
    assert reached(second + 200) == ["frame_1"]
    assert reached(second - 1, 2) == ["frame_0", "frame_1"]
    assert sens_frames(whole, whole[: second + 100], "s") == {("s", "frame_1"), ("s", "frame_2")}
