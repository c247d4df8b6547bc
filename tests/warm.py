"""Programs that start in milliseconds: forked from a process that has imported what is slow, and has computed nothing.

Python, torch and open_clip take seconds to import, a processor's and not only the clock's. Where a test is of what a
process does, and not of how it starts, it can begin here. The process that is forked is multiprocessing's own server.
"""

import multiprocessing
import os
import subprocess
import sys
import types
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path

PRELOADED = (
    "open_clip", "clipfeat.cli.commands", "clipfeat.extraction.extract", "clipfeat.extraction.launch",
    "clipfeat.extraction.uv_index", "clipfeat.output.store", "clipfeat.vis.painters", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "sklearn.decomposition", "sklearn.manifold", "mutations",
)  # fmt: skip


def warm_context():
    """A context of multiprocessing whose processes have imported what is slow.

    Its server is started with the first process, and ends with this one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    return context


@contextmanager
def importable(paths):
    """Lets the server import what tests import; until Python 3.12 it is not told of ``sys.path``."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Started:
    """A process as ``subprocess.Popen`` has it; what it prints goes to files."""

    def __init__(self, process, outputs):
        self._process, self._outputs = process, outputs
        self.pid = process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout):
        """Waits for its end; returns what it printed, and its standard error."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a warm program", timeout, *(path.read_bytes() for path in self._outputs))
        return tuple(path.read_text() for path in self._outputs)

    def end(self):
        self._process.kill()
        self._process.join()


def start(context, program, arguments, cwd, environment, outputs):
    """Starts a Python program.

    Args:
        context: of multiprocessing; warm.
        program: a file, or the text of a program.
        arguments: of its command line.
        cwd: folder that it works in.
        environment: all of its variables.
        outputs: files of its standard output and its standard error.
    """
    for path in outputs:
        path.touch()
    process = context.Process(target=_run, args=(program, list(map(str, arguments)), cwd, environment, outputs))
    process.start()
    return Started(process, outputs)


_spawn = util.spawnv_passfds


def _serve_or_spawn(path, arguments, descriptors):
    """Lets the server that a program starts in its turn be a copy of the program, which has imported all it wants."""
    command = arguments[-1]
    if "forkserver" not in command:
        return _spawn(path, arguments, descriptors)
    process = os.fork()
    if process:
        return process
    try:
        alive = descriptors[-1]  # ends when all who hold the other end have ended, of whom a copy must not be one
        for other in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if other != alive and _same_pipe(other, alive):
                os.close(other)
        sys.modules["__main__"] = types.ModuleType("__main__")  # or its children took the program for imported
        exec(command, {})  # noqa: S102
    except SystemExit:
        os._exit(0)
    finally:
        os._exit(1)


def _same_pipe(one, other):
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _run(program, arguments, cwd, environment, outputs):
    os.chdir(cwd)
    util.spawnv_passfds = _serve_or_spawn
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if isinstance(program, Path):
        main.__file__, sys.argv = str(program), [str(program), *arguments]
        sys.path.insert(0, str(program.parent))
        program = program.read_text()
    else:
        sys.argv = ["-c", *arguments]
    exec(compile(program, main.__dict__.get("__file__", "<string>"), "exec"), main.__dict__)  # noqa: S102
