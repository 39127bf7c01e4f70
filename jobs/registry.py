"""Every command of fgvc, a line each: from here come the help, `fgvc status`, `--on`, sweeps and comparisons.

A job NAME reads a config and leaves a run folder. Its command is jobs/NAME.py: `Config`, `DEBUG`, `HEADLINE`,
`check(config)` and `report(result, folder)`, nothing heavy; its task is jobs/tasks/NAME.py: `run(config)`. Any other
command NAME is jobs/NAME.py with `main(words)` and, where that opens or asks for something, `read(words)`, which only
takes the words apart.
"""

import gc
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One command: its group in the help, how it is written after `fgvc`, what it does, and whether it is a job."""

    group: str
    usage: str
    help: str
    job: bool = False


COMMANDS = {
    "shards": Entry("data", "shards build|show|verify|list|...", "raw images to shards"),
    "audit": Entry("data", "audit SHARDS", "duplicates, doubtful labels, imbalance, odd boxes; corrections", True),
    "classify": Entry("train", "classify CONFIG", "fine-tune a classifier, measure it once on the test split", True),
    "detect": Entry("train", "detect CONFIG", "train a detector on shards with boxes", True),
    "crop": Entry("train", "crop CONFIG", "find the object in every image: a boxes layer to crop by", True),
    "find-lr": Entry("train", "find-lr CONFIG", "a learning rate for a classifier's config, by a range test"),
    "gan": Entry("train", "gan CONFIG", "train a generator of images like those in shards", True),
    "synthesize": Entry("train", "synthesize CONFIG", "images by a trained generator, as shards to train with", True),
    "evaluate": Entry("measure", "evaluate CONFIG", "trained weights on any shards", True),
    "ensemble": Entry("measure", "ensemble members='[RUN, OTHER]'", "several classifiers as one, against each", True),
    "explain": Entry("measure", "explain CONFIG", "what a classifier looks at, scored; why this class, not that", True),
    "attack": Entry("measure", "attack CONFIG", "accuracy under attack, and whether it can be believed", True),
    "compare": Entry("measure", "compare CONFIG...", "several configs x seeds x folds, with paired intervals"),
    "sweep": Entry("measure", "sweep FILE", "hyperparameter search, from a W&B sweep file"),
    "pipeline": Entry("all", "pipeline CONFIG", "every step from images to report, here or as dependent Slurm jobs"),
    "report": Entry("all", "report RUN...", "one page of any runs: figures, curves, pictures, caveats"),
    "predict": Entry("use", "predict PICTURE... --run RUN", "what a trained classifier says of pictures"),
    "export": Entry("use", "export RUN FOLDER", "a trained classifier for timm, the hub and ONNX, with its card"),
    "serve": Entry("use", "serve RUN", "a local page: drop a picture, see the answer and why; JSON too"),
    "configs": Entry("look up", "configs [COMMAND]", "the configs that come with fgvc, and what each needs"),
    "weights": Entry("look up", "weights get NAME", "pretrained weights as a file, for machines without a connection"),
    "completion": Entry("look up", "completion bash|zsh", "a script with which the shell completes fgvc's words"),
    "doctor": Entry("machine", "doctor", "what is here, what is missing, how to get it"),
    "cluster": Entry("machine", "cluster up|down|status", "a small real Slurm on this machine, to try things on"),
    "status": Entry("cluster", "status [RUN]", "runs, their jobs, progress, last figures"),
    "cancel": Entry("cluster", "cancel RUN|JOB", "end a job; the same command resumes it later"),
}
JOBS = tuple(name for name, entry in COMMANDS.items() if entry.job)


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"jobs.{name.replace('-', '_')}")


def task_module(name: str) -> ModuleType:
    """The module that does a job's work; importing it takes seconds, of which two things would take a fourth for
    nothing: Python looks for garbage whenever its objects have grown by a quarter, though modules stay (what is frozen
    is not looked through in training either), and timm imports wandb wherever it is, for a table of its own script.
    """
    path = f"jobs.tasks.{name}"
    if path in sys.modules or not gc.isenabled():
        return importlib.import_module(path)
    hidden = {"wandb": None} if "wandb" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None: cannot be imported
    gc.disable()
    try:
        module = importlib.import_module(path)
        gc.freeze()
    finally:
        gc.enable()
        for one in hidden:
            del sys.modules[one]
    return module


def default_name(job: str, path: Path | None, config: Any) -> str:
    """The name of a run that was given none: its config file's, else what its command makes of the config."""
    if path is not None:
        return path.stem
    make = getattr(command_module(job), "default_name", None)
    return make(config) if make else job


def parts_of(module: ModuleType, config: Any) -> list[list[str]]:
    """The runs that a command stands for where it stands for several (fgvc gan per_class=true): more words of each."""
    return module.parts(config) if hasattr(module, "parts") else []


def summary() -> str:
    """A line a command, in groups."""
    lines, before = [], ""
    for entry in COMMANDS.values():
        group = "" if entry.group == before else entry.group
        lines.append(f"  {group:9}fgvc {entry.usage:37}{entry.help}")
        before = entry.group
    return "\n".join(lines)
