"""What people type: it is taken as it was meant, or one line says what is written instead."""

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import CHECKOUT
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import clipfeat
from clipfeat.cli import commands
from clipfeat.cli.flags import FLAGS
from clipfeat.cli.keys import keys_of
from clipfeat.cli.run import late_help_accepted
from clipfeat.cli.schemas import COMMANDS, schemas_of
from clipfeat.cli.typed import as_meant, for_hydra
from clipfeat.config.paths import expand_home, is_path
from clipfeat.data.config import ScanNetConfig
from clipfeat.errors import ClipfeatError, ConfigError
from clipfeat.extraction.config import ExtractConfig

ODD = [
    "run=3", "my scans", "a,b", "v(2)", "a#1", "it's", "a[0]", "a{b}", "a%20b", "a@b", "a&b", "a!b", "a;b", "räume",
    "場景", "a~b", "a$b", "a*b", "a?b", "a|b", "a`b", "a<b", 'a"b', "${x}", "a+b", "a:b", "a^b", r"a\b",
]  # fmt: skip
"""Names of folders that Hydra's grammar gives another meaning, or none."""

ODDER = [
    "1_000",
    "1e3",
    "007",
    "true",
    "a\\",
    "\\'",
    "'a",
    'a"',
    "${data.root",
    "\\${x}",
    "[a,b]",
    "{a: 1}",
    "a=b=c",
    "é ü",
]

HYDRA_S = ("Lexer", "mismatched", "hydra.cc", "Traceback", "no viable", "extraneous", "Config search path")


def value_of(word):
    """What a composed configuration holds of an override."""
    override = OverridesParser.create().parse_override(word)
    return OmegaConf.create({"key": override.value()})["key"]


@pytest.fixture
def said(run_main):
    """What a command says on standard error, which has none of Hydra's words, and its exit code."""

    def said(line, main=commands.extract_main):
        code, err = run_main(main, *shlex.split(line))
        assert not [word for word in HYDRA_S if word in err], err
        return code, err

    return said


@pytest.mark.parametrize("name", [*ODD, *ODDER])
@pytest.mark.parametrize("key", ["data.root", "output_dir", "model.pretrained", "model.head.weights", "scenes_file"])
def test_a_path_is_taken_as_it_stands(name, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (f"odd/{name}/scans", f"/{name}", name):
        if path in ("'a", "true"):
            continue
        if "," in path:
            Path(path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            path = path.lstrip("/")
        [word] = as_meant([f"{key}={path}"], "extract")
        assert value_of(word) == path
        assert as_meant([word], "extract") == [word]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if number % 7 == 0 else pytest.mark.slow) for number, name in enumerate(ODD)]
)
def test_scans_are_found_whatever_the_folder_is_called(name, run_cli, scans, tmp_path):
    """In bash: clipfeat-extract data.root='odd/<name>/scans' output_dir='out/<name>'."""
    root = tmp_path / "odd" / name / "scans"
    root.parent.mkdir(parents=True)
    scans.rename(root)
    code, err = run_cli(f"data.root=odd/{name}/scans", f"output_dir=odd/{name}/out", "frames_per_scene=1", "check=only")
    assert (code, "demo0000_00" in err) == (0, True), err


