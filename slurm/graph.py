"""Dependent jobs: a graph of tasks and arrays of tasks, of which only what is missing is submitted.

    nodes = [
        Node("shards", (build,)),
        Node("rows", tuple(rows), after=("shards",), throttle=20),
        Node("report", (report,), after=("rows",)),
    ]
    submit_graph(profile, nodes)       # the same call again submits what has failed since, and what waited for it
    for state in graph_states(nodes): print(state)

Slurm keeps the order by itself: nothing has to stay alive after the call. When a node fails, Slurm cancels those that
wait for it, and `graph_states` names the one that failed.
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
from slurm.submit import Submitted, Task, submit

# Slurm will cancel such a job, at its next look around; until then it shows as waiting.
NEVER = "DependencyNeverSatisfied"
SAVING_S = 120  # a cancelled job saves its run before it ends


@dataclass(frozen=True)
class Node:
    """One step: a task, or many that run as arrays. It starts once every task of the nodes in `after` has ended well.

    done: the file, seen from a task's folder, that says it is done (a build's is shards/manifest.json). throttle: how
    many of its tasks run at once (0: the profile's). profile: what its jobs ask for (None: the graph's).
    """

    name: str
    tasks: tuple[Task, ...]
    after: tuple[str, ...] = ()
    throttle: int = 0
    profile: Profile | None = None
    done: str = "result.json"

    @property
    def missing(self) -> tuple[Task, ...]:
        """The tasks that are not done."""
        return tuple(task for task in self.tasks if not (task.folder / self.done).is_file())


@dataclass(frozen=True)
class NodeState:
    """Where a node stands. `live`: how many of its tasks wait or run; `cause`: for a cancelled node, the node that
    failed before it."""

    name: str
    state: Literal["done", "running", "waiting", "failed", "cancelled"]
    done: int
    live: int
    total: int
    cause: str = ""
    failed: tuple[Task, ...] = ()

    def __str__(self) -> str:
        """One line: `rows: failed, 9 of 12 done (rows/a-f1, ...)`."""
        line = f"{self.name}: {self.state}"
        if self.total > 1:
            line += f", {self.done} of {self.total} done"
        if self.cause:
            line += f", because {self.cause} failed"
        if self.failed:
            names = ", ".join(task.folder.name for task in self.failed[:5])
            line += f" ({names}{', ...' if len(self.failed) > 5 else ''})"
        return line


def check_graph(nodes: Sequence[Node]) -> None:
    """Raise SlurmError for a name used twice, or an `after` that names no earlier node."""
    seen: set[str] = set()
    for node in nodes:
        for parent in node.after:
            if parent not in seen:
                raise SlurmError(f"'{node.name}' comes after '{parent}', but no node before it has that name")
        if node.name in seen:
            raise SlurmError(f"two nodes are called '{node.name}'; give each its own name")
        seen.add(node.name)
    folders = [task.folder.absolute() for node in nodes for task in node.tasks]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise SlurmError(f"{twice}: two tasks of this graph would write there; give each its own folder")


def submit_graph(profile: Profile, nodes: Sequence[Node]) -> dict[str, list[Submitted]]:
    """Submit, in order, the tasks that are neither done nor in the queue; node name -> what was submitted for it.

    Nodes are given parents first. Raises SlurmError as `submit` and `check_graph` do.
    """
    check_graph(nodes)
    missing = [task for node in nodes for task in node.missing]
    if missing:
        _end_useless(missing)
    queued = queue() if missing else {}
    submitted: dict[str, list[Submitted]] = {}
    jobs: dict[str, list[str]] = {}  # node name -> jobs that its children have to wait for
    for node in nodes:
        live = {task: job for task in node.missing if (job := live_job(task.folder, queued)) is not None}
        if any(submitted[parent] for parent in node.after):
            # What waits in the queue waits for the parents' former jobs, which failed.
            doomed = {task: job for task, job in live.items() if job.state == "PENDING"}
            _end([job.id for job in doomed.values()])
            live = {task: job for task, job in live.items() if task not in doomed}
        todo = [task for task in node.missing if task not in live]
        # A whole array is named by its id; Slurm would take 300 single tasks too, but not 30,000.
        after = dict.fromkeys(job.split("_")[0] for parent in node.after for job in jobs[parent])
        submitted[node.name] = submit(node.profile or profile, todo, after=list(after), throttle=node.throttle)
        jobs[node.name] = [job.id for job in live.values()] + [one.job for one in submitted[node.name]]
    return submitted


def graph_states(nodes: Sequence[Node]) -> list[NodeState]:
    """Where every node stands, from the folders and Slurm's queue."""
    missing = {node.name: node.missing for node in nodes}
    queued = queue() if any(missing.values()) else {}
    states: dict[str, NodeState] = {}
    for node in nodes:
        live = [task for task in missing[node.name] if _will_run(task, queued)]
        failed = tuple(task for task in missing[node.name] if task not in live)
        done, total = len(node.tasks) - len(missing[node.name]), len(node.tasks)
        culprits = [states[parent].cause or parent for parent in node.after if states[parent].cause or
                    states[parent].state == "failed"]  # fmt: skip
        if not missing[node.name]:
            state = NodeState(node.name, "done", done, 0, total)
        elif culprits and not any(_started(task, queued) for task in live):
            state = NodeState(node.name, "cancelled", done, len(live), total, " and ".join(dict.fromkeys(culprits)))
        elif live:
            started = any(_started(task, queued) for task in live)
            state = NodeState(node.name, "running" if started else "waiting", done, len(live), total, "", failed)
        else:
            state = NodeState(node.name, "failed", done, 0, total, "", failed)
        states[node.name] = state
    return list(states.values())


