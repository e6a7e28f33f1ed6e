"""What a network says of its own errors, learned again from errors on records that it had not seen.

Comes in: latent vectors of records, and the errors of ensembles that were trained without these. Goes out: new
weights of the row of the last layer that gives the log standard deviation. In training that row sees errors on
the records that the network is being fitted to, which tell little of those to come; energies stay as they are.
"""

import math

import numpy as np
import torch

from hullforge.screening.network import Network

#: Strengths of the pull towards the row as trained, over the number of records; the best is found by leaving one out.
PULLS = tuple(10.0**power for power in np.arange(-3, 4.5, 0.5))
#: Errors below this share of their mean are luck, not knowledge: their logarithms would rule the fit.
LUCK = 0.05
#: Mean of the logarithm of a normal variable's size, standard deviation 1.
MEAN_LOG_NORMAL = -0.5 * (np.euler_gamma + math.log(2))


def refit(member: Network, latent: np.ndarray, errors: np.ndarray) -> float:
    """Fit the row of log standard deviations to `errors` (N,), in the target's normalised unit; gives the pull.

    `latent` (N, L) are the vectors that the member's last layer reads. A ridge regression of the logarithm of the
    errors' sizes, pulled towards the row as trained, with the strength for which each record is best told by all
    the others (their errors in closed form, by the hat matrix).
    """
    size = np.abs(errors)
    if len(size) < 2 or not size.mean() > 0:  # one record cannot be told by the others
        return math.inf
    with torch.no_grad():
        weight, bias = member.out.weight[1].double().cpu().numpy(), float(member.out.bias[1])
        wanted = np.log(size + LUCK * size.mean()) - MEAN_LOG_NORMAL - (latent @ weight + bias)
        mean, scale = latent.mean(0), latent.std(0)
        scale[scale < 1e-6 * max(1e-30, float(scale.max()))] = np.inf  # what does not vary tells nothing
        level = wanted.mean()
        left, singular, right = np.linalg.svd((latent - mean) / scale, full_matrices=False)
        projected = left.T @ (wanted - level)
        best, chosen = math.inf, 0.0
        for pull in PULLS:
            share = singular**2 / (singular**2 + pull * len(size))
            hat = (left**2 @ share) + 1 / len(size)  # the level is fitted, too
            missed = (wanted - level - left @ (share * projected)) / np.maximum(1 - hat, 1e-9)
            score = float(np.square(missed).mean())
            if score < best:
                best, chosen = score, pull
        slope = right.T @ (singular / (singular**2 + chosen * len(size)) * projected) / scale
        member.out.weight[1] += torch.from_numpy(slope).to(member.out.weight)
        member.out.bias[1] += float(level - slope @ mean)
    return chosen
