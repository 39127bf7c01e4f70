"""Dependent jobs: a graph of stages, each one launch or an array of them. Only missing launches are submitted.

    stages = [
        Stage("shards", (build,)),
        Stage("rows", tuple(rows), after=("shards",), throttle=20),
        Stage("report", (report,), after=("rows",)),
    ]
    submit_graph(profile, stages)       # repeat the call to resubmit what failed and what depended on it
    for state in graph_states(stages):
        print(state)

Slurm enforces the order, so no process has to stay alive. When a stage fails, Slurm cancels its dependants, and
`graph_states` names the stage that failed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slurm.client import ask
from slurm.errors import SlurmError
from slurm.profile import Profile
from slurm.queue import LIVE, Job, cancel, live_job, queue, read_record
from slurm.submit import Launch, Submitted, submit

# Slurm cancels such a job at its next scheduling pass; until then it shows as pending.
NEVER = "DependencyNeverSatisfied"
SAVING_S = 120  # a cancelled job saves a checkpoint before it ends


@dataclass(frozen=True)
class Stage:
    """A step of the graph. It starts once every launch of the stages in `after` has succeeded.

    launches: run as an array when there are several. done: file, relative to a launch's folder, whose presence marks
    the launch as done (shards/manifest.json for a build). throttle: how many launches run at once (0: the profile's
    limit). profile: resources of its jobs (None: the graph's).
    """

    name: str
    launches: tuple[Launch, ...]
    after: tuple[str, ...] = ()
    throttle: int = 0
    profile: Profile | None = None
    done: str = "result.json"

    @property
    def missing(self) -> tuple[Launch, ...]:
        """The launches that are not done."""
        return tuple(launch for launch in self.launches if not (launch.folder / self.done).is_file())


@dataclass(frozen=True)
class StageState:
    """The state of a stage. `live`: how many launches are pending or running; `cause`: for a cancelled stage, the stage
    whose failure cancelled it."""

    name: str
    state: Literal["done", "running", "waiting", "failed", "cancelled"]
    done: int
    live: int
    total: int
    cause: str = ""
    failed: tuple[Launch, ...] = ()

    def __str__(self) -> str:
        """One line: `rows: failed, 9 of 12 done (rows/a-f1, ...)`."""
        line = f"{self.name}: {self.state}"
        if self.total > 1:
            line += f", {self.done} of {self.total} done"
        if self.cause:
            line += f", because {self.cause} failed"
        if self.failed:
            names = ", ".join(launch.folder.name for launch in self.failed[:5])
            line += f" ({names}{', ...' if len(self.failed) > 5 else ''})"
        return line


def check_graph(stages: Sequence[Stage]) -> None:
    """Raise SlurmError for a name used twice, or an `after` that names no earlier stage."""
    seen: set[str] = set()
    for stage in stages:
        for parent in stage.after:
            if parent not in seen:
                raise SlurmError(f"'{stage.name}' comes after '{parent}', but no stage before it has that name")
        if stage.name in seen:
            raise SlurmError(f"two stages are called '{stage.name}'; give each a different name")
        seen.add(stage.name)
    folders = [launch.folder.absolute() for stage in stages for launch in stage.launches]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise SlurmError(f"{twice}: two launches of this graph would write to this folder; give each its own")


def submit_graph(profile: Profile, stages: Sequence[Stage]) -> dict[str, list[Submitted]]:
    """Submit, in order, the launches that are neither done nor in the queue; stage name -> what was submitted.

    Stages are listed parents first. Raises SlurmError as `submit` and `check_graph` do.
    """
    check_graph(stages)
    missing = [launch for stage in stages for launch in stage.missing]
    if missing:
        _cancel_stale(missing)
    queued = queue() if missing else {}
    submitted: dict[str, list[Submitted]] = {}
    jobs: dict[str, list[str]] = {}  # stage name -> jobs that its children have to wait for
    for stage in stages:
        live = {launch: job for launch in stage.missing if (job := live_job(launch.folder, queued)) is not None}
        if any(submitted[parent] for parent in stage.after):
            # Pending launches depend on the parents' previous jobs, which failed.
            doomed = {launch: job for launch, job in live.items() if job.state == "PENDING"}
            _cancel_and_wait([job.id for job in doomed.values()])
            live = {launch: job for launch, job in live.items() if launch not in doomed}
        todo = [launch for launch in stage.missing if launch not in live]
        # Depend on whole arrays, not on their tasks: a dependency list of 30,000 tasks would be refused.
        after = dict.fromkeys(job.split("_")[0] for parent in stage.after for job in jobs[parent])
        submitted[stage.name] = submit(stage.profile or profile, todo, after=list(after), throttle=stage.throttle)
        jobs[stage.name] = [job.id for job in live.values()] + [entry.job for entry in submitted[stage.name]]
    return submitted


def graph_states(stages: Sequence[Stage]) -> list[StageState]:
    """The state of every stage, from the run folders and Slurm's queue."""
    missing = {stage.name: stage.missing for stage in stages}
    queued = queue() if any(missing.values()) else {}
    states: dict[str, StageState] = {}
    for stage in stages:
        live = [launch for launch in missing[stage.name] if _will_run(launch, queued)]
        failed = tuple(launch for launch in missing[stage.name] if launch not in live)
        done, total = len(stage.launches) - len(missing[stage.name]), len(stage.launches)
        culprits = [states[parent].cause or parent for parent in stage.after if states[parent].cause or
                    states[parent].state == "failed"]  # fmt: skip
        if not missing[stage.name]:
            state = StageState(stage.name, "done", done, 0, total)
        elif culprits and not any(_started(launch, queued) for launch in live):
            state = StageState(stage.name, "cancelled", done, len(live), total, " and ".join(dict.fromkeys(culprits)))
        elif live:
            started = any(_started(launch, queued) for launch in live)
            state = StageState(stage.name, "running" if started else "waiting", done, len(live), total, "", failed)
        else:
            state = StageState(stage.name, "failed", done, 0, total, "", failed)
        states[stage.name] = state
    return list(states.values())


def wait_for_graph(stages: Sequence[Stage], report: Callable[[str], None], pause: Callable[[], None]) -> bool:
    """Return once no launch of the graph is pending or running: True if all are done.

    `report` gets a line whenever a stage changes. `pause` is called between polls and may raise to stop waiting; the
    jobs keep running.
    """
    shown: Mapping[str, str] = {}
    while True:
        states = graph_states(stages)
        lines = {state.name: str(state) for state in states}
        for name, line in lines.items():
            if shown.get(name) != line:
                report(line)
        shown = lines
        if not any(state.live for state in states):
            return all(state.state == "done" for state in states)
        pause()


def _will_run(launch: Launch, queued: dict[str, Job]) -> bool:
    job = live_job(launch.folder, queued)
    return job is not None and job.reason != NEVER


def _started(launch: Launch, queued: dict[str, Job]) -> bool:
    job = live_job(launch.folder, queued)
    return job is not None and job.state != "PENDING"


def _cancel_stale(launches: Sequence[Launch]) -> None:
    """Cancel jobs that can no longer do the work of these launches, so that the launches can be resubmitted.

    Those are jobs whose parent failed but which Slurm has not cancelled yet, and jobs whose submission was killed
    half-way: no run folder records them, and some lack the file that tells them what to run.
    """
    folders, stale = {str(launch.folder.absolute()): launch.folder for launch in launches}, []
    for line in ask("squeue", "--me", "-h", "-r", "-o", "%i|%T|%r|%o").splitlines():
        job, state, reason, script = line.split("|", 3)
        if state not in LIVE:
            continue
        folder = folders.get(_run_of(job, Path(script).parent / "runs"))
        if folder is not None and (reason == NEVER or (read_record(folder) or {}).get("job") != job):
            stale.append(job)
    _cancel_and_wait(stale)


def _cancel_and_wait(jobs: Sequence[str]) -> None:
    """Cancel jobs and return once they have ended. Raises SlurmError when they take longer than SAVING_S."""
    if not jobs:
        return
    cancel(jobs)
    deadline = time.monotonic() + SAVING_S
    while any(job.live for number, job in queue().items() if number in jobs):
        if time.monotonic() > deadline:
            raise SlurmError(
                f"job {', '.join(jobs[:5])} was cancelled {SAVING_S} s ago but still runs; try again later"
            )
        time.sleep(0.1)


def _run_of(job: str, runs: Path) -> str:
    """The run folder of a job, from the list that `submit` writes beside its script; empty for a job not of ours."""
    try:
        return runs.read_text().splitlines()[int(job.partition("_")[2] or 0)]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
