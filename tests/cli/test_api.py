"""The commands from Python: the same files, the same words, and nothing of the caller's program is changed."""

import inspect
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import yaml
from conftest import CHECKOUT
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from stores import arrays, assert_same_arrays

import clipfeat
import clipfeat.cli.api
import clipfeat.extraction.extract
import clipfeat.extraction.lane
import clipfeat.queries.ask
import clipfeat.results.fuse
from clipfeat.cli.commands import extract_main, fuse_main, query_main
from clipfeat.data.config import DemoConfig, ScanNetConfig, SensConfig

ODD = "a b, c=d [e] 'f' \"g\" ${h} #i ü"


@pytest.fixture
def small(tiny_arch):
    """Overrides for a small model and few points."""
    return [f"model.arch={tiny_arch}", "model.pretrained=null", "vis=none", "sampling.num_points=200", "report=false"]


@pytest.fixture
def given(monkeypatch):
    """What the work was called with, which is not done."""
    calls = []

    def work(cfg, *more):
        calls.append((cfg, *more))
        return {}

    monkeypatch.setattr(clipfeat.extraction.extract, "extract", work)
    monkeypatch.setattr(clipfeat.results.fuse, "fuse", work)
    monkeypatch.setattr(clipfeat.queries.ask, "query", work)
    return calls


