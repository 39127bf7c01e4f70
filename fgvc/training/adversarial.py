"""Two networks that play against each other, in phases: a GAN's generator and discriminator, say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from fgvc.runtime.distributed import rank
from fgvc.runtime.flops import FlopCounter
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.learner import Means
from fgvc.training.player import Player
from fgvc.training.schedule import Schedule
from fgvc.training.state import load_state, restore_rank, state_of
from fgvc.training.strategies.create import check_strategy

# (name -> network as it is called, micro-batch as the loader gave it) -> (mean loss, {name: mean figure}).
PhaseLoss = Callable[[Mapping[str, nn.Module], Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Phase:
    """One player's move: its weights take a step on `loss`, in every `every`-th step of the run; the others' weights
    stay and are only differentiated through (what their forward passes keep, such as BatchNorm's statistics, moves as
    ever). Its loss is recorded as `loss_<name>`, its other figures as `<figure>_<name>`."""

    name: str
    player: str
    loss: PhaseLoss
    every: int = 1


@dataclass(frozen=True)
class PlayerSetup:
    """What makes a player: the network, the module around it that losses call, how it is optimized, and the decay of
    its average (0: none; a discriminator's is of no use)."""

    network: nn.Module
    whole: nn.Module
    optim: OptimConfig
    ema: float = 0.0


class AdversarialLearner:
    """Players that step in turns, each with its own optimizer, average and state (as StyleGAN's phases)."""

    def __init__(
        self, setups: Mapping[str, PlayerSetup], phases: Sequence[Phase], config: LoopConfig, schedule: Schedule,
        accelerator: Accelerator, found: Path | None = None,
    ) -> None:  # fmt: skip
        """found: a checkpoint to resume from. Raises UserError for what two networks cannot be trained with, ValueError
        for phases that do not fit the players."""
        check_strategy(config, networks=len(setups))
        if strangers := {phase.player for phase in phases} - setups.keys():
            raise ValueError(f"phases of no player: {', '.join(sorted(strangers))}; there are {', '.join(setups)}")
        if len({phase.name for phase in phases}) < len(phases) or not any(phase.every == 1 for phase in phases):
            raise ValueError("phases need names of their own, and one of them has to move in every step")
        self.config, self.accelerator, self.device, self.phases = config, accelerator, accelerator.device, phases
        state = load_state(found)
        self.players = {
            name: Player(
                setup.network, setup.whole, setup.optim, config, schedule, accelerator,
                state["networks"][name] if state else None, ema=setup.ema, networks=len(setups),
            )
            for name, setup in setups.items()
        }  # fmt: skip
        self._models = {name: player.model for name, player in self.players.items()}
        self.step, self._flops = 0, dict[str, float]()
        if found is not None and state is not None:
            self.step = state["step"]
            restore_rank(found, state, accelerator)

    @property
    def lr(self) -> float:
        """The first phase's player's."""
        return self.players[self.phases[0].player].lr(self.step)

    @property
    def flops(self) -> float:
        """Of a mean step."""
        moves = sum(self._flops.get(phase.name, 0.0) / phase.every for phase in self.phases)
        return moves * self.config.accumulation

    def learn(self, micro_batches: list[Any]) -> dict[str, torch.Tensor]:
        figures: dict[str, torch.Tensor] = {}
        for phase in self.phases:
            if self.step % phase.every == 0:
                figures |= self._move(phase, micro_batches)
        self._let_move(*self.players.values())
        self.step += 1
        return figures

    def eval_network(self, name: str) -> nn.Module:
        """The plain network of a player to evaluate and export, as `Player.eval_network`."""
        return self.players[name].eval_network()

    def state(self) -> dict[str, Any]:
        return state_of(self.step, self.players, self.accelerator)

    def _move(self, phase: Phase, micro_batches: list[Any]) -> dict[str, torch.Tensor]:
        mover, means = self.players[phase.player], Means(len(micro_batches))
        self._let_move(mover)
        for turn, batch in enumerate(micro_batches):
            last = turn == len(micro_batches) - 1
            with mover.strategy.forward_and_backward(last), self._counted(phase):
                loss, parts = phase.loss(self._models, batch)
                mover.strategy.backward(loss / len(micro_batches), last)
            means.add({f"{name}_{phase.name}": value for name, value in ({"loss": loss} | parts).items()})
        mover.make_step(self.step)
        return means.means

    def _let_move(self, *movers: Player) -> None:
        """Have gradients computed for these players' weights alone."""
        for player in self.players.values():
            for parameter in player.trainable:
                parameter.requires_grad_(player in movers)

    @contextmanager
    def _counted(self, phase: Phase) -> Iterator[None]:
        """Rank 0 counts the floating-point operations of each phase's first micro-batch."""
        if phase.name in self._flops or rank() != 0:
            yield
            return
        with FlopCounter() as counter:
            yield
        self._flops[phase.name] = counter.total
