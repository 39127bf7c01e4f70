"""How weights, gradients and optimizer state lie on the ranks: what every strategy does for the loop.

The loop does the same under each of them, with weights in fp32 and the forward pass in train.precision. What a
checkpoint holds is the same too: whole tensors by name, so that a run resumes with other ranks or another strategy.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import nn

from fgvc.runtime.device import autocast
from fgvc.runtime.distributed import sync_module
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.host import hosted

Tensors = dict[str, torch.Tensor]


# What a run may ask for that not every strategy can do.
FP16, COMPILE, TWO_NETWORKS, OBJECTIVE_PARAMETERS = "fp16", "compile", "two networks", "objective with parameters"
DDP_ONLY = {
    FP16: "train.precision=fp16 works with train.strategy=ddp only",
    COMPILE: "train.compile=true works with train.strategy=ddp only",
}


class Strategy(ABC):
    """A local part is what a rank holds of the weights, by the names of the network's state_dict: all of it where a
    strategy does not say otherwise."""

    cuts_weights = False  # whether a rank holds only a part of the weights
    cannot: ClassVar[dict[str, str]] = {}  # what it cannot do (of the names above) -> one line for the user

    network: nn.Module
    optimizer: torch.optim.Optimizer  # the plain one: `set_lr` works on its groups

    def __init__(self, accelerator: Accelerator, config: LoopConfig, optim: OptimConfig) -> None:
        self.accelerator, self.config, self.optim = accelerator, config, optim

    @abstractmethod
    def wrap(self, network: nn.Module, whole: nn.Module) -> nn.Module:
        """Spread `network` over the ranks and make its optimizer; returns what the objective calls."""

    @abstractmethod
    def forward_and_backward(self, last: bool) -> AbstractContextManager:
        """What a micro-batch's passes run in; gradients are exchanged in the last one of a step."""

    @abstractmethod
    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradients of a micro-batch's loss."""

    @abstractmethod
    def step(self) -> None:
        """Clip, make the step, drop the gradients."""

    def local(self) -> Tensors:
        """This rank's part of the weights and buffers, live."""
        return self.network.state_dict()

    def whole(self, local: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole tensors of every rank's `local` parts, one put together after another, so that a device need not
        hold them all. All ranks iterate to the end."""
        yield from local.items()

    def part(self, full: Tensors) -> Tensors:
        """This rank's part of whole tensors: the inverse of `whole`."""
        return full

    def optimizer_state(self, keep: bool) -> dict[str, dict[str, Any]]:
        """Parameter name -> the optimizer's whole tensors for it (Adam: exp_avg, exp_avg_sq, step), on the CPU."""
        state = {}
        for name, parameter in self._optimized():
            if parameter in self.optimizer.state:
                values = self.optimizer.state[parameter].items()
                state[name] = hosted(((key, self._whole(value)) for key, value in values), keep)
        return state if keep else {}

    def load_optimizer_state(self, state: dict[str, dict[str, Any]]) -> None:
        for name, parameter in self._optimized():
            if name in state:
                self.optimizer.state[parameter] = {
                    key: self._share(value, parameter) for key, value in state[name].items()
                }

    def _optimized(self) -> list[tuple[str, nn.Parameter]]:
        groups = self.optimizer.param_groups
        return [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]

    def _whole(self, value: Any) -> Any:
        return value

    def _share(self, value: Any, parameter: torch.Tensor) -> Any:
        """This rank's share of a state value, on the parameter's device and in its memory layout, whatever that was
        where the value was saved: one kernel that steps all weights (`fused`) takes no other. Adam's `step`, a number,
        is where torch keeps it: on the CPU, but for such a kernel."""
        if not torch.is_tensor(value) or (not value.ndim and not self.optimizer.defaults["fused"]):
            return copy.deepcopy(value)
        if not value.ndim:
            return value.to(parameter.device, copy=True)
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def make_ready(network: nn.Module, whole: nn.Module, device: torch.device, precision: str) -> None:
    """What ddp and accelerate do by themselves, for the strategies that cut weights into parts: rank 0's weights
    everywhere (in the layout that can be cut), and mixed precision inside `whole`'s forward."""
    sync_module(network)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    autocast_forward(whole, device, precision)


def autocast_forward(module: nn.Module, device: torch.device, precision: str) -> None:
    """Run a module's forward pass in mixed precision, with its outputs in fp32; fp32 changes nothing."""
    if precision != "fp32":
        module.forward = convert_outputs_to_fp32(autocast(device, precision)(module.forward))
