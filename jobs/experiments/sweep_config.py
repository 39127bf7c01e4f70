"""What a sweep takes on the command line beside its file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from jobs.config import locate, nearest, walk
from jobs.experiments.sweep_file import job_config
from jobs.launch import split_words
from jobs.registry import JOBS
from shards.errors import UserError
from shards.options import option


@dataclass
class Config:
    """What a sweep takes on the command line beside its file."""

    name: str = option("", "the folder's name (empty: the file's)")
    runs_dir: str = option("runs", "folder of all runs")
    parallel: Annotated[int, Ge(0)] = option(0, "trials at once (0: here 1; on a cluster the profile's throttle, or 4)")
    run_cap: Annotated[int, Ge(0)] = option(0, "trials in all (0: the file's run_cap; of a grid all)")
    search_seed: Annotated[int, Ge(0)] = option(0, "of the search; the trials' own seed is a setting like others")


@dataclass(frozen=True)
class Words:
    """A sweep's words, apart: its file, its own settings, the cluster's, those of every trial."""

    file: Path
    own: list[str]
    profile: list[str]
    trials: list[str]


def sorted_words(words: list[str], on: str) -> Words:
    """The command line's words, apart: the file, the sweep's own settings, the cluster's, those of every trial."""
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        said = f"one at a time, found {' and '.join(files)}" if files else "which? fgvc sweep configs/sweeps/NAME.yaml"
        raise UserError(f"expected a sweep file; {said}")
    file = locate(Path(files[0]), "sweeps")
    settings = [word for word in words if "=" in word]
    profile: list[str] = []
    if on and on != "debug":
        profile, settings = split_words(settings)
    own_keys = [option.name for option in fields(Config)]
    own = [word for word in settings if word.partition("=")[0] in own_keys]
    trials = [word for word in settings if word not in own]
    known = [key for job in JOBS for key, _ in walk(job_config(job))]  # which job it is, the file says
    for word in trials:
        key = word.partition("=")[0]
        if "." not in key and key not in known:
            raise UserError(f"'{word}': unknown key '{key}'{nearest(key, [*own_keys, *known])}")
    return Words(file, own, profile, trials)
