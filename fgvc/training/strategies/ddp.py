"""ddp: every rank holds everything, gradients are averaged (torch's DistributedDataParallel, through accelerate)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fgvc.training.optim import create_optimizer
from fgvc.training.strategies.base import Strategy


class Ddp(Strategy):
    """A local part is all of the weights. Of two networks `AveragedGradients` takes its place."""

    def wrap(self, network: nn.Module, whole: nn.Module) -> nn.Module:
        self.network, self.optimizer = network, create_optimizer(network, self.optim)
        self.model, self._stepper = self.accelerator.prepare(whole, self.optimizer)
        return self.model

    def forward_and_backward(self, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.accelerator.backward(loss)

    def step(self) -> None:
        if self.optim.clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.optim.clip)
        self._stepper.step()
        self._stepper.zero_grad()
