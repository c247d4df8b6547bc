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
from pathlib import Path

PRELOADED = ("open_clip", "clipfeat.cli.commands", "clipfeat.extraction.extract", "clipfeat.output.store", "mutations")


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
    """A process as ``subprocess.Popen`` has it; what it prints goes to a file."""

    def __init__(self, process, output):
        self._process, self._output = process, output
        self.pid = process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout):
        """Waits for its end; returns what it printed, standard error too, in the place of standard error."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a warm program", timeout, stderr=self._output.read_bytes())
        return None, self._output.read_text()

    def end(self):
        self._process.kill()
        self._process.join()


def start(context, program, arguments, cwd, environment, output):
    """Starts a Python program.

    Args:
        context: of multiprocessing; warm.
        program: a file, or the text of a program.
        arguments: of its command line.
        cwd: folder that it works in.
        environment: all of its variables.
        output: file that it prints to.
    """
    process = context.Process(target=_run, args=(program, list(map(str, arguments)), str(cwd), environment, str(output)))
    process.start()
    return Started(process, output)


def _run(program, arguments, cwd, environment, output):
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if isinstance(program, Path):
        main.__file__, sys.argv = str(program), [str(program), *arguments]
        program = program.read_text()
    else:
        sys.argv = ["-c", *arguments]
    exec(compile(program, main.__dict__.get("__file__", "<string>"), "exec"), main.__dict__)  # noqa: S102
