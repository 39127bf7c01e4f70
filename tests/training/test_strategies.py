"""fsdp, zero1, zero2 and zero3 on two CPU ranks learn what ddp learns, save what ddp saves, and go on from it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from interruptions import finish
from ranks import finish_all, start_ranks
from safetensors.torch import load_file
from small_runs import small_run

from fgvc.training.checkpoint import load
from jobs.cli import main
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.loader import Samples, eval_loader
from shards.reading.transforms import eval_transform

STEPS = 4
SHARDED = ["fsdp", "zero1", "zero2", "zero3"]


def words(guide: Manifest, runs: Path, name: str, strategy: str, *more: str) -> list[str]:
    """A transformer with everything that a strategy could get wrong: accumulation, clipping, layer decay, EMA."""
    return small_run(
        guide, runs, name, "model.name=test_vit", "image.size=32", "model.kwargs={img_size: 32}", "optim.method=adamw",
        "optim.lr=0.001", "optim.clip=0.5", "optim.layer_decay=0.8", "train.accumulation=2", "train.deterministic=true",
        "train.checkpoint_minutes=0", "train.checkpoint_keep=20",
        "train.checkpoint_keep_finished=true", f"train.max_steps={STEPS}",
        f"train.strategy={strategy}", *more,
    )  # fmt: skip


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of finished runs, one a strategy, named by it, with every step's checkpoint; and the same in bf16."""
    folder = tmp_path_factory.mktemp("strategies")
    commands = [words(guide, folder, strategy, strategy) for strategy in ("ddp", *SHARDED)]
    short = ["train.precision=bf16", "train.max_steps=2", "train.checkpoint_minutes=5", "evaluate_test=false"]
    commands += [words(guide, folder, f"{one}-bf16", one, *short) for one in ("ddp", *SHARDED)]
    finish_all(folder, commands)
    return folder / "classify"


def losses_agree(one: Path, other: Path, tolerance: float) -> None:
    left, right = rows(one), rows(other)
    assert len(left) == len(right) >= 2
    assert [row["loss"] for row in left] == pytest.approx([row["loss"] for row in right], rel=tolerance)


@pytest.mark.parametrize("strategy", SHARDED)
def test_losses_equal_ddp(runs: Path, strategy: str) -> None:
    losses_agree(runs / strategy, runs / "ddp", 1e-5)
    losses_agree(runs / f"{strategy}-bf16", runs / "ddp-bf16", 2e-3)


