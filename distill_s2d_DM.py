"""Dynamic stage by distribution matching (DM+S2D): static images + a learnable dynamic memory. arXiv 2312.00362.

    python distill_s2d_DM.py --dataset miniUCF101 --vpc 1 --spc 2 --dpc 2 --path_static static.pt --no_train_static \\
        --lr_dynamic 1e-4 --lr_hal 1e-5 --hal_init published --dynamic_init noise
"""
from functools import partial

import torch

from distill_utils.clips import ClassSampler
from distill_utils.matching import class_means, dm_gradient
from distill_utils.run import (
    Run,
    add_real_args,
    add_s2d_args,
    cli,
    eval_iterations,
    resolve_precision,
    script_parser,
    seeded,
    set_rates,
)
from distill_utils.synset import all_pairs
from utils import (
    PROTOCOLS,
    check_args,
    check_s2d_args,
    data_settings,
    dsa_of,
    eval_settings,
    evaluate_synset,
    get_dataset,
    get_network,
    in_precision,
    make_optimizer,
    make_s2d_set,
    open_bank,
)


def main():
    # arguments
    parser = script_parser(__doc__, iterations=5000, momentum=0.95)
    add_s2d_args(parser)
    add_real_args(parser)
    args = parser.parse_args()
    spec, pool = check_args(args)
    static = check_s2d_args(args, spec)
    optim, rates = set_rates(args, "lr_static", "lr_dynamic", "lr_hal",
                             frozen=["lr_static"] if args.no_train_static else [])

    # run, data
    run = Run(args, "S2D-DM", f"{args.dataset}_{args.model}_vpc{args.vpc}_seed{args.seed}")
    data = get_dataset(**data_settings(args))
    sampler = ClassSampler(data.train)

    # set
    synset = make_s2d_set(data.train, run.derive("start"), static, vpc=args.vpc, spc=args.spc, dpc=args.dpc,
                          n_hal=args.n_hal, hal_mode=args.hal_mode, hal_init=args.hal_init,
                          dynamic_init=args.dynamic_init).to(run.device)
    classes, slots = all_pairs(synset, run.device)

    # optimizers, resume
    optimizer = make_optimizer(optim, [
        (synset.static, rates["lr_static"]), (synset.dynamic, rates["lr_dynamic"]),
        (list(synset.hallucinators.parameters()), rates["lr_hal"])], args.momentum)
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
        loss = dm_gradient(embed, clips.unflatten(0, (spec.num_classes, args.vpc)), real_means,
                           chunk=max(1, args.chunk // (args.vpc if bank else args.batch_real)))
        optimizer.step()
        run.log(it, loss=loss / spec.num_classes)

    # finish
    run.finish(data, pool, ipc=args.vpc)


if __name__ == "__main__":
    cli(main)
