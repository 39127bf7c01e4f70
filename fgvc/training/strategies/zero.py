"""zero1, zero2, zero3: DeepSpeed's ZeRO through accelerate. Imported only when a config asks for it.

Checkpoints are not DeepSpeed's own (those are pickles, tied to the number of ranks): whole tensors are gathered by
name and put back, as under the other strategies (fgvc/training/strategies/base.py).
"""

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from accelerate import DeepSpeedPlugin
from torch import nn

from fgvc.runtime.distributed import world_size
from fgvc.training.host import hosted
from fgvc.training.optim import create_optimizer
from fgvc.training.strategies.base import (
    DDP_ONLY,
    OBJECTIVE_PARAMETERS,
    TWO_NETWORKS,
    Strategy,
    Tensors,
    make_ready,
)
from shards.errors import UserError

BUCKET = 20_000_000  # elements exchanged at a time: 80 MB, where DeepSpeed's default takes 2 GB


def create_plugin(stage: int) -> DeepSpeedPlugin:
    """accelerate's plug-in; to be called before the Accelerator is made. Raises UserError without DeepSpeed."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # before the import, which looks for one itself
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(f"train.strategy=zero{stage} needs DeepSpeed ({error}): pip install deepspeed") from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # A kernel for inference on CPUs that DeepSpeed compiles at its first start (a minute, with ninja); not used here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 1,  # the real one is set in Zero.wrap
            "zero_optimization": {
                "stage": stage,
                "reduce_bucket_size": BUCKET,
                "allgather_bucket_size": BUCKET,
                "stage3_prefetch_bucket_size": BUCKET,
            },
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1 << 60,
        }
    )


class Zero(Strategy):
    """zero1: the optimizer's state in parts; zero2: gradients too; zero3: weights too.

    A local part is all of the weights under zero1 and zero2. Under zero3 it is this rank's slice of every flattened
    parameter, padded to the same length on every rank.
    """

    cannot: ClassVar = DDP_ONLY | {
        TWO_NETWORKS: "train.strategy=zero1 to zero3 train one network; take ddp for two",
        OBJECTIVE_PARAMETERS: "train.strategy=zero1 to zero3 cannot train an objective's own parameters; take ddp",
    }

    def wrap(self, network: nn.Module, whole: nn.Module) -> nn.Module:
        self.stage = int(self.config.strategy[-1])
        make_ready(network, whole, self.accelerator.device, self.config.precision)
        self.network, self.optimizer = network, create_optimizer(network, self.optim)
        self._named = super()._optimized()  # DeepSpeed replaces what the groups hold by flat tensors
        settings = self.accelerator.state.deepspeed_plugin.deepspeed_config
        parts = world_size() * self.config.accumulation
        settings["train_micro_batch_size_per_gpu"] = self.config.batch // parts
        settings["gradient_accumulation_steps"] = self.config.accumulation
        settings["gradient_clipping"] = self.optim.clip
        self.accelerator.gradient_accumulation_steps = self.config.accumulation
        self.engine, _ = self.accelerator.prepare(whole, self.optimizer)
        if self.engine.zero_optimization_stage() != self.stage or self.engine.dp_world_size != world_size():
            raise UserError(
                f"train.strategy={self.config.strategy}: DeepSpeed runs stage {self.engine.zero_optimization_stage()} "
                f"on {self.engine.dp_world_size} of {world_size()} ranks; check DeepSpeed's and accelerate's variables"
            )
        return self.engine

    def forward_and_backward(self, last: bool) -> AbstractContextManager:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)  # the loop has divided it already
        if not last:
            self.engine.step()  # counts the micro-batch, no more

    def step(self) -> None:
        self.engine.step()

    def local(self) -> Tensors:
        if self.stage < 3:
            return self.network.state_dict()
        slices = {name: one.ds_tensor.data for name, one in self._parameters()}
        return self.network.state_dict() | slices

    @property
    def cuts_weights(self) -> bool:  # type: ignore[override]
        return self.stage == 3

    def whole(self, local: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        cut = dict(self._parameters()) if self.stage == 3 else {}
        for name, one in local.items():
            yield name, _joined(one, cut[name]) if name in cut else one

    def part(self, full: Tensors) -> Tensors:
        if self.stage < 3:
            return full
        return full | {name: _slice(full[name], parameter) for name, parameter in self._parameters()}

    def _parameters(self) -> list[tuple[str, Any]]:
        """Every name of the state_dict that is a parameter: a shared one has several."""
        return list(self.network.named_parameters(remove_duplicate=False))

    def optimizer_state(self, keep: bool) -> dict[str, dict[str, Any]]:
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        self._link()
        flat = self._flat()[0]
        own = self.optimizer.state[flat]
        state: dict[str, dict[str, Any]] = {}
        for name, parameter in self._named:
            values: dict[str, Any] = {}
            for key, value in own.items():  # in the same order on every rank: each takes part in every exchange
                if not torch.is_tensor(value) or value.shape != flat.shape:
                    one = copy.deepcopy(value)  # Adam's step, one for every parameter
                elif self.stage < 3:
                    one = safe_get_full_optimizer_state(parameter, key)
                else:
                    one = _joined(safe_get_local_optimizer_state(parameter, key), parameter)
                values |= hosted([(key, one)], keep)
            if keep:
                state[name] = values
        return state

    def load_optimizer_state(self, state: dict[str, dict[str, Any]]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not state:
            return
        like = state[self._named[0][0]]
        weights = [key for key, value in like.items() if torch.is_tensor(value) and value.ndim]
        for flat in self._flat():
            self.optimizer.state[flat] = {
                key: torch.zeros_like(flat) if key in weights else self._share(value, flat)
                for key, value in like.items()
            }
        self._link()
        for name, parameter in self._named:
            for key in weights:
                value = state[name][key].to(self.accelerator.device)
                if self.stage < 3:
                    safe_set_full_optimizer_state(parameter, value, key)
                else:
                    safe_set_local_optimizer_state(parameter, _slice(value, parameter), key)

    def _link(self) -> None:
        """zero1 and zero2: tell the parameters where their optimizer state lies. DeepSpeed does so after the first
        group's first step, when the other groups have none yet."""
        if self.stage < 3:
            from deepspeed.utils import lazy_init_hp_params_optimizer_state

            for parameters, flat in zip(self.engine.optimizer.bit16_groups, self._flat(), strict=True):
                lazy_init_hp_params_optimizer_state(parameters, flat, self.optimizer.state)

    def _flat(self) -> list[torch.Tensor]:
        """The flat fp32 tensors that the optimizer really steps on."""
        optimizer = self.engine.optimizer
        return optimizer.fp32_partitioned_groups_flat if self.stage == 3 else optimizer.single_partition_of_fp32_groups


def _joined(local: torch.Tensor, parameter: Any) -> torch.Tensor:
    """zero3: every rank's slice of a parameter, put together in its shape."""
    whole = local.new_empty(local.numel() * world_size())
    torch.distributed.all_gather_into_tensor(whole, local.contiguous().view(-1))
    return whole[: parameter.ds_numel].view(parameter.ds_shape)


def _slice(full: torch.Tensor, parameter: Any) -> torch.Tensor:
    """zero3: this rank's slice of a parameter's whole tensor, zeros where the padding is."""
    size = parameter.ds_tensor.numel()
    start = torch.distributed.get_rank() * size
    mine = full.reshape(-1)[start : start + size].to(parameter.ds_tensor.device)
    return nn.functional.pad(mine, (0, size - mine.numel()))
