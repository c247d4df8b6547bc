"""Scenes as tasks on the actors of a Ray cluster: whichever is free takes the next scene.

Only names of scenes, numbers and counts travel: an actor (``ray_actor.py``) reads the frames and writes their files
itself. When one dies, another takes its place, and of the scene that it worked on does what is not on the disk. The
longest scenes come first, so that at the end no actor is left alone with one.
"""

import dataclasses
import logging
import re
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from clipfeat.data.selection import FrameKey
from clipfeat.errors import ClipfeatError, ConfigError, EngineError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.lane import Done
from clipfeat.extraction.plan import Plan
from clipfeat.extraction.ray_actor import SceneActor, Started, Told
from clipfeat.extraction.ray_cluster import find_room, join_cluster
from clipfeat.extraction.worker import Job, Outcome
from clipfeat.model.base import ModelCard
from clipfeat.output.folders import different_keys
from clipfeat.system.messages import WarningsOnce
from clipfeat.system.shards import this_shard

log = logging.getLogger(__name__)
_CLOSE_S = 20.0
_ROOM_S = 30.0


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
        self._gpus = 0.0
        self._target = 0
        self._queue: list[_Scene] = []
        self._actors: list[_Actor] = []
        self._waiting: dict[Any, _Actor] = {}
        self._card: ModelCard | None = None
        self._machine: dict[str, Any] = {}
        self._memory: dict[str, int] = {}
        self._warnings = WarningsOnce()
        self._died = self._died_loading = 0
        self._given_up: list[str] = []
        self._told_of_room = False

    def start(self, job: Job, plan: Plan) -> ModelCard:
        """See ``Engine``."""
        self._job, self._plan = job, plan
        with job.stopwatch.stage("start ray"):
            if not ray.is_initialized():  # by a script that calls extract()
                self._own_cluster = True
                join_cluster(self._cfg.engine)
            self._queue = _longest_first(plan)
            room, self._gpus = find_room(self._cfg)
            self._target = min(room, len(self._queue))
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
        self._warnings.close()
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
        self._warnings.pass_on(started.warnings)
        if self._card is None:
            self._card, self._machine = started.card, started.machine
        elif differing := different_keys(self._card.description, started.card.description):
            raise EngineError(f"the model on the node {started.node} is another one: {'; '.join(differing)}")

    def _take(self, actor: _Actor, told: Told) -> Iterator[Outcome]:
        self._job.stopwatch.add(told.seconds)
        self._warnings.pass_on(told.warnings)
        for name, size in told.memory.items():
            self._memory[name] = max(size, self._memory.get(name, 0))
        if actor.scene is not None:
            yield from _news(actor.scene, told.outcomes)

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
        scene.todo = [key for key in scene.frames if key not in done]
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


def _why(error: RayError) -> str:
    """The one part of Ray's words for a dead actor that says why."""
    text = " ".join(str(error).split())
    if "connection error code 2" in text:  # which is all that Ray knows of it
        return "its process was killed, or had no memory left"
    match = re.search(r"(?:The actor is dead because|The actor died because of) (.*?)(?: Some common causes|$)", text)
    return (match[1] if match else text).rstrip(". ")[:300]
