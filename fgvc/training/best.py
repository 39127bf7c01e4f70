"""The best epoch of a run, by a figure of held-out images: its weights, and when to stop waiting for a better one.

All of it follows from metrics.jsonl, which a resume cuts back to its checkpoint, and from weights files beside the
checkpoints: one for the best epoch as of every checkpoint that a run may resume from. So a kill at any moment changes
nothing, and learners and checkpoints know nothing of it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from fgvc.models.export import export
from fgvc.runtime.distributed import broadcast_object, rank
from fgvc.runtime.run_folder import RunFolder
from fgvc.training.schedule import Schedule
from shards.errors import UserError


class BestEpoch:
    """Remembers the figure of every epoch (more is better, the first of equals wins) and the best one's weights."""

    def __init__(
        self, folder: RunFolder, schedule: Schedule, figure: str, *, patience: int, checkpoints: int
    ) -> None:  # fmt: skip
        """schedule: of the run; it ends here once the last `patience` epochs were no better than one before them (0:
        never). figure: its key in metrics.jsonl. checkpoints: how many of the last epochs a run may resume from. All
        ranks call all methods."""
        self.folder, self.schedule, self.figure = folder.checkpoints, schedule, figure
        self.patience, self.checkpoints = patience, checkpoints
        found = _measured(folder.metrics, figure) if rank() == 0 else []
        self.epochs: list[tuple[int, float]] = broadcast_object(found)  # (step at the epoch's end, figure)
        self._end_schedule()

    def add(self, step: int, value: float, network: nn.Module) -> None:
        """Take in an epoch that ended with `step`, before its checkpoint is valid; `network` is what was measured."""
        self.epochs.append((step, broadcast_object(value)))
        self._end_schedule()
        if rank() != 0:
            return
        if self._best() == step:
            export(self._file(step), network.state_dict(), {})
        # Each checkpoint that is there, and the one being written, ends an epoch or lies in one after it.
        reach = range(max(1, len(self.epochs) - self.checkpoints), len(self.epochs) + 1)
        needed = {self._file(self._best(count)) for count in reach}
        for file in self.folder.glob("best-*.safetensors"):
            if file not in needed:
                file.unlink()

    def restore(self, network: nn.Module, device: torch.device) -> dict[str, Any]:
        """Put the best epoch's weights in place of a network's; what result.json says of it. The last weights stay, and
        nothing is said, where the run ended before its first epoch did.

        Raises UserError when the weights are gone.
        """
        if not self.epochs:
            return {}
        steps = [step for step, _ in self.epochs]
        best = self._best()
        number, file = steps.index(best) + 1, self._file(best)
        if not file.is_file():
            raise UserError(
                f"{file}: missing, the weights of epoch {number}; delete {self.folder.parent} and start again"
            )
        state = {name: tensor.to(device) for name, tensor in load_file(file).items()}
        network.load_state_dict(state, assign=True)  # in their place: the tensors there may be those being trained
        return {"epoch": number, "of": len(steps), "step": best, self.figure: dict(self.epochs)[best]}

    def _best(self, count: int | None = None) -> int:
        """The step of the best of the first `count` epochs (None: of all)."""
        return max(self.epochs[:count], key=lambda epoch: epoch[1])[0]

    def _end_schedule(self) -> None:
        steps = [step for step, _ in self.epochs]
        if self.patience and steps and len(steps) - 1 - steps.index(self._best()) >= self.patience:
            self.schedule.steps = steps[-1]

    def _file(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.safetensors"


def _measured(metrics: Path, figure: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    return [(row["step"], row[figure]) for row in rows if figure in row]
