"""Coreset baselines: real training clips chosen by class. Random, herding (Welling 2009), k-center (ICLR 2018).

    python distill_coreset.py --dataset miniUCF101 --method herding --ipc 1 --train_epochs 50

--set says how the chosen clips are written down: whole, as their middle frames, or as static images + movement.
--bytes 2MB takes as many of them as fit.
"""
import argparse
import sys
from pathlib import Path

import torch

import networks
import utils
from distill_utils import args as flags
from distill_utils import parallel
from distill_utils.coreset import METHODS, most_that_fit
from distill_utils.labels import RECIPES
from distill_utils.progress import progress
from distill_utils.published import FLOATS, plain
from distill_utils.run import Run
from distill_utils.seeds import make_generator
from distill_utils.storage import STORES, check_state, storage_bytes
from distill_utils.synset import SETS, method_name
from distill_utils.tensors import TensorFile, load_plain, save_tensors


def main():
    # arguments
    parser, kind = flags.set_parser(__doc__, SETS, trained=False)
    group = parser.add_argument_group("selection")
    group.add_argument("--method", choices=tuple(METHODS), default="random")
    group.add_argument("--train_epochs", type=flags.not_negative, default=0,
                       help="features of herding and k-center: train --model for so many epochs on the real clips")
    flags.may_change(group.add_argument("--pretrained_path", help="or read its weights (.safetensors, or a .pt state "
                                        "dict)"))        # but not its content
    group.add_argument("--random_features", action="store_true", help="or use a network that was not trained")
    group.add_argument("--bytes", type=flags.byte_count, metavar="SIZE", help=f"in place of "
                       f"--{SETS[kind].clips_flag}: take as many clips of each class as fit in so many bytes, such as "
                       "500kB or 2MB, as --store writes the set")
    args = parser.parse_args()
    spec, pool = flags.check_args(args)
    if args.bytes:
        for flag in (SETS[kind].clips_flag, "spc", "dpc"):
            if vars(args).get(flag) != parser.get_default(flag):
                raise ValueError(f"--bytes and --{flag} {vars(args)[flag]} both say how many clips are taken: leave "
                                 "out one of them")

    def make_set(clips=None):
        """Empty, of so many clips a class."""
        return SETS[kind].from_args(argparse.Namespace(**vars(args) | (
            {SETS[kind].clips_flag: clips} if clips else {})), spec)

    synset = make_set()
    recipe = flags.recipe_of(args, synset.label_kind)
    sources = [bool(args.train_epochs), bool(args.pretrained_path), args.random_features]
    if args.method != "random" and sum(sources) != 1:
        parser.error(f"--method {args.method} needs features: give one of --train_epochs N, --pretrained_path FILE and "
                     "--random_features")
    if args.method == "random" and any(sources):
        parser.error("--method random looks at no features: leave out --train_epochs, --pretrained_path and "
                     "--random_features")
    weights = read_weights(args.pretrained_path, args.model, spec) if args.pretrained_path else None

    # run, data
    run = Run(parser, args, method_name(args.method, kind), flags.run_name(args, synset), recipe=recipe)
    data = utils.get_dataset(**flags.data_settings(args))
    teacher = flags.teacher_of(args, data, run.device)
    data.train.check_count(synset.clips_needed)
    settings = flags.eval_settings(args, run.device, recipe)

    def random_clips(n):     # those that pixels and static + dynamic sets of the same seed start from
        return data.train.random_clips(n, make_generator(run.derive("start")))

    def fill(clips, choose):
        """A set of so many clips a class."""
        synset = make_set(clips)
        synset.encode(choose(synset.clips_needed))
        return synset

    if args.bytes:      # what a clip takes depends little on which it is, and an earlier run is still there
        check_bytes(args, storage_bytes(fill(1, random_clips), args.store, spec), args.method != "random")
    run.resume(data, teacher=teacher)

    # selection
    choose = random_clips
    if args.method != "random":
        network = feature_network(args, run, data, weights)
        features = embed_all(network, data.train, args.batch_train, utils.PROTOCOLS[args.protocol], run.device)

        def choose(n):
            chosen = []
            for k in range(spec.num_classes):
                members = (data.train.labels == k).nonzero()[:, 0]
                chosen.append(members[METHODS[args.method](features[members], n, run.generator("choice", k))])
            return data.train.get(torch.cat(chosen)).unflatten(0, (spec.num_classes, n))

    clips = None
    if args.bytes:
        most = data.train.clips_of_each
        clips = most_that_fit(lambda n: storage_bytes(fill(n, choose), args.store, spec), args.bytes, most)
        if not clips:
            check_bytes(args, storage_bytes(fill(1, choose), args.store, spec))
        print(f"note: {clips} of {most} clips of each class fit in {args.bytes:,} bytes", file=sys.stderr)
    synset = fill(clips, choose)

    # evaluation
    run.evaluate(0, pool, utils.evaluate_synset, data, settings, synset, teacher)
    run.finish(data, pool, ipc=synset.num_slots)


