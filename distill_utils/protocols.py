"""The two evaluation protocols: every fact in which they differ stands in its row of PROTOCOLS."""
import math
from typing import NamedTuple

import torch


def per_sample(x):
    """Each clip or image standardised by its own mean and std: no prediction depends on the rest of the batch."""
    dims = tuple(range(1, x.dim()))
    x = x - x.mean(dims, keepdim=True)
    # the std, by a norm: torch's own takes ten times as long on a CPU
    std = torch.linalg.vector_norm(x, dim=dims, keepdim=True) / (math.prod(x.shape[1:]) - 1) ** 0.5
    return x / (std + 1e-5)


def per_batch(x):
    """The whole batch standardised by one mean and std, as the published evaluation does."""
    return (x - x.mean()) / x.std()


def as_listed(labels, batch_size):
    """Indices of the clips of each batch of a test: --batch_train clips, in their order."""
    return torch.arange(len(labels)).split(batch_size)


def class_by_class(labels, batch_size):
    """64 clips, class by class, whatever --batch_train is: as a batch is standardised as a whole, it decides what a
    network sees of a clip."""
    return labels.argsort(stable=True).split(64)


ALL_OF_HMDB51 = {"HMDB51": (5236, "python -m distill_utils.check split HMDB51 --train all")}


class Protocol(NamedTuple):
    """How networks see clips, and what is reported. See docs/results.md."""
    matching: callable          # how clips are standardised while a set is matched
    evaluation: callable        # how they are while a network is trained and tested
    test_passes: int
    random_test: bool           # test clips with a random start and a random flip
    test_batches: callable      # class numbers, --batch_train -> indices of the clips of each batch of a test
    extra_epochs: int
    cut_after: callable         # epochs -> last epoch (the first is 0) before the learning rate is cut tenfold, of
                                # networks that score a set and, with --decay, of experts
    report_best: bool           # report the iteration that scored best on the test split, or the last one
    learned_rate: bool          # train networks at the rate that was learned with the set, or at --lr_net
    train_clips: dict           # data set -> (training clips of split 1, what makes the split) where they are others
                                # than those of the official split


PROTOCOLS = {
    "standard": Protocol(per_sample, per_sample, 1, False, as_listed, 0, lambda epochs: epochs // 2 - 1, False, False,
                         {}),
    "paper": Protocol(lambda x: x, per_batch, 3, True, class_by_class, 1, lambda epochs: epochs // 2 + 1, True, True,
                      ALL_OF_HMDB51),
}
