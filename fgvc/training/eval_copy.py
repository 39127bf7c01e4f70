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
        blocks = blocks_of(network)
        inside = {module for block in blocks for module in block.modules()}
        for module in network.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
            if module not in inside:
                _bring(module, device)
        sync_buffers(network)
        for block in blocks:
            _stream(block, device)
        return network


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The units that are brought to a device as a whole: the outermost of those whose inner units hold less than half
    of their weights (a residual block, whose downsampling may be a unit too, but no stage of such blocks)."""
    found, blocks, inside = set(units(network)), list[nn.Module](), set[nn.Module]()
    for module in network.modules():  # outer ones first
        if module not in found or module in inside:
            continue
        inner = {weight for unit in found & set(module.modules()) - {module} for weight in unit.parameters()}
        if 2 * sum(weight.numel() for weight in inner) < sum(weight.numel() for weight in module.parameters()):
            blocks.append(module)
            inside.update(module.modules())
    return blocks


def _stream(block: nn.Module, device: torch.device) -> None:
    """Have a block's weights brought to `device` before it is called, and dropped from there after."""
    kept: list[tuple[nn.Module, dict[str, nn.Parameter | None]]] = []

    def bring(*_: Any) -> None:
        kept.extend((module, _bring(module, device)) for module in block.modules())

    def drop(*_: Any) -> None:
        for module, parameters in kept:
            module._parameters.update(parameters)
        kept.clear()

    block.register_forward_pre_hook(bring)
    block.register_forward_hook(drop, always_call=True)


def _bring(module: nn.Module, device: torch.device) -> dict[str, nn.Parameter | None]:
    """Put copies on `device` in place of a module's own weights, which are returned."""
    own = dict(module._parameters)
    for name, parameter in own.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.detach().to(device, non_blocking=True), False)
    return own