def wait_for_graph(nodes: Sequence[Node], told: Callable[[str], None], pause: Callable[[], None]) -> bool:
    """Return once no task of the graph waits or runs; whether all are done. `told` gets a line for every change of a
    node, `pause` is called between looks (it may raise to stop waiting; the jobs go on)."""
    shown: Mapping[str, str] = {}
    while True:
        states = graph_states(nodes)
        lines = {state.name: str(state) for state in states}
        for name, line in lines.items():
            if shown.get(name) != line:
                told(line)
        shown = lines
        if not any(state.live for state in states):
            return all(state.state == "done" for state in states)
        pause()


def _will_run(task: Task, queued: dict[str, Job]) -> bool:
    job = live_job(task.folder, queued)
    return job is not None and job.reason != NEVER


def _started(task: Task, queued: dict[str, Job]) -> bool:
    job = live_job(task.folder, queued)
    return job is not None and job.state != "PENDING"


def _end_useless(tasks: Sequence[Task]) -> None:
    """Cancel jobs of these tasks that will not do their work, so that the tasks can be submitted anew.

    They are jobs whose parent failed, where Slurm has not yet acted; and jobs whose submission was killed before it was
    complete: no run folder knows of them, and some lack the file that tells them what to run.
    """
    wanted, useless = {str(task.folder.absolute()): task.folder for task in tasks}, []
    for line in ask("squeue", "--me", "-h", "-r", "-o", "%i|%T|%r|%o").splitlines():
        job, state, reason, script = line.split("|", 3)
        if state not in LIVE:
            continue
        folder = wanted.get(_run_of(job, Path(script).parent / "runs"))
        if folder is not None and (reason == NEVER or (read_record(folder) or {}).get("job") != job):
            useless.append(job)
    _end(useless)


def _end(jobs: Sequence[str]) -> None:
    """Cancel jobs and return once they have ended."""
    if not jobs:
        return
    cancel(jobs)
    deadline = time.monotonic() + SAVING_S
    while any(job.live for number, job in queue().items() if number in jobs):
        if time.monotonic() > deadline:
            raise SlurmError(f"job {', '.join(jobs[:5])} was cancelled {SAVING_S} s ago and has not ended; try again")
        time.sleep(0.1)


def _run_of(job: str, runs: Path) -> str:
    """The run folder of a job, from the list that `submit` left beside its script; empty for a job of others."""
    try:
        return runs.read_text().splitlines()[int(job.partition("_")[2] or 0)]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
