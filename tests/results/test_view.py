"""The viewer: what is sent of a scene, what the page says, and the page itself in a headless browser."""

import os
import re
import signal
import subprocess
import sys
import time
from io import BytesIO

import numpy as np
import pytest
from chromium import Chromium
from conftest import CHECKOUT
from PIL import Image
from planted import NAMES, PlantedModel, PlantedTexts

import clipfeat.results.view
from clipfeat.cli.commands import view_main
from clipfeat.mapping.scene_colors import pca_rgb
from clipfeat.output.fused import read_fused
from clipfeat.output.ply import UNSEEN
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.results.shown_scene import PCA, SCAN, ShownCamera, find_fused, load_scene, overview, shown_cameras, up_of
from clipfeat.results.view import SCORE, Viewer

SCENES = ["demo0000_00", "demo0001_00"]


@pytest.fixture(scope="module")
def run(demo_root, tmp_path_factory):
    """A run with planted features that was fused onto the meshes, into ``fused``."""
    folder = tmp_path_factory.mktemp("planted") / "out"
    overrides = ["vis=none", "report=false", "output=grid"]
    clipfeat.extract(demo_root, folder, overrides=overrides, model=PlantedModel(demo_root))
    labels = f"{demo_root}/{{scene}}/{{scene}}_vh_clean_2.labels.ply"
    fuse(FuseConfig(str(folder), labels_file=labels, formats=[]))
    return folder


@pytest.fixture
def open_viewer(run):
    pytest.importorskip("viser")
    opened = []

    def make(path=run, **about):
        opened.append(Viewer(path, port=0, texts=PlantedTexts(), **about))
        return opened[-1]

    yield make
    for viewer in opened:
        viewer.close()


def test_a_scene_has_the_colours_of_its_ply_and_of_the_scan(run):
    scene, fused = (
        load_scene(run / "fused" / f"{SCENES[0]}.npz", 99_999),
        read_fused(run / "fused" / f"{SCENES[0]}.npz"),
    )
    np.testing.assert_array_equal(scene.colors[PCA], pca_rgb(fused.pts_feat, fused.seen))
    np.testing.assert_array_equal(scene.colors[SCAN], fused.points.attributes["rgb"])
    assert (scene.scene_id, scene.total, scene.frames) == (SCENES[0], len(fused.views), [0, 20, 40, 60])


def test_of_too_many_points_a_random_choice_is_shown(run, open_viewer, monkeypatch):
    fused = read_fused(run / "fused" / f"{SCENES[0]}.npz")
    scene = load_scene(run / "fused" / f"{SCENES[0]}.npz", most=500)
    assert len(scene.xyz) == len(scene.pts_feat) == len(scene.seen) == len(scene.colors[SCAN]) == 500
    assert scene.total == len(fused.views)
    rows = {tuple(xyz): row for row, xyz in enumerate(fused.points.xyz.astype(np.float32).tolist())}
    chosen = [rows[tuple(xyz)] for xyz in scene.xyz.tolist()]
    assert max(chosen) > 0.9 * scene.total
    np.testing.assert_array_equal(scene.pts_feat, fused.pts_feat[chosen])
    monkeypatch.setattr(clipfeat.results.view, "MAX_POINTS", 500)
    assert f"{scene.total:,} points, " in open_viewer().facts
    assert "; 500 of them are shown" in open_viewer().facts


def test_cameras_stand_and_look_as_the_frames_were_taken(run):
    """What a frustum's axes and angles say must bring the picture's edges to where the camera's K has them."""
    store = FeatureStore(run)
    for camera in shown_cameras(store, SCENES[0], [0, 40]):
        meta = store.meta(SCENES[0], camera.frame_id)
        pose, k, size = np.array(meta["cam_to_world"]), np.array(meta["camera"]["intrinsics"]), meta["camera"]
        w, x, y, z = camera.wxyz
        forward = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
        np.testing.assert_allclose(forward, pose[:3, 2], atol=1e-6)
        np.testing.assert_allclose(camera.position, pose[:3, 3])
        assert np.tan(camera.fov / 2) == pytest.approx(size["height"] / 2 / k[1, 1])
        assert camera.aspect == size["width"] / size["height"]


