"""Run one job by its command line, `fgvc JOB CONFIG [key=value ...]`: here, as ranks on this machine, on a cluster."""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from fgvc.runtime.interrupt import Interrupted, leave_at_once
from fgvc.runtime.ranks import end_after_launcher, run_ranks
from fgvc.runtime.run_folder import RESULT
from fgvc.runtime.tracking import wandb_mode
from jobs.checks import check_files, remarks
from jobs.config import describe, load_job, locate, to_dict
from jobs.debug import debug_words, fresh_folder, remove_folder
from jobs.experiments.sweep_file import agent_words
from jobs.hints import after_run
from jobs.launch import launch, split_words
from jobs.registry import command_module, default_name, parts_of, task_module
from jobs.words import Parser
from shards.errors import UserError
from shards.paths import is_remote
from shards.sources.problems import printable
from slurm.job import note_mistake
from slurm.profile import KEYS


def main(name: str, words: list[str]) -> int:
    """`fgvc NAME WORDS` for a job; the exit code. Raises UserError for a user's mistake."""
    module, arguments = command_module(name), _parse(name, words)
    if arguments.help:
        print((module.__doc__ or "").strip())
        print(f"\nsettings (key: type = default):\n{describe(module.Config)}")
        return 0
    if os.environ.get("WANDB_SWEEP_ID"):
        arguments.words = agent_words(module.Config, arguments.words)
    path, overrides = _split(name, arguments.words)
    _check_options(arguments, overrides)
    on_cluster = arguments.on not in ("", "debug")
    debug = arguments.on == "debug"
    if debug:
        overrides = [*debug_words(module, path, overrides), *overrides]
    own = split_words(overrides)[1] if on_cluster else overrides
    with _counted_ranks(arguments.processes):
        config = load_job(name, path, own)
    config.name = config.name or _default_name(default_name(name, path, config), debug)
    folder = Path(config.runs_dir) / name / config.name
    if debug and hasattr(module, "keep_in"):
        module.keep_in(config, folder)
    if arguments.print_folder:
        print(folder)
        return 0
    if on_cluster and not (arguments.print_config or arguments.estimate):
        return launch(name, module, arguments.on, path, overrides, arguments.dry_run, arguments.follow)
    if arguments.print_config or arguments.dry_run:
        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        return 0
    if arguments.estimate:
        from jobs.tasks.estimate import report  # loads torch

        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        print(report(name, config))
        return 0
    check_files(config)
    if parts := parts_of(module, config):  # one run after another, until one fails; what is done is passed over
        return next((code for part in parts if (code := main(name, [*words, *part]))), 0)
    if arguments.processes > 1 and "RANK" not in os.environ:
        return run_ranks([sys.executable, "-m", "jobs.cli", name, *words], arguments.processes)
    return _run(module, name, config, debug)


@contextmanager
def _counted_ranks(processes: int) -> Iterator[None]:
    """While entered, WORLD_SIZE says how many ranks are about to be started, for the checks that depend on it."""
    if processes < 2 or "WORLD_SIZE" in os.environ:
        yield
        return
    os.environ["WORLD_SIZE"] = str(processes)
    try:
        yield
    finally:
        del os.environ["WORLD_SIZE"]


def _check_options(arguments: argparse.Namespace, overrides: list[str]) -> None:
    if not arguments.on and (stray := [word for word in overrides if word.partition("=")[0] in KEYS]):
        raise UserError(f"'{stray[0]}' is a setting of a cluster: it goes with --on CLUSTER")
    if arguments.follow and arguments.on in ("", "debug"):
        raise UserError("--follow prints a cluster job's log: it goes with --on CLUSTER; here the run prints by itself")
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes}: at least one rank")
    if arguments.on not in ("", "debug") and arguments.processes > 1:
        raise UserError("--processes starts ranks on this machine; with --on CLUSTER set nodes= and gpus_per_node=")


