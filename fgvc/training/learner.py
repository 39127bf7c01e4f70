"""What the loop trains: anything that makes steps and saves itself; and the usual kind, one network, one objective."""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn

from fgvc.models.layers import eval_mode
from fgvc.runtime.distributed import rank, world_size
from fgvc.runtime.flops import FlopCounter
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.player import Player
from fgvc.training.schedule import Schedule
from fgvc.training.state import load_state, restore_rank, state_of, unchanged_draws
from fgvc.training.strategies.create import check_strategy

# (model, micro-batch as the loader gave it) -> (mean loss, {name: mean figure}); the same names on every rank. It moves
# the batch to the device. The model is the bare network in its normalisation, free to be called several times. An
# objective that is a module has its trainable parameters and its buffers trained, averaged and saved with the network's
# (buffers are changed in place); parts whose parameters are all frozen (a teacher) stay as they are, and are not saved.
Objective = Callable[[nn.Module, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]


class Learner(Protocol):
    """What `fit` asks of whatever it trains."""

    step: int  # steps made so far
    device: torch.device

    @property
    def lr(self) -> float:
        """The learning rate of the step about to be made."""

    @property
    def flops(self) -> float:
        """Floating-point operations of a step on rank 0, forward and backward; 0 before the first."""

    def learn(self, micro_batches: list[Any]) -> dict[str, torch.Tensor]:
        """One step on this rank's micro-batches; mean figures, the losses among them named `loss...`."""

    def state(self) -> dict[str, Any]:
        """This rank's parts of a checkpoint (fgvc/training/checkpoint.py), copied to the CPU. All ranks call it."""


class SupervisedLearner:
    """One network that minimises one objective."""

    def __init__(
        self, network: nn.Module, whole: nn.Module, objective: Objective, optim: OptimConfig, config: LoopConfig,
        schedule: Schedule, accelerator: Accelerator, found: Path | None = None,
    ) -> None:  # fmt: skip
        """network: what is optimized, averaged, saved and exported. whole: what the objective calls: the network, or a
        module around it. found: a checkpoint to resume from (of another number of ranks too: the samples stay, only
        dropout's draws change)."""
        self.config, self.accelerator, self.device = config, accelerator, accelerator.device
        own = _state_of(objective, accelerator.device)
        if own is not None:
            check_strategy(config, objective_parameters=any(True for _ in own.parameters()))
            network.add_module(OBJECTIVE, own)
            _mark_as_new(network)
        state = load_state(found)
        self._step = _Step(whole, objective)
        self.player = Player(
            network, self._step, optim, config, schedule, accelerator,
            state["networks"]["model"] if state else None, ema=config.ema,
        )  # fmt: skip
        self.step, self._flops = 0, 0.0
        self._whole = whole if config.compile else None  # not compiled yet
        self.memory: dict[str, Any] = {}  # plain values, the same on every rank, that checkpoints hold too
        if found is not None and state is not None:
            self.step, self.memory = state["step"], state.get("memory", {})
            restore_rank(found, state, accelerator)

    @property
    def lr(self) -> float:
        return self.player.lr(self.step)

    @property
    def flops(self) -> float:
        return self._flops * self.config.accumulation

    def learn(self, micro_batches: list[Any]) -> dict[str, torch.Tensor]:
        if self._whole is not None:
            self._compile(self._whole, micro_batches[0])
        strategy, figures = self.player.strategy, Means(len(micro_batches))
        for turn, batch in enumerate(micro_batches):
            last = turn == len(micro_batches) - 1
            with strategy.forward_and_backward(last):
                with self._counted():
                    loss, parts = self.player.model(batch)
                strategy.backward(loss / len(micro_batches), last)
            figures.add({"loss": loss} | parts)
        self.player.make_step(self.step)
        self.step += 1
        return figures.means

    def eval_network(self) -> nn.Module:
        """The plain network to evaluate and export, whole on every rank, without the objective's own parameters."""
        network = self.player.eval_network()
        if hasattr(network, OBJECTIVE):
            delattr(network, OBJECTIVE)
            settings: Any = network.pretrained_cfg
            network.pretrained_cfg = settings | {"classifier": settings["classifier"][:-1]}
        return network

    @property
    def rehearse(self) -> Callable[[Any], None] | None:
        """Make one forward and backward pass with what a step needs beside it, to see whether there is memory enough;
        the run cannot go on afterwards. None where a pass takes all ranks."""
        return None if self.player.strategy.cuts_weights and world_size() > 1 else self._rehearse

    def _rehearse(self, batch: Any) -> None:
        parameters, optimizer = self.player.trainable, self.player.strategy.optimizer
        optimizer.zero_grad()
        state = 2 if isinstance(optimizer, torch.optim.AdamW) else 1
        held = [torch.zeros_like(one) for one in parameters for _ in range(0 if optimizer.state else state)]
        loss, _ = self._step(batch)  # without the strategy: nothing is exchanged
        torch.autograd.grad(loss, parameters, allow_unused=True)
        del held

    def state(self) -> dict[str, Any]:
        return state_of(self.step, {"model": self.player}, self.accelerator, self.memory)

    def _compile(self, whole: nn.Module, batch: Any) -> None:
        """Compile the network before its first step. What counts operations keeps torch from compiling whatever it has
        seen, so they are counted before, in a pass that leaves no trace; every rank makes it."""
        objective = copy.deepcopy(self._step.objective)
        with unchanged_draws(), eval_mode(whole), torch.enable_grad(), FlopCounter() as counter:
            objective(whole, copy.copy(batch))
        self._flops = counter.with_backward
        whole.compile(backend=os.environ.get("FGVC_COMPILE_BACKEND", "inductor"))
        self._whole = None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Rank 0 counts the floating-point operations of its first forward pass (a multiply-add counts two)."""
        if self._flops or rank() != 0:
            yield
            return
        with FlopCounter() as counter:
            yield
        self._flops = counter.with_backward


class Means:
    """Figures of a step's micro-batches, added up and divided."""

    def __init__(self, count: int) -> None:
        self._count, self._sums = count, dict[str, torch.Tensor]()

    def add(self, figures: dict[str, torch.Tensor]) -> None:
        for name, value in figures.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach()

    @property
    def means(self) -> dict[str, torch.Tensor]:
        return {name: value / self._count for name, value in self._sums.items()}


OBJECTIVE = "objective"  # the name of an objective's parameters in the network they are trained with


class _Step(nn.Module):
    """What a strategy wraps: a forward pass is the objective's, however often that calls the network inside."""

    def __init__(self, whole: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.whole, self.objective = whole, objective

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.objective(self.whole, batch)


def _state_of(objective: Objective, device: torch.device) -> nn.Module | None:
    """A module that holds, by name, the very parameters and buffers of an objective that a run has to train and save:
    all but those of parts whose parameters are all frozen. None where there are none."""
    if not isinstance(objective, nn.Module):
        return None
    objective.to(device)
    state, given = nn.Module(), set[str]()
    for name, module in objective.named_modules():
        parameters = list(module.parameters())
        if any(name.startswith(f"{one}.") for one in given):
            continue
        if name and parameters and not any(parameter.requires_grad for parameter in parameters):
            given.add(name)
            continue
        prefix = f"{name}." if name else ""
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                state.register_parameter(f"{prefix}{key}".replace(".", "_"), parameter)
        for key, buffer in module.named_buffers(recurse=False):
            state.register_buffer(f"{prefix}{key}".replace(".", "_"), buffer)
    return state if state.state_dict() else None


def _mark_as_new(network: Any) -> None:
    """Give the objective's parameters the classifier's learning rate: both begin at random."""
    settings = getattr(network, "pretrained_cfg", None) or {}
    classifier = settings.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    network.pretrained_cfg = dict(settings) | {"classifier": (*names, OBJECTIVE)}
