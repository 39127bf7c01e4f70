"""Training that breaks returns to its last checkpoint at half the learning rate, says so, and ends after three."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import small_run
from torch import nn

from jobs.cli import main
from jobs.tasks import classify
from shards.manifest import Manifest


def spoilt(spoil: Callable[[int, nn.Module, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """`classification` whose loss is what `spoil` makes of (step, counted over all attempts; model; loss)."""
    made, real = {"steps": 0}, classify.classification

    def make(*arguments: Any) -> Any:
        objective = real(*arguments)

        def broken(model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            loss, figures = objective(model, batch)
            made["steps"] += 1
            return spoil(made["steps"], model, loss), figures

        return broken

    return make


def breaking(when: Callable[[int], bool]) -> Callable[..., Any]:
    """`classification` whose loss is not a number in the steps for which `when` holds."""
    return spoilt(lambda step, model, loss: loss * float("nan") if when(step) else loss)


def test_a_broken_step_costs_an_epoch_at_most(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(classify, "classification", breaking(lambda steps: steps == 15))
    assert main(small_run(guide, tmp_path, "a", "train.deterministic=true")) == 0
    folder = tmp_path / "classify" / "a"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, 11), 10, *range(11, 31)]
    news = rows[10]
    assert news == {"step": 10, "epoch": 1.0, "rewind": "the loss is nan at step 15", "lr_scale": 0.5}
    monkeypatch.undo()
    assert main(small_run(guide, tmp_path, "b", "train.deterministic=true")) == 0
    healthy = [json.loads(line) for line in (tmp_path / "classify/b/metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows[:10]] == [row["lr"] for row in healthy[:10]]
    assert [row["lr"] for row in rows[11:]] == [row["lr"] / 2 for row in healthy[10:]]
    assert rows[11]["loss"] == healthy[10]["loss"]  # the same weights, the same images
    (rewind,) = json.loads((folder / "result.json").read_text())["rewinds"]
    assert rewind == {"reason": "the loss is nan at step 15", "step": 10, "lr_scale": 0.5}
    assert "rewinds" not in json.loads((tmp_path / "classify/b/result.json").read_text())


def test_after_three_it_ends_and_says_what_to_change(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(classify, "classification", breaking(lambda steps: steps >= 15))
    assert main(small_run(guide, tmp_path, "a")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the loss is nan at step 11 after 3 returns to a checkpoint, each at half the learning rate" in last
    assert last.endswith("lower optim.lr or set optim.clip=1")
    # A later start does not begin to count anew.
    assert main(small_run(guide, tmp_path, "a")) == 2
    assert "after 3 returns" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "classify/a/rewinds.json").read_text())) == 3


def test_none_where_none_are_allowed(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(classify, "classification", breaking(lambda steps: steps == 5))
    assert main(small_run(guide, tmp_path, "a", "train.rewinds=0")) == 2
    assert "the loss is nan at step 5; lower optim.lr" in capsys.readouterr().err


def breaking_weights(bad: int) -> Callable[..., Any]:
    """`classification` whose loss is a number in every step, and whose gradients are none in one of them."""

    def spoil(step: int, model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
        weights = torch.cat([one.flatten() for one in model.parameters()])
        return loss + (0 * weights).sum().sqrt() if step == bad else loss

    return spoilt(spoil)


@pytest.mark.parametrize(
    ("step", "more", "reason"),
    [
        (10, ["data.folds=4"], "outputs are not finite for 20 of 20 images, first 'train_001_00012', held out, after"),
        (30, [], "weights are not finite after step 30"),  # measured next: nothing trains on
    ],
)
def test_a_step_that_breaks_the_weights_and_not_its_own_loss(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, more: list[str], reason: str
) -> None:
    monkeypatch.setattr(classify, "classification", breaking_weights(step))
    words = ["evaluate_test=false", "train.batch=6" if more else "train.batch=8", "train.rewinds=1", *more]
    assert main(small_run(guide, tmp_path, "a", *words)) == 0
    result = json.loads((tmp_path / "classify/a/result.json").read_text())
    (rewind,) = result["rewinds"]
    assert reason in rewind["reason"]
    assert (rewind["step"], result["steps"]) == (step - 10, 30)
    assert all(bool(one.isfinite().all()) for one in load_file(tmp_path / "classify/a/model.safetensors").values())


def test_the_broken_network_is_let_go(guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks: list[weakref.ref] = []
    real = classify.create_model

    def remembered(*arguments: Any) -> nn.Module:
        alive.append([one() is not None for one in networks])
        network = real(*arguments)
        networks.append(weakref.ref(network))
        return network

    alive: list[list[bool]] = []
    monkeypatch.setattr(classify, "create_model", remembered)
    monkeypatch.setattr(classify, "classification", breaking(lambda steps: steps == 3))
    assert main(small_run(guide, tmp_path, "a", "train.epochs=1", "evaluate_test=false")) == 0
    assert alive == [[], [False]]  # a device would have to hold both, with what their optimizers keep
