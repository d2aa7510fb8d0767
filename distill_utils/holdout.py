"""Training clips that are held back: while settings are chosen, networks are tested on them, not on the test clips."""
import re

import numpy as np

from distill_utils.seeds import derive_seed
from distill_utils.splits import DataError

# what clips that were cut from one recording have in common, in the names of UCF101, HMDB51 and Kinetics
RECORDINGS = (re.compile(r"v_\w+_(g\d\d)_c\d\d"),
              re.compile(r"(.+)_[fhlu]_[cn]m_np\d_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+"),
              re.compile(r"(.{11})_\d{6}_\d{6}"))


def held_back(names, labels, share, classes):
    """Which training clips are held back for testing, bool (N,): of each class about `share` of its clips.

    Clips of one recording (RECORDINGS; of a class) stay together. The choice is the same for every run, and recordings
    that have one name in several classes come in the same order in all. labels: class numbers (N,).
    """
    held = np.zeros(len(names), bool)
    groups = np.array([_recording(name) for name in names])
    for k, label in enumerate(classes):
        members = np.flatnonzero(labels == k)
        found, counts = np.unique(groups[members], return_counts=True)
        if len(found) < 2:
            raise DataError(f"--holdout {share:g} would leave {label} without a training clip: all of its "
                            f"{len(members)} are of one recording, which is never divided: leave the class out with "
                            "--classes, or leave out --holdout")
        order = sorted(range(len(found)), key=lambda i: derive_seed("holdout", found[i]))
        taken = np.abs(np.cumsum(counts[order])[:-1] - share * len(members)).argmin() + 1
        held[members] = np.isin(groups[members], found[order[:taken]])
    return held


def _recording(name):
    clip = name.rpartition("/")[2].strip()
    return next((match[1] for pattern in RECORDINGS if (match := pattern.fullmatch(clip))), name)
