"""A classifier as one ONNX file that takes images of 0 to 255: normalisation, mirror image, temperature inside."""

import json
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from fgvc.use.predictor import Predictor
from shards.errors import UserError

TOLERANCE = 1e-4  # of logits


class _Whole(nn.Module):
    """(N, 3, S, S) uint8 -> logits and probabilities, (N, classes) each."""

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.network = predictor.model.model
        self.register_buffer("mean", predictor.model.mean.clone())
        self.register_buffer("std", predictor.model.std.clone())
        self.flip, self.temperature = predictor.image.eval_flip, predictor.temperature or 1.0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        inputs = (images.float() - self.mean) / self.std
        logits = self.network(inputs)
        if self.flip:
            logits = (logits + self.network(inputs.flip(3))) / 2
        return logits, (logits / self.temperature).softmax(1)


def onnx_bytes(predictor: Predictor, facts: dict[str, Any]) -> bytes:
    """The file, checked with onnxruntime. facts: what else its metadata says, as JSON under `fgvc`.

    Raises UserError for a network that cannot be exported, or whose logits come out otherwise.
    """
    size, name = predictor.size, predictor.about["model"]["name"]
    whole = _Whole(predictor).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    try:
        # Two images, since a batch of one would be taken for a constant.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts, about one another
            program = torch.onnx.export(
                whole, (torch.zeros(2, 3, size, size, dtype=torch.uint8),), dynamo=True, input_names=["images"],
                output_names=["logits", "probabilities"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                external_data=False, verbose=False,
            )  # fmt: skip
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter raises errors of its own for operators that it does not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{name}: cannot be exported to ONNX ({reason}); set formats='[timm]'") from error
    onnx.helper.set_model_props(model, {"fgvc": json.dumps(facts, sort_keys=True)})
    data = model.SerializeToString()
    _check(data, whole, size, name)
    return data


@torch.inference_mode()
def _check(data: bytes, whole: nn.Module, size: int, name: str) -> None:
    """Raise UserError unless onnxruntime gives the network's logits, for one image and for several."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3):
        images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
        expected = [output.numpy() for output in whole(images)]
        found = session.run(None, {"images": images.numpy()})
        apart = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(expected, found, strict=True))
        if not apart < TOLERANCE:
            raise UserError(f"{name}: the ONNX file's logits are {apart:.1e} from the network's; set formats='[timm]'")
