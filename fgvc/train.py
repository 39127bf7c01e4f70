"""The training loop, whatever it trains: one or many ranks, stoppable and resumable at every step."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fgvc import checkpoint
from fgvc.average import Average
from fgvc.config import LoopConfig, OptimConfig
from fgvc.device import matmul_rate, peak_memory_mb
from fgvc.distributed import rank, sum_over_ranks, sync_buffers, world_size
from fgvc.interrupt import Interrupted, Interruption
from fgvc.models import freeze_batch_norm, freeze_layers
from fgvc.optim import lr_factor, set_lr
from fgvc.progress import Progress
from fgvc.strategy import Twin, create_strategy
from fgvc.tracking import Tracker
from shards.errors import DataError

# (model, micro-batch as the loader gave it) -> (mean loss, {name: mean figure}); the same names on every rank. It
# moves the batch to the device and calls the model it is given: the one made for the ranks, not the one it was made of.
Objective = Callable[[nn.Module, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass
class Schedule:
    """How long: `steps` in all, `per_epoch` steps an epoch."""

    per_epoch: int
    steps: int

    @staticmethod
    def of(config: LoopConfig, images: int) -> "Schedule":
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
        self, network: nn.Module, whole: nn.Module, objective: Objective, optim: OptimConfig, config: LoopConfig,
        accelerator: Accelerator, found: Path | None = None,
    ) -> None:  # fmt: skip
        """network: what is optimised, averaged, saved and exported. whole: what the objective calls: the network, or a
        module around it. found: a checkpoint to go on from (of another number of ranks too: the samples stay, only
        dropout's draws change)."""
        self.objective, self.optim, self.config, self.accelerator = objective, optim, config, accelerator
        self.step, self.flops = 0, 0.0
        state = checkpoint.load(found, "shared") if found is not None else None
        if state is not None:  # before they are spread over the ranks
            network.load_state_dict(state["network"])
        self.network = network.to(accelerator.device)
        network.train()
        freeze_batch_norm(network, config.freeze_bn)
        freeze_layers(network, config.freeze_layers)
        self.twin = Twin(network)
        self.strategy = create_strategy(accelerator, config, optim)
        self.model = self.strategy.wrap(network, whole.to(accelerator.device))
        self.average = Average(self.strategy.local(), config.ema) if config.ema else None
        if found is not None and state is not None:
            self._restore(found, state)

    def learn(self, micro_batches: list[Any], schedule: Schedule) -> dict[str, torch.Tensor]:
        """One optimizer step on this rank's micro-batches; returns their mean loss and figures."""
        set_lr(self.strategy.optimizer, self.lr(schedule))
        sums: dict[str, torch.Tensor] = {}
        for turn, batch in enumerate(micro_batches):
            last = turn == len(micro_batches) - 1
            with self.strategy.forward_and_backward(last):
                with self._counted():
                    loss, figures = self.objective(self.model, batch)
                self.strategy.backward(loss / len(micro_batches), last)
            for name, value in ({"loss": loss} | figures).items():
                sums[name] = sums.get(name, 0) + value.detach()
        self.strategy.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.strategy.local(), self.step)
        return {name: value / len(micro_batches) for name, value in sums.items()}

    def lr(self, schedule: Schedule) -> float:
        """The learning rate of the step about to be made."""
        return self.optim.lr * lr_factor(self.optim, self.step, schedule.per_epoch, self.config.epochs)

    def best(self) -> nn.Module:
        """The plain network to evaluate and export, whole on every rank: the average if one is kept. All ranks call
        it: they take over rank 0's BatchNorm statistics."""
        local = self.average.tensors if self.average is not None else self.strategy.local()
        return self.twin.filled(self.strategy.full(local))

    def save(self, folder: Path) -> None:
        """All ranks call it. Weights, average and optimizer state are saved whole, by name, by rank 0: so that any
        number of ranks and any strategy can go on from them."""
        sync_buffers(self.network)
        main, strategy = rank() == 0, self.strategy
        network = strategy.full(strategy.local(), keep=main)
        average = strategy.full(self.average.tensors, keep=main) if self.average is not None else None
        optimizer = strategy.optimizer_state(keep=main)
        parts: dict[str, Any] = {f"rank-{rank()}": {"torch": torch.get_rng_state(), "cuda": _cuda_rng()}}
        if main:
            parts["shared"] = {
                "network": network,
                "optimizer": optimizer,
                "ema": average,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
                "step": self.step,
                "ranks": world_size(),
            }
        checkpoint.save(folder, self.step, parts, self.config.checkpoint_keep)

    def _restore(self, found: Path, state: dict[str, Any]) -> None:
        self.strategy.load_optimizer_state(state["optimizer"])
        if self.average is not None:
            self.average.load(self.strategy.part(state["ema"]))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if state["ranks"] == world_size():
            draws = checkpoint.load(found, f"rank-{rank()}")
            torch.set_rng_state(draws["torch"])
            if draws["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(draws["cuda"])

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Rank 0 counts the floating-point operations of its first forward pass (a multiply-add counts two)."""
        if self.flops or rank() != 0:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = float(counter.get_total_flops())


def fit(
    learner: Learner, batches: Iterator[Any], schedule: Schedule, folder: Path, tracker: Tracker,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> None:  # fmt: skip
    """Train to the schedule's end. `evaluate` runs at every epoch's end; its figures join that step's record.

    Raises Interrupted after saving when a signal asked to stop, DataError when the loss is no longer finite.
    """
    config = learner.config
    progress = Progress(schedule.steps, learner.step, config.batch, "train", show=rank() == 0)
    limits = _Limits(learner)
    saved = time.monotonic()
    # Saving by the clock is rank 0's decision; a signal counts from any rank. Both travel with the loss.
    with Interruption() as interruption, _profiler(config, folder) as profiler, closing(progress):
        while learner.step < schedule.steps:
            began = time.perf_counter()
            micro_batches = [next(batches) for _ in range(config.accumulation)]
            progress.waited(time.perf_counter() - began)
            lr = learner.lr(schedule)
            means = learner.learn(micro_batches, schedule)
            due = rank() == 0 and time.monotonic() - saved > config.checkpoint_minutes * 60
            figures, signals, clocks = _over_ranks(means, bool(interruption.signal_name), due)
            if not math.isfinite(figures["loss"]):
                raise DataError(
                    f"the loss is {figures['loss']} at step {learner.step}; lower optim.lr or set optim.clip=1"
                )
            speed = progress.step({name: f"{value:.3f}" for name, value in figures.items()})
            epoch_ends, paused = learner.step % schedule.per_epoch == 0, time.perf_counter()
            values: dict[str, Any] = {"epoch": round(learner.step / schedule.per_epoch, 4), "lr": lr}
            values |= figures | speed | limits.figures(speed["images_per_second"])
            if epoch_ends and evaluate is not None:
                values |= evaluate()
            tracker.log(learner.step, values)
            # After the last step too: what is left, to measure, may take longer than the signal's sender waits.
            stop = signals
            if epoch_ends or stop or clocks or learner.step == schedule.steps:
                tracker.sync()
                learner.save(folder / "checkpoints")
                saved = time.monotonic()
            progress.paused(time.perf_counter() - paused)
            if stop:
                name = interruption.signal_name or "a signal on another rank"
                raise Interrupted(f"{folder}: stopped by {name} at step {learner.step}; the same command goes on")
            if profiler is not None:
                profiler.step()


def _over_ranks(means: dict[str, torch.Tensor], signal: bool, due: bool) -> tuple[dict[str, float], bool, bool]:
    """Every figure's mean over the ranks, and whether any rank had a signal or a checkpoint due."""
    flags = torch.tensor([float(signal), float(due)], device=means["loss"].device)
    together = torch.cat([torch.stack([value.float() for value in means.values()]), flags])
    *sums, signals, clocks = sum_over_ranks(together).tolist()
    return {name: one / world_size() for name, one in zip(means, sums, strict=True)}, signals > 0, clocks > 0


class _Limits:
    """How close rank 0's training comes to the machine: MFU against its measured matrix-product rate, and memory."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.rate, self.steps = learner, 0.0, 0

    def figures(self, images_per_second: float) -> dict[str, float]:
        """MFU counts the backward pass as twice the forward. The rate is the best of several measurements (after 1, 2,
        4, 8, ... steps, since the machine may be busy during one), and never below what training itself reaches."""
        if rank() != 0:
            return {}
        config, device = self.learner.config, self.learner.accelerator.device
        self.steps += 1
        if self.steps & (self.steps - 1) == 0:
            self.rate = max(self.rate, matmul_rate(device, config.precision))
        reached = 3 * self.learner.flops * config.accumulation * images_per_second / config.batch
        self.rate = max(self.rate, reached)
        return {"mfu": round(reached / self.rate, 4), "memory_mb": round(peak_memory_mb(device))}


def _cuda_rng() -> torch.Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_available() else None


class _profiler:
    """torch.profiler over the first `train.profile` steps; the trace opens in a browser's chrome://tracing."""

    def __init__(self, config: LoopConfig, folder: Path) -> None:
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
