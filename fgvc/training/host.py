"""Copies of tensors in the host's memory."""

from collections.abc import Iterable
from typing import Any

import torch


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU that later changes do not touch. From a GPU it is under way into pinned memory when this
    returns: synchronize before reading it."""
    if not tensor.is_cuda:
        return tensor.detach().clone()
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor.detach(), non_blocking=True)


def hosted(values: Iterable[tuple[str, Any]], keep: bool) -> dict[str, Any]:
    """Copies on the CPU of named tensors that are made one after another; plain values as they are. All are made even
    where none is kept, since making one may take every rank."""
    return {name: to_host(value) if torch.is_tensor(value) else value for name, value in values if keep}
