"""A plain copy of a network for evaluation and export."""

import copy
from typing import Any

import torch
from torch import nn

from fgvc.runtime.distributed import sync_buffers
from fgvc.training.strategies.base import Tensors
from fgvc.training.strategies.fsdp import units


class EvalCopy:
    """A plain copy of a network, to be filled with whole weights for evaluation and export. Holds none by itself."""

    def __init__(self, network: nn.Module) -> None:
        hollow = {
            id(one): nn.Parameter(torch.empty_like(one, device="meta"), one.requires_grad)
            for one in network.parameters()
        }
        self._network = copy.deepcopy(network, hollow)

    def filled(self, weights: Tensors) -> nn.Module:
        """The copy with these very tensors as weights (not copies); all ranks take over rank 0's buffers."""
        network = copy.deepcopy(self._network)
        network.load_state_dict(weights, assign=True)
        sync_buffers(network)
        return network

    def streamed(self, weights: Tensors, device: torch.device) -> nn.Module:
        """As `filled`, of weights in the host's memory. A block's weights come to `device` only while it is called,
        without gradients; what no block holds stays there. So a network that fits no device is evaluated, and ranks
        need not call it equally often, as they would one that is cut into parts."""
        network = copy.deepcopy(self._network)
        network.load_state_dict(weights, assign=True)
        blocks = innermost(units(network))
        in_blocks = {parameter for block in blocks for parameter in block.parameters()}
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
            for parameter in module.parameters(recurse=False):
                if parameter not in in_blocks:
                    parameter.data = parameter.data.to(device)
        sync_buffers(network)
        for block in blocks:
            _stream(block, device)
        return network


def innermost(modules: list[nn.Module]) -> list[nn.Module]:
    """Those of some modules that hold none of the others."""
    outer = {one for one in modules if any(other in modules for other in one.modules() if other is not one)}
    return [one for one in modules if one not in outer]


def _stream(block: nn.Module, device: torch.device) -> None:
    """Have a block's weights brought to `device` before it is called, and dropped from there after."""
    kept: dict[nn.Parameter, torch.Tensor] = {}

    def bring(*_: Any) -> None:
        kept.update({parameter: parameter.data for parameter in block.parameters()})
        with torch.inference_mode(False):  # a parameter takes no tensor that was made in that mode
            for parameter, host in kept.items():
                parameter.data = host.to(device, non_blocking=True)

    def drop(*_: Any) -> None:
        for parameter, host in kept.items():
            parameter.data = host

    block.register_forward_pre_hook(bring)
    block.register_forward_hook(drop, always_call=True)
