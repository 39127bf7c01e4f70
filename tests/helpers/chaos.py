"""Twelve ways to interrupt a job of 2 nodes x 2 ranks on the test cluster; each must end in the undisturbed run's bits.

    python tests/helpers/chaos.py                      all of them, then a Markdown table (make chaos)
    python tests/helpers/chaos.py rank_killed requeue  only these

Seconds lost: from the last step before the interruption to the first new step after it.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread

from chaos_kinds import KINDS, PROFILE, STEPS, Bench, Kind, Watched, disk_full
from same_run import same_end

from jobs.shards import build_from
from shards.manifest import Manifest, read_manifest
from slurm.errors import SlurmError
from slurm.testbed.cluster import Partition, down, up


@dataclass(frozen=True)
class Outcome:
    """`hit`: the last step before the interruption; `back`: the step it resumed from; `lost_s`: seconds until the first
    step after `hit`."""

    kind: Kind
    hit: int
    back: int
    lost_s: float
    restarts: int


def interrupt(bench: Bench, name: str) -> Outcome:
    """One run with one interruption, compared with the undisturbed run; AssertionError where they differ."""
    kind = KINDS[name]
    runs = bench.small / "runs" if kind.act is disk_full and bench.small else None
    watched = bench.start(name, *kind.more, partition=kind.partition, runs=runs)
    watched.until(lambda: watched.step() >= kind.hit, f"step {kind.hit}")
    with Recorder(watched) as recorder:
        kind.act(watched)
        watched.ends()
    same_end(bench.undisturbed, watched.run, STEPS)
    restarts = watched.restarts()
    assert restarts >= kind.restarts, (restarts, watched.log())
    return Outcome(kind, *recorder.gap(), restarts)


class Recorder:
    """Records a run's progress from another thread."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.over = watched, Event()
        self.seen: list[tuple[float, int]] = []
        self.thread = Thread(target=self._watch)

    def __enter__(self) -> "Recorder":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.02):
            step = self.watched.step()
            if not self.seen or step != self.seen[-1][1]:
                self.seen.append((time.monotonic(), step))

    def gap(self) -> tuple[int, int, float]:
        """(last step before the longest gap without a new step, lowest step it fell back to, seconds of the gap)."""
        first: list[tuple[float, int]] = []
        for when, step in self.seen:
            if not first or step > first[-1][1]:
                first.append((when, step))
        lost, began, ended, hit = max(
            (later - now, now, later, step) for (now, step), (later, _) in itertools.pairwise(first)
        )
        return hit, min(step for when, step in self.seen if began <= when <= ended), lost


def open_bench(base: Path, manifest: Manifest, small: Path | None = None, ranks_per_node: int = 2) -> Bench:
    """A cluster in `base` and the undisturbed run on it; stop it with `down`."""
    testbed = up(base / "slurm", partitions=[Partition("spot", preemptible=True, grace_s=0)])
    os.environ |= testbed.env
    bench = Bench(testbed, manifest, base, replace(PROFILE, tasks_per_node=ranks_per_node), small)
    try:
        bench.start("undisturbed").ends()
    except BaseException:
        down(testbed.folder)
        raise
    return bench


def main(names: list[str]) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    base = Path(tempfile.mkdtemp(prefix="chaos-"))
    build_from("field_guide", "-", base / "shards", ["species=4", "train_per_class=20", "test_per_class=7", "size=64"])
    small = base / "small"
    small.mkdir()
    # Before the nodes start: each has its own mounts from then on.
    mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)]).returncode
    bench = open_bench(base, read_manifest(base / "shards"), small if mounted else None)
    rows, failed = [], 0
    try:
        for name in names or KINDS:
            if name == "disk_full" and not mounted:
                print("disk_full: skipped: mounting a small disk needs root", flush=True)
                continue
            try:
                outcome = interrupt(bench, name)
            except (AssertionError, SlurmError) as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
                continue
            rows.append(
                f"| {outcome.kind.what} | {outcome.hit} | {outcome.back} | {outcome.restarts} "
                f"| {outcome.lost_s:.0f} | same bits |"
            )
            print(rows[-1], flush=True)
    finally:
        down(bench.testbed.folder)
        if mounted:
            subprocess.run(["umount", "-l", str(small)], check=True)
    print("\n| interruption | last step | resumed from | restarts | seconds lost | result |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
