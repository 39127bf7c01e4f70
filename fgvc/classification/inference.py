"""Running a model over a split: every sample exactly once, whatever the number of ranks."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fgvc.classification.metrics import Predictions
from fgvc.models.layers import eval_mode
from fgvc.runtime.device import autocast
from fgvc.runtime.distributed import gather_rows, rank
from fgvc.runtime.progress import with_progress
from shards.errors import UserError


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
    Raises UserError when the ranks together did not see `expected` different samples once each.
    """
    rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    with eval_mode(model):
        for batch in with_progress(loader, len(loader), title, "batches", show=rank() == 0):
            images = batch.images.to(device, non_blocking=True)
            with autocast(device, precision):
                logits = model(images).float()
                if flip:
                    logits = (logits + model(images.flip(3)).float()) / 2
            rows.append((logits.cpu(), batch.labels.cpu(), batch.entries))
    none = torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    mine = [torch.cat(column) for column in zip(*rows, strict=True)] if rows else none
    logits, labels, entries = (gather_rows(column).numpy() for column in mine)
    if len(entries) != expected or len(np.unique(entries)) != expected:
        raise UserError(f"{title}: {len(entries)} samples came back where {expected} were to be counted once each")
    order = np.argsort(entries)
    return Predictions(logits[order], labels[order], entries[order])
