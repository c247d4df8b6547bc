"""Scenes as tasks on the actors of a Ray cluster. Each holds one model, and whichever is free takes the next scene.

Only names of scenes, numbers and counts travel: an actor reads the frames and writes their files itself. When one dies,
another takes its place, and of the scene that it worked on does what is not on the disk. The longest scenes come first,
so that at the end no actor is left alone with one. An actor never takes the record of another: its number is its own.
"""

import dataclasses
import logging
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from clipfeat.data.selection import FrameKey
from clipfeat.errors import ClipfeatError, ConfigError, EngineError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.lane import Done
from clipfeat.extraction.plan import Plan
from clipfeat.extraction.worker import Job, Outcome, Worker, open_job
from clipfeat.model.cache import build_cache
from clipfeat.model.clip_model import ModelCard, build_model, resolve_device
from clipfeat.output.run_folder import different_keys
from clipfeat.output.summary import machine, peak_memory
from clipfeat.system.shards import Shard, this_shard, usable_cores

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 80 << 20
"""What Ray takes at least, about. Nothing of size goes through it."""

_TELL_EVERY_S = 0.5
_CLOSE_S = 20.0
_ROOM_S = 30.0


@dataclass(frozen=True)
class Started:
    """What an actor says of itself when its model is loaded.

    Attributes:
        card: of the model.
        machine: what it runs on.
        node: the machine's name.
        warnings: that were given on the way.
    """

    card: ModelCard
    machine: dict[str, Any]
    node: str
    warnings: list[str]


@dataclass(frozen=True)
class Told:
    """What an actor has to tell from time to time.

    Attributes:
        outcomes: what became of frames.
        seconds: spent since it told last, by stage.
        memory: its peak, see ``peak_memory``.
        warnings: that were given on the way.
    """

    outcomes: list[Outcome]
    seconds: dict[str, float]
    memory: dict[str, int]
    warnings: list[str]


class SceneActor:
    """Lives in a process of Ray's. ``close`` may be called while it works.

    Args:
        cfg: what to run.
        number: of the actor; no two of a run have the same.
        cores: that its lanes share.
        device: cpu or cuda, which is the GPU that Ray has given it.
        working_dir: of the command: relative paths begin there.
    """

    def __init__(self, cfg: ExtractConfig, number: int, cores: int, device: str, working_dir: str):
        self._cfg = cfg
        self._number = number
        self._cores = cores
        self._device = device
        self._working_dir = working_dir
        self._stopping = threading.Event()
        self._busy = threading.Lock()
        self._warnings = _Warnings()
        logging.getLogger("clipfeat").addHandler(self._warnings)

    def load(self) -> Started:
        """Loads the model.

        Raises:
            ClipfeatError: If that can't be, or the node lacks what the run needs.
        """
        cfg, node = self._cfg, os.uname().nodename
        with suppress(OSError):
            os.chdir(self._working_dir)
        for key, path in (("output_dir", cfg.output_dir), ("data.root", cfg.data.root)):
            if not Path(path).is_dir():  # or results would stay on that node, and every frame of it fail
                raise EngineError(
                    f"{key}={path}: no such folder on the node {node}; engine=ray needs folders that all nodes share, "
                    f"with whole paths where {self._working_dir} is not one of them"
                )
        torch.set_num_threads(self._cores)
        # A share of several: frames.jsonl itself is the driver's.
        self._job = open_job(cfg, Shard(self._number, self._number + 2))
        model = build_model(cfg.model, resolve_device(self._device), cfg.seed, build_cache(cfg.cache))
        self._worker = Worker(self._job, model, self._cores)
        return Started(ModelCard.of(model), machine(), node, self._warnings.take())

    def work(self, frames: list[FrameKey], drawn: dict[str, list[int]]) -> Iterator[Told]:
        """Does frames of one scene, see ``Worker.work``, and tells of them twice a second."""
        outcomes: list[Outcome] = []
        due = time.monotonic() + _TELL_EVERY_S
        with self._busy:
            try:
                with closing(self._worker.work(frames, drawn)) as found:
                    for outcome in found:
                        outcomes.append(outcome)
                        if self._stopping.is_set():
                            break
                        if time.monotonic() > due:
                            yield self._tell(outcomes)
                            outcomes, due = [], time.monotonic() + _TELL_EVERY_S
            except ClipfeatError:
                yield self._tell(outcomes)
                raise
            yield self._tell(outcomes)

    def _tell(self, outcomes: list[Outcome]) -> Told:
        return Told(outcomes, self._job.stopwatch.take(), peak_memory(), self._warnings.take())

    def close(self) -> None:
        """Ends the work; what has begun is still written."""
        self._stopping.set()
        with self._busy:
            self._worker.close()


