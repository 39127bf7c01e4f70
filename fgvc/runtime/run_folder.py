"""Run folders: same name and config resumes, another config is refused by key; one process at a time; results."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from shards.errors import UserError
from shards.files import write_bytes, write_json

RESULT = "result.json"
IDENTITY = "identity.json"
METRICS = "metrics.jsonl"
STARTS = "starts.json"
GLANCE_S = 1.0  # `fgvc status` holds a lock for a moment to see whether it is free
FORMER_SELF_S = 300  # less than ranks wait for one another (fgvc.runtime.distributed.TIMEOUT)
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "deepspeed", "numpy", "webdataset", "wandb")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; `result` is what an earlier start ended with, if it did.

    spent_s: wall time in seconds of earlier starts that did not finish it.
    """

    path: Path
    result: dict[str, Any] | None
    spent_s: float = 0.0

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def features(self) -> Path:
        """A probe's features, until the run is done."""
        return self.path / "features"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"


@contextmanager
def open_run(
    runs_dir: str, job: str, name: str, config: dict[str, Any], identity: dict[str, Any], *,
    defaults: dict[str, Any] | None = None, main: bool = True,
) -> Iterator[RunFolder]:  # fmt: skip
    """Open `<runs_dir>/<job>/<name>/` and hold its lock.

    config: the resolved config, to be read by people. identity: dotted key -> value of all that can change the
    result (inputs' hashes too). defaults: of the settings among them. main: rank 0, the only one that locks and writes.
    Raises UserError when the folder belongs to another config (naming the keys), is in use, or cannot be written.
    """
    if not name or "/" in name or name.startswith("."):
        raise UserError(f"name='{name}': a run's name is one folder name; set name=...")
    path = Path(runs_dir) / job / name
    if not main:
        yield RunFolder(path, _read_result(path))
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None
    begun = (path / IDENTITY).is_file()
    try:
        _claim(path, config, identity, defaults)
        result = _read_result(path)
        if result is None:
            (path / "checkpoints").mkdir(exist_ok=True)
        with counted_time(path) as spent_s:
            yield RunFolder(path, result, spent_s)
    except UserError:
        # A mistake that shows only now does not keep the name for the config that was wrong.
        if not begun and not _has_work(path):
            for file in (IDENTITY, STARTS, "wandb_id"):
                (path / file).unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    """The lock of a run folder, held. Raises UserError naming the holder.

    A job that Slurm started again may find its own earlier start still there, on a node that Slurm took for dead: it
    waits for that to end.
    """
    lock, holder = FileLock(path / ".lock", timeout=GLANCE_S), path / ".holder"
    me = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID", "")}
    until = time.monotonic() + FORMER_SELF_S
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            try:
                other = json.loads(holder.read_text())
            except (OSError, ValueError):
                other = {}
            if not me["job"] or other.get("job") != me["job"] or time.monotonic() > until:
                what = f"job {other['job']}" if other.get("job") else "another run"
                where = f" (process {other['pid']} on {other['host']})" if other else ""
                raise UserError(
                    f"{path}: in use by {what}{where}; wait for it, end it, or choose another name="
                ) from None
            time.sleep(1)
    holder.write_text(json.dumps(me))
    return lock


def finish(folder: RunFolder, figures: dict[str, Any], inputs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Write result.json: figures first, then where they came from. The file's being there means the run is done.

    seconds: of this start; those of earlier ones are added.
    """
    result = figures | {
        "inputs": inputs,
        "git": git_revision(),
        "hardware": hardware(),
        "seconds": round(folder.spent_s + seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(folder.path / RESULT, result)
    return result


@contextmanager
def counted_time(path: Path) -> Iterator[float]:
    """Keep the wall time of every start in a folder's starts.json while entered; gives the seconds of earlier starts.

    A start that was killed counts until the last file it wrote; one that found a result and left it as it is does not.
    """
    file, found = path / STARTS, _time_of(path / RESULT)
    try:
        starts = json.loads(file.read_text())
        for start in starts:
            if "seconds" not in start:
                start["seconds"] = round(max(0.0, _last_written(path) - start["began"]), 1)
        spent_s = float(sum(start["seconds"] for start in starts))
    except (OSError, ValueError, KeyError, TypeError):
        starts, spent_s = [], 0.0
    this, began = {"began": round(time.time(), 1)}, time.monotonic()
    if not found:
        write_json(file, [*starts, this])
    try:
        yield spent_s
    finally:
        if not found or _time_of(path / RESULT) != found:
            with suppress(UserError):  # a full disk: what made it full is reported by now
                write_json(file, [*starts, this | {"seconds": round(time.monotonic() - began, 1)}])


def _last_written(path: Path) -> float:
    """When metrics or a checkpoint of a run were last written, in seconds since the epoch; 0 without any."""
    files = [path / METRICS, *path.glob("checkpoints/step-*"), *path.glob("*/*/metrics.jsonl")]
    return max(map(_time_of, files), default=0.0)


def _time_of(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else 0.0


def git_revision() -> str:
    """The commit of the code that runs, with '+' when files differ from it; empty outside a repository."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, GPUs, ranks of the run."""
    import torch

    from fgvc.runtime.distributed import world_size

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "host": platform.node(),
        "ranks": world_size(),
    }


def refuse_another_config(
    folder: Path, identity: dict[str, Any], defaults: dict[str, Any] | None = None, *, partial: bool = False,
    advice: str = "choose another name=",
) -> None:  # fmt: skip
    """Raise UserError naming the keys when a folder holds a run of another config.

    defaults: of the settings in `identity`, so that a new version resumes the runs of an old one: a setting that the
    version which began the run did not have counts as its default, one that this version no longer has is passed over.
    Without them every key counts. partial: `identity` lacks inputs' hashes, which only a started run knows. advice: the
    error's end, what to do.
    """
    record = folder / IDENTITY
    if not record.is_file():
        return
    before, now = json.loads(record.read_text()), json.loads(json.dumps(identity))
    if not partial:
        gone = [key for key in before if defaults is None or key.startswith("inputs.")]
        now = dict.fromkeys(gone) | now
    before = json.loads(json.dumps(defaults or {})) | before
    changed = [key for key in sorted(now) if before.get(key) != now[key]]
    if changed:
        shown = ", ".join(f"{key} ({before.get(key)!r} -> {now[key]!r})" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UserError(f"{folder}: holds a run of another config: {shown}{more}; {advice}")


def _claim(path: Path, config: dict[str, Any], identity: dict[str, Any], defaults: dict[str, Any] | None) -> None:
    """Write config and environment on the first start; compare identities on later ones."""
    refuse_another_config(path, identity, defaults)
    write_bytes(path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
    if not (path / RESULT).is_file():  # of the start that makes the result, not of one that prints it
        environment = {"python": platform.python_version(), "system": platform.platform(), "git": git_revision()}
        environment |= {package: metadata.version(package) for package in PACKAGES}
        write_json(path / "environment.json", environment)
    write_json(path / IDENTITY, identity)


def _has_work(path: Path) -> bool:
    """Whether a run folder holds what a later start would take up: metrics, checkpoints, chunks of images."""
    metrics = path / METRICS
    has_lines = metrics.is_file() and metrics.stat().st_size > 0
    return has_lines or any(path.glob("checkpoints/*")) or any(path.glob("**/*.npz"))


def _read_result(path: Path) -> dict[str, Any] | None:
    file = path / RESULT
    return json.loads(file.read_text()) if file.is_file() else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
