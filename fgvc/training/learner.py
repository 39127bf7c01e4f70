"""All that changes while training, and one step of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fgvc.models.layers import freeze_batch_norm, freeze_layers
from fgvc.runtime.distributed import rank, sync_buffers, world_size
from fgvc.training import checkpoint
from fgvc.training.average import Average
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.eval_copy import Twin
from fgvc.training.schedule import Schedule, lr_factor, set_lr
from fgvc.training.strategies.create import create_strategy

# (model, micro-batch as the loader gave it) -> (mean loss, {name: mean figure}); the same names on every rank. It
# moves the batch to the device and calls the model it is given: the one made for the ranks, not the one it was made of.
Objective = Callable[[nn.Module, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]


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


def _cuda_rng() -> torch.Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_available() else None