def test_an_extraction_writes_what_the_command_writes_and_goes_on_from_it(run_cli, demo_root, tmp_path, small):
    assert run_cli(f"data.root={demo_root}", "output_dir=command")[0] == 0
    out = tmp_path / "python"
    half = clipfeat.extract(demo_root, out, overrides=[*small, "frames_per_scene=2"])
    assert half["frames"] == 4
    whole = clipfeat.extract(str(demo_root), str(out), overrides=small)
    assert whole["frames"] == 8
    assert whole == json.loads((out / "summary.json").read_text())
    assert_same_arrays(out, arrays(tmp_path / "command"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.npz")}
    assert clipfeat.extract(demo_root, out, overrides=small) == whole
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.npz")} == before


def test_all_three_and_a_model_in_one_process(demo_root, tmp_path, text_arch):
    overrides = [f"model.arch={text_arch}", "model.pretrained=null", "model/head=text", "model.precision=fp32"]
    model = clipfeat.load_model(device="cpu", overrides=overrides)
    for name in ("first", "second"):
        points = ["vis=none", "sampling.num_points=200", "report=false"]
        summary = clipfeat.extract(demo_root, tmp_path / name, overrides=points, model=model)
        assert summary["model"]["head"] == "text"
        # What is written beside the features is true of the model.
        written = yaml.safe_load((tmp_path / name / "config.yaml").read_text())["model"]
        assert (written["arch"], written["pretrained"], written["head"]["name"]) == (text_arch, None, "text")
    fused = clipfeat.fuse(tmp_path / "first", overrides=["points=voxel", "formats=[]"])
    assert fused == tmp_path / "first" / "fused"
    assert sorted(path.name for path in fused.glob("*.npz")) == ["demo0000_00.npz", "demo0001_00.npz"]
    texts = ["a chair, or so", "${wall} = 'x'"]
    answers = clipfeat.query(tmp_path / "first", texts, overrides=["heatmaps=none"])
    assert answers == tmp_path / "first" / "query"
    found = json.loads((answers / "query.json").read_text())
    assert [prompt["prompt"] for prompt in found["prompts"]] == texts
    of_fused = clipfeat.query(fused, "a table", tmp_path / "other", overrides=["against=[]"])
    assert of_fused == tmp_path / "other"
    assert json.loads((of_fused / "query.json").read_text())["scenes"] == 2


def test_values_are_taken_as_they_are(given, tmp_path):
    clipfeat.extract(tmp_path / ODD, tmp_path / f"{ODD}/out")
    clipfeat.fuse(ODD, Path(ODD) / "f")
    clipfeat.query(ODD, ODD, f"{ODD}/q")
    clipfeat.query(ODD, [ODD, "b"])
    (extraction, model), (fusion,), (one,), (several,) = given
    assert (extraction.data.root, extraction.output_dir) == (str(tmp_path / ODD), str(tmp_path / ODD / "out"))
    assert model is None
    assert (fusion.store, fusion.output_dir) == (ODD, f"{ODD}/f")
    assert (one.store, one.text, one.output_dir) == (ODD, [ODD], f"{ODD}/q")
    assert (several.text, several.output_dir) == ([ODD, "b"], f"{ODD}/query")


@pytest.mark.parametrize("text", ["a${b}", r"a\${b}", r"\\${b}", "${", "$a", "a\\", "???x"])
def test_what_looks_like_a_reference_is_a_text(given, text):
    assert clipfeat.fuse(text) == Path(f"{text}/fused")
    assert given[0][0].store == text


def test_paths_with_odd_characters_work_from_end_to_end(scans, tmp_path, small):
    odd = ODD.replace("${h}", "$h")  # a reference, once it is read back from the run's config.yaml
    scans = scans.rename(tmp_path / odd)
    out = tmp_path / f"{odd} out"
    assert clipfeat.extract(scans, out, overrides=[*small, "frames_per_scene=1"])["frames"] == 2
    fused = clipfeat.fuse(out)
    assert fused == out / "fused"
    assert len(list(fused.glob("*.ply"))) == 2
    example = ["example.scene=demo0000_00", "example.frame=0", "example.uv=[100,80]"]
    assert (clipfeat.query(out, None, out / odd, overrides=example) / "query.json").is_file()


def test_which_data_set_it_is_can_be_said_in_three_ways(given):
    clipfeat.extract("r", "o")
    clipfeat.extract("r", "o", data="sens")
    clipfeat.extract("r", "o", overrides=["data=sens", "frames_per_scene=3"])
    clipfeat.extract("r", "o", overrides=["experiment=demo"])
    assert [type(cfg.data) for cfg, _ in given] == [ScanNetConfig, SensConfig, SensConfig, DemoConfig]
    # Folders that an experiment or an override names are not taken.
    assert {(cfg.data.root, cfg.output_dir) for cfg, _ in given} == {("r", "o")}
    default = inspect.signature(clipfeat.extract).parameters["data"].default
    assert {"data": default} in yaml.safe_load((CHECKOUT / "conf" / "extract.yaml").read_text())["defaults"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frames_per_scen=3"], "frames_per_scen: no such key; did you mean frames_per_scene"),
        (["xyz=3"], "xyz: no such key; clipfeat-extract --help lists the keys"),
        (["output=hdf5"], "output=hdf5: no such choice, expected one of grid, h5, h5_scene, npz"),
        (["model/head=big"], "model/head=big: no such choice, expected one of none, pixelshuffle, proj128, text"),
        (["frames_per_scene=few"], "frames_per_scene: Value 'few' of type 'str' could not be converted to Integer"),
        (["data.num_scenes=3"], "data.num_scenes: not a key of the chosen data; it belongs to another choice"),
        (["device"], "cannot read the override 'device': expected key=value"),
        (["seed=0,1"], "seed=0,1: several values, each a run of its own, need -m: clipfeat-extract -m seed=0,1 …"),
        (["frames_per_scene=0"], "frames_per_scene=0: expected a number of at least 1"),
        (["device=tpu"], "device=tpu: expected auto, cpu, cuda or cuda:<n>"),
        (["scenes_file"], "cannot read the override 'scenes_file': expected key=value, such as scenes_file=…"),
        ([], "data.root=x: no such folder"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_command(run_main, overrides, message):
    with pytest.raises(clipfeat.ClipfeatError) as caught:
        clipfeat.extract("x", "out", overrides=overrides)
    assert str(caught.value).startswith(message)
    code, err = run_main(extract_main, "data.root=x", "output_dir=out", *overrides)
    assert (code, err) == (1, f"clipfeat: {caught.value}\n")


def test_fuse_and_query_say_what_their_commands_say(run_main):
    for call, main, arguments in (
        (lambda: clipfeat.fuse("x", overrides=["point=mesh"]), fuse_main, ["store=x", "point=mesh"]),
        (lambda: clipfeat.fuse("x"), fuse_main, ["store=x"]),
        (lambda: clipfeat.query("x", "", overrides=["top=0"]), query_main, ["store=x", "text=''", "top=0"]),
        (lambda: clipfeat.query("x", None), query_main, ["store=x"]),
        (lambda: clipfeat.query("x", [3]), query_main, ["store=x", "text=[3]"]),
    ):
        with pytest.raises(clipfeat.ClipfeatError) as caught:
            call()
        assert run_main(main, *arguments) == (1, f"clipfeat: {caught.value}\n")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["check=only"], "check=only: ends without a summary to return; take check=true, or run clipfeat-extract"),
        (["devices=2"], "devices=2: starts processes that are the command's own; run clipfeat-extract devices=2 …, or"),
        (["devices=auto"], "devices=auto: starts processes"),
        (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: is for the command line alone; from Python, call once for"),
        (["+hydra/launcher=slurm"], "+hydra/launcher=slurm: is for the command line alone"),
        (["-m"], "cannot read the override '-m': expected key=value"),
        ("seed=1", "overrides='seed=1': expected a list of texts, such as ['frames_per_scene=5']"),
        ([3], "overrides=[3]: expected a list of texts"),
    ],
)
def test_what_only_a_command_can_do_is_refused_in_one_line(given, overrides, message):
    with pytest.raises(clipfeat.ClipfeatError) as caught:
        clipfeat.extract("x", "out", overrides=overrides)
    assert str(caught.value).startswith(message)
    assert not given


def test_one_process_is_no_reason_to_refuse(given):
    clipfeat.extract("x", "out", overrides=["devices=1", "check=yes", "shard.index=1", "shard.count=2"])
    cfg = given[0][0]
    assert (cfg.check, cfg.devices, cfg.shard.index) == ("yes", "1", 1)
    clipfeat.extract("x", "out", overrides=["engine=ray"])
    assert given[1][0].engine.name == "ray"


def test_a_model_is_what_its_overrides_say(tiny_arch, demo_frames):
    own = [f"model.arch={tiny_arch}", "model.pretrained=null"]
    model = clipfeat.load_model("vit_b32", device="cpu", overrides=[*own, "model.input_size=64", "model/head=proj128"])
    assert (model.arch, model.head_name, model.preprocess.size, model.device.type) == (tiny_arch, "proj128", 64, "cpu")
    assert model.cfg.pretrained is None
    weights = [
        clipfeat.load_model(device="cpu", seed=seed, overrides=own).describe()["weights_sha256"] for seed in (0, 0, 1)
    ]
    assert weights[0] == weights[1] != weights[2]
    [found] = model.feature_maps([model.network_input(demo_frames[0])], [(216, 162)])
    assert clipfeat.sample_img_feat(found, np.array([[10.0, 20.0]])).shape == (1, 256)


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (["vit_x"], [], "model=vit_x: no such choice, expected one of eva02_b16, mobileclip2_b, openai_b16,"),
        ([], ["model.precison=fp16"], "model.precison: no such key; did you mean model.precision"),
        ([], ["seed=3"], "seed=3: says nothing of the model vit_b16; expected model.<key>=… or model/head=…"),
        ([], ["model=vit_b32"], "model=vit_b32: says nothing of the model vit_b16"),
        ([], ["model.input_size=0"], "model.input_size=0: expected a number of at least 1"),
        ([], "model/head=text", "overrides='model/head=text': expected a list of texts"),
    ],
)
def test_a_model_that_can_not_be_had_is_told_in_one_line(arguments, overrides, message):
    with pytest.raises(clipfeat.ClipfeatError) as caught:
        clipfeat.load_model(*arguments, overrides=overrides)
    assert str(caught.value).startswith(message)


