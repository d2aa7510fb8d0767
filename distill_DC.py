"""Gradient matching (DC). Zhao et al., arXiv 2006.05929. By default the static stage of S2D: still images per class.

    python distill_DC.py --dataset miniUCF101 --model ConvNetD4 --ipc 2
    python distill_DC.py --set pixels --dataset miniUCF101 --model ConvNet3D

Still images are matched with single frames, under networks of images; the run's synset.safetensors is what
--path_static of the dynamic stage reads. Other sets are matched with clips. In every protocol the set of the last
iteration is kept: the test split scores it and never chooses it.
"""
from functools import partial

import torch

import networks
import utils
from distill_utils import args as flags
from distill_utils.clips import ClassSampler
from distill_utils.labels import RECIPES, label_loss, start_labels
from distill_utils.matching import DISTANCES, dc_loss, freeze_batchnorm, freeze_dropout, gradients, has_batchnorm
from distill_utils.parallel import Shards
from distill_utils.run import Run
from distill_utils.storage import ThroughStore
from distill_utils.synset import SETS, all_pairs, grow, method_name, watched_by

SGD = {"lr_img": 0.1}


def main():
    # arguments
    parser, kind = flags.set_parser(__doc__, SETS, default="still", sgd=SGD, labels=("class", "teacher", "learned"))
    flags.add_distill_args(parser, iterations=1000, momentum=0.5)
    group = flags.add_real_args(parser)
    group.add_argument("--dis_metric", choices=DISTANCES, default="ours", help="distance between gradients")
    group.add_argument("--outer_loop", type=flags.positive, help="steps of the set for each network; if not given, "
                       "DC's own number for so many clips a class")
    group.add_argument("--inner_loop", type=flags.positive, help="epochs of the network between two of these steps; if "
                       "not given, DC's own number too")
    view = None
    if kind == "still":     # any data set is read as its single frames
        view = "single"
        parser.set_defaults(model="ConvNet")
    args = parser.parse_args()
    if kind == "still" and networks.modality(args.model) == "video":
        raise ValueError(f"--model {args.model} takes videos, and --set still matches single frames with networks of "
                         "images, such as ConvNetD4: give one of those, or another --set")
    spec, pool = flags.check_args(args, view)
    synset = SETS[kind].from_args(args, spec)
    optim, rates = flags.set_rates(args, synset, SGD)
    recipe = flags.recipe_of(args, synset.label_kind, RECIPES["class"])
    loss_of = label_loss(recipe.loss, synset.label_kind, recipe.temperature)
    lr_net = recipe.lr if recipe.optim == "sgd" else RECIPES["class"].lr        # of the networks that match, by SGD
    outer_loop, inner_loop = get_loops(synset.num_slots)
    outer_loop, inner_loop = args.outer_loop or outer_loop, args.inner_loop or inner_loop
    rules, dsa = utils.PROTOCOLS[args.protocol], flags.dsa_of(args)

    # run, data
    run = Run(parser, args, method_name("DC", kind, published="still"), flags.run_name(args, synset), report_best=False,
              recipe=recipe)
    data = utils.get_dataset(**flags.data_settings(args), view=view)
    teacher = flags.teacher_of(args, data, run.device)
    sampler, settings = ClassSampler(data.train), flags.eval_settings(args, run.device, recipe)

    # set
    synset.start(data.train, run.derive("start"))
    synset.to(run.device)
    start_labels(synset, teacher)
    num_segments = getattr(synset, "split_num", 1)      # slots i, i + n, ... of still images show segment i of n

    # optimizers, resume
    optimizer = utils.make_optimizer(optim, rates, synset, args.momentum)
    through = ThroughStore(synset, args.store, spec, args.through_store)
    shards = Shards(synset, optimizer, *all_pairs(synset, run.device), whole=True)      # networks are trained on all
    run.resume(data, shards, synset=synset, optimizer=optimizer, teacher=teacher, through=through)

    # loop
    for it in run.loop(args.Iteration):
        if it in flags.eval_iterations(args):
            run.evaluate(it, pool, utils.evaluate_synset, data, settings, synset, teacher)
        if it == args.Iteration:
            break
        generator, total = run.generator(it, "frames"), 0
        with run.seeded(it, "network"):     # also seeds dropout, where a network has it
            network = utils.get_network(args.model, spec, run.device)
            step = utils.make_step(network, torch.optim.SGD(network.parameters(), lr=lr_net), loss_of=loss_of)
            for outer in range(outer_loop):
                network.train()
                if has_batchnorm(network):
                    freeze_batchnorm(network, rules.matching(
                        sampler.sample(range(spec.num_classes), 16, generator, run.device).flatten(0, 1)))
                freeze_dropout(network)
                learned = [tensor for group in optimizer.param_groups for tensor in group["params"]]
                optimizer.zero_grad()
                part = torch.zeros((), device=run.device)
                done = it * outer_loop + outer
                with through(done):
                    if teacher and not synset.learn_labels:
                        teacher.label(synset)
                    for k in range(spec.num_classes):
                        for segment in range(num_segments):
                            slots = torch.arange(segment, synset.num_slots, num_segments, device=run.device)
                            if k not in shards.own:     # what is random in it is drawn all the same
                                sampler.skip([k], args.batch_real, generator)
                                dsa.draw(generator)
                                shards.skip(len(slots), generator)
                                continue
                            real = sampler.sample([k], args.batch_real, generator, run.device,
                                                  (segment, num_segments))[0]
                            labels = torch.full((len(real),), k, device=run.device)
                            draw = dsa.draw(generator)      # the same for real and synthetic samples
                            target = gradients(network, rules.matching(dsa.apply(real, draw)), labels)
                            samples, targets = synset.render(torch.full_like(slots, k), slots, generator)
                            samples = dsa.apply(samples, draw)
                            actual = gradients(network, rules.matching(samples), targets, create_graph=True,
                                               loss_of=partial(loss_of, classes=torch.full_like(slots, k)))
                            loss = dc_loss(target, actual, args.dis_metric)
                            loss.backward(inputs=[*learned, *watched_by(synset)])
                            part += loss.detach()
                total += shards.reduce(part)
                optimizer.step()
                grow(synset, optimizer, it / args.Iteration)
                if outer < outer_loop - 1:
                    with through(done):
                        for _ in range(inner_loop):
                            utils.train_epoch(network, utils.train_batches(
                                synset, args.batch_train, generator, run.device, rules.matching, dsa), step)
        run.log(it, loss=total / spec.num_classes / outer_loop)

    # finish
    run.finish(data, pool, ipc=synset.num_slots)


def get_loops(ipc):
    """(outer, inner) loops of DC: its published pairs for 1, 10, 20, 30, 40 and 50 images a class, and for other
    numbers as many outer steps as images, and inner epochs that keep the product at 500 and do not pass 50."""
    published = {1: (1, 1), 30: (30, 20), 40: (40, 15)}
    return published.get(ipc, (ipc, max(1, min(50, 500 // ipc))))


if __name__ == "__main__":
    flags.cli(main)
