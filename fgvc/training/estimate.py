"""The memory that training a network takes on every rank, counted on a network without numbers before anything is run.

Parameters, gradients, optimizer state and average follow from the parameters; activations are the tensors that a
forward pass really saves for its backward pass, counted with torch's fake tensors, which have shapes and no memory.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
    two, four = (saved_bytes(network, config.precision, batch, size) for batch in (2, 4))
    again = computed_again(network, config.precision, size) if config.grad_checkpointing else 0
    return counted([weights(network, optim, config.ema)], {2: two, 4: four}, again)


def counted(players: Sequence[Counted], saved: dict[int, int], again: int = 0) -> Counted:
    """What several networks take that are trained side by side. saved: bytes that a step keeps for its backward pass,
    for two sizes of micro-batch: a constant (16-bit copies of the weights) and a share of every image."""
    (few, less), (many, more) = sorted(saved.items())
    share = (more - less) // (many - few)
    total = {key: sum(getattr(one, key) for one in players) for key in ("parameters", "trainable", "optimizer")}
    average = sum(one.average for one in players)
    return Counted(**total, average=average, unit=max(one.unit for one in players),
                   saved=(max(0, less - few * share), share), again=again)  # fmt: skip


def weights(network: nn.Module, optim: OptimConfig, ema: float, whole: nn.Module | None = None) -> Counted:
    """What a network takes without activations. whole: the module around it, with what stays frozen."""
    held = sum(one.nbytes for one in [*(whole or network).parameters(), *(whole or network).buffers()])
    averaged = sum(one.nbytes for one in [*network.parameters(), *network.buffers()])
    trainable = sum(one.nbytes for one in network.parameters() if one.requires_grad)
    states = 2 if optim.method == "adamw" else int(optim.momentum > 0)
    unit = max(
        (sum(one.nbytes for one in part.parameters()) for part in units(network)),
        default=sum(one.nbytes for one in network.parameters()),
    )
    return Counted(held, trainable, states * trainable, averaged if ema else 0, unit, (0, 0))


def saved_bytes(network: nn.Module, precision: str, batch: int, size: int) -> int:
    """Bytes of the tensors that a forward pass of `batch` images saves for its backward pass, each storage once,
    without the parameters themselves. network: real or on the device "meta"."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        (model,) = hollow(network)
        images = torch.empty(batch, 3, size, size)

        def forward() -> None:
            with autocast(images.device, precision):
                model(images).float()

        return saved_by(forward, [model])


def computed_again(network: nn.Module, precision: str, size: int) -> int:
    """Bytes an image that a network with checkpointed gradients computes once more at a time: what the largest of its
    checkpointed parts would save. Those are the outermost modules that are called and save nothing, and would without
    checkpoints."""
    plain: Any = copy.deepcopy(network)
    plain.set_grad_checkpointing(False)
    kept = saved_within(network, precision, 4, size)
    few, many = (saved_within(plain, precision, batch, size) for batch in (2, 4))
    parts = {name for name in many if many[name] and kept.get(name) == 0}
    inner = {name for name in parts if any(name.startswith(f"{outer}.") for outer in parts)}
    return max(((many[name] - few[name]) // 2 for name in parts - inner), default=0)


def saved_within(network: nn.Module, precision: str, batch: int, size: int) -> dict[str, int]:
    """What `saved_bytes` counts, of the forward pass of every module inside that is called, by name."""
    found: dict[str, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        (model,) = hollow(network)
        images = torch.empty(batch, 3, size, size)
        with saved_so_far([model]) as so_far, autocast(images.device, precision):

            def add(name: str, sign: int, *_: Any) -> None:
                found[name] = found.get(name, 0) + sign * so_far()

            for name, module in list(model.named_modules())[1:]:
                module.register_forward_pre_hook(partial(add, name, -1))
                module.register_forward_hook(partial(add, name, 1))
            model(images)
    return found


def hollow(*networks: nn.Module) -> Iterator[nn.Module]:
    """Copies whose tensors are made anew and hold nothing: for use under a FakeTensorMode. A network that stands in
    two of them is one in the copies too."""
    fakes: dict[int, Any] = {}
    for network in networks:
        for one in network.parameters():
            if id(one) not in fakes:
                fakes[id(one)] = nn.Parameter(torch.empty(one.shape, dtype=one.dtype), one.requires_grad)
        fakes |= {id(one): torch.empty(one.shape, dtype=one.dtype) for one in network.buffers() if id(one) not in fakes}
    for network in networks:
        yield copy.deepcopy(network, fakes)


def saved_by(forward: Callable[[], Any], networks: Sequence[nn.Module]) -> int:
    """Bytes of the tensors that `forward` saves for backward passes, each storage once, without the networks' own
    parameters."""
    with saved_so_far(networks) as so_far:
        forward()
    return so_far()


@contextmanager
def saved_so_far(networks: Sequence[nn.Module]) -> Iterator[Callable[[], int]]:
    """While entered, the bytes that `saved_by` counts, of all forward passes up to the call."""
    found: dict[int, Any] = {}  # kept: the address of a storage that is gone would come back
    total = 0
    own = {one.untyped_storage()._cdata for network in networks for one in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in found:
            found[storage._cdata] = storage
            total += 0 if storage._cdata in own else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: total


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
