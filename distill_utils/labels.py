"""What the clips of a set tell a network: kinds of labels, the losses on them, the recipe they need, and teachers.

A set has class numbers, or one row (K,) for each clip that it can render, a tensor of its file that is never coded as
pictures. KINDS says what a row holds, LOSSES which kinds a loss takes, RECIPES how networks are best trained on a kind.
"""
from math import cos, log, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from distill_utils.trajectories import load_weights

KINDS = {"class": "the number of the class", "logits": "a value for each class, of which softmax makes probabilities",
         "probabilities": "of each class, which sum to 1", "centred": "values that scatter around 0, as FRePo learns"}
SCHEDULES = ("step", "constant", "cosine")
OPTIMISERS = ("sgd", "adam", "adamw")


# ---- losses -------------------------------------------------------------------------------------------------------

def cross_entropy(logits, targets, classes, kind, temperature):
    if kind == "class":
        return F.cross_entropy(logits, classes)
    return F.cross_entropy(logits, targets.softmax(1) if kind == "logits" else targets)


def divergence(logits, targets, classes, kind, temperature):
    """KL divergence of the softened targets from the softened predictions, times temperature^2.
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2."""
    targets = targets if kind == "logits" else targets.clamp(min=1e-12).log()
    softened = [(values / temperature).log_softmax(1) for values in (logits, targets)]
    return temperature ** 2 * F.kl_div(*softened, reduction="batchmean", log_target=True)


def squared_error(logits, targets, classes, kind, temperature):
    """Mean over batch and classes. Class numbers as one-hot rows - 1/K, centred as in FRePo (arXiv 2206.00719)."""
    return F.mse_loss(logits, centred(classes, logits.shape[1]) if kind == "class" else targets)


def squared_error_and_class(logits, targets, classes, kind, temperature):
    """MSE to a teacher's logits + 0.1 cross-entropy of the true class: Video-DC, arXiv 2412.21197."""
    return F.mse_loss(logits, targets) + 0.1 * F.cross_entropy(logits, classes)


# name -> (function, kinds of labels that it takes)
LOSSES = {"ce": (cross_entropy, ("class", "logits", "probabilities")), "kl": (divergence, ("logits", "probabilities")),
          "mse": (squared_error, ("class", "logits", "centred")), "mse_gt": (squared_error_and_class, ("logits",))}


def label_loss(loss="ce", kind="class", temperature=1.0):
    """The loss of networks on labels of a kind: a function (logits (B, K), targets, classes (B,)) -> scalar. targets:
    what a set's `render` gives, class numbers (B,) or rows (B, K); classes: the true ones. ValueError where the loss
    makes no sense of the kind."""
    function, kinds = LOSSES[loss]
    if kind not in kinds:
        able = [name for name, (_, takes) in LOSSES.items() if kind in takes]
        raise ValueError(f"--loss {loss} makes no sense of labels that are {kind}: choose one of {', '.join(able)}")
    return lambda logits, targets, classes: function(logits, targets, classes, kind, temperature)


# ---- recipes ------------------------------------------------------------------------------------------------------

class Recipe(NamedTuple):
    """How networks are trained on a set: what its labels need, part of its file."""
    loss: str = "ce"
    temperature: float = 1.0        # of kl
    optim: str = "sgd"              # SGD with momentum 0.9
    lr: float = 0.01
    weight_decay: float = 5e-4
    epochs: int = 500
    schedule: str = "step"


RECIPES = {
    "class": Recipe(),
    "logits": Recipe("mse_gt", optim="adamw", lr=1e-3, weight_decay=0.01, epochs=300, schedule="cosine"),     # Video-DC
    "probabilities": Recipe("kl", optim="adamw", lr=1e-3, weight_decay=0.01, epochs=300, schedule="cosine"),
    "centred": Recipe("mse", optim="adamw", lr=1e-4, weight_decay=5e-4, epochs=1001, schedule="cosine"),       # FRePo
}


def check_recipe(entries):
    """The Recipe that the header of a file holds. ValueError for what cannot be one."""
    allowed = {"loss": LOSSES, "optim": OPTIMISERS, "schedule": SCHEDULES}
    if not isinstance(entries, dict) or entries.keys() != set(Recipe._fields):
        raise ValueError(f"the recipe of its header has not just {', '.join(Recipe._fields)}")
    for name, value in entries.items():
        if name in allowed:
            good = isinstance(value, str) and value in allowed[name]
        elif name == "epochs":
            good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1e9
        else:
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
            good = good and (value > 0 or name == "weight_decay" or name == "lr")
        if not good:
            raise ValueError(f"the {name} of the recipe in its header cannot be {str(value)[:80]!r}")
    return Recipe(**entries)


def make_optimiser(parameters, optim, lr, weight_decay):
    """Of a network that is trained on a set."""
    if optim == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim](parameters, lr=lr, weight_decay=weight_decay)


