"""What the machine can do: how fast its products are, and which precisions it only imitates."""

import logging
import time
from collections.abc import Callable

import pytest
import torch

from fgvc.runtime.device import emulated_on_cpu, matmul_rate
from fgvc.training.strategies import create

CPU = torch.device("cpu")


def test_an_imitated_precision_is_slow_and_is_found_out_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not emulated_on_cpu("fp32")
    sides: list[int] = []
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **more: sides.append(shape[0]) or draw(*shape, **more))
    exact = matmul_rate(CPU, "fp32")
    assert 1e8 < exact < 1e15
    assert sides == [256, 512, 1024, 2048][: len(sides)]
    began = time.perf_counter()
    half = matmul_rate(CPU, "bf16")
    assert time.perf_counter() - began < 30  # five products of 768 alone took 7 s where bf16 is imitated
    if emulated_on_cpu("bf16"):
        assert half < exact


@pytest.mark.parametrize("imitated", [True, False])
def test_a_run_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, any_precision: Callable[[], None], imitated: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(create, "emulated_on_cpu", lambda precision: imitated and precision == "bf16")
    with caplog.at_level(logging.WARNING):
        create.create_accelerator("bf16", False)
    assert ("precision bf16: this CPU has no instructions" in caplog.text) == imitated
