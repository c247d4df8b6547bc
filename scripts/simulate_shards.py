"""How long many workers take that are not all equal and not all there to the end: fixed shards against moving tasks.

    python scripts/simulate_shards.py                            1,000 workers on 100,000 scenes, a table and a plot
    python scripts/simulate_shards.py --workers 64 --scenes 1201 --seeds 20

Time is told in multiples of the ideal: all frames, divided by what the workers would do in a second were all healthy.

* Scenes have log-normal lengths (median 1,200 frames, sigma 0.7).
* A healthy worker takes 200 frames a second. Speeds differ by 5 % (standard deviation of a normal distribution), and of
  5 % of the workers, the stragglers, they are besides divided by a factor between 1.5 and 4 (uniform).
* 1 % of the workers die, each at a moment between 0 and 1.5 of the ideal time (uniform). What they have finished is
  kept. A healthy replacement is there after 5 minutes. A shard begins again when its replacement does; a task of a
  scheduler is given to the next free worker after 30 seconds, when the death is noticed.
* To load the model takes 20 seconds: of fixed shares, once a shard; of moving tasks, once a worker.

Disks and networks are taken to be as fast as one likes. The shares are those of clipfeat.system.shards.
"""

import argparse
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from clipfeat.system.shards import all_shares

FRAMES_PER_SECOND = 200.0
SETUP_S = 20.0
NOTICE_S = 30.0
REPLACE_S = 300.0

Interval = tuple[float, float]
"""When a worker began and ended something, in seconds."""


@dataclass(frozen=True)
class Fleet:
    """The workers.

    Attributes:
        speeds: frames a second of each.
        deaths_s: when each of them dies; inf for never.
    """

    speeds: Sequence[float]
    deaths_s: Sequence[float]


@dataclass
class Run:
    """What the workers do from the beginning to the end of all tasks.

    Attributes:
        fleet: the workers. Those that die are replaced by healthy ones.
        setup_s: before a worker's first task.
        setup_each: whether also before all others.
        returns_s: from a worker's death until its task can be taken by another.
        replace_s: from a worker's death until its replacement is there.
        busy: what was done when.
    """

    fleet: Fleet
    setup_s: float = 0.0
    setup_each: bool = False
    returns_s: float = 0.0
    replace_s: float = 0.0
    busy: list[Interval] = field(default_factory=list)

    def __call__(self, tasks: Sequence[float]) -> float:
        """Gives the longest task that is left to whoever is free, and returns the seconds until all are done.

        Args:
            tasks: frames of each.
        """
        speeds, deaths = list(self.fleet.speeds), list(self.fleet.deaths_s)
        waiting = [-frames for frames in tasks]
        heapq.heapify(waiting)
        ready = dict.fromkeys(range(len(speeds)), False)  # whether the model is loaded
        events = [(0.0, worker, 0.0) for worker in range(len(speeds))]  # when, who is free (or -1), frames that return
        heapq.heapify(events)
        idle: list[int] = []
        end = 0.0
        while events:
            now, worker, returned = heapq.heappop(events)
            if worker < 0:
                heapq.heappush(waiting, -returned)
            else:
                heapq.heappush(idle, worker)
            while idle and waiting:
                worker = heapq.heappop(idle)
                if deaths[worker] > now:
                    frames = -heapq.heappop(waiting)
                    begin = now + (0.0 if ready[worker] and not self.setup_each else self.setup_s)
                    ready[worker] = True
                    stop = min(begin + frames / speeds[worker], deaths[worker])
                    self.busy.append((now, stop))
                    if stop < deaths[worker]:
                        heapq.heappush(events, (stop, worker, 0.0))
                        end = max(end, stop)
                        continue
                    left = frames - max(0.0, stop - begin) * speeds[worker]
                    heapq.heappush(events, (stop + self.returns_s, -1, left))
                ready[len(speeds)] = False
                heapq.heappush(events, (max(now, deaths[worker] + self.replace_s), len(speeds), 0.0))
                speeds.append(FRAMES_PER_SECOND)
                deaths.append(np.inf)
        return end


def scene_lengths(count: int, rng: np.random.Generator) -> dict[str, int]:
    """Frames of scenes by name, of real-like lengths."""
    lengths = rng.lognormal(np.log(1200), 0.7, count).astype(int) + 1
    return {f"scene{i:06d}": int(frames) for i, frames in enumerate(lengths)}


def some_fleet(count: int, ideal_s: float, stragglers: float, dead: float, rng: np.random.Generator) -> Fleet:
    """Workers as the module says, with a share of stragglers and of those that die."""
    speeds = FRAMES_PER_SECOND * np.clip(rng.normal(1, 0.05, count), 0.5, 1.5)
    slow = rng.choice(count, round(stragglers * count), replace=False)
    speeds[slow] /= rng.uniform(1.5, 4, len(slow))
    deaths = np.full(count, np.inf)
    dying = rng.choice(count, round(dead * count), replace=False)
    deaths[dying] = rng.uniform(0, 1.5 * ideal_s, len(dying))
    return Fleet(speeds.tolist(), deaths.tolist())


