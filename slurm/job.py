"""What each Slurm task runs: set the rank variables, then call the ordinary command line.

srun python -m slurm.job classify CONFIG key=value     for your own batch scripts (slurm/job.sbatch)
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
MISTAKE = 2  # exit code of a user's mistake: a restart would not fix it
STOPPED = 3  # exit code of a run that was stopped by a signal: a restart resumes it


@dataclass(frozen=True)
class RankCommand:
    """The command of a rank, as submitit pickles it: `entry` (module:function) takes `words` and returns the exit code.

    It holds no state: Slurm may restart it at any time, and the run finds its own checkpoint on disk.
    """

    entry: str
    words: tuple[str, ...]

    def __call__(self) -> None:
        """Run the command; end the process with its exit code unless that is 0."""
        # submitit's own handlers would requeue at once, whatever the process is doing. During training the run's own
        # handlers save first; at any other time there is nothing to save.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, _leave)
        export_ranks()
        module, _, function = self.entry.partition(":")
        code = int(getattr(importlib.import_module(module), function)(list(self.words)))
        for number in (signal.SIGTERM, signal.SIGUSR2):  # the work is done; only the exit is left
            signal.signal(number, signal.SIG_IGN)
        if code == MISTAKE:
            note_mistake()
        if code:
            sys.stdout.flush()
            raise SystemExit(code)


def export_ranks() -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE from Slurm's variables; unset them for a single rank.

    The batch script sets MASTER_ADDR and MASTER_PORT (restart.sh). CUDA_VISIBLE_DEVICES stays as Slurm set it: it
    lists the job's GPUs on this node, of which a rank takes the one at its LOCAL_RANK.
    """
    world = int(os.environ.get("SLURM_NTASKS", "1"))
    if world == 1:
        for key in RANKS:  # inherited from the submitting shell
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
    """Leave the marker file that keeps the batch script from requesting a restart."""
    if marker := os.environ.get("FGVC_MISTAKE"):
        with suppress(OSError):  # a full disk may be the mistake
            Path(marker).touch()


def _leave(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    print(f"fgvc: stopped by {name} while not training; a restart resumes", file=sys.stderr, flush=True)
    os._exit(STOPPED)


if __name__ == "__main__":
    RankCommand("jobs.cli:main", tuple(sys.argv[1:]))()