def test_no_device_of_that_name(tiny_arch):
    with pytest.raises(clipfeat.ClipfeatError, match="device=tpu: expected auto, cpu, cuda or cuda:<n>"):
        clipfeat.load_model(device="tpu", overrides=[f"model.arch={tiny_arch}", "model.pretrained=null"])


def test_a_loaded_model_and_the_overrides_must_not_disagree(given, tiny_arch):
    own = [f"model.arch={tiny_arch}", "model.pretrained=null"]
    model = clipfeat.load_model(device="cpu", overrides=own)
    clipfeat.extract("x", "out", model=model)
    clipfeat.extract("x", "out", model=model, overrides=own)
    clipfeat.extract("x", "out", model=model, overrides=[*own, "experiment=demo"])  # which allows random weights
    clipfeat.extract("x", "out", model=model, overrides=[*own, "model.input_size=224"])  # which it has by itself
    assert [cfg.model for cfg, _ in given] == [model.cfg] * 4
    clipfeat.extract("x", "out", overrides=own)
    assert given.pop()[0].model == model.cfg  # so that a run goes on with or without a loaded model
    assert all(of is model for _, of in given)
    for overrides, message in (
        (
            [*own, "model/head=text"],
            "model.head.name=text: the given model was loaded with model.head.name=none; leave",
        ),
        (["model.pretrained=null"], f"model.arch=ViT-B-16: the given model was loaded with model.arch={tiny_arch}"),
        (["seed=1"], "seed=1: the given model has random weights of seed=0; say the same for both"),
    ):
        with pytest.raises(clipfeat.ClipfeatError) as caught:
            clipfeat.extract("x", "out", model=model, overrides=overrides)
        assert str(caught.value).startswith(message)
    clipfeat.extract("x", "out", model=clipfeat.load_model(device="cpu", seed=1, overrides=own), overrides=["seed=1"])
    assert len(given) == 5