def plans(sizes: dict[str, int], workers: int, per_worker: Sequence[int]) -> Iterator[tuple[str, list[float], bool]]:
    """What is compared: its name, the frames of each task, and whether the tasks are shards."""
    for times in per_worker:
        shares = all_shares(sizes, times * workers)
        yield f"{times * workers:,} shards", [float(sum(sizes[s] for s in share)) for share in shares if share], True
    yield "a task a scene", [float(frames) for frames in sizes.values()], False


TROUBLES = {"equal workers": (0.0, 0.0), "stragglers": (0.05, 0.0), "stragglers and deaths": (0.05, 0.01)}
"""Shares of stragglers and of workers that die."""


def simulate(
    workers: int, scenes: int, seeds: int, per_worker: Sequence[int]
) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[Interval]]]:
    """Times by plan and trouble, one a seed; and when workers were at work in the worst trouble of the first seed.

    Both are in multiples of the ideal.
    """
    ratios: dict[str, dict[str, list[float]]] = {}
    busy: dict[str, list[Interval]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        sizes = scene_lengths(scenes, rng)
        ideal_s = sum(sizes.values()) / (workers * FRAMES_PER_SECOND)
        fleets = {name: some_fleet(workers, ideal_s, *shares, rng) for name, shares in TROUBLES.items()}
        fleets["equal workers"] = Fleet([FRAMES_PER_SECOND] * workers, [np.inf] * workers)
        for plan, tasks, is_shards in plans(sizes, workers, per_worker):
            returns_s = REPLACE_S if is_shards else NOTICE_S
            for trouble, fleet in fleets.items():
                run = Run(fleet, SETUP_S, is_shards, returns_s, REPLACE_S)
                ratios.setdefault(plan, {}).setdefault(trouble, []).append(run(tasks) / ideal_s)
                if seed == 0:
                    busy[plan] = [(begin / ideal_s, end / ideal_s) for begin, end in run.busy]
    return ratios, busy


def table(ratios: dict[str, dict[str, list[float]]]) -> str:
    """The means, and least and largest, as a Markdown table."""
    lines = [f"| | {' | '.join(TROUBLES)} |", f"|---|{'---|' * len(TROUBLES)}"]
    for plan, found in ratios.items():
        cells = [f"{np.mean(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in found.values()]
        lines.append(f"| {plan} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(
    ratios: dict[str, dict[str, list[float]]], busy: dict[str, list[Interval]], workers: int, title: str, path: Path
) -> None:
    """On the left the times, on the right how many workers have something to do."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    height = 0.8 / len(TROUBLES)
    names = list(ratios)
    for row, trouble in enumerate(TROUBLES):
        found = [ratios[plan][trouble] for plan in names]
        means = [float(np.mean(r)) for r in found]
        spread = [
            [m - min(r) for m, r in zip(means, found, strict=True)],
            [max(r) - m for m, r in zip(means, found, strict=True)],
        ]
        places = [i + (row - 1) * height for i in range(len(names))]
        bars = left.barh(
            places, means, height * 0.9, xerr=spread, color=["#c8d3df", "#6f93bd", "#23527c"][row], label=trouble
        )
        left.bar_label(bars, [f"{mean:.2f}" for mean in means], padding=8, fontsize=8)
    left.axvline(1, color="black", linewidth=0.8, linestyle=":")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("time, in multiples of the ideal (bars: mean, lines: least and largest)")
    left.legend(frameon=False, loc="lower right", fontsize=8)
    left.margins(x=0.12)
    for plan, intervals in busy.items():
        times, count = busy_workers(intervals)
        right.plot(times, 100 * count / workers, drawstyle="steps-post", label=plan)
    right.axvline(1, color="black", linewidth=0.8, linestyle=":")
    right.set_xlabel("time, in multiples of the ideal (stragglers and deaths, one draw)")
    right.set_ylabel("workers at work, %")
    right.set_ylim(0, 105)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def busy_workers(intervals: Sequence[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """When the number of workers at work changes, and what it is from then on."""
    begins, ends = np.array(intervals).reshape(-1, 2).T
    times, place = np.unique(np.concatenate([begins, ends]), return_inverse=True)
    change = np.bincount(place[: len(begins)], minlength=len(times)) - np.bincount(
        place[len(begins) :], minlength=len(times)
    )
    return times, np.cumsum(change)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000, help="workers (default 1000)")
    parser.add_argument("--scenes", type=int, default=100_000, help="scenes (default 100000)")
    parser.add_argument("--seeds", type=int, default=10, help="how often (default 10)")
    parser.add_argument(
        "--shards", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="shards a worker (default 1 4 16)"
    )
    parser.add_argument("--plot", type=Path, default=Path("outputs/simulate_shards.png"), help="file of the plot")
    arguments = parser.parse_args()
    ratios, busy = simulate(arguments.workers, arguments.scenes, arguments.seeds, arguments.shards)
    print(table(ratios))
    title = f"{arguments.workers:,} workers on {arguments.scenes:,} scenes, {arguments.seeds} draws"
    chart(ratios, busy, arguments.workers, title, arguments.plot)
    print(f"\nThe plot: {arguments.plot}")


if __name__ == "__main__":
    main()
