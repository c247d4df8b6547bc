import dataclasses
import sys

import pytest
from conftest import CHECKOUT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfeat.cli.commands import extract_main
from clipfeat.cli.config import ComposerConfig
from clipfeat.cli.schemas import schemas_lent
from clipfeat.config.folder import config_dir
from clipfeat.data.config import LAYOUTS, DemoConfig, ScanNetConfig
from clipfeat.data.layouts import layouts
from clipfeat.errors import ConfigError
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.extraction.config import ENGINES, ExtractConfig, extract_config
from clipfeat.fusion.config import FitHeadConfig
from clipfeat.mapping.config import MapConfig
from clipfeat.model import text
from clipfeat.model.cache import CACHES
from clipfeat.model.config import HEADS, TEMPLATES
from clipfeat.output.files import FORMATS
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import FuseConfig, PicturesConfig
from clipfeat.sampling.points import POINT_SOURCES
from clipfeat.vis.config import PAINTERS

CONF = CHECKOUT / "conf"
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.glob("*/**/*.yaml")
    if path.relative_to(CONF).parts[0] not in ("hydra", "experiment")
)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed_command(command, *overrides):
    with schemas_lent(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose(command, list(overrides)))


def composed(*overrides):
    return composed_command("extract", *overrides)


# Layouts that are YAML alone bear the name of the reader behind them.
READERS = dict.fromkeys(
    (
        "sevenscenes", "tum", "replica", "open3d", "polycam", "arkitscenes", "arkitscenes_3dod", "scannetpp_iphone",
        "hm3d", "habitat", "rscan", "twelvescenes",
    ),
    "posed_rgbd",
)  # fmt: skip
READERS["scannetpp_dslr"] = "colmap"
# What an option needs beside itself: a template has to be filled in, and some go with one data set alone.
NEEDS = {
    ("data", "posed_rgbd"): [
        "data.color='{scene}/{frame}.jpg'", "data.pose='{scene}/{frame}.txt'", "data.pose_format=matrix_per_frame",
        "data.pose_direction=camera_to_world", "data.pose_axes=opencv",
        "data.intrinsics=[500,500,320,240]",
    ],
    ("camera", "esam"): ["data=scannet200_mv"],
    ("output", "segments"): ["data.masks='{scene}/{frame}.png'"],
    ("data", "rosbag"): ["data.color_topic=/c", "data.camera_info_topic=/k", "data.pose_topic=/p"],
}  # fmt: skip


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_is_known_to_its_table(group, option):
    cfg = composed(f"{group}={option}", "data.root=x", *NEEDS.get((group, option), []))
    assert isinstance(cfg, ExtractConfig)
    assert extract_config(dataclasses.asdict(cfg)) == cfg  # what config.yaml holds
    tables = {
        "data": LAYOUTS, "model/head": HEADS, "output": FORMATS, "cache": CACHES, "sampling": POINT_SOURCES,
        "vis": [*PAINTERS, "none"], "engine": ENGINES,
    }  # fmt: skip
    if group in tables:
        node = cfg.model.head if group == "model/head" else getattr(cfg, group)
        assert node.name == READERS.get(option, option)
        assert node.name in tables[group]
    if group == "data" and option in (known := layouts()):
        assert dataclasses.replace(known[option], root="x") == cfg.data  # which Hydra did not compose


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    assert isinstance(composed("data.root=x", f"experiment={experiment}"), ExtractConfig)


