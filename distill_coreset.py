"""Coreset baselines: real training clips chosen by class. Random, herding (Welling 2009), k-center (ICLR 2018).

    python distill_coreset.py --dataset miniUCF101 --method herding --ipc 1 --train_epochs 50
"""
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import networks
from distill_utils.coreset import METHODS
from distill_utils.files import replacing
from distill_utils.run import Run, cli, generator, not_negative, positive, progress, script_parser
from distill_utils.synset import VideoSet
from utils import (
    PROTOCOLS,
    check_args,
    data_settings,
    eval_settings,
    evaluate_synset,
    get_dataset,
    get_network,
    train_network,
)


def main():
    # arguments
    parser = script_parser(__doc__)
    group = parser.add_argument_group("selection")
    group.add_argument("--method", choices=tuple(METHODS), default="random")
    group.add_argument("--ipc", type=positive, default=1, help="clips a class")
    group.add_argument("--train_epochs", type=not_negative, default=0,
                       help="features of herding and k-center: train --model for so many epochs on the real clips")
    group.add_argument("--pretrained_path", help="or read its weights (.safetensors, or a .pt state dict)")
    group.add_argument("--random_features", action="store_true", help="or use a network that was not trained")
    args = parser.parse_args()
    spec, pool = check_args(args)
    sources = [bool(args.train_epochs), bool(args.pretrained_path), args.random_features]
    if args.method != "random" and sum(sources) != 1:
        parser.error(f"--method {args.method} needs features: give one of --train_epochs N, --pretrained_path FILE and "
                     "--random_features")
    if args.method == "random" and any(sources):
        parser.error("--method random looks at no features: leave out --train_epochs, --pretrained_path and "
                     "--random_features")
    weights = read_weights(args.pretrained_path, args.model, spec) if args.pretrained_path else None

    # run, data
    run = Run(args, args.method, f"{args.dataset}_{args.model}_ipc{args.ipc}_seed{args.seed}")
    data = get_dataset(**data_settings(args))
    data.train.check_count(args.ipc)
    run.resume()

    # selection
    synset = VideoSet(spec.num_classes, args.ipc, spec.shape)
    if args.method == "random":     # the clips that pixel DM of the same seed starts from
        synset.videos.data = data.train.start(args.ipc, generator(run.derive("start"))).flatten(0, 1)
    else:
        network = feature_network(args, run, data, weights)
        features = embed_all(network, data.train, args.batch_train, args.protocol, run.device)
        chosen = []
        for k in range(spec.num_classes):
            members = (data.train.labels == k).nonzero()[:, 0]
            chosen.append(members[METHODS[args.method](features[members], args.ipc, run.generator("choice", k))])
        synset.videos.data = data.train.get(torch.cat(chosen))

    # evaluation
    score = partial(evaluate_synset, data=data, **eval_settings(args, run.device))

    run.evaluate(0, spec, pool, score, synset)
    run.finish(data, pool, ipc=args.ipc)


def read_weights(path, model, spec):
    """The state dict of a file. ValueError unless it is one of the network, before any work is done."""
    try:
        state = (load_file(path) if Path(path).suffix == ".safetensors"
                 else torch.load(path, map_location="cpu", weights_only=True))
        with torch.device("meta"):
            networks.lookup(model)(spec).load_state_dict(state, assign=True)
    except Exception as error:      # whatever the readers meet in a file that is none
        raise ValueError(f"--pretrained_path {path} is not a state dict of {model} for this data set ({error}): give "
                         "the network.safetensors of a run with --train_epochs") from error
    return state


def feature_network(args, run, data, weights):
    """The network whose embeddings the selection sees. One trained here is kept in the run's folder."""
    kept = run.folder / "network.safetensors"
    if args.train_epochs and not kept.is_file():
        settings = eval_settings(args, run.device) | {"epochs": args.train_epochs}
        network = train_network(data.train, data.spec, args.model, seed=run.derive("features"), desc="features",
                                **settings)
        with replacing(kept) as temporary:
            save_file(getattr(network, "module", network).state_dict(), temporary)
        return network
    with run.seeded("features"):
        network = get_network(args.model, data.spec, run.device)
    if not args.random_features:
        network.load_state_dict(weights or load_file(kept))
    return network


@torch.no_grad()
def embed_all(network, clips, batch_size, protocol, device):
    """Embeddings (N, D) of all clips in the test view, standardised as in training, on the CPU."""
    network.eval()
    rows = [network.embed(PROTOCOLS[protocol].evaluation(clips.get(batch, device=device))).cpu()
            for batch in progress(torch.arange(len(clips)).split(batch_size), desc="features", unit="batch")]
    return torch.cat(rows)


if __name__ == "__main__":
    cli(main)
