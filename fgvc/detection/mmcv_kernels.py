"""mmcv's compiled module `mmcv._ext` served by torchvision's kernels, so that mmdet runs on mmcv-lite, uncompiled.

mmcv-lite holds every Python file of mmcv; only the C++ module is missing. Import this module before anything of mmdet:
`install()` has then been called. Where a compiled mmcv is installed, nothing is replaced.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision

NAME = "mmcv._ext"


class Kernels(ModuleType):
    """Stands in for `mmcv._ext`. A kernel that is not served raises NotImplementedError with its name when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*args: Any, **kwargs: Any) -> NoReturn:
            raise NotImplementedError(
                f"mmcv's kernel '{name}' has no counterpart here; install a compiled mmcv in place of mmcv-lite"
            )

        return absent


def install() -> bool:
    """Put the kernels in place; True when they are, False when a compiled mmcv does the work."""
    if isinstance(sys.modules.get(NAME), Kernels):
        return True
    if NAME in sys.modules or importlib.util.find_spec(NAME) is not None:
        return False
    module = Kernels(NAME, __doc__)
    module.__spec__ = ModuleSpec(NAME, None)  # mmengine asks pkgutil for it
    for kernel in (nms, softnms, roi_align_forward, roi_align_backward):
        setattr(module, kernel.__name__, kernel)
    sys.modules[NAME] = module
    return True


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
    """Positions of the kept boxes, best first. boxes: (N, 4) xyxy; offset 1 counts x1 and y1 as inside the box."""
    if offset:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)


def softnms(
    boxes: torch.Tensor, scores: torch.Tensor, dets: torch.Tensor, iou_threshold: float, sigma: float,
    min_score: float, method: int, offset: int,
) -> torch.Tensor:  # fmt: skip
    """Soft-NMS (https://arxiv.org/abs/1704.04503) on the CPU: fills `dets` (N, 5), returns the positions it kept.

    method: 0 drops overlapping boxes, 1 scales their scores linearly, 2 by a Gaussian.
    """
    left, scores = torch.arange(len(boxes)), scores.clone()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    kept: list[int] = []
    while len(left):
        best = int(left[scores[left].argmax()])
        dets[len(kept), :4], dets[len(kept), 4] = boxes[best], scores[best]
        kept.append(best)
        left = left[left != best]
        corner0, corner1 = (
            torch.maximum(boxes[left, :2], boxes[best, :2]),
            torch.minimum(boxes[left, 2:], boxes[best, 2:]),
        )
        shared = (corner1 - corner0 + offset).clamp(min=0).prod(1)
        overlap = shared / (areas[left] + areas[best] - shared)
        if method == 2:
            scores[left] *= torch.exp(-(overlap**2) / sigma)
        else:
            softened = 1 - overlap if method == 1 else torch.zeros_like(overlap)
            scores[left] *= torch.where(overlap >= iou_threshold, softened, torch.ones_like(overlap))
        left = left[scores[left] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def roi_align_forward(
    features: torch.Tensor, rois: torch.Tensor, output: torch.Tensor, argmax_y: torch.Tensor, argmax_x: torch.Tensor, *,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Fill output (R, C, h, w) from features (N, C, H, W) and rois (R, 5): image, x0, y0, x1, y1.

    bf16 and fp16 are computed in fp32: torchvision has no gradient for them, and x = 600.3 would be 600 in bf16.
    """
    _only_average(pool_mode)
    output.copy_(
        torch.ops.torchvision.roi_align(
            _wide(features), _wide(rois), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: torch.Tensor, rois: torch.Tensor, argmax_y: torch.Tensor, argmax_x: torch.Tensor,
    grad_input: torch.Tensor, *, aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Fill grad_input (N, C, H, W) from grad_output (R, C, h, w)."""
    _only_average(pool_mode)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            _wide(grad_output),
            _wide(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError("mmcv's roi_align with pool_mode='max' has no counterpart in torchvision")


install()