def rate_factor(schedule, epoch, epochs, last_before_cut):
    """What the learning rate is multiplied by in an epoch (the first is 0). step: a tenth after epoch
    `last_before_cut`, of a single epoch never; cosine: up a straight line in the first tenth, then down half a cosine
    to a hundredth."""
    if schedule == "step":
        return 0.1 if epoch > last_before_cut >= 0 else 1.0
    if schedule == "constant":
        return 1.0
    warm_up = max(1, epochs // 10)
    if epoch < warm_up:
        return (epoch + 1) / warm_up
    return 0.01 + 0.99 * (1 + cos(pi * (epoch - warm_up + 1) / (epochs - warm_up + 1))) / 2


# ---- labels of a set ----------------------------------------------------------------------------------------------

# of a set that learns its labels: learning rate -> (of what, SGD's default, Adam's default), as in the sets
RATES = {"lr_labels": ("the labels, where --labels is learned", 2.0, 0.01)}


def settings(args):
    """What a set is built with, of a script's arguments."""
    given = vars(args)
    if given.get("labels") == "learned" and args.label_kind == "probabilities":
        raise ValueError("--labels learned needs labels that may be any numbers, and not --label_kind probabilities")
    kind = "class" if given.get("labels", "class") == "class" else args.label_kind
    return {"label_kind": kind, "learn_labels": given.get("labels") == "learned"}


def group(synset):
    """What a set trains of its labels, and at which rate."""
    return {"lr_labels": [synset.labels]} if synset.learn_labels else {}


def argument(synset):
    """What the file of a set says of its labels; nothing of class numbers, as before there were others."""
    return {} if synset.labels is None else {"label_kind": synset.label_kind}


def make_rows(kind, num_classes, count):
    """The rows (count, K) of a set's labels, zeros; None of class numbers."""
    if kind not in KINDS:
        raise ValueError(f"labels are {', '.join(KINDS)}, and not {kind!r}")
    return None if kind == "class" else nn.Parameter(torch.zeros(count, num_classes))


def targets_of(synset, classes, rows):
    """What clips of a set tell a network: class numbers (B,), or the rows (B, K) with these numbers."""
    return classes if synset.labels is None else synset.labels[rows]


def check_rows(synset):
    """ValueError unless the labels of a set are what their kind says."""
    rows = synset.labels
    if synset.label_kind == "probabilities" and not (rows.min() >= 0 and ((rows.sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError("its labels are called probabilities, and they are below 0, or do not sum to 1")


def centred(classes, num_classes):
    """One-hot rows - 1/K (B, K)."""
    return F.one_hot(classes, num_classes).float() - 1 / num_classes


def from_logits(kind, logits):
    """A teacher's logits (B, K) as labels of a kind."""
    if kind == "logits":
        return logits
    return logits.softmax(1) - (1 / logits.shape[1] if kind == "centred" else 0)


@torch.no_grad()
def start_labels(synset, teacher=None):
    """The start of labels: a teacher's, or from the classes: centred (one-hot - 1/K) / sqrt(K / 10) (FRePo, arXiv
    2206.00719), or logits that give the true class a probability of 0.9. Class numbers stay."""
    if synset.labels is None or teacher:
        return teacher and teacher.label(synset)
    k = synset.num_classes
    classes = torch.arange(k, device=synset.labels.device).repeat_interleave(len(synset.labels) // k)
    rows = centred(classes, k)
    synset.labels.copy_(rows / (k / 10) ** 0.5 if synset.label_kind == "centred" else rows * log(9 * (k - 1)))


class Teacher:
    """Labels clips with the mean logits of experts, each as it was at its last kept epoch.

    experts: an Experts, of which the first `count` teach; make(): a network for their weights. standardise: as networks
    see clips. Like Experts it has a state, so that a resumed run has the teacher that it began with.
    """

    def __init__(self, experts, count, make, standardise):
        if count > len(experts):
            raise ValueError(f"--teacher {count} asks for more experts than the {len(experts)} in {experts.folder}: "
                             f"give --teacher {len(experts)}, or make more with buffer.py")
        self.experts, self.count, self.make, self.standardise, self.networks = experts, count, make, standardise, []
        self.state_dict = experts.state_dict

    def load_state_dict(self, state):
        self.experts.load_state_dict(state)
        self.networks = []      # others may have been the first until now

    @torch.no_grad()
    def logits(self, clips):
        """(B, T, C, H, W) -> (B, K), on the device of the clips."""
        if not self.networks:
            for number in range(self.count):
                network = self.make()
                load_weights(network, self.experts.last(number))
                self.networks.append(network.eval())
        clips = self.standardise(clips)
        return sum(network(clips) for network in self.networks) / self.count

    @torch.no_grad()
    def label(self, synset, chunk=64):
        """Labels every clip that a set can render as it is now."""
        variants = synset.num_variants
        rows = torch.arange(len(synset.labels), device=synset.labels.device)
        for some in rows.split(chunk):
            pairs = some // variants
            clips, _ = synset.render(pairs // synset.num_slots, pairs % synset.num_slots, variants=some % variants)
            synset.labels.data[some] = from_logits(synset.label_kind, self.logits(clips))
