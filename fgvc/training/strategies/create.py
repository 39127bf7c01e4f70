"""Joining the ranks, and the strategy that a config asks for."""

import datetime
import logging
import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from fgvc.runtime.device import emulated_on_cpu, tune_cpu_memory
from fgvc.runtime.distributed import TIMEOUT, check_world, rank, world_size
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.strategies.averaged import AveragedGradients
from fgvc.training.strategies.base import COMPILE, FP16, OBJECTIVE_PARAMETERS, TWO_NETWORKS, Strategy
from fgvc.training.strategies.ddp import Ddp
from fgvc.training.strategies.fsdp import FullyShard
from shards.errors import UserError

log = logging.getLogger(__name__)


def create_strategy(accelerator: Accelerator, config: LoopConfig, optim: OptimConfig, networks: int = 1) -> Strategy:
    """The strategy a config asks for, for one of `networks` networks that are trained side by side."""
    return _kind(config, networks, world_size())(accelerator, config, optim)


def check_strategy(config: LoopConfig, networks: int = 1, objective_parameters: bool = False) -> None:
    """Raise UserError for what a run asks of its strategy that it cannot do. Needs no ranks to have been joined."""
    kind = _kind(config, networks, int(os.environ.get("WORLD_SIZE", "1")))
    asked = {
        FP16: config.precision == "fp16", COMPILE: config.compile, TWO_NETWORKS: networks > 1,
        OBJECTIVE_PARAMETERS: objective_parameters,
    }  # fmt: skip
    for what, wanted in asked.items():
        if wanted and what in kind.cannot:
            raise UserError(kind.cannot[what])


def _kind(config: LoopConfig, networks: int, ranks: int) -> type[Strategy]:
    """One rank has nothing to share out: it trains as ddp does."""
    if ranks > 1 and config.strategy == "fsdp":
        return FullyShard
    if ranks > 1 and config.strategy != "ddp":
        from fgvc.training.strategies.zero import Zero  # imports DeepSpeed's side of accelerate: seconds

        return Zero
    return Ddp if networks == 1 else AveragedGradients


def create_accelerator(
    precision: str, deterministic: bool, strategy: str = "ddp", timeout_minutes: float = 0
) -> Accelerator:
    """Join the ranks that the environment announces (RANK, WORLD_SIZE, ...) or run alone.

    Raises UserError where ranks, their numbers or the strategy came out otherwise than asked for: accelerate and
    DeepSpeed fall back to one rank, or to ddp, without a word.
    """
    timeout = datetime.timedelta(minutes=timeout_minutes) if timeout_minutes else TIMEOUT
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    on_cpu = not torch.cuda.is_available()
    arguments: dict[str, Any] = {"cpu": on_cpu, "mixed_precision": {"fp32": "no"}.get(precision, precision)}
    # Without a backend, every DeepSpeed rank on a CPU is rank 0 of 1; with cpu=True, DeepSpeed is ddp.
    backend = {"backend": "gloo"} if on_cpu and not alone else {}
    if strategy.startswith("zero") and not alone:
        from fgvc.training.strategies.zero import create_plugin

        os.environ.pop("ACCELERATE_USE_CPU", None)
        arguments = {"deepspeed_plugin": create_plugin(int(strategy[-1]))}
    arguments["kwargs_handlers"] = [
        # DDP rebuilds its buckets after the first step, which changes the order of summation; with
        # find_unused_parameters it never does, so that a resumed run adds in the same order.
        DistributedDataParallelKwargs(find_unused_parameters=deterministic),
        InitProcessGroupKwargs(timeout=timeout, **backend),
    ]
    accelerator = Accelerator(**arguments)
    if precision == "fp16" and on_cpu:  # accelerate would train in fp32 there, without a word
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
    check_world()
    is_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if is_zero != ("deepspeed_plugin" in arguments) or accelerator.num_processes != world_size():
        raise UserError(
            f"train.strategy={strategy} came out as {accelerator.distributed_type.value} on "
            f"{accelerator.num_processes} rank(s); unset the ACCELERATE_ variables of the environment"
        )
    if on_cpu:
        tune_cpu_memory()
        if emulated_on_cpu(precision) and rank() == 0:
            log.warning(
                "precision %s: this CPU has no instructions for it and takes many times as long as for fp32; choose "
                "that", precision,
            )  # fmt: skip
    return accelerator
