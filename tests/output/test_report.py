import json
import re
from io import BytesIO

import numpy as np
import pytest
from chromium import Chromium
from PIL import Image

import clipfeat.output.report
from clipfeat.cli.commands import report_main
from clipfeat.errors import DataError
from clipfeat.output.report import MAX_PICTURES, open_run, try_report, write_report
from clipfeat.output.run_folder import RunFolder

CONFIG = {
    "data": {"name": "scannet", "root": "/data/scans"},
    "model": {"arch": "A"},
    "camera": {"depth_tolerance": 0.03, "depth_tolerance_rel": 0.01},
    "sampling": {"name": "depth", "num_points": 20000},
    "output": {"name": "npz", "dtype": "float32"},
    "seed": 0,
}
MODEL = {"arch": "ViT-X", "weights": "laion", "weights_sha256": "01ab", "head": "none", "head_sha256": None}
SUMMARY = {
    "run": {
        "frames": 3, "seconds": 61.5, "frames_per_second": 4.87, "seconds_a_stage": {"model": 40.0, "read": 10.0},
        "interrupted": False, "peak_memory_bytes": 1_500_000_000,
    },
    "machine": {"cpu": "A fast one", "gpu": None, "system": "Linux"},
    "versions": {"clipfeat": "7.7"},
}  # fmt: skip
SCRIPT = "<script>document.title='owned'</script>"


def done(scene_id, frame_id, visible=90):
    points = {"visible": visible, "occluded": 100 - visible}
    return {"scene_id": scene_id, "frame_id": frame_id, "status": "done", "points": points, "bytes": 2_000_000}


def failed(scene_id, frame_id, why):
    return {"scene_id": scene_id, "frame_id": frame_id, "status": "failed", "why": why}


def make_run(path, records, *, pictures=(), model=MODEL, summary=SUMMARY, config=CONFIG):
    """What a run leaves behind, feature files and pictures of no content that matters."""
    folder = RunFolder(path, config["output"]["name"], "float32")
    folder.claim(config, model, [], overwrite=False)
    for record in records:
        folder.append_record(record)
        if record["status"] == "done":
            feature_path = folder.feature_path(record["scene_id"], record["frame_id"])
            feature_path.parent.mkdir(exist_ok=True)
            feature_path.touch()
    rng = np.random.default_rng(0)
    for key in pictures:
        picture_path = folder.picture_path(*key)
        picture_path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 120, 3), np.uint8)).save(picture_path)
    if summary is not None:
        folder.write_summary(summary)
    return folder


@pytest.fixture
def small(tmp_path):
    """Two scenes, one of them low, a failure and a picture each."""
    records = [done("a", 0), done("a", 20), done("b", 0, visible=12), failed("b", 20, "/d/b/pose/20.txt: is lost")]
    return make_run(tmp_path / "out", records, pictures=[("a", 0), ("b", 0)])


@pytest.fixture
def large(tmp_path):
    """300 scenes, with names and failures that would break a careless page."""
    names = [f"scene{i:04d}_00" for i in range(297)] + ["<img src=x onerror=alert(1)>", "long_" * 40, "quote\"'&amp;"]
    records = [done(name, 0, visible=i % 101) for i, name in enumerate(names)]
    records += [failed(names[i], 20, f"/d/{names[i]}/pose/20.txt: row {i} is lost {SCRIPT}") for i in range(40)]
    records.append(failed(SCRIPT, None, f"{SCRIPT}: no folder color"))
    pictures = [(name, 0) for name in names[::4]] + [(names[297], 0)]
    return make_run(tmp_path / "large", records, pictures=pictures, model=MODEL | {"weights": "random"})


def text_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def images(text):
    return re.findall(r'<img src="([^"]*)" width="\d+" height="\d+" alt="([^"]*)"', text)


def test_it_tells_what_was_run_and_how_it_went(small):
    text = text_of(small)
    for said in (
        "<h1>clipfeat: out</h1>", "/data/scans", "ViT-X", "laion · 01ab", "A fast one · Linux", "clipfeat 7.7",
        "<dt>frames done</dt><dd>3</dd>", "<dt>frames failed</dt><dd>1</dd>", "<dt>all features</dt><dd>6.0 MB</dd>",
        "<dt>points visible</dt><dd>64.0%</dd>", "<dt>frames a second</dt><dd>4.87</dd>", "20,000 a frame",
        "<dt>peak memory</dt><dd>1.5 GB</dd>", "npz · float32",
        "b: only 12% of its points are visible", "1 × is lost", "in 1 scene, such as b frame 20:",
        "/d/b/pose/20.txt: is lost",
    ):  # fmt: skip
        assert said in text, said
    assert "weights=random" not in text
    assert "was stopped" not in text
    assert [alt for _, alt in images(text)] == ["a · frame 0", "b · frame 0"]
    assert "<details" not in text  # two scenes need no folding


