"""All of ``clipfeat-extract``: the groups of the other rooms, and what belongs to the run itself."""

from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipfeat.config.checks import at_least, one_of, resume_word
from clipfeat.config.paths import literal, path_key
from clipfeat.data.config import LAYOUTS
from clipfeat.errors import ConfigError
from clipfeat.model.config import CacheConfig, ModelConfig
from clipfeat.output.config import OutputConfig
from clipfeat.sampling.config import MeshSamplingConfig, PointsConfig
from clipfeat.vis.config import VisConfig


@dataclass
class ShardConfig:
    """One of several equal shares of the scenes.

    Attributes:
        index: which share this process takes, from 0; null is what torchrun or SLURM say, or else 0.
        count: how many shares there are; null is what torchrun or SLURM say, or else 1.
    """

    index: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.index is None and self.count is None:
            return
        if self.index is None or self.count is None or not 0 <= self.index < self.count:
            index, count = ("null" if value is None else value for value in (self.index, self.count))
            raise ConfigError(f"shard.index={index} shard.count={count}: expected both, with 0 <= index < count")


ENGINES = ("local", "ray")


@dataclass
class EngineConfig:
    """Where frames are done.

    Attributes:
        name: local (this process does its share), or ray (actors of a Ray cluster, each with a model of its own, take
            one scene after another).
        address: of the Ray cluster: auto (the one that runs on this machine) or host:port; null starts one here, which
            ends with the run.
        num_workers: actors; null is as many as the cluster has room for.
        gpus_per_worker: GPUs of an actor, also a part of one (0.5: two actors share one); null is 1 where the cluster
            has GPUs, and 0 with device=cpu.
        cpus_per_worker: cores of an actor, which are its threads.
        max_restarts: how many times a scene is tried again that an actor has died of.
    """

    name: str = "local"
    address: str | None = None
    num_workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: int = 1
    max_restarts: int = 3

    def __post_init__(self) -> None:
        one_of("engine.name", self.name, ENGINES)
        at_least("engine.num_workers", self.num_workers, 1)
        at_least("engine.gpus_per_worker", self.gpus_per_worker, 0)
        at_least("engine.cpus_per_worker", self.cpus_per_worker, 1)
        at_least("engine.max_restarts", self.max_restarts, 0)
        for key in fields(self) if self.name == "local" else ():
            if (value := getattr(self, key.name)) != key.default:
                raise ConfigError(f"engine.{key.name}={value}: has a meaning only with engine=ray")


@dataclass
class ExtractConfig(PointsConfig):
    """All of ``clipfeat-extract``; which frames and points it looks at is told by ``PointsConfig``.

    Attributes:
        model: see ModelConfig.
        output: see OutputConfig.
        cache: see CacheConfig.
        vis: see VisConfig.
        output_dir: folder for everything that the run writes.
        uv_index: folder that scripts/build_uv_index.py filled; points and pixels are then read and not projected anew.
        device: auto, cpu, cuda or cuda:<n>. Of several GPUs, a process that torchrun or SLURM started takes its own.
        devices: how many processes this one starts, each a shard, and starts again if one dies, sharing the GPUs out;
            auto is one for four cores on each GPU. Null is this process alone.
        batch_size: pictures a forward pass; null is 2 on a CPU and 32 on a GPU.
        num_workers: threads that read frames, that write files, and on a CPU that compute a batch each; null is one a
            core.
        resume: true does only what is missing, and refuses a folder of another configuration; overwrite (or false) does
            everything again, and first removes what another configuration or model has written there.
        check: look first whether poses, K, depth and colour fit each other: no, yes (or true), only (and then stop).
        report: whether the run ends with ``report.html``, one page with its numbers, failures and some pictures.
        shard: see ShardConfig.
        engine: see EngineConfig.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    vis: VisConfig = field(default_factory=VisConfig)
    output_dir: str = path_key("outputs/clip_feat")
    uv_index: str | None = path_key(None)
    device: str = "auto"
    devices: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    resume: str = "true"
    check: str = "no"
    report: bool = True
    shard: ShardConfig = field(default_factory=ShardConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_devices(self.devices, self.device)
        if self.engine.name == "ray" and self.devices is not None:
            raise ConfigError(f"devices={self.devices}: Ray starts its own processes; say engine.num_workers instead")
        at_least("batch_size", self.batch_size, 1)
        at_least("num_workers", self.num_workers, 1)
        self.resume = resume_word(self.resume)
        # A boolean (true; in files also yes) arrives as the text of one.
        self.check = {"true": "yes", "false": "no"}.get(self.check.lower(), self.check)
        one_of("check", self.check, ("no", "yes", "only"))
        if self.output.name == "segments" and self.output.segments == "masks" and self.data.masks is None:
            raise ConfigError(
                "output=segments: pools over instance masks, so data.masks='…/{scene}/{frame}.png' must say where they "
                "are; or output.segments=slic"
            )
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")


def _check_devices(devices: str | None, device: str) -> None:
    if devices in (None, "1"):
        return
    if devices != "auto" and not (devices.isdecimal() and int(devices) > 0):
        raise ConfigError(f"devices={devices}: expected auto, or a number of processes of at least 1")
    if device.startswith("cuda:"):
        raise ConfigError(
            f"devices={devices} device={device}: each process takes a GPU of its own; say device=cuda, and where only "
            f"some GPUs are to be used, which: CUDA_VISIBLE_DEVICES=0,1"
        )


def extract_config(plain: dict[str, Any]) -> ExtractConfig:
    """The configuration of ``clipfeat-extract`` that a ``config.yaml`` holds, in which nothing is left to interpolate.

    Raises:
        ConfigError: If it holds unknown keys or values.
    """
    schema = OmegaConf.structured(ExtractConfig)
    try:
        schema.data = LAYOUTS[plain["data"]["name"]][0]
        if plain["sampling"]["name"] == MeshSamplingConfig.name:
            schema.sampling = MeshSamplingConfig
        config = OmegaConf.to_object(OmegaConf.merge(schema, literal(plain)))
    except (KeyError, TypeError, OmegaConfBaseException) as error:
        raise ConfigError(f"no configuration of clipfeat-extract ({str(error).splitlines()[0]})") from error
    if not isinstance(config, ExtractConfig):
        raise ConfigError("no configuration of clipfeat-extract")
    return config
