"""fgvc: from a folder of images to a robust, explained fine-grained classifier.

  data       fgvc shards build|verify|show     raw images to shards
  train      fgvc classify CONFIG              fine-tune a classifier, measure it once on the test split
             fgvc detect CONFIG                train a detector on shards with boxes
             fgvc crop CONFIG                  find the object in every image: a boxes layer to crop by
  measure    fgvc evaluate CONFIG              trained weights on any shards
             fgvc compare CONFIG...            several configs x seeds x folds, with paired intervals
             fgvc sweep FILE                   hyperparameter search, from a W&B sweep file
  machine    fgvc doctor                       what is here, what is missing, how to get it
             fgvc cluster up|down|status       a small real Slurm on this machine, to try things on
  cluster    fgvc JOB CONFIG --on CLUSTER      the same command as a Slurm job (configs/clusters/)
             fgvc status [RUN]                 runs, their jobs, progress, last figures
             fgvc cancel RUN|JOB               end a job; the same command goes on later

Every job reads a YAML file from configs/ and takes key=value after it:

  fgvc JOB CONFIG [key=value ...] [--processes N] [--on debug] [--dry-run] [--print-config]
  fgvc JOB CONFIG [key=value ...] --on CLUSTER [nodes=N time=8:00:00 ...] [--dry-run] [--follow]
  fgvc JOB --help                              the job's commands and every setting with its meaning
"""

import importlib
import os
import sys

from jobs.registry import COMMANDS, JOBS
from shards.errors import UserError
from slurm.errors import SlurmError


def main(words: list[str] | None = None) -> int:
    """The command line's entry. Exit codes: 0 done, 2 a user's mistake (one line), 3 stopped by a signal but saved."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    name, *rest = words
    try:
        code = _command(name, rest)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `fgvc ... | head` has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, SlurmError) as error:
        print(f"fgvc {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _command(name: str, words: list[str]) -> int:
    if name in COMMANDS:
        return int(importlib.import_module(COMMANDS[name]).main(words))
    if name in JOBS:
        return int(importlib.import_module("jobs.job").main(name, words))
    import difflib

    near = difflib.get_close_matches(name, [*JOBS, *COMMANDS], n=1)
    raise UserError(f"no such command '{name}'" + (f"; did you mean {near[0]}?" if near else "; see fgvc --help"))


if __name__ == "__main__":
    sys.exit(main())
