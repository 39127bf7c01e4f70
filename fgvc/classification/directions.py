"""The directions that second-order pooling keeps of a backbone's channels: their principal components."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fgvc.models.covariance import SecondOrder
from fgvc.models.layers import eval_mode
from fgvc.runtime.device import autocast
from fgvc.runtime.distributed import broadcast_object, rank, sum_over_ranks
from fgvc.runtime.progress import with_progress
from shards.errors import UserError
from shards.files import write_bytes

IMAGES = 512  # a map of 7 x 7 places makes 25,000 vectors of them, of a few hundred channels


@torch.no_grad()
def fit_directions(
    network: SecondOrder, model: nn.Module, loaders: Sequence[Callable[[Sequence[int]], DataLoader]],
    indices: Sequence[int], device: torch.device, precision: str, store: Path,
) -> None:  # fmt: skip
    """Give `network.reduce` the leading principal components of its channels over at most IMAGES images drawn evenly
    from `indices`, in every view. All ranks call it, and get the same. Kept in `store` for a later start, whose
    features must be of the same directions. model: the uint8 model around `network`."""
    file = store / "directions.npy"
    found = broadcast_object(np.load(file, allow_pickle=False) if rank() == 0 and file.is_file() else None)
    if found is None:
        chosen = np.asarray(indices)[:: -(-len(indices) // IMAGES)].tolist()
        moments = _Moments(network.reduce.in_features)
        handle = network.reduce.register_forward_pre_hook(lambda _, inputs: moments.add(inputs[0]))
        try:
            with eval_mode(model):
                for loader in (loader_of(chosen) for loader_of in loaders):
                    for batch in with_progress(loader, len(loader), "directions", "batches", show=rank() == 0):
                        with autocast(device, precision):
                            model(batch.images.to(device, non_blocking=True))
        finally:
            handle.remove()
        found = broadcast_object(moments.components(network.width, device))
        if rank() == 0:
            store.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            np.save(data, found)
            write_bytes(file, data.getvalue())
    network.reduce.weight.copy_(torch.from_numpy(found))


class _Moments:
    """Sums over this rank's vectors of channels."""

    def __init__(self, channels: int) -> None:
        self.count, self.sum = torch.zeros(1, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, vectors: torch.Tensor) -> None:
        rows = vectors.flatten(0, -2).double()  # not centred yet: fp32 (on GPUs TF32) would lose small deviations
        self.count += len(rows)
        self.sum += rows.sum(0).cpu()
        self.products += (rows.mT @ rows).cpu()

    def components(self, width: int, device: torch.device) -> np.ndarray:
        """(width, channels) float32 unit vectors, the one of the largest variance first, of all ranks' vectors. Raises
        UserError, on all ranks, for maps that are not finite."""
        parts = (self.count, self.sum, self.products)
        count, total, products = (sum_over_ranks(part.to(device)).cpu().numpy() for part in parts)
        if not np.isfinite(products).all():
            raise UserError(
                "model.covariance: the network's feature maps are not finite; set train.precision=fp32, or take other "
                "weights"
            )
        mean = total / count
        _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
        leading = vectors[:, ::-1][:, :width].T
        largest = np.take_along_axis(leading, np.abs(leading).argmax(1)[:, None], 1)
        return (leading * np.sign(largest)).astype(np.float32)  # eigh leaves the sign open