def test_a_model_of_the_caller_s_own_is_taken_as_it_is(given):
    mine = SimpleNamespace(feature_maps=None)
    clipfeat.extract("x", "out", model=mine)
    assert given[0][1] is mine


def test_ctrl_c_reaches_the_caller_and_says_how_far_it_came(demo_root, tmp_path, small, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clipfeat.extraction.lane.Lane, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt, match=r"0 of 8 frames are done in .*out, the same command goes on"):
            clipfeat.extract(demo_root, tmp_path / "out", overrides=small)
    with monkeypatch.context() as patch:
        patch.setattr(clipfeat.cli.api, "compose", stopped)
        with pytest.raises(KeyboardInterrupt):
            clipfeat.extract(demo_root, tmp_path / "out", overrides=small)
    assert clipfeat.extract(demo_root, tmp_path / "out", overrides=[*small, "frames_per_scene=1"])["frames"] == 2


def test_threads_may_call_at_once(demo_root, tmp_path, small):
    handlers, threads = list(logging.getLogger().handlers), []

    def extract(name):
        threads.append(threading.current_thread())
        return clipfeat.extract(demo_root, tmp_path / name, overrides=[*small, "frames_per_scene=2"])["frames"]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(extract, ["a", "b"])) == [4, 4]
    assert threading.main_thread() not in threads
    assert_same_arrays(tmp_path / "a", arrays(tmp_path / "b"))
    assert logging.getLogger().handlers == handlers


@pytest.fixture
def own_conf(tmp_path):
    """A configuration of a caller's own, which has a group of the same name as one of ours."""
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "app.yaml").write_text("defaults:\n  - data: mine\n  - _self_\nseed: 7\n")
    (tmp_path / "conf" / "data" / "mine.yaml").write_text("path: here\n")
    return tmp_path / "conf"


