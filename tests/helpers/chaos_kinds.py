"""The kinds of interruption that `chaos.py` tries on a watched run."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from slurm_helpers import job as shown_by_slurm
from small_runs import small_run

from shards.manifest import Manifest
from slurm.errors import SlurmError
from slurm.profile import Profile
from slurm.queue import Job, states
from slurm.submit import Launch, Submitted, submit
from slurm.testbed.cluster import (
    Testbed,
    client,
    kill_controller,
    kill_node,
    restore_node,
    start_controller,
)

STEPS = 40


HIT = 13  # the interruption comes after this step, three steps after a checkpoint


PROFILE = Profile(
    partition="normal", nodes=2, tasks_per_node=2, cpus_per_task=1, time="30", signal_seconds=20, timeout_minutes=1,
    env={"OMP_NUM_THREADS": "1"},
)  # fmt: skip


PATIENCE_S = 900


@dataclass
class Bench:
    """A cluster, shards and the undisturbed run that all others are compared with. `small`: a disk to fill up."""

    testbed: Testbed
    manifest: Manifest
    base: Path
    profile: Profile
    small: Path | None = None

    @property
    def undisturbed(self) -> Path:
        return self.base / "runs/classify/undisturbed"

    def start(self, name: str, *more: str, partition: str = "normal", runs: Path | None = None) -> "Watched":
        """Submit a run: 40 steps, a checkpoint every 10, BatchNorm frozen (it would see only its rank's samples)."""
        runs = runs or self.base / "runs"
        words = small_run(
            self.manifest, runs, name, "train.deterministic=true", "train.freeze_bn=statistics", "train.epochs=4", *more
        )
        profile = replace(self.profile, partition=partition)
        launch = Launch(name, tuple(words), runs / "classify" / name)
        return Watched(self, profile, launch, submit(profile, [launch])[0])

    def slurm(self, *command: str) -> str:
        return client(self.testbed, *command)


@dataclass
class Watched:
    """A run on the cluster whose files are watched."""

    bench: Bench
    profile: Profile
    launch: Launch
    submitted: Submitted

    @property
    def run(self) -> Path:
        return self.launch.folder

    @property
    def id(self) -> str:
        return self.submitted.job

    def step(self) -> int:
        """The last step in metrics.jsonl (it is cut back on resume)."""
        file = self.run / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    def until(self, ready: Callable[[], object], what: str, pause_s: float = 0.02) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline, f"{self.launch.name}: timed out waiting for {what}\n{self.log()}"
            assert (self.run / "result.json").is_file() or self.alive(), (
                f"{self.launch.name} ended before {what}\n{self.log()}"
            )
            time.sleep(pause_s)

    def alive(self) -> bool:
        # Polled rarely: the controller may be down.
        now = time.monotonic()
        if now - getattr(self, "_asked", 0) > 2:
            self._asked = now
            job = self.state()
            self._alive = job is None or job.live
        return self._alive

    def state(self) -> Job | None:
        """Of the job; None where the controller, which may be down or busy, does not answer."""
        try:
            return states([self.id])[self.id]
        except SlurmError:
            return None

    def log(self) -> str:
        return "".join(
            f"== {file.name}\n{file.read_text()[-2500:]}\n" for file in self.submitted.log.parent.glob("*.out")
        )

    def ends(self) -> None:
        """Wait for the job to end; AssertionError if it failed."""
        deadline = time.monotonic() + PATIENCE_S
        while (job := self.state()) is None or job.live:
            assert time.monotonic() < deadline, f"{self.launch.name} did not end: {job}\n{self.log()}"
            time.sleep(0.2)
        assert job.state == "COMPLETED", f"{job}\n{self.log()}"

    def rank(self, number: int) -> int:
        """The pid of a rank's process."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            here = str(self.submitted.log.parent).encode() in line and b"submitit.core._submit" in line
            if here and b"python" in line.split(b"\0")[0] and f"SLURM_PROCID={number}".encode() in environ:
                return int(entry.name)
        raise AssertionError(f"rank {number} of {self.launch.name} not found")

    def restarts(self) -> int:
        return int(shown_by_slurm(self.bench.testbed, self.id)["Restarts"])

    def pending(self) -> bool:
        return shown_by_slurm(self.bench.testbed, self.id)["JobState"] == "PENDING"


def time_limit(watched: Watched) -> None:
    elapsed = time.time() - (watched.submitted.log.parent / f"{watched.id}.starts").stat().st_mtime
    limit, slowed = math.ceil((elapsed + 25) / 60), watched.rank(1)
    watched.bench.slurm("scontrol", "update", f"jobid={watched.id}", f"timelimit={limit}")

    def restarted() -> bool:
        """A step every 3 s until then: the run would be over before the limit, which Slurm enforces every 30 s."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(slowed, signal.SIGSTOP)
            time.sleep(3)
            os.kill(slowed, signal.SIGCONT)
        return watched.restarts() > 0

    watched.until(restarted, "the restart at the time limit", 0.1)
    # Raise it again: on a busy machine the restart alone could take that long.
    watched.bench.slurm("scontrol", "update", f"jobid={watched.id}", "timelimit=30")


def preemption(watched: Watched) -> None:
    # Takes both nodes, so that the job has to give way.
    watched.bench.slurm("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


def signalled(watched: Watched) -> None:
    watched.bench.slurm("scancel", "--signal=USR2", watched.id)


def requeue(watched: Watched) -> None:
    watched.bench.slurm("scontrol", "requeue", watched.id)


def node_fails(watched: Watched) -> None:
    # The first node: the batch script dies with it, so Slurm itself has to requeue the job.
    kill_node(watched.bench.testbed.folder, "n1")
    time.sleep(2)
    restore_node(watched.bench.testbed.folder, "n1")


def rank_crashes(watched: Watched) -> None:
    os.kill(watched.rank(0), signal.SIGSEGV)


def rank_hangs(watched: Watched) -> None:
    os.kill(watched.rank(1), signal.SIGSTOP)


def rank_killed(watched: Watched) -> None:
    os.kill(watched.rank(watched.profile.nodes * watched.profile.tasks_per_node - 1), signal.SIGKILL)


def slurmd_killed(watched: Watched) -> None:
    kill_node(watched.bench.testbed.folder, "n2", notify=False)
    watched.until(watched.pending, "the job whose node is gone to be pending", 0.2)
    restore_node(watched.bench.testbed.folder, "n2")


def slurmctld_killed(watched: Watched) -> None:
    kill_controller(watched.bench.testbed.folder)
    time.sleep(2)
    start_controller(watched.bench.testbed.folder)


def disk_full(watched: Watched) -> None:
    """Fill the disk before the next checkpoint, so that the job fails; then free it and resubmit."""
    assert watched.bench.small is not None
    filler = watched.bench.small / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 65536)
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - 2 * 65536))
    while (job := watched.state()) is None or job.live:
        time.sleep(0.2)
    assert "no space left on the disk" in watched.submitted.log.read_text(), watched.log()
    assert "Traceback" not in watched.submitted.log.read_text()
    filler.unlink()
    watched.submitted = submit(watched.profile, [watched.launch])[0]


