"""Weights of another input size: positions are resampled as timm's own loader does, in every family."""

from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from fgvc.models.config import ModelConfig
from fgvc.models.timm import create_model
from shards.errors import UserError

SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 2}  # a few seconds' worth of the family
FLAT = {"depths": (1, 1)}
CASES = [
    ("vit_tiny_patch16_224", {**SMALL, "img_size": 64}, {**SMALL, "img_size": 96}),
    ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 70}, {**SMALL, "img_size": 112}),
    ("swin_tiny_patch4_window7_224", {**FLAT, "img_size": 56}, {**FLAT, "img_size": 96, "window_size": 6}),
    ("convnext_atto", {"depths": (1, 1, 1, 1)}, {"depths": (1, 1, 1, 1)}),
    ("resnet18", {}, {}),
]  # fmt: skip


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(UserError, match=r"img_size 100 is not a multiple of .* patches of 16 pixels; take 96 or 112"):
        create_model(ModelConfig("vit_tiny_patch16_224", "none", kwargs={**SMALL, "img_size": 100}), 2)


@pytest.mark.parametrize(("name", "made_with", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_resampling_equals_timms(name: str, made_with: dict, wanted: dict, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    made = timm.create_model(name, num_classes=3, **made_with)
    save_file(made.state_dict(), path)
    ours = create_model(ModelConfig(name, str(path), kwargs=wanted), 3).state_dict()
    theirs = timm.create_model(
        name, num_classes=3, pretrained=True, pretrained_cfg_overlay={"file": str(path), "num_classes": 3}, **wanted
    ).state_dict()
    changed = {
        key for key, value in theirs.items() if key in made.state_dict() and value.shape != made.state_dict()[key].shape
    }
    assert bool(changed) == (made_with != wanted)
    # The classifier is fresh in ours, and Swin's attention masks follow from the size.
    heads = tuple(f"{one}." for one in ([made.pretrained_cfg["classifier"]]))
    assert [key for key in theirs if not key.startswith(heads) and not ours[key].equal(theirs[key])] == []
