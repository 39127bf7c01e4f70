"""fgvc export: the same bits in a process without this package, ONNX against the network, a card that is text only."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from fgvc import load
from fgvc.models.export import export, read_about
from fgvc.use.card import as_text
from jobs.cli import main

pytestmark = pytest.mark.slow  # the exporter takes seconds
HOSTILE = ["</script><script>alert(1)", '"><img src=x onerror=alert(1)>', "=1+1", "\x1b[31m| [a](b)`x` {{ 7*7 }} @me"]
ALONE = """
import sys
for name in ("fgvc", "jobs", "shards", "slurm"):
    sys.modules[name] = None  # importing them raises ImportError
import timm, torch
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
print(model.pretrained_cfg["label_names"][0])
torch.save(model(torch.load(sys.argv[2])).detach(), sys.argv[3])
"""


@pytest.fixture(scope="module")
def exported(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a classifier with mirror images, a temperature and hostile class names, beside its weights."""
    folder, source = tmp_path_factory.mktemp("exported"), runs / "classify/crops"
    facts = {"classes": HOSTILE, "temperature": 2.0}
    export(
        folder / "model.safetensors",
        load_file(source / "model.safetensors"),
        read_about(source / "model.safetensors") | facts,
    )
    for file in ("config.yaml", "result.json"):
        (folder / file).write_bytes((source / file).read_bytes())
    result = json.loads((folder / "result.json").read_text())
    result["test"] = {"count": 200, "top1": 0.5, "top5": 0.9, "class_mean": 0.45, "ece": 0.2, "ece_calibrated": 0.03}
    (folder / "result.json").write_text(json.dumps(result))
    assert main(["export", str(folder), str(folder / "out"), "licence=cc-by-4.0"]) == 0
    return folder


def test_timm_alone_gives_the_same_bits(exported: Path, tmp_path: Path) -> None:
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.save(inputs, tmp_path / "inputs.pt")
    words = [str(exported / "out"), str(tmp_path / "inputs.pt"), str(tmp_path / "logits.pt")]
    done = subprocess.run([sys.executable, "-c", ALONE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == HOSTILE[0]
    network = load(exported).model.model.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), network(inputs))


def test_onnx_gives_the_logits_and_probabilities_of_predict(exported: Path, photos: Path) -> None:
    assert not list((exported / "out").glob("*.data"))
    model = onnx.load(exported / "out/model.onnx")
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["fgvc"])
    assert facts["classes"][:3] == HOSTILE[:3]
    assert (facts["size"], facts["crop"], facts["temperature"]) == (32, "whole+square", 2.0)
    session, predictor = onnxruntime.InferenceSession(exported / "out/model.onnx"), load(exported)
    files = sorted(photos.iterdir())[:5]
    read = [predictor.read(file) for file in files]
    for count in (1, 5):
        views = [np.stack([picture.inputs[view].numpy() for picture in read[:count]]) for view in (0, 1)]
        found = [session.run(None, {"images": images}) for images in views]
        logits = np.mean([logits for logits, _ in found], axis=0)
        expected = [predictor.predict(file) for file in files[:count]]
        assert np.abs(logits - [prediction.logits for prediction in expected]).max() < 1e-4
        for logits, probabilities in found:
            powers = np.exp(logits / 2.0)
            assert probabilities == pytest.approx(powers / powers.sum(1, keepdims=True), abs=1e-5)


def test_the_card_says_what_is_known(exported: Path) -> None:
    card = ModelCard.load(exported / "out/README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.eval_results[0].metric_value == 0.5
    assert "| test | 200 | 50.0% [43.1, 56.9] | 90.0% [85.1, 93.4] | 45.0% | 0.030 |" in card.text
    assert "80 train, 28 test. Licence of the images: CC0\\-1\\.0" in card.text
    assert "calibrated (temperature 2.000)" in card.text


def test_class_names_are_text_in_the_card(exported: Path) -> None:
    text = (exported / "out/README.md").read_text()
    for forbidden in ("<script", "<img", "](b)", "\x1b", "49", "@me"):
        assert forbidden not in text
    assert "3. =1\\+1" in text
    assert as_text("<b>*x*</b> a|b https://e.org") == "&lt;b&gt;\\*x\\*&lt;/b&gt; a\\|b https\\://e\\.org"


def test_mistakes_are_one_line(runs: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = runs / "classify/whole/model.safetensors"
    about = read_about(weights)
    moved = about | {"model": about["model"] | {"caffe_stride": True}}
    export(tmp_path / "caffe.safetensors", load_file(weights), moved)
    for words, message in (
        (["whole"], "expected fgvc export RUN FOLDER"),
        ([str(weights), str(exported)], "holds something already"),
        (["none", str(tmp_path / "out")], "none: no such run"),
        ([str(weights), str(tmp_path / "out"), "formats=[coreml]"], "Input should be 'timm' or 'onnx'"),
        ([str(weights), str(tmp_path / "out"), f"shards={tmp_path}"], "no manifest.json there"),
        ([str(weights), str(exported / "model.safetensors/out"), "formats=[timm]"], "cannot be written"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["export", *words]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caffe.safetensors"]  # nothing half-written stays
