"""fgvc doctor: what this machine has, what is missing, and how to install it.

    fgvc doctor                       a table: ok or missing, and what to do about it
    fgvc doctor runs_dir=/scratch/me  look at the disk where runs will go (otherwise ./runs)

Needed: Python, the packages in their versions, a torch that works, a folder for runs that can be written to. The rest
(GPUs, a compiler, Slurm, Weights & Biases, real data) opens further ways to work. Exit code 1 when something needed is
missing, 0 otherwise. It changes nothing and asks nothing of the network.
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import wandb_mode
from jobs.hints import next_lines
from shards.errors import UserError
from shards.manifest import read_manifest
from slurm.testbed.daemons import missing_packages

REINSTALL = "make install, or pip install -r requirements.lock"


@dataclass(frozen=True)
class Finding:
    """One line of the table. `needed`: nothing works without it. `advice`: how to get it, where it is missing."""

    name: str
    ok: bool
    what: str
    advice: str = ""
    needed: bool = False


def main(words: list[str]) -> int:
    """Print the table; 1 when something needed is missing. Raises UserError for a word it does not know."""
    if any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    runs_dir = "runs"
    for word in words:
        key, equals, value = word.partition("=")
        if key != "runs_dir" or not equals or not value:
            raise UserError(f"'{word}' is not a setting of doctor; there is one: runs_dir=FOLDER (see --help)")
        runs_dir = value
    lacking = []
    for check in CHECKS:
        for finding in check(Path(runs_dir).expanduser()):
            print(_line(finding), flush=True)
            if finding.needed and not finding.ok:
                lacking.append(finding.name)
    print(f"\nmissing and needed: {', '.join(lacking)}" if lacking else "\nnothing needed is missing")
    if not lacking:
        print(next_lines("doctor"))
    return 1 if lacking else 0


def _line(finding: Finding) -> str:
    advice = f"\n{'':27}-> {finding.advice}" if finding.advice and not finding.ok else ""
    return f"{'ok' if finding.ok else 'missing':9}{finding.name:18}{finding.what}{advice}"


def python(_: Path) -> Iterator[Finding]:

    required = metadata.metadata("fgvc")["Requires-Python"]
    version = platform.python_version()
    inside = SpecifierSet(required).contains(version)
    yield Finding("python", inside, version, f"fgvc needs Python {required}", needed=True)


def packages(_: Path) -> Iterator[Finding]:
    """Every range of pyproject against what is installed: one line when all fit, else one for each that does not."""

    required = [Requirement(line) for line in metadata.requires("fgvc") or []]
    required = [line for line in required if line.marker is None or line.marker.evaluate({"extra": ""})]
    fitting = 0
    for requirement in required:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, False, "not installed", REINSTALL, needed=True)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fitting += 1
        else:
            yield Finding(
                requirement.name, False, f"{version}, fgvc needs {requirement.specifier}", REINSTALL, needed=True
            )
    yield Finding("packages", fitting == len(required), f"{fitting} of {len(required)} in the versions fgvc needs")


def imports(_: Path) -> Iterator[Finding]:
    """Packages that can be installed and still not load."""
    hints = {
        "torch": REINSTALL,
        "torchvision": f"torch and torchvision have to come from one index: {REINSTALL}",
        "cv2": "pip install --force-reinstall --no-deps opencv-python-headless: it needs no libGL",
        "mmdet": f"detection needs it: {REINSTALL}",
    }
    for name, hint in hints.items():
        try:
            module = importlib.import_module(name)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding(name, False, f"does not import: {reason}", hint, needed=name.startswith("torch"))
        else:
            yield Finding(name, True, str(getattr(module, "__version__", "")), needed=name.startswith("torch"))


def devices(_: Path) -> Iterator[Finding]:
    """GPUs, each tried with one small product; the cores; the backends that ranks can talk through."""
    try:
        import torch
        import torch.distributed as dist
    except Exception:  # said by `imports`
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", True, f"{cores} cores, {torch.get_num_threads()} torch threads")
    if not torch.cuda.is_available():
        has_driver = shutil.which("nvidia-smi") is not None
        advice = (
            f"nvidia-smi is here, but torch {torch.__version__} sees no GPU: CUDA {torch.version.cuda} needs its driver"
            if has_driver
            else "training runs on the CPU; on a cluster, look from inside a job that asked for a GPU"
        )
        yield Finding("gpu", False, "none", advice)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        try:
            free, total = torch.cuda.mem_get_info(index)
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            works = bool((ones @ ones == 64).all())
            what = f"{facts.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        except RuntimeError as error:
            works, what = False, f"{facts.name}: {str(error).splitlines()[0]}"
        yield Finding(f"gpu {index}", works, what, "another process may hold it, or the driver does not fit")
    backends = {"gloo": dist.is_available() and dist.is_gloo_available()}
    backends["nccl"] = dist.is_available() and dist.is_nccl_available()
    for name, here in backends.items():
        use = "several ranks on GPUs" if name == "nccl" else "several ranks on CPUs"
        yield Finding(name, here, use, f"{use} need a torch built with it: {REINSTALL}")


def tools(_: Path) -> Iterator[Finding]:
    """What DeepSpeed (ZeRO) and torch.compile build their operators with, at first use."""
    # pip's ninja lies beside python, which is on PATH only in an activated environment.
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    yield Finding("ninja", ninja is not None, ninja or "not found", f"pip install ninja, or {REINSTALL}")
    if ninja and shutil.which("ninja") is None:
        yield Finding("ninja on PATH", False, "only beside python", f"export PATH={Path(ninja).parent}:$PATH")
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"])), None)
    what, works = compiler or "no C++ compiler found", False
    if compiler is not None:
        with tempfile.TemporaryDirectory() as folder:
            command = [compiler, "-x", "c++", "-shared", "-fPIC", "-o", f"{folder}/a.so", "-"]
            made = subprocess.run(command, input="#include <vector>\n", capture_output=True, text=True)
        works = made.returncode == 0
        what = compiler if works else f"{compiler} cannot build a library"
    yield Finding("compiler", works, what, "ZeRO and torch.compile need one; on Debian: apt-get install g++")


def slurm(_: Path) -> Iterator[Finding]:
    """Slurm's commands, whether a controller answers them, and whether a test cluster could be brought up here."""
    absent = [name for name in ("sinfo", "sbatch", "srun", "squeue", "scontrol", "scancel") if not shutil.which(name)]
    if absent:
        advice = "log in to the cluster's login node, or on Debian: apt-get install slurm-client"
        yield Finding("slurm", False, f"not found: {', '.join(absent)}", advice)
    else:
        version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True).stdout.strip()
        yield Finding("slurm", True, version or f"{shutil.which('sinfo')} (shows its version once it is configured)")
        what, answers = _partitions()
        yield Finding("slurm controller", answers, what, "set SLURM_CONF, or try jobs on: fgvc cluster up")
    lacking = missing_packages()
    advice = f"apt-get install --no-install-recommends {' '.join(lacking)}"
    yield Finding("test cluster", not lacking, "fgvc cluster up" if not lacking else "lacks daemons", advice)