def test_stages_and_scenes_have_their_bars(small):
    text = text_of(small)
    bars = re.findall(r'<tr( class="low")?><th scope="row">(\w+)</th>.*?width="([\d.]+)%".*?<td>([^<]+)</td>', text)
    assert ("", "model", "100.00", "40.0 s") in bars
    assert ("", "read", "25.00", "10.0 s") in bars
    assert bars.index(("", "model", "100.00", "40.0 s")) < bars.index(("", "read", "25.00", "10.0 s"))
    assert [bar for bar in bars if bar[1] in "ab"] == [
        (' class="low"', "b", "12.00", "12% low"), ("", "a", "90.00", "90%")
    ]  # fmt: skip


def test_random_weights_and_a_run_that_was_stopped_are_said_loudly(tmp_path):
    folder = make_run(tmp_path / "out", [done("a", 0)], model=MODEL | {"weights": "random"}, summary=None)
    text = text_of(folder)
    assert '<p class="loud"><b>weights=random</b>' in text
    assert '<p class="loud"><b>The run was stopped</b>' in text
    folder.write_summary(SUMMARY)
    assert "The run was stopped" not in text_of(folder)
    folder.write_summary(SUMMARY | {"run": {"interrupted": True}})
    assert "The run was stopped" in text_of(folder)


def test_of_a_mesh_no_frame_sees_much(tmp_path):
    config = CONFIG | {"sampling": {"name": "mesh", "num_points": None}}
    text = text_of(make_run(tmp_path / "out", [done("a", 0, visible=8)], config=config))
    assert "8%" in text
    assert 'class="low"' not in text
    assert "<h2>Warnings</h2>" not in text
    text = text_of(make_run(tmp_path / "less", [done("a", 0, visible=3)], config=config))
    assert "1 of 1 scenes are low: below 5%." in text


def test_many_scenes_are_the_worst_a_histogram_and_a_folded_table(large):
    text = text_of(large)
    assert "The 30 scenes with the lowest shares" in text
    assert 'class="histogram"' in text
    assert text.count("<details>") == 2  # warnings and scenes
    assert "<summary>301 scenes</summary>" in text
    assert len(text) < 5_000_000


def test_pictures_are_spread_over_the_scenes(large, tmp_path):
    shown = [alt.split(" · ")[0] for _, alt in images(text_of(large))]
    assert len(shown) == MAX_PICTURES
    numbers = [int(name[5:9]) for name in shown]
    assert numbers == sorted(set(numbers))
    assert min(numbers) < 15
    assert max(numbers) > 280
    few = make_run(tmp_path / "few", [done("a", 0), done("b", 0)], pictures=[(s, i) for s in "ab" for i in range(50)])
    shown = [alt for _, alt in images(text_of(few))]
    assert len(shown) == MAX_PICTURES
    assert [sum(alt.startswith(f"{scene} ·") for alt in shown) for scene in "ab"] == [12, 12]


def test_a_page_that_would_be_too_large_has_fewer_pictures_and_says_how_many(large, monkeypatch):
    whole = text_of(large)
    assert "would make this page larger" not in whole
    budget = len(whole.encode()) - 30_000
    monkeypatch.setattr(clipfeat.output.report, "MAX_BYTES", budget)
    text = text_of(large)
    assert len(text.encode()) <= budget
    left_out = MAX_PICTURES - len(images(text))
    assert left_out > 0
    assert f"{left_out} more pictures would make this page larger than " in text
    monkeypatch.setattr(clipfeat.output.report, "MAX_BYTES", 1)  # numbers and failures are there in any case
    text = text_of(large)
    assert images(text) == []
    assert f"{MAX_PICTURES} more pictures would make" in text


def test_the_largest_group_of_failures_is_first(small):
    for frame_id in (40, 60):
        small.append_record(failed("a", frame_id, f"/d/a/depth/{frame_id}.png: {frame_id} bits"))
    text = text_of(small)
    assert "2 × # bits" in text
    assert text.index("2 × # bits") < text.index("1 × is lost")


