"""`--on CLUSTER`: the same command as a Slurm job. Reads the profile, checks everything, submits.

fgvc classify CONFIG --on h100 nodes=4 time=8:00:00    profile settings go beside the job's own
fgvc classify CONFIG --on h100 --dry-run               print the batch script, submit nothing
fgvc classify CONFIG --on h100 --follow                submit, then print the job's log until it ends
"""

import math
import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_origin, get_type_hints

import yaml

from jobs.config import as_words, flatten, from_dict, load, load_job, nearest, walk
from jobs.detectors import refuse_other_settings
from jobs.registry import command_module, default_name, parts_of
from jobs.stale import refuse_other_shards
from shards.errors import UserError
from shards.paths import expand
from slurm.client import use_testbed
from slurm.errors import SlurmError
from slurm.profile import KEYS, Profile, check, check_tasks
from slurm.queue import Job, states
from slurm.submit import Launch, Submitted, sbatch_script, submit

TESTBED = "testbed"  # the profile of the cluster that `fgvc cluster up` starts
POLL_S = 5  # the controller serves every user: poll it rarely
FOLDERS = (Path("configs/clusters"), Path(__file__).parents[1] / "configs/clusters")


def read_profile(cluster: str, words: list[str]) -> Profile:
    """The profile of `configs/clusters/<cluster>.yaml`, or of a YAML file, overridden by `key=value` words.

    Raises UserError for an unknown cluster or setting, SlurmError for settings that contradict each other.
    """
    known = {file.stem: file for folder in reversed(FOLDERS) for file in sorted(folder.glob("*.yaml"))}
    path = Path(cluster) if cluster.endswith((".yaml", ".yml")) else known.get(cluster)
    if path is None:
        raise UserError(
            f"--on {cluster}: no such cluster{nearest(cluster, [*known, 'debug'])}; there are debug, "
            f"{', '.join(sorted(known))}, or a profile's file"
        )
    values = _read_text(path)
    from_dict(Profile, values, str(path))  # so that a mistake in the file is reported as one
    overrides = _word_values(words)
    if overrides.get("gpus_per_node", "0") != "0" and "tasks_per_node" not in overrides:
        values.pop("tasks_per_node", None)  # one task per GPU now
    for key, value in overrides.items():
        values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
    profile = from_dict(Profile, values, f"--on {cluster}")
    check(profile)
    check_tasks(profile)
    return profile


