"""The training loop: any timm classifier, one or many ranks, stoppable and resumable at every step."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional

from fgvc import checkpoint
from fgvc.config import OptimConfig, TrainConfig
from fgvc.device import forward_flops, matmul_rate, peak_memory_mb
from fgvc.distributed import rank, sync_buffers, world_size
from fgvc.interrupt import Interrupted, Interruption
from fgvc.mixing import mix, soft_targets
from fgvc.models import Normalised, freeze_batch_norm, freeze_layers
from fgvc.optim import create_optimizer, lr_factor, set_lr
from fgvc.progress import Progress
from fgvc.tracking import Tracker
from shards.errors import DataError
from shards.loader import Batch


@dataclass
class Schedule:
    """How long: `steps` in all, `per_epoch` steps an epoch."""

    per_epoch: int
    steps: int

    @staticmethod
    def of(config: TrainConfig, images: int) -> "Schedule":
        """Raises DataError when the training images do not fill one global batch, or ranks do not divide it."""
        parts = world_size() * config.accumulation
        if config.batch % parts:
            raise DataError(
                f"train.batch={config.batch} is not a multiple of {world_size()} rank(s) x train.accumulation="
                f"{config.accumulation}; choose a multiple of {parts}"
            )
        per_epoch = images // config.batch
        if not per_epoch:
            raise DataError(f"train.batch={config.batch} is more than the {images} training images; lower it")
        steps = per_epoch * config.epochs
        return Schedule(per_epoch, min(steps, config.max_steps) if config.max_steps else steps)


class Learner:
    """All that changes while training: network, its average, optimizer, and the step they have reached."""

    def __init__(
        self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor, optim: OptimConfig, train: TrainConfig,
        accelerator: Accelerator, classes: int, seed: int,
    ) -> None:  # fmt: skip
        self.optim, self.train, self.accelerator, self.classes, self.seed = optim, train, accelerator, classes, seed
        self.step = 0
        network.to(accelerator.device)
        network.train()
        freeze_batch_norm(network, train.freeze_bn)
        freeze_layers(network, train.freeze_layers)
        self.network = network
        self.ema = ModelEmaV3(network, decay=train.ema, use_warmup=True, warmup_power=0.75) if train.ema else None
        whole: nn.Module = Normalised(network, mean, std, train.channels_last).to(accelerator.device)
        self.mean, self.std = mean, std
        if train.compile:
            whole = torch.compile(whole)  # type: ignore[assignment]
        self.model, self.optimizer = accelerator.prepare(whole, create_optimizer(network, optim))

    def learn(self, micro_batches: list[Batch], schedule: Schedule) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step on this rank's micro-batches; returns (summed loss, summed correct) of its samples."""
        config, device = self.train, self.accelerator.device
        set_lr(self.optimizer, self.lr(schedule))
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for turn, batch in enumerate(micro_batches):
            batch.images = batch.images.to(device, non_blocking=True)
            batch.labels = batch.labels.to(device, non_blocking=True)
            targets = soft_targets(batch.labels, self.classes, config.label_smoothing)
            images, targets = mix(batch, targets, config, self.seed)
            last = turn == len(micro_batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                logits = self.model(images).float()
                loss = functional.cross_entropy(logits, targets)
                self.accelerator.backward(loss / len(micro_batches))
            loss_sum += loss.detach() * len(images)
            correct += (logits.detach().argmax(1) == batch.labels).sum()
        if self.optim.clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.network, self.step)
        return loss_sum, correct

    def lr(self, schedule: Schedule) -> float:
        """The learning rate of the step about to be made."""
        return self.optim.lr * lr_factor(self.optim, self.step, schedule.per_epoch, self.train.epochs)

    @property
    def best(self) -> nn.Module:
        """The network to evaluate and export: the average if one is kept."""
        return self.ema.module if self.ema is not None else self.network

    def evaluator(self) -> nn.Module:
        """`best` as a model of uint8 images. All ranks call it: they take over rank 0's BatchNorm statistics."""
        sync_buffers(self.best)
        return Normalised(self.best, self.mean, self.std, self.train.channels_last).to(self.accelerator.device)

    def save(self, folder: Path) -> None:
        sync_buffers(self.network)
        parts: dict[str, Any] = {f"rank-{rank()}": {"torch": torch.get_rng_state(), "cuda": _cuda_rng()}}
        if rank() == 0:
            parts["shared"] = {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else None,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
                "step": self.step,
                "ranks": world_size(),
            }
        checkpoint.save(folder, self.step, parts, self.train.checkpoint_keep)

    def restore(self, found: Path) -> None:
        """Go on from a checkpoint. With another number of ranks the samples stay, only dropout's draws change."""
        state = checkpoint.load(found, "shared")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if state["ranks"] == world_size():
            draws = checkpoint.load(found, f"rank-{rank()}")
            torch.set_rng_state(draws["torch"])
            if draws["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(draws["cuda"])


def fit(
    learner: Learner, batches: Iterator[Batch], schedule: Schedule, folder: Path, tracker: Tracker,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> None:  # fmt: skip
    """Train to the schedule's end. `evaluate` runs at every epoch's end; its figures join that step's record.

    Raises Interrupted after saving when a signal asked to stop, DataError when the loss is no longer finite.
    """
    config = learner.train
    progress = Progress(schedule.steps, learner.step, config.batch, "train", show=rank() == 0)
    limits = _Limits(learner, config)
    saved = time.monotonic()
    # Saving by the clock is rank 0's decision; a signal counts from any rank. Both travel with the loss.
    with Interruption() as interruption, _profiler(config, folder) as profiler, closing(progress):
        while learner.step < schedule.steps:
            began = time.perf_counter()
            micro_batches = [next(batches) for _ in range(config.accumulation)]
            progress.waited(time.perf_counter() - began)
            limits.measure(micro_batches[0])
            lr = learner.lr(schedule)
            loss_sum, correct = learner.learn(micro_batches, schedule)
            due = rank() == 0 and time.monotonic() - saved > config.checkpoint_minutes * 60
            flags = torch.tensor([float(bool(interruption.signal_name)), float(due)], device=loss_sum.device)
            sums = learner.accelerator.reduce(torch.cat([torch.stack([loss_sum, correct]), flags]), "sum").tolist()
            values: dict[str, Any] = {
                "epoch": round(learner.step / schedule.per_epoch, 4), "loss": sums[0] / config.batch,
                "top1": sums[1] / config.batch, "lr": lr,
            }  # fmt: skip
            if not torch.isfinite(torch.tensor(sums[0])):
                raise DataError(f"the loss is {sums[0]} at step {learner.step}; lower optim.lr or set optim.clip=1")
            figures = progress.step({"loss": f"{values['loss']:.3f}", "top1": f"{values['top1']:.2f}"})
            values |= figures | limits.figures(figures["images_per_second"])
            epoch_ends, paused = learner.step % schedule.per_epoch == 0, time.perf_counter()
            if epoch_ends and evaluate is not None:
                values |= evaluate()
            tracker.log(learner.step, values)
            stop = sums[2] > 0 and learner.step < schedule.steps
            if epoch_ends or stop or sums[3] > 0 or learner.step == schedule.steps:
                tracker.sync()
                learner.save(folder / "checkpoints")
                saved = time.monotonic()
            progress.paused(time.perf_counter() - paused)
            if stop:
                name = interruption.signal_name or "a signal on another rank"
                raise Interrupted(f"{folder}: stopped by {name} at step {learner.step}; the same command goes on")
            if profiler is not None:
                profiler.step()


class _Limits:
    """How close training comes to the machine: MFU against its measured matrix-product rate, and memory."""

    def __init__(self, learner: Learner, config: TrainConfig) -> None:
        self.learner, self.config = learner, config
        self.flops = self.rate = 0.0

    def measure(self, batch: Batch) -> None:
        """Once: the cost of an image (backward counted as twice the forward) and the rate of one rank's device."""
        if self.rate or rank() != 0:
            return
        image = batch.images[:1].to(self.learner.accelerator.device).float()
        self.flops = 3 * forward_flops(self.learner.network, image)
        self.rate = matmul_rate(self.learner.accelerator.device, self.config.precision) * world_size()

    def figures(self, images_per_second: float) -> dict[str, float]:
        if not self.rate:
            return {}
        memory = peak_memory_mb(self.learner.accelerator.device)
        return {"mfu": round(self.flops * images_per_second / self.rate, 4), "memory_mb": round(memory)}


def _cuda_rng() -> torch.Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_available() else None


class _profiler:
    """torch.profiler over the first `train.profile` steps; the trace opens in a browser's chrome://tracing."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.left, self.path = (config.profile if rank() == 0 else 0), folder / "profile.json"
        self.profile: Any = None

    def __enter__(self) -> "_profiler | None":
        if not self.left:
            return None
        self.profile = torch.profiler.profile(record_shapes=True)
        self.profile.__enter__()
        return self

    def step(self) -> None:
        self.left -= 1
        if self.left == 0 and self.profile is not None:
            self.__exit__()

    def __exit__(self, *args: object) -> None:
        if self.profile is not None:
            self.profile.__exit__(None, None, None)
            self.profile.export_chrome_trace(str(self.path))
            self.profile = None
