"""What generator and discriminator minimise, given logits (N, K), positive for real; and gradient penalties."""

from collections.abc import Callable

import torch
from torch.nn.functional import relu, softplus

Logits = torch.Tensor


def hinge(real: Logits, generated: Logits) -> torch.Tensor:
    """The discriminator's, of BigGAN and projected discriminators (Lim & Ye, 2017)."""
    return (relu(1 - real) + relu(1 + generated)).mean()


def saturating_softplus(real: Logits, generated: Logits) -> torch.Tensor:
    """The discriminator's cross-entropy (Goodfellow et al., 2014)."""
    return (softplus(-real) + softplus(generated)).mean()


def relativistic(higher: Logits, lower: Logits) -> torch.Tensor:
    """R3GAN's (Huang et al., 2024, https://arxiv.org/abs/2501.05441): of a real and a generated image that are paired,
    one is to score higher: the real one for the discriminator, the generated one for the generator."""
    return softplus(lower - higher).mean()


DISCRIMINATOR = {"hinge": hinge, "softplus": saturating_softplus, "relativistic": relativistic}
GENERATOR = {  # (real logits, generated logits): only the relativistic one looks at the real ones
    "hinge": lambda real, generated: -generated.mean(),
    "softplus": lambda real, generated: softplus(-generated).mean(),
    "relativistic": lambda real, generated: relativistic(generated, real),
}


def squared_gradient(discriminator: Callable[[torch.Tensor], Logits], images: torch.Tensor) -> torch.Tensor:
    """Half the mean squared norm of the logits' gradient by the images: R1 at real images, R2 at generated ones
    (Mescheder et al., 2018, https://arxiv.org/abs/1801.04406). Several logits an image are averaged."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).mean(1).sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean()