class _TextLoader(yaml.SafeLoader):
    """YAML whose scalars stay text: no base-60 24:00:00, octal 0123 or boolean yes. Merge keys (<<) still work."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


_TextLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("^<<$"), ["<"])


def _read_text(path: Path) -> dict[str, Any]:
    """The settings in a profile's file, each value as text; keys without a value keep their default."""
    if not path.is_file():
        raise UserError(f"--on {path}: no such profile; there are the files of {FOLDERS[0]}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _TextLoader) or {}
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a profile is a list of 'key: value' lines, this is a {type(values).__name__}")
    return _split_gpus({str(key): value for key, value in values.items() if value != ""})


def _word_values(words: list[str]) -> dict[str, Any]:
    """The settings in `key=value` words, each value as text; `env.NAME=value` sets one entry."""
    hints = get_type_hints(Profile)
    values: dict[str, Any] = {}
    for word in words:
        key, _, text = word.partition("=")
        group, dot, entry = key.partition(".")
        if dot and get_origin(hints.get(group)) is dict:
            values[group] = values.get(group, {}) | {entry: text}
        elif get_origin(hints.get(key)) in (list, dict):
            try:
                values[key] = yaml.load(text, _TextLoader)
            except yaml.YAMLError:
                raise UserError(f"'{word}': the value is not readable as YAML; quote it for the shell") from None
        else:
            values[key] = text
    return _split_gpus(values)


def _split_gpus(values: dict[str, Any]) -> dict[str, Any]:
    """`gpus_per_node: a100:4`, as sbatch takes it, means gpu_type a100 and 4 GPUs."""
    kind, colon, count = str(values.get("gpus_per_node", "")).rpartition(":")
    if not colon:
        return values
    if not kind or values.get("gpu_type", kind) != kind:
        raise UserError(f"gpus_per_node={kind}:{count}: expected a number or TYPE:NUMBER, with no other gpu_type=")
    return values | {"gpu_type": kind, "gpus_per_node": count}


def profile_of(on: str, words: list[str]) -> tuple[Profile | None, list[str]]:
    """The profile of the cluster that `--on` names, if it names one, and the words that are not its settings."""
    if on in ("", "debug"):
        return None, words
    for_profile, own = split_words(words)
    return read_profile(on, for_profile), own


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """(settings of the profile, all others). No job has a setting with a profile's name (a test checks it)."""
    launch = [word for word in words if word.partition("=")[0].split(".")[0] in KEYS and "=" in word]
    return launch, [word for word in words if word not in launch]


def launch_of(profile: Profile, job: str, kind: type, path: Path | None, words: list[str]) -> tuple[Launch, Any]:
    """The command `fgvc <job> <path> <words>` on that cluster, and its config; folders as the profile sets them.

    Raises UserError for a mistake in the config, or when the run folder holds a run of another config.
    """
    config: Any = load(kind, path, words)
    if profile.scratch and config.runs_dir == kind().runs_dir:
        words = [*words, f"runs_dir={scratch_runs(profile)}"]
    if profile.cache and "data.cache" in dict(walk(kind)) and not config.data.cache:
        words = [*words, f"data.cache={profile.cache}"]
    config = load(kind, path, words)
    name = str(config.name or default_name(job, path, config))
    folder = Path(config.runs_dir) / job / name
    refuse_other_settings(folder, config)
    return Launch(f"{job}/{name}", (job, *([str(path)] if path else []), *words), folder), config


def one_task(profile: Profile, words: list[str], processes: int = 1) -> tuple[Profile, list[str]]:
    """Profile and words of a job of one process that gives ranks to the runs it starts (fgvc crop): one task with all
    the GPUs and cores of the ranks that were asked for.

    processes: what the job's own settings say. Raises UserError for several nodes, and where these contradict.
    """
    ranks, cores = profile.ranks_per_node, profile.cpus_per_task
    if profile.nodes > 1:
        raise UserError(f"nodes={profile.nodes}: the runs that this job starts get the ranks of one node; nodes=1")
    if processes not in (1, ranks):
        raise UserError(
            f"processes={processes}: on a cluster the runs that this job starts get the ranks that it asks for, {ranks}"
            f"; set gpus_per_node={processes} (without GPUs tasks_per_node={processes}) and leave out processes"
        )
    if ranks == 1:
        return profile, words
    env = profile.env if profile.gpus_per_node else {"OMP_NUM_THREADS": str(cores)} | profile.env
    return replace(profile, tasks_per_node=1, cpus_per_task=cores * ranks, env=env), [*words, f"processes={ranks}"]


def launch(job: str, module: Any, cluster: str, path: Path | None, words: list[str], dry: bool, follow: bool) -> int:
    """Submit a job, or print its batch script; the exit code. Raises UserError or SlurmError for a user's mistake."""
    for_profile, own = split_words(words)
    profile = read_profile(cluster, for_profile)
    if cluster == TESTBED and not dry and not use_testbed():
        raise SlurmError("--on testbed: no test cluster runs here; start one: fgvc cluster up")
    if getattr(module, "ONE_TASK", False):
        profile, own = one_task(profile, own, load(module.Config, path, own).processes)
    command, config = launch_of(profile, job, module.Config, path, own)
    config.name = config.name or default_name(job, path, config)
    refuse_other_shards(command.folder, config, {})
    if parts := parts_of(module, config):
        made = [launch_of(profile, job, module.Config, path, [*own, *part])[0] for part in parts]
        return _launch_array(profile, cluster, command.name, made, dry)
    if dry:
        print(sbatch_script(profile, [command]))
        return 0
    if (command.folder / "result.json").is_file():
        print(
            f"{command.folder}: this run is done, nothing was submitted; "
            f"results are in {command.folder / 'result.json'}"
        )
        return 0
    warning = "; ".join(fetch_weights([config]))
    [submitted] = submit(profile, [command])
    ranks = getattr(config, "processes", profile.ranks_per_node)
    size = f"{profile.nodes} node{'s' * (profile.nodes > 1)} x {ranks} rank{'s' * (ranks > 1)}"
    print(
        f"job {submitted.job}: {command.name} on {cluster}, {size}\n"
        f"  folder  {command.folder}\n"
        f"  follow  tail -F {shlex.quote(str(submitted.log))}\n"
        f"  state   fgvc status {command.folder}\n"
        f"  cancel  fgvc cancel {submitted.job}" + f"\n  warning {warning}" * bool(warning),
        flush=True,
    )
    return follow_log(submitted) if follow else 0


def _launch_array(profile: Profile, cluster: str, name: str, commands: list[Launch], dry: bool) -> int:
    """Submit the runs that one command stands for, those that are missing, as an array."""
    missing = [command for command in commands if not (command.folder / "result.json").is_file()]
    if not missing:
        print(f"{name}: all {len(commands)} runs are done, nothing was submitted")
        return 0
    if dry:
        print(sbatch_script(profile, missing))
        return 0
    first = submit(profile, missing)[0]
    array = first.job.partition("_")[0]
    done = f", {len(commands) - len(missing)} are done" * (len(missing) < len(commands))
    print(
        f"array {array}: {len(missing)} runs of {name} on {cluster}{done}\n"
        f"  folders {missing[0].folder} ...\n  state   fgvc status\n  cancel  fgvc cancel {array}",
        flush=True,
    )
    return 0


def fetch_weights(configs: Iterable[Any]) -> list[str]:
    """Download the hub's weights that jobs' configs name, here: compute nodes often have no internet.

    Returns a warning for each network where that fails: a job's nodes may reach what this one does not.
    """
    warnings = []
    for name in dict.fromkeys(name for config in configs for name in _hub_names(config)):
        from fgvc.models.timm import fetch_hub_weights  # loads torch

        try:
            fetch_hub_weights(name)
        except UserError as error:
            warnings.append(f"{error}; the job needs them on its nodes")
    return warnings


def _hub_names(config: Any) -> list[str]:
    """timm's names of the networks whose weights a job takes from the hub."""
    if getattr(config, "detect", ""):  # fgvc crop trains detectors, by a config of their own
        config = load_job("detect", config.detect, as_words(flatten(config.set, command_module("detect").Config)))
    return getattr(getattr(config, "model", None), "hub_names", [])


def follow_log(submitted: Submitted, pause_s: float = 0.5) -> int:
    """Print the log as it grows, across restarts, until the job has ended; 0 if it succeeded, else 1.

    Ctrl-C leaves the job running.
    """
    offset, shown, job, polled = 0, "", Job(submitted.job, "", "PENDING"), -math.inf
    try:
        while True:
            ended = False
            if time.monotonic() - polled > POLL_S:
                try:
                    job = states([submitted.job])[submitted.job]
                    ended = not job.live
                except SlurmError as error:  # the controller may be down; the job runs without it
                    if (line := f"Slurm is not responding: {error}") != shown:
                        print(line, flush=True)
                        shown = line
                polled = time.monotonic()
            if submitted.log.is_file():
                with submitted.log.open("rb") as stream:
                    stream.seek(offset)
                    new = stream.read()
                offset += len(new)
                print(new.decode(errors="replace"), end="", flush=True)
            elif (line := f"{job.state} {job.reason}".strip()) != shown:
                print(f"job {job.id}: {line}", flush=True)
                shown = line
            if ended:
                break
            time.sleep(pause_s)
    except KeyboardInterrupt:
        print(f"\njob {submitted.job} keeps running; fgvc cancel {submitted.job} ends it")
        return 130
    print(f"job {job.id}: {job.state}")
    if job.state != "COMPLETED" and not submitted.log.is_file():
        print(
            f"it wrote no log: its node may not see {submitted.log.parent}; "
            "set runs_dir= to a folder that all nodes share"
        )
    return 0 if job.state == "COMPLETED" else 1


def scratch_runs(profile: Profile) -> str:
    """The folder of runs on the shared file system that a profile's `scratch` names."""
    return f"{expand(profile.scratch, 'scratch')}/runs"
