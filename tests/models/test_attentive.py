"""An attentive probe: the backbone stays as it is, and what is exported is a plain network of timm's."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_runs import small_run

from fgvc.models.attentive import freeze_all_but_pool, with_attention
from fgvc.models.config import ModelConfig
from fgvc.models.timm import create_model
from jobs.cli import main
from shards.errors import UserError
from shards.manifest import Manifest

VIT = ["model.name=test_vit", "model.kwargs={img_size: 32}", "train.method=attentive", "train.mixup=0"]


def test_only_pool_and_head_are_trained() -> None:
    network = create_model(with_attention(ModelConfig("test_vit", "none", {"img_size": 32})), 5)
    freeze_all_but_pool(network)
    trained = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"attn_pool", "head"}
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(one.grad is None for name, one in network.named_parameters() if name.startswith("blocks"))


def test_a_run_leaves_the_backbone_and_exports_a_plain_network(guide: Manifest, tmp_path: Path) -> None:
    start = timm.create_model("test_vit", num_classes=9, img_size=32)  # weights without such a pooling
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    words = [*VIT, f"model.weights={tmp_path / 'start.safetensors'}", "data.folds=4", "evaluate_test=false"]
    assert main(small_run(guide, tmp_path, "run", *words)) == 0
    folder = tmp_path / "classify/run"
    found = load_file(folder / "model.safetensors")
    plain = timm.create_model("test_vit", num_classes=4, img_size=32, global_pool="map")
    fresh = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    plain.load_state_dict(found)
    kept = [name for name in start.state_dict() if not name.startswith("head")]
    assert all(torch.equal(found[name], start.state_dict()[name]) for name in kept)
    assert not torch.equal(found["attn_pool.latent"], fresh["attn_pool.latent"])
    again = ["evaluate", f"weights={folder / 'model.safetensors'}", f"data.shards={guide.folder}", "name=again"]
    assert main([*again, f"runs_dir={tmp_path}", "split=held_out", "data.folds=4"]) == 0
    result = json.loads((folder / "result.json").read_text())
    measured = json.loads((tmp_path / "evaluate/again/result.json").read_text())
    assert measured["held_out"]["top1"] == result["val"]["top1"]
    # What it learnt is kept where another run starts from it.
    kwargs = {"img_size": 32, "global_pool": "map"}
    other = create_model(ModelConfig("test_vit", str(folder / "model.safetensors"), kwargs), 7)
    assert torch.equal(other.get_parameter("attn_pool.latent"), found["attn_pool.latent"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.name=test_resnet", "model.kwargs={}"], "for timm's vision transformers (vit_*)"),
        (["train.head_start=probe"], "its head sees what a new attention pools"),
        (["train.attention_crops=true"], "its head sees what a new attention pools"),
    ],
)
def test_mistakes(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(small_run(guide, tmp_path, "wrong", *VIT, *words)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_only_a_new_pool_may_be_missing_from_a_file(tmp_path: Path) -> None:
    """test_vit3 is pooled so by default, as SigLIP's networks are; a file without its pool is another network's."""
    state = timm.create_model("test_vit3", num_classes=0).state_dict()
    save_file({k: v for k, v in state.items() if not k.startswith("attn_pool.")}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="does not fit test_vit3: it lacks"):
        create_model(ModelConfig("test_vit3", str(tmp_path / "part.safetensors")), 2)
    # A pool that only timm's filter finds, behind another program's names, is kept.
    save_file({f"visual.trunk.{key}": value for key, value in state.items()}, tmp_path / "clip.safetensors")
    found = create_model(ModelConfig("test_vit3", str(tmp_path / "clip.safetensors"), {"global_pool": "map"}), 2)
    assert torch.equal(found.get_parameter("attn_pool.latent"), state["attn_pool.latent"])
