"""fsdp: weights, gradients and optimizer state in parts, gathered layer by layer (FSDP2, torch's fully_shard).

torch's own function rather than accelerate's plug-in, which does not run on CPU ranks: one path everywhere.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fgvc.runtime.distributed import world_size
from fgvc.training.optim import create_optimizer
from fgvc.training.strategies.base import (
    DDP_ONLY,
    OBJECTIVE_PARAMETERS,
    TWO_NETWORKS,
    Strategy,
    Tensors,
    make_ready,
)

SMALLEST_UNIT = 1 << 16  # parameters; a gather for fewer costs more than it saves


class FullyShard(Strategy):
    """A local part is this rank's shard of every parameter along its first dimension."""

    cuts_weights = True
    cannot: ClassVar = DDP_ONLY | {
        TWO_NETWORKS: "train.strategy=fsdp trains one network; take ddp for two",
        OBJECTIVE_PARAMETERS: "train.strategy=fsdp cannot train an objective's own parameters; take ddp",
    }

    def wrap(self, network: nn.Module, whole: nn.Module) -> nn.Module:
        make_ready(network, whole, self.accelerator.device, self.config.precision)
        mesh = init_device_mesh(self.accelerator.device.type, (world_size(),))
        for unit in units(network):
            fully_shard(unit, mesh=mesh)
        fully_shard(network, mesh=mesh)
        assert isinstance(network, FSDPModule)
        self.network, self.optimizer = network, create_optimizer(network, self.optim)
        return whole

    def forward_and_backward(self, last: bool) -> AbstractContextManager:
        self.network.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        loss.backward()

    def step(self) -> None:
        if self.optim.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def local(self) -> Tensors:
        return {
            name: one.to_local() if isinstance(one, DTensor) else one for name, one in self.network.state_dict().items()
        }

    def whole(self, local: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        for name, live in self.network.state_dict().items():
            one = local[name]
            if isinstance(live, DTensor):
                shards = DTensor.from_local(
                    one, live.device_mesh, live.placements, run_check=False, shape=live.shape, stride=live.stride()
                )
                one = shards.full_tensor()
            yield name, one

    def part(self, full: Tensors) -> Tensors:
        live = self.network.state_dict()
        return {
            name: self._share(one, live[name]).to_local() if isinstance(live[name], DTensor) else one
            for name, one in full.items()
        }

    def _whole(self, value: Any) -> Any:
        return value.full_tensor() if isinstance(value, DTensor) else value

    def _share(self, value: Any, parameter: Any) -> Any:
        if not torch.is_tensor(value) or not value.ndim:
            return super()._share(value, parameter)
        # src_data_rank=None: every rank has the whole tensor and cuts its own shard, nothing is sent.
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def units(network: nn.Module) -> list[nn.Module]:
    """The modules whose weights are gathered together, inner ones first: the members of lists and sequences (blocks,
    stages) that are large enough."""
    found = []
    for module in network.modules():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            for member in module:
                big = sum(one.numel() for one in member.parameters()) >= SMALLEST_UNIT
                if big and not isinstance(member, nn.ModuleList):  # a ModuleList has no forward to gather in
                    found.append(member)
    return list(dict.fromkeys(reversed(found)))
