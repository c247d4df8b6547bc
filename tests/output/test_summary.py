import json
import time

import numpy as np
import pytest
from record_twin import totals_of

from clipfeat.output.summary import (
    Stopwatch,
    points_said,
    reason_of,
    status_counts,
    summarize,
    summary_table,
    warnings_of,
)

ABOUT = {"model": {"weights": "random", "weights_sha256": "0", "head": "none"}, "sampling": "depth"}


def record(scene, frame, visible, hidden):
    points = {"visible": visible, "occluded": hidden, "out_of_view": 0, "behind": 0, "no_depth": 0}
    return {"scene_id": scene, "frame_id": frame, "status": "done", "points": points, "bytes": 1000}


def test_points_are_counted_by_status():
    counts = status_counts(np.array([0, 0, 1, 2, 4, 4, 4], np.uint8))
    assert counts == {"visible": 2, "occluded": 1, "out_of_view": 1, "behind": 0, "no_depth": 3, "masked": 0}


def test_the_summary_adds_up_and_is_json(tmp_path):
    records = [record("a", 0, 90, 10), record("a", 1, 70, 30), record("b", 0, 10, 90)]
    records.append({"scene_id": "b", "frame_id": 1, "status": "failed", "why": "b/pose/1.txt: lost"})
    stopwatch = Stopwatch()
    with stopwatch.stage("model"):
        time.sleep(0.02)
    summary = summarize(totals_of(tmp_path, records), stopwatch, 3, ABOUT, interrupted=False)
    json.dumps(summary, allow_nan=False)
    assert (summary["frames"], summary["failed"], summary["bytes"]) == (3, 1, 3000)
    assert summary["visible_share"] == {"a": 0.8, "b": 0.1}
    assert summary["points"]["occluded"] == 130
    assert summary["run"]["seconds_a_stage"]["model"] >= 0.02
    assert summary["run"]["peak_memory_bytes"] > 10_000_000
    warnings = warnings_of(summary)
    assert any(w.startswith("b: only 10% of its points are visible") for w in warnings)
    assert not any(w.startswith("a:") for w in warnings)
    assert any("b frame 1: b/pose/1.txt: lost" in w for w in warnings)
    table = summary_table(summary)
    assert "3 done (3 now), 1 failed" in table
    assert "56.7 % visible, 43.3 % occluded" in table
    assert "random" in table


def test_points_that_frames_measured_themselves_are_not_called_visible(tmp_path):
    summary = summarize(totals_of(tmp_path, [record("a", 0, 1234, 0)]), Stopwatch(), 1, ABOUT, interrupted=False)
    assert "1,234, of the frames' own depth" in summary_table(summary)
    assert points_said({"visible": 1234}, "depth") == "1,234 points"
    assert points_said({"visible": 900, "masked": 100}, "depth") == "90% of 1,000 points visible"
    assert points_said({"visible": 1234}, "mesh") == "100% of 1,234 points visible"


def test_a_run_without_frames_has_a_summary_too(tmp_path):
    summary = summarize(totals_of(tmp_path, []), Stopwatch(), 0, ABOUT, interrupted=True)
    assert summary["frames"] == 0
    assert summary["run"]["interrupted"]
    assert "0 done" in summary_table(summary)


def test_many_failures_are_cut_short_on_the_terminal_only(tmp_path):
    failures = [{"scene_id": "s", "frame_id": i, "status": "failed", "why": "x"} for i in range(9)]
    summary = summarize(totals_of(tmp_path, failures), Stopwatch(), 0, ABOUT, interrupted=False)
    assert len(summary["failures"]) == 9
    assert warnings_of(summary)[-1] == "… and 4 more failed frames, all listed in frames.jsonl"


def test_scenes_that_could_not_be_read_are_counted_apart(tmp_path):
    left_out = {"scene_id": "s", "frame_id": None, "status": "failed", "why": "s.sens: empty file"}
    summary = summarize(totals_of(tmp_path, [record("a", 0, 9, 1), left_out]), Stopwatch(), 1, ABOUT, interrupted=False)
    assert (summary["frames"], summary["failed"], summary["scenes_left_out"]) == (1, 0, 1)
    assert warnings_of(summary) == ["failed: s: s.sens: empty file"]
    assert "1 done (1 now), 0 failed, 1 scenes left out" in summary_table(summary)


def test_frames_without_depth_are_told(tmp_path):
    record_without = record("a", 0, 90, 10) | {"depth": False}
    summary = summarize(
        totals_of(tmp_path, [record_without, record("a", 1, 9, 1)]), Stopwatch(), 2, ABOUT, interrupted=False
    )
    assert summary["frames_without_depth"] == 1
    assert any(w.startswith("1 of 2 frames have no depth file") for w in warnings_of(summary))
    summary = summarize(totals_of(tmp_path, [record("a", 1, 9, 1)]), Stopwatch(), 1, ABOUT, interrupted=False)
    assert not warnings_of(summary)


def test_failures_are_grouped_by_reason():
    whys = [
        ("s1", "/d/s1/pose/20.txt: 3 values, expected 16"), ("s22", "/my scans/s22/pose/9.txt: 15 values, expected 16"),
        ("s1", "s1: 3 values, expected 1e-6"), ("7", "7.sens, frame 7: -0.3 values, expected 2.5"),
    ]  # fmt: skip
    assert {reason_of({"scene_id": s, "frame_id": 0, "why": why}) for s, why in whys} == {"# values, expected #"}
    why = "pose is lost; see /d/s1/log.txt of s1"
    assert reason_of({"scene_id": "s1", "frame_id": 0, "why": why}) == "pose is lost; see … of …"


def test_loading_is_no_part_of_the_speed(tmp_path):
    stopwatch = Stopwatch()
    stopwatch.start -= 100
    stopwatch.begin()
    stopwatch.start -= 10
    run = summarize(totals_of(tmp_path, [record("a", 0, 9, 1)]), stopwatch, 20, ABOUT, interrupted=False)["run"]
    assert run["seconds_before_frames"] == pytest.approx(100, abs=1)
    assert run["seconds"] == pytest.approx(110, abs=1)
    assert run["frames_per_second"] == pytest.approx(2, rel=0.1)
