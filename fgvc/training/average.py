"""The weights' moving average, kept where the weights are: each rank averages the part it holds."""

import torch


class Average:
    """An exponential moving average of named tensors, decaying as timm's ModelEmaV3 does with warm-up: `decay` at
    most, and 1 - step ** -0.75 before (timm's power for runs of less than a million steps; its default is 2/3). It goes
    element by element, so the average of a part is that part of it."""

    def __init__(self, tensors: dict[str, torch.Tensor], decay: float) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Take in the weights after `step` steps. Whole numbers (BatchNorm's counters) are copied."""
        decay = min(self.decay, 1 - step**-0.75)
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in floats], [tensors[n] for n in floats], weight=1.0 - decay)
        for name in self.tensors.keys() - set(floats):
            self.tensors[name].copy_(tensors[name])

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
