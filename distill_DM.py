"""Distribution matching (DM), of any kind of set. Zhao and Bilen, arXiv 2110.04181.

    python distill_DM.py --dataset miniUCF101 --ipc 1 --lr_img 30
    python distill_DM.py --set still --dataset miniUCF101 --ipc 1
"""
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

import utils
from distill_utils import args as flags
from distill_utils.bank import Bank, SampledMeans
from distill_utils.clips import cache_folder
from distill_utils.device import check_memory, default_chunk, in_precision, resolve_precision
from distill_utils.matching import (
    KERNELS,
    chunked_gradient,
    class_means,
    classes_at_once,
    dm_loss,
    embed_classes,
    mmd_loss,
)
from distill_utils.parallel import Shards
from distill_utils.run import Run
from distill_utils.seeds import seeded
from distill_utils.storage import ThroughStore
from distill_utils.synset import SETS, all_pairs, grow, method_name
from distill_utils.trajectories import load_weights


def main(description=__doc__, only=None, iterations=5000, momentum=0.5):
    """only: the set of a script for one pair; the others are its published defaults."""
    # arguments
    parser, kind = flags.set_parser(description, SETS, only)
    flags.add_distill_args(parser, iterations, momentum)
    group = flags.add_real_args(parser)
    group.add_argument("--kernel", choices=KERNELS, default="mean", help="mean: class means are compared (published); "
                       "gaussian: whole distributions, by a kernel on unit features")
    if hasattr(SETS[kind], "render_segment"):
        group.add_argument("--n_real", type=flags.positive, metavar="N", help="match each of the --segments of the "
                           "synthetic clips, expanded to N frames, with N frames in a row of the same segment of real "
                           "clips (S2D, figure b); if not given, whole clips are matched")
    group.add_argument("--bank", type=flags.positive, metavar="P", help="draw the networks from P seeded ones, whose "
                       "class means over all training clips (centre clips, both flips) are computed once, for all runs "
                       "on this kind of device. Give some hundred: a set overfits to fewer networks, and scores worse. "
                       "If not given, a fresh network and --batch_real clips of each class an iteration (as published)")
    flags.may_change(group.add_argument("--chunk", type=flags.positive, help="real samples in memory as floats at a "
                                        "time, and an eighth of it synthetic ones, but at least those of one class; if "
                                        "not given, 640 on a GPU, and 64 MB of them on a CPU"))
    group = parser.add_argument_group("networks that compare")
    group.add_argument("--networks", choices=("random", "experts"), default="random", help="random: untrained ones "
                       "(published); experts: of --buffer_path, at a random epoch")
    group.add_argument("--min_start_epoch", type=flags.not_negative, default=0, help="the first epoch of experts that "
                       "may be drawn")
    group.add_argument("--max_start_epoch", type=flags.positive, help="and one more than the last; if not given, all "
                       "that they keep")
    group.add_argument("--ce_weight", type=flags.rate, default=0.0, help="adds so many times the cross-entropy of the "
                       "synthetic clips under the same expert up to --later epochs later (TGDD: 2.5)")
    group.add_argument("--later", type=flags.not_negative, default=7, help="see --ce_weight")
    args = parser.parse_args()
    spec, pool = flags.check_args(args)
    synset = SETS[kind].from_args(args, spec)
    optim, rates = flags.set_rates(args, synset)
    recipe = flags.recipe_of(args, synset.label_kind)
    rules, dsa = utils.PROTOCOLS[args.protocol], flags.dsa_of(args)
    trained = args.networks == "experts"
    if args.ce_weight and not trained:
        raise ValueError(f"--ce_weight {args.ce_weight:g} asks what trained networks predict: give --networks experts, "
                         "or leave it out")
    for flag, needed, there in (("min_start_epoch", "--networks experts", trained),
                                ("max_start_epoch", "--networks experts", trained),
                                ("later", "--ce_weight", args.ce_weight)):
        if getattr(args, flag) != parser.get_default(flag) and not there:
            raise ValueError(f"--{flag} {getattr(args, flag)} changes nothing without {needed}: give that too, or "
                             "leave it out")
    n_real = vars(args).get("n_real")
    if n_real:
        if n_real < synset.n_syn:
            raise ValueError(f"--n_real {n_real} frames cannot show the --n_syn {synset.n_syn} key frames of a "
                             "segment, so some would never be trained: raise it, or lower --n_syn")
        if n_real * synset.segments > spec.frames:
            raise ValueError(f"--n_real {n_real} frames of each of --segments {synset.segments} are more than the "
                             f"{spec.frames} of a clip: lower one of them")
        for flag, given in (("bank", args.bank), ("networks experts", trained), ("grow", args.grow)):
            if given:
                raise ValueError(f"--{flag} is of whole clips, and --n_real {n_real} compares parts of them: "
                                 "leave out one of them")
    if args.bank and args.kernel != "mean":
        raise ValueError("--bank holds class means, and --kernel gaussian needs each clip: leave out one of them")
    experts = flags.find_experts(args, spec) if trained else None
    if args.bank:       # of each network the means of at least 256 features stay in memory
        check_memory(f"--bank {args.bank}", args.bank * spec.num_classes * 256)
    if dsa.parts and args.bank:
        raise ValueError("--bank holds the class means of clips as they are, and --dsa_strategy changes them in each "
                         "iteration: leave out one of them")

    seen = replace(spec, frames=n_real) if n_real else spec      # what the networks that compare take
    segments = synset.segments if n_real else 1

    # run, data
    run = Run(parser, args, method_name("DM", kind), flags.run_name(args, synset), recipe=recipe)
    data = utils.get_dataset(**flags.data_settings(args))
    teacher = flags.teacher_of(args, data, run.device)
    if experts:
        experts.check_clips(data.train.identity(), args.dataset)
    settings, dtype = flags.eval_settings(args, run.device, recipe), resolve_precision(args.precision, run.device)

    # set
    synset.start(data.train, run.derive("start"))
    synset.to(run.device)
    classes, slots = all_pairs(synset, run.device)

    # optimizers, resume
    optimizer = utils.make_optimizer(optim, rates, synset, args.momentum)
    through = ThroughStore(synset, args.store, spec, args.through_store)
    shards = Shards(synset, optimizer, classes, slots, whole=bool(args.through_store))    # a codec sees all classes
    run.resume(data, shards, synset=synset, optimizer=optimizer, teacher=teacher, experts=experts, through=through)

    def make_network(seed, weights=None):
        with seeded(seed, run.device):
            network = utils.get_network(args.model, seen, run.device, dist=True).requires_grad_(False)
        if experts:
            load_weights(network.eval(), weights or draw(seed)[0])
        return network

    def draw(seed):
        return experts.draw(seed, args.min_start_epoch, args.max_start_epoch, args.later)

    def embed_real(network, clips):
        return in_precision(network.embed, dtype)(rules.matching(clips))

    chunk = args.chunk or default_chunk(spec.shape, run.device)
    at_once = classes_at_once(chunk, synset.num_slots)
    if args.bank:
        real = Bank(cache_folder(args.data_path, args.cache_path), data.train, args.bank, run.seed, model=args.model,
                    weights=utils.weights_digest(make_network(Bank.seed_of(0))), protocol=args.protocol,
                    dtype=str(dtype), **(
                        {"experts": experts.state_dict(), "epochs": (args.min_start_epoch, args.max_start_epoch)}
                        if experts else {}))
        real.build(make_network, embed_real, run.device, chunk)
    else:
        real = SampledMeans(data.train.within_clips(n_real) if n_real else data.train, args.batch_real, run.seed,
                            chunk)

    def loss_of(part, part_classes, it, network, later, augment, generator, segment):
        """Of the synthetic clips of some classes."""
        of, distance = (class_means, dm_loss) if args.kernel == "mean" else (embed_classes, mmd_loss)
        there = real.means(it, part_classes, lambda x: embed_real(network, augment(x)), generator, run.device, of,
                           **({"segment": (segment, segments)} if n_real else {}))
        loss = distance(lambda x: network.embed(rules.matching(augment(x))), there, part)
        if later:
            labels = torch.tensor(part_classes, device=run.device).repeat_interleave(part.shape[1])
            logits = later(rules.matching(augment(part.flatten(0, 1))))
            loss = loss + args.ce_weight * F.cross_entropy(logits, labels, reduction="sum") / part.shape[1]
        return loss

    # loop
    for it in run.loop(args.Iteration):
        if it in flags.eval_iterations(args):
            run.evaluate(it, pool, utils.evaluate_synset, data, settings, synset, teacher)
        if it == args.Iteration:
            break
        generator, later = run.generator(it, "clips"), None
        if args.ce_weight:
            network, later = (make_network(it, weights) for weights in draw(real.network_seed(it)))
        else:
            network = make_network(real.network_seed(it))
        augment = partial(dsa.apply, draw=dsa.draw(run.generator(it, "dsa")))   # the same for real and synthetic clips
        optimizer.zero_grad()
        own, loss = shards.own, 0
        with through(it):
            for segment in range(segments):
                if n_real:
                    clips = synset.render_segment(classes[shards.mine], slots[shards.mine], segment, n_real)
                else:
                    clips = shards.render(generator)[0]
                real.skip(range(own.start), generator)
                loss += chunked_gradient(partial(loss_of, it=it, network=network, later=later, augment=augment,
                                                 generator=generator, segment=segment),
                                         clips.unflatten(0, (len(own), synset.num_slots)), at_once, own.start)
                real.skip(range(own.stop, spec.num_classes), generator)
        loss = shards.reduce(loss)
        optimizer.step()
        grow(synset, optimizer, it / args.Iteration)
        run.log(it, loss=loss / spec.num_classes)

    # finish
    run.finish(data, pool, ipc=synset.num_slots)


if __name__ == "__main__":
    flags.cli(main)
