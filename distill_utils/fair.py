"""Measures that tell what a set has learned from what its labels, bytes and augmentation bring: pure functions.

Accuracies are fractions. Li et al., "DD-Ranking", arXiv 2505.13300; in its released code percentages stand in the
exponent, so its numbers are others.
"""
from math import e, exp


def hard_label_recovery(full, hard):
    """HLR: what training on the set with class labels lacks of training on all real clips with theirs."""
    return full - hard


def improvement_over_random(own, random):
    """IOR: of the set with its own labels over random clips with labels of the same kind."""
    return own - random


def label_robust_score(ior, hlr):
    """LRS, from 0 to 1; 0.27 where a set gains over random clips as much as it lacks of all real clips."""
    return _share(0.5 * ior - 0.5 * hlr)


def augmentation_robust_score(augmented, plain):
    """ARS, from 0 to 1, of the improvement over random clips where networks are trained with and without DSA."""
    return _share(0.5 * augmented + 0.5 * plain)


def _share(a):
    """-1..1 to 0..1, as LRS and ARS map it: (e^a - e^-1) / (e - e^-1)."""
    return (exp(a) - exp(-1)) / (e - exp(-1))
