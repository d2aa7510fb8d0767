"""Neural feature regression (FRePo), of any kind of set. Zhou, Nezhadarya and Ba, arXiv 2206.00719.

    python distill_FRePo.py --dataset miniUCF101 --ipc 1
    python distill_FRePo.py --set still --dataset miniUCF101 --ipc 1

Real clips are predicted from the synthetic clips and their learned labels by kernel ridge regression, in the features
of networks that are trained on the set meanwhile.
"""
from functools import partial
from math import cos, pi

import torch

import utils
from distill_utils import args as flags
from distill_utils import parallel
from distill_utils.device import default_chunk, in_precision, resolve_precision, set_kernels
from distill_utils.labels import centred, start_labels
from distill_utils.matching import frepo_gradient
from distill_utils.parallel import Shards
from distill_utils.run import Run
from distill_utils.storage import ThroughStore
from distill_utils.synset import SETS, all_pairs, grow, method_name
from networks import plain


def main(description=__doc__, only=None, iterations=10000, momentum=0.5):
    """only: the set of a script for one pair; the others are its published defaults."""
    # arguments
    parser, kind = flags.set_parser(description, SETS, only, labels=("learned", "class", "teacher"),
                                    kinds_of_labels=("centred",))
    flags.add_distill_args(parser, iterations, momentum)
    parser.set_defaults(optim="adam")       # whatever rates are given: none was published for SGD
    group = flags.add_real_args(parser, 512, "of all classes")
    group.add_argument("--reg", type=flags.above_zero, default=1e-6, help="ridge of the regression: larger is smoother")
    group.add_argument("--use_flip", action="store_true", help="predict from the mirrored clips too")
    flags.may_change(group.add_argument("--chunk", type=flags.positive, default=640, help="synthetic clips whose "
                                        "gradients are in memory at a time"))
    group.add_argument("--decay_it", type=flags.positive, help="let the learning rates of the set fall to a tenth over "
                       "so many iterations, along half a cosine; if not given, they stay")
    group = parser.add_argument_group("pool of networks")
    group.add_argument("--pool", type=flags.positive, default=10, help="networks, of which each iteration takes one")
    group.add_argument("--pool_updates", type=flags.positive, default=100, help="training steps after which a network "
                       "begins anew")
    group.add_argument("--lr_pool", type=flags.rate, default=3e-4, help="learning rate of its steps (Adam)")
    group.add_argument("--batch_pool", type=flags.positive, default=500, help="synthetic clips of each step, at most")
    args = parser.parse_args()
    spec, pool = flags.check_args(args)
    synset = SETS[kind].from_args(args, spec)
    optim, rates = flags.set_rates(args, synset)
    recipe = flags.recipe_of(args, synset.label_kind)
    rules, dsa = utils.PROTOCOLS[args.protocol], flags.dsa_of(args)
    if args.use_flip and not spec.flip:
        raise ValueError(f"--use_flip: clips of --dataset {args.dataset} are never flipped, because their classes tell "
                         "left from right: leave it out")
    if parallel.size() > args.batch_real:
        raise ValueError(f"{parallel.size()} ranks cannot share --batch_real {args.batch_real} clips: raise it, or "
                         "start fewer")

    # run, data
    run = Run(parser, args, method_name("FRePo", kind), flags.run_name(args, synset), recipe=recipe)
    data = utils.get_dataset(**flags.data_settings(args))
    teacher = flags.teacher_of(args, data, run.device)
    settings, dtype = flags.eval_settings(args, run.device, recipe), resolve_precision(args.precision, run.device)
    set_kernels("fp32", run.device)     # the regression multiplies what TF32 rounds off

    # set
    synset.start(data.train, run.derive("start"))
    synset.to(run.device)
    start_labels(synset, teacher)
    classes, slots = all_pairs(synset, run.device)

    # optimizers, resume
    optimizer = utils.make_optimizer(optim, rates, synset, args.momentum)
    first_rates = [group["lr"] for group in optimizer.param_groups]

    def make_network(*which):
        with run.seeded("pool", *which):
            return utils.get_network(args.model, spec, run.device, dist=True)

    networks = Pool(make_network, args.pool, args.pool_updates, args.lr_pool)
    parallel.check_batches(networks[0], args.model)
    through = ThroughStore(synset, args.store, spec, args.through_store)
    shards = Shards(synset, optimizer, classes, slots, whole=bool(args.through_store))    # a codec sees all classes
    run.resume(data, shards, synset=synset, optimizer=optimizer, teacher=teacher, networks=networks, through=through)

    real_chunk = min(args.chunk, default_chunk(spec.shape, run.device))     # of clips that are embedded alone

    # loop
    for it in run.loop(args.Iteration):
        if it in flags.eval_iterations(args):
            run.evaluate(it, pool, utils.evaluate_synset, data, settings, synset, teacher)
        if it == args.Iteration:
            break
        generator, number = run.generator(it, "clips"), networks.draw(run.generator(it, "network"))
        if args.decay_it:
            for group, first in zip(optimizer.param_groups, first_rates, strict=True):
                group["lr"] = first * (0.55 + 0.45 * cos(pi * min(it / args.decay_it, 1)))

        # the set, under one network of the pool
        network = networks[number].eval().requires_grad_(False)
        augment = partial(dsa.apply, draw=dsa.draw(run.generator(it, "dsa")))   # the same for real and synthetic clips
        chosen = torch.randperm(len(data.train), generator=generator)[:args.batch_real]
        with torch.no_grad():
            embed_real = in_precision(network.embed, dtype)
            real = torch.cat([embed_real(rules.matching(augment(clips))) for clips in data.train.get_share(
                chosen, generator, run.device, real_chunk, parallel.share(len(chosen)))])
        real, _ = parallel.join_rows(real)
        real_labels = centred(data.train.labels[chosen].to(run.device), spec.num_classes)
        optimizer.zero_grad()
        with through(it):
            if teacher and not synset.learn_labels:
                teacher.label(synset)
            clips, targets = shards.render(generator)
            if args.use_flip:
                clips, targets = torch.cat([clips, clips.flip(-1)]), torch.cat([targets, targets])
            loss = frepo_gradient(lambda x, network=network, augment=augment: network.embed(rules.matching(augment(x))),
                                  clips, rows_of(targets, spec.num_classes), real, real_labels, args.reg, args.chunk,
                                  parallel.join_rows if parallel.size() > 1 else None)
        loss = shards.reduce(loss / parallel.size())        # each has all of it
        optimizer.step()
        grow(synset, optimizer, it / args.Iteration)

        # the network, by a step on the set, or another in its place
        if networks.is_spent(number):
            networks.renew(number)
        else:
            batch = torch.randperm(len(classes), generator=generator)[:args.batch_pool]
            network.train().requires_grad_()
            with run.seeded(it, "dropout"), through(it), \
                    parallel.whole_dropout(network, shards.is_own(batch), len(batch)):
                with torch.no_grad():
                    clips, targets = shards.render(generator, batch)
                pool_step(network, networks.optimizers[number], rules.matching(clips),
                          rows_of(targets, spec.num_classes), len(batch), dtype)
            networks.updates[number] += 1
        run.log(it, loss=loss)

    # finish
    run.finish(data, pool, ipc=synset.num_slots)


