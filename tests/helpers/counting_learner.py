"""The smallest thing that `fit` trains: it counts, and writes down what happens when."""

from pathlib import Path
from typing import Any

import torch

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import Tracker


class Counting:
    """A learner whose loss is `losses[step - 1]` after each step; its only weight counts the steps."""

    lr, flops, device = 0.1, 0.0, torch.device("cpu")

    def __init__(self, losses: list[float], step: int = 0) -> None:
        self.losses, self.step, self.events = losses, step, list[str]()

    def learn(self, micro_batches: list[Any]) -> dict[str, torch.Tensor]:
        self.step += 1
        self.events.append(f"learn {self.step}")
        return {"loss": torch.tensor(self.losses[self.step - 1])}

    def state(self) -> dict[str, Any]:
        self.events.append(f"save {self.step}")
        return {"shared": {"step": self.step, "weight": torch.tensor(float(self.step))}}


class Noting(Tracker):
    """A tracker that writes down, among a learner's events, when it is given a step's values."""

    def __init__(self, folder: Path, learner: Counting) -> None:
        super().__init__(TrackConfig(wandb="disabled"), folder, "job", "name", {}, step=learner.step)
        self.learner = learner

    def log(self, step: int, values: dict[str, Any], always: bool = True) -> None:
        self.learner.events.append(f"log {step}")
        super().log(step, values, always)
