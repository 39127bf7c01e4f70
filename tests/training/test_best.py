"""Keeping the best epoch and stopping early: what is kept, and that neither a kill nor more ranks change it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import finish_all, run_ranks
from safetensors.torch import load_file
from same_run import history, same_end
from small_runs import small_run
from torch import nn

from fgvc.runtime.run_folder import RunFolder
from fgvc.training.best import BestEpoch
from fgvc.training.schedule import Schedule
from jobs.cli import main
from shards.manifest import Manifest

CHOOSES = [
    "train.deterministic=true", "data.holdout=0.2", "data.workers=2", "train.keep=best", "train.patience=2",
    "train.epochs=12", "seed=1", "optim.lr=0.02",
]  # fmt: skip
MOMENTS = ("best is written, its checkpoint not", "saved, not measured", "stopped early, no result")
# `fgvc WORDS`, ended by SIGKILL in step KILL, at MOMENT.
DEADLY = """
import os, signal, sys
from fgvc.training import best, checkpoint, loop
add, begin, end = best.BestEpoch.add, checkpoint.Writer.begin, loop._Loop.end
def die(moment, step):
    if os.environ["MOMENT"] == moment and os.environ["KILL"] == str(step):
        os.kill(os.getpid(), signal.SIGKILL)
def deadly_add(self, step, *rest):
    add(self, step, *rest)
    die("best is written, its checkpoint not", step)
def deadly_begin(self, step, parts):
    begin(self, step, parts)
    if os.environ["MOMENT"] == "saved, not measured":
        self.finish()
    die("saved, not measured", step)
def deadly_end(self):
    end(self)
    die("stopped early, no result", self.learner.step)
best.BestEpoch.add, checkpoint.Writer.begin, loop._Loop.end = deadly_add, deadly_begin, deadly_end
from jobs.cli import main
sys.exit(main(sys.argv[1:]))
"""


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def calm(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that stopped early and kept its best epoch, left alone."""
    runs = tmp_path_factory.mktemp("calm")
    assert main(small_run(guide, runs, "calm", *CHOOSES)) == 0
    return runs / "classify/calm"


def test_the_kept_weights_are_those_of_the_best_epoch(guide: Manifest, calm: Path, tmp_path: Path) -> None:
    result, measured = result_of(calm), [row for row in history(calm) if "val_top1" in row]
    values = [row["val_top1"] for row in measured]
    best = int(np.argmax(values))  # the first of equals
    assert best > 0, "the case would not tell the best epoch from the first"
    assert result["kept"] == {
        "epoch": best + 1, "of": len(values), "step": (best + 1) * 8, "val_top1": max(values), "chosen_on": "val"
    }  # fmt: skip
    assert len(values) == best + 1 + 2 < 12  # two epochs without a better one
    assert result["steps"] == len(values) * 8 == len(history(calm))
    assert result["val"]["top1"] == values[best]
    assert result["val"]["nll"] == pytest.approx(measured[best]["val_nll"], rel=1e-6)
    assert not (calm / "checkpoints").exists()
    # The same training ended there by force: its last weights are the ones that were kept.
    words = [word for word in CHOOSES if not word.startswith(("train.keep", "train.patience"))]
    words.append(f"train.max_steps={(best + 1) * 8}")
    assert main(small_run(guide, tmp_path, "ended", *words)) == 0
    kept, last = (load_file(run / "model.safetensors") for run in (calm, tmp_path / "classify/ended"))
    assert [key for key in kept if not kept[key].equal(last[key])] == []
    assert result_of(tmp_path / "classify/ended")["test"] == result["test"]


