"""ddp of two networks: every rank holds everything, and gradients are averaged by one exchange before each step.

torch's DistributedDataParallel averages inside the backward pass, by hooks that count on one forward and one backward
pass of each network a step. Two networks that play against each other break that: one is differentiated through while
the other is stepped, and gradient penalties are differentiated twice. StyleGAN's own code averages in the same way
(https://github.com/NVlabs/stylegan3, training_loop.py).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import nn

from fgvc.runtime.distributed import sum_over_ranks, sync_module, world_size
from fgvc.training.optim import create_optimizer
from fgvc.training.strategies.base import COMPILE, FP16, Strategy, autocast_forward


class AveragedGradients(Strategy):
    """A local part is all of the weights."""

    cannot: ClassVar = {
        FP16: "train.precision=fp16 trains one network: the loss scale of one would be the other's; take bf16 or fp32",
        COMPILE: "train.compile=true trains one network: compiled code cannot be differentiated twice; set it to false",
    }

    def wrap(self, network: nn.Module, whole: nn.Module) -> nn.Module:
        sync_module(network)
        autocast_forward(whole, self.accelerator.device, self.config.precision)
        self.network, self.optimizer = network, create_optimizer(network, self.optim)
        return whole

    def forward_and_backward(self, last: bool) -> AbstractContextManager:
        return nullcontext()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        loss.backward()

    def step(self) -> None:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        if world_size() > 1 and gradients:
            flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
            for gradient, mean in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        if self.optim.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