@dataclass(frozen=True)
class Kind:
    """How to interrupt, in which partition, and the minimum number of restarts that Slurm must count."""

    what: str
    act: Callable[[Watched], None]
    partition: str = "normal"
    restarts: int = 1
    more: tuple[str, ...] = ()
    hit: int = HIT


KINDS = {
    "time_limit": Kind("time limit", time_limit, hit=3),
    "preemption": Kind("preemption, 10 s of grace", preemption, "preemptible"),
    "preemption_at_once": Kind("preemption without grace", preemption, "spot"),
    "signal": Kind("scancel --signal=USR2", signalled),
    "requeue": Kind("scontrol requeue", requeue),
    "node_fails": Kind("failure of the first node", node_fails),
    "rank_crashes": Kind("SIGSEGV of rank 0", rank_crashes),
    "rank_hangs": Kind("a rank hangs (SIGSTOP)", rank_hangs),
    "rank_killed": Kind("SIGKILL of the last rank", rank_killed),
    "slurmd_killed": Kind("SIGKILL of a slurmd and its steps", slurmd_killed),
    "slurmctld_killed": Kind("SIGKILL of slurmctld, back after 2 s", slurmctld_killed, restarts=0),
    "disk_full": Kind("full disk during a checkpoint", disk_full, restarts=0),
}
