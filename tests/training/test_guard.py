"""The guard: what it takes for a leap or a fall, that a kill changes nothing, and that planted collapses are caught."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from interruptions import finish
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import binom
from small_runs import small_run
from torch import nn

from fgvc.classification.probe_guard import mcnemar
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.guard import OVER_PROBE, OVER_PROBE_P, Guard
from fgvc.training.rewind import Diverged
from fgvc.training.schedule import Schedule
from jobs.cli import main
from jobs.tasks import classify
from shards.building.build import build
from shards.building.config import BuildOptions
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest
from shards.sample import RawDataset, RawSample


def guard(memory: dict | None = None, per_epoch: int = 10, metrics: Path = Path("none")) -> Guard:
    learner: Any = SimpleNamespace(memory={} if memory is None else memory)
    return Guard(learner, LoopConfig(batch=100), OptimConfig(warmup_epochs=1), Schedule(per_epoch, 1000), metrics)


def test_mcnemar_is_the_binomial_tail() -> None:
    ours = np.array([True] * 3 + [False] * 9 + [True] * 30)
    theirs = np.array([False] * 3 + [True] * 9 + [True] * 30)
    assert mcnemar(ours, theirs) == pytest.approx(2 * binom.cdf(3, 12, 0.5))
    assert mcnemar(ours, ours) == 1.0


def first_leap(losses: list[float], memory: dict | None = None) -> int | None:
    watched = guard(memory)
    for step, loss in enumerate(losses, 1):
        try:
            watched.step(step, {"loss": loss})
        except Diverged:
            return step
    return None


def test_a_leap_is_what_lasts_and_rises_above_the_start() -> None:
    calm = [2.0] * 10 + [0.5] * 60
    assert first_leap([*calm, 9.0, *[0.5] * 20]) is None  # one bad batch: the mean of five is 2.2
    assert first_leap([*calm, *[2.5] * 20]) is None  # five times what it was, hardly more than the start
    # 3.2 a step after 0.5: the mean of five passes 3 (1.5 times the start) with the fifth
    assert first_leap([*calm, *[3.2] * 20]) == 75
    assert first_leap([2.0] * 20 + [50.0] * 20) is None  # too short a past: what is not finite or unlearns ends it


def test_a_killed_run_is_watched_as_one_that_was_not() -> None:
    losses = [2.0] * 10 + [0.5] * 60 + [3.2] * 10
    memory: dict = {}
    assert first_leap(losses[:72], memory) is None
    restored = json.loads(json.dumps(memory))
    watched = guard(restored)
    for step in (73, 74):
        watched.step(step, {"loss": 3.2})
    with pytest.raises(Diverged, match=r"the loss leapt from 0\.5 to 3\.2 by step 75"):
        watched.step(75, {"loss": 3.2})


def epochs(watched: Guard, *accuracies: float, first: int = 1) -> None:
    for number, accuracy in enumerate(accuracies):
        for step in range(10):
            watched.step((first - 1 + number) * 10 + step + 1, {"loss": 1.0, "top1": accuracy})


def test_training_accuracy_has_to_fall_twice_running() -> None:
    epochs(guard(), 0.5, 0.8, 0.7, 0.81, 0.7, 0.85)
    epochs(guard(), 0.8, 0.76, 0.76, 0.76)  # by 4 points
    with pytest.raises(UserError, match=r"is 60\.0% \(step 40\), after 80\.0% at best and 60\.0% at worst in"):
        epochs(guard(), 0.5, 0.8, 0.7, 0.6, 0.9)
    with pytest.raises(UserError, match=r"is 60\.0% \(step 40\), after 90\.0% at best and 60\.0% at worst in"):
        epochs(guard(), 0.9, 0.6, 0.75, 0.6)
    memory: dict = {}
    epochs(guard(memory), 0.5, 0.8, 0.7)
    with pytest.raises(UserError, match="training accuracy is 70"):
        epochs(guard(json.loads(json.dumps(memory))), 0.7, first=4)


def test_a_training_accuracy_that_recovers_is_no_fall_and_one_that_lies_low_is(tmp_path: Path) -> None:
    """The first two as recorded: EfficientNet-Lite0, which went on to end above its probe, and ResNet-50, which did
    not."""
    epochs(guard(), 0.972, 0.847, 0.896, 0.962)
    epochs(guard(), 0.97, 0.85, 0.9, 0.895, 0.9)  # recovers, then stands where it is
    for collapse in ((0.837, 0.465, 0.583), (0.9, 0.1, 0.37), (0.84, 0.04, 0.31), (0.9, 0.6, 0.71)):
        with pytest.raises(UserError, match=r"\(step 30\), after"):
            epochs(guard(), *collapse)
    memory: dict = {}
    epochs(guard(memory), 0.97, 0.8, 0.9)  # what has been won back is measured from the lowest epoch, a kill or not
    with pytest.raises(UserError, match=r"is 84\.0% \(step 40\), after 97\.0% at best and 80\.0% at worst in"):
        epochs(guard(json.loads(json.dumps(memory))), 0.84, first=4)

    def held_out(over_probe: float, *accuracies: float) -> None:
        watched = guard(metrics=tmp_path / "metrics.jsonl")
        for number, accuracy in enumerate(accuracies, 1):
            epochs(watched, accuracy, first=number)
            watched.evaluated(number * 10, {OVER_PROBE: over_probe, OVER_PROBE_P: 0.5})

    held_out(-0.02, 0.97, 0.85, 0.87, 0.86)  # what it knows of other images is there
    for over_probe, last in ((-0.06, 0.87), (-0.02, 0.7)):
        with pytest.raises(UserError, match="unlearnt"):
            held_out(over_probe, 0.97, 0.85, last)


def test_what_was_seen_before_it_was_switched_off_is_forgotten() -> None:
    memory: dict = {}
    epochs(guard(memory), 0.5, 0.9, 0.7)
    epochs(guard(memory), 0.7, first=9)  # one epoch: not two running
    for step in range(8):
        guard(memory).step(91 + step, {"loss": 1.0, "top1": 0.2})
    epochs(guard(memory), 0.9, 0.9, first=20)
    assert memory["best_top1"] == 0.9
    assert "fell_to" not in memory
    guard(memory).step(500, {"loss": 1.0})
    assert memory["losses"] == [1.0]


def test_held_out_below_the_probe_twice_running_after_the_warm_up(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"

    def after(*evaluations: tuple[float, float], first: int = 2) -> None:
        watched = guard(metrics=metrics)
        for number, (over, p) in enumerate(evaluations):
            watched.step((first + number) * 10, {"loss": 1.0})
            watched.evaluated((first + number) * 10, {OVER_PROBE: over, OVER_PROBE_P: p})
        watched.step((first + len(evaluations)) * 10, {"loss": 1.0})

    after((-0.06, 1e-4), (-0.04, 1e-4), (-0.06, 1e-4))
    after((-0.06, 1e-4), (-0.2, 0.002))
    after((-0.06, 1e-4), (-0.06, 1e-4), first=0)  # the first within the warm-up
    message = r"6\.0 points below the probe that the run began with \(p = 1e-04\).*train\.guard=false"
    with pytest.raises(UserError, match=message):
        after((0.01, 1.0), (-0.06, 1e-4), (-0.06, 1e-4))
    metrics.write_text(json.dumps({"step": 20, OVER_PROBE: -0.06, OVER_PROBE_P: 1e-4}) + "\n")
    with pytest.raises(UserError, match="below the probe"):
        after((-0.06, 1e-4), first=3)


def shuffled(from_step: int) -> Callable[..., Any]:
    """`classification` of images as plain as their labels, which mean nothing from a step on."""
    real = classify.classification

    def make(*arguments: Any) -> Any:
        objective, made = real(*arguments), {"steps": 0}

        def broken(model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            made["steps"] += 1
            batch.images = (batch.labels * 60).to(torch.uint8)[:, None, None, None].expand_as(batch.images)
            if made["steps"] > from_step:
                batch.labels = (batch.entries * 2654435761 >> 7) % 4
            return objective(model, batch)

        return broken

    return make


def test_shuffled_labels_after_a_good_start_are_caught(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(classify, "classification", shuffled(40))
    more = ["train.epochs=30", "optim.lr=0.02", "train.mixup=0", "evaluate_test=false"]
    assert main(small_run(guide, tmp_path, "a", *more)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the run has unlearnt what it knew; lower optim.lr (fgvc find-lr finds one)" in last


@pytest.fixture
def plain(tmp_path: Path) -> Manifest:
    """Shards of 80 images, each of its class's grey with noise: a probe on any network tells them apart."""
    draw, samples = np.random.default_rng(0), []
    for number in range(80):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 40, (32, 32, 3), np.uint8) + np.uint8(60 * (number % 4))).save(path)
        samples.append(RawSample(str(number), path, number % 4, "train"))
    build(RawDataset("plain", tuple("abcd"), tuple(samples), "CC0-1.0"), tmp_path / "plain", BuildOptions(workers=1))
    return read_manifest(tmp_path / "plain")