class _Warnings(logging.Handler):
    """Keeps warnings until somebody takes them: an actor has no terminal."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: deque[str] = deque()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self._kept.append(record.getMessage())

    def take(self) -> list[str]:
        """Those since the last time."""
        return [self._kept.popleft() for _ in range(len(self._kept))]


@dataclass
class _Scene:
    """A scene that is not done.

    Attributes:
        scene_id: its name.
        frames: all that the run wants of it.
        todo: those that are left.
        told: those of which is known what became of them.
        deaths: actors that died while they worked on it.
    """

    scene_id: str
    frames: list[FrameKey]
    todo: list[FrameKey]
    told: set[FrameKey] = field(default_factory=set)
    deaths: int = 0


@dataclass(eq=False)
class _Actor:
    """What the driver knows of an actor.

    Attributes:
        handle: Ray's.
        loaded: whether it has its model.
        scene: that it works on.
    """

    handle: Any
    loaded: bool = False
    scene: _Scene | None = None


class RayEngine:
    """See ``Engine``. An actor does one scene at a time; which one is decided when it is free.

    Args:
        cfg: what to run.

    Raises:
        ConfigError: If engine=ray is at odds with another key, or with how the command was started.
    """

    def __init__(self, cfg: ExtractConfig):
        shard = this_shard(cfg.shard.index, cfg.shard.count)
        if not shard.is_whole:
            raise ConfigError(
                f"engine=ray: this process would be shard {shard.index} of {shard.count}, but Ray divides the scenes "
                "itself: start one process, without devices, torchrun, srun and shard.*; where SLURM's environment "
                "says otherwise, say shard.index=0 shard.count=1"
            )
        gpus = cfg.engine.gpus_per_worker
        if cfg.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device={cfg.device}: Ray chooses the GPU of each actor; take device=auto, cuda or cpu")
        if (cfg.device == "cpu" and gpus) or (cfg.device == "cuda" and gpus == 0):
            raise ConfigError(
                f"engine.gpus_per_worker={gpus:g}: at odds with device={cfg.device}; leave one of them out"
            )
        self._cfg = cfg
        self._numbers = count()
        self._own_cluster = False
        self._gpus = gpus or 0.0
        self._target = 0
        self._queue: list[_Scene] = []
        self._actors: list[_Actor] = []
        self._waiting: dict[Any, _Actor] = {}
        self._card: ModelCard | None = None
        self._machine: dict[str, Any] = {}
        self._memory: dict[str, int] = {}
        self._warned: set[str] = set()
        self._died = self._died_loading = 0
        self._given_up: list[str] = []
        self._told_of_room = False

    def start(self, job: Job, plan: Plan) -> ModelCard:
        """See ``Engine``."""
        self._job, self._plan = job, plan
        with job.stopwatch.stage("start ray"):
            self._connect()
            self._queue = _longest_first(plan)
            self._target = min(self._room(), len(self._queue))
            what = f"{self._cfg.engine.cpus_per_worker} CPUs and {self._gpus:g} GPUs"
            log.info("engine=ray: %d actors, each of %s", self._target, what)
            self._replace()
            while self._card is None:
                list(self._next())
                self._replace()
        return self._card

    def work(self) -> Generator[Outcome, None, None]:
        """See ``Engine``."""
        while self._queue or any(actor.scene for actor in self._actors):
            for actor in self._actors:
                if actor.loaded and actor.scene is None and self._queue:
                    self._give(actor, self._queue.pop(0))
            self._replace()
            yield from self._next()
        if self._given_up:
            limit, some = self._cfg.engine.max_restarts, "; ".join(self._given_up[:3])
            raise EngineError(
                f"{len(self._given_up)} scenes are not done, as {limit + 1} Ray actors died of each; the others are. "
                f"{some}. The usual cause is too little memory: try a smaller batch_size or fewer engine.num_workers, "
                "the same command goes on from there"
            )

    def facts(self) -> dict[str, Any]:
        """See ``Engine``."""
        return {"run": {"workers": self._target, "workers_died": self._died} | self._memory, "machine": self._machine}

    def close(self) -> None:
        """See ``Engine``."""
        actors, self._actors = self._actors, []
        self._waiting = {}
        try:
            loaded = [actor.handle.close.remote() for actor in actors if actor.loaded]
            late = ray.wait(loaded, num_returns=len(loaded), timeout=_CLOSE_S)[1] if loaded else []
        finally:
            for actor in actors:
                _kill(actor)
            if self._own_cluster:
                ray.shutdown()
                self._own_cluster = False
        if late or (actors and self._died):
            self._job.folder.remove_leftovers(self._plan.scenes)

    def _connect(self) -> None:
        """Joins the cluster, or starts one on this machine.

        Raises:
            EngineError: If that fails.
        """
        if ray.is_initialized():  # by a script that calls extract()
            return
        engine, quiet = self._cfg.engine, {"log_to_driver": False, "logging_level": logging.ERROR}
        if engine.address not in (None, "auto"):
            _check_answers(engine.address)
        on_terminate, self._own_cluster = signal.getsignal(signal.SIGTERM), True
        try:
            if engine.address is None:
                cores = max(usable_cores(), (engine.num_workers or 1) * engine.cpus_per_worker)
                own = {"num_cpus": cores, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
                ray.init(address="local", **own, **quiet)
            else:
                ray.init(address=engine.address, runtime_env=_environment(), **quiet)
        except (RuntimeError, ValueError, OSError, RayError) as error:
            address = "null" if engine.address is None else engine.address
            what_to_do = "start one by ray start --head, set RAY_AUTH_MODE=token if it has a token, or leave it out"
            what_to_do = "" if engine.address is None else f"; {what_to_do}"
            raise EngineError(f"engine.address={address}: no Ray cluster to be had ({error}){what_to_do}") from error
        if threading.current_thread() is threading.main_thread() and on_terminate is not None:
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has set its own

    def _room(self) -> int:
        """How many actors to start; sets the GPUs of each.

        Raises:
            EngineError: If the cluster has no room for any.
        """
        engine = self._cfg.engine
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if engine.gpus_per_worker is None:
            found = any(node.get("GPU") for node in nodes)
            self._gpus = float(self._cfg.device == "cuda" or (self._cfg.device == "auto" and found))
        fit = 0
        for node in nodes:
            room = node.get("CPU", 0.0) // engine.cpus_per_worker
            fit += int(min(room, node.get("GPU", 0.0) // self._gpus) if self._gpus else room)
        if not fit and (engine.num_workers is None or engine.address is None):
            has = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:5])
            raise EngineError(
                f"engine.cpus_per_worker={engine.cpus_per_worker} engine.gpus_per_worker={self._gpus:g}: no node of "
                f"the Ray cluster has so many, they have {has}"
            )
        return engine.num_workers or fit

    def _replace(self) -> None:
        """Starts actors, as long as there are fewer than wanted, and scenes for them."""
        open_scenes = len(self._queue) + sum(actor.scene is not None for actor in self._actors)
        while len(self._actors) < min(self._target, open_scenes):
            engine, device = self._cfg.engine, "cuda" if self._gpus else "cpu"
            options = {"num_cpus": engine.cpus_per_worker, "num_gpus": self._gpus, "max_concurrency": 2}
            remote = ray.remote(SceneActor).options(**options)
            number = next(self._numbers)
            actor = _Actor(remote.remote(self._cfg, number, engine.cpus_per_worker, device, str(Path.cwd())))
            self._actors.append(actor)
            self._waiting[actor.handle.load.remote()] = actor

    def _give(self, actor: _Actor, scene: _Scene) -> None:
        actor.scene = scene
        drawn = dataclasses.replace(self._plan, frames=scene.frames, todo=scene.todo).drawn
        self._waiting[actor.handle.work.options(num_returns="streaming").remote(scene.todo, drawn)] = actor

    def _next(self) -> Iterator[Outcome]:
        """Waits until an actor has something to say."""
        waiting = list(self._waiting)
        ready = ray.wait(waiting, num_returns=1, timeout=None if self._told_of_room else _ROOM_S)[0]
        if not ready and not any(actor.loaded for actor in self._actors):
            self._told_of_room = True
            log.info("engine=ray: no actor has begun yet; they wait for room in the cluster, or load the model")
        for one in ready:
            actor = self._waiting[one]
            try:
                if not actor.loaded:
                    self._begin(actor, one)
                    continue
                told = ray.get(next(one))
            except StopIteration:
                del self._waiting[one]
                actor.scene = None
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, ClipfeatError):
                    raise cause from None
                raise
            except RayError as error:
                del self._waiting[one]
                yield from self._lose(actor, _why(error))
            else:
                yield from self._take(actor, told)

    def _begin(self, actor: _Actor, loading: Any) -> None:
        """Takes note that an actor has its model."""
        started: Started = ray.get(loading)
        del self._waiting[loading]
        actor.loaded = True
        self._died_loading = 0
        self._warn(started.warnings)
        if self._card is None:
            self._card, self._machine = started.card, started.machine
        elif differing := different_keys(self._card.description, started.card.description):
            raise EngineError(f"the model on the node {started.node} is another one: {'; '.join(differing)}")

    def _take(self, actor: _Actor, told: Told) -> Iterator[Outcome]:
        self._job.stopwatch.add(told.seconds)
        self._warn(told.warnings)
        for name, size in told.memory.items():
            self._memory[name] = max(size, self._memory.get(name, 0))
        if actor.scene is not None:
            yield from _news(actor.scene, told.outcomes)

    def _warn(self, warnings: list[str]) -> None:
        """Passes warnings on; what several actors say is said once."""
        for warning in dict.fromkeys(warnings):
            if warning not in self._warned:
                self._warned.add(warning)
                log.warning("%s", warning)

    def _lose(self, actor: _Actor, why: str) -> Iterator[Outcome]:
        """Takes note that an actor has died, and puts its scene back, unless that has cost too many.

        Raises:
            EngineError: If actors die before they have begun.
        """
        self._actors.remove(actor)
        _kill(actor)
        self._died += 1
        scene, limit = actor.scene, self._cfg.engine.max_restarts
        if scene is None:
            self._died_loading += 1
            if self._died_loading > limit:
                raise EngineError(f"{self._died_loading} Ray actors in a row died before they had the model: {why}")
            log.warning("WARNING a Ray actor died before it had the model, another one is started: %s", why)
            return
        scene.deaths += 1
        yield from _news(scene, self._find_left(scene))
        if not scene.todo:
            self._job.folder.files.finish_scene(scene.scene_id)
        elif scene.deaths > limit:
            self._given_up.append(f"{scene.scene_id}: {why}")
            log.warning("WARNING %s is left undone, %d Ray actors died of it: %s", scene.scene_id, scene.deaths, why)
        else:
            log.warning("WARNING a Ray actor died at %s, which goes on in another: %s", scene.scene_id, why)
            self._queue.insert(0, scene)

    def _find_left(self, scene: _Scene) -> list[Outcome]:
        """Looks what an actor that died has left to do of a scene, and returns what it has done and not told."""
        folder = self._job.folder
        done = folder.done_before(scene.frames, dataclasses.asdict(self._cfg))
        before = scene.todo
        scene.todo = folder.missing(scene.frames, done, self._plan.pictured.intersection(scene.frames))
        found: list[Outcome] = []
        for key in sorted(done.intersection(before).difference(scene.todo)):
            counts = folder.files.read(*key, only_meta=True)[1].get("points", {})
            found.append(Done(key, counts, folder.files.size(*key), None))
        return found


def _longest_first(plan: Plan) -> list[_Scene]:
    frames = {scene_id: list(keys) for scene_id, keys in groupby(plan.frames, lambda key: key[0])}
    todo = {scene_id: list(keys) for scene_id, keys in groupby(plan.todo, lambda key: key[0])}
    scenes = [_Scene(scene_id, frames[scene_id], keys) for scene_id, keys in todo.items()]
    return sorted(scenes, key=lambda scene: -len(scene.todo))


def _news(scene: _Scene, outcomes: list[Outcome]) -> Iterator[Outcome]:
    """Those that were not told before: a scene that is tried again may do a frame twice."""
    for outcome in outcomes:
        if outcome.key not in scene.told:
            scene.told.add(outcome.key)
            yield outcome


def _kill(actor: _Actor) -> None:
    with suppress(RayError, ValueError):
        ray.kill(actor.handle)


def _check_answers(address: str) -> None:
    """Looks whether anything listens there: Ray itself would wait for many minutes.

    Raises:
        EngineError: If not.
    """
    host, _, port = address.rpartition(":")
    expected = "expected auto, or host:port of a cluster that runs, as ray start tells it"
    if not (host and port.isdecimal() and int(port) < 1 << 16) or "/" in host:
        raise EngineError(f"engine.address={address}: {expected}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise EngineError(f"engine.address={address}: nothing answers there ({error}); {expected}") from error


def _environment() -> dict[str, Any]:
    """What the actors of a cluster that runs already need of this process's environment."""
    path = os.environ.get("PYTHONPATH")
    if not path:
        return {}
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in path.split(os.pathsep))}}


def _why(error: RayError) -> str:
    """The one part of Ray's words for a dead actor that says why."""
    text = " ".join(str(error).split())
    if "connection error code 2" in text:  # which is all that Ray knows of it
        return "its process was killed, or had no memory left"
    match = re.search(r"(?:The actor is dead because|The actor died because of) (.*?)(?: Some common causes|$)", text)
    return (match[1] if match else text).rstrip(". ")[:300]
