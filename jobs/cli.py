"""The command line: `fgvc COMMAND WORDS`. Imports only what names the commands; the rest when one is called."""

import difflib
import importlib
import os
import sys
from importlib import metadata

from jobs.registry import COMMANDS, command_module, summary
from shards.errors import UserError
from shards.sources.problems import printable
from slurm.errors import SlurmError

HELP = """fgvc: from a folder of images to a robust, explained fine-grained classifier.

{commands}

Every job reads a YAML file from configs/ and takes key=value after it:

  fgvc JOB CONFIG [key=value ...] [--processes N] [--on debug] [--dry-run] [--print-config]
  fgvc classify|detect|gan CONFIG --estimate   the memory it takes on every rank, by strategy; runs nothing
  fgvc JOB CONFIG [key=value ...] --on CLUSTER [nodes=N time=8:00:00 ...] [--dry-run] [--follow]
  fgvc JOB --help                              the job's commands and every setting with its meaning
  fgvc JOB NAME                                a shipped config by its name (fgvc configs), from any folder
  fgvc --version"""


def main(words: list[str] | None = None) -> int:
    """The command line's entry. Exit codes: 0 done, 1 failed, maybe not the next time, 2 a user's mistake (one line), 3
    stopped by a signal but saved."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        words = ["help"]
    try:
        try:
            return _run(*words)
        finally:
            sys.stdout.flush()  # here, where a reader that is gone is no error; argparse leaves by SystemExit
    except BrokenPipeError:  # `fgvc ... | head` has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, SlurmError) as error:
        print(printable(f"fgvc {words[0]}: {error}"), file=sys.stderr)
        return getattr(error, "code", 2)
    except KeyboardInterrupt:
        return 130


def _run(name: str, *words: str) -> int:
    if name == "help":
        print(HELP.format(commands=summary()))
        return 0
    if name in ("--version", "-V"):
        print(f"fgvc {metadata.version('fgvc')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UserError(f"no such command '{name}'" + (f"; did you mean {near[0]}?" if near else "; see fgvc --help"))
    if COMMANDS[name].job:
        return int(importlib.import_module("jobs.job").main(name, list(words)))
    return int(command_module(name).main(list(words)))


if __name__ == "__main__":
    sys.exit(main())