def check_bytes(args, of_one, about=False):
    """ValueError where not even one clip of each class fits in --bytes. about: far from it, as others may take less."""
    if of_one > args.bytes * (2 if about and args.store not in STORES else 1):
        raise ValueError(f"--bytes {args.bytes}: one clip of each class takes {of_one:,} bytes in the store "
                         f"{args.store}: give as many, or a store that takes fewer")


def read_weights(path, model, spec, flag="--pretrained_path ", way_out="give the network.safetensors of a run with "
                                                                     "--train_epochs"):
    """The state dict of a file. ValueError unless it is one of the network, before any work is done."""
    try:
        state = TensorFile(path).read_all() if Path(path).suffix == ".safetensors" else load_plain(path)
        with torch.device("meta"):
            wanted = networks.lookup(model)(spec).state_dict()
        if not isinstance(state, dict):
            raise ValueError(f"it is a {type(state).__name__}")
        state = {name: plain(value, f"its {str(name)[:80]}", (*FLOATS, torch.int64)) for name, value in state.items()}
        check_state(state, wanted, "the network", FLOATS)
        return state
    except ValueError as error:
        raise ValueError(f"{flag}{path} is not a state dict of {model} for this data set ({error}): "
                         f"{way_out}") from None


def feature_network(args, run, data, weights):
    """The network whose embeddings the selection sees. One trained here is saved in the run's folder."""
    saved = run.folder / "network.safetensors"
    if args.train_epochs and run.writes and not saved.is_file():
        recipe = RECIPES["class"]._replace(epochs=args.train_epochs)    # whatever the labels of the set need
        network = utils.train_network(data.train, data.spec, args.model, seed=run.derive("features"), desc="features",
                                      **flags.eval_settings(args, run.device, recipe))
        save_tensors(saved, networks.plain(network).state_dict())
    parallel.wait()
    with run.seeded("features"):
        network = utils.get_network(args.model, data.spec, run.device)
    if not args.random_features:
        network.load_state_dict(weights or read_weights(saved, args.model, data.spec, "", "remove it, and the same "
                                                        "command trains it again"))
    return network


@torch.no_grad()
def embed_all(network, clips, batch_size, rules, device):
    """Embeddings (N, D) of all clips in the test view, standardised as in training, on the CPU."""
    network.eval()
    batches = torch.arange(len(clips)).split(batch_size)        # the same, whoever has them
    own = parallel.share(len(batches))
    rows = [network.embed(rules.evaluation(clips.get(batch, device=device))).cpu()
            for batch in progress(batches[own.start:own.stop], desc="features", unit="batch")]
    none = network.embed(rules.evaluation(clips.get([0], device=device)))[:0].cpu()      # of more ranks than batches
    return parallel.join_rows(torch.cat([none, *rows]))[0]


if __name__ == "__main__":
    flags.cli(main)
