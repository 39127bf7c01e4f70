"""Runs of a small vision transformer with all that its recipes use: stopped midway, resumed, under every strategy."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ranks import finish_all
from safetensors.torch import load_file
from same_run import history
from small_runs import small_run
from torch import nn

from fgvc.training.config import OptimConfig
from fgvc.training.schedule import peak_lr
from jobs.cli import main
from jobs.tasks import classify
from shards.manifest import Manifest

pytestmark = pytest.mark.usefixtures("any_precision")


def words(guide: Manifest, runs: Path, name: str, *more: str) -> list[str]:
    return small_run(
        guide, runs, name, "model.name=test_vit", "model.kwargs={img_size: 32}", "optim.method=adamw",
        "optim.lr=0.002", "optim.layer_decay=0.8", "optim.weight_decay=0.05", "optim.clip=1", "optim.warmup_epochs=1",
        "optim.lr_batch=32", "model.drop_path=0.1", "train.head_start=probe", "train.grad_checkpointing=true",
        "train.precision=bf16",
        "train.deterministic=true", "evaluate_test=false", *more,
    )  # fmt: skip


TWELVE = ("train.lora_rank=4", "train.max_steps=12")


def stopping(at: int) -> Any:
    """`classification` that sends its process SIGTERM in a step."""
    real = classify.classification

    def make(*arguments: Any) -> Any:
        objective, made = real(*arguments), {"steps": 0}

        def stops(model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            made["steps"] += 1
            if made["steps"] == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return objective(model, batch)

        return stops

    return make


@pytest.mark.parametrize("method", ["finetune", "lora"])
def test_stopped_in_the_warm_up_it_ends_in_the_same_bits(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = words(guide, tmp_path, "whole", f"train.method={method}", *TWELVE)
    assert main(whole) == 0
    monkeypatch.setattr(classify, "classification", stopping(4))
    parts = words(guide, tmp_path, "parts", f"train.method={method}", *TWELVE)
    assert main(parts) == 3
    monkeypatch.undo()
    assert main(parts) == 0
    runs = tmp_path / "classify"
    assert history(runs / "whole") == history(runs / "parts")
    left, right = (load_file(runs / name / "model.safetensors") for name in ("whole", "parts"))
    assert [name for name in left if not left[name].equal(right[name])] == []
    timm.create_model("test_vit", num_classes=4, img_size=32).load_state_dict(left, strict=True)
    rates = [row["lr"] for row in history(runs / "whole")]
    assert rates[10] == pytest.approx(0.002 * (8 / 32) ** 0.5)  # after the warm-up of ten steps


@pytest.mark.slow
def test_lora_learns_the_same_under_every_strategy(guide: Manifest, tmp_path: Path) -> None:
    strategies = ("ddp", "fsdp", "zero2", "zero3")
    more = ("train.method=lora", "train.lora_rank=4", "train.precision=fp32", "train.max_steps=4")
    runs = [words(guide, tmp_path, one, *more, "model.drop_path=0", f"train.strategy={one}") for one in strategies]
    finish_all(tmp_path, runs)
    losses = {one: [row["loss"] for row in history(tmp_path / "classify" / one)] for one in strategies}
    for one in strategies[1:]:
        assert losses[one] == pytest.approx(losses["ddp"], rel=1e-4)
    weights = {one: load_file(tmp_path / "classify" / one / "model.safetensors") for one in strategies}
    for one in strategies[1:]:
        for name, tensor in weights["ddp"].items():
            assert torch.allclose(weights[one][name], tensor, atol=1e-4), (one, name)


def test_a_rate_follows_the_batch() -> None:
    assert peak_lr(OptimConfig(method="sgd", lr=0.1, lr_batch=64), 256) == pytest.approx(0.4)
    assert peak_lr(OptimConfig(method="adamw", lr=0.1, lr_batch=64), 256) == pytest.approx(0.2)
    assert peak_lr(OptimConfig(lr=0.1), 256) == 0.1
