import numpy as np
import pytest

from clipfeat.errors import ConfigError
from clipfeat.system.shards import (
    WHOLE,
    Shard,
    all_shares,
    local_count,
    local_rank,
    share_scenes,
    this_shard,
    usable_cores,
)


def shares(sizes, count):
    return [share_scenes(sizes, Shard(index, count)) for index in range(count)]


def real_like(count=1201, seed=0):
    """As many scenes as ScanNet's training set has, of log-normal lengths about a median of 1,200 frames."""
    frames = np.random.default_rng(seed).lognormal(np.log(1200), 0.7, count).astype(int) + 1
    return {f"scene{i:04d}_00": int(n) for i, n in enumerate(frames)}


@pytest.mark.parametrize(("count", "allowed"), [(8, 1.02), (64, 1.10)])
@pytest.mark.parametrize("seed", range(5))
def test_the_largest_of_many_shares_is_near_the_mean(count, allowed, seed):
    sizes = real_like(seed=seed)
    loads = [sum(sizes[scene] for scene in share) for share in shares(sizes, count)]
    assert max(loads) <= allowed * sum(loads) / count


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_every_scene_is_in_one_share_and_in_order(count):
    sizes = real_like(150)
    found = shares(sizes, count)
    assert found == all_shares(sizes, count)
    assert sorted(scene for share in found for scene in share) == sorted(sizes)
    assert all(share == sorted(share) for share in found)


def test_shares_do_not_depend_on_the_order_of_the_scenes():
    sizes = real_like(100)
    turned = dict(reversed(sizes.items()))
    assert [sorted(share) for share in shares(turned, 8)] == shares(sizes, 8)


def test_scenes_of_equal_or_no_frames_are_spread():
    assert shares(dict.fromkeys("abcdef", 3), 3) == [["a", "d"], ["b", "e"], ["c", "f"]]
    assert shares(dict.fromkeys("abcd", 0), 2) == [["a", "c"], ["b", "d"]]
    assert shares({"a": 5, "b": 1, "c": 2, "d": 2}, 2) == [["a"], ["b", "c", "d"]]
    assert shares({"a": 1}, 3) == [["a"], [], []]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
ONE_TASK = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, WHOLE),
        (TORCHRUN, Shard(3, 4)),
        (SLURM, Shard(1, 2)),
        (ONE_TASK, WHOLE),
        ({**TORCHRUN, **ONE_TASK}, Shard(3, 4)),  # torchrun in a job of one task
        ({**SLURM, "RANK": "1", "WORLD_SIZE": "2"}, Shard(1, 2)),
        ({"SLURM_NTASKS": "1"}, WHOLE),  # the shell of an allocation
        ({"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2"}, Shard(1, 2)),
        ({**SLURM, "SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_NTASKS": "1"}, Shard(1, 2)),
    ],
)
def test_the_shard_is_what_the_launcher_says(environment, expected):
    assert this_shard(None, None, environment) == expected
    assert this_shard(5, 6, environment) == Shard(5, 6)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK=0 is set in the environment, but WORLD_SIZE is not: start by srun or torchrun, or say"),
        ({"SLURM_NTASKS": "8"}, "SLURM_NTASKS=8 is set in the environment, but SLURM_PROCID is not"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4 WORLD_SIZE=4 in the environment: expected 0 <= RANK < WORLD_SIZE"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, "RANK=x WORLD_SIZE=4 in the environment"),
        (
            {**TORCHRUN, **SLURM},
            "RANK=3 and WORLD_SIZE=4 and SLURM_PROCID=1 and SLURM_NTASKS=2 do not agree which shard this process is",
        ),
    ],
)
def test_a_launcher_that_says_half_of_it_or_nonsense_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        this_shard(None, None, environment)
    assert this_shard(0, 1, environment) == WHOLE


def test_the_process_s_number_on_its_machine():
    assert local_rank({}) is None
    assert local_rank({"LOCAL_RANK": "2", "SLURM_LOCALID": "0"}) == 2
    assert local_rank({"SLURM_LOCALID": "1"}) == 1
    assert local_rank({"SUBMITIT_LOCAL_LOCALID": "3"}) == 3
    assert [local_count(env) for env in ({}, {"LOCAL_WORLD_SIZE": "4"}, {"LOCAL_WORLD_SIZE": "x"})] == [1, 4, 1]
    assert local_count({"SUBMITIT_LOCAL_NTASKS": "2"}) == 2


def test_files_of_a_share_are_named_after_it():
    assert WHOLE.file_name("frames.jsonl") == "frames.jsonl"
    assert Shard(3, 8).file_name("frames.jsonl") == "frames.3.jsonl"


def test_processes_of_one_machine_divide_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert usable_cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert usable_cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert usable_cores() == 1
