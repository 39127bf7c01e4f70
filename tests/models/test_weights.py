"""Weights as other programs save them, at other sizes, and the files the suite writes itself."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from places import weights_file

from fgvc.models.config import ModelConfig
from fgvc.models.export import export, read_about
from fgvc.models.timm import create_model, fetch_hub_weights, input_size
from fgvc.models.weights import load_weights
from shards.errors import UserError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return timm.create_model("test_resnet", num_classes=7).state_dict()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


WRAPPED: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "torch ddp": lambda state: {"state_dict": prefixed("module.", state), "epoch": 3},
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "compiled ddp": lambda state: {"state_dict": prefixed("module._orig_mod.", state)},
    "ddp compiled": lambda state: {"model": prefixed("_orig_mod.module.", state)},
    "tutorial": lambda state: {"epoch": 5, "model_state_dict": state, "optimizer_state_dict": {}, "loss": 0.3},
    "lightning": lambda state: {"state_dict": prefixed("net.model.", state) | {"loss.weight": torch.ones(3)}},
    "averaged": lambda state: prefixed("module.", state) | {"n_averaged": torch.tensor(4)},
    "average only": lambda state: {"model_ema": state},
    "nested": lambda state: {"model": {"state_dict": state}},
    "timm's": lambda state: {"arch": "x", "state_dict": state, "args": argparse.Namespace(lr=0.1, opt="sgd")},
    "half": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    "no counts": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_of_other_programs_load(kind: str, state: State, tmp_path: Path) -> None:
    torch.save(WRAPPED[kind](state), tmp_path / "weights.pth")
    model = timm.create_model("test_resnet", num_classes=3)
    head = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("fc.")}
    load_weights(model, tmp_path / "weights.pth")
    for key, value in model.state_dict().items():
        expected = head.get(key, state[key])
        assert torch.allclose(value, expected, atol=0 if kind != "half" else 1e-3), key


def test_an_average_is_preferred_and_said(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    average = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "both.pth")
    model = timm.create_model("test_resnet", num_classes=7)
    with caplog.at_level(logging.WARNING):
        load_weights(model, tmp_path / "both.pth", head=True)
    assert torch.equal(model.state_dict()["fc.weight"], average["fc.weight"])
    assert "holds state_dict_ema and state_dict; taking state_dict_ema" in caplog.text


class Code:
    """A type that no weights file may hold."""


def test_what_does_not_load_is_shown_by_its_first_keys(state: State, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    cases = {
        "does not fit test_resnet: it lacks": prefixed("encoder.", state),
        "no state dict in it; its first keys: 'epoch', 'loss'": {"epoch": 3, "loss": 0.5},
        "no state dict in it; it holds a list": [torch.ones(2)],
        "more than tensors and is not opened": {"state_dict": state, "args": argparse.Namespace(code=Code())},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(UserError, match=message) as caught:
            load_weights(model, tmp_path / "weights.pth")
        assert "\n" not in str(caught.value)
        if message.startswith("does not fit"):
            assert f"the file's first keys: '{next(iter(content))}'" in str(caught.value)
    # Allowed while that file was read, and only then.
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("size", [112, 224])
def test_vit_at_another_size_equals_timms_own_loading(size: int) -> None:
    file = weights_file("vit_small_patch14_saliency_fp16.safetensors")
    name = "vit_small_patch14_dinov2"
    config = ModelConfig(name, str(file), {"img_size": size})
    ours = create_model(config, 0)
    assert input_size(ours) == size
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(file), "num_classes": 0}, num_classes=0,
        img_size=size,
    )  # fmt: skip
    expected = theirs.state_dict()
    assert expected["pos_embed"].shape[1] == 1 + (size // 14) ** 2
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


def test_positions_and_patches_are_resampled(tmp_path: Path) -> None:
    source = timm.create_model("test_vit", num_classes=2, img_size=96, patch_size=16)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    size = {"img_size": 64, "patch_size": 8}
    model = timm.create_model("test_vit", num_classes=2, **size)
    load_weights(model, tmp_path / "vit.pth", head=True)
    overlay = {"file": str(tmp_path / "vit.pth"), "num_classes": 2}
    theirs = timm.create_model("test_vit", num_classes=2, pretrained=True, pretrained_cfg_overlay=overlay, **size)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.head.weight, source.head.weight)
    assert model.pos_embed.shape[1] == 65 > source.pos_embed.shape[1]
    with pytest.raises(UserError, match="does not fit test_vit"):
        load_weights(timm.create_model("test_vit", num_classes=2, embed_dim=32), tmp_path / "vit.pth")


def test_input_size_is_that_of_the_built_model() -> None:
    for name, size in (("test_vit", 96), ("maxvit_rmlp_pico_rw_256", 192)):
        assert input_size(create_model(ModelConfig(name, "none"), 2)) == {"test_vit": 160}.get(name, 256)
        assert input_size(create_model(ModelConfig(name, "none", {"img_size": size}), 2)) == size
    assert input_size(create_model(ModelConfig("vit_tiny_patch16_224", "none", {"img_size": [64, 32]}), 2)) == 32


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for ask in (lambda: create_model(ModelConfig("test_vit", "hub"), 2), lambda: fetch_hub_weights("test_vit2")):
        with pytest.raises(UserError, match=r"not cached here and the hub does not answer; .*model.weights=FILE"):
            ask()


def test_equal_tensors_make_equal_files(tmp_path: Path, state: State) -> None:
    facts = {f"key {number}": [number, {"b": 1, "a": 2}] for number in range(20)}
    export(tmp_path / "one", state, facts)
    export(tmp_path / "other", dict(reversed(state.items())), dict(reversed(facts.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert read_about(tmp_path / "one") == facts