def test_a_run_in_an_odd_folder_goes_on_and_is_fused(run_cli, run_main, scans, tmp_path):
    name = "${x}, it's {b} = 50% \\ räume"
    root = tmp_path / name / "scans"
    root.parent.mkdir()
    scans.rename(root)
    for done in ("2 frames to do", "all 2 frames are done already"):
        code, err = run_cli(f"data.root={name}/scans", f"output_dir={name}/out", "frames_per_scene=1")
        assert code == 0, err
        assert done in err, err
    code, err = run_main(commands.fuse_main, f"store={name}/out", "points=voxel", f"output_dir={name}/fused")
    assert code == 0, err
    assert len(list((tmp_path / name / "fused").glob("*.npz"))) == 2


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["data.root=/data/scans", "seed=3", "vis=none"], None),
        (["data.masks={scene}/m/{frame}.png"], ["data.masks='{scene}/m/{frame}.png'"]),
        (["data.masks='…/{scene}/{frame}.png'"], None),
        (["data.masks={scene},{frame}.png"], ["data.masks='{scene},{frame}.png'"]),
        (['data.root="a b"'], None),
        (["data.root= x"], ["data.root=x"]),
        (["data.root =x"], ["data.root=x"]),
        (["data.root=null"], None),
        (["data.root="], None),
        (["scenes_file=${data.root}/list.txt"], None),
        (["scenes_file=${oc.env:HOME}/list.txt"], None),
        (["scenes_file=${data.root}/my,list.txt"], None),
        ([r"data.root=a\,b"], None),
        (["data.intrinsics=[525,525,319.5,239.5]"], None),
        (["data.intrinsics=intrinsics/{scene}.txt"], ["data.intrinsics='intrinsics/{scene}.txt'"]),
        (["+seed=3", "++seed=3", "+vis=pca"], ["seed=3", "seed=3", "vis=pca"]),
        (["+model={window:112}", "vis={name:pca}"], None),
        (["hydra/launcher=slurm", "+hydra.launcher.partition=gpu", "~hydra.foo"], None),
        (["hydra.job.name=it's"], [r"hydra.job.name='it\'s'"]),
        (["seed=int(3)", "sampling.num_points=null"], None),
    ],
)
def test_what_hydra_reads_as_it_was_meant_is_not_touched(words, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "my,list" in words[0]:
        (tmp_path / "${data.root}").mkdir()
        (tmp_path / "${data.root}" / "my,list.txt").touch()
        meant = ["scenes_file='${data.root}/my,list.txt'"]
    assert as_meant(words, "extract") == (meant or words)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["text=a chair"], None),
        (["text=[a chair,a lamp]"], None),
        (["text=what's this?"], [r"text='what\'s this?'"]),
        (["text=[what's this,a chair]"], [r"text=['what\'s this',a chair]"]),
        (["text=une fenêtre"], ["text='une fenêtre'"]),
        (["text=100 % {wool}"], ["text='100 % {wool}'"]),
    ],
)
def test_a_text_is_taken_as_it_stands(words, meant):
    assert as_meant(words, "query") == (meant or words)


def test_home_is_expanded_in_every_key_that_is_a_path_and_in_files(monkeypatch, tmp_path, run_main):
    monkeypatch.setenv("HOME", str(tmp_path / "räume = 1"))
    home = f"{tmp_path}/räume = 1"
    for name in COMMANDS:
        for key in keys_of(name).paths - {"data.intrinsics"}:
            [word] = as_meant([f"{key}=~/x"], name)
            assert value_of(word) == f"{home}/x"
    [word] = as_meant(["model.arch=local-dir:~/x"], "extract")
    assert value_of(word) == f"local-dir:{home}/x"
    [word] = as_meant(["data.root=~/a,~/b"], "extract", sweeps=True)
    assert word == f"data.root='{home}/a','{home}/b'"

    cfg = OmegaConf.structured(ExtractConfig)
    cfg.data = ScanNetConfig
    cfg.merge_with({"data": {"root": "~/scans", "masks": "${data.root}/m"}, "cache": {"path": "~"}, "device": "~"})
    expand_home(cfg)
    assert (cfg.data.root, cfg.data.masks, cfg.cache.path, cfg.device) == (
        f"{home}/scans",
        f"{home}/scans/m",
        home,
        "~",
    )

    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\ndata:\n  root: ~/scans\n")
    code, err = run_main(commands.extract_main, "experiment=mine", "--config-dir", "own")
    assert (code, err) == (
        1,
        f"clipfeat: data.root={home}/scans: no such folder, expected one that holds a folder a scene\n",
    )
    with pytest.raises(ClipfeatError, match="räume = 1/scans: no such folder"):
        clipfeat.extract("~/scans", "out")


def test_the_folder_of_a_sweep_is_at_home_wherever_that_was_said(monkeypatch, tmp_path, run_main):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\noutput_dir: ~/out\n")
    assert run_main(commands.extract_main, "-m", "--config-dir", "own", "experiment=mine", "seed=1,2", "data.root=x")[0]
    assert (tmp_path / "home" / "out" / "multirun.yaml").is_file()
    assert not (tmp_path / "~").exists()


def test_a_path_with_a_comma_is_one_if_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"several values, .* need -m: clipfeat-extract -m data.root=a,b …; one path "
    ):
        as_meant(["data.root=a,b"], "extract")
    (tmp_path / "a,b").mkdir()
    assert as_meant(["data.root=a,b"], "extract") == ["data.root='a,b'"]
    assert as_meant(["output_dir=a,b/new"], "extract") == ["output_dir='a,b/new'"]
    assert as_meant(["data.root=a,b", "seed=1,2"], "extract", sweeps=True) == ["data.root='a,b'", "seed=1,2"]
    assert as_meant(["data.root=c,d"], "extract", sweeps=True) == ["data.root=c,d"]
    assert as_meant(["data.root=c(1),d e"], "extract", sweeps=True) == ["data.root='c(1)',d e"]


