"""Which real clips of a class to keep: the selection baselines, as pure functions of features.

Every method takes (features, n, generator), where features is a float tensor (N, D) of ONE class, and returns a
LongTensor (n,) on the CPU: distinct indices into the N samples in the order of their selection, so the first m < n of
them are themselves the choice for m. n outside 1..N and features that are not finite raise ValueError. Arithmetic is in
float64 on the CPU: a class has some hundred clips, and the choice must not depend on the device.
"""

import torch


def random_choice(features, n, generator):
    """n samples drawn uniformly without replacement; `generator` is required, since no global state may be used."""
    num_samples = len(_checked(features, n))
    return torch.randperm(num_samples, generator=generator, device=generator.device)[:n].cpu()


def herding(features, n, generator=None):
    """Greedily take the sample that brings the mean of the selection closest to the class mean; ties: lowest index.

    Deterministic: `generator` is not used. Welling, "Herding dynamical weights to learn", ICML 2009, in the form of
    Rebuffi et al., "iCaRL", arXiv 1611.07725, algorithm 4, but never taking a sample twice.
    """
    features = _checked(features, n)
    centred = features - features.mean(0)
    total = torch.zeros_like(centred[0])  # sum of the selected samples, seen from the class mean
    taken = torch.zeros(len(centred), dtype=torch.bool)
    chosen = []
    for _ in range(n):
        # The mean's distance is |total + x| / k: every candidate shares k, so the division changes no comparison.
        distance = (total + centred).square().sum(1).masked_fill(taken, torch.inf)
        chosen.append(int(distance.argmin()))
        taken[chosen[-1]] = True
        total += centred[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features, n, generator=None):
    """Start at the sample nearest to the mean, then take the one farthest from all selected ones; ties: lowest index.

    Deterministic: `generator` is not used. The largest distance of a sample to its nearest selected one is at most
    twice the smallest possible for n centres. Sener and Savarese, "Active Learning for Convolutional Neural Networks:
    A Core-Set Approach", ICLR 2018, arXiv 1708.00489, algorithm 1. O(N n D) time and O(N D) memory, no N x N matrix.
    """
    features = _checked(features, n)
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    gap = torch.full((len(features),), torch.inf, dtype=features.dtype)  # squared, to the nearest selected one
    while len(chosen) < n:
        # Direct differences: the form x^2 + y^2 - 2xy cancels where features lie far from the origin.
        gap = torch.minimum(gap, (features - features[chosen[-1]]).square().sum(1))
        gap[chosen[-1]] = -1.0  # below every distance: not taken again when only duplicates (0) are left
        chosen.append(int(gap.argmax()))
    return torch.tensor(chosen)


def _checked(features, n):
    if features.ndim != 2:
        raise ValueError(f"features must be (N, D), one row per sample; got shape {tuple(features.shape)}")
    if n < 1:
        raise ValueError(f"cannot choose {n} samples: --ipc must be at least 1")
    if n > len(features):
        raise ValueError(f"cannot choose {n} samples from a class that has {len(features)}: lower --ipc")
    if not torch.isfinite(features).all():
        bad = int((~torch.isfinite(features)).any(1).nonzero()[0])
        raise ValueError(f"features must be finite; row {bad} is not: check its clip and the network")
    return features.detach().cpu().double()


def most_that_fit(bytes_of, limit, most):
    """The largest n of 1..most with bytes_of(n) <= limit, or 0: as bytes grow about evenly, after a few calls. Where
    they do not grow with every n, an n that fits and whose successor does not."""
    low, size, high, guess, calls = 0, 0, most + 1, 1, 0
    while high - low > 1:
        found, calls = bytes_of(guess), calls + 1
        of_one = max((found - size) / (guess - low), found / guess / 8)      # more bytes for each clip more
        if found <= limit:
            low, size = guess, found
        else:
            high = guess
        guess = low + int((limit - size) / max(of_one, 1e-9))
        if calls % 4 == 0 and high <= most:     # not close yet: halve what is open
            guess = (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
    return low


METHODS = {"random": random_choice, "herding": herding, "k-center": k_center}
