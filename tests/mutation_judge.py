"""Judges what a run makes of a damaged file."""

import json
import resource
import shutil
import traceback
from pathlib import Path

import numpy as np
import torch
from mutation_kinds import FIRST, KINDS, SCANS, SECOND
from mutation_worlds import CASE, OUT, register_arch, run_config
from sens_writer import FIXED

from clipfeat.errors import ClipfeatError, DataError
from clipfeat.extraction.extract import extract
from clipfeat.model.load import load_model
from clipfeat.output.files import FORMATS
from clipfeat.output.store import FeatureStore

GROWTH = 256 << 20
"""Bytes that a child's resident memory may grow by in one case."""
LONGEST = 1000
"""Characters of a message that is still one clear line."""
_ARRAYS = ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx", "clip_global")


class Judge:
    """Runs cases in the working directory and judges them.

    Args:
        worlds: what ``make_worlds`` wrote.
        stderr: a file that standard error goes to.
        kinds: of the cases.
    """

    def __init__(self, worlds, stderr, kinds):
        self.worlds, self.stderr = worlds, stderr
        register_arch(worlds)
        self.configs = {name: run_config(KINDS[name].overrides) for name in kinds}
        self.model = load_model(run_config(SCANS).model, torch.device("cpu"), 0)
        self.expected = {}
        for name in kinds:
            self._copy(KINDS[name])
            self._extract(name)
            self.expected[name] = load_all(self._folder(name))
            if len(self.expected[name]) < 4:
                raise RuntimeError(f"{name}: only {len(self.expected[name])} frames come out of undamaged input")

    def __call__(self, case):
        """The outcome of a case, and a detail."""
        kind = KINDS[case.kind]
        self._copy(kind)
        path = CASE / case.file
        before = path.read_bytes()
        path.unlink()
        if case.data is not None:
            path.write_bytes(case.data)
        elif case.damage == "folder":
            path.mkdir()
        noise, peak = self.stderr.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        messages = []
        try:
            if case.kind in FORMATS:
                messages.append(said(lambda: load_all(self._folder(case.kind))))
            stop = said(lambda: self._extract(case.kind))
        except MemoryError:
            return "MEMORY", traceback.format_exc()
        except Exception:  # noqa: BLE001 - this is what is looked for
            return "TRACEBACK", traceback.format_exc()
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        if grown > GROWTH:
            return "MEMORY", f"{grown >> 20} MiB more; {stop}"
        failures = self._failures(case.kind)
        messages = [message for message in (*messages, stop, *failures.values()) if message]
        for message in messages:
            if "the layout's own code raised" in message:  # what GuardedDataset makes of an error that nobody foresaw
                return "TRACEBACK", message
            if why := unclear(message, (path.name, *kind.names), case.file):
                return "UNCLEAR", f"{why}: {message[:3000]}"
        if self.stderr.stat().st_size > noise:
            return "NOISE", self.stderr.read_bytes()[noise:].decode(errors="replace")[:3000]
        # A folder in the place of a file that is to be written is trouble with the output, not with the input.
        may_stop = kind.stops or "frames failed" in stop or (kind.resumes and case.damage == "folder")
        if stop and not may_stop:
            return "WRONG", f"the run ended: {stop}"
        if why := self._compare(case, before, stopped=bool(stop)):
            return "WRONG", f"{why}; {messages}"
        return ("failed" if messages else "done"), " | ".join(messages)

    def _copy(self, kind):
        for folder in (CASE, OUT):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.worlds / kind.world, CASE)
        if kind.resumes:  # something to do
            FeatureStore(CASE / "out").path(SECOND, 20).unlink()

    def _extract(self, name):
        extract(self.configs[name], None if name in ("head", "lmdb") else self.model)

    def _folder(self, name):
        return Path(self.configs[name].output_dir)

    def _failures(self, name):
        """Why frames failed that do not fail on undamaged input."""
        path, failed = self._folder(name) / "frames.jsonl", {}
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                if record["status"] == "failed":
                    failed[record["scene_id"], f"frame_{record['frame_id']}"] = record["why"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # a line that was damaged
        return {key: why for key, why in failed.items() if key in self.expected[name] or key[1] == "frame_None"}

    def _compare(self, case, before, *, stopped):
        """What is not as it should be with the frames that do not depend on the file; empty if nothing is."""
        kind, expected = KINDS[case.kind], self.expected[case.kind]
        fails, differs = (self._touched(case, before, scope) for scope in (kind.may_fail, kind.may_differ))
        if case.kind in FORMATS and case.damage != "folder":  # what reading it says was looked at
            (CASE / case.file).unlink(missing_ok=True)
        folder = self._folder(case.kind)
        try:
            found = load_all(folder) if any((*folder.glob("*/frame_*"), *folder.glob("*.h5"))) else {}
        except DataError as error:
            return f"what was written can't be read: {error}"
        for key in expected:
            if key not in found:
                if key not in fails and not stopped:
                    return f"{key} is missing"
            elif key not in differs and not _equal(found[key], expected[key]):
                return f"{key} differs"
            elif not all(np.isfinite(getattr(found[key], name)).all() for name in _ARRAYS):
                return f"{key} holds inf or NaN"
        return ""

    def _touched(self, case, before, scope):
        """The frames that depend on the file."""
        keys = set(self.expected[case.kind])
        if scope in ("all", "none"):
            return keys if scope == "all" else set()
        stem = Path(case.file).stem
        if case.kind == "sens":
            return sens_frames(before, case.data or b"", stem)
        scene = FIRST if FIRST in case.file else SECOND
        frame = f"frame_{stem.removeprefix('frame_').removeprefix('uv_')}"
        return {key for key in keys if key[0] == scene and (scope == "scene" or key[1] == frame)}


def load_all(folder):
    """(scene, frame_<i>) to the features of all frames of a run."""
    store = FeatureStore(folder)
    return {(s, f"frame_{i}"): store.load(s, i) for s in store.scenes for i in store.frames(s)}


def said(work):
    """What the work says when it ends with one of clipfeat's errors; empty if it does not."""
    try:
        work()
    except ClipfeatError as error:
        if for_want_of_memory(error):
            raise MemoryError(str(error)) from error
        return str(error)
    return ""


def sens_frames(before, after, scene):
    """The frames of a recording that a change of its bytes may reach, as (scene, frame_<i>)."""
    at = 12 + int.from_bytes(before[4:12], "little") + 256 + 36  # where the header ends
    all_that_follow, reached = before[:at] != after[:at], set()
    for frame_id in range(3):
        sizes = at + FIXED - 16
        end = at + FIXED + sum(int.from_bytes(before[sizes + i : sizes + i + 8], "little") for i in (0, 8))
        all_that_follow |= before[sizes : at + FIXED] != after[sizes : at + FIXED]
        if all_that_follow or before[at:end] != after[at:end]:
            reached.add((scene, f"frame_{frame_id}"))
        at = end
    return reached


def _equal(a, b):
    """Whether two frames hold the same arrays, to the bit."""
    first, second = ({name: getattr(x, name) for name in _ARRAYS} | x.attributes for x in (a, b))
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]) for name in first
    )


def unclear(message, names, file):
    """What keeps a message from being one clear line that names the file, or its frame; empty if nothing does."""
    if len(message.splitlines()) != 1:
        return "not one line"
    if len(message) > LONGEST:
        return f"{len(message)} characters"
    if not message.isprintable():
        return "holds what can't be printed"
    scene = FIRST if FIRST in file else SECOND
    names = [*names, f"{scene} frame {Path(file).stem.removeprefix('frame_').removeprefix('uv_')}", "frames failed;"]
    return "" if any(name in message for name in names) else "does not name the file"


def for_want_of_memory(error):
    """Whether an error came about because more memory was asked for than there may be."""
    while error is not None:
        if isinstance(error, MemoryError) or "llocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