def test_a_run_that_ends_below_its_probe_is_not_finished(
    plain: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = small_run(
        plain, tmp_path, "a", "train.head_start=probe", "data.folds=2", "evaluate_test=false", "train.mixup=0",
        "train.ema=0", "optim.method=adamw", "optim.lr=1", "optim.warmup_epochs=0", "optim.schedule=constant",
        "train.epochs=2",
    )  # fmt: skip

    def below(name: str) -> list[int]:
        rows = [json.loads(line) for line in (tmp_path / "classify" / name / "metrics.jsonl").read_text().splitlines()]
        return [row["step"] for row in rows if row.get(OVER_PROBE, 0) <= -0.05]

    best = ["name=b", "data.folds=0", "data.holdout=0.5", "train.keep=best"]  # the better of two is kept, not the last
    assert main([*words, *best]) == 0
    assert below("b") == [5, 10]
    for _ in range(2):  # a later start, too
        assert main(words) == 2
        assert "points below the probe that the run began with" in capsys.readouterr().err
    assert below("a") == [5, 10]
    assert main([*words, "train.guard=false"]) == 0
    assert json.loads((tmp_path / "classify/a/result.json").read_text())["steps"] == 10


def test_fp16_that_overflows_is_caught_and_fp16_that_does_not_trains(
    plain: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    any_precision: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU trains in fp16 too: with accelerate alone it would take fp32, without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    vit = ["model.name=test_vit", "model.kwargs={img_size: 32}", "train.mixup=0", "evaluate_test=false"]
    torch.manual_seed(0)
    weights = timm.create_model("test_vit", img_size=32).state_dict()
    losses = {}
    for precision in ("fp32", "fp16"):
        any_precision()
        save_file(weights, tmp_path / "weights.safetensors")
        more = [f"model.weights={tmp_path}/weights.safetensors", f"train.precision={precision}", "train.max_steps=4"]
        assert main(small_run(plain, tmp_path, precision, *vit, *more)) == 0
        rows = (tmp_path / "classify" / precision / "metrics.jsonl").read_text().splitlines()
        losses[precision] = [json.loads(row)["loss"] for row in rows]
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["fp16"] != losses["fp32"]
    last = [name for name in weights if name.endswith("mlp.fc2.weight")][-1]
    save_file(weights | {last: weights[last] * 1e6}, tmp_path / "weights.safetensors")  # sums above 65504
    assert main(small_run(plain, tmp_path, "large", *vit, more[0], "train.precision=fp16")) == 2
    assert "the loss is nan at step 1 after 3 returns to a checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rate_far_too_high_is_caught_on_two_ranks_and_can_be_overridden(
    plain: Manifest, fgvc: Callable[..., Any], tmp_path: Path
) -> None:
    words = small_run(
        plain, tmp_path, "a", "model.name=test_vit", "model.kwargs={img_size: 32}", "optim.method=adamw",
        "train.head_start=probe", "data.folds=2", "data.fold=0", "evaluate_test=false", "train.mixup=0", "train.ema=0",
        "optim.warmup_epochs=0", "optim.schedule=constant", "optim.lr=0.3", "train.epochs=4", "data.workers=1",
        "train.deterministic=true", "train.precision=bf16",
    )  # fmt: skip
    _, errors = finish(fgvc(*words, "--processes", "2"), 2)
    assert "points below the probe that the run began with" in errors
    rows = [json.loads(line) for line in (tmp_path / "classify/a/metrics.jsonl").read_text().splitlines()]
    assert [row[OVER_PROBE] <= -0.05 for row in rows if OVER_PROBE in row] == [True, True]
    assert rows[-1]["step"] == 10
    finish(fgvc(*words, "train.guard=false"))  # one rank, the same run
    assert (tmp_path / "classify/a/result.json").is_file()
