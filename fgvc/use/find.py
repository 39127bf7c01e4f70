"""Which weights file people mean: a run's name, its folder, or the file itself. Imports nothing heavy."""

import difflib
from pathlib import Path

from shards.errors import UserError
from shards.paths import expand

WEIGHTS = "model.safetensors"


def find_weights(run: str | Path, runs_dir: str | Path = "runs", job: str = "classify") -> Path:
    """The weights file of a finished run of a job that trains. Raises UserError naming the nearest run."""
    path, runs = expand(str(run), "run"), Path(runs_dir) / job
    named, below = runs / path, Path(runs_dir) / path  # as `fgvc status` names runs, those of a pipeline too
    for file in (path, path / WEIGHTS, named / WEIGHTS, below / WEIGHTS):
        if file.is_file():
            return file
    for folder in (path, named, below):
        if folder.is_dir():
            raise UserError(f"{folder}: no {WEIGHTS} there; is the run finished? fgvc status shows it")
    there = sorted(file.parent.name for file in runs.glob(f"*/{WEIGHTS}"))
    close = difflib.get_close_matches(str(run), there, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(there[:5])}" if there else ""
    raise UserError(f"{run}: no such run, folder or weights file{hint}")
