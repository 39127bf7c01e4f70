"""Parameter groups against timm's own, family by family; an optimizer's state taken up again."""

from typing import Any, cast

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.optim import create_optimizer, parameter_groups
from fgvc.training.strategies.ddp import Ddp
from shards.errors import UserError

FAMILIES = [
    "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224", "convnext_atto",
    "resnet18",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_rates_and_decays_equal_timms(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    ours = parameter_groups(model, OptimConfig(layer_decay=0.7, weight_decay=0.05, head_multiplier=1.0))
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    theirs = param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=spared, layer_decay=0.7)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def settings(groups: list[dict]) -> dict[str, tuple[float, float]]:
        return {
            names[id(parameter)]: (pytest.approx(group["lr_scale"]), group["weight_decay"])
            for group in groups
            for parameter in group["params"]
        }

    found, expected = settings(ours), settings(theirs)
    assert found.keys() == expected.keys() == set(names.values())
    assert [key for key in found if found[key] != expected[key]] == []


def test_positions_and_tokens_do_not_decay() -> None:
    model = timm.create_model("test_vit", num_classes=5)
    decays = {
        name: group["weight_decay"] for group in parameter_groups(model, OptimConfig()) for name in group["names"]
    }
    assert decays["pos_embed"] == decays["cls_token"] == 0.0
    assert decays["patch_embed.proj.weight"] > 0.0


@pytest.mark.parametrize("name", ["poolformer_s12", "pit_ti_224"])
def test_layers_that_timm_does_not_name_are_not_decayed_in_silence(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    with pytest.raises(UserError, match=r"optim\.layer_decay=0\.7: timm does not say which layers .* set it to 1"):
        parameter_groups(model, OptimConfig(layer_decay=0.7))
    assert {group["lr_scale"] for group in parameter_groups(model, OptimConfig())} == {1.0, 10.0}


@pytest.mark.parametrize(("fused", "place"), [(True, "meta"), (None, "cpu")])
def test_a_resumed_adam_counts_its_steps_where_its_kernel_reads_them(fused: bool | None, place: str) -> None:
    """As torch's own load_state_dict has it; the device "meta" stands for a GPU, which `fused` takes for granted."""
    network = nn.Linear(2, 3, device="meta")
    strategy = Ddp(cast(Any, None), LoopConfig(), OptimConfig(method="adamw"))
    strategy.optimizer = create_optimizer(network, strategy.optim)
    strategy.optimizer.defaults["fused"] = fused
    saved = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3, 2), "exp_avg_sq": torch.zeros(3, 2)}
    strategy.load_optimizer_state({"weight": saved})
    state = strategy.optimizer.state[network.weight]
    assert state["step"].device.type == place
    assert state["exp_avg"].device.type == "meta"


def test_a_resumed_optimizer_has_the_weights_memory_layout() -> None:
    """fsdp saves channels last of all as channels first; so does a run with train.channels_last=false."""
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    strategy = Ddp(cast(Any, None), LoopConfig(), OptimConfig(method="adamw"))
    strategy.optimizer = create_optimizer(network, strategy.optim)
    saved = torch.rand(4, 3, 3, 3)
    strategy.load_optimizer_state({"weight": {"step": torch.tensor(7.0), "exp_avg": saved, "exp_avg_sq": saved}})
    found = strategy.optimizer.state[network.weight]["exp_avg"]
    assert found.stride() == network.weight.stride() != saved.stride()
    assert torch.equal(found, saved)
