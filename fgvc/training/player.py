"""One network that is trained: its weights on the ranks, its optimizer and its average."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from fgvc.models.layers import freeze_batch_norm, freeze_layers
from fgvc.runtime.distributed import sync_buffers
from fgvc.training.average import Average
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.eval_copy import EvalCopy
from fgvc.training.host import hosted
from fgvc.training.schedule import Schedule, lr_factor, peak_lr, set_lr
from fgvc.training.strategies.create import create_strategy


class Player:
    """A network with its strategy, optimizer, average and state. A classifier's run has one, a GAN's two."""

    def __init__(
        self, network: nn.Module, whole: nn.Module, optim: OptimConfig, config: LoopConfig, schedule: Schedule,
        accelerator: Accelerator, state: dict[str, Any] | None = None, *, ema: float, networks: int = 1,
    ) -> None:  # fmt: skip
        """network: what is optimized, averaged, saved and exported. whole: the module around it whose forward pass is
        differentiated; `self.model` is that module as the strategy runs it. state: of `self.state`, to resume from,
        under any number of ranks and any strategy. ema: decay of its average (0: none). networks: how many are trained
        side by side."""
        self.optim, self.config, self.schedule = optim, config, schedule
        if state is not None:  # before the weights are spread over the ranks
            network.load_state_dict(state["weights"])
        self.network, self.device = network.to(accelerator.device), accelerator.device
        network.train()
        freeze_batch_norm(network, config.freeze_bn)
        freeze_layers(network, config.freeze_layers)
        self.trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._eval_copy = EvalCopy(network)
        self.strategy = create_strategy(accelerator, config, optim, networks)
        self.model = self.strategy.wrap(network, whole.to(accelerator.device))
        self.average = Average(self.strategy.local(), ema) if ema else None
        self.moves = 0  # steps of this player, which may be more or fewer than the run's
        if state is not None:
            self.moves = state["moves"]
            self.strategy.load_optimizer_state(state["optimizer"])
            if self.average is not None:
                self.average.load(self.strategy.part(state["average"]))

    def lr(self, step: int) -> float:
        """The learning rate of the step about to be made, after `step` others."""
        factor = lr_factor(self.optim, step, self.schedule.per_epoch, self.config.epochs)
        return peak_lr(self.optim, self.config.batch) * factor * self.schedule.lr_scale

    def make_step(self, step: int) -> None:
        """Step on the accumulated gradients, in step `step` of the run (from 0), and move the average."""
        set_lr(self.strategy.optimizer, self.lr(step))
        self.strategy.step()
        self.moves += 1
        if self.average is not None:
            self.average.update(self.strategy.local(), self.moves)

    def eval_network(self) -> nn.Module:
        """The plain network to evaluate and export, whole on every rank: the average if one is kept. All ranks call
        it: they take over rank 0's BatchNorm statistics. Where the strategy cuts weights into parts it lies in the
        host's memory, and its layers come to the device as they are called."""
        local = self.average.tensors if self.average is not None else self.strategy.local()
        whole = self.strategy.whole(local)
        if not self.strategy.cuts_weights:
            return self._eval_copy.filled(dict(whole))
        weights = hosted(whole, keep=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the copies are under way
        return self._eval_copy.streamed(weights, self.device)

    def state(self, keep: bool) -> dict[str, Any]:
        """Weights, average and optimizer state, whole, by name and on the CPU, so that any number of ranks and any
        strategy can resume from them. All ranks call it; one with keep=False gets nothing worth keeping."""
        sync_buffers(self.network)
        strategy = self.strategy
        weights = hosted(strategy.whole(strategy.local()), keep)
        average = hosted(strategy.whole(self.average.tensors), keep) if self.average is not None else None
        optimizer = strategy.optimizer_state(keep)
        return {"weights": weights, "average": average, "optimizer": optimizer, "moves": self.moves}
