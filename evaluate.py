"""Scores a synthetic set, or all real training clips: fresh networks are trained on it and tested on real test clips.

    python evaluate.py --synset result/S2D-DM/NAME/synset.safetensors --model ConvNet3D
    python evaluate.py --train_on full --dataset miniUCF101

Sets of other programs (.pt files) are scored too; those of S2D by --synset static.pt --dynamic FILE --hal FILE --vpc N.
"""
from math import prod
from pathlib import Path

import utils
from distill_utils import args as flags
from distill_utils.labels import check_recipe
from distill_utils.run import Run
from distill_utils.storage import file_bytes, storage_bytes
from distill_utils.synset import check_classes, fit, is_ours, load_published, load_synset


def main():
    # arguments
    parser = flags.script_parser(__doc__)
    group = parser.add_argument_group("what is scored")
    # of files the name may change, but not the content
    flags.may_change(group.add_argument("--synset", help="the synset.safetensors of a run, or a published set: a .pt "
                                        "file of images or clips (docs/formats.md)"))
    flags.may_change(group.add_argument("--dynamic", help="of a set of S2D, whose static images are --synset: its "
                                        "dynamic_*.pt"))
    flags.may_change(group.add_argument("--hal", help="and its hallucinators, hal_*.pt or weights_best.pt"))
    group.add_argument("--vpc", type=flags.positive, help="and how many clips of each class they make: published are "
                       "one for two static images")
    flags.add_values_arg(group)
    group.add_argument("--train_on", choices=("synset", "full"), default="synset", help="full: all real training clips")
    group.add_argument("--model_eval", nargs="+", help="several networks, in place of --eval_mode")
    args = parser.parse_args()
    if (args.train_on == "synset") != bool(args.synset):
        parser.error("give either --synset FILE or --train_on full")
    ours = bool(args.synset) and is_ours(args.synset)
    check_flags(parser, args, ours)
    spec, pool = flags.check_args(args)
    for network in args.model_eval or ():
        utils.check_network(network, spec, args.dataset)
    pool = list(dict.fromkeys(args.model_eval or pool))

    # set
    if args.synset:
        if ours:
            synset, header = load_fitting(args.synset, spec)
            source = Path(args.synset).resolve().parent.name
        else:
            synset = load_published(args.synset, spec, args.values, args.dynamic, args.hal, args.vpc)
            header, source = {"method": "published", "store": "float32"}, Path(args.synset).stem
        again = synset.shape == spec.shape      # scored as its run did, and not images as clips that stand still
        method = header["method"] if again else "static"
    else:
        header, again, method, source = {}, False, "full", "all"
    check_rate(parser, args, header)
    kind = synset.label_kind if args.synset else "class"
    recipe = flags.recipe_of(args, kind, header.get("recipe") and check_recipe(header["recipe"]))

    # run, data
    run = Run(parser, args, method, f"{method}_{source}_{flags.data_label(args)}_{pool[0]}_seed{args.seed}",
              folder="score" if again else None, recipe=recipe)      # so that no score can replace the set it scores
    data = utils.get_dataset(**flags.data_settings(args))
    made_of = header.get("clips") or {}
    if args.holdout and made_of.get("names") not in (None, data.train.identity()["names"]):
        raise ValueError(f"{args.synset} was made of other clips than those that --holdout {args.holdout:g} leaves for "
                         "training, and may have seen those that are held back: make it with the same --holdout, or "
                         "leave it out")
    run.resume(data)

    # evaluation
    train_on = fit(synset, spec).to(run.device) if args.synset else data.train
    settings = flags.eval_settings(args, run.device, recipe, header.get("syn_lr"))
    run.evaluate(0, pool, utils.evaluate_synset, data, settings, train_on=train_on)
    if args.synset:     # scored as its file holds it: the same seed gives what its run reported
        run.finish(data, pool, ipc=synset.num_slots, synset=args.synset, scored_again=again and ours,
                   labels=header.get("labelled", kind), teacher=header.get("teacher"),
                   **{key: header.get(key) for key in ("dm_networks", "dm_kernel", "dm_n_real")},
                   form=getattr(synset, "form", None),
                   storage_bytes=file_bytes(args.synset) if ours else storage_bytes(synset))
    else:
        run.finish(data, pool, ipc=None, synset=None, storage_bytes=4 * len(data.train) * prod(spec.shape))


def check_flags(parser, args, ours):
    """A flag that would change nothing is refused."""
    if args.store != parser.get_default("store"):
        parser.error(f"--store {args.store} is of a set that is made: real clips have none, and a set is scored as its "
                     "file holds it")
    if args.model_eval and args.eval_mode != parser.get_default("eval_mode"):
        parser.error(f"--eval_mode {args.eval_mode} and --model_eval both name the networks: give one of them")
    of_others = {name: getattr(args, name) for name in ("dynamic", "hal", "vpc", "values") if getattr(args, name)}
    if (ours or not args.synset) and of_others:
        parser.error(f"--{', --'.join(of_others)}: only for a published set, --synset FILE.pt")
    if len(of_others.keys() - {"values"}) in (1, 2):
        parser.error("a set of S2D needs all of --dynamic FILE, --hal FILE and --vpc N")
    if args.dynamic and flags.spec_of(args).view == "single":
        parser.error(f"--dynamic makes clips, and --dataset {args.dataset} gives single frames")


def check_rate(parser, args, header):
    learned = header.get("syn_lr") is not None and utils.PROTOCOLS[args.protocol].learned_rate
    if learned and args.lr_net is not None:
        parser.error(f"--lr_net {args.lr_net} changes nothing: --protocol {args.protocol} trains networks at the rate "
                     f"that was learned with the set, {header['syn_lr']:g}")


def load_fitting(path, spec):
    """A set and its header. Raises ValueError unless it has the classes and the shape of the data set."""
    synset, header = load_synset(path)
    if header.get("method") is None:
        raise ValueError(f"the header of {path} names no method: give the synset.safetensors of a run")
    check_classes(path, header, spec)
    try:
        fit(synset, spec)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return synset, header


if __name__ == "__main__":
    flags.cli(main)