@pytest.mark.parametrize("moment", [MOMENTS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in MOMENTS[1:])])
def test_a_kill_changes_nothing(guide: Manifest, calm: Path, tmp_path: Path, moment: str) -> None:
    result, run = result_of(calm), tmp_path / "classify/killed"
    best, ended = result["kept"]["step"], moment == MOMENTS[2]
    step = result["steps"] if ended else best
    words = small_run(guide, tmp_path, "killed", *CHOOSES)
    command = [sys.executable, "-c", DEADLY, *words]
    killed = subprocess.run(command, env=os.environ | {"KILL": str(step), "MOMENT": moment}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (run / f"checkpoints/best-{best:08d}.safetensors").is_file() == (moment != MOMENTS[1])
    assert (run / f"checkpoints/step-{step:08d}").is_dir() == (moment != MOMENTS[0])
    if ended:  # the newest checkpoint is damaged: the one before it needs its own best epoch
        (run / f"checkpoints/step-{step:08d}/shared.pt").write_bytes(b"damaged")
    assert main(words) == 0
    same_end(calm, run, result["steps"])
    assert result_of(run)["kept"] == result["kept"]


def test_a_fold_beside_the_held_out_share_chose_nothing(guide: Manifest, tmp_path: Path) -> None:
    words = ["data.holdout=0.25", "data.folds=4", "train.keep=best", "train.epochs=2", "data.crop=square"]
    assert main(small_run(guide, tmp_path, "nested", *words, "evaluate_test=false")) == 0
    result = result_of(tmp_path / "classify/nested")
    assert result["kept"]["chosen_on"] == "a held-out share"
    assert (result["train_count"], result["val"]["count"]) == (45, 20)


@pytest.mark.slow
def test_two_ranks_and_sharded_strategies_keep_the_same_epoch(guide: Manifest, tmp_path: Path) -> None:
    """Killed on two ranks while the best epoch's checkpoint is written, under each strategy."""
    vit = [
        "model.name=test_vit", "model.kwargs={img_size: 32}", "optim.method=adamw", "optim.lr=0.001", "train.mixup=0",
        "train.checkpoint_keep_finished=true", "train.epochs=5", "data.workers=1",
    ]  # fmt: skip
    words = {
        strategy: small_run(guide, tmp_path, strategy, *CHOOSES, *vit, f"train.strategy={strategy}")
        for strategy in ("ddp", "fsdp")
    }
    finish_all(tmp_path, list(words.values()))
    calm = result_of(tmp_path / "classify/ddp")
    for strategy in words:
        run, kept = tmp_path / "classify" / strategy, result_of(tmp_path / "classify" / strategy)["kept"]
        assert (kept["step"], kept["val_top1"]) == (calm["kept"]["step"], calm["kept"]["val_top1"])
        best = load_file(run / f"checkpoints/best-{kept['step']:08d}.safetensors")
        exported = load_file(run / "model.safetensors")
        assert [key for key in exported if not exported[key].equal(best[key])] == []
    left, right = (history(tmp_path / "classify" / strategy) for strategy in ("fsdp", "ddp"))
    assert [row["loss"] for row in left] == pytest.approx([row["loss"] for row in right], rel=1e-4)
    # Killed on two ranks, resumed on two.
    again, shape = tmp_path / "again", [*CHOOSES, *vit]
    environment = {"KILL": str(calm["kept"]["step"]), "MOMENT": MOMENTS[0]}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        codes = run_ranks(again, ["-c", DEADLY, *small_run(guide, again, "ddp", *shape)], 2)
    assert codes == [-signal.SIGKILL] * 2
    assert run_ranks(again, ["-m", "jobs.cli", *small_run(guide, again, "ddp", *shape)], 2) == [0, 0]
    same_end(tmp_path / "classify/ddp", again / "classify/ddp", calm["steps"])


def test_files_are_those_that_some_checkpoint_needs(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    folder, network, device = RunFolder(tmp_path, None), nn.Linear(1, 1), torch.device("cpu")
    schedule = Schedule(per_epoch=10, steps=100)
    best = BestEpoch(folder, schedule, "val_top1", patience=3, checkpoints=2)
    values = [0.1, 0.5, 0.4, 0.7, 0.7, 0.6, 0.2, 0.9]
    there = []
    for epoch, value in enumerate(values[:7], 1):
        with torch.no_grad():
            network.weight.fill_(epoch)
        best.add(epoch * 10, value, network)
        with folder.metrics.open("a") as stream:
            stream.write(json.dumps({"step": epoch * 10, "val_top1": value}) + "\n")
        there.append(sorted(int(file.stem[5:]) for file in (tmp_path / "checkpoints").iterdir()))
    assert there == [[10], [10, 20], [10, 20], [20, 40], [20, 40], [40], [40]]
    assert schedule.steps == 70  # epochs 5, 6 and 7 were no better than 4
    assert best.restore(network, device) == {"epoch": 4, "of": 7, "step": 40, "val_top1": 0.7}
    assert network.weight.item() == 4
    # Resumed there, it stops there; resumed without patience, it goes on and finds a better one.
    schedules = Schedule(10, 100), Schedule(10, 100)
    resumed = BestEpoch(folder, schedules[0], "val_top1", patience=3, checkpoints=2)
    assert resumed.epochs == [(epoch * 10, value) for epoch, value in enumerate(values[:7], 1)]
    longer = BestEpoch(folder, schedules[1], "val_top1", patience=0, checkpoints=2)
    longer.add(80, values[7], network)
    assert [schedule.steps for schedule in schedules] == [70, 100]
    assert longer.restore(network, device)["epoch"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.keep=best"], "train.keep=best: chosen on what? hold out a part of train: data.holdout=0.1"),
        (["train.keep=best", "data.folds=2"], "data.folds is kept for measuring what was chosen"),
        (["train.patience=3", "data.holdout=0.2"], "it goes with train.keep=best"),
        (["train.keep=best", "data.holdout=0.2", "train.method=probe"], "a probe has no epochs to choose from"),
        (["data.holdout=0.6"], "data.holdout=0.6: Input should be less than or equal to 0.5"),
        (["data.holdout=0.001"], "data.holdout=0.001: of 80 training images that is none; hold out more"),
        (["train.balanced_sampling=1", "train.class_weights=1"], "both make up for rare classes; set one"),
        (["train.balanced_sampling=1", "train.method=probe"], "set train.class_weights=1 instead"),
    ],
)
def test_mistakes(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(small_run(guide, tmp_path, "bad", *words)) == 2
    assert message in capsys.readouterr().err
    shutil.rmtree(tmp_path / "classify", ignore_errors=True)
