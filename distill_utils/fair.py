"""What a set has learned, told apart from what its labels, its bytes and augmentation bring.

Accuracies are fractions. Li et al., "DD-Ranking", arXiv 2505.13300; in its released code percentages stand in the
exponent, so its numbers are others. IOR is the accuracy of a set with its own labels minus that of random clips with
labels of the same kind; HLR that of all real clips minus that of the set with class labels.
"""
from math import e, exp
from statistics import mean, stdev

from distill_utils.coreset import most_that_fit
from distill_utils.seeds import make_generator
from distill_utils.storage import as_stored, build, storage_bytes
from distill_utils.synset import VideoSet


def robust_score(a):
    """(e^a - e^-1) / (e - e^-1), which makes 0..1 of -1..1: LRS of a = (IOR - HLR) / 2, and ARS of a = (IOR with
    augmentation + IOR without it) / 2. 0.27 at a = 0."""
    return (exp(a) - exp(-1)) / (e - exp(-1))


def compare(run, data, synset, own, score, settings, twin, class_recipe, teacher, store, limit):
    """What a set that was scored brings over random clips, drawn anew for each network: a dict of fractions.

    own: top-1 of its networks. score(number, train_on, settings) -> top-1 of network `number`. twin: the augmentation
    that `settings` have not, DSA or none. class_recipe: how networks are trained on class labels. teacher: of random
    clips, or None. store, limit: in which clips are to fit in so many bytes.
    """
    spec, numbers = data.spec, range(len(own))

    def random_clips(number, n, store="float32"):
        clips = VideoSet(spec.num_classes, n, spec.shape, label_kind=synset.label_kind)
        clips.encode(data.train.random_clips(n, make_generator(run.derive("fair", number))))
        return as_stored(clips, store, spec)

    def score_random(number, n, settings, store="float32"):
        clips = random_clips(number, n, store).to(run.device)
        if teacher:
            teacher.label(clips)
        return score(number, clips, settings)

    n = synset.num_slots
    random = [score_random(number, n, settings) for number in numbers]
    own_twin = [score(number, synset, settings | {"dsa": twin}) for number in numbers]
    random_twin = [score_random(number, n, settings | {"dsa": twin}) for number in numbers]
    found = {"top1_random": mean(random), **_gain("ior", own, random), "ars": robust_score(
        (mean(own) - mean(random) + mean(own_twin) - mean(random_twin)) / 2)}

    fitting = [most_that_fit(lambda n, number=number: storage_bytes(random_clips(number, n), store, spec), limit,
                             data.train.clips_of_each) for number in numbers]
    found |= {"store": store, "random_clips_in_bytes": mean(fitting)}
    if min(fitting):
        random = [score_random(number, fitting[number], settings, store) for number in numbers]
        found |= {"top1_random_bytes": mean(random), **_gain("ior_bytes", own, random)}

    if synset.label_kind == "class":
        return found | {"top1_class_labels": mean(own)}
    bare = build(type(synset), {key: value for key, value in synset.arguments.items() if key != "label_kind"},
                 {key: value for key, value in synset.state_dict().items() if key != "labels"})
    return found | {"class_recipe": class_recipe._asdict(), "top1_class_labels": mean(
        score(number, bare, settings | class_recipe._asdict()) for number in numbers)}


def _gain(name, own, random):
    """Mean and, of several networks, standard deviation of the gain over random clips."""
    gains = [mine - theirs for mine, theirs in zip(own, random, strict=True)]
    return {name: mean(gains), **({f"{name}_std": stdev(gains)} if len(gains) > 1 else {})}
