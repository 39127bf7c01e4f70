"""What launching through Slurm costs: from submission to the first step, and what `--on` adds to a bare sbatch.

    python benchmarks/submit_latency.py                  on a test cluster that it brings up
    python benchmarks/submit_latency.py --repeats 9

Both ways run the same command on one node, in turns, so that a busy machine is felt by both: `fgvc --help` until its
first line is in the log (no imports to speak of: what is left is the launcher), and a training until its first step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs.shards import build_from
from slurm.profile import Profile
from slurm.submit import Launch, submit
from slurm.testbed.cluster import Testbed, client, down, up

PROFILE = Profile(partition="normal", cpus_per_task=1, time="30", env={"OMP_NUM_THREADS": "1"})
PATIENCE_S = 600


def bare(testbed: Testbed, words: list[str], folder: Path) -> Path:
    """The same command by sbatch and srun alone; its log."""
    folder.mkdir(parents=True)
    log = folder / "log"
    client(
        testbed, "sbatch", "-p", "normal", "-c", "1", "-t", "30", "-o", str(log), "--wrap",
        f"export OMP_NUM_THREADS=1; srun -c 1 {sys.executable} -u -m jobs.cli {' '.join(words)}",
    )  # fmt: skip
    return log


def launched(testbed: Testbed, words: list[str], folder: Path) -> Path:
    """Through slurm/submit.py; its log."""
    return submit(PROFILE, [Launch("latency", tuple(words), folder)])[0].log


def timed(start: Callable[[], Path], ready: Callable[[Path], bool]) -> tuple[float, float]:
    """(seconds until the submission returned, seconds until `ready(log)`)."""
    began = time.monotonic()
    log = start()
    submitted = time.monotonic() - began
    while not ready(log):
        assert time.monotonic() - began < PATIENCE_S, log.read_text() if log.is_file() else "no log"
        time.sleep(0.005)
    return submitted, time.monotonic() - began


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} s [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--trainings", type=int, default=3)
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="latency-"))
    size = ["species=4", "train_per_class=20", "test_per_class=7", "size=64", "min_shards=3"]
    build_from("field_guide", "-", base / "shards", size)
    testbed = up(base / "slurm")
    os.environ |= testbed.env | {"WANDB_MODE": "disabled"}
    ways = {"bare sbatch": bare, "fgvc --on": launched}
    try:
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        times: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for turn in range(options.repeats + options.trainings):
            for name, way in ways.items():
                folder = base / "runs/classify" / f"{turn}-{way.__name__}"
                if turn < options.repeats:
                    what, words = "first line of --help", ["--help"]

                    def ready(log: Path) -> bool:
                        return log.is_file() and "fgvc: from a folder" in log.read_text()
                else:
                    what = "first step"
                    words = [
                        "classify", f"name={folder.name}", f"runs_dir={base}/runs", f"data.shards={base}/shards",
                        "data.workers=0", "model.name=test_resnet", "model.weights=none", "image.size=32",
                        "train.batch=8", "train.max_steps=1", "evaluate_test=false",
                    ]  # fmt: skip
                    metrics = base / "runs/classify" / folder.name / "metrics.jsonl"

                    def ready(log: Path, metrics: Path = metrics) -> bool:
                        return metrics.is_file() and metrics.stat().st_size > 0

                    if way is bare:
                        folder = base / "bare" / folder.name
                one = timed(lambda way=way, words=words, folder=folder: way(testbed, words, folder), ready)  # type: ignore[misc]
                times.setdefault((what, name), []).append(one)
                while client(testbed, "squeue", "-h"):
                    time.sleep(0.05)
        for (what, name), found in times.items():
            submitting, all_of_it = (list(values) for values in zip(*found, strict=True))
            print(
                f"{what:22} {name:12} submission {spread(submitting)}, until then {spread(all_of_it)} (n={len(found)})"
            )
        for what in dict.fromkeys(key[0] for key in times):
            pairs = zip(times[what, "bare sbatch"], times[what, "fgvc --on"], strict=True)
            print(f"{what:22} --on adds    {spread([ours[1] - theirs[1] for theirs, ours in pairs])}")
    finally:
        subprocess.run(["scancel", "--me"], check=False)
        down(testbed.folder)


if __name__ == "__main__":
    main()
