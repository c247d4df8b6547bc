"""``clipfeat-fuse`` end to end: from every kind of store, resumed, with bad input."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from runs_to_fuse import SCENES, mesh_path, run_of

from clipfeat.cli.commands import fuse_main
from clipfeat.errors import ConfigError, OutputError
from clipfeat.mapping.scene_colors import pca_rgb
from clipfeat.output.fused import read_fused
from clipfeat.output.ply import UNSEEN
from clipfeat.results.config import FUSED_FORMATS, FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.results.fused_formats import FORMATS
from clipfeat.results.inspect import inspect_folder
from clipfeat.sampling.point_files import read_faces, read_points


@pytest.fixture(scope="session")
def store_of(demo_root, tiny_arch, tmp_path_factory):
    return lambda name: run_of(name, demo_root, tiny_arch, tmp_path_factory)


@pytest.fixture
def run_fuse(run_main):
    return lambda *overrides: run_main(fuse_main, *overrides)


def test_voxels_too_small_for_the_scene_are_an_error_that_names_it(store_of, run_fuse):
    code, err = run_fuse(f"store={store_of('depth')}", "output_dir=out", "points=voxel", "voxel_size=1e-12")
    assert code == 1
    assert "the first: demo0000_00 frame 0: points must lie within 1073741824 voxels of 1e-12 m around the" in err
    assert "take a larger voxel_size" in err
    assert "Traceback" not in err


def test_every_format_is_written_and_says_whose_features_it_shows(store_of, run_fuse, tmp_path):
    code, err = run_fuse(f"store={store_of('grid')}", "output_dir=out", "formats=[ply,openscene]")
    assert code == 0, err
    assert "2 done (2 now), 0 failed" in err
    assert "8 fused, 0 skipped" in err
    assert "weights          random" in err
    assert {p.name for p in (tmp_path / "out").glob("demo*")} == {
        s + e for s in SCENES for e in (".npz", ".ply", "_0.pt")
    }
    assert set(FORMATS) == set(FUSED_FORMATS)
    for scene_id in SCENES:
        found = read_fused(tmp_path / "out" / f"{scene_id}.npz")
        path = tmp_path / "out" / f"{scene_id}.ply"
        assert b"clipfeat-test-ViT none weights=random" in path.read_bytes()
        rgb = read_points(path).attributes["rgb"]
        np.testing.assert_array_equal(rgb, pca_rgb(found.pts_feat, found.seen))
        assert (rgb[~found.seen] == UNSEEN).all()
        assert len(np.unique(rgb[found.seen], axis=0)) > 100
        np.testing.assert_array_equal(read_faces(path), found.faces)
        half = torch.load(tmp_path / "out" / f"{scene_id}_0.pt", weights_only=True)
        assert half["mask_full"].tolist() == found.seen.tolist()
        np.testing.assert_array_equal(half["feat"].numpy(), found.pts_feat[found.seen].astype(np.float16))


def test_voxels_of_a_real_recording(office, run_cli, run_fuse, tmp_path):
    (tmp_path / "scenes.txt").write_text("scene9000_00\n")
    base = [f"data.root={office}", "scenes_file=scenes.txt", "output_dir=run", "output=grid", "frames_per_scene=8"]
    assert run_cli(*base)[0] == 0
    code, err = run_fuse("store=run", "points=voxel")
    assert code == 0, err
    found = read_fused(tmp_path / "run" / "fused" / "scene9000_00.npz")
    assert found.seen.mean() > 0.9
    assert (found.views > 1).mean() > 0.3  # neighbours overlap by half; with wrong poses next to nothing would
    # The floor is one flat layer of voxels: their heights differ by less than the voxels are high.
    heights, counts = np.unique(np.floor(found.points.xyz[:, 1] / 0.05), return_counts=True)
    floor = heights[counts.argmax()]
    near = found.points.xyz[np.abs(found.points.xyz[:, 1] / 0.05 - floor - 0.5) < 2, 1]
    assert np.percentile(np.abs(near - np.median(near)), 50) < 0.02


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("demo*")}


def test_the_same_command_again_does_only_what_is_missing(store_of, run_fuse, tmp_path, scans):
    store = shutil.copytree(store_of("grid"), tmp_path / "store")
    base, out = [f"store={store}", f"data_root={scans}"], store / "fused"
    assert run_fuse(*base)[0] == 0
    before = times(out)
    code, err = run_fuse(*base)
    assert code == 0
    assert "0 scenes to fuse, 2 done already" in err
    assert "2 done (0 now)" in err
    assert times(out) == before
    moved = scans.rename(tmp_path / "moved")  # nothing is to do, so nobody needs the scans
    assert run_fuse(*base)[0] == 0
    code, err = run_fuse(*base, "formats=[openscene]")  # made of what is there
    assert code == 0
    assert {p.name for p in out.glob("*.pt")} == {"demo0000_00_0.pt", "demo0001_00_0.pt"}
    (out / "demo0001_00.npz").unlink()
    code, err = run_fuse(*base)
    assert code == 1
    assert f"clipfeat: data_root={scans}: no such folder, the scans of {store} were expected there" in err
    code, err = run_fuse(f"store={store}", f"data_root={moved}")
    assert code == 0, err
    assert "1 scenes to fuse, 1 done already" in err
    assert times(out)["demo0000_00.npz"] == before["demo0000_00.npz"]
    assert not (out / "demo0001_00_0.pt").exists()  # it was of the old npz
    code, err = run_fuse(f"store={store}", "best_views=1")
    assert code == 1
    assert "holds results of another configuration, which differs in best_views: None there, 1 now" in err
    code, err = run_fuse(f"store={store}", f"data_root={moved}", "best_views=1", "resume=overwrite")
    assert code == 0
    assert read_fused(out / "demo0000_00.npz").views.max() == 1


def test_frames_that_come_later_are_fused_too(store_of, run_fuse, tmp_path, demo_root):
    store = shutil.copytree(store_of("grid"), tmp_path / "store")
    last = store / "demo0000_00" / "frame_60.safetensors"
    aside = last.rename(tmp_path / "aside")
    assert run_fuse(f"store={store}", f"data_root={demo_root}")[0] == 0
    assert read_fused(store / "fused" / "demo0000_00.npz").meta["frames"] == [0, 20, 40]
    aside.rename(last)
    assert "1 scenes to fuse, 1 done already" in run_fuse(f"store={store}", f"data_root={demo_root}")[1]
    assert read_fused(store / "fused" / "demo0000_00.npz").meta["frames"] == [0, 20, 40, 60]


@pytest.mark.parametrize("options", [[], ["points=voxel"], ["best_views=2"]])
def test_bad_frames_are_skipped_and_listed(store_of, run_fuse, tmp_path, scans, options):
    store = shutil.copytree(store_of("grid"), tmp_path / "store")
    path = store / "demo0000_00" / "frame_20.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    (scans / "demo0000_00" / "pose" / "40.txt").unlink()
    base = [f"store={store}", f"data_root={scans}", *options]
    code, err = run_fuse(*base)
    assert code == 0, err
    assert "6 fused, 2 skipped" in err
    assert "WARNING failed: demo0000_00 frame 20: " in err
    assert "pose/40.txt: no such file" in err
    meta = read_fused(store / "fused" / "demo0000_00.npz").meta
    assert meta["frames"] == [0, 60]
    assert sorted(failure["frame_id"] for failure in meta["failed"]) == [20, 40]
    assert "0 scenes to fuse, 2 done already" in run_fuse(*base)[1]
    code, err = run_fuse(*base, "resume=overwrite", "on_bad_frame=fail")
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("clipfeat: ")
    assert "Traceback" not in err


def test_a_scene_that_can_not_be_fused_is_named_and_the_others_are_done(store_of, run_fuse, tmp_path, scans):
    mesh_path(scans, SCENES[0]).unlink()
    base = [f"store={store_of('grid')}", f"data_root={scans}"]
    code, err = run_fuse(*base, "output_dir=out")
    assert code == 0
    assert "1 done (1 now), 1 failed" in err
    assert "demo0000_00_vh_clean_2.ply: no such file, the mesh of demo0000_00 was expected; say where it is by" in err
    assert run_fuse(*base, "output_dir=o2", "on_bad_frame=fail")[0] == 1
    far = tmp_path / "far.npz"
    np.savez(far, xyz=np.full((5, 3), 99.0))
    code, err = run_fuse(*base, "output_dir=o3", f"points_file={far}")
    assert code == 1
    assert (
        "clipfeat: all 2 scenes failed; the first: demo0000_00: none of its 4 frames sees a point of it (the po" in err
    )
    assert not list((tmp_path / "o3").glob("demo*"))
    # What is advised then works, into the same folder; where something is done, another way is refused as before.
    assert run_fuse(*base, "output_dir=o3", "points=voxel", "voxel_size=0.2")[0] == 0
    assert "which differs in points: voxel there, mesh now" in run_fuse(*base, "output_dir=o3", "points=mesh")[1]


def test_few_seen_points_are_worth_a_warning(store_of, run_fuse, tmp_path, demo_root):
    xyz = read_points(mesh_path(demo_root, SCENES[0])).xyz
    np.savez(tmp_path / "turned.npz", xyz=np.concatenate((xyz, xyz + 99, xyz - 99)))
    (tmp_path / "scenes.txt").write_text("demo0000_00\n")
    code, err = run_fuse(f"store={store_of('grid')}", "output_dir=out", f"points_file={tmp_path}/turned.npz",
                         "scenes_file=scenes.txt", "formats=[]")  # fmt: skip
    assert code == 0
    assert "WARNING demo0000_00: only " in err
    assert {p.name for p in (tmp_path / "out").glob("demo*")} == {"demo0000_00.npz"}


@pytest.mark.parametrize(
    ("change", "why"),
    [(lambda xyz: xyz[:50], r"vertex \d+ among them, it has 50"), (lambda xyz: xyz + 0.01, r"one is 0.01 m away")],
)
def test_a_mesh_that_was_not_sampled_is_refused(store_of, run_fuse, tmp_path, scans, change, why):
    for scene_id in SCENES:
        np.savez(tmp_path / f"{scene_id}.npz", xyz=change(read_points(mesh_path(scans, scene_id)).xyz))
    store = shutil.copytree(store_of("mesh"), tmp_path / "store")
    config = (store / "config.yaml").read_text()
    lines = [line for line in config.splitlines() if "labels_file" not in line]
    lines = [f"  points_file: {tmp_path}/{{scene}}.npz" if "points_file" in line else line for line in lines]
    (store / "config.yaml").write_text("\n".join(lines))
    code, err = run_fuse(f"store={store}")
    assert code == 1
    assert re.search(rf"its points are not the vertices of the given mesh \({why}", err)
    assert "say where the run's own meshes are, as points_file=…" in err
    assert list((store / "fused").iterdir()) == []  # nothing that would claim the folder
    config = (store / "config.yaml").read_text()
    code, err = run_fuse(f"store={store}", f"output_dir={store}", "points=voxel")
    assert code == 1
    assert f"clipfeat: {store}: is the folder of a run of clipfeat-extract; choose another output_dir" in err
    assert (store / "config.yaml").read_text() == config


def test_a_store_without_a_usable_configuration_is_named(store_of, run_fuse, tmp_path):
    store = shutil.copytree(store_of("depth"), tmp_path / "store")
    good = (store / "config.yaml").read_text()
    (store / "config.yaml").unlink()
    code, err = run_fuse(f"store={store}")
    assert code == 1
    assert f"clipfeat: {store}/config.yaml: no such file, the configuration of the run; give the output_dir of" in err
    (store / "config.yaml").write_text(good.replace("depth_tolerance:", "depth_tolerances:"))
    code, err = run_fuse(f"store={store}")
    assert code == 1
    assert f"{store}/config.yaml: not the configuration of a run of this clipfeat (no configuration of clipf" in err
    assert len(err.strip().splitlines()) == 1
    code, err = run_fuse("store=nowhere")
    assert code == 1
    assert "clipfeat: nowhere: no such folder; give the output_dir of clipfeat-extract" in err
    code, err = run_fuse()
    assert "clipfeat: store is not set: give the output_dir of clipfeat-extract, as store=…" in err


def test_pictures_of_another_size_are_not_those_of_the_run(store_of, run_fuse, tmp_path, scans):
    from PIL import Image

    path = scans / "demo0000_00" / "color" / "0.jpg"
    Image.open(path).resize((200, 150)).save(path)
    code, err = run_fuse(f"store={store_of('grid')}", f"data_root={scans}", "output_dir=out")
    assert code == 0
    assert "frame_0.safetensors: of a picture of 216×162 pixels, but it now has 200×150; give the scans that" in err


def test_instance_masks_speak_here_too(demo_root, store_of, tmp_path):
    plain = store_of("grid")
    masked = shutil.copytree(plain, tmp_path / "store")
    config = (masked / "config.yaml").read_text()
    masks = f"masks: {demo_root}/{{scene}}/instance-filt/{{frame}}.png"
    assert "masks: null" in config
    (masked / "config.yaml").write_text(config.replace("masks: null", masks))
    metas = [fuse(FuseConfig(str(s), str(tmp_path / n)))["scenes"] for s, n in ((plain, "a"), (masked, "b"))]
    for scene_id in SCENES:
        assert 0.3 * metas[0][scene_id]["num_seen"] < metas[1][scene_id]["num_seen"] < metas[0][scene_id]["num_seen"]


def test_ctrl_c_keeps_the_scenes_that_are_done(store_of, tmp_path, monkeypatch):
    from clipfeat.results import fused_formats as module

    write = module.write_fused

    def stop_at_the_second(path, *what):
        if "demo0001" in path.name:
            raise KeyboardInterrupt
        return write(path, *what)

    monkeypatch.setattr(module, "write_fused", stop_at_the_second)
    cfg = FuseConfig(str(store_of("grid")), str(tmp_path))
    with pytest.raises(KeyboardInterrupt, match="1 of 2 scenes are done in"):
        fuse(cfg)
    monkeypatch.undo()
    assert list(fuse(cfg)["scenes"]) == SCENES
    assert json.loads(json.dumps(fuse(cfg)))["fused"] == 0
    assert fuse(dataclasses.replace(cfg, resume="overwrite"))["fused"] == 2


def test_a_scene_is_packed_and_what_it_kept_is_told(store_of, tmp_path, caplog):
    caplog.set_level("INFO")
    plain = fuse(FuseConfig(str(store_of("grid")), str(tmp_path / "plain")), SCENES[:1])["scenes"][SCENES[0]]
    cfg = FuseConfig(str(store_of("grid")), str(tmp_path / "packed"), packing="pca", packing_dims=24, formats=[])
    packed = fuse(cfg, SCENES[:1])["scenes"][SCENES[0]]
    cosine = packed["packed"]["cosine"]
    assert f"packed at a cosine of {cosine['median']:.4f}" in caplog.text
    assert "packed" not in plain
    told = f"packing=pca packing_dims=24, at a cosine of {cosine['median']:.4f} or more in the median"
    assert inspect_folder(tmp_path / "packed").facts["packed"] == told
    one, other = (read_fused(tmp_path / name / f"{SCENES[0]}.npz") for name in ("plain", "packed"))
    np.testing.assert_array_equal(one.views, other.views)
    before, after = one.pts_feat[one.seen], other.pts_feat[one.seen]
    found = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert np.median(found) == pytest.approx(cosine["median"], abs=1e-3)
    assert fuse(cfg, SCENES[:1])["fused"] == 0
    with pytest.raises(OutputError, match="packing_dims: 24 there, 12 now"):
        fuse(dataclasses.replace(cfg, packing_dims=12))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"packing_dims": 8}, "packing_dims=8: has no meaning with packing=none"),
        ({"packing": "pca", "dtype": "float16"}, "dtype=float16: has no meaning with packing=pca"),
        ({"packing": "zip"}, "packing=zip: expected one of none, pca, int8, pq"),
    ],
)
def test_keys_of_packing_that_have_no_meaning_are_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        FuseConfig("out", **keys)