def held(pose):
    """A camera of a rotation."""
    from scipy.spatial.transform import Rotation

    return ShownCamera(0, np.zeros(3), np.roll(Rotation.from_matrix(pose).as_quat(), 1), 1.0, 1.0)


def test_up_is_where_the_cameras_have_it():
    level = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # looks along y, its own y is down: z is up
    tilt = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    np.testing.assert_array_equal(up_of([held(level), held(tilt @ level)]), [0, 0, 1])
    np.testing.assert_array_equal(up_of([held(np.eye(3))]), [0, -1, 0])
    askew = np.array([[1, 0, 0], [0, np.cos(0.8), -np.sin(0.8)], [0, np.sin(0.8), np.cos(0.8)]])
    np.testing.assert_allclose(up_of([held(askew)]), [0, -np.cos(0.8), -np.sin(0.8)])
    np.testing.assert_array_equal(up_of([]), [0, 0, 1])


@pytest.mark.parametrize("up", [[0, 0, 1], [0, -1, 0], [0.6, 0.0, -0.8]])
def test_a_scene_is_looked_at_from_above_and_from_outside(up):
    xyz = np.random.default_rng(0).uniform([0, 0, 0], [4, 6, 3], (1000, 3)).astype(np.float32)
    position, target = overview(xyz, np.array(up, float))
    np.testing.assert_allclose(target, [2, 3, 1.5], atol=0.2)
    away = position - target
    assert np.linalg.norm(away) > np.linalg.norm(xyz - target, axis=1).max()
    assert 0.5 < away @ up / np.linalg.norm(away) < 0.95


def test_a_query_colours_what_it_asks_for(open_viewer):
    viewer = open_viewer()
    labels = read_fused(viewer.path_of(SCENES[0])).points.attributes["label"]
    seen = viewer.scene.seen
    before = viewer.cloud.colors.copy()
    np.testing.assert_array_equal(before, viewer.scene.colors[PCA][seen])
    common = np.bincount(labels[seen]).argmax()
    viewer.ask(f"a {NAMES[common]}")
    after = viewer.cloud.colors
    assert (after != before).any(axis=1).mean() > 0.9
    brightness = after.astype(int).sum(axis=1)
    own = labels[seen] == common
    assert np.median(brightness[own]) > np.median(brightness[~own]) + 100
    assert re.match(rf".*<b>a {NAMES[common]}</b>: softmax against object, .* \(dark, the mean\) to ", viewer.answer)
    viewer.choose(color=SCAN)
    np.testing.assert_array_equal(viewer.cloud.colors, viewer.scene.colors[SCAN][seen])
    viewer.choose(color=SCORE, unseen=True)
    assert len(viewer.cloud.points) == len(viewer.scene.xyz)
    assert (viewer.cloud.colors[~seen] == UNSEEN).all()
    viewer.choose(scene=SCENES[1], unseen=False)
    assert viewer.scene.scene_id == SCENES[1]
    assert viewer.cloud.colors.shape == (viewer.scene.seen.sum(), 3)
    assert (viewer.cloud.colors != viewer.scene.colors[PCA][viewer.scene.seen]).any()  # asked for there too
    assert len(viewer.frusta) == 4
    viewer.ask("  ")
    assert ">Type what to look for, such as: a chair<" in viewer.answer


def test_what_can_not_be_asked_is_told_on_the_page(run, tmp_path, open_viewer, monkeypatch):
    from clipfeat.output.fused import write_fused

    fused = read_fused(run / "fused" / f"{SCENES[0]}.npz")
    fused.meta["model"] |= {"head": "none", "weights": "random"}
    write_fused(tmp_path / "a.npz", fused)
    viewer = open_viewer(tmp_path)
    assert "These features are of <code>model/head=none</code>, which texts can't be compared to." in viewer.answer
    assert "<b>weights=random</b>: the arithmetic is right, the features mean nothing." in viewer.facts
    assert "No cameras: " in viewer.facts  # there is no config.yaml that says which run it was
    viewer.ask("a chair")
    assert "features" in viewer.answer
    assert "head=none, which texts can&#x27;t be compared to" in viewer.answer


