"""One of two ranks with half a batch each: `python batch_norm_rank.py FOLDER` writes what BatchNorm makes of it."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fgvc.generation.networks.layers import BatchNorm
from fgvc.runtime.distributed import end_group

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
features, weights = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
mine = features[rank * 4 : rank * 4 + 4].clone().requires_grad_()
layer = BatchNorm(4)
found = layer(mine)
(found * weights[rank * 4 : rank * 4 + 4]).sum().backward()
assert layer.weight is not None
state = {"out": found.detach(), "gradient": mine.grad, "weight": layer.weight.grad}
state |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
torch.save(state, Path(sys.argv[1]) / f"{rank}.pt")
end_group()