def test_no_text_of_a_run_becomes_a_tag(large):
    text = text_of(large)
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "<img src=x" not in text


def test_a_picture_that_cannot_be_read_is_told(small):
    small.picture_path("a", 0).write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    text = text_of(small)
    assert [alt for _, alt in images(text)] == ["b · frame 0"]
    assert "1 picture can&#x27;t be read." in text


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"run": 3, "machine": [], "versions": null}', b'{"run": {"seconds_a_stage": {"a": "x"}}}']
)
def test_a_damaged_summary_leaves_the_frames_record(small, content):
    (small.path / "summary.json").write_bytes(content)
    assert "<dt>frames done</dt><dd>3</dd>" in text_of(small)


def test_a_run_in_which_nothing_worked_has_a_report_too(tmp_path):
    text = text_of(make_run(tmp_path / "out", [failed("a", 0, "a/x: is lost")]))
    assert "1 × is lost" in text
    assert "<h2>Visible points</h2>" not in text
    assert "None." not in text


def test_an_error_in_it_is_one_warning(small, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(clipfeat.output.report, "page", broken)
    try_report(small)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["WARNING no report is written (ZeroDivisionError: oh)"]
    assert not (small.path / "report.html").exists()


def test_a_run_ends_with_its_report_unless_told_otherwise(run_cli, demo_root, tmp_path):
    out = tmp_path / "out"
    for name, more in (("out", []), ("without", ["report=false"])):
        code, err = run_cli(f"data.root={demo_root}", f"output_dir={name}", "frames_per_scene=1", *more)
        assert code == 0, err
        assert ("report: out/report.html" in err) == (not more)
    assert not (tmp_path / "without" / "report.html").exists()
    assert "<b>weights=random</b>" in (out / "report.html").read_text(encoding="utf-8")
    (out / "report.html").unlink()
    for more, there in ((["report=false"], False), ([], True)):  # the same run, also with all frames done
        code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "frames_per_scene=1", *more)
        assert code == 0, err
        assert (out / "report.html").is_file() == there


def test_overwrite_by_another_run_leaves_no_old_report(small):
    write_report(small)
    small.claim(CONFIG | {"seed": 1}, MODEL, [], overwrite=True)
    assert not (small.path / "report.html").exists()


def test_the_command_writes_the_report_of_any_run(small, run_main, capsys):
    code, err = run_main(report_main, small.path)
    assert (code, err) == (0, "")
    assert (small.path / "report.html").is_file()
    code, err = run_main(report_main, small.path / "nowhere")
    assert code == 1
    assert f"clipfeat: {small.path}/nowhere: holds no config.yaml of a run; give the output_dir of" in err
    assert not (small.path / "nowhere").exists()


def test_a_folder_of_another_command_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps({"store": "out", "format": "esam"}))
    with pytest.raises(DataError, match=r"config.yaml: is of no run of clipfeat-extract; give the output_dir of one"):
        open_run(tmp_path)


def test_a_browser_shows_all_of_it_and_has_nothing_to_complain_about(small, large):
    with Chromium() as browser:
        for folder, pictures in ((small, 2), (large, MAX_PICTURES)):
            path = write_report(folder)
            for width in (1280, 390):
                seen = browser.look(path, width)
                assert seen.title == f"clipfeat: {folder.path.name}"
                assert seen.images == pictures
                assert seen.broken == []
                assert seen.complaints == []
                assert seen.too_wide == []
                assert seen.scroll_width <= width
                assert "Seconds a stage" in seen.text


def test_the_page_is_light_or_dark_as_the_reader_likes_it(small):
    path = write_report(small)
    with Chromium() as browser:
        for dark in (False, True):
            corner = Image.open(BytesIO(browser.look(path, 390, dark=dark).screenshot)).convert("L").getpixel((2, 2))
            assert (corner < 50) == dark
            assert (corner > 200) != dark


def test_the_browser_would_see_what_is_wrong(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<body><img src='data:image/png;base64,AAAA' alt='gone'><div style='width: 2000px'>wide</div>"
        "<link rel='stylesheet' href='https://example.invalid/x.css'><script>console.error('oh'); document.title = 'x'"
        "</script></body>"
    )
    with Chromium() as browser:
        seen = browser.look(path, 390)
    assert (seen.broken, seen.title) == (["gone"], "x")
    assert len(seen.too_wide) == 1
    assert any("asked for https://example.invalid" in said for said in seen.complaints)
    assert any("oh" in said for said in seen.complaints)
