"""README.md of an export: a model card with what is known of a classifier; names from data are text, never markup."""

import html
import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from fgvc.classification.metrics import wilson
from fgvc.runtime.run_folder import RESULT
from fgvc.use.predictor import Predictor
from fgvc.use.timm_folder import how_fitted
from shards.errors import UserError
from shards.manifest import Manifest
from shards.remote import open_manifest
from shards.sources.problems import printable

FITS = {
    "center_crop": "short side resized, centre cut out", "squash": "stretched to a square",
    "pad": "shrunk, the rest of the square black",
}  # fmt: skip
FACTS = ("size", "fit", "crop_fit", "eval_crop", "interpolation", "crop", "margin", "temperature")


def write_card(
    predictor: Predictor, folder: Path, formats: list[str], title: str, licence: str, shards: str
) -> dict[str, Any]:
    """Write README.md; what the other files say of the classifier. shards: the data's folder (empty: as the run
    names it). Raises UserError for shards that are named and not there."""
    manifest, results = _manifest(predictor.weights, shards), _results(predictor.weights)
    crops = predictor.image.eval_crops
    data = None if manifest is None else {
        "source": manifest.source, "licence": manifest.licence, "citation": manifest.citation,
        "counts": ", ".join(f"{count:,} {split}" for split, count in sorted(manifest.counts.items(), reverse=True)),
    }  # fmt: skip
    environment = Environment(
        loader=PackageLoader("fgvc.use"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # Markdown: names go through `text`
    )  # fmt: skip
    environment.filters["text"] = as_text
    body = environment.get_template("model_card.md").render(
        title=title, about=predictor.about | {"temperature": predictor.temperature}, crops=crops,
        classes=predictor.classes, results=results, formats=formats, data=data, licence=licence,
        fit=FITS[predictor.about["fit"]], cut_fit=FITS[predictor.about.get("crop_fit") or predictor.about["fit"]],
        border=how_fitted(predictor.about)["crop_mode"] == "border",
    )  # fmt: skip
    source = printable(manifest.source) if manifest else "unknown"
    library = "timm" if "timm" in formats else "onnx"
    header = ModelCardData(
        library_name=library, pipeline_tag="image-classification",
        tags=["image-classification", library, "fine-grained"],
        license=licence or None, model_name=title, eval_results=[
            EvalResult(
                "image-classification", source, source, "accuracy", row["value"], dataset_split=row["split"],
                metric_name=f"accuracy, mean logits of {crops} crops" if crops > 1 else None,
            )
            for row in results
        ] or None,
    )  # fmt: skip
    card = ModelCard(f"---\n{header.to_yaml()}\n---\n\n{re.sub(chr(10) + '{3,}', chr(10) * 2, body)}")
    card.save(folder / "README.md")
    facts = {key: predictor.about.get(key) for key in FACTS}
    return facts | {"classes": list(predictor.classes), "data": data, "results": results, "eval_crops": crops}


def as_text(value: Any) -> str:
    """Text that Markdown shows as it is: no tag, link, emphasis, heading, table cell or mention comes of it."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:])", r"\\\1", printable(str(value)))
    return html.escape(escaped, quote=False).replace("@", "&#64;")


def _manifest(weights: Path, shards: str) -> Manifest | None:
    if shards:
        return open_manifest(shards, "shards")
    try:
        config: Any = yaml.safe_load((weights.parent / "config.yaml").read_text())
        return open_manifest(config["data"]["shards"], "data.shards", config["data"].get("cache", ""))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, UserError):
        return None  # the run, or its data, is elsewhere


def _results(weights: Path) -> list[dict[str, Any]]:
    """What the run beside the weights measured, split by split."""
    try:
        result = json.loads((weights.parent / RESULT).read_text())
        splits = [(name, row) for name, row in result.items() if isinstance(row, dict) and "top1" in row]
        return [_row(name, figures) for name, figures in splits]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _row(split: str, figures: dict[str, Any]) -> dict[str, Any]:
    count = int(figures["count"])

    def interval(share: float) -> str:
        low, high = wilson(share, count)
        return f"[{100 * low:.1f}, {100 * high:.1f}]"

    return {
        "split": {"val": "held out of train"}.get(split, split), "count": count, "value": float(figures["top1"]),
        "top1": f"{figures['top1']:.1%}", "top1_interval": interval(figures["top1"]),
        "top5": f"{figures['top5']:.1%}", "top5_interval": interval(figures["top5"]),
        "class_mean": f"{figures['class_mean']:.1%}", "ece": f"{figures.get('ece_calibrated', figures['ece']):.3f}",
    }  # fmt: skip
