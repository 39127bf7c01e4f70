"""How close training comes to the machine's limits, and where its time goes."""

from pathlib import Path
from typing import Any

import torch

from fgvc.runtime.device import matmul_rate, peak_memory_mb
from fgvc.runtime.distributed import rank
from fgvc.training.config import LoopConfig
from fgvc.training.learner import Learner


class Utilization:
    """How close rank 0's training comes to the machine: MFU against its measured matrix-product rate, and memory."""

    def __init__(self, learner: Learner, config: LoopConfig) -> None:
        self.learner, self.config, self.rate, self.steps = learner, config, 0.0, 0

    @property
    def measures_next(self) -> bool:
        """Whether the next figures bring a measurement, for which the device must be idle."""
        return (self.steps + 1) & self.steps == 0

    def figures(self, images_per_second: float) -> dict[str, float]:
        """The rate is the best of several measurements (after 1, 2, 4, 8, ... steps, since the machine may be busy
        during one), and never below what training itself reaches."""
        measures, device = self.measures_next, self.learner.device
        self.steps += 1
        if rank() != 0:
            return {}
        if measures:
            self.rate = max(self.rate, matmul_rate(device, self.config.precision))
        reached = self.learner.flops * images_per_second / self.config.batch
        self.rate = max(self.rate, reached)
        return {"mfu": round(reached / self.rate, 4), "memory_mb": round(peak_memory_mb(device))}


class Profiler:
    """torch.profiler over the first `train.profile` steps; the trace opens in a browser's chrome://tracing."""

    def __init__(self, config: LoopConfig, folder: Path) -> None:
        self.left, self.path = (config.profile if rank() == 0 else 0), folder / "profile.json"
        self.profile: Any = None

    def __enter__(self) -> "Profiler | None":
        if not self.left:
            return None
        self.profile = torch.profiler.profile(record_shapes=True)
        self.profile.__enter__()
        return self

    def step(self) -> None:
        self.left -= 1
        if self.left == 0 and self.profile is not None:
            self.__exit__()

    def __exit__(self, *args: object) -> None:
        if self.profile is not None:
            self.profile.__exit__(None, None, None)
            self.profile.export_chrome_trace(str(self.path))
            self.profile = None
