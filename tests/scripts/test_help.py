"""What the scripts say of themselves: command lines that a shell can read, and a line where something is wrong."""

import ast
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import CHECKOUT
from stores import some_features, write_store

SCRIPTS = sorted((CHECKOUT / "scripts").glob("*.py"))


def commands(path):
    """The command lines of a script's docstring, each with the lines that go on with it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"^    (?:python|clipfeat[a-z-]*) +(.*)$", joined, re.MULTILINE)
    return [arguments.split("  ")[0] for arguments in found]  # what follows says what it does


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_can_read_the_command_lines(path):
    for arguments in commands(path):
        done = subprocess.run(
            ["bash", "-uc", f"printf '%s\\n' {arguments}"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert "{data.root}" not in arguments or '"${data.root}/{scene}/{scene}_' in done.stdout


@pytest.fixture
def run(monkeypatch, capsys):
    def make(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(CHECKOUT / "scripts" / name), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return make


def test_the_help_of_the_uv_index_is_its_own(run):
    code, out, _ = run("build_uv_index.py", "--help")
    assert code == 0
    assert out.startswith("Writes the uv index of all frames")
    assert "clipfeat-extract --help lists them" in out


def test_a_scene_that_is_not_there_is_said_in_a_line(run, tmp_path, monkeypatch):
    write_store(tmp_path, {(f"room{i}", 0): some_features(i, 5) for i in range(7)})
    said = f"{tmp_path}: holds no frame of a scene rom, but of room0, room1, room2, room3, room4 and 2 more\n"
    assert run("stream_demo.py", tmp_path, "--scene", "rom") == (1, "", f"stream_demo: {said}")
    monkeypatch.setattr("clipfeat.extraction.scans.read_run_config", lambda _: SimpleNamespace(data=None, seed=0))
    monkeypatch.setattr("clipfeat.extraction.scans.Scans", lambda *_: None)
    assert run("vis_clip_feat.py", tmp_path, "rom", tmp_path / "out") == (1, "", f"vis_clip_feat: {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: scripts/try_versions.sh lowest|newest PYTHON"),
        (["oldest", sys.executable], "oldest: expected lowest or newest; usage: "),
        (["lowest", "no-python"], "no-python: is no command; usage: "),
    ],
)
def test_what_versions_to_try_has_to_be_said(arguments, said):
    command = ["bash", str(CHECKOUT / "scripts" / "try_versions.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert not done.stdout