def test_the_help_names_every_option(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clipfeat-extract", "--help"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit):
        extract_main()
    text = capsys.readouterr().out
    for group, option in OPTIONS:
        assert group in text
        assert option in text, f"{group}={option} is not in --help"
    for experiment in EXPERIMENTS:
        assert experiment in text


def test_groups_have_their_own_schema():
    assert isinstance(composed("data.root=x").data, ScanNetConfig)
    demo = composed("experiment=demo")
    assert isinstance(demo.data, DemoConfig)
    assert demo.model.allow_random
    assert not composed("data.root=x").model.allow_random
    mini = composed("data.root=/d", "experiment=mini_test")
    assert (mini.model.head.name, mini.frames_per_scene) == ("proj128", 5)
    assert mini.scenes_file == "/d/meta_data/scannetv2_train_debug.txt"


def test_what_is_given_on_the_command_line_wins_over_an_experiment():
    cfg = composed("experiment=demo", "output_dir=mine", "data.num_scenes=7")
    assert (cfg.output_dir, cfg.data.num_scenes) == ("mine", 7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frames_per_scene=0", "frames_per_scene=0: expected a number of at least 1"),
        ("batch_size=-1", "batch_size=-1: expected a number of at least 1"),
        ("model.precision=fp8", "model.precision=fp8: expected one of auto, fp32, fp16, bf16"),
        ("model.attention=csa", "model.attention=csa: expected one of vanilla, maskclip, sclip, clearclip, naclip"),
        ("model.refine=yes", "model.refine=yes: expected one of none, self_similarity"),
        ("model.jpeg=nvjpeg", "model.jpeg=nvjpeg: expected one of cpu, gpu"),
        (
            "+model={resize_on:cpu,jpeg:gpu}",
            "model.jpeg=gpu model.resize_on=cpu model.resize=pillow: what is decoded on",
        ),
        ("model.resize_on=gpu", "model.resize_on=gpu: expected one of auto, cpu, device"),
        (
            "+model={resize_on:device,resize:torch}",
            "model.resize_on=device model.resize=torch: only pillow's filter is",
        ),
        ("model.resize_mode=stretch", "model.resize_mode=stretch: expected one of squash, letterbox, crop"),
        ("model.stride=112", "model.stride=112: there is no window to move; set model.window, such as 224"),
        ("model.window=0", "model.window=0: expected a number of at least 1"),
        (
            "+model={window:336,input_size:224}",
            "model.window=336: larger than the picture's shorter side, model.input_size=224",
        ),
        ("+model={window:112,stride:128}", "model.stride=128: leaves gaps between windows of model.window=112"),
        ("+model={window:112,resize_mode:crop}", "model.resize_mode=crop: windows see the whole picture in its own"),
        ("camera.far=0.05", r"camera.far=0.05: expected a number above 0.1"),
        ("camera.near=nan", "camera.near=nan: expected a number of at least 0"),
        ("frame_selection=last", "frame_selection=last: expected one of first, random, uniform"),
        ("on_bad_frame=ignore", "on_bad_frame=ignore: expected one of skip, fail"),
        ("shard.index=3", r"shard.index=3 shard.count=null: expected both, with 0 <= index < count"),
        ("+shard={index:2,count:2}", r"shard.index=2 shard.count=2: expected both, with 0 <= index < count"),
        ("sampling.num_points=0", "sampling.num_points=0: expected a number of at least 1"),
        ("output.dtype=int8", "output.dtype=int8: expected one of float32, float16"),
        ("data.depth_scale=0", "data.depth_scale=0.0: expected a number above 0"),
        ("data.color_intrinsics_size=[640]", r"data.color_intrinsics_size=\[640\]: expected \[width,height\]"),
        ("output_dir=''", "output_dir is empty"),
        ("resume=maybe", "resume=maybe: expected one of true, overwrite"),
        ("cache.name=redis", "cache.name=redis: expected one of none, lmdb"),
        ("cache.path=''", "cache.path is empty"),
        ("engine.name=dask", "engine.name=dask: expected one of local, ray"),
        ("engine.num_workers=2", "engine.num_workers=2: has a meaning only with engine=ray"),
        ("+engine={name:ray,num_workers:0}", "engine.num_workers=0: expected a number of at least 1"),
        ("+engine={name:ray,gpus_per_worker:-1}", "engine.gpus_per_worker=-1.0: expected a number of at least 0"),
        ("+engine={name:ray,cpus_per_worker:0}", "engine.cpus_per_worker=0: expected a number of at least 1"),
        ("+engine={name:ray,max_restarts:-1}", "engine.max_restarts=-1: expected a number of at least 0"),
    ],
)
def test_values_out_of_range_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        composed("data.root=x", override)


def test_ray_and_devices_exclude_each_other():
    with pytest.raises(ConfigError, match="devices=2: Ray starts its own processes; say engine.num_workers instead"):
        composed("data.root=x", "engine=ray", "devices=2")