def _partitions() -> tuple[str, bool]:
    try:
        answer = subprocess.run(["sinfo", "-h", "-o", "%P (%D nodes)"], capture_output=True, text=True, timeout=4)
    except subprocess.TimeoutExpired:
        return "does not respond within 4 s", False
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or ["does not respond"])[-1], False
    return "partitions " + ", ".join(answer.stdout.split("\n")[:-1]), True


def tracking(_: Path) -> Iterator[Finding]:
    try:
        mode = wandb_mode(TrackConfig())
    except UserError as error:
        yield Finding("wandb", False, str(error))
        return
    what = {
        "online": "API key found: runs go online",
        "offline": "no key: runs stay in their folders (later: wandb sync runs/*/*/wandb/offline-run-*)",
    }.get(mode, mode)
    yield Finding("wandb", True, f"{what} (metrics.jsonl is written in any case)")


def storage(runs_dir: Path) -> Iterator[Finding]:
    """Free space, and the shared memory through which loader workers hand batches where they have no better way."""
    for name, folder in (("runs_dir", runs_dir), ("temporary", Path(tempfile.gettempdir()))):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**30
        writable = os.access(there, os.W_OK) and there.is_dir()
        what = f"{folder}: {free:.1f} GiB free" if writable else f"{folder}: cannot be written to"
        yield Finding(
            name, writable and free > 1, what, "a run keeps up to 3 checkpoints; choose runs_dir=", needed=True
        )
    if Path("/dev/shm").is_dir():
        size = shutil.disk_usage("/dev/shm").total / 2**30
        advice = "where address space is limited, loader workers may die of SIGBUS; in a container: --shm-size=8g"
        yield Finding("shared memory", size >= 1, f"{size:.1f} GiB in /dev/shm", advice)


def data(_: Path) -> Iterator[Finding]:
    """Shards in data/, and the folders that the configs on real images name."""
    for manifest in sorted(Path("data").glob("*/manifest.json")):
        try:
            found = read_manifest(manifest.parent)
            what = f"{manifest.parent}: {len(found.classes)} classes, {len(found.entries)} images"
            yield Finding("shards", True, what)
        except UserError as error:
            yield Finding("shards", False, str(error), "build them again, or remove the folder")
    for variable, holds in (("FGVC_REAL_DATA", "raw datasets (cub50, ...)"), ("FGVC_WEIGHTS", "pretrained weights")):
        value = os.environ.get(variable, "")
        names = sorted(path.name for path in Path(value).iterdir()) if value and Path(value).is_dir() else []
        advice = f"export {variable}=FOLDER with {holds}; configs on the field guide need none"
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        what = f"{value}: {shown or 'empty or not there'}" if value else "not set"
        yield Finding(variable, bool(names), what, advice)


CHECKS: list[Callable[[Path], Iterator[Finding]]] = [
    python, packages, imports, devices, tools, slurm, tracking, storage, data,
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
