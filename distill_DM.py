"""Baseline: whole clips as pixels by distribution matching (DM). Zhao and Bilen, arXiv 2110.04181.

    python distill_DM.py --dataset miniUCF101 --ipc 1 --lr_img 30
"""
from functools import partial

import torch

from distill_utils.clips import ClassSampler
from distill_utils.matching import class_means, dm_gradient
from distill_utils.run import (
    Run,
    add_rates,
    add_real_args,
    cli,
    eval_iterations,
    generator,
    positive,
    resolve_precision,
    script_parser,
    seeded,
    set_rates,
)
from distill_utils.synset import VideoSet, all_pairs
from utils import (
    PROTOCOLS,
    check_args,
    data_settings,
    dsa_of,
    eval_settings,
    evaluate_synset,
    get_dataset,
    get_network,
    in_precision,
    make_optimizer,
    open_bank,
)


def main():
    # arguments
    parser = script_parser(__doc__, iterations=5000, momentum=0.5)
    group = parser.add_argument_group("synthetic set")
    group.add_argument("--ipc", type=positive, default=1, help="synthetic clips a class")
    group.add_argument("--init", choices=("real", "noise"), default="real", help="start of the clips")
    add_rates(group, lr_img="the pixels")
    add_real_args(parser)
    args = parser.parse_args()
    spec, pool = check_args(args)
    optim, rates = set_rates(args, "lr_img")

    # run, data
    run = Run(args, "DM", f"{args.dataset}_{args.model}_ipc{args.ipc}_seed{args.seed}")
    data = get_dataset(**data_settings(args))
    sampler = ClassSampler(data.train)

    # set
    synset = VideoSet(spec.num_classes, args.ipc, spec.shape)
    if args.init == "real":
        synset.videos.data = data.train.start(args.ipc, generator(run.derive("start"))).flatten(0, 1)
    else:
        synset.videos.data.normal_(generator=generator(run.derive("start")))
    synset.to(run.device)
    classes, slots = all_pairs(synset, run.device)

    # optimizers, resume
    optimizer = make_optimizer(optim, [(synset.videos, rates["lr_img"])], args.momentum)
    run.resume(synset=synset, optimizer=optimizer)
    dsa, dtype = dsa_of(args), resolve_precision(args.precision, run.device)
    bank = open_bank(args, data, run.device) if args.bank else None

    score = partial(evaluate_synset, data=data, **eval_settings(args, run.device))

    def embed(clips, dtype=torch.float32):
        return in_precision(network.embed, dtype)(PROTOCOLS[args.protocol].matching(dsa.apply(clips, siamese)))

    def real_means(classes):
        if bank:
            return means[classes.start:classes.stop]
        real = sampler.draw(classes, args.batch_real, draw, run.device)
        return class_means(partial(embed, dtype=dtype), real)

    # loop
    for it in run.loop(args.Iteration):
        if it in eval_iterations(args):
            run.evaluate(it, spec, pool, score, synset)
        if it == args.Iteration:
            break
        number = bank.draw(run.seed, it) if bank else None
        with seeded(bank.seed(number) if bank else run.derive(it, "network"), run.device):
            network = get_network(args.model, spec, run.device, dist=True).requires_grad_(False)
        means = bank.means(number, run.device) if bank else None
        draw = run.generator(it, "clips")
        siamese = dsa.draw(run.generator(it, "dsa"))     # the same for real and synthetic clips
        clips, _ = synset.render(classes, slots, draw)
        optimizer.zero_grad()
        loss = dm_gradient(embed, clips.unflatten(0, (spec.num_classes, args.ipc)), real_means,
                           chunk=max(1, args.chunk // (args.ipc if bank else args.batch_real)))
        optimizer.step()
        run.log(it, loss=loss / spec.num_classes)

    # finish
    run.finish(data, pool, ipc=args.ipc)


if __name__ == "__main__":
    cli(main)
