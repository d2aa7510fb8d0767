"""Scores a synthetic set, or all real training clips: fresh networks are trained on it and tested on real test clips.

    python evaluate.py --synset result/S2D-DM/NAME/synset.safetensors --model ConvNet3D
    python evaluate.py --train_on full --dataset miniUCF101
"""
import hashlib
from math import prod
from pathlib import Path

from distill_utils.run import Run, cli, script_parser
from distill_utils.synset import ImageSet, load_synset, storage_bytes
from utils import check_args, check_network, data_settings, eval_settings, evaluate_synset, get_dataset


def main():
    # arguments
    parser = script_parser(__doc__)
    group = parser.add_argument_group("what is scored")
    group.add_argument("--synset", help="the synset.safetensors of a run")
    group.add_argument("--train_on", choices=("synset", "full"), default="synset", help="full: all real training clips")
    group.add_argument("--model_eval", nargs="+", help="several networks, in place of --eval_mode")
    args = parser.parse_args()
    if (args.train_on == "synset") != bool(args.synset):
        parser.error("give either --synset FILE or --train_on full")
    spec, pool = check_args(args)
    for network in args.model_eval or ():
        check_network(network, spec, args.dataset)
    pool = list(dict.fromkeys(args.model_eval or pool))

    # set
    if args.synset:
        synset, header = load_synset(args.synset)
        check_fits(header, spec, args.dataset, args.synset)
        still = isinstance(synset, ImageSet) and spec.view != "single"
        method, source = "static" if still else header["method"], Path(args.synset).resolve().parent.name
    else:
        synset, header, method, source = None, {}, "full", "all"

    # run, data
    again = method == header.get("method")     # in a room of its own, so that no score can replace the set it scores
    run = Run(args, method, f"{method}_{source}_{args.dataset}_{pool[0]}_seed{args.seed}", "score" if again else None,
              {"synset": hashlib.sha256(Path(args.synset).read_bytes()).hexdigest()} if args.synset else None)
    data = get_dataset(**data_settings(args))
    run.resume()

    # evaluation
    train_on = synset.to(run.device) if synset else data.train

    def score(_, network, seed):
        return evaluate_synset(train_on, data, network, seed=seed,
                               **eval_settings(args, run.device, header.get("syn_lr")))

    run.evaluate(0, spec, pool, score)
    if synset:      # scored as its file holds it: the same seed gives what its run reported
        extra = {"ipc": synset.num_slots, "synset": args.synset,
                 "storage_bytes": storage_bytes(synset, header["store"], spec),
                 "scored_again": again}
    else:
        extra = {"ipc": None, "synset": None, "storage_bytes": 4 * len(data.train) * prod(spec.shape)}
    run.finish(data, pool, **extra)


def check_fits(header, spec, dataset, path):
    """Raises ValueError unless a set has the classes and the shape of the data set."""
    if header["classes"] != list(spec.classes):
        raise ValueError(f"{path} has other classes ({header['classes'][:3]} ...) than --dataset {dataset} "
                         f"({list(spec.classes[:3])} ...): give --dataset {header['dataset']}")
    shape = tuple(header["arguments"]["shape"])
    if shape != spec.shape and not (header["kind"] == "ImageSet" and shape == spec.shape[-3:]):
        raise ValueError(f"{path} holds samples of shape {shape}, but --dataset {dataset} has {spec.shape}: give the "
                         "--dataset, --frames and --im_size it was made with")


if __name__ == "__main__":
    cli(main)