WRONG = [
    ("vis=1", "vis=1: no such choice, expected one of heatmap, none, pca, tsne; say vis=tsne, or vis=none"),
    ("vis=true", "vis=true: no such choice, expected one of heatmap, none, pca, tsne; say vis=tsne, or vis=none"),
    ("vis=false", "vis=false: no such choice, expected one of heatmap, none, pca, tsne; say vis=none"),
    ("vis=null", "vis=null: no such choice, expected one of heatmap, none, pca, tsne; say vis=none"),
    ("cache=true", "cache=true: no such choice, expected one of lmdb, none; say cache=lmdb, or cache=none"),
    ("-m vis=1,2", "vis=1,2: no such choice"),
    ("sampling=5000", "sampling=5000: no such choice, expected one of depth, frame_points, mesh"),
    (
        "output=npz.gz",
        "output=npz.gz: no such choice, expected one of grid, h5, h5_scene, npz, segments; did you mean npz?",
    ),
    (
        "model=ViT-B/16",
        "model=ViT-B/16: no such choice, expected one of eva02_b16, mobileclip2_b, openai_b16,",
    ),
    ("data=/data/scans", "data=/data/scans: no such choice, expected one of arkitscenes,"),
    ("data=path", "data=path: no such choice, expected one of arkitscenes,"),
    ("model.head=text", "model.head=text: a choice is written with a slash: model/head=text"),
    ("head=text", "head=text: no such key; did you mean model/head=text?"),
    ("model/arch=x", "model/arch=x: a key is written with dots: model.arch=x"),
    ("+frames_per_scne=3", "frames_per_scne: no such key; did you mean frames_per_scene"),
    ("num_points=3", "num_points: no such key; did you mean sampling.num_points?"),
    ("frames-per-scene=3", "frames-per-scene: no such key; did you mean frames_per_scene?"),
    ("model@foo=vit_b16", "model@foo=vit_b16: each group has its own place here"),
    ("~seed", "~seed: a key can't be taken away"),
    ("seed=0,1", "seed=0,1: several values, each a run of its own, need -m: clipfeat-extract -m seed=0,1 …"),
    ("'seed=range(0,2)'", "seed=range(0,2): several values, each a run of its own, need -m"),
    ("vis=pca,none", "vis=pca,none: several values, each a run of its own, need -m"),
    ("data.root=a,b", "data.root=a,b: several values, each a run of its own, need -m"),
    ("seed=null", "seed=null: expected a value"),
    ("seed=3!", "seed: Value '3!' of type 'str' could not be converted to Integer"),
    (
        "data=demo data.root=x data.color_size=3",
        "data.color_size=[3]: expected [width,height] of at least 16",
    ),
    ("shard=0/4", "shard=0/4: is no key itself, expected one of shard.index, shard.count"),
    ("data=tum data.intrinsics=1,2,3,4", "data.intrinsics=1,2,3,4: a list is written 'data.intrinsics=[1,2,3,4]', and"),
    ("-m hydra.launcher=slurm", "hydra.launcher=slurm: a choice is written with a slash: hydra/launcher=slurm"),
    ("--config-dir nope", "--config-dir="),
    (
        "data.root=my scans",
        "cannot read the override 'scans': expected key=value; several words are one value in",
    ),
    ("data.root:/x", "cannot read the override 'data.root:/x': expected key=value; it is written data.root=/x"),
    ("—multirun", "cannot read the override '—multirun': expected key=value; a flag begins with two hyphens"),
    ("data.root= x", "cannot read the override 'x': expected key=value, without spaces around the ="),
    ("data.root = x", "cannot read the override 'data.root': expected key=value, without spaces around the ="),
    ("seed", "cannot read the override 'seed': expected key=value, such as seed=…"),
    (
        "/data/scans",
        "cannot read the override '/data/scans': expected key=value; a folder is told by its key, as",
    ),
    ("=3", "cannot read the override '=3': expected key=value"),
    ("''", "cannot read the override '': expected key=value"),
    ("--config-name nope", "--config-name=nope: no such configuration, expected one of extract, composer,"),
    ("--config-path nope", "--config-path: clipfeat.cli.nope is not there; files of your own are told by --config-dir"),
    ("--resolve", "The --resolve flag can only be used in conjunction with --cfg or --help"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_what_has_no_meaning_is_told_in_a_line(said, line, message):
    code, err = said(line)
    assert code == 1
    assert err.startswith(f"clipfeat: {message}"), err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--scenes_file data/x.txt --frames_per_scene 5 --output_dir out --vis 1 --dtype fp16",
            "keys are written without dashes, as scenes_file=data/x.txt frames_per_scene=5 output_dir=out vis=tsne "
            "output.dtype=float16",
        ),
        ("--data-root=/x --no-report seed=3", "keys are written without dashes, as data.root=/x report=false"),
        (
            "--head text --foo 3",
            "keys are written without dashes, as model/head=text, and --foo is nothing that is known",
        ),
        ("-o out", "no such flag; keys are written without dashes, as key=value, and --help lists them"),
        ("--experimental-rerun x", "is not there, for it runs what a pickle says"),
        ("--cfg foo", "expected one of job, hydra, all"),
        ("--config-dir", "a value is missing, expected a folder with YAML files of your own"),
        ("--help=3", "--help takes no value"),
    ],
)
def test_a_flag_that_is_none_ends_as_in_argparse(said, line, message):
    code, err = said(line)
    assert code == 2
    typed = shlex.join(one for one in shlex.split(line) if one != "seed=3")
    assert err == f"clipfeat: {typed}: {message}\n" or (err.startswith("clipfeat: --") and message in err), err
    assert err.count("\n") == 1


