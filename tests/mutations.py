"""Damaged inputs of every kind, and whether a run takes each as it should.

Behind test_mutations.py and scripts/mutate.py.

A case damages one file of a small data set, a cache or a former run, does the work of clipfeat-extract on it and looks:
bad input may fail, but by one of clipfeat's errors, in one clear line that names the file, soon, and without memory for
what a header only claims; and all frames that do not depend on the file come out as before, to the bit.

Cases run in a child process whose memory is limited: a crash of a library ends the child, and not the others.
"""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import tempfile
import traceback
import warnings
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import layouts
import mutators
import numpy as np
import open_clip
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from sens_writer import FIXED, write_like

from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.demo import SceneOptions, render_scenes
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.scannet200_mv import ESAM_INTRINSICS, ESAM_SIZE
from clipfeat.errors import ClipfeatError, DataError
from clipfeat.extraction.extract import extract
from clipfeat.extraction.uv_index import write_uv_index
from clipfeat.model.clip_model import load_model
from clipfeat.model.heads import build_head
from clipfeat.output.files import FORMATS
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.point_files import read_points
from clipfeat.types import Camera

MEMORY = 1 << 30
"""Bytes that a child may ask for beyond what it has when it is ready."""
GROWTH = 256 << 20
"""Bytes that its resident memory may grow by in one case."""
LONGEST = 1000
"""Characters of a message that is still one clear line."""

DAMAGES = (*mutators.BLIND, "numbers", "swap", "gone", "folder")
GOOD = ("done", "failed")
BAD = ("TRACEBACK", "CRASH", "HANG", "MEMORY", "WRONG", "UNCLEAR", "NOISE")

ARCH = "clipfeat-mutated-ViT"
FIRST, SECOND = "demo0000_00", "demo0001_00"
_CASE, _OUT = Path("case"), Path("out")  # in the folder that a child works in: a run's files hold its paths
_ARRAYS = ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx", "clip_global")


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        world: folder of the undamaged inputs; each case has a copy of it, named case.
        files: patterns of those that are damaged.
        overrides: of the run.
        may_fail: which frames may fail by it: those of the same frame, of the same scene, all or none.
        may_differ: which frames may come out otherwise, likewise.
        stops: whether the whole run may end with an error.
        names: what a message may say instead of the file's name.
        resumes: whether the run goes on with one whose files are damaged.
    """

    world: str
    files: tuple[str, ...]
    overrides: tuple[str, ...]
    may_fail: str = "frame"
    may_differ: str = "frame"
    stops: bool = False
    names: tuple[str, ...] = ()
    resumes: bool = False


_SCANS = ("data.root=case",)
_BELOW = ("data.root=case/scans",)
_MESH = (*_SCANS, "sampling=mesh", "sampling.num_points=50")
_SCENE, _ALL = {"may_fail": "scene", "may_differ": "scene"}, {"may_fail": "all", "may_differ": "all"}

KINDS = {
    # A picture of another size gets another K, or none that fits it.
    "jpeg": Kind("scans", (f"{FIRST}/color/*",), _SCANS, names=("intrinsic_color.txt",)),
    "png": Kind("scans", (f"{SECOND}/color/*",), _SCANS, names=("intrinsic_color.txt",)),
    "depth": Kind("scans", ("*/depth/*",), _SCANS),
    "mask": Kind("scans", ("*/instance-filt/*",), (*_SCANS, "data.masks='case/{scene}/instance-filt/{frame}.png'")),
    "mask mapping": Kind(
        "scans",
        ("mapping.json",),
        (*_MESH, "data.masks='case/{scene}/instance-filt/{frame}.png'", "camera.mask_instances=case/mapping.json"),
        **_ALL,
        stops=True,
    ),
    "pose": Kind("scans", ("*/pose/*",), _SCANS),
    "intrinsics": Kind("scans", ("*/intrinsic/intrinsic_*",), _SCANS, **_SCENE),
    "check": Kind("scans", ("*/depth/*", "*/pose/*", "*/*_clean_2.ply"), (*_SCANS, "check=yes")),
    "scenes_file": Kind("scans", ("scenes.txt",), (*_SCANS, "scenes_file=case/scenes.txt"), "all", "none", stops=True),
    "ply": Kind(
        "scans", ("*/*.ply",), (*_MESH, "sampling.labels_file='case/{scene}/{scene}_vh_clean_2.labels.ply'"), **_SCENE
    ),
    "point npz": Kind("scans", ("points/*",), (*_MESH, "sampling.points_file='case/points/{scene}.npz'"), **_SCENE),
    "sens": Kind("sens", ("*",), ("data=sens", *_SCANS), **_SCENE, names=("no depth file",)),
    "tum": Kind(
        "tum",
        ("*/*.txt",),
        ("data=tum", *_SCANS, "data.intrinsics_size=[216,162]", "data.intrinsics=[195,195,107,80]"),
        **_SCENE,
        names=("no depth file", "no such file", "Is a directory"),  # what a damaged list names, or does not
    ),
    "replica": Kind("replica", ("*/traj.txt",), ("data=replica", *_SCANS), **_SCENE),
    "cam_params": Kind("replica", ("cam_params.json",), ("data=replica", *_SCANS), **_ALL),
    "open3d": Kind(
        "open3d",
        ("*/trajectory.log", "*/camera.param"),
        ("data=open3d", *_SCANS, "data.root_is_scene=false"),
        **_SCENE,
    ),
    "bin": Kind(
        "mv",
        ("points/*/*", "instance_mask/*/*"),
        ("data=scannet200_mv", *_SCANS, "sampling=frame_points"),
        names=("stores no points",),
    ),
    "head": Kind(
        "scans",
        ("head.safetensors",),
        (*_SCANS, "model/head=proj128", "model.head.weights=case/head.safetensors"),
        **_ALL,
        stops=True,
    ),
    "uv index": Kind("indexed", ("index/*/*",), (*_BELOW, "uv_index=case/index")),
    "index config": Kind(
        "indexed", ("index/config.yaml",), (*_BELOW, "uv_index=case/index"), **_ALL, stops=True, names=("uv_index=",)
    ),
    "lmdb": Kind(
        "cached",
        ("cache/*",),
        (*_BELOW, "cache=lmdb", "cache.path=case/cache"),
        "none",
        "none",
        stops=True,
        names=("cache.path=",),
    ),
    **{
        name: Kind(f"run_{name}", (f"out/{FIRST}/*",), (*_BELOW, f"output={name}", "output_dir=case/out"), resumes=True)
        for name, fmt in FORMATS.items()
        if not fmt.by_scene
    },
    "h5_scene": Kind(
        "run_h5_scene",
        (f"out/{FIRST}.h5",),
        (*_BELOW, "output=h5_scene", "output_dir=case/out"),
        **_SCENE,
        stops=True,
        names=("case/out: holds no",),  # where no other scene's file is left
        resumes=True,
    ),
    "run folder": Kind(
        "run_npz",
        ("out/config.yaml", "out/*.json*"),
        (*_BELOW, "output_dir=case/out"),
        "all",
        "none",
        stops=True,
        names=("case/out",),
        resumes=True,
    ),
}


@dataclass(frozen=True)
class Case:
    """One damaged file.

    Attributes:
        number: of the case; with the seed and the kinds it says all the rest.
        kind: name of the kind of input.
        damage: what was done to the file.
        file: its path in the world.
        data: its content now; None where it is gone or a folder.
    """

    number: int
    kind: str
    damage: str
    file: str
    data: bytes | None


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Attributes:
        case: what was damaged.
        outcome: one of ``GOOD`` or ``BAD``.
        detail: what was said, or what is wrong.
        seconds: that it took.
    """

    case: Case
    outcome: str
    detail: str
    seconds: float


