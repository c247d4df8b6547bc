import os
import subprocess
import sys

import pytest
from conftest import CHECKOUT

from clipfeat.system.compiled import compiled


def test_a_compiled_function_does_what_it_says():
    half = compiled(error_model="numpy")(lambda a, b: a / b)
    assert half(1.0, 2.0) == 0.5
    assert half(1.0, 0.0) == float("inf")
    with pytest.raises(ZeroDivisionError):
        compiled()(lambda a, b: a / b)(1.0, 0.0)


@pytest.mark.parametrize("place", [False, True])
def test_where_machine_code_can_not_be_kept_it_is_made_anew(tmp_path, place):
    """As in a container without a home whose packages belong to another; files in the way do the same to any user."""
    (tmp_path / "looped.py").write_text(
        "from clipfeat.system.compiled import compiled\n\n\n@compiled()\ndef half(x):\n    return x / 2\n"
    )
    if not place:
        (tmp_path / "__pycache__").touch()
    environment = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    environment |= {"HOME": "/dev/null", "PYTHONPATH": f"{tmp_path}:{CHECKOUT}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from looped import half; print(half(3.0))"],
        env=environment, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.5"
    assert (tmp_path / "__pycache__").is_dir() == place


def test_every_loop_is_compiled_by_it():
    """A loop that numba is told of elsewhere ends each command where its machine code can't be kept."""
    package = CHECKOUT / "clipfeat"
    found = [path for path in package.rglob("*.py") if "cache=True" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(package).as_posix() for path in found] == ["system/compiled.py"]
