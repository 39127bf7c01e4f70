"""Milliseconds a training step: our loop (`fgvc.training.loop.fit`, metrics.jsonl written) against a bare torch loop.

    .venv/bin/python benchmarks/step.py                                     resnet18, 128 px, batch 16
    .venv/bin/python benchmarks/step.py --model tf_efficientnet_lite0 --size 224 --steps 20 --threads 1
    .venv/bin/python benchmarks/step.py --compile                           both loops compiled

Both loops train twins of one network (same weights, optimizer, uint8 batches and normalisation) and take turns at
every step, so that a busy second is felt by both. Printed: medians, and the middle half of the ratios step by step.
The last lines compare the bare loop with and without `tune_cpu_memory`, in processes of their own, in turns too.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from timm import create_model
from torch import nn
from torch.nn import functional

from fgvc.classification.config import TrainConfig
from fgvc.classification.objective import classification
from fgvc.models.config import ModelConfig
from fgvc.models.normalised import Normalised
from fgvc.models.timm import input_statistics
from fgvc.runtime.config import TrackConfig
from fgvc.runtime.device import tune_cpu_memory
from fgvc.runtime.tracking import Tracker
from fgvc.training.config import OptimConfig
from fgvc.training.learner import SupervisedLearner
from fgvc.training.loop import fit
from fgvc.training.optim import create_optimizer
from fgvc.training.schedule import Schedule
from shards.reading.loader import Batch

CLASSES, WARM_UP = 50, 3
OPTIM = OptimConfig(head_multiplier=1.0, warmup_epochs=0.0, schedule="constant")


class Bare:
    """The loop one would write by hand: forward, loss, backward, step."""

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor, device: torch.device) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.mean, self.std, self.device = mean.to(device) * 255, std.to(device) * 255, device
        self.optimizer = create_optimizer(self.network, OPTIM)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One step on (N, 3, H, W) uint8 images and (N,) labels; the loss."""
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        logits = self.network((images.float() - self.mean) / self.std)
        loss = functional.cross_entropy(logits, labels.to(self.device), label_smoothing=0.1)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def batch_of(count: int, size: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    return Batch(images, labels, torch.arange(count), torch.zeros(count, dtype=torch.int64))


def in_turns(options: argparse.Namespace, folder: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of every step of ours and of the bare loop: `fit` asks for a batch, and a bare step runs before it
    gets one."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    tune_cpu_memory()
    torch.manual_seed(0)
    network = create_model(options.model, num_classes=CLASSES)
    mean, std = input_statistics(network, ModelConfig())
    bare = Bare(copy.deepcopy(network), mean, std, accelerator.device)
    if options.compile:
        bare.network.compile()
    # One long epoch: checkpoints and evaluation belong to its end, which is not measured.
    total = options.steps + WARM_UP
    train = TrainConfig(batch=options.batch, epochs=1, checkpoint_minutes=1e9, compile=options.compile)
    objective = classification(CLASSES, train, 0, accelerator.device)
    schedule = Schedule(total, total)
    learner = SupervisedLearner(network, Normalised(network, mean, std), objective, OPTIM, train, schedule, accelerator)
    batch = batch_of(options.batch, options.size)
    ours, theirs, given = [], [], 0.0

    def batches() -> Iterator[Batch]:
        nonlocal given
        for number in range(total):
            now = time.perf_counter()
            if number > 0:
                ours.append((now - given) * 1e3)
            bare.step(batch.images, batch.labels)
            given = time.perf_counter()
            theirs.append((given - now) * 1e3)
            yield copy.copy(batch)

    tracker = Tracker(TrackConfig(wandb=options.wandb), folder, "classify", "step", {})
    fit(learner, batches(), train, schedule, folder, tracker)
    tracker.close(0)
    return ours[WARM_UP - 1 :], theirs[WARM_UP:]


def memory_effect(options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of a bare step in processes with and without `tune_cpu_memory`."""
    found: dict[str, list[float]] = {"plain": [], "tuned": []}
    for _ in range(2):
        for name, values in found.items():
            words = [f"--{key}={getattr(options, key)}" for key in ("model", "size", "batch", "steps", "threads")]
            done = subprocess.run(
                [sys.executable, __file__, *words, f"--alone={name}"], stdout=subprocess.PIPE, text=True, check=True
            )
            values.append(float(done.stdout))
    return {name: min(values) for name, values in found.items()}


def alone(options: argparse.Namespace) -> float:
    if options.alone == "tuned":
        tune_cpu_memory()
    network = create_model(options.model, num_classes=CLASSES)
    bare = Bare(network, *input_statistics(network, ModelConfig()), torch.device("cpu"))
    batch, times = batch_of(options.batch, options.size), []
    for _ in range(options.steps + WARM_UP):
        began = time.perf_counter()
        bare.step(batch.images, batch.labels)
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--wandb", default="disabled", choices=["disabled", "offline"])
    parser.add_argument("--alone", default="", choices=["", "plain", "tuned"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        print(alone(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = in_turns(options, Path(folder))
    ratios = sorted(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    quarter = len(ratios) // 4
    compiled = ", compiled" if options.compile else ""
    print(
        f"{options.model}, {options.size} px, batch {options.batch}, {options.threads} thread(s), {len(ours)} steps"
        f"{compiled}"
    )
    print(f"  ours {statistics.median(ours):8.1f} ms a step\n  bare {statistics.median(bare):8.1f} ms a step")
    print(
        f"  ours / bare: medians {statistics.median(ours) / statistics.median(bare):.3f}; step by step "
        f"{statistics.median(ratios):.3f}, middle half {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
    )
    if not torch.cuda.is_available() and not options.compile:
        effect = memory_effect(options)
        print(f"  bare in a fresh process: {effect['plain']:.1f} ms; with tune_cpu_memory {effect['tuned']:.1f} ms")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, torch {torch.__version__}")


if __name__ == "__main__":
    main()
