"""Scores a synthetic set, or all real training clips: fresh networks are trained on it and tested on real test clips.

    python evaluate.py --synset result/S2D-DM/NAME/synset.safetensors --model ConvNet3D
    python evaluate.py --train_on full --dataset miniUCF101

Sets of other programs (.pt files) are scored too; those of S2D by --synset static.pt --dynamic FILE --hal FILE --vpc N.
--restore h264:28 stores a set anew and scores it as it is then; --fair compares it with random clips of as many clips
and of as many bytes.
"""
import argparse
import sys
from math import prod
from pathlib import Path

import utils
from distill_utils import args as flags
from distill_utils import augment, fair, parallel
from distill_utils.files import read_summed
from distill_utils.labels import check_recipe
from distill_utils.run import ABOUT_LOSS, Run, data_digest
from distill_utils.storage import STORES, as_stored, file_bytes, file_sum, save_synset, storage_bytes
from distill_utils.synset import check_classes, fit, is_ours, load_published, load_synset


def main():
    # arguments
    parser = flags.script_parser(__doc__)
    group = parser.add_argument_group("what is scored")
    # of files the name may change, but not the content
    flags.may_change(group.add_argument("--synset", help="the synset.safetensors of a run, or a published set: a .pt "
                                        "file of images or clips (docs/formats.md)"))
    flags.add_published_args(group)
    group.add_argument("--train_on", choices=("synset", "full"), default="synset", help="full: all real training clips")
    group.add_argument("--model_eval", nargs="+", help="several networks, in place of --eval_mode")
    group.add_argument("--restore", type=flags.store, metavar="STORE", help="store the set anew, as --store does when "
                       "a set is made, and score it so; the new file is in the folder of the score")
    group = parser.add_argument_group("fair comparison")
    group.add_argument("--fair", type=flags.store, nargs="?", const=True, metavar="STORE", help="score random clips "
                       "with labels of the same kind too, as many as the set has and as many as fit in its bytes in "
                       "STORE (if not given, in the set's own, or h264:36 where that is not coded), and all with and "
                       "without DSA: the measures IOR and ARS and, with --full, HLR and LRS (docs/results.md)")
    flags.may_change(group.add_argument("--full", metavar="FILE", help="result.json of --train_on full"))
    group.add_argument("--teacher", type=flags.positive, metavar="N", help="where the set has soft labels: so many "
                       "experts label the random clips; if not given, as many as labelled the set, or 5")
    flags.add_buffer_arg(group)
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
    for flag in ("teacher", "buffer_path"):
        if kind == "class" and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag} {getattr(args, flag)} changes nothing, as this set has class labels: leave it out")
    recipe = flags.recipe_of(args, kind, header.get("recipe") and check_recipe(header["recipe"]))

    # run, data
    source += (f"_{args.restore.replace(':', '-')}" if args.restore else "") + ("_fair" if args.fair else "")
    run = Run(parser, args, method, f"{method}_{source}_{flags.data_label(args)}_{pool[0]}_seed{args.seed}",
              folder="score" if again else None, recipe=recipe)      # so that no score can replace the set it scores
    data = utils.get_dataset(**flags.data_settings(args))
    made_of = header.get("clips") or {}
    if args.holdout and made_of.get("names") not in (None, data.train.identity()["names"]):
        raise ValueError(f"{args.synset} was made of other clips than those that --holdout {args.holdout:g} leaves for "
                         "training, and may have seen those that are held back: make it with the same --holdout, or "
                         "leave it out")
    if args.fair and synset.num_slots > data.train.clips_of_each:
        raise ValueError(f"--fair needs as many random clips of each class as the set has, {synset.num_slots}, and "
                         f"there are {data.train.clips_of_each}: leave it out")
    full = read_full(args, pool[0], data) if args.full else {}
    teacher = None
    if args.fair and kind != "class":
        teacher = flags.teacher_of(argparse.Namespace(**vars(args) | {
            "labels": "teacher", "teacher": args.teacher or header.get("teacher")}), data, run.device)
    run.resume(data, teacher=teacher)

    # evaluation
    settings = flags.eval_settings(args, run.device, recipe, header.get("syn_lr"))
    if not args.synset:
        run.evaluate(0, pool, utils.evaluate_synset, data, settings, train_on=data.train)
        run.finish(data, pool, ipc=None, synset=None, storage_bytes=4 * len(data.train) * prod(spec.shape))
        return
    stored = as_stored(synset, args.restore, spec) if args.restore else synset
    train_on = fit(stored, spec).to(run.device)
    run.evaluate(0, pool, utils.evaluate_synset, data, settings, train_on=train_on)

    # result
    about = {"ipc": synset.num_slots, "labels": header.get("labelled", kind), "teacher": header.get("teacher"),
             **{key: header.get(key) for key in ABOUT_LOSS}, "form": getattr(synset, "form", None)}
    if args.restore:
        path = run.folder / "synset.safetensors"
        if run.writes:
            save_synset(path, synset, spec, args.restore, **{
                key: header[key] for key in header.keys() - {"store", "through_store"}})
        parallel.wait()
        about |= {"restored": args.synset, "through_store": None, "storage_bytes": file_bytes(path)}
    else:       # scored as its file holds it: the same seed gives what its run reported
        about |= {"synset": args.synset, "scored_again": again and ours, "store": header["store"],
                  "set_sum": file_sum(args.synset) if ours else None,
                  "storage_bytes": file_bytes(args.synset) if ours else storage_bytes(synset)}
    if args.fair:
        about["fair"] = compare(args, run, data, train_on, pool[0], settings, teacher, about["storage_bytes"],
                                store_of_clips(args, header), full)
    run.finish(data, pool, **about)


