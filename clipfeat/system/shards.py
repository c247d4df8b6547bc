"""Which of several equal processes this one is, and which scenes are its own."""

import heapq
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from clipfeat.errors import ConfigError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS"),
)
"""Where torchrun, SLURM and submitit_local tell a process its number and how many there are."""

_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "SUBMITIT_LOCAL_LOCALID")


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the scenes.

    Attributes:
        index: which share, from 0.
        count: how many shares there are.
    """

    index: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether there is but one share."""
        return self.count == 1

    def file_name(self, name: str) -> str:
        """Name of the share's own file: ``frames.jsonl`` is ``frames.3.jsonl`` for share 3 of several."""
        stem, suffix = name.rsplit(".", 1)
        return name if self.is_whole else f"{stem}.{self.index}.{suffix}"


WHOLE = Shard()


def this_shard(index: int | None, count: int | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """The share of this process: what the configuration says, or else what torchrun or SLURM say.

    Args:
        index: ``shard.index``, if it is set.
        count: ``shard.count``, if it is set.
        environment: of this process.

    Raises:
        ConfigError: If torchrun or SLURM say a half of it, nonsense, or each something else.
    """
    if index is not None and count is not None:
        return Shard(index, count)
    told = [shard for names in _LAUNCHERS if (shard := _told_by(*names, environment)) is not None]
    # A job of one task says nothing: torchrun may well start several processes in it.
    several = list(dict.fromkeys(shard for shard in told if not shard.is_whole))
    if len(several) > 1:
        names = [name for names in _LAUNCHERS for name in names if name in environment]
        both = " and ".join(f"{name}={environment[name]}" for name in names)
        raise ConfigError(
            f"{both} do not agree which shard this process is; say shard.index and shard.count, where torchrun runs "
            f"in each task of a job by shard.index=\\${{oc.env:RANK}} shard.count=\\${{oc.env:WORLD_SIZE}}"
        )
    return several[0] if several else WHOLE


def _told_by(index_name: str, count_name: str, environment: Mapping[str, str]) -> Shard | None:
    index, count = environment.get(index_name), environment.get(count_name)
    if index is None and count in (None, "1"):
        return None  # such as the shell of an allocation, where no task is running
    what_to_do = "say shard.index and shard.count, or unset both"
    if index is None or count is None:
        there, missing = (index_name, count_name) if count is None else (count_name, index_name)
        raise ConfigError(
            f"{there}={environment[there]} is set in the environment, but {missing} is not: start by srun or torchrun, "
            f"or {what_to_do}"
        )
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(
            f"{index_name}={index} {count_name}={count} in the environment: expected 0 <= {index_name} < {count_name}; "
            f"{what_to_do}"
        )
    return Shard(int(index), int(count))


def local_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Which of the processes on its machine this one is, as torchrun or SLURM say; None where nobody does."""
    return next((int(environment[name]) for name in _LOCAL_RANKS if environment.get(name, "").isdecimal()), None)


def local_count(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes share this machine's cores, as torchrun or submitit_local say.

    1 under SLURM, which gives each task its own cores.
    """
    count = environment.get("LOCAL_WORLD_SIZE") or environment.get("SUBMITIT_LOCAL_NTASKS", "")
    return max(1, int(count)) if count.isdecimal() else 1


def begun_file(output_dir: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """A file by which a process tells the one that is started in its place that it had begun to overwrite.

    It lies where torch's elastic launcher keeps what belongs to one launch: the launcher names
    ``<launch>/attempt_<restarts>/<local rank>/error.json``. None where no such launcher names one.

    Args:
        output_dir: what is overwritten; a launch may be a sweep.
        environment: of this process.
    """
    error_file = environment.get("TORCHELASTIC_ERROR_FILE")
    if not error_file or "RANK" not in environment:
        return None
    digest = sha256(str(Path(output_dir).resolve()).encode()).hexdigest()[:16]
    return Path(error_file).absolute().parents[2] / f"clipfeat-begun-{environment['RANK']}-{digest}"


def usable_cores() -> int:
    """Cores for this process: under SLURM or taskset fewer than the machine has, under torchrun its share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_count())


def share_scenes(sizes: Mapping[str, int], shard: Shard) -> list[str]:
    """The scenes of a share, in the order of ``sizes``; the shares are balanced by frames, see ``all_shares``.

    Args:
        sizes: frames of each scene.
        shard: which share.
    """
    return all_shares(sizes, shard.count)[shard.index]


def all_shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """The scenes of each share, in the order of ``sizes``; the shares are balanced by frames.

    The longest scene first, each into the share that has the least (Graham, 1969), and of equal ones the first. It
    follows from the names and sizes alone, so processes that never talk to each other agree.

    Args:
        sizes: frames of each scene.
        count: how many shares there are.
    """
    loads = [(0, 0, index) for index in range(count)]  # frames, scenes, share
    share_of = {}
    for scene_id in sorted(sizes, key=lambda scene_id: (-sizes[scene_id], scene_id)):
        frames, scenes, index = loads[0]
        heapq.heapreplace(loads, (frames + sizes[scene_id], scenes + 1, index))
        share_of[scene_id] = index
    shares: list[list[str]] = [[] for _ in range(count)]
    for scene_id in sizes:
        shares[share_of[scene_id]].append(scene_id)
    return shares
