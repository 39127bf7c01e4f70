"""fgvc cancel: cancel jobs on the cluster. Checkpoints are kept; the same command resumes later.

fgvc cancel 1234                             a job by its id (1234_5: one task of an array)
fgvc cancel runs/classify/cub200_resnet50    the job of a run, by its folder or by JOB/NAME
"""

from pathlib import Path

from shards.errors import UserError
from slurm.queue import Job, cancel, live_job, queue


def main(words: list[str]) -> int:
    """`fgvc cancel WORDS`. Raises UserError for what is neither a job in the queue nor a run with one."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    queued = queue()
    chosen: list[Job] = []
    for word in words:
        if word.replace("_", "").isdigit() and not Path(word).is_dir():
            found = [job for job in queued.values() if job.id == word or job.id.split("_")[0] == word]
        else:
            folder = next((path for path in (Path(word), Path("runs") / word) if path.is_dir()), None)
            if folder is None:
                raise UserError(f"{word}: neither a job id nor a run folder; fgvc status lists both")
            job = live_job(folder, queued)
            found = [job] if job else []
        live = [job for job in found if job.live]
        if not live:
            raise UserError(f"{word}: you have no such job in the queue; fgvc status shows how it ended")
        chosen += live
    cancel(job.id for job in chosen)
    for job in chosen:
        print(f"cancelled job {job.id} ({job.name}); the same command resumes from its last checkpoint")
    return 0