def compare(args, run, data, synset, network, settings, teacher, limit, store, full):
    """The measures of fair.py, of a set that was scored. full: the result of all real clips, or {}."""
    def score(number, train_on, settings):
        return run.network_scores(number, train_on, data, network, utils.evaluate_synset, settings)["top1"]

    dsa, parts = flags.dsa_of(args), [part for part in augment.STRATEGY.split("_") if data.spec.flip or part != "flip"]
    class_recipe = flags.recipe_of(argparse.Namespace(**vars(args) | {"loss": None, "temperature": None}))
    own = [r["top1"] for r in run.history if r["network"] == network]
    found = fair.compare(run, data, synset, own, score, settings, augment.parse(
        "none" if dsa.parts else "_".join(parts), args.dsa_param), class_recipe, teacher, store, limit)
    if "ior_bytes" not in found:
        print(f"note: in one of the draws not one random clip of each class fits in {limit:,} bytes in the store "
              f"{store}, so IOR at equal bytes is not known", file=sys.stderr)
    if not full:
        print("note: HLR and LRS need --full, the result.json of evaluate.py --train_on full", file=sys.stderr)
        return found
    hlr = full["top1_mean"] - found["top1_class_labels"]
    if hlr < 0:
        print(f"note: the networks of --full {args.full}, trained for {full.get('epochs')} epochs on all real clips, "
              "score below those of this set: train them longer, or HLR and LRS mean nothing", file=sys.stderr)
    return found | {"hlr": hlr, "lrs": fair.robust_score((found["ior"] - hlr) / 2), "full": {
        key: full.get(key) for key in ("top1_mean", "epochs", "optim_net", "lr_net", "num_networks")}}


def store_of_clips(args, header):
    """In which random clips are to fit in the bytes of the set: its own, where that codes pixels."""
    own = args.restore or header["store"]
    return args.fair if args.fair is not True else own if own not in STORES else "h264:36"


def read_full(args, network, data):
    """The result of --full. ValueError unless it is of all these real clips, and of this network."""
    result, wanted = read_summed(args.full), {"method": "full", "network": network, "protocol": args.protocol,
                                              "data": data_digest(data), "dsa": args.dsa_strategy}
    for key, value in wanted.items():
        if result.get(key) != value:
            raise ValueError(f"--full {args.full}: its {key} is {result.get(key)}, and not {value}: give the "
                             "result.json of evaluate.py --train_on full with the same data set, network and protocol")
    return result


def check_flags(parser, args, ours):
    """A flag that would change nothing is refused."""
    if args.store != parser.get_default("store"):
        parser.error(f"--store {args.store} is of a set that is made: real clips have none, and a set is scored as its "
                     "file holds it: give --restore, to store it anew")
    for flag, needed in (("restore", "synset"), ("fair", "synset"), ("full", "fair"), ("teacher", "fair"),
                         ("buffer_path", "fair")):
        if getattr(args, flag) != parser.get_default(flag) and not getattr(args, needed):
            parser.error(f"--{flag} changes nothing without --{needed}: give that too, or leave it out")
    if args.model_eval and args.eval_mode != parser.get_default("eval_mode"):
        parser.error(f"--eval_mode {args.eval_mode} and --model_eval both name the networks: give one of them")
    of_others = {name: getattr(args, name) for name in ("dynamic", "hal", "vpc", "values") if getattr(args, name)}
    if (ours or not args.synset) and of_others:
        parser.error(f"--{', --'.join(of_others)}: only for a published set, --synset FILE.pt")
    flags.check_published_args(parser, args)


def check_rate(parser, args, header):
    learned = header.get("syn_lr") is not None and utils.PROTOCOLS[args.protocol].learned_rate
    if learned and args.lr_net is not None:
        parser.error(f"--lr_net {args.lr_net} changes nothing: --protocol {args.protocol} trains networks at the rate "
                     f"that was learned with the set, {header['syn_lr']:g}")


def load_fitting(path, spec):
    """A set and its header. Raises ValueError unless it has the classes and the shape of the data set."""
    def check(empty, header):
        if header.get("method") is None:
            raise ValueError(f"the header of {path} names no method: give the synset.safetensors of a run")
        check_classes(path, header, spec)
        try:
            fit(empty, spec)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    return load_synset(path, check)


if __name__ == "__main__":
    flags.cli(main)
