"""Counting floating-point operations by torch's own formulas, gradients of gradients included."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


# torch's own, and attention as it runs on a CPU, which torch leaves out.
FORMULAS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
}

_final = 0  # how many `no_backward_follows` are entered


@contextmanager
def no_backward_follows() -> Iterator[None]:
    """For a part of a forward pass that nothing is learnt through, such as an attack: it is not run backward later."""
    global _final
    _final += 1
    try:
        yield
    finally:
        _final -= 1


class FlopCounter(TorchDispatchMode):
    """While entered, `total` adds up the operations of all that runs (a multiply-add counts two), and `final` those of
    them inside `no_backward_follows`.

    As torch.utils.flop_counter.FlopCounterMode counts, without its hooks on modules, under which torch.autograd.grad
    fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.final = 0.0

    @property
    def with_backward(self) -> float:
        """The operations of these and of the backward pass that is to follow, which counts as twice the forward."""
        return 3 * (self.total - self.final) + self.final

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in FORMULAS and func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        result = func(*args, **kwargs)
        if func._overloadpacket in FORMULAS:
            operations = FORMULAS[func._overloadpacket](*args, **kwargs, out_val=result)
            self.total += operations
            self.final += operations if _final else 0
        return result
