import os
import subprocess
import sys

import pytest
from conftest import CHECKOUT


@pytest.mark.parametrize("overrides", [["--help"], ["data.root=x", "--cfg", "job"]])
def test_questions_are_answered_without_importing_what_is_slow(overrides):
    program = (
        "import sys, clipfeat.cli.commands\n"
        f"sys.argv = ['clipfeat-extract', *{overrides!r}]\n"
        "try:\n    clipfeat.cli.commands.extract_main()\n"
        "finally:\n"
        "    heavy = {'torch', 'open_clip', 'sklearn', 'matplotlib', 'scipy', 'h5py', 'numpy'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert "heavy: []" in done.stderr
    assert "sampling" in done.stdout
    assert "num_points: 20000" in done.stdout


def environment():
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


def test_help_shows_how_to_start():
    done = subprocess.run(
        [sys.executable, "-c", "import clipfeat.cli.commands; clipfeat.cli.commands.extract_main()", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    for phrase in ("experiment=demo", "data.root=", "on_bad_frame=skip|fail", "model.pretrained=null"):
        assert phrase in done.stdout
