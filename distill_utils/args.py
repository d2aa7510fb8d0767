"""Command lines: the groups of flags that scripts share, what is read of them, and how a script is run."""
import argparse
import hashlib
import os
import re
import signal
import sys
from math import prod
from pathlib import Path

import torch

from distill_utils import augment, parallel
from distill_utils.clips import LOCATIONS
from distill_utils.dataset import DATA, DATASETS, dataset_label, get_spec
from distill_utils.device import PRECISIONS, check_memory, keep_memory, resolve_device, resolve_precision
from distill_utils.labels import KINDS, LOSSES, OPTIMISERS, RATES, RECIPES, SCHEDULES, Recipe, Teacher, label_loss
from distill_utils.matching import MATCHES, UNROLLS
from distill_utils.progress import keep_streams
from distill_utils.protocols import PROTOCOLS, per_batch
from distill_utils.published import VALUES, labels_beside
from distill_utils.storage import store_of
from distill_utils.trajectories import Experts, expert_folder, holds_experts
from networks import check_network, get_eval_pool, lookup

# that end a job, where the system has them: Ctrl-C, kill and time-outs, a closed terminal, sbatch --signal
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
              if hasattr(signal, name))


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, but where there is none."""

    def _get_help_string(self, action):
        return super()._get_help_string(action) if action.default not in (None, False, "") else action.help


class Parser(argparse.ArgumentParser):
    """argparse's, and which of its flags may change between a run and its continuation."""

    def __init__(self, description=None, **kwargs):
        super().__init__(description=description, allow_abbrev=False, formatter_class=Help, **kwargs)
        self.flags_of_others = {}

    def error(self, message):
        """With the way out for flags of another set (`set_parser` knows whose)."""
        for flag, other in self.flags_of_others.items():
            if message.startswith("unrecognized arguments") and flag in message.split():
                message += f" ({flag} is a flag of --set {other})"
        super().error(message)

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            try:
                str(value).encode()
            except UnicodeEncodeError:      # a byte of a file name: several libraries cannot write to such a path
                self.error(f"--{name} {value!a} is not UTF-8: rename it, or use a locale with UTF-8")
        return parsed

    @property
    def may_change(self):
        return {action.dest for action in self._actions if getattr(action, "may_change", False)}


def may_change(action):
    """Marks a flag that may differ between a run and its continuation by --resume: it changes where or how long, not
    what is computed. (But for random networks, which another kind of device draws otherwise: of that a run is told.)"""
    action.may_change = True


# ---- types --------------------------------------------------------------------------------------------------------

def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return value


