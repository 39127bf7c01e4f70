"""The answers of several classifiers as one."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, logsumexp

from fgvc.classification.metrics import Predictions
from shards.errors import UserError


def mean_probabilities(members: Sequence[Predictions], names: Sequence[str]) -> Predictions:
    """The mean of the members' probabilities on the same images, as logits: their logarithms (deep ensembles,
    Lakshminarayanan et al. 2017, section 2.4).

    names: of the members, for errors. Raises UserError where they measured other images than the first.
    """
    first = members[0]
    for one, name in zip(members, names, strict=True):
        if one.logits.shape[1] != first.logits.shape[1] or not np.array_equal(one.labels, first.labels):
            raise UserError(f"{name}: measured other images or classes than {names[0]}; members share both")
        if not np.array_equal(one.entries, first.entries):
            raise UserError(f"{name}: measured other images than {names[0]}; members share their images")
    logs = np.stack([log_softmax(one.logits.astype(np.float64), axis=1) for one in members])
    return Predictions(logsumexp(logs, axis=0) - np.log(len(members)), first.labels, first.entries)