def test_hydra_is_left_as_it_was_found(given, own_conf):
    store = ConfigStore.instance()
    store.store("fuse_schema", {"of": "the caller"})
    before = set(store.repo), set(store.repo.get("data", ()))
    try:
        with hydra.initialize_config_dir(str(own_conf), job_name="mine", version_base="1.2"):
            own = GlobalHydra.instance(), GlobalHydra.instance().hydra
            for overrides in ([], ["no_such_key=1"]):
                with pytest.raises(clipfeat.ClipfeatError) if overrides else pytest.MonkeyPatch.context():
                    clipfeat.fuse("x", overrides=overrides)
                assert (GlobalHydra.instance(), GlobalHydra.instance().hydra) == own
                mine = hydra.compose("app", return_hydra_config=True)
                assert (mine.seed, mine.data.path, mine.hydra.job.name) == (7, "here", "mine")
                assert mine.hydra.runtime.version_base == "1.2"
        assert store.repo["fuse_schema.yaml"].node == {"of": "the caller"}
        assert (set(store.repo), set(store.repo.get("data", ()))) == before
    finally:
        del store.repo["fuse_schema.yaml"]
    assert not GlobalHydra.instance().is_initialized()
    assert [cfg.store for (cfg,) in given] == ["x"]


APP = """
import sys
import clipfeat, hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(config_path="conf", config_name="app", version_base=None)
def app(cfg):
    for name in ("a", "b"):
        summary = clipfeat.extract({root!r}, "out/" + name, overrides={overrides!r} + ["seed=" + str(cfg.seed)])
        assert summary["frames"] == 2
    clipfeat.fuse("out/a", overrides=["points=voxel"])
    try:
        clipfeat.fuse("out/a", overrides=["pionts=voxel"])
    except clipfeat.ClipfeatError as error:
        print(error)
    print(cfg.data.path, hydra.compose("app").seed, HydraConfig.get().job.name)

app()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Hydra 1.3 starts no app of others there")
def test_it_works_within_an_app_of_hydra(own_conf, demo_root, tmp_path, start_warm):
    overrides = ["model.arch=ViT-S-32-alt", "model.pretrained=null", "vis=none", "sampling.num_points=50"]
    overrides += ["frames_per_scene=1", "report=false"]
    (tmp_path / "app.py").write_text(APP.format(root=str(demo_root), overrides=overrides))
    said = "pionts: no such key; did you mean points?\nhere 7 app\n"
    for arguments, expected in ((["seed=8"], said), (["-m", "seed=8,9"], said * 2)):
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        program = start_warm(tmp_path / "app.py", [*arguments, "hydra.job.chdir=true"], environment)
        out, err = program.communicate(timeout=240)
        assert program.returncode == 0, err
        assert out.endswith(expected) or "-m" in arguments
        assert out.count(said) == expected.count(said)
    seeds = [yaml.safe_load(path.read_text())["seed"] for path in sorted(tmp_path.glob("**/out/b/config.yaml"))]
    assert sorted(seeds) == [8, 8, 9]


SCRIPT = """
import logging, os, signal, sys, warnings
from hydra.core.global_hydra import GlobalHydra
import clipfeat

def state():
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    logger = logging.getLogger("clipfeat")
    return (
        list(logging.getLogger().handlers), logging.getLogger().level, logger.handlers, logger.level, signals,
        [entry for entry in warnings.filters if "bomb" in str(entry)], dict(os.environ), os.getcwd(), sys.argv,
        GlobalHydra.instance().is_initialized(),
    )

before = state()
overrides = ["model.arch=ViT-S-32-alt", "model.pretrained=null", "sampling.num_points=100", "frames_per_scene=1"]
print(clipfeat.extract(sys.argv[1], "out", overrides=overrides + ["vis=heatmap"])["frames"])
clipfeat.extract(sys.argv[1], "out", overrides=overrides + ["vis=heatmap"])
clipfeat.fuse("out", overrides=["points=voxel"])
names = "handlers level own own_level signals filters environ cwd argv hydra".split()
changed = {n: (a, b) for n, a, b in zip(names, before, state(), strict=True) if a != b}
assert not changed, changed
"""


@pytest.mark.slow
def test_a_plain_script_runs_once_and_keeps_its_logging_and_signals(demo_root, tmp_path):
    """Pictures are drawn in processes, which must not run a script again that guards nothing."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(demo_root)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert len(list((tmp_path / "out").glob("*/vis_*.png"))) == 2
    # Python itself shows the warnings of a package where nothing was set up, and the caller's other packages are quiet.
    assert set(done.stderr.splitlines()) == {
        "WARNING: weights=random: the arithmetic is right, the features mean nothing"
    }
