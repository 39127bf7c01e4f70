"""Running a model over a split: every sample exactly once, whatever the number of ranks."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from fgvc.distributed import gather_objects, rank
from fgvc.metrics import Predictions
from fgvc.models import eval_mode
from shards.errors import DataError


@torch.inference_mode()
def predict(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    flip: bool,
    precision: str,
    expected: int,
    title: str = "evaluate",
) -> Predictions:
    """Predictions on all ranks' samples, sorted by entry.

    model: (N, 3, H, W) uint8 -> (N, classes). flip: average the logits with the mirror image's.
    Raises DataError when the ranks together did not see `expected` different samples once each.
    """
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with eval_mode(model):
        for batch in tqdm(loader, desc=title, unit="batch", leave=False, disable=rank() != 0 or None):
            images = batch.images.to(device, non_blocking=True)
            with autocast(device, precision):
                logits = model(images).float()
                if flip:
                    logits = (logits + model(images.flip(3)).float()) / 2
            rows.append((logits.cpu().numpy(), batch.labels.numpy(), batch.entries.numpy()))
    together = [row for part in gather_objects(rows) for row in part]
    logits, labels, entries = (np.concatenate(column) for column in zip(*together, strict=True))
    if len(entries) != expected or len(np.unique(entries)) != expected:
        raise DataError(f"{title}: {len(entries)} samples came back where {expected} were to be counted once each")
    order = np.argsort(entries)
    return Predictions(logits[order], labels[order], entries[order])


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for a forward pass; fp32 switches it off."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
