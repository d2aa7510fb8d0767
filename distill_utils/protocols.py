"""The two evaluation protocols: every fact in which they differ stands in its row of PROTOCOLS."""
from typing import NamedTuple


def per_sample(x):
    """Each clip or image standardised by its own mean and std: no prediction depends on the rest of the batch."""
    dims = tuple(range(1, x.dim()))
    return (x - x.mean(dims, keepdim=True)) / (x.std(dims, keepdim=True) + 1e-5)


def per_batch(x):
    """The whole batch standardised by one mean and std, as the published evaluation does."""
    return (x - x.mean()) / x.std()


class Protocol(NamedTuple):
    """How networks see clips, and what is reported. See docs/results.md."""
    matching: callable          # how clips are standardised while a set is matched
    evaluation: callable        # how they are while a network is trained and tested
    test_passes: int
    random_test: bool           # test clips with a random start and a random flip
    extra_epochs: int
    cut_after: callable         # epochs -> last epoch before the learning rate is cut tenfold
    report_best: bool           # report the iteration that scored best on the test split, or the last one
    learned_rate: bool          # train networks at the rate that was learned with the set, or at --lr_net


PROTOCOLS = {
    "standard": Protocol(per_sample, per_sample, 1, False, 0, lambda epochs: epochs // 2 - 1, False, False),
    "paper": Protocol(lambda x: x, per_batch, 3, True, 1, lambda epochs: epochs // 2 + 1, True, True),
}
