"""mmdet 3.3 detectors, each built whole in Python from a DetectorConfig and checked to be what was asked for."""

from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.utils import convert_to_fp32
from torch import nn

from fgvc.detection.backbones import (
    CSPNEXTS,
    RESNETS,
    copy_backbone,
    describe_backbone,
    input_statistics,
    load_backbone,
)
from fgvc.detection.config import DetectorConfig
from fgvc.models.weights import check_fit, read_state
from shards.errors import UserError
from shards.paths import expand

from mmdet.registry import MODELS
from mmengine.config import ConfigDict

PREDICTORS = ("bbox_head.rtm_cls", "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg")  # shaped by the classes


def create_detector(config: DetectorConfig, classes: int, backbone_weights: bool = True) -> nn.Module:
    """An mmdet model for `classes` classes. `backbone_weights=False` leaves them random (they are loaded after).

    Raises UserError for unknown backbones and unfit weights.
    """
    name = config.backbone.split(".")[0]
    if config.backbone not in CSPNEXTS and not timm.is_model(config.backbone):
        raise UserError(f"model.backbone={config.backbone}: neither mmdet's nor timm's; see fgvc detect --help")
    if config.style == "caffe" and name not in RESNETS:
        raise UserError(
            f"model.style=caffe: only for {' and '.join(RESNETS)}, not for model.backbone={config.backbone}"
        )
    source = load_backbone(config) if backbone_weights else None
    mean, std = input_statistics(config, source)
    make = {"faster_rcnn": _faster_rcnn, "rtmdet": _rtmdet}[config.architecture]
    description = make(config, classes) | {
        "data_preprocessor": {
            "type": "DetDataPreprocessor", "mean": mean, "std": std, "bgr_to_rgb": False, "pad_size_divisor": 32,
        }
    }  # fmt: skip
    model = MODELS.build(ConfigDict(description))
    model.init_weights()
    if source is not None:
        copy_backbone(model.backbone, source)
    if config.start and backbone_weights:
        load_detector(model, expand(config.start, "model.start"), other_classes=True)
    check(model, config, classes, mean, std)
    for head in (getattr(model, "rpn_head", None), getattr(model, "bbox_head", None)):
        if head is not None:
            head.register_forward_hook(outputs_in_fp32)
    if hasattr(model, "roi_head"):
        model.roi_head.bbox_head.register_forward_hook(outputs_in_fp32)
    # timm's name for what is new in a network: optim.head_multiplier applies to all but the backbone.
    model.pretrained_cfg = {"classifier": [name for name, _ in model.named_children() if name != "backbone"]}
    return model


def outputs_in_fp32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """A forward hook: scores and box offsets leave a head in fp32, so that boxes and losses are computed in it."""
    return convert_to_fp32(outputs)


def check(model: Any, config: DetectorConfig, classes: int, mean: list[float], std: list[float]) -> None:
    """Raise AssertionError where the built model is not what the config says: a half-set one trains all the same."""
    head = model.roi_head.bbox_head if config.architecture == "faster_rcnn" else model.bbox_head
    assert head.num_classes == classes, (head.num_classes, classes)
    if config.architecture == "faster_rcnn":
        assert head.fc_cls.out_features == classes + 1
        assert head.fc_reg.out_features == 4 * classes
        assert model.rpn_head.num_classes == 1
        assert model.test_cfg.rcnn.score_thr == config.score
    else:
        assert all(layer.out_channels == classes for layer in head.rtm_cls)
        assert model.test_cfg.score_thr == config.score
    own = model.data_preprocessor
    assert torch.allclose(own.mean.flatten(), torch.tensor(mean))
    assert torch.allclose(own.std.flatten(), torch.tensor(std))
    model.train()  # some backbones freeze their stages here
    frozen = [not parameter.requires_grad for parameter in model.backbone.parameters()]
    assert any(frozen) == (config.frozen_stages > 0)
    assert not all(frozen)


def load_detector(model: nn.Module, path: Path, other_classes: bool = False) -> None:
    """Load a whole detector's state dict; with `other_classes`, layers whose shape the classes decide may differ.

    Raises UserError when the file is of another model.
    """
    state = read_state(path, "weights")
    own = model.state_dict()
    if other_classes:
        state = {
            key: value
            for key, value in state.items()
            if not (key.startswith(PREDICTORS) and key in own and own[key].shape != value.shape)
        }
    check_fit(
        own, state, PREDICTORS if other_classes else (), f"{path}: does not fit this detector",
        "give weights of the same architecture, backbone and channels",
    )  # fmt: skip
    model.load_state_dict(state, strict=False)


