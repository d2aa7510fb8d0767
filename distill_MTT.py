"""Baseline: whole clips as pixels by trajectory matching (MTT). Cazenavette et al., arXiv 2203.11932.

    python buffer.py --dataset miniUCF101
    python distill_MTT.py --dataset miniUCF101 --ipc 1 --lr_img 1e5 --train_lr
"""
from functools import partial

import torch

from distill_utils.matching import add_gradients, mtt_gradient, student_loss
from distill_utils.run import (
    Run,
    add_mtt_args,
    add_rates,
    cli,
    eval_iterations,
    generator,
    positive,
    script_parser,
    set_rates,
)
from distill_utils.synset import VideoSet, all_pairs
from utils import (
    PROTOCOLS,
    check_args,
    data_settings,
    dry_run,
    dsa_of,
    eval_settings,
    evaluate_synset,
    get_dataset,
    get_network,
    make_optimizer,
    open_experts,
    student_batch,
)


def main():
    # arguments
    parser = script_parser(__doc__, iterations=8000, momentum=0.5)
    group = parser.add_argument_group("synthetic set")
    group.add_argument("--ipc", type=positive, default=1, help="synthetic clips a class")
    group.add_argument("--init", choices=("real", "noise"), default="real", help="start of the clips")
    add_rates(group, lr_img="the pixels")
    add_mtt_args(parser)
    args = parser.parse_args()
    spec, pool = check_args(args)
    optim, rates = set_rates(args, "lr_img", sgd={"lr_img": 1e5})
    if args.dry_run:
        return dry_run(args, spec, VideoSet(spec.num_classes, args.ipc, spec.shape))
    experts = open_experts(args, spec)

    # run, data
    run = Run(args, "MTT", f"{args.dataset}_{args.model}_ipc{args.ipc}_seed{args.seed}")
    data = get_dataset(**data_settings(args))

    # set
    synset = VideoSet(spec.num_classes, args.ipc, spec.shape)
    if args.init == "real":
        synset.videos.data = data.train.start(args.ipc, generator(run.derive("start"))).flatten(0, 1)
    else:
        synset.videos.data.normal_(generator=generator(run.derive("start")))
    synset.to(run.device)
    classes, slots = all_pairs(synset, run.device)
    syn_lr = torch.nn.ParameterDict({"lr": torch.tensor(args.lr_teacher)}).to(run.device)

    # optimizers, resume
    optimizer = make_optimizer(optim, [(synset.videos, rates["lr_img"])], args.momentum)
    lr_optimizer = torch.optim.SGD(syn_lr.parameters(), lr=args.lr_lr if args.train_lr else 0, momentum=0.5)
    run.resume(synset=synset, syn_lr=syn_lr, optimizer=optimizer, lr_optimizer=lr_optimizer, experts=experts)
    dsa, rules = dsa_of(args), PROTOCOLS[args.protocol]
    score = partial(evaluate_synset, data=data, **eval_settings(args, run.device))
    with run.seeded("student"):     # its weights are never used: students start at those of experts
        student = get_network(args.model, spec, run.device)
    learned = [tensor for group in optimizer.param_groups for tensor in group["params"]]

    def step_loss(theta, i, number):
        draw = run.generator(number, "step", i)      # called twice for each step, so both times the same is drawn
        chosen = student_batch(len(classes), args.batch_syn, i, run.derive(number, "order"))
        clips, labels = synset.render(classes[chosen], slots[chosen], draw)
        clips = rules.matching(dsa.apply(clips, dsa.draw(draw, len(clips))))
        with run.seeded(number, "dropout", i):
            return student_loss(student, theta, clips, labels)

    # loop
    for it in run.loop(args.Iteration):
        if it in eval_iterations(args):
            run.evaluate(it, spec, pool, score, synset, syn_lr=syn_lr["lr"].item())
        if it == args.Iteration:
            break
        optimizer.zero_grad()
        lr_optimizer.zero_grad()
        total = 0
        for number in range(it * args.experts_per_step, (it + 1) * args.experts_per_step):
            part = experts.draw(run.seed, number)
            loss, gradients, lr_gradient = mtt_gradient(partial(step_loss, number=number), part.start, part.target,
                                                        args.syn_steps, syn_lr["lr"], learned, args.unroll)
            add_gradients([*learned, syn_lr["lr"]], [*gradients, lr_gradient], 1 / args.experts_per_step)
            total += loss / args.experts_per_step
        norm = torch.nn.utils.clip_grad_norm_(learned, args.grad_clip or float("inf"))
        run.log(it, every=1, loss=total, grad_norm=norm, syn_lr=syn_lr["lr"])
        optimizer.step()
        lr_optimizer.step()
        syn_lr["lr"].data.clamp_(min=args.min_lr)

    # finish
    run.finish(data, pool, ipc=args.ipc)


if __name__ == "__main__":
    cli(main)