@pytest.mark.parametrize("strategy", ["ddp", *SHARDED])
def test_average_and_export(runs: Path, guide: Manifest, strategy: str) -> None:
    """The average is the one computed by hand from every step's weights; the export is it, and a plain timm model with
    it answers as the run's own evaluation did."""
    folder = runs / strategy
    states = [load(path, "shared") for path in sorted((folder / "checkpoints").glob("step-*"))]
    assert [state["step"] for state in states] == list(range(1, STEPS + 1))
    expected = {name: torch.zeros_like(one) for name, one in states[0]["networks"]["model"]["weights"].items()}
    for state in states:
        decay = min(0.9, 1 - state["step"] ** -0.75)
        for name, one in state["networks"]["model"]["weights"].items():
            expected[name] = decay * expected[name] + (1 - decay) * one
    exported = load_file(folder / "model.safetensors")
    assert exported.keys() == expected.keys()
    for name, one in expected.items():
        assert torch.allclose(exported[name], one, atol=1e-6), name
    last = states[-1]["networks"]["model"]["weights"]
    moved = [name for name, one in expected.items() if not torch.allclose(one, last[name], atol=1e-6)]
    assert len(moved) > len(expected) / 2

    plain = timm.create_model("test_vit", num_classes=4, img_size=32).eval()
    plain.load_state_dict(exported, strict=True)
    mean, std = (torch.tensor(plain.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    samples = Samples(guide, eval_transform(ImageConfig(), 32))
    with np.load(folder / "predictions_test.npz") as file, torch.no_grad():
        batches = eval_loader(guide.split("test"), samples, batch=64)
        logits = torch.cat([plain((batch.images / 255 - mean) / std) for batch in batches])
        assert np.allclose(file["logits"], logits.numpy(), atol=1e-4)


@pytest.mark.slow
def test_killed_run_ends_the_same(runs: Path, guide: Manifest, tmp_path: Path, fgvc: Callable[..., Any]) -> None:
    for strategy in ("fsdp", "zero3"):
        command = words(guide, tmp_path, strategy, strategy)
        ranks = start_ranks(tmp_path, ["-m", "jobs.cli", *command])
        wait_for_steps(ranks, tmp_path / "classify" / strategy, 2)
        for rank in ranks:
            rank.kill()
            rank.wait()
        assert not (tmp_path / "classify" / strategy / "result.json").exists()
        finish(fgvc(*command, "--processes", "2"))  # as a user: its processes end, too
        killed, calm = tmp_path / "classify" / strategy, runs / strategy
        assert [row["loss"] for row in rows(killed)] == [row["loss"] for row in rows(calm)]
        left, right = load_file(killed / "model.safetensors"), load_file(calm / "model.safetensors")
        assert [name for name in left if not left[name].equal(right[name])] == []


@pytest.mark.slow
def test_another_strategy_and_another_number_of_ranks_go_on(runs: Path, guide: Manifest, tmp_path: Path) -> None:
    """Stopped on the way, resumed as something else: the losses are still ddp's."""
    ways = [("zero2", 2), ("fsdp", 2), ("ddp", 1)]
    folder = tmp_path / "classify/mixed"
    for done, (strategy, ranks) in zip((1, 2, STEPS), ways, strict=True):
        for record in ("result.json", "identity.json"):  # max_steps is part of a run's identity
            (folder / record).unlink(missing_ok=True)
        command = words(guide, tmp_path, "mixed", strategy, f"train.max_steps={done}")
        if ranks > 1:
            finish_all(tmp_path, [command], ranks)
        else:
            assert main(command) == 0
    losses_agree(folder, runs / "ddp", 1e-4)


def wait_for_steps(ranks: list[subprocess.Popen], folder: Path, steps: int) -> None:
    while len(list((folder / "checkpoints").glob("step-*"))) < steps:
        assert ranks[0].poll() is None, ranks[0].communicate()
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGSTOP, 60), pytest.param(signal.SIGKILL, 30, marks=pytest.mark.slow)]
)
def test_a_lost_peer_ends_the_run(guide: Manifest, tmp_path: Path, number: int, seconds: float) -> None:
    """One of two ranks hangs or dies: the other ends with one line, in time."""
    command = words(guide, tmp_path, "lost", "ddp", "train.max_steps=0", "train.epochs=1000")
    ranks = start_ranks(tmp_path, ["-m", "jobs.cli", *command, "train.timeout_minutes=0.2"])
    try:
        wait_for_steps(ranks, tmp_path / "classify/lost", 2)
        ranks[1].send_signal(number)
        _, errors = ranks[0].communicate(timeout=seconds)
        assert ranks[0].returncode == 1
        assert "rank 0 of 2 lost another rank" in errors.strip().splitlines()[-1]
        assert "Traceback" not in errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_what_cannot_be_is_said_in_one_line(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words(guide, tmp_path, "bad", "fsdp", "train.precision=fp16")) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "train.precision=fp16 works with train.strategy=ddp only" in said


def test_what_takes_seconds_to_import_is_not_imported_unasked() -> None:
    """And nothing looks for garbage among what is: a start takes a fourth less."""
    code = """
import gc, sys
from jobs.registry import task_module
task_module("classify")
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
assert not {"deepspeed", "wandb", "matplotlib.pyplot"} & sys.modules.keys()
import wandb
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
