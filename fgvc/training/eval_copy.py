"""A plain copy of a network for evaluation and export."""

import copy

import torch
from torch import nn

from fgvc.runtime.distributed import sync_buffers
from fgvc.training.strategies.base import Tensors


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
