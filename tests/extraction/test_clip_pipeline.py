"""The end-to-end test that the seed names: files readable, shapes right, points on their pixels."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from twins import slow_sample

from clipfeat.camera.projection import build_uv_index, world_to_cam
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.extraction import local
from clipfeat.model.encoder import load_encoder
from clipfeat.model.preprocess import Preprocess
from clipfeat.output.files import read_features


@pytest.fixture
def run(run_cli, demo_root, tmp_path):
    """Extracts the demo scans and returns the output folder."""

    def extract(name="out", *overrides, **kwargs):
        code, err = run_cli(f"data.root={demo_root}", f"output_dir={name}", *overrides, **kwargs)
        assert code == 0, err
        return tmp_path / name

    return extract


def feature_files(folder):
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.glob("*/frame_*")}


@pytest.mark.parametrize("output", ["npz", "h5"])
@pytest.mark.parametrize(("head", "channels"), [("none", 64), ("pixelshuffle", 16), ("proj128", 128), ("text", 32)])
def test_every_frame_has_a_readable_file_of_the_right_shape(run, output, head, channels):
    out = run("out", f"output={output}", f"model/head={head}")
    files = feature_files(out)
    assert sorted(files) == sorted(f"demo{s:04d}_00/frame_{i}" for s in (0, 1) for i in (0, 20, 40, 60))
    for path in files.values():
        features, meta = read_features(path)
        assert features.pts_feat.shape == (200, channels)
        assert features.pts_feat.dtype == np.float32
        assert np.isfinite(features.pts_feat).all()
        assert features.pts_feat.std(0).max() > 0
        assert features.uv_idx.shape == (200, 2)
        assert features.clip_global.shape == (64,)
        assert features.conf_2d.shape == (200,)
        assert features.conf_2d.min() > 0.99
        assert meta["model"]["weights"] == "random"
        assert meta["model"]["head"] == head
    assert (out / "head_proj128.safetensors").is_file() == (head == "proj128")


def test_points_lie_on_their_pixels_and_features_are_the_map_s_there(run, demo_root, tiny_arch):
    """Everything recomputed from the scans by slow and obvious means."""
    out = run("out", "model.resize_mode=letterbox", "model/head=pixelshuffle")
    dataset = ScanNetDataset(demo_root)
    encoder = load_encoder(tiny_arch, None)
    preprocess = Preprocess(224, "letterbox", encoder.mean, encoder.std)
    for path in feature_files(out).values():
        features, meta = read_features(path)
        frame = dataset.load(meta["scene_id"], meta["frame_id"])
        v, u = np.divmod(features.pts_idx, frame.depth_m.shape[1])
        expected_uv = np.stack(((u + 0.5) * 216 / 128 - 0.5, (v + 0.5) * 162 / 96 - 0.5), 1)
        assert np.abs(features.uv_idx - expected_uv).max() < 0.01
        again = build_uv_index(features.xyz, frame.color_camera.intrinsics, world_to_cam(frame.cam_to_world)).uv
        assert np.abs(features.uv_idx - again).max() < 0.01

        pixels = torch.from_numpy(preprocess.pixels(frame.image).copy())[None]
        tokens = encoder.tokens(preprocess.normalize(pixels))[0].detach().numpy().astype(np.float64)
        shuffled = tokens.reshape(16, 2, 2, 14, 14).transpose(0, 3, 1, 4, 2).reshape(16, 28, 28)
        # 216 × 162 in a 224² letterbox: 224 × 168 with 28 rows above; a cell is 8 pixels.
        position = np.stack(
            (((expected_uv[:, 0] + 0.5) * 224 / 216) / 8 - 0.5, ((expected_uv[:, 1] + 0.5) * 168 / 162 + 28) / 8 - 0.5),
            1,
        )
        np.testing.assert_allclose(features.pts_feat, slow_sample(shuffled, position), atol=1e-4)


def test_with_windows_points_take_the_mean_of_the_windows_that_see_them(run, demo_root, tiny_arch):
    """A map of 28 × 21 cells out of 6 windows, recomputed a window at a time."""
    out = run("out", "model.input_size=336", "model.window=224", "model/head=text", "model.attention=naclip",
              "vis=pca", "frames_per_scene=1", small=False)  # fmt: skip
    dataset, encoder = ScanNetDataset(demo_root), load_encoder(tiny_arch, None, attention="naclip")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))
    for path in feature_files(out).values():
        features, meta = read_features(path)
        frame = dataset.load(meta["scene_id"], meta["frame_id"])
        resized = Image.fromarray(frame.image).resize((448, 336), Image.Resampling.BICUBIC)
        pixels = (torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255 - mean) / std
        total, seen = np.zeros((32, 21, 28)), np.zeros((21, 28))
        for top in (0, 7):
            for left in (0, 7, 14):
                window = pixels[None, :, top * 16 : top * 16 + 224, left * 16 : left * 16 + 224]
                with torch.no_grad():
                    tokens = encoder.tokens(window)[0].numpy().astype(np.float64)
                projected = np.einsum("dhw,de->ehw", tokens, encoder.visual.proj.numpy())
                total[:, top : top + 14, left : left + 14] += projected
                seen[top : top + 14, left : left + 14] += 1
        position = (features.uv_idx + 0.5) * [28 / 216, 21 / 162] - 0.5
        expected = slow_sample(total / seen, position)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(features.pts_feat, expected, atol=1e-5)
        assert (meta["model"]["window"], meta["model"]["stride"], meta["model"]["resize_mode"]) == (
            224,
            112,
            "shortest",
        )
        assert np.asarray(Image.open(path.with_name(f"vis_{meta['frame_id']}.png"))).std() > 20


def test_two_runs_give_the_same_arrays_whatever_the_batch_size_and_the_workers(run):
    first = feature_files(run("first", "batch_size=8", "num_workers=2"))
    second = feature_files(run("second", "batch_size=8", "num_workers=1"))
    third = feature_files(run("third", "batch_size=3", "num_workers=4"))
    other = feature_files(run("other", "seed=1"))
    assert first.keys() == second.keys() == third.keys()
    for name in first:
        a, b, c = (read_features(files[name])[0] for files in (first, second, third))
        for key in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx"):
            np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
        np.testing.assert_array_equal(a.pts_idx, c.pts_idx)
        np.testing.assert_allclose(a.pts_feat, c.pts_feat, atol=1e-5)
    name = next(iter(first))
    assert not np.array_equal(read_features(first[name])[0].pts_idx, read_features(other[name])[0].pts_idx)


def test_a_centre_crop_leaves_out_what_the_network_does_not_see(run):
    out = run("out", "model.resize_mode=crop", "sampling.num_points=null")
    for path in feature_files(out).values():
        features, meta = read_features(path)
        # 216 × 162: resized to 298 × 224, of which 37 to 261 are seen.
        scale = 216 / 298
        assert features.uv_idx[:, 0].min() >= 37 * scale - 0.5
        assert features.uv_idx[:, 0].max() <= 261 * scale - 0.5
        assert meta["points"]["out_of_view"] > 1000
        assert meta["points"]["visible"] == len(features.pts_idx)


def test_the_record_of_the_run(run):
    out = run("out")
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all(line["status"] == "done" and line["points"]["visible"] == 200 for line in lines)
    assert {"read", "project", "preprocess", "sample", "write"} <= set(lines[0]["seconds"])
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["failed"]) == (8, 0)
    assert summary["model"]["weights"] == "random"
    assert summary["versions"]["torch"]
    assert summary["bytes"] == sum(p.stat().st_size for p in feature_files(out).values())
    assert "num_points: 200" in (out / "config.yaml").read_text()


@pytest.mark.parametrize("kind", ["tsne", "pca", "heatmap"])
def test_a_picture_a_frame(run, kind):
    out = run("out", f"vis={kind}", "frames_per_scene=2", small=False)
    pictures = sorted(p.relative_to(out).as_posix() for p in out.glob("*/vis_*.png"))
    assert pictures == [f"demo{s:04d}_00/vis_{i}.png" for s in (0, 1) for i in (0, 20)]
    for name in pictures:
        picture = np.asarray(Image.open(out / name))
        assert picture.shape[1] >= 1000
        assert picture.std() > 20


def test_the_same_command_again_does_only_what_is_missing(run, run_cli, demo_root):
    out = run()
    files = feature_files(out)
    gone = files.pop("demo0001_00/frame_20")
    before = gone.read_bytes()
    gone.unlink()
    times = {name: path.stat().st_mtime_ns for name, path in files.items()}
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out")
    assert code == 0
    assert "1 frames to do, 7 done already" in err
    assert {name: path.stat().st_mtime_ns for name, path in files.items()} == times
    np.testing.assert_array_equal(
        np.load(gone, allow_pickle=False)["pts_idx"], np.load(__import__("io").BytesIO(before))["pts_idx"]
    )
    assert json.loads((out / "summary.json").read_text())["frames"] == 8
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "seed=5")
    assert code == 1
    assert "holds results of another configuration, which differs in seed: 0 there, 5 now" in err
    assert "Choose another folder, or resume=overwrite to do everything again" in err


def contents(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("word", ["overwrite", "false"])
def test_overwrite_leaves_what_a_run_into_an_empty_folder_writes(run, word):
    Path("one.txt").write_text("demo0001_00\n")
    run("out", "model/head=proj128", "output=h5")
    alone = run("alone", "seed=5", "scenes_file=one.txt")
    over = run("out", "seed=5", "scenes_file=one.txt", f"resume={word}")
    assert contents(over).keys() == contents(alone).keys()
    assert len(json.loads((over / "summary.json").read_text())["visible_share"]) == 1
    for name, path in feature_files(alone).items():
        assert feature_files(over)[name].read_bytes() == path.read_bytes()


def test_overwrite_of_the_same_run_does_every_frame_again(run, run_cli, demo_root):
    out = run()
    before = {name: (path.stat().st_ino, path.read_bytes()) for name, path in feature_files(out).items()}
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "resume=overwrite")
    assert code == 0
    assert "8 frames to do, 0 done already" in err
    assert {name: path.read_bytes() for name, path in feature_files(out).items()} == {
        name: data for name, (_, data) in before.items()
    }
    assert json.loads((out / "summary.json").read_text())["run"]["frames"] == 8


def test_other_weights_under_the_same_path_are_refused_or_overwrite_everything(run, run_cli, demo_root, tiny_arch):
    import open_clip

    def save(seed):
        torch.manual_seed(seed)
        torch.save(open_clip.create_model(tiny_arch).state_dict(), "weights.pt")

    base = ["data.root=" + str(demo_root), "output_dir=out", f"model.arch={tiny_arch}", "model.pretrained=weights.pt"]
    base += ["sampling.num_points=200", "vis=none"]
    save(0)
    code, err = run_cli(*base, "frames_per_scene=3", tiny=False, small=False)
    assert code == 0, err
    out = Path("out")
    model = json.loads((out / "model.json").read_text())
    assert model["weights"] == "weights.pt"
    save(1)
    code, err = run_cli(*base, tiny=False, small=False)
    assert code == 1
    assert "holds features of another model, which differs in weights_sha256" in err
    assert len(feature_files(out)) == 6
    # The first scene alone is done again; nothing of the other scene's old features may stay.
    Path("one.txt").write_text("demo0000_00\n")
    code, err = run_cli(*base, "scenes_file=one.txt", "resume=overwrite", tiny=False, small=False)
    assert code == 0, err
    assert sorted(feature_files(out)) == [f"demo0000_00/frame_{i}" for i in (0, 20, 40, 60)]
    assert json.loads((out / "model.json").read_text())["weights_sha256"] != model["weights_sha256"]


def test_a_run_that_was_killed_before_it_could_sum_up_is_summed_up(run, run_cli, demo_root):
    out = run()
    whole = json.loads((out / "summary.json").read_text())
    (out / "summary.json").unlink()
    lines = (out / "frames.jsonl").read_text().splitlines()
    (out / "frames.jsonl").write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out")
    assert code == 0
    assert "all 8 frames are done already" in err
    mended = json.loads((out / "summary.json").read_text())
    for key in ("frames", "failed", "points", "bytes", "visible_share", "model", "frames_without_depth"):
        assert mended[key] == whole[key]
    assert mended["run"]["interrupted"] is False


@pytest.fixture
def no_model(monkeypatch):
    """Whoever loads a model from now on fails."""

    def refuse(*_arguments, **_options):
        raise AssertionError("a model was loaded")

    return lambda: monkeypatch.setattr(local, "build_model", refuse)


@pytest.mark.parametrize("output", ["npz", "grid", "h5_scene"])
def test_pictures_that_were_not_drawn_are_drawn_without_the_model_and_the_rest_is_left(
    run, run_cli, demo_root, no_model, output
):
    base = ["vis=pca", "sampling.num_points=200", "frames_per_scene=2", f"output={output}"]
    out = run("out", *base, small=False)
    no_model()
    whole = {name: path.read_bytes() for name, path in contents(out).items() if name.endswith("png")}
    (out / "demo0000_00" / "vis_20.png").unlink()
    times = {name: path.stat().st_mtime_ns for name, path in contents(out).items() if name.startswith("demo0001")}
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", *base, small=False)
    assert code == 0
    assert "all 4 frames are done already" in err
    assert "2 pictures to draw, from the files of frames that are done" in err
    assert {name: path.read_bytes() for name, path in contents(out).items() if name.endswith("png")} == whole
    assert {name: contents(out)[name].stat().st_mtime_ns for name in times} == times


def test_pictures_are_added_to_a_finished_run_without_the_model(run, run_cli, demo_root, no_model):
    base = ["sampling.num_points=200", "frames_per_scene=2"]
    whole = run("whole", *base, "vis=pca", small=False)
    out = run("out", *base, "vis=none", small=False)
    times = {name: path.stat().st_mtime_ns for name, path in contents(out).items() if name.endswith("npz")}
    no_model()
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", *base, "vis=pca", small=False)
    assert code == 0
    assert "4 pictures to draw" in err
    pictures = {name: path.read_bytes() for name, path in contents(whole).items() if name.endswith("png")}
    assert {name: path.read_bytes() for name, path in contents(out).items() if name.endswith("png")} == pictures
    assert {name: contents(out)[name].stat().st_mtime_ns for name in times} == times


def test_a_scene_that_was_stopped_in_goes_on_with_the_frames_it_lacks(run, run_cli, demo_root):
    """Its pictures share their colours, and are those of a run that nobody stopped."""
    base = ["vis=pca", "sampling.num_points=200"]
    whole = run("whole", *base, small=False)
    out = run("out", *base, small=False)
    for name in ("frame_40.npz", "frame_60.npz", *(f"vis_{i}.png" for i in (0, 20, 40, 60))):
        (out / "demo0000_00" / name).unlink()
    kept = (out / "demo0000_00" / "frame_0.npz").stat().st_mtime_ns
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", *base, small=False)
    assert code == 0
    assert "2 frames to do, 6 done already" in err
    assert "8 done (2 now)" in err
    assert (out / "demo0000_00" / "frame_0.npz").stat().st_mtime_ns == kept
    for name, path in contents(whole).items():
        if name.endswith(("png", "npz")):
            assert contents(out)[name].read_bytes() == path.read_bytes(), name


def test_a_frame_that_fails_does_not_make_its_scene_be_done_again(run_cli, scans, tmp_path):
    pose = scans / "demo0000_00" / "pose" / "20.txt"
    good = pose.read_text()
    pose.write_text("nonsense")
    base = [f"data.root={scans}", "output_dir=out", "vis=pca", "sampling.num_points=200"]
    code, err = run_cli(*base, small=False)
    assert code == 0
    for _ in range(2):
        code, err = run_cli(*base, small=False)
        assert code == 0
        assert "1 frames to do, 7 done already" in err
        assert "7 done (0 now), 1 failed" in err
    pose.write_text(good)
    code, err = run_cli(*base, small=False)
    assert "1 frames to do, 7 done already" in err
    assert "4 pictures to draw, from the files" in err  # the pictures of a scene share their colours
    assert len(list((tmp_path / "out").glob("*/vis_*.png"))) == 8


def test_a_disk_that_is_too_small_is_refused_before_the_start(run_cli, demo_root, monkeypatch, tmp_path):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**5))
    base = [f"data.root={demo_root}", "output_dir=out"]
    code, err = run_cli(*base)
    assert code == 1
    assert "clipfeat: output_dir=out: about 531 kB to write, 100 kB free in out: that can't fit. Make room" in err
    assert not (tmp_path / "out" / "config.yaml").exists()
    for uncertain in (["sampling=mesh", "sampling.num_points=1000"], ["sampling.num_points=null"]):
        code, err = run_cli(*base[:1], f"output_dir={len(uncertain)}", *uncertain)
        assert code == 0, err
        assert "that may not fit" in err


def test_a_run_that_writes_much_is_told_what_maps_would_take(run_cli, demo_root, monkeypatch):
    base = [f"data.root={demo_root}", "vis=none", "report=false"]
    assert "output=grid would take" not in run_cli(*base, "output_dir=little")[1]
    monkeypatch.setattr("clipfeat.extraction.plan.MUCH", 5e6)
    code, err = run_cli(*base, "output_dir=much", "sampling.num_points=8000")
    assert code == 0, err
    assert re.search(r"about [0-9]+ MB to write, .*\noutput=grid would take about [0-9.]+ MB and keeps the same", err)
    assert "output=grid would take" not in run_cli(*base, "output_dir=maps", "output=grid")[1]


def test_scenes_file_and_frame_selection(run, tmp_path):
    (tmp_path / "scenes.txt").write_text("demo0001_00\n")
    out = run("out", "scenes_file=scenes.txt", "frame_stride=2", "frame_selection=uniform", "frames_per_scene=2")
    assert sorted(feature_files(out)) == ["demo0001_00/frame_0", "demo0001_00/frame_40"]


def test_shards_share_the_scenes(run):
    names = [sorted(feature_files(run(f"s{i}", f"shard.index={i}", "shard.count=2"))) for i in range(2)]
    assert [n[0].split("/")[0] for n in names] == ["demo0000_00", "demo0001_00"]
    assert [len(n) for n in names] == [4, 4]


def test_the_demo_renders_and_runs(run_cli, tmp_path, monkeypatch):
    from clipfeat.model import weights

    monkeypatch.setattr(weights, "hub_answers", lambda: False)
    size = ["data.num_scenes=1", "data.num_frames=2", "data.color_size=[216,162]", "data.depth_size=[128,96]"]
    code, err = run_cli("experiment=demo", *size, "data.mesh_spacing=0.2", "model.pretrained=laion2b_s34b_b79k",
                        "model.arch=ViT-B-32", "vis=none", tiny=False)  # fmt: skip
    assert code == 0, err
    assert "weights=random" in err
    assert len(feature_files(tmp_path / "outputs" / "demo")) == 2
