"""The memory that training a network takes on every rank, counted on a network without numbers before anything is run.

Parameters, gradients, optimizer state and average follow from the parameters; activations are the tensors that a
forward pass really saves for its backward pass, counted with torch's fake tensors, which have shapes and no memory.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fgvc.runtime.device import autocast
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.strategies.fsdp import units

ZERO_BUCKET = 80_000_000  # bytes that DeepSpeed exchanges at a time (fgvc/training/strategies/zero.py)


@dataclass(frozen=True)
class Counted:
    """Bytes of one rank that holds everything. unit: of the largest layer that zero3 and fsdp gather. saved: what a
    forward pass keeps for any micro-batch, and for every image of it. again: what checkpointed gradients compute once
    more at a time, an image."""

    parameters: int
    trainable: int
    optimizer: int
    average: int
    unit: int
    saved: tuple[int, int]
    again: int = 0

    def activations(self, micro_batch: int) -> int:
        return self.saved[0] + (self.saved[1] + self.again) * micro_batch


def count(network: nn.Module, optim: OptimConfig, config: LoopConfig, size: int) -> Counted:
    """network: on the device "meta", in training mode, with its frozen parameters marked. size: side of its input in
    pixels."""
    parameters = sum(one.nbytes for one in network.parameters())
    trainable = sum(one.nbytes for one in network.parameters() if one.requires_grad)
    buffers = sum(one.nbytes for one in network.buffers())
    states = 2 if optim.method == "adamw" else int(optim.momentum > 0)
    unit = max((sum(one.nbytes for one in part.parameters()) for part in units(network)), default=parameters)
    # A network's saved tensors are a constant (16-bit copies of its weights) and a share of every image.
    two, four = (saved_bytes(network, config.precision, batch, size) for batch in (2, 4))
    again = 0
    if config.grad_checkpointing:
        plain: Any = copy.deepcopy(network)
        plain.set_grad_checkpointing(False)
        whole = saved_bytes(plain, config.precision, 4, size) - saved_bytes(plain, config.precision, 2, size)
        again = whole // 2 // max(1, len(list(getattr(network, "blocks", [network]))))
    return Counted(
        parameters + buffers, trainable, states * trainable, parameters + buffers if config.ema else 0, unit,
        (2 * two - four, (four - two) // 2), again,
    )  # fmt: skip


def saved_bytes(network: nn.Module, precision: str, batch: int, size: int) -> int:
    """Bytes of the tensors that a forward pass of `batch` images saves for its backward pass, each storage once,
    without the parameters themselves. network: real or on the device "meta"."""
    found: dict[int, Any] = {}  # kept: the address of a storage that is gone would come back

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes: dict[int, Any] = {
            id(one): nn.Parameter(torch.empty(one.shape, dtype=one.dtype), one.requires_grad)
            for one in network.parameters()
        }
        fakes |= {id(one): torch.empty(one.shape, dtype=one.dtype) for one in network.buffers()}
        model = copy.deepcopy(network, fakes)
        images = torch.empty(batch, 3, size, size)
        own = {one.untyped_storage()._cdata for one in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(images.device, precision):
            model(images).float()
        return sum(storage.nbytes() for key, storage in found.items() if key not in own)


def per_rank(counted: Counted, strategy: str, ranks: int, micro_batch: int, accumulation: int) -> dict[str, int]:
    """What a rank holds at its fullest, in bytes, by kind, under a strategy on so many ranks."""
    strategy = strategy if ranks > 1 else "ddp"  # one rank has nothing to share out
    cuts_all, cuts_gradients = strategy in ("fsdp", "zero3"), strategy in ("fsdp", "zero2", "zero3")
    zero = strategy.startswith("zero")
    part = ranks if cuts_all else 1
    exchanged = {"ddp": counted.trainable if ranks > 1 else 0, "fsdp": 0}.get(strategy, ZERO_BUCKET)
    return {
        "parameters": counted.parameters // part,
        "gradients": counted.trainable // (ranks if cuts_gradients else 1),
        # ZeRO steps on a copy of the weights that it trains.
        "optimizer": (counted.optimizer + (counted.trainable if zero else 0)) // (1 if strategy == "ddp" else ranks),
        "average": counted.average // part,
        "exchange": exchanged + (2 * counted.unit if cuts_all else 0),
        "activations": counted.activations(micro_batch),
        "micro-batch": micro_batch,
        "accumulation": accumulation,
    }


def peak(held: dict[str, int]) -> int:
    """Bytes at the fullest moment. Of a step's last micro-batch, activations go as gradients come: one or the other,
    unless gradients are there already from micro-batches before."""
    kept = held["parameters"] + held["optimizer"] + held["average"] + held["exchange"]
    both = held["gradients"] + held["activations"]
    return kept + (both if held["accumulation"] > 1 else max(held["gradients"], held["activations"]))
