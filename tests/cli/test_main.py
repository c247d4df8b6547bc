import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
from conftest import CHECKOUT
from stores import arrays, assert_same_arrays

import clipfeat
from clipfeat.cli import commands
from clipfeat.cli.main import SUBCOMMANDS, main

SCRIPT = """
import sys
from clipfeat.cli.main import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""What pip makes of an entry point."""


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    """Runs ``clipfeat`` with some arguments, in this process and an empty folder; (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments, entry=main, name="clipfeat"):
        monkeypatch.setattr(sys, "argv", [f"/bin/{name}", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # a command sets it
        code = 0
        try:
            entry()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def entry_of(name):
    module, function = SUBCOMMANDS[name][0].split(":")
    return getattr(import_module(module), function)


def test_there_is_a_program_for_each_command_and_one_for_all():
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    own = {f"clipfeat-{name}": place for name, (place, _) in SUBCOMMANDS.items()}
    assert scripts == own | {"clipfeat": f"{main.__module__}:{main.__name__}"}
    assert all(callable(entry_of(name)) for name in SUBCOMMANDS)


def test_help_lists_the_commands_and_imports_none():
    program = (
        "import sys; sys.argv = ['clipfeat', '--help']\n"
        "from clipfeat.cli.main import main; main()\n"
        "print('slow:', sorted({'hydra', 'omegaconf', 'torch', 'numpy', 'argparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert done.stdout.splitlines()[-1] == "slow: []"
    for name, (_, what) in SUBCOMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", done.stdout, re.MULTILINE)
    assert "clipfeat COMMAND --help" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_without_a_command_the_help_is_an_error(said):
    assert said() == (2, "", said("--help")[1])
    assert said("-h") == said("--help")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("extrac", "did you mean extract?"),
        ("fit_head", "did you mean fit-head?"),
        ("data.root=x", "clipfeat --help lists them"),
        ("--versio", "clipfeat --help lists them"),
    ],
)
def test_an_unknown_command_gets_one_line_and_exit_code_two(said, word, hint):
    assert said(word, "--help") == (2, "", f"clipfeat: {word}: no such command; {hint}\n")


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_command_tells_the_version_of_clipfeat(said, name):
    told = (0, f"clipfeat {clipfeat.__version__}\n", "")
    assert said("--version") == told
    assert said(name, "--version") == told
    assert said("--version", entry=entry_of(name), name=f"clipfeat-{name}") == told


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_is_right_under_both_names(said, name):
    code, own, err = said("--help", entry=entry_of(name), name=f"clipfeat-{name}")
    assert (code, err) == (0, "")
    code, common, err = said(name, "--help")
    assert (code, err) == (0, "")
    assert re.match(rf"(usage: )?clipfeat-{name} ", own)
    assert re.match(rf"(usage: )?clipfeat {name} ", common)
    assert "clipfeat-" not in common
    # The same words, and columns that stay where they were.
    assert re.sub(r"clipfeat-\s*", "clipfeat ", own).split() == common.split()
    assert list(map(len, own.splitlines())) == list(map(len, common.splitlines()))


def test_what_only_looks_like_a_command_in_a_help_is_left_as_it_is(said):
    shown = said("extract", "--help", "output_dir=/data/clipfeat-extract", "scenes_file=clipfeat-fuse-1.txt")[1]
    assert "output_dir: /data/clipfeat-extract\n" in shown
    assert "scenes_file: clipfeat-fuse-1.txt\n" in shown


def test_an_argparse_error_names_the_program_that_was_typed(said):
    code, out, err = said("inspect")
    assert (code, out) == (2, "")
    assert err.startswith("usage: clipfeat inspect ")
    assert "clipfeat inspect: error: the following arguments are required: path" in err
    code, _, err = said(entry=commands.inspect_main, name="clipfeat-inspect")
    assert code == 2
    assert err.startswith("usage: clipfeat-inspect ")


def test_a_hint_names_the_program_that_was_typed(said):
    told = "clipfeat: xyz: no such key; {} --help lists the keys\n"
    assert said("extract", "xyz=3") == (1, "", told.format("clipfeat extract"))
    assert said("xyz=3", entry=commands.extract_main) == (1, "", told.format("clipfeat-extract"))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("extract", ["data.root=nowhere"]),
        ("extract", ["--config-name=composer", "fuse.best_view=3"]),
        ("extract", ["--no-such-flag"]),
        ("extract", ["-m", "data.root=nowhere", "seed=0,1"]),
        ("extract", ["data.root=x", "--cfg", "job"]),
        ("fuse", ["store=nowhere"]),
        ("query", []),
        ("inspect", ["nowhere"]),
        ("report", ["nowhere"]),
        ("view", ["nowhere"]),
    ],
)
def test_a_command_ends_and_says_the_same_under_both_names(said, name, arguments):
    own = said(*arguments, entry=entry_of(name), name=f"clipfeat-{name}")
    assert own == said(name, *arguments)
    assert own[0] == (2 if "--no-such-flag" in arguments else 0 if "--cfg" in arguments else 1)


def test_the_command_line_that_the_work_sees_can_be_run_again(said, monkeypatch):
    seen = []
    monkeypatch.setattr(commands, "fuse_main", lambda: seen.append(list(sys.argv)))
    said("fuse", "store=x", "-m")
    assert seen == [["/bin/clipfeat-fuse", "store=x", "-m"]]


@pytest.mark.slow
def test_a_run_its_processes_and_a_sweep_work_under_the_common_name(
    run_cli, demo_root, tmp_path, monkeypatch, start_warm
):
    """``devices`` starts processes that look for the program again, and a sweep calls the work several times."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "clipfeat").write_text(SCRIPT)
    small = ["model.arch=ViT-S-32-alt", "model.pretrained=null", "vis=none", "sampling.num_points=100", "report=false"]
    small += [f"data.root={demo_root}", "frames_per_scene=1"]
    assert run_cli(*small, "output_dir=plain", tiny=False, small=False)[0] == 0

    two = ["extract", *small, "output_dir=two", "devices=2"]
    program = start_warm(tmp_path / "clipfeat", two, dict(os.environ))
    _, err = program.communicate(timeout=240)
    assert program.returncode == 0, err
    assert re.search(r"^\[1\] ", err, re.MULTILINE)
    assert_same_arrays(tmp_path / "two", arrays(tmp_path / "plain"))
    sweep = ["extract", "-m", *small, "output_dir=sweep", "seed=0,1"]
    program = start_warm(tmp_path / "clipfeat", sweep, dict(os.environ))
    _, err = program.communicate(timeout=240)
    assert program.returncode == 0, err
    assert len(list((tmp_path / "sweep").glob("*/*/frame_*.npz"))) == 4