def not_negative(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def rate(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def above_zero(text):
    if rate(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return rate(text)


def part(text):
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1, such as 0.2")
    return float(text)


def byte_count(text):
    number = re.fullmatch(r"([0-9.]+) *([KMG]?)B?", text.upper())
    try:
        value = int(float(number[1]) * {"K": 1e3, "M": 1e6, "G": 1e9}.get(number[2], 1))
    except (TypeError, ValueError, OverflowError):
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a number of bytes, such as 500000, 500kB, 2MB or 1GB")
    return value


def store(text):
    try:
        return store_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def share(text):
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")
    return float(text)


# ---- groups of flags ----------------------------------------------------------------------------------------------

def script_parser(description, model="ConvNet3D"):
    """The flags of all scripts that leave a result."""
    parser = Parser(description)
    add_run_args(parser)
    add_data_args(parser)
    add_eval_args(parser, model)
    return parser


def set_parser(description, sets, only=None, default="pixels", sgd=None, trained=True, labels=("class", "teacher"),
               kinds_of_labels=("logits", "probabilities")):
    """(parser, name of the set) of a script that makes a set: the flags of all scripts, and those of the set that --set
    names on the command line, a row of `sets`.

    only: the one set that a script takes. sgd: SGD's learning rates of the set where the loss was published with others
    than the set's own defaults. trained=False: for a selection, which trains nothing. labels, kinds_of_labels: what
    --labels and --label_kind take, the default first.
    """
    kinds, default = ((only,), only) if only else (tuple(sets), default)
    first = Parser(add_help=False)      # the other flags depend on this one
    first.add_argument("--set", choices=kinds, default=default)
    kind = first.parse_known_args()[0].set
    parser = script_parser(description)
    group = parser.add_argument_group("synthetic set")
    group.add_argument("--set", choices=kinds, default=default, help="the form in which clips are stored and learned: "
                       + "; ".join(f"{name}: {sets[name].title}" for name in kinds) + ". Each has flags of its own: "
                       "--set NAME --help shows them")
    sets[kind].add_args(parser, trained)
    add_label_args(parser, labels, kinds_of_labels)
    if trained:
        group = parser.add_argument_group("learning rates of the set")
        rates = {**sets[kind].rates, **(RATES if "learned" in labels else {})}
        for name, (what, sgd_default, adam_default) in rates.items():
            group.add_argument(f"--{name}", type=rate, help=f"learning rate of {what}; if not given, "
                               f"{(sgd or {}).get(name, sgd_default):g} with SGD and {adam_default:g} with Adam")
    for name in () if only else sets:
        other = Parser(add_help=False)
        sets[name].add_args(other, trained)
        parser.flags_of_others |= {flag: name for action in other._actions for flag in action.option_strings}
        parser.flags_of_others |= {f"--{flag}": name for flag in sets[name].rates}
    return parser, kind


def add_label_args(parser, labels, kinds):
    group = parser.add_argument_group("labels of the set")
    meanings = {"class": "the number of its class", "teacher": "what experts of buffer.py predict for it, as it is "
                "stored", "learned": "a row that is learned with the set"}
    group.add_argument("--labels", choices=labels, default=labels[0], help="what each clip tells a network. "
                       + "; ".join(f"{name}: {meanings[name]}" for name in labels))
    group.add_argument("--teacher", type=positive, metavar="N", help="the teacher is the mean of so many experts of "
                       "--model, at their last kept epoch; 5 if not given" + (
                           ", and labels that are learned then start from the classes" if "learned" in labels else ""))
    group.add_argument("--label_kind", choices=kinds, default=kinds[0], help="what the numbers of a teacher's or "
                       "learned labels are: " + "; ".join(f"{kind}: {KINDS[kind]}" for kind in kinds))
    add_buffer_arg(group)


def add_buffer_arg(group):
    may_change(group.add_argument("--buffer_path", default="buffers",
                                  help="folder of the experts, or the folder that has them in <dataset>/<model>"))


def add_run_args(parser):
    group = parser.add_argument_group("run")
    may_change(group.add_argument("--save_path", default="result", help="results go to <save_path>/<method>/<name>"))
    may_change(group.add_argument(
        "--name", help="name of the run; if not given, made of data set, network, clips per class and seed"))
    group.add_argument("--seed", type=not_negative, default=0, help="all random numbers follow from it")
    may_change(group.add_argument("--resume", action="store_true", help="go on where this run stopped, or start it"))
    may_change(group.add_argument(
        "--overwrite", action="store_true", help="delete the run of this name and start anew"))
    may_change(group.add_argument("--save_it", type=positive, default=100, help="iterations between checkpoints"))
    add_device_arg(group)
    may_change(group.add_argument("--wandb", choices=("disabled", "offline", "online"), default="disabled",
                                  help="log to Weights & Biases"))


def add_device_arg(group):
    may_change(group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N"))


def add_data_args(parser, named=True):
    group = parser.add_argument_group("data")
    if named:
        group.add_argument("--dataset", default="MotionDigits",
                           help="a name of the table DATASETS, or a folder of your own with a split.csv")
    may_change(group.add_argument("--data_path", default=str(DATA), help="folder of the data sets"))
    may_change(group.add_argument("--cache_path", help="folder of the decoded frames; <data_path>/cache if not given"))
    group.add_argument("--frames", type=positive, help="frames of a clip, if not as many as the data set has")
    group.add_argument("--im_size", type=positive, help="height and width in pixels, if not the data set's")
    group.add_argument("--split", type=int, choices=(1, 2, 3),
                       help="official split of UCF101, miniUCF101 and HMDB51; 1 if not given")
    # of these two the text may change, but not what it comes to: see data_identity
    may_change(group.add_argument("--split_file", help="a csv with the columns folder_name,label,split (train or "
                                  "test), in place of the data set's own"))
    may_change(group.add_argument("--classes", help="use these classes alone, separated by commas, such as "
                                  "Archery,Bowling (a name that has a comma in quotes); if not given, all"))
    if named:
        group.add_argument("--holdout", type=share, metavar="SHARE", help="hold back this share of each class's "
                           "training clips, such as 0.2: nothing is trained on them, networks are tested on them, and "
                           "the test clips are not looked at. For choosing settings")
    # None and not False: runs and experts from before this flag go on
    group.add_argument("--skip_missing", action="store_true", default=None,
                       help="train without the clips that are not there, or not whole, and say how many")
    may_change(group.add_argument("--preload", action="store_true", help="hold the decoded frames in memory (uint8)"))
    may_change(group.add_argument("--clips_on", choices=LOCATIONS, default="auto", help="where a GPU finds the decoded "
                                  "frames: on the device itself (uint8) or on the host; auto: on the device where "
                                  "those of a split take at most a third of its free memory"))
    may_change(group.add_argument("--num_workers", type=not_negative, default=0,
                                  help="threads that decode; 0: one a core"))


def add_eval_args(parser, model="ConvNet3D"):
    group = parser.add_argument_group("evaluation")
    add_model_arg(group, model)
    group.add_argument("--eval_mode", default="SS", help="networks that score the set: SS and S the same network (S: "
                       "without batch norm), M several architectures, W D A P N B the ablations of DC")
    group.add_argument("--num_eval", type=positive, default=5, help="networks trained for each evaluation")
    group.add_argument("--batch_train", type=positive, default=256, help="batch size of their training, and of "
                       "the training of DC's and a selection's networks")
    add_protocol_args(group)
    may_change(group.add_argument("--cuda_graphs", action="store_true", help="networks are trained by CUDA graphs: "
                                  "faster where a set and a network are so small that a GPU waits for its launches "
                                  "(not yet run on a GPU)"))
    group.add_argument("--store", type=store, default="float32", help="how the set is stored, and scored: float32, "
                       "bfloat16, uint8, zip (uint8, deflated), or with a quality such as jpeg:75, webp:75, h264:28, "
                       "h265:28 or av1:40")
    group = parser.add_argument_group(
        "recipe by which these networks are trained", "What is not given is as the labels of the set need it: as its "
        "file says or, of class labels, SGD at 0.01, weight decay 5e-4, 500 epochs, the rate cut half-way "
        "(docs/results.md)")
    group.add_argument("--epoch_eval_train", type=positive, help="epochs")
    group.add_argument("--lr_net", type=rate, help="learning rate, also of DC's networks")
    group.add_argument("--loss", choices=tuple(LOSSES), help="loss on the labels, also where they are seen while a set "
                       "is trained (DC, MTT): cross-entropy; KL divergence; mean squared error; or this + 0.1 "
                       "cross-entropy of the true class")
    group.add_argument("--temperature", type=above_zero, help="of --loss kl; 1 if nothing says another")
    group.add_argument("--optim_net", choices=OPTIMISERS, help="optimizer; sgd has momentum 0.9")
    group.add_argument("--wd_net", type=rate, help="weight decay")
    group.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate: step: cut tenfold half-way; "
                       "constant; cosine: half a cosine down, after a warm-up")
    add_dsa_args(parser)


def add_values_arg(group):
    group.add_argument("--values", choices=tuple(VALUES), help="what the pixels of a .pt file of another program are: "
                       "normalised as those of --dataset, unit (0 to 1) or bytes (0 to 255); if not given, normalised, "
                       "and a file that does not look so is refused")


def add_published_args(group):
    """Of a published set, .pt files, of which one flag of the script names the first."""
    may_change(group.add_argument("--dynamic", help="of a set of S2D, whose static images are that file: its "
                                  "dynamic_*.pt"))
    may_change(group.add_argument("--hal", help="and its hallucinators, hal_*.pt or weights_best.pt"))
    group.add_argument("--vpc", type=positive, help="and how many clips of each class they make: published are one for "
                       "two static images")
    add_values_arg(group)


def check_published_args(parser, args):
    if sum(bool(value) for value in (args.dynamic, args.hal, args.vpc)) in (1, 2):
        parser.error("a set of S2D needs all of --dynamic FILE, --hal FILE and --vpc N")
    if args.dynamic and spec_of(args).view == "single":
        parser.error(f"--dynamic makes clips, and --dataset {args.dataset} gives single frames")


def add_model_arg(group, model="ConvNet3D"):
    group.add_argument("--model", default=model, help="the network, a name of the table NETWORKS")


def add_protocol_args(group):
    group.add_argument("--protocol", choices=tuple(PROTOCOLS), default="standard",
                       help="how clips are standardised and networks trained and tested: standard, or as for the "
                       "published numbers (docs/results.md)")
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="numbers in which networks are trained "
                       "and tested, and in which DM and FRePo compute the features of real clips; auto: bf16 where the "
                       "device is fast in it, otherwise fp32. Weights, and all that is differentiated twice, are "
                       "float32 in any case. On CUDA, float32 convolutions use TF32 unless this is fp32")



def add_dsa_args(parser):
    group = parser.add_argument_group("augmentation (DSA) while matching and while networks are trained")
    group.add_argument("--dsa_strategy", default="none", help=f"none, or some of {augment.STRATEGY}, joined by _")
    group.add_argument("--dsa_param", default="", help="strengths other than DSA's own, such as rotate=10,cutout=0.25")


def add_distill_args(parser, iterations, momentum):
    group = parser.add_argument_group("distillation")
    may_change(group.add_argument("--Iteration", type=positive, default=iterations, help="training steps of the set"))
    may_change(group.add_argument("--eval_it", type=positive, default=500, help="iterations between evaluations"))
    may_change(group.add_argument("--startIt", type=not_negative, default=0,
                                  help="first evaluation after the one at the start"))
    group.add_argument("--optim", choices=("sgd", "adam"), help="optimizer of the set; if not given, SGD (as "
                       "published) where a learning rate of the set is given, otherwise Adam with learning rates of "
                       "its own")
    group.add_argument("--momentum", type=rate, default=momentum, help="momentum of SGD")
    group.add_argument("--through_store", type=positive, nargs="?", const=10, metavar="N", help="learn the set as "
                       "--store will give it back: it is seen as it is decoded, and gradients go straight through to "
                       "it. Every N steps of the set (10 if no number is given) it is coded anew; in between, what "
                       "coding changed is held")


def add_real_args(parser, default=64, what="of each class"):
    group = parser.add_argument_group("real samples")
    group.add_argument("--batch_real", type=positive, default=default, help=f"real samples {what} in an iteration")
    return group


def add_trajectory_args(parser):
    """Of both sides, experts and students: which part of a trajectory is matched."""
    group = parser.add_argument_group("trajectories")
    group.add_argument("--max_start_epoch", type=positive, default=10,
                       help="a student starts with the weights that an expert had after some epoch below this")
    group.add_argument("--expert_epochs", type=positive, default=1,
                       help="and is to reach those that the expert had so many epochs later")
    group.add_argument("--lr_teacher", type=rate, default=0.01,
                       help="learning rate of experts, and of students (where --train_lr learns it, its start)")
    group.add_argument("--dry_run", action="store_true", help="print sizes in memory and on disk, and end")
    return group


def add_mtt_args(parser, lr_momentum):
    group = add_trajectory_args(parser)
    group.add_argument("--syn_steps", type=positive, default=10, help="SGD steps that a student takes")
    group.add_argument("--batch_syn", type=positive, help="synthetic clips in each of them; if not given, all")
    group.add_argument("--experts_per_step", type=positive, default=1,
                       help="students, each of another expert, whose gradients are averaged for one step of the set")
    group.add_argument("--train_lr", action="store_true", help="learn the students' learning rate too")
    group.add_argument("--lr_lr", type=rate, help="learning rate of the students' learning rate, which is then "
                       "learned; 1e-5 where only --train_lr is given")
    group.add_argument("--lr_momentum", type=rate, default=lr_momentum, help="momentum of the SGD that learns it")
    group.add_argument("--min_lr", type=rate, default=1e-3, help="the students' learning rate stays at least this")
    group.add_argument("--grad_clip", type=above_zero,
                       help="largest norm of the gradient of the set; a larger one is scaled down to it")
    group.add_argument("--max_loss", type=above_zero, help="a step whose loss is larger changes nothing (DATM: 1.0)")
    group.add_argument("--first_max_start_epoch", type=positive, help="at first students begin at epochs below this, "
                       "and the bound grows steadily to --max_start_epoch (DATM)")
    group.add_argument("--expansion_end", type=positive, help="iteration at which it is there")
    group.add_argument("--match", choices=MATCHES, default="last", help="which of a student's steps is compared with "
                       "the expert: the last, or the nearest to it (ATT)")
    group.add_argument("--ema", type=share, help="what is scored and saved is the running mean of the set, of which a "
                       "step keeps this share, such as 0.99")
    group.add_argument("--hal_diversity", type=rate, default=0.0, help="pushes what several hallucinators (--n_hal) "
                       "make of the same images and memories apart: weight of the cosine of their features "
                       "(HaBa: 0.1)")
    group.add_argument("--unroll", choices=UNROLLS, default="adjoint",
                       help="how the gradient through a student's steps is computed. Both are exact; adjoint keeps the "
                       "graph of one step in memory, full those of all steps")


# ---- what is read of them -----------------------------------------------------------------------------------------

def spec_of(args, view=None):
    """The spec of the data set that a script's arguments name."""
    return get_spec(args.dataset, args.frames, args.im_size, view, args.split, args.split_file, args.classes)


def check_args(args, view=None):
    """(spec, networks that score) of a script's arguments; what they cannot mean raises ValueError before any work."""
    spec = spec_of(args, view)
    if vars(args).get("batch_real"):        # of one class, or of all
        check_memory(f"--batch_real {args.batch_real}", args.batch_real * prod(spec.shape))
    check_network(args.model, spec, args.dataset)
    pool = get_eval_pool(args.eval_mode, args.model)
    for network in pool:
        check_network(network, spec, args.dataset)
    augment.parse(args.dsa_strategy, args.dsa_param)
    if vars(args).get("through_store") and args.store == "float32":
        raise ValueError("--through_store changes nothing with --store float32, which rounds nothing: give another "
                         "store, such as h264:28, or leave it out")
    if args.cuda_graphs:
        device = resolve_device(args.device)
        if device.type != "cuda" or (device.index is None and torch.cuda.device_count() > 1):
            raise ValueError("--cuda_graphs needs one CUDA device: give --device cuda:0, or leave it out")
    return spec, pool


def dsa_of(args):
    """The Augmentation that a script's arguments ask for."""
    return augment.parse(args.dsa_strategy, args.dsa_param)


def data_identity(args):
    """Of the flags that name data in a free form what must not change: the content of --split_file, and the classes
    that --classes comes to. None where a flag is not given, as before there was one."""
    return {"split_file": file_digest(args.split_file),
            "classes": args.classes and ", ".join(spec_of(args).classes)}


# flags of other files that a run starts from
INPUTS = ("synset", "dynamic", "hal", "path_static", "pretrained_path", "full")


def input_digests(args):
    """Digests of the other files that a run starts from, by the flag that names them; None where it is not given."""
    given = vars(args)
    files = {flag: given.get(flag) for flag in INPUTS}
    files["labels"] = next(filter(None, (labels_beside(files[flag]) for flag in ("synset", "path_static")
                                         if files[flag])), None)
    return {flag: file_digest(file) for flag, file in files.items()}


def find_experts(args, spec, max_start_epoch=0, expert_epochs=0):
    """The Experts of --buffer_path for the data and the network of a run, with the epochs that trajectories need."""
    folder = args.buffer_path       # of the experts, or one with <dataset>/<model> in it that is
    if not holds_experts(folder):
        single = spec.view == "single" and f"single{args.dataset}" in DATASETS      # as DC sees a data set of clips
        folder = expert_folder(folder, ("single" if single else "") + data_label(args), args.model)
    with torch.device("meta"):      # shapes alone
        network = lookup(args.model)(spec)
    return Experts(folder, network, max_start_epoch, expert_epochs, model=args.model, frames=spec.frames,
                   im_size=spec.size, protocol=args.protocol, split=args.split, **data_identity(args))


def teacher_of(args, data, device):
    """The Teacher that a script's arguments ask for, of the same training clips; None where they ask for none."""
    if args.labels == "class" and args.teacher:
        raise ValueError(f"--teacher {args.teacher} changes nothing with --labels class: give --labels teacher, or "
                         "leave it out")
    if args.labels == "class" or (args.labels == "learned" and not args.teacher):
        return None
    if PROTOCOLS[args.protocol].evaluation is per_batch:
        raise ValueError(f"--protocol {args.protocol} standardises clips together, so what experts predict for a clip "
                         "depends on the others: a teacher needs --protocol standard")
    experts = find_experts(args, data.spec)
    experts.check_clips(data.train.identity(), args.dataset)
    return Teacher(experts, args.teacher or 5, lambda: lookup(args.model)(data.spec).to(device),
                   PROTOCOLS[args.protocol].evaluation)


def file_digest(file):
    """Of the content of a file, wherever it lies; None of none."""
    return file and hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def data_label(args):
    """What runs, folders of experts and tables call the clips of a run."""
    return dataset_label(args.dataset) + (f"_holdout{args.holdout:g}" if args.holdout else "")


def data_settings(args):
    """What `get_dataset` takes of a script's arguments."""
    return {"name": args.dataset, "data_path": args.data_path, "cache_path": args.cache_path, "frames": args.frames,
            "im_size": args.im_size, "split": args.split, "split_file": args.split_file, "classes": args.classes,
            "preload": args.preload, "num_workers": args.num_workers, "skip_missing": args.skip_missing,
            "clips_on": args.clips_on, "protocol": args.protocol, "holdout": args.holdout}


# field of a Recipe -> the flag that overrides it
RECIPE_FLAGS = {"loss": "loss", "temperature": "temperature", "optim": "optim_net", "lr": "lr_net",
                "weight_decay": "wd_net", "epochs": "epoch_eval_train", "schedule": "schedule"}


def recipe_flags(recipe):
    """A Recipe by the names of its flags."""
    return {RECIPE_FLAGS[field]: value for field, value in recipe._asdict().items()}


def recipe_of(args, kind="class", base=None):
    """The Recipe by which networks are trained on labels of a kind: base (such as that of a set's file), or the usual
    one of the kind, and what flags say. ValueError where it makes no sense."""
    given = {field: vars(args)[flag] for field, flag in RECIPE_FLAGS.items() if vars(args)[flag] is not None}
    recipe = Recipe(**{**(base or RECIPES[kind])._asdict(), **given})
    label_loss(recipe.loss, kind)
    if "temperature" in given and recipe.loss != "kl":
        raise ValueError(f"--temperature {args.temperature:g} is of --loss kl, and the loss is {recipe.loss}: leave it "
                         "out")
    if args.cuda_graphs and (recipe.optim != "sgd" or recipe.schedule == "cosine"):
        raise ValueError(f"--cuda_graphs is for --optim_net sgd and a rate that seldom changes, and networks are "
                         f"trained by {recipe.optim}, schedule {recipe.schedule}: leave it out")
    return recipe


def eval_settings(args, device, recipe, syn_lr=None):
    """What `evaluate_synset` takes of a script's arguments. syn_lr: the rate that was learned with the set, which some
    protocols train networks at."""
    learned = syn_lr is not None and PROTOCOLS[args.protocol].learned_rate
    return {**recipe._asdict(), **({"lr": syn_lr} if learned else {}), "batch_size": args.batch_train,
            "protocol": args.protocol, "device": device, "dist": True, "dsa": dsa_of(args),
            "dtype": resolve_precision(args.precision, device), "graphs": args.cuda_graphs}


def eval_iterations(args):
    """The start, every eval_it from startIt (or eval_it) on, and the end."""
    first = args.startIt or args.eval_it
    return {0, *range(first, args.Iteration + 1, args.eval_it), args.Iteration}


def set_rates(args, synset, sgd=None):
    """(optimizer, {name: learning rate}) of a set. Rate 0 leaves tensors as they are, as those that the set keeps
    frozen. sgd: as in `set_parser`. ValueError if nothing would be trained."""
    if vars(args).get("lr_labels") is not None and not synset.learn_labels:
        raise ValueError(f"--lr_labels {args.lr_labels:g} is of --labels learned, and they are {args.labels}: leave it "
                         "out")
    all_rates = {**synset.rates, **(RATES if synset.learn_labels else {})}
    given = {name: getattr(args, name) for name in all_rates if getattr(args, name) is not None}
    optim = args.optim or ("sgd" if given else "adam")
    if optim == "sgd":
        rates = {name: (sgd or {}).get(name, default) for name, (_, default, _) in all_rates.items()}
    else:
        rates = {name: default for name, (_, _, default) in all_rates.items()}
    frozen = [name for name, tensors in synset.groups().items() if not tensors]
    for name in frozen:
        if given.pop(name, 0):
            raise ValueError(f"--{name} {getattr(args, name):g} is of {all_rates[name][0]}, which this set does not "
                             "train or has not: leave it out")
    rates |= given | dict.fromkeys(frozen, 0.0)
    if not any(rates.values()):
        raise ValueError("every learning rate of the set is 0, so nothing would be trained: give one above 0")
    return optim, rates


def run_name(args, synset):
    """What a run is called where --name does not say it."""
    labels = "" if args.labels == "class" else f"_{args.labels}"
    form = f"_{synset.form}" if hasattr(synset, "form") else ""
    form += f"_real{args.n_real}" if vars(args).get("n_real") else ""
    size = f"{args.bytes}bytes" if vars(args).get("bytes") else f"{synset.clips_flag}{synset.num_slots}"
    return f"{data_label(args)}_{args.model}_{size}{form}{labels}_seed{args.seed}"


# ---- scripts ------------------------------------------------------------------------------------------------------

def cli(main):
    """Runs a script: bad input ends in one line that says what to do, with status 1; Ctrl-C and the signals by which
    schedulers end jobs in 130. S2D_DEBUG=1 shows tracebacks."""
    def stop(number, frame):
        raise KeyboardInterrupt

    keep_memory()
    keep_streams()
    said = sys.stderr
    for number in STOPS:
        if signal.getsignal(number) == signal.SIG_DFL:      # not ignored, as nohup wants it
            signal.signal(number, stop)
    try:
        parallel.join()
        main()
    except KeyboardInterrupt as stopped:
        for number in STOPS:        # the way out is short, and not broken off
            signal.signal(number, signal.SIG_IGN)
        print(f"stopped. {str(stopped) or 'What was finished stays: the same command goes on (a run with --resume)'}",
              file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        memory = is_out_of_memory(error)
        if os.environ.get("S2D_DEBUG") or isinstance(error, RuntimeError) and not memory:
            raise
        if memory:
            error = (f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__}): ask for "
                     "fewer clips (--ipc, --vpc, --spc, --dpc), lower --chunk, --batch_real, --batch_pool, "
                     "--batch_train or --batch_syn, or, on a GPU, give --clips_on host, and go on with --resume")
        elif isinstance(error, OSError) and error.filename:
            error = f"{error.filename}: {error.strerror}: give another path, or put this one right"
        print(f"error: {error}" if not parallel.rank() else f"rank {parallel.rank()}: error: {error}", file=said)
        sys.exit(1)
    finally:
        sys.stderr = said       # of any rank: what nobody foresaw is shown
        parallel.leave()


def is_out_of_memory(error):
    """Whether an exception of any library says that memory is short: on a CPU torch's is a mere RuntimeError."""
    signs = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory",
             "Storage size calculation overflowed", "could not create a primitive")     # the last is oneDNN's
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in signs))
