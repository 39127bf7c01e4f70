"""What runs in every task of a job: tell the ranks of each other, then the ordinary command line.

srun python -m slurm.job classify CONFIG key=value     for batch scripts of one's own (slurm/job.sbatch)
"""

import importlib
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MISTAKE = 2  # exit code of a user's mistake: starting again would not mend it
STOPPED = 3  # exit code of a run that was stopped: starting again goes on


@dataclass(frozen=True)
class Run:
    """A command as submitit pickles it: `entry` is module:function, which takes `words` and returns the exit code.

    It holds no state: Slurm may start it again at any time, and the run finds its own checkpoint on the disk.
    """

    entry: str
    words: tuple[str, ...]

    def __call__(self) -> None:
        """Run it; ends the process with the command's exit code when that is not 0."""
        # submitit's own handlers would requeue from here, in the middle of whatever the process does. While the run
        # trains, its handlers save first; at any other time there is nothing to save.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, _leave)
        export_ranks()
        module, _, function = self.entry.partition(":")
        code = int(getattr(importlib.import_module(module), function)(list(self.words)))
        for number in (signal.SIGTERM, signal.SIGUSR2):  # too late: what it was to do is done, it only has to end
            signal.signal(number, signal.SIG_IGN)
        if code == MISTAKE:
            note_mistake()
        if code:
            sys.stdout.flush()
            raise SystemExit(code)


def export_ranks() -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE from Slurm's variables; alone, none is set.

    The batch script has set MASTER_ADDR and MASTER_PORT (restart.sh). CUDA_VISIBLE_DEVICES stays as Slurm gave it: all
    GPUs of the node that are the job's, of which a rank takes the one of its LOCAL_RANK.
    """
    world = int(os.environ.get("SLURM_NTASKS", "1"))
    if world == 1:
        for key in RANKS:  # of the shell that submitted
            os.environ.pop(key, None)
        return
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(world // nodes),
    }


def note_mistake() -> None:
    """Leave the mark that keeps the batch script from asking for a restart."""
    if mark := os.environ.get("FGVC_MISTAKE"):
        with suppress(OSError):  # a full disk may be the mistake
            Path(mark).touch()


def _leave(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    print(f"fgvc: stopped by {name} while not training; a restart goes on", file=sys.stderr, flush=True)
    os._exit(STOPPED)


if __name__ == "__main__":
    Run("jobs.cli:main", tuple(sys.argv[1:]))()