def pool_step(network, optimizer, clips, rows, count, dtype):
    """A step of a network of the pool on a batch of so many clips, of which this rank has these (B, T, C, H, W) with
    their labels (B, K)."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if len(clips):
        (0.5 * (in_precision(network, dtype)(clips) - rows).square().sum(1).sum() / count).backward()
    parallel.add_up([parameter.grad for parameter in network.parameters()])
    optimizer.step()


def rows_of(targets, num_classes):
    """Class numbers (B,) as rows (B, K); rows as they are."""
    return centred(targets, num_classes) if targets.dim() == 1 else targets


class Pool:
    """Networks that are trained on the set while it is learned, each for `updates` steps, then another in its place.

    make(number, births) -> a network with fresh weights. They begin as if each had had a different number of steps, so
    that not all are renewed at once. Its state is all that a resumed run needs of them.
    """

    def __init__(self, make, size, updates, lr):
        self.make, self.max_updates, self.lr = make, updates, lr
        self.births, self.updates = [0] * size, [updates * number // size for number in range(size)]
        self.networks = [make(number, 0) for number in range(size)]
        self.optimizers = [torch.optim.Adam(network.parameters(), lr=lr) for network in self.networks]

    def __getitem__(self, number):
        return self.networks[number]

    def draw(self, generator):
        return int(torch.randint(len(self.networks), (), generator=generator))

    def is_spent(self, number):
        return self.updates[number] >= self.max_updates

    def renew(self, number):
        self.births[number] += 1
        self.updates[number] = 0
        self.networks[number] = self.make(number, self.births[number])
        self.optimizers[number] = torch.optim.Adam(self.networks[number].parameters(), lr=self.lr)

    def state_dict(self):
        return {str(number): {"births": births, "updates": updates, "network": plain(network).state_dict(),
                              "optimizer": optimizer.state_dict()}
                for number, (births, updates, network, optimizer) in enumerate(
                    zip(self.births, self.updates, self.networks, self.optimizers, strict=True))}

    def load_state_dict(self, state):
        for number in range(len(self.networks)):
            saved = state[str(number)]
            self.births[number], self.updates[number] = saved["births"], saved["updates"]
            plain(self.networks[number]).load_state_dict(saved["network"])
            self.optimizers[number].load_state_dict(saved["optimizer"])


if __name__ == "__main__":
    flags.cli(main)