def _default_name(name: str, debug: bool) -> str:
    # A trial that `wandb agent` starts has a run folder of its own, or the second one would be refused the first's.
    trial = os.environ.get("WANDB_RUN_ID", "") if os.environ.get("WANDB_SWEEP_ID") else ""
    return trial or name + ("-debug" if debug else "")


def _run(module: ModuleType, name: str, config: Any, debug: bool) -> int:
    # Rank 0 speaks for all; the others' warnings would say the same again.
    logging.basicConfig(format="%(message)s", level=logging.WARNING if _rank() == 0 else logging.ERROR)
    folder = Path(config.runs_dir) / name / config.name
    end_after_launcher()
    before = "" if debug else _finished(folder)
    try:
        if _rank() == 0:
            _prepare(config, folder, debug)
        with leave_at_once(name):
            result = task_module(name).run(config)
    except Interrupted as stop:
        if _rank() == 0:
            said = str(stop).replace("the same command resumes", "a debug run starts anew") if debug else str(stop)
            print(f"fgvc {name}: {said}", file=sys.stderr)
        return _leave(3)
    except UserError as error:
        print(printable(f"fgvc {name}: {error}"), file=sys.stderr)
        if debug and _rank() == 0:
            remove_folder(folder)
        return _leave(error.code)
    except Exception as error:
        from fgvc.runtime.distributed import lost_peer

        lost = lost_peer(error)
        if lost:
            print(f"\nfgvc {name}: {lost}", file=sys.stderr)  # a line of its own, not the progress bar's end
        else:
            traceback.print_exc()
        return _leave(1)
    if _rank() == 0:
        if before and _finished(folder) == before:
            print(f"{folder}: this run was done at {before}; figures and seconds are of then")
        hint = "" if debug else after_run(name, config, folder, result)
        print("\n".join(filter(None, [module.report(result, folder), hint])))
        if not before and any(folder.glob("wandb/offline-run-*")):
            print(f"to W&B: wandb sync {folder}/wandb/offline-run-*")
    return _leave(0)


def _finished(folder: Path) -> str:
    """When the run in a folder was done; empty where none is."""
    try:
        return str(json.loads((folder / RESULT).read_text()).get("finished", "another time"))
    except (OSError, ValueError, AttributeError):
        return ""


def _prepare(config: Any, folder: Path, debug: bool) -> None:
    """What is to be found, said and cleared before a run reads anything. Raises UserError for a user's mistake."""
    if hasattr(config, "track"):
        wandb_mode(config.track)
    if hasattr(config, "optim"):
        for line in remarks(config.optim, config.train):
            logging.warning(line)
    if debug:
        fresh_folder(folder)


def _leave(code: int) -> int:
    """End this rank. With 0 and 3 all ranks end together, since a launcher kills the others after the first.

    With an error the others may wait in a collective for this one: it leaves at once, and the launcher ends them.
    """
    import torch.distributed as dist

    from fgvc.runtime.distributed import end_group

    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if code not in (0, 3):
            if code == 2:
                note_mistake()
            os._exit(code)
        dist.barrier()
        end_group()
    return code


def _parse(name: str, words: list[str]) -> argparse.Namespace:
    parser = Parser(f"fgvc {name}", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--on", default="")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--print-folder", action="store_true")
    return parser.parse_intermixed_args(words)


def _split(name: str, words: list[str]) -> tuple[Path | None, list[str]]:
    """The config file and the key=value words."""
    overrides = [word for word in words if "=" in word]
    files = [word for word in words if "=" not in word]
    folder = getattr(command_module(name), "FOLDER", "")  # the setting that a bare folder stands for
    if folder and len(files) == 1 and (Path(files[0]).is_dir() or is_remote(files[0])):
        return None, [f"{folder}={files[0]}", *overrides]
    if len(files) > 1:
        raise UserError(f"one config file at a time, found {' and '.join(files)}; settings are written key=value")
    if not words:
        raise UserError(f"which config? fgvc {name} configs/{name}/NAME.yaml, or settings as key=value")
    return (locate(Path(files[0]), name) if files else None), overrides


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
