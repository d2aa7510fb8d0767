"""Scores a synthetic set, or all real training clips: fresh networks are trained on it and tested on real test clips.

    python evaluate.py --synset result/S2D-DM/NAME/synset.safetensors --model ConvNet3D
    python evaluate.py --train_on full --dataset miniUCF101
"""
from math import prod
from pathlib import Path

import utils
from distill_utils import args as flags
from distill_utils.dataset import dataset_label
from distill_utils.run import Run
from distill_utils.storage import storage_bytes
from distill_utils.synset import fit, load_synset


def main():
    # arguments
    parser = flags.script_parser(__doc__)
    group = parser.add_argument_group("what is scored")
    flags.may_change(group.add_argument("--synset", help="the synset.safetensors of a run"))      # but not its content
    group.add_argument("--train_on", choices=("synset", "full"), default="synset", help="full: all real training clips")
    group.add_argument("--model_eval", nargs="+", help="several networks, in place of --eval_mode")
    args = parser.parse_args()
    if (args.train_on == "synset") != bool(args.synset):
        parser.error("give either --synset FILE or --train_on full")
    spec, pool = flags.check_args(args)
    for network in args.model_eval or ():
        utils.check_network(network, spec, args.dataset)
    pool = list(dict.fromkeys(args.model_eval or pool))

    # set
    if args.synset:
        synset, header = load_fitting(args.synset, spec, args.dataset)
        again = synset.shape == spec.shape      # scored as its run did, and not images as clips that stand still
        method, source = header["method"] if again else "static", Path(args.synset).resolve().parent.name
    else:
        header, again, method, source = {}, False, "full", "all"

    # run, data
    run = Run(parser, args, method, f"{method}_{source}_{dataset_label(args.dataset)}_{pool[0]}_seed{args.seed}",
              folder="score" if again else None)      # so that no score can replace the set it scores
    data = utils.get_dataset(**flags.data_settings(args))
    run.resume(data)

    # evaluation
    train_on = fit(synset, spec).to(run.device) if args.synset else data.train
    settings = flags.eval_settings(args, run.device, header.get("syn_lr"))
    run.evaluate(0, pool, utils.evaluate_synset, data, settings, train_on=train_on)
    if args.synset:     # scored as its file holds it: the same seed gives what its run reported
        run.finish(data, pool, ipc=synset.num_slots, synset=args.synset, scored_again=again,
                   storage_bytes=storage_bytes(synset, header["store"], spec))
    else:
        run.finish(data, pool, ipc=None, synset=None, storage_bytes=4 * len(data.train) * prod(spec.shape))


def load_fitting(path, spec, dataset):
    """A set and its header. Raises ValueError unless it has the classes and the shape of the data set."""
    synset, header = load_synset(path)
    if header["classes"] != list(spec.classes):
        raise ValueError(f"{path} has other classes ({header['classes'][:3]} ...) than --dataset {dataset} "
                         f"({list(spec.classes[:3])} ...): give --dataset {header['dataset']}, and the --classes that "
                         "it was made with")
    try:
        fit(synset, spec)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return synset, header


if __name__ == "__main__":
    flags.cli(main)
