"""What Slurm knows about jobs: which are pending or running, and how the others ended."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.client import ask
from slurm.errors import SlurmError

LIVE = (
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "STOPPED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT",
)  # fmt: skip
UNKNOWN = "UNKNOWN"
RECORD = "slurm.json"  # in a run folder: its latest job


@dataclass(frozen=True)
class Job:
    """A Slurm job. `id`: 123, or 123_4 in an array; `state`: one word such as RUNNING; `reason`: why it is pending."""

    id: str
    name: str
    state: str
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether it is pending, running, or will run again."""
        return self.state in LIVE


def queue() -> dict[str, Job]:
    """This user's jobs by id: those in the queue and those that ended in the last few minutes (MinJobAge)."""
    jobs = {}
    text = ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%j")
    for line in text.splitlines():
        number, state, reason, name = line.split("|", 3)
        jobs[number] = Job(number, name, state, "" if reason == "None" else reason)
    return jobs


def states(ids: Iterable[str]) -> dict[str, Job]:
    """The jobs with these ids, from the queue or else from accounting; state UNKNOWN when Slurm has forgotten them."""
    ids, known = list(dict.fromkeys(ids)), queue()
    missing = [job_id for job_id in ids if job_id not in known]
    if missing and shutil.which("sacct"):
        known = accounted(missing) | known
    return {job_id: known.get(job_id, Job(job_id, "", UNKNOWN)) for job_id in ids}


def accounted(ids: Iterable[str]) -> dict[str, Job]:
    """What accounting knows about these jobs; empty without accounting."""
    parents = sorted({job_id.split("_")[0] for job_id in ids})
    try:
        text = ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,JobName", "-j", ",".join(parents))
    except SlurmError:  # no accounting, or its database is down: make do with the queue
        return {}
    jobs = {}
    for line in text.splitlines():
        number, state, name = line.split("|", 2)
        # `CANCELLED by 0`: only the first word is the state. `7_[3-9%2]`: array tasks that never started share a line.
        for job_id in _expanded(number):
            jobs[job_id] = Job(job_id, name, state.split()[0])
    return jobs


def read_record(folder: Path) -> dict[str, Any] | None:
    """The slurm.json of a run folder: job, name, log, submitted (Unix time in seconds); None without one."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None


def live_job(folder: Path, queued: dict[str, Job]) -> Job | None:
    """The job of `queued` (see `queue`) that was submitted for this run folder, if it has not ended."""
    record = read_record(folder)
    if record is None:
        return None
    job = queued.get(record["job"])
    # Compare the name too: on a reinstalled cluster ids start from 1 again and may belong to another job.
    return job if job is not None and job.live and job.name == record["name"] else None


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; those that have already ended stay as they are."""
    ask("scancel", *ids)


def _expanded(number: str) -> list[str]:
    """The ids of sacct's JobID column: 7_[1,3-5%2] is 7_1, 7_3, 7_4, 7_5."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", number)
    if match is None:
        return [number]
    ids = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        ids += [f"{match[1]}_{index}" for index in range(int(first), int(last or first) + 1)]
    return ids