def make_worlds(root):
    """Writes the undamaged inputs of all kinds into an empty folder."""
    _register_arch(root)
    scans = root / "scans"
    options = SceneOptions(num_frames=3, color_size=layouts.COLOR_SIZE, depth_size=(64, 48), mesh_spacing=0.3)
    render_scenes(scans, 2, options)
    layouts.write_tum(scans, root / "tum")
    layouts.write_replica(scans, root / "replica")
    layouts.write_open3d(scans, root / "open3d")
    fx, fy, cx, cy = ESAM_INTRINSICS
    camera = Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), *ESAM_SIZE).resized(160, 120)
    layouts.write_scannet200_mv(scans, root / "mv", camera.intrinsics, (160, 120), num_points=60)
    dataset = ScanNetDataset(scans)
    (scans / "points").mkdir()
    for scene, color in ((FIRST, "jpeg"), (SECOND, "png")):
        frames = [dataset.load(scene, i) for i in dataset.frame_ids(scene)]
        write_like(root / "sens" / f"{scene}.sens", frames, color=color)
        points = read_points(scans / scene / f"{scene}_vh_clean_2.ply")
        np.savez(scans / "points" / f"{scene}.npz", xyz=points.xyz, rgb=points.attributes["rgb"], instance=points.idx)
    for jpeg in (scans / SECOND / "color").glob("*.jpg"):
        Image.open(jpeg).save(jpeg.with_suffix(".png"))
        jpeg.unlink()
    (scans / "scenes.txt").write_text(f"# two rooms\n{FIRST}\n{SECOND}\n")
    (scans / "mapping.json").write_text(json.dumps({FIRST: {"1": 1, "2": 2}, SECOND: {"3": 3}}))
    save_file(build_head("proj128", 64, None, 5).state_dict(), scans / "head.safetensors")
    (root / "build").mkdir()
    with chdir(root / "build"):
        for kind in (*FORMATS, "lmdb", "uv index"):
            shutil.copytree(scans, _CASE / "scans")
            cfg = _config(KINDS[kind].overrides)
            write_uv_index(cfg) if kind == "uv index" else extract(cfg)
            _CASE.rename(root / KINDS[kind].world)
    shutil.rmtree(root / "build")


