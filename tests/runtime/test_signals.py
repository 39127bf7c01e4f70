"""A signal to a run, of one rank or two, with loader workers or without, to the process or to its group: it saves, ends
with code 3, leaves nobody behind, and the same command ends as if nothing had happened.

FGVC_ALL_SIGNALS=1 pytest tests/runtime/test_signals.py      all 24 cases; four of them otherwise
"""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import proxy_run
import psutil
import pytest
from interruptions import finish, steps_done
from same_run import same_end
from slurm_helpers import eventually, processes
from small_runs import small_run

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.interrupt import Interrupted
from fgvc.runtime.tracking import Tracker
from fgvc.training.loop import fit
from fgvc.training.schedule import Schedule
from jobs.cli import main
from shards.manifest import Manifest, read_manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Samples, train_loader
from shards.reading.transforms import train_transform

Start = Callable[..., subprocess.Popen]
STEPS, EPOCH = 30, 10
ALL = list(itertools.product((1, 2), (0, 2), ("TERM", "INT", "USR2"), ("process", "group")))
FOUR = [(1, 2, "TERM", "group"), (2, 2, "INT", "group"), (2, 0, "TERM", "process"), (1, 0, "USR2", "process")]
CASES = ALL if os.environ.get("FGVC_ALL_SIGNALS") else FOUR


def words(guide: Manifest, runs: Path, name: str, ranks: int, workers: int) -> list[str]:
    settings = ["train.deterministic=true", f"data.workers={workers}", "train.freeze_bn=statistics"]
    return [*small_run(guide, runs, name, *settings), *(["--processes", str(ranks)] if ranks > 1 else [])]


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint, which is that of the record's last line; or one more at an epoch's end, whose
    line is written once the epoch is measured."""
    step = int(max((run / "checkpoints").glob("step-*")).name.removeprefix("step-"))
    assert step == steps_done(run) + (step % EPOCH == 0 and step != steps_done(run))
    return step


@pytest.fixture(scope="module")
def undisturbed(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """ranks -> the run folder of the same training, left alone."""
    runs = tmp_path_factory.mktemp("undisturbed")
    for ranks in (1, 2):  # two are started as processes
        assert main(words(guide, runs, f"ranks{ranks}", ranks, 0)) == 0
    return {ranks: runs / f"classify/ranks{ranks}" for ranks in (1, 2)}


@pytest.mark.parametrize(("ranks", "workers", "name", "target"), CASES)
def test_saved_ended_and_resumed(
    guide: Manifest, fgvc: Start, tmp_path: Path, undisturbed: dict[int, Path], ranks: int, workers: int, name: str,
    target: str,
) -> None:  # fmt: skip
    command, run = words(guide, tmp_path / "runs", "stopped", ranks, workers), tmp_path / "runs/classify/stopped"
    process = fgvc(*command)
    deadline = time.monotonic() + 120
    while steps_done(run) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    number = signal.Signals[f"SIG{name}"]
    if target == "group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    began = time.monotonic()
    _, errors = finish(process, code=3)
    assert time.monotonic() - began < 60
    assert f"stopped by SIG{name} at step" in errors
    assert "Traceback" not in errors
    assert eventually(lambda: not processes(str(tmp_path)))
    assert 5 <= saved_step(run) < STEPS
    assert main(command) == 0
    same_end(undisturbed[ranks], run, STEPS)


def test_a_signal_while_not_training_ends_at_once_with_code_3(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    """A probe's features are being computed: nothing is to be saved."""
    command = words(guide, tmp_path / "runs", "probe", 1, 0)
    process = fgvc(*command, "train.method=probe", "model.name=resnet50", "image.size=224")
    assert eventually((tmp_path / "runs/classify/probe/identity.json").is_file, 60)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, code=3)
    assert errors.strip().splitlines()[-1].endswith("stopped by SIGTERM while not training; the same command resumes")


def test_killing_the_starter_stops_the_ranks_and_saves(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    run = tmp_path / "runs/classify/orphans"
    process = fgvc(*words(guide, tmp_path / "runs", "orphans", 2, 2), "train.epochs=1000")
    while steps_done(run) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert eventually(lambda: not processes(str(tmp_path)), 60)
    assert saved_step(run) >= 5


def test_a_mistake_ends_all_ranks_with_code_2(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    process = fgvc(*words(guide, tmp_path / "runs", "wrong", 2, 0), "train.batch=9", "train.mixup=0")
    _, errors = finish(process, code=2)
    assert "train.batch=9 is not a multiple of 2 rank(s)" in errors
    assert eventually(lambda: not processes(str(tmp_path)))


def test_a_rank_that_hangs_is_ended_by_a_second_ctrl_c(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    run = tmp_path / "runs/classify/hung"
    process = fgvc(*words(guide, tmp_path / "runs", "hung", 2, 0), "train.epochs=1000")
    while steps_done(run) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    ranks = [child for child in psutil.Process(process.pid).children() if "jobs.cli" in child.cmdline()]
    assert len(ranks) == 2
    ranks[1].suspend()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=40)
    assert process.returncode == 1
    assert eventually(lambda: not processes(str(tmp_path)))


def test_a_signal_before_the_ranks_can_answer_it_is_no_failure(guide: Manifest, fgvc: Start, tmp_path: Path) -> None:
    process = fgvc(*words(guide, tmp_path / "runs", "early", 2, 0))
    assert eventually(lambda: len(psutil.Process(process.pid).children()) == 2, 30)
    process.send_signal(signal.SIGTERM)
    finish(process, code=3)


def test_a_signal_during_the_last_evaluation_is_answered(guide: Manifest, tmp_path: Path) -> None:
    """Saved with the last step; the run ends with code 3 instead of going on to measure."""
    learner = proxy_run.make()
    manifest = read_manifest(guide.folder)
    samples = Samples(manifest, train_transform(ImageConfig(), 32), seed=0)
    batches = train_loader(manifest, manifest.split("train"), samples, seed=0, batch=8, epochs=1)
    tracker = Tracker(TrackConfig(wandb="disabled"), tmp_path, "classify", "last", {})

    def evaluate() -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    schedule = Schedule(proxy_run.STEPS, proxy_run.STEPS)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after the last step"):
        fit(learner, batches, proxy_run.LOOP, schedule, tmp_path, tracker, evaluate)
    assert (tmp_path / f"checkpoints/step-{proxy_run.STEPS:08d}").is_dir()
