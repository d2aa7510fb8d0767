"""Static stage: still images per class by gradient matching (DC) on single frames. Zhao et al., arXiv 2006.05929.

    python distill_DC.py --dataset miniUCF101 --model ConvNetD4 --ipc 2

The run's synset.safetensors is what --path_static of the dynamic stage reads.
"""
from functools import partial

import torch

from distill_utils.clips import ClassSampler
from distill_utils.matching import DISTANCES, dc_loss, freeze_batchnorm, gradients, has_batchnorm
from distill_utils.run import (
    Run,
    add_rates,
    add_real_args,
    cli,
    eval_iterations,
    generator,
    positive,
    script_parser,
    set_rates,
)
from distill_utils.synset import ImageSet
from utils import (
    PROTOCOLS,
    check_args,
    data_settings,
    dsa_of,
    eval_settings,
    evaluate_synset,
    get_dataset,
    get_network,
    make_optimizer,
    make_step,
    train_batches,
    train_epoch,
)


def main():
    # arguments
    parser = script_parser(__doc__, iterations=1000, momentum=0.5, model="ConvNet")
    group = parser.add_argument_group("synthetic set")
    group.add_argument("--ipc", "--spc", dest="ipc", type=positive, default=1, help="images a class")
    group.add_argument("--init", choices=("real", "noise"), default="real", help="start of the images")
    add_rates(group, lr_img="the pixels")
    group.add_argument("--dis_metric", choices=DISTANCES, default="ours", help="distance between gradients")
    group.add_argument("--outer_loop", type=positive, help="steps of the set for each network; by default of --ipc")
    group.add_argument("--inner_loop", type=positive, help="epochs of the network between them; by default of --ipc")
    group.add_argument("--split_num", type=positive, default=1,
                       help="cut clips into so many segments of time; image i is matched with frames of segment i "
                       "modulo this")
    add_real_args(parser, chunk=False)
    args = parser.parse_args()
    if args.ipc % args.split_num:
        parser.error(f"--ipc {args.ipc} images cannot be shared by --split_num {args.split_num} segments: give a "
                     "multiple of it")
    spec, pool = check_args(args, view="single")    # any data set is read as its single frames
    optim, rates = set_rates(args, "lr_img", sgd={"lr_img": 0.1})
    outer_loop, inner_loop = get_loops(args.ipc)
    outer_loop, inner_loop = args.outer_loop or outer_loop, args.inner_loop or inner_loop
    rules, dsa = PROTOCOLS[args.protocol], dsa_of(args)

    # run, data
    run = Run(args, "DC", f"{args.dataset}_{args.model}_ipc{args.ipc}_seed{args.seed}")
    data = get_dataset(**data_settings(args), view="single")
    sampler = ClassSampler(data.train)

    # set: image i of a class shows segment i % split_num, so that every slot of the dynamic stage has all segments
    synset = ImageSet(spec.num_classes, args.ipc, spec.shape)
    each = args.ipc // args.split_num
    if args.init == "real":
        draw = generator(run.derive("start"))
        synset.static.data = torch.stack([
            sampler.draw(range(spec.num_classes), each, draw, segment=(s, args.split_num))
            for s in range(args.split_num)], dim=2).flatten(0, 2)
    else:
        synset.static.data.normal_(generator=generator(run.derive("start")))
    synset.to(run.device)

    # optimizers, resume
    optimizer = make_optimizer(optim, [(synset.static, rates["lr_img"])], args.momentum)
    run.resume(synset=synset, optimizer=optimizer)

    score = partial(evaluate_synset, data=data, **eval_settings(args, run.device))

    # loop
    for it in run.loop(args.Iteration):
        if it in eval_iterations(args):
            run.evaluate(it, spec, pool, score, synset)
        if it == args.Iteration:
            break
        draw, total = run.generator(it, "frames"), 0
        with run.seeded(it, "network"):     # also seeds dropout, where a network has it
            network = get_network(args.model, spec, run.device)
            step = make_step(network, torch.optim.SGD(network.parameters(), lr=args.lr_net))
            for outer in range(outer_loop):
                network.train()
                if has_batchnorm(network):
                    freeze_batchnorm(network, rules.matching(
                        sampler.draw(range(spec.num_classes), 16, draw, run.device).flatten(0, 1)))
                optimizer.zero_grad()
                for k in range(spec.num_classes):
                    for segment in range(args.split_num):
                        real = sampler.draw([k], args.batch_real, draw, run.device, (segment, args.split_num))[0]
                        labels = torch.full((len(real),), k, device=run.device)
                        siamese = dsa.draw(draw)        # the same for real and synthetic images
                        target = gradients(network, rules.matching(dsa.apply(real, siamese)), labels)
                        slots = torch.arange(segment, args.ipc, args.split_num, device=run.device)
                        images, labels = synset.render(torch.full_like(slots, k), slots)
                        images = dsa.apply(images, siamese)
                        actual = gradients(network, rules.matching(images), labels, create_graph=True)
                        loss = dc_loss(target, actual, args.dis_metric)
                        loss.backward(inputs=[synset.static])
                        total += loss.detach()
                optimizer.step()
                if outer < outer_loop - 1:
                    for _ in range(inner_loop):
                        train_epoch(network, train_batches(synset, args.batch_train, draw, run.device, rules.matching,
                                                           dsa), step)
        run.log(it, loss=total / spec.num_classes / outer_loop)

    # finish
    run.finish(data, pool, ipc=args.ipc)


def get_loops(ipc):
    """(outer, inner) loops of DC: its published pairs for 1, 10, 20, 30, 40 and 50 images a class, and for other
    numbers as many outer steps as images, and inner epochs that keep the product at 500 and do not pass 50."""
    published = {1: (1, 1), 30: (30, 20), 40: (40, 15)}
    return published.get(ipc, (ipc, max(1, min(50, 500 // ipc))))


if __name__ == "__main__":
    cli(main)