@pytest.mark.parametrize(
    "plain", [{}, {"data": {"name": "new"}}, {"data": 3}, {"data": {"name": "demo"}, "sampling": []}]
)
def test_what_is_no_configuration_of_a_run_is_refused(plain):
    with pytest.raises(ConfigError, match=r"no configuration of clipfeat-extract \("):
        extract_config(plain)
    whole = dataclasses.asdict(composed("data.root=x"))
    with pytest.raises(ConfigError, match=r"no configuration of clipfeat-extract \(.*new_key"):
        extract_config(whole | {"new_key": 1})
    with pytest.raises(ConfigError, match="frame_stride=0: expected a number of at least 1"):
        extract_config(whole | {"frame_stride": 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": "cloud"}, "points=cloud: expected one of auto, mesh, voxel"),
        ({"voxel_size": 0.0}, "voxel_size=0.0: expected a number above 0"),
        ({"best_views": 0}, "best_views=0: expected a number of at least 1"),
        ({"num_workers": 0}, "num_workers=0: expected a number of at least 1"),
        ({"dtype": "int8"}, "dtype=int8: expected one of float32, float16"),
        ({"formats": ["ply", "obj"]}, "formats=obj: expected one of openscene, ply"),
        ({"resume": "maybe"}, "resume=maybe: expected one of true, overwrite"),
        ({"on_bad_frame": "ignore"}, "on_bad_frame=ignore: expected one of skip, fail"),
        ({"points_file": "a.obj"}, r"points_file=a.obj: expected a .ply or .npz file"),
        ({"labels_file": "a.ply", "points": "voxel"}, "labels_file=a.ply: has no meaning with points=voxel, leave it"),
    ],
)
def test_values_of_a_fusion_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        FuseConfig("store", **changes)


def test_a_fusion_s_folder_is_in_its_store():
    assert FuseConfig("a/b").output_dir == "a/b/fused"
    assert FuseConfig("a/b", "c").output_dir == "c"
    cfg = composed_command("fuse", "store=a/b", "resume=false")
    assert cfg == FuseConfig("a/b", resume="overwrite")


def test_the_composer_s_extraction_is_that_of_the_command():
    overrides = ["experiment=demo", "model=vit_b32", "sampling=mesh", "output_dir=a/b", "num_workers=3"]
    overrides += ["resume=overwrite", "on_bad_frame=fail"]
    cfg, extraction = composed_command("composer", *overrides, "fuse.best_views=4"), composed(*overrides)
    assert cfg.fuse == FuseConfig("a/b", best_views=4, num_workers=3, resume="overwrite", on_bad_frame="fail")
    assert (cfg.uv_index, extraction.uv_index) == ("a/b/uv_index", None)
    extraction.uv_index = cfg.uv_index
    assert cfg == ComposerConfig(**vars(extraction), fuse=cfg.fuse)
    defaults = [
        [line for line in (CONF / f"{name}.yaml").read_text().splitlines() if line.startswith("  - ")]
        for name in ("extract", "composer")
    ]
    assert [line.replace("extract", "composer").replace("clipfeat", "composer") for line in defaults[0]] == defaults[1]


def test_demo_values_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"data.depth_holes=0.95: expected a share from 0 to 0.9"):
        composed("experiment=demo", "data.depth_holes=0.95")


@pytest.mark.parametrize(
    ("said", "meant"), [("true", "true"), ("True", "true"), ("false", "overwrite"), ("overwrite", "overwrite")]
)
def test_resume_was_a_boolean_once(said, meant):
    assert composed("data.root=x", f"resume={said}").resume == meant


def test_the_keys_of_a_query_and_of_pictures():
    cfg = composed_command("query", "store=a/b", "text=[a chair,a chair,wall]", "scenes=s1")
    assert isinstance(cfg, QueryConfig)
    assert (cfg.text, cfg.scenes, cfg.output_dir) == (["a chair", "wall"], ["s1"], "a/b/query")
    assert QueryConfig("a/scene.npz", text="x").output_dir == "a/query"
    assert composed_command("query", "store=x", "text=a photo of a chair").text == ["a photo of a chair"]
    cfg = composed_command("vis", "store=a/b", "vis=pca", "vis.dpi=50", "frames=3", "resume=false")
    assert isinstance(cfg, PicturesConfig)
    assert (cfg.vis.name, cfg.vis.dpi, cfg.frames, cfg.scenes) == ("pca", 50, [3], [])
    assert (cfg.output_dir, cfg.resume) == ("a/b", "overwrite")
    assert composed_command("vis", "store=a").vis.name == "tsne"


@pytest.mark.parametrize(
    ("command", "schema"),
    [
        ("fuse", FuseConfig), ("query", QueryConfig), ("vis", PicturesConfig), ("evaluate", EvaluateConfig),
        ("fit-head", FitHeadConfig), ("map", MapConfig),
    ],
)  # fmt: skip
def test_the_help_of_a_command_names_its_keys(command, schema):
    help_text = (CONF / f"hydra/help/{command}.yaml").read_text()
    for field in dataclasses.fields(schema):
        assert field.name in help_text


def test_the_templates_are_those_of_the_text_tower():
    assert tuple(text.TEMPLATES) == TEMPLATES
