import os
import subprocess
import sys

import pytest
from conftest import CHECKOUT

SCRIPT = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from clipfeat.system.processes import FreshContext

print("script", __name__, flush=True)
with ProcessPoolExecutor(2, FreshContext()) as pool:
    there = set(pool.map(os.path.basename, ["a/b"] * 4))
    other = pool.submit(os.getpid).result()
main = sys.modules["__main__"]
print(there, other != os.getpid(), getattr(main, "__file__", None), main.__spec__ and main.__spec__.name)
"""


@pytest.mark.parametrize("start", [["script.py"], ["-m", "script"]])
def test_a_script_that_guards_nothing_runs_once_and_has_its_names_back(tmp_path, start):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *start],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    name = "script" if start[0] == "-m" else None
    assert done.stdout.splitlines() == ["script __main__", f"{{'b'}} True {tmp_path / 'script.py'} {name}"]


def test_a_notebook_s_main_module_gets_no_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["script __main__", "{'b'} True None None"]
