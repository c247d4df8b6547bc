"""``clipfeat-map`` end to end: recordings that are there, resumed, with bad input; what reads its maps."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import clipfeat
from clipfeat.cli.commands import map_main, query_main
from clipfeat.cli.schemas import schemas_lent
from clipfeat.config.folder import config_dir
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ConfigError
from clipfeat.mapping import open_maps
from clipfeat.mapping.config import MapConfig
from clipfeat.mapping.open_maps import claimed_maps
from clipfeat.mapping.run import make_maps
from clipfeat.output.fused import read_fused, seen_in_short, write_fused
from clipfeat.output.store import FeatureStore
from clipfeat.results.inspect import inspect_folder
from clipfeat.results.view import Viewer

SCENES = ["demo0000_00", "demo0001_00"]


@pytest.fixture
def small(tiny_arch):
    return [f"model.arch={tiny_arch}", "model.pretrained=null", "voxel_size=0.2", "batch_size=1", "picture=none"]


@pytest.fixture
def run_map(run_main, small):
    return lambda *overrides: run_main(map_main, *small, *overrides)


@pytest.fixture
def configured(small):
    def configured(*overrides):
        with schemas_lent(), initialize_config_dir(str(config_dir()), version_base="1.3"):
            return OmegaConf.to_object(compose("map", [*small, *overrides]))

    return configured


def arrays(path):
    fused = read_fused(path)
    known = {"pts_feat": fused.pts_feat, "xyz": fused.points.xyz, "views": fused.views, "weight": fused.weight}
    return known | fused.points.attributes


def assert_same(path, other):
    first, second = arrays(path), arrays(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    assert read_fused(path).meta == read_fused(other).meta


def test_each_scene_becomes_a_map_and_a_stop_changes_nothing(run_map, demo_root, tmp_path, tiny_arch):
    code, err = run_map(f"data.root={demo_root}", "output_dir=whole", "picture=pca")
    assert code == 0, err
    assert "8 in them (8 now), 0 could not be used" in err
    whole = tmp_path / "whole"
    assert {path.name for path in whole.iterdir()} == {
        "config.yaml", *(f"{scene_id}{ending}" for scene_id in SCENES for ending in (".npz", ".png")),
    }  # fmt: skip
    base = [f"data.root={demo_root}", "output_dir=part"]
    assert run_map(*base, "frames_per_scene=2")[0] == 0
    assert read_fused(tmp_path / "part" / f"{SCENES[0]}.npz").meta["frames"] == [0, 20]
    code, err = run_map(*base)
    assert code == 0, err
    assert "8 in them (4 now)" in err
    for scene_id in SCENES:
        assert_same(tmp_path / "part" / f"{scene_id}.npz", whole / f"{scene_id}.npz")
    before = (whole / f"{SCENES[0]}.npz").stat().st_mtime_ns
    code, err = run_map(f"data.root={demo_root}", "output_dir=whole")
    assert code == 0
    assert "all 8 frames are in the maps already, in whole" in err
    assert (whole / f"{SCENES[0]}.npz").stat().st_mtime_ns == before
    model = clipfeat.load_model(overrides=[f"model.arch={tiny_arch}", "model.pretrained=null"])
    own, dataset = clipfeat.FeatureMap3D(model, voxel_size=0.2), ScanNetDataset(demo_root)
    for frame_id in dataset.frame_ids(SCENES[1]):
        own.add_frame(dataset.load(SCENES[1], frame_id))
    np.testing.assert_array_equal(own.features(), read_fused(whole / f"{SCENES[1]}.npz").pts_feat)


def test_a_picture_of_a_text_needs_features_in_the_space_of_texts(run_map, demo_root, tmp_path):
    code, err = run_map(f"data.root={demo_root}", "output_dir=out", "picture=text", "text=a chair")
    assert code == 1
    assert (
        "clipfeat: picture=text text=a chair: the features of out are of model/head=none, which texts can't be" in err
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


def test_other_maps_are_refused_unless_they_are_to_go(run_map, demo_root, tmp_path, text_arch):
    base = [f"data.root={demo_root}", "output_dir=out", "frames_per_scene=1"]
    assert run_map(*base)[0] == 0
    for other, message in [
        ("voxel_size=0.1", "out holds results of another configuration, which differs in voxel_size: 0.2 there, 0.1 n"),
        ("max_weight=3", "which differs in max_weight: None there, 3.0 now"),
        (f"model.arch={text_arch}", "which differs in model.arch"),
    ]:
        code, err = run_map(*base, other)
        assert code == 1
        assert message in err
        assert "Choose another folder, or resume=overwrite" in err
    code, err = run_map(*base, "voxel_size=0.4", "resume=overwrite")
    assert code == 0, err
    assert read_fused(tmp_path / "out" / f"{SCENES[0]}.npz").meta["voxel_size"] == 0.4
    assert run_map(*base, "voxel_size=0.4", "save_every_s=0", "source=data")[0] == 0  # what says how, and not what


def test_bad_frames_are_skipped_told_and_tried_again(run_map, scans, tmp_path):
    depth = scans / SCENES[0] / "depth" / "20.png"
    whole = depth.read_bytes()
    depth.write_bytes(whole[:-30])
    (scans / SCENES[1] / "intrinsic" / "intrinsic_color.txt").write_text("nothing")
    base = [f"data.root={scans}", "output_dir=out"]
    code, err = run_map(*base)
    assert code == 0, err
    assert "3 in them (3 now), 5 could not be used" in err
    assert f"WARNING failed: {SCENES[0]} frame 20: " in err
    assert "depth/20.png" in err
    meta = read_fused(tmp_path / "out" / f"{SCENES[0]}.npz").meta
    assert [failure["frame_id"] for failure in meta["failed"]] == [20]
    depth.write_bytes(whole)
    code, err = run_map(*base, "on_bad_frame=fail")
    assert code == 1
    assert "intrinsic_color.txt" in err
    assert "Traceback" not in err
    meta = read_fused(tmp_path / "out" / f"{SCENES[0]}.npz").meta
    assert (meta["frames"], meta["failed"]) == ([0, 40, 60, 20], [])
    code, err = run_map(f"data.root={scans}", "output_dir=none", f"scenes_file={tmp_path}/one.txt")
    assert code == 1
    assert "one.txt: no such file" in err
    (tmp_path / "one.txt").write_text(SCENES[1])
    code, err = run_map(f"data.root={scans}", "output_dir=none", f"scenes_file={tmp_path}/one.txt")
    assert code == 1
    assert "clipfeat: no frame could be added to a map; the first: " in err


def test_ctrl_c_keeps_what_was_added(configured, demo_root, tmp_path, monkeypatch):
    cfg = configured(f"data.root={demo_root}", f"output_dir={tmp_path}/out", "num_workers=1")
    add, calls = open_maps.OpenMaps.add, []

    def stop_at_the_sixth(self, seen):
        calls.append(seen)
        if len(calls) == 6:
            raise KeyboardInterrupt
        add(self, seen)

    monkeypatch.setattr(open_maps.OpenMaps, "add", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt, match="5 of 8 frames are done in .*out, the same command goes on from there"):
        make_maps(cfg)
    monkeypatch.undo()
    assert read_fused(tmp_path / "out" / f"{SCENES[1]}.npz").meta["frames"] == [0]
    assert make_maps(cfg)["added"] == 3
    make_maps(dataclasses.replace(cfg, output_dir=f"{tmp_path}/whole"))
    for scene_id in SCENES:
        assert_same(tmp_path / "out" / f"{scene_id}.npz", tmp_path / "whole" / f"{scene_id}.npz")


def test_what_reads_fused_scenes_reads_maps(run_map, run_main, demo_root, text_arch, tmp_path):
    base = [f"data.root={demo_root}", "output_dir=out", f"model.arch={text_arch}", "model/head=text", "cache=lmdb"]
    code, err = run_map(*base, "frames_per_scene=2", "picture=text", "text=a chair")
    assert code == 0, err
    out = tmp_path / "out"
    assert (out / f"{SCENES[0]}.png").stat().st_size > 1000
    code, err = run_main(query_main, "store=out", "text=a chair", "dpi=30")
    assert code == 0, err
    report = json.loads((out / "query" / "query.json").read_text())
    assert report["scenes"] == 2
    code, err = run_main(query_main, "store=out", "example.scene=x", "example.frame=0", "example.uv=[1,1]")
    assert code == 1
    assert "clipfeat: out: maps of clipfeat-map keep no frames; give a run of the same scans, as run=…" in err
    found = inspect_folder(out, verify=True)
    assert found.title == f"{out}: maps of clipfeat-map"
    assert found.facts["points"].startswith("points=measured, ")
    assert not found.broken
    pytest.importorskip("viser")
    viewer = Viewer(out, port=0)
    try:
        assert "maps of clipfeat-map keep no frames" in viewer.facts
        viewer.ask("a chair")
        assert "a chair" in viewer.answer
        shown = len(viewer.scene.xyz)
        assert not viewer.refresh()
        code, err = run_map(*base, "picture=none")
        assert code == 0, err
        assert viewer.refresh()
        assert len(viewer.scene.xyz) > shown
        assert len(viewer.cloud.points) == len(viewer.scene.xyz)
    finally:
        viewer.close()


def test_memory_is_bounded_and_what_had_to_go_is_told(run_map, demo_root, tmp_path):
    code, err = run_map(f"data.root={demo_root}", "output_dir=out", "max_points=700")
    assert code == 0, err
    metas = [read_fused(tmp_path / "out" / f"{scene_id}.npz").meta for scene_id in SCENES]
    assert max(meta["num_points"] for meta in metas) == 700
    assert seen_in_short(metas) in err  # as clipfeat-fuse counts them
    for meta in metas:
        assert f"WARNING {meta['scene_id']}: {meta['dropped']} points had to go, for want of room; a larger" in err
        assert meta["dropped"] > 50
    code, err = run_map(f"data.root={demo_root}", "output_dir=small", "max_points=9", "frames_per_scene=1")
    assert code == 1
    assert f"clipfeat: {SCENES[0]} frame 0: max_points=9: " in err
    assert "voxels come at once; give room for those of several frames, or take a larger voxel_size" in err
    assert list((tmp_path / "small").iterdir()) == []  # nothing that would claim the folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "ros"}, "source=ros: expected one of data, watch, stdin"),
        ({"voxel_size": 0.0}, "voxel_size=0.0: expected a number above 0"),
        ({"max_weight": 0.0}, "max_weight=0.0: expected a number above 0"),
        ({"max_points": 0}, "max_points=0: expected a number of at least 1"),
        ({"dtype": "int8"}, "dtype=int8: expected one of float32, float16"),
        ({"picture": "tsne"}, "picture=tsne: expected one of pca, text, none"),
        ({"picture": "text"}, "picture=text text=None: picture=text shows a text, and needs one"),
        ({"text": "a chair"}, "picture=pca text=a chair: picture=text shows a text, and needs one"),
        ({"poll_s": 0.0}, "poll_s=0.0: expected a number above 0"),
        ({"idle_s": -1.0}, "idle_s=-1.0: expected a number of at least 0"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"source": "watch", "frame_selection": "uniform"}, "frame_selection=uniform: chooses among frames that are"),
        ({"source": "stdin", "frame_stride": 2}, "source=stdin: takes every frame that it is told of, without masks"),
    ],
)
def test_values_of_a_map_out_of_range_are_named(changes, message):
    from clipfeat.data.config import ScanNetConfig

    with pytest.raises(ConfigError, match=message):
        MapConfig(**{"data": ScanNetConfig(root="x")} | changes)


@pytest.mark.parametrize("damage", ["cut", "flipped", "rows"])
def test_a_damaged_map_is_named_and_what_to_do(run_map, demo_root, tmp_path, damage):
    base = [f"data.root={demo_root}", "output_dir=out"]
    assert run_map(*base, "frames_per_scene=1")[0] == 0
    path = tmp_path / "out" / f"{SCENES[0]}.npz"
    if damage == "rows":
        fused = read_fused(path)
        fused.points.attributes["weight_sum"] = fused.points.attributes["weight_sum"][1:]
        write_fused(path, fused)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content[:-99] if damage == "cut" else content)
    code, err = run_map(*base)
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("clipfeat: ")]
    assert str(path.relative_to(tmp_path)) in line
    assert "delete it and run the same command again" in line
    assert "Traceback" not in err
    path.unlink()
    assert run_map(*base)[0] == 0


def test_only_maps_go_where_nobody_knows_which_scenes_will_come(run_map, configured, demo_root, tmp_path):
    assert run_map(f"data.root={demo_root}", "output_dir=out", "frames_per_scene=1", "picture=pca")[0] == 0
    out = tmp_path / "out"
    np.savez(out / "mine.npz", xyz=np.zeros((2, 3)))
    cfg = configured(f"data.root={demo_root}", f"output_dir={out}", "source=watch", "resume=overwrite")
    with claimed_maps(cfg, []):
        assert {path.name for path in out.iterdir()} == {"config.yaml", "mine.npz"}


def test_results_stay_out_of_the_recordings(run_map, scans):
    code, err = run_map(f"data.root={scans}", f"output_dir={scans}")
    assert code == 1
    assert "is data.root, the folder of the recordings; choose another" in err


def test_a_store_of_the_same_frames_gives_the_same_map(run_map, run_cli, demo_root, tmp_path):
    """The whole way, by commands: extracted as maps, fused by the same rule, and mapped frame by frame."""
    assert run_cli(f"data.root={demo_root}", "output=grid", "output_dir=run", "batch_size=1")[0] == 0
    assert FeatureStore("run").keeps_maps
    clipfeat.fuse("run", overrides=["points=measured", "voxel_size=0.2", "formats=[]"])
    assert run_map(f"data.root={demo_root}", "output_dir=out")[0] == 0
    for scene_id in SCENES:
        fused, mapped = (read_fused(tmp_path / f / f"{scene_id}.npz") for f in ("run/fused", "out"))
        np.testing.assert_allclose(mapped.pts_feat, fused.pts_feat, atol=5e-3)  # the store rounds maps to float16
        np.testing.assert_array_equal(mapped.views, fused.views)
        np.testing.assert_allclose(mapped.points.xyz, fused.points.xyz, atol=1e-6)


def test_a_folder_of_another_clipfeat_command_is_not_taken(run_map, demo_root, tmp_path):
    assert run_map(f"data.root={demo_root}", "output_dir=out", "frames_per_scene=1")[0] == 0
    (tmp_path / "out" / "config.yaml").write_text("store: x\nvoxel_size: 0.2\n")
    code, err = run_map(f"data.root={demo_root}", "output_dir=out")
    assert code == 1
    assert "out holds results of another configuration" in err
    shutil.rmtree(tmp_path / "out")
