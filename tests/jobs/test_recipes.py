"""Every recipe that is shipped: read, checked, and its network there in timm with the weights and the size it names."""

from pathlib import Path

import pytest
import timm
import yaml

from jobs.cli import main
from jobs.config import SHIPPED

KINDS = ("classify/*", "origin/resnet*", "origin/vit*")
RECIPES = sorted(path for kind in KINDS for path in SHIPPED.glob(f"{kind}.yaml"))
VITS = [path for path in RECIPES if any(kind in path.stem for kind in ("vit", "dinov2", "convnext"))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_is_read_and_says_what_to_expect(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["classify", str(path), "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    name = config["model"]["name"]
    assert timm.is_model(name.split(".")[0])
    if config["model"]["weights"] == "hub":
        assert timm.models.is_model_pretrained(name), name
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("#   fgvc classify ") for line in head)
    size = config["image"]["size"]
    patch = next((int(part[5:]) for part in name.split("_") if part.startswith("patch")), 1)
    assert size % patch == 0
    own = timm.get_pretrained_cfg(name).input_size[-1] if timm.get_pretrained_cfg(name) else size
    if patch > 1 and size != own:  # positions are built for the size
        assert config["model"]["kwargs"]["img_size"] == size


@pytest.mark.parametrize("path", [path for path in VITS if path.parent.name == "classify"], ids=lambda path: path.stem)
def test_ours_are_the_safe_ones(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert config["train"]["head_start"] == "probe"
    assert config["optim"]["lr"] <= 1e-4
    assert config["optim"]["lr_batch"] > 0
    assert config["optim"]["layer_decay"] < 1
    assert config["optim"]["clip"] == 1
    assert config["optim"]["warmup_epochs"] >= 1
    assert config["train"]["ema"]
    assert "mean" not in config["model"]  # the network's own


def test_a_rate_of_zero_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["classify", "data.shards=nowhere", "optim.lr=0", "--print-config"]) == 2
    assert "optim.lr=0: Input should be greater than 0" in capsys.readouterr().err
