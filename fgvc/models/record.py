"""What a classifier's weights file says of itself, checked once: such files come from elsewhere."""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Len
from pydantic import AllowInfNan, BaseModel, StringConstraints, ValidationError

from fgvc.models.export import read_about
from shards.errors import UserError

Finite = Annotated[float, AllowInfNan(False)]
Fit = Literal["center_crop", "squash", "pad"]


Name = Annotated[str, StringConstraints(pattern=r"^[\w.:/-]{1,200}$")]
Mean = Annotated[list[Finite], Len(3, 3)]
Std = Annotated[list[Annotated[Finite, Gt(0)]], Len(3, 3)]


class _Backbone(BaseModel, strict=True, extra="forbid"):
    name: Name
    kwargs: dict[str, Any]
    caffe_stride: bool
    size: Annotated[int, Interval(ge=0, le=8192)]
    mean: Mean
    std: Std


class _Network(BaseModel, strict=True):
    name: Name
    kwargs: dict[str, Any]
    caffe_stride: bool
    covariance: Annotated[int, Interval(ge=1, le=128)] | None = None  # where that is what is classified
    backbones: Annotated[list[_Backbone], Len(2, 100)] | None = None  # of an ensemble


class Record(BaseModel, strict=True):
    """As `fgvc classify` writes it; older versions wrote fewer facts."""

    model: _Network
    classes: Annotated[list[Annotated[str, Len(1, 1000)]], Len(1, 1_000_000)]
    size: Annotated[int, Interval(ge=1, le=8192)]
    fit: Fit
    crop_fit: Fit | None = None
    eval_crop: Annotated[Finite, Interval(gt=0, le=1)]
    eval_flip: bool
    eval_crops: Literal[1, 5] = 1
    interpolation: Literal["bilinear", "bicubic"]
    crop: Annotated[str, Len(1, 40)]
    margin: Annotated[Finite, Ge(0)]
    boxes: str = "truth"
    min_score: Annotated[Finite, Interval(ge=0, le=1)] = 0.0
    mean: Mean
    std: Std
    temperature: Annotated[Finite, Gt(0)] | None = None
    trained_on: list[dict[str, Any] | None] | None = None  # None in it: something that has no record


def read_classifier(path: Path) -> dict[str, Any]:
    """What a classifier's weights file says of itself: model, classes, size, crop, mean, std and more.

    Raises UserError for a file that says nothing of the kind, or something that cannot be.
    """
    about = read_about(path)
    if "classes" not in about or "model" not in about:
        raise UserError(f"weights={path}: says nothing of its model; give a model.safetensors that fgvc classify wrote")
    try:
        Record.model_validate(about)
    except ValidationError as error:
        wrong = sorted(
            {str(part) for first in error.errors() for part in first["loc"][:1]} & Record.__annotations__.keys()
        )
        raise UserError(
            f"weights={path}: damaged metadata ({', '.join(wrong)}); give a file that fgvc classify wrote"
        ) from None
    return about