def test_fused_scenes_are_found_where_a_user_may_point_to(run, tmp_path, run_main):
    fused = run / "fused"
    assert find_fused(run) == find_fused(fused) == fused
    assert find_fused(fused / f"{SCENES[1]}.npz") == fused / f"{SCENES[1]}.npz"
    code, err = run_main(view_main, tmp_path)
    assert code == 1
    assert f"clipfeat: {tmp_path}: holds no fused scene; make some by clipfeat-fuse store=…, and give their" in err


def test_a_port_that_can_not_be_is_said_in_a_line(run, run_main):
    pytest.importorskip("viser")
    code, err = run_main(view_main, run, "--port", "99999")
    assert (code, err) == (1, "clipfeat: --port 99999: expected 0 (any that is free) to 65535\n")


def test_a_missing_extra_says_what_to_install(run, run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    code, err = run_main(view_main, run)
    assert code == 1
    assert err == 'clipfeat: clipfeat-view needs the package viser: pip install "clipfeat[view]"\n'


def test_the_command_says_where_and_ends_on_ctrl_c(run):
    pytest.importorskip("viser")
    program = [
        sys.executable,
        "-c",
        "from clipfeat.cli.commands import view_main; view_main()",
        str(run),
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        said = command.stdout.readline()
        assert re.fullmatch(rf"clipfeat: {run} is shown at http://127\.0\.0\.1:\d+ until Ctrl-C\n", said)
        command.send_signal(signal.SIGINT)
        rest, _ = command.communicate(timeout=30)
        assert (rest, command.returncode) == ("clipfeat: the viewer has ended\n", 0)
    finally:
        command.kill()


def colorful(screenshot):
    """Share of a picture's pixels that are neither white nor grey, left of the controls."""
    rgb = np.asarray(Image.open(BytesIO(screenshot)).convert("RGB")).astype(int)[:, :300]
    return (np.ptp(rgb, axis=2) > 40).mean(), rgb


def wait_for(what, seconds=20):
    """Until it is true, or the time is up; whether it is."""
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.2)
    return what()


def test_no_text_becomes_markup(run, tmp_path, open_viewer):
    """Of a file, of an error, and typed: all of it harmless."""
    from clipfeat.output.fused import write_fused

    markup = "<b>bold</b> <img alt=picture> ![picture](a.png) {1 + 1} &amp; **stars**"
    fused = read_fused(run / "fused" / f"{SCENES[0]}.npz")
    fused.meta["scene_id"] = fused.meta["model"]["weights"] = markup
    fused.meta["frames"] = [0, markup]
    write_fused(tmp_path / "a.npz", fused)
    viewer = open_viewer(tmp_path / "a.npz")
    with Chromium(webgl=True) as browser:
        page = browser.visit(viewer.url, 700, 450)
        shown = lambda: page.run("document.body.innerText")  # noqa: E731
        assert wait_for(lambda: f"\n{markup}\n" in shown())
        assert f"head text, weights={markup}" in shown()
        viewer.ask(f"a floor {markup}")
        assert wait_for(lambda: f"a floor {markup}" in shown())
        assert "picture" not in page.run("[...document.images].map(image => image.alt)")
        assert page.run("[...document.querySelectorAll('b')].map(b => b.innerText)") == [markup, f"a floor {markup}"]


def test_a_browser_draws_the_points_and_a_query_changes_their_colours(open_viewer):
    viewer = open_viewer()
    with Chromium(webgl=True) as browser:
        page = browser.visit(viewer.url, 700, 450)
        assert wait_for(lambda: "weights=planted" in page.run("document.body.innerText"))
        assert len(viewer.clients) == 1
        assert wait_for(lambda: colorful(page.screenshot())[0] > 0.02)
        _, before = colorful(page.screenshot())
        page.run("document.querySelector('form input').focus()")
        page.type("a floor")
        assert wait_for(lambda: "a floor: softmax" in page.run("document.body.innerText"))
        assert wait_for(lambda: (np.abs(colorful(page.screenshot())[1] - before) > 40).any(axis=2).mean() > 0.02)
        own = "THREE.Clock: This module has been deprecated"  # of the viewer's own page
        assert [said for said in page.complaints() if own not in said] == []