def _register_arch(root):
    """Lets open_clip know a ViT that it builds in milliseconds."""
    folder = root / "arch"
    folder.mkdir(exist_ok=True)
    vision = {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    words = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (folder / f"{ARCH}.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": words}))
    open_clip.add_model_config(folder)


def _config(overrides):
    """The configuration of clipfeat-extract with these overrides."""
    register_schemas()
    base = ["vis=none", f"model.arch={ARCH}", "model.pretrained=null", "model.input_size=64", "sampling.num_points=50"]
    # One frame a batch: in a batch with others, the last bits of a frame are others too.
    base += ["batch_size=1", "num_workers=1", "device=cpu", f"output_dir={_OUT}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose("extract", base + list(overrides)))


def draw_case(worlds, number, seed, kinds):
    """The case of a number: the kinds take turns, all else is drawn."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[kinds[number % len(kinds)]]
    world = worlds / kind.world
    path = _one_of(sorted(p for pattern in kind.files for p in world.glob(pattern)), rng)
    damage = _one_of(DAMAGES, rng)
    data = path.read_bytes()
    if damage == "numbers":
        data = mutators.numbers(data, rng, path.suffix)
    elif damage == "swap":  # half of them with a file of the same format
        suffix = path.suffix if rng.random() < 0.5 else ""
        others = sorted(p for p in worlds.rglob(f"*{suffix}") if p.is_file() and p != path)
        data = _one_of(others, rng).read_bytes()
    else:
        data = mutators.BLIND[damage](data, rng) if damage in mutators.BLIND else None
    return Case(number, kinds[number % len(kinds)], damage, path.relative_to(world).as_posix(), data)


def _one_of(choices, rng):
    return choices[rng.integers(len(choices))]


class Judge:
    """Runs cases in the working directory and judges them.

    Args:
        worlds: what ``make_worlds`` wrote.
        stderr: a file that standard error goes to.
        kinds: of the cases.
    """

    def __init__(self, worlds, stderr, kinds):
        self.worlds, self.stderr = worlds, stderr
        _register_arch(worlds)
        self.configs = {name: _config(KINDS[name].overrides) for name in kinds}
        self.model = load_model(_config(_SCANS).model, torch.device("cpu"), 0)
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
        path = _CASE / case.file
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
        for folder in (_CASE, _OUT):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.worlds / kind.world, _CASE)
        if kind.resumes:  # something to do
            FeatureStore(_CASE / "out").path(SECOND, 20).unlink()

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
            (_CASE / case.file).unlink(missing_ok=True)
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


def _child(pipe, worlds, scratch, seed, kinds):
    """Judges the cases whose numbers come through the pipe."""
    os.dup2(os.open(scratch / "stderr", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    os.chdir(scratch)
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.CRITICAL)  # as the command line does, less what it says itself
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", ResourceWarning)  # as Python does
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")  # as the command line does
    judge = Judge(worlds, scratch / "stderr", kinds)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        pipe.send(judge(draw_case(worlds, number, seed, kinds)))


def run_cases(worlds, numbers, seed, kinds, limit_s=10.0):
    """Yields the ``Result`` of each case. A child that hangs or crashes is followed by another.

    Args:
        worlds: what ``make_worlds`` wrote.
        numbers: of the cases.
        seed: of all cases.
        kinds: names of kinds, which take turns.
        limit_s: seconds that a case may take.
    """
    context = multiprocessing.get_context("spawn")
    child = pipe = None
    with tempfile.TemporaryDirectory(prefix="clipfeat-mutate-") as scratch:
        try:
            for number in numbers:
                if child is None:
                    pipe, theirs = context.Pipe()
                    child = context.Process(target=_child, args=(theirs, worlds, Path(scratch), seed, kinds))
                    child.start()
                    theirs.close()
                    try:
                        pipe.recv()
                    except EOFError:
                        raise RuntimeError((Path(scratch) / "stderr").read_text()) from None
                begin = monotonic()
                pipe.send(number)
                try:
                    outcome, detail = pipe.recv() if pipe.poll(limit_s) else ("HANG", f"more than {limit_s:g} s")
                except EOFError:
                    child.join()
                    outcome, detail = "CRASH", f"exit code {child.exitcode}"
                if outcome in ("HANG", "CRASH"):
                    child.kill()
                    child.join()
                    child = None
                yield Result(draw_case(worlds, number, seed, kinds), outcome, detail, monotonic() - begin)
        finally:
            if child is not None:
                with suppress(OSError):
                    pipe.send(None)
                child.join(limit_s)
                child.kill()
                child.join()