def test_flags_may_stand_anywhere():
    assert for_hydra(["data.root=x", "-m", "seed=0,1", "--cfg=job"], "extract") == [
        "--multirun", "--cfg", "job", "data.root=x", "seed=0,1",
    ]  # fmt: skip
    assert for_hydra(["--multi", "--", "seed=0,1"], "extract") == ["--multirun", "seed=0,1"]
    assert for_hydra(["store=x", "-cn", "composer", "-i"], "fuse") == ["--config-name", "composer", "--info", "store=x"]
    assert for_hydra(["-sc", "install=bash"], "fuse") == ["-sc", "install=bash"]


def test_the_flags_are_hydra_s():
    with late_help_accepted():
        parser = {tuple(a.option_strings): a for a in get_args_parser()._actions if a.option_strings}
    assert set(parser) - {("--experimental-rerun",)} == set(FLAGS)
    for names, takes in FLAGS.items():
        action = parser[names]
        assert (action.nargs == 0) == (takes is None)
        assert list(action.choices or ()) == (sorted(takes, key=list(action.choices).index) if action.choices else [])


def test_what_is_a_path_is_declared_as_one():
    """By the names of the keys, so that a new one is not forgotten."""
    for schema in [*COMMANDS.values(), *(schema for _, schema in schemas_of())]:
        for key in fields(schema):
            words = set(key.name.split("_"))
            if words & {"root", "dir", "file", "path", "store", "folder"} and key.name != "root_is_scene":
                assert is_path(key), (schema, key.name)


def test_groups_are_those_of_the_command():
    assert set(keys_of("query").groups) == set()
    assert set(keys_of("vis").groups) == {"vis"}
    assert {"data", "model", "model/head", "experiment", "cache"} < set(keys_of("extract").groups)
    assert keys_of("extract").groups["model/head"] == ["none", "pixelshuffle", "proj128", "text"]
    assert {"fuse.store", "data.masks", "sampling.points_file"} <= keys_of("composer").paths


@pytest.mark.parametrize(
    ("main", "line", "message"),
    [
        (commands.fuse_main, "--store x", "--store x: keys are written without dashes, as store=x"),
        (
            commands.vis_main,
            "vis=1 store=x",
            "vis=1: no such choice, expected one of heatmap, none, pca, tsne; say vis",
        ),
        (
            commands.query_main,
            "store=x scenes=a,b",
            "scenes=a,b: a list is written 'scenes=[a,b]', and one text with a",
        ),
        (commands.train_main, "store=$x", "$x"),
        (commands.evaluate_main, "candidates=none data.root=nowhere", "data.root=nowhere: no such folder"),
        (commands.evaluate_main, "candidates=no data.root=x", "candidates=no: 'no' is not known"),
        (commands.fit_head_main, "output_file=a=b", "output_file=a=b: expected a .safetensors file"),
        (commands.export_main, "out", "cannot read the override 'out': expected key=value"),
    ],
)
def test_every_command_says_so(said, main, line, message):
    code, err = said(line + (" data.root=x" if main is commands.fit_head_main else ""), main)
    assert code in (1, 2)
    assert err.startswith(f"clipfeat: {message}"), err
    assert err.count("\n") == 1


def test_from_python_overrides_are_taken_as_they_were_meant(tmp_path):
    for overrides, message in (
        (["vis=1"], "vis=1: no such choice"),
        (["scenes_file=a=b.txt"], "scenes_file=a=b.txt: no such file"),
        (["seed=0,1"], "seed=0,1: several values"),
    ):
        with pytest.raises(ClipfeatError) as caught:
            clipfeat.extract(tmp_path, "out", overrides=overrides)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["fuse", "store=x", "--cfg", "job"]])
def test_nothing_is_said_where_nobody_reads_on(arguments):
    program = f"import sys; sys.argv = {['clipfeat', *arguments]}\nfrom clipfeat.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=CHECKOUT
    ) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)
