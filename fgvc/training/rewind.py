"""What happens when training breaks: back to the last valid checkpoint, at a lower learning rate, a few times at most.

A run of days should not end because of one bad batch, nor continue silently as if nothing had been. PaLM's authors went
back about a hundred steps at each spike of the loss (https://arxiv.org/abs/2204.02311, section 5.1).
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from fgvc.runtime.distributed import broadcast_object, rank
from fgvc.training.checkpoint import latest_valid, load
from shards.errors import UserError
from shards.files import write_json

log = logging.getLogger(__name__)
FILE = "rewinds.json"
FACTOR = 0.5


class Diverged(UserError):
    """Training broke. Raised on all ranks at the same step: by the loop, by what is measured, by an objective's guard.

    advice: what a user may change so that it does not.
    """

    def __init__(self, reason: str, advice: str = "lower optim.lr or set optim.clip=1") -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason, self.advice = reason, advice


@dataclass(frozen=True)
class Rewind:
    """reason: what broke, and when. step: after which training began again. lr_scale: of the learning rate since."""

    reason: str
    step: int
    lr_scale: float


def drop_broken(folder: Path) -> None:
    """Delete the newest checkpoints as long as their weights are not finite: one may have been written after the very
    step that broke them, whose own loss was still a number. Rank 0 calls it."""
    while (newest := latest_valid(folder)) is not None:
        networks = load(newest, "shared").get("networks", {}).values()
        if all(_are_finite(network["weights"].values()) for network in networks):
            return
        log.warning("%s: holds weights that are not finite; using the one before it", newest)
        shutil.rmtree(newest)


def check_weights(network: nn.Module, step: int) -> None:
    """Raise Diverged where a network's weights are not finite: the last step of a run has no next one whose loss would
    show what it did."""
    if not _are_finite(network.parameters()):
        raise Diverged(f"weights are not finite after step {step}")


def _are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(one).all()) for one in tensors if one.is_floating_point())


class Rewinds:
    """Those of one run, kept in its folder, so that a resumed run goes on at the lowered rate."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        found = json.loads(self._path.read_text()) if rank() == 0 and self._path.is_file() else []
        self.made = [Rewind(**values) for values in broadcast_object(found)]

    @property
    def lr_scale(self) -> float:
        """The factor on every learning rate."""
        return FACTOR ** len(self.made)

    def add(self, error: Diverged, step: int, limit: int) -> Rewind:
        """Count one more, back to `step`. Raises UserError when there were `limit` of them already."""
        if len(self.made) >= limit:
            times = f" after {len(self.made)} returns to a checkpoint, each at half the learning rate" if limit else ""
            raise UserError(f"{error.reason}{times}; {error.advice}")
        rewind = Rewind(error.reason, step, self.lr_scale * FACTOR)
        self.made.append(rewind)
        if rank() == 0:
            write_json(self._path, self.record)
            log.warning("%s: back to step %d, the learning rate times %g", rewind.reason, step, rewind.lr_scale)
        return rewind

    @property
    def record(self) -> list[dict]:
        """As result.json holds them."""
        return [asdict(rewind) for rewind in self.made]
