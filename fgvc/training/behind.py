"""A step's figures, read while the device is at the next step: reading them at once would stop it in every step."""

import time

import torch

from fgvc.runtime.distributed import sum_over_ranks, world_size
from fgvc.training.host import to_host


class StepFigures:
    """Means over the ranks of a step's figures, and on how many ranks each of some flags was set. All ranks make it;
    the sums travel in one exchange and one small copy, which nobody waits for before `read`.

    finished: when the step was done (time.perf_counter), known once it is read.
    """

    def __init__(self, step: int, lr: float, means: dict[str, torch.Tensor], *flags: bool) -> None:
        self.step, self.lr, self._names = step, lr, list(means)
        values = torch.stack([value.detach().float() for value in means.values()])
        # Filled on the device: a tensor made of Python's numbers would be copied there, and waited for.
        together = torch.cat([values, *(values.new_full((1,), float(flag)) for flag in flags)])
        self._sums = to_host(sum_over_ranks(together))
        self._copied: torch.cuda.Event | None = None
        if together.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        self.finished = time.perf_counter()

    def read(self) -> tuple[dict[str, float], list[int]]:
        """The figures and the flags' counts; waits for the step to be done."""
        if self._copied is not None:
            self._copied.synchronize()
            self.finished = time.perf_counter()
        sums = self._sums.tolist()
        count = len(self._names)
        figures = {name: total / world_size() for name, total in zip(self._names, sums[:count], strict=True)}
        return figures, [round(flag) for flag in sums[count:]]
