"""Distribution matching (DM), of any kind of set. Zhao and Bilen, arXiv 2110.04181.

    python distill_DM.py --dataset miniUCF101 --ipc 1 --lr_img 30
    python distill_DM.py --set still --dataset miniUCF101 --ipc 1
"""
from functools import partial

import utils
from distill_utils import args as flags
from distill_utils.bank import Bank, SampledMeans
from distill_utils.clips import cache_folder
from distill_utils.device import check_memory, in_precision, resolve_precision
from distill_utils.matching import chunked_gradient, dm_loss
from distill_utils.run import Run
from distill_utils.seeds import seeded
from distill_utils.synset import SETS, all_pairs, method_name


def main(description=__doc__, only=None, iterations=5000, momentum=0.5):
    """only: the set of a script for one pair; the others are its published defaults."""
    # arguments
    parser, kind = flags.set_parser(description, SETS, only)
    flags.add_distill_args(parser, iterations, momentum)
    group = flags.add_real_args(parser)
    group.add_argument("--bank", type=flags.positive, metavar="P", help="draw the networks from P seeded ones, whose "
                       "class means over all training clips (centre clips, both flips) are computed once, for all runs "
                       "on this kind of device. Give some hundred: a set overfits to fewer networks, and scores worse. "
                       "If not given, a fresh network and --batch_real clips of each class an iteration (as published)")
    flags.may_change(group.add_argument("--chunk", type=flags.positive, default=640, help="real samples in memory as "
                                        "floats at a time; with a bank, synthetic ones"))
    args = parser.parse_args()
    spec, pool = flags.check_args(args)
    synset = SETS[kind].from_args(args, spec)
    optim, rates = flags.set_rates(args, synset)
    rules, dsa = utils.PROTOCOLS[args.protocol], flags.dsa_of(args)
    if args.bank:       # of each network the means of at least 256 features stay in memory
        check_memory(f"--bank {args.bank}", args.bank * spec.num_classes * 256)
    if dsa.parts and args.bank:
        raise ValueError("--bank holds the class means of clips as they are, and --dsa_strategy changes them in each "
                         "iteration: leave out one of them")

    # run, data
    run = Run(parser, args, method_name("DM", kind), flags.run_name(args, synset))
    data = utils.get_dataset(**flags.data_settings(args))
    settings, dtype = flags.eval_settings(args, run.device), resolve_precision(args.precision, run.device)

    # set
    synset.start(data.train, run.derive("start"))
    synset.to(run.device)
    classes, slots = all_pairs(synset, run.device)

    # optimizers, resume
    optimizer = utils.make_optimizer(optim, rates, synset, args.momentum)
    run.resume(data, synset=synset, optimizer=optimizer)

    def make_network(seed):
        with seeded(seed, run.device):
            return utils.get_network(args.model, spec, run.device, dist=True).requires_grad_(False)

    def embed_real(network, clips):
        return in_precision(network.embed, dtype)(rules.matching(clips))

    if args.bank:
        real = Bank(cache_folder(args.data_path, args.cache_path), data.train, args.bank, run.seed, model=args.model,
                    weights=utils.weights_digest(make_network(Bank.seed_of(0))), protocol=args.protocol,
                    dtype=str(dtype))
        real.build(make_network, embed_real, run.device, args.chunk)
    else:
        real = SampledMeans(data.train, args.batch_real, run.seed)
    chunk = max(1, args.chunk // (real.per_class or synset.num_slots))      # classes at a time

    def loss_of(clips, classes, it, network, augment, generator):
        means = real.means(it, classes, lambda x: embed_real(network, augment(x)), generator, run.device)
        return dm_loss(lambda x: network.embed(rules.matching(augment(x))), means, clips)

    # loop
    for it in run.loop(args.Iteration):
        if it in flags.eval_iterations(args):
            run.evaluate(it, pool, utils.evaluate_synset, data, settings, synset)
        if it == args.Iteration:
            break
        network, generator = make_network(real.network_seed(it)), run.generator(it, "clips")
        augment = partial(dsa.apply, draw=dsa.draw(run.generator(it, "dsa")))   # the same for real and synthetic clips
        clips, _ = synset.render(classes, slots, generator)
        optimizer.zero_grad()
        loss = chunked_gradient(partial(loss_of, it=it, network=network, augment=augment, generator=generator),
                                clips.unflatten(0, (spec.num_classes, synset.num_slots)), chunk)
        optimizer.step()
        run.log(it, loss=loss / spec.num_classes)

    # finish
    run.finish(data, pool, ipc=synset.num_slots)


if __name__ == "__main__":
    flags.cli(main)