def _faster_rcnn(config: DetectorConfig, classes: int) -> dict[str, Any]:
    """Faster R-CNN with FPN (https://arxiv.org/abs/1506.01497, 1612.03144), settings of mmdet's faster-rcnn_r50_fpn."""
    backbone, channels = describe_backbone(config, levels=4)
    width = config.channels
    cross_entropy = {"type": "CrossEntropyLoss", "loss_weight": 1.0}
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    proposals = {
        "nms_pre": 2 * config.proposals, "max_per_img": config.proposals, "min_bbox_size": 0,
        "nms": {"type": "nms", "iou_threshold": 0.7},
    }  # fmt: skip
    return {
        "type": "FasterRCNN",
        "backbone": backbone,
        "neck": {"type": "FPN", "in_channels": channels, "out_channels": width, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead", "in_channels": width, "feat_channels": width,
            "anchor_generator": {
                "type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": [4, 8, 16, 32, 64],
            },
            "bbox_coder": _coder([1.0, 1.0, 1.0, 1.0]),
            "loss_cls": cross_entropy | {"use_sigmoid": True}, "loss_bbox": l1,
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": {
                "type": "SingleRoIExtractor", "out_channels": width, "featmap_strides": [4, 8, 16, 32],
                "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
            },
            "bbox_head": {
                "type": "Shared2FCBBoxHead", "in_channels": width, "fc_out_channels": config.fc_channels,
                "roi_feat_size": 7, "num_classes": classes, "reg_class_agnostic": False,
                "bbox_coder": _coder([0.1, 0.1, 0.2, 0.2]),
                "loss_cls": cross_entropy | {"use_sigmoid": False}, "loss_bbox": l1,
            },
        },
        "train_cfg": {
            "rpn": {
                "assigner": _assigner(0.7, 0.3, 0.3, True), "sampler": _sampler(256, 0.5, False),
                "allowed_border": -1, "pos_weight": -1, "debug": False,
            },
            "rpn_proposal": proposals,
            "rcnn": {
                "assigner": _assigner(0.5, 0.5, 0.5, False), "sampler": _sampler(config.samples, 0.25, True),
                "pos_weight": -1, "debug": False,
            },
        },
        "test_cfg": {
            "rpn": proposals | {"nms_pre": config.proposals},
            "rcnn": {
                "score_thr": config.score, "max_per_img": config.per_image,
                "nms": {"type": "nms", "iou_threshold": config.overlap},
            },
        },
    }  # fmt: skip


def _rtmdet(config: DetectorConfig, classes: int) -> dict[str, Any]:
    """RTMDet (https://arxiv.org/abs/2212.07784), settings of mmdet's rtmdet_l_8xb32-300e_coco."""
    backbone, channels = describe_backbone(config, levels=3)
    width, norm = config.channels, {"type": "BN"}
    return {
        "type": "RTMDet",
        "use_syncbn": torch.cuda.is_available(),  # with several ranks only; there is none for the CPU
        "backbone": backbone,
        "neck": {
            "type": "CSPNeXtPAFPN", "in_channels": channels, "out_channels": width, "num_csp_blocks": config.blocks,
            "expand_ratio": 0.5, "norm_cfg": norm, "act_cfg": {"type": "SiLU", "inplace": True},
        },
        "bbox_head": {
            "type": "RTMDetSepBNHead", "num_classes": classes, "in_channels": width, "feat_channels": width,
            "stacked_convs": 2, "with_objectness": False, "exp_on_reg": True, "share_conv": True,
            "pred_kernel_size": 1, "norm_cfg": norm, "act_cfg": {"type": "SiLU", "inplace": True},
            "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]},
            "bbox_coder": {"type": "DistancePointBBoxCoder"},
            "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        },
        "train_cfg": {
            "assigner": {"type": "DynamicSoftLabelAssigner", "topk": 13},
            "allowed_border": -1, "pos_weight": -1, "debug": False,
        },
        "test_cfg": {
            "nms_pre": 30000, "min_bbox_size": 0, "score_thr": config.score, "max_per_img": config.per_image,
            "nms": {"type": "nms", "iou_threshold": config.overlap},
        },
    }  # fmt: skip


def _coder(stds: list[float]) -> dict[str, Any]:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}


def _assigner(positive: float, negative: float, smallest: float, low_quality: bool) -> dict[str, Any]:
    return {
        "type": "MaxIoUAssigner", "pos_iou_thr": positive, "neg_iou_thr": negative, "min_pos_iou": smallest,
        "match_low_quality": low_quality, "ignore_iof_thr": -1,
    }  # fmt: skip


def _sampler(count: int, positive: float, with_truth: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler", "num": count, "pos_fraction": positive, "neg_pos_ub": -1,
        "add_gt_as_proposals": with_truth,
    }  # fmt: skip
