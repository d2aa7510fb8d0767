"""Baseline: whole clips as pixels by trajectory matching (MTT). Cazenavette et al., arXiv 2203.11932.

    python buffer.py --dataset miniUCF101
    python distill_MTT.py --dataset miniUCF101 --ipc 1 --lr_img 1e5 --train_lr
"""
from functools import partial

import torch

from distill_utils.matching import add_gradients, mtt_gradient
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
from distill_utils.synset import VideoSet
from utils import (
    check_args,
    data_settings,
    dry_run,
    eval_settings,
    evaluate_synset,
    get_dataset,
    make_optimizer,
    make_syn_lr,
    open_experts,
    student_loss_of,
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

    # optimizers, resume
    optimizer = make_optimizer(optim, [(synset.videos, rates["lr_img"])], args.momentum)
    syn_lr, lr_optimizer = make_syn_lr(args, run.device, momentum=0.5)
    run.resume(synset=synset, syn_lr=syn_lr, optimizer=optimizer, lr_optimizer=lr_optimizer, experts=experts)
    step_loss = student_loss_of(args, run, synset, spec)
    learned = [tensor for group in optimizer.param_groups for tensor in group["params"]]

    # loop
    for it in run.loop(args.Iteration):
        if it in eval_iterations(args):
            learned_lr = syn_lr["lr"].item() if lr_optimizer else None
            score = partial(evaluate_synset, data=data, **eval_settings(args, run.device, learned_lr))
            run.evaluate(it, spec, pool, score, synset, syn_lr=learned_lr)
        if it == args.Iteration:
            break
        for tensor in (*learned, syn_lr["lr"]):
            tensor.grad = None
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
        if lr_optimizer:
            lr_optimizer.step()
            syn_lr["lr"].data.clamp_(min=args.min_lr)

    # finish
    run.finish(data, pool, ipc=args.ipc)


if __name__ == "__main__":
    cli(main)
