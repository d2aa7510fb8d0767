"""Dynamic stage by trajectory matching (MTT+S2D): static images + a learnable dynamic memory. arXiv 2312.00362.

    python buffer.py --dataset miniUCF101
    python distill_s2d_MTT.py --dataset miniUCF101 --vpc 1 --spc 2 --dpc 2 --path_static static.pt --no_train_static \\
        --lr_dynamic 1e4 --lr_hal 1e-3 --train_lr --hal_init published --dynamic_init noise
"""
from functools import partial

import torch

from distill_utils.matching import add_gradients, mtt_gradient
from distill_utils.run import Run, add_mtt_args, add_s2d_args, cli, eval_iterations, script_parser, set_rates
from distill_utils.synset import StaticDynamicSet
from utils import (
    check_args,
    check_s2d_args,
    data_settings,
    dry_run,
    eval_settings,
    evaluate_synset,
    get_dataset,
    make_optimizer,
    make_s2d_set,
    make_syn_lr,
    open_experts,
    student_loss_of,
)


def main():
    # arguments
    parser = script_parser(__doc__, iterations=10000, momentum=0.95)
    add_s2d_args(parser)
    add_mtt_args(parser)
    args = parser.parse_args()
    spec, pool = check_args(args)
    static = check_s2d_args(args, spec)
    optim, rates = set_rates(args, "lr_static", "lr_dynamic", "lr_hal", sgd={"lr_dynamic": 1e4, "lr_hal": 1e-3},
                             frozen=["lr_static"] if args.no_train_static else [])
    if args.dry_run:
        return dry_run(args, spec, StaticDynamicSet(spec.num_classes, args.vpc, args.spc, args.dpc, spec.shape,
                                                    args.n_hal, args.hal_mode))
    experts = open_experts(args, spec)

    # run, data
    run = Run(args, "S2D-MTT", f"{args.dataset}_{args.model}_vpc{args.vpc}_seed{args.seed}")
    data = get_dataset(**data_settings(args))

    # set
    synset = make_s2d_set(data.train, run.derive("start"), static, vpc=args.vpc, spc=args.spc, dpc=args.dpc,
                          n_hal=args.n_hal, hal_mode=args.hal_mode, hal_init=args.hal_init,
                          dynamic_init=args.dynamic_init).to(run.device)

    # optimizers, resume
    optimizer = make_optimizer(optim, [
        (synset.static, rates["lr_static"]), (synset.dynamic, rates["lr_dynamic"]),
        (list(synset.hallucinators.parameters()), rates["lr_hal"])], args.momentum)
    syn_lr, lr_optimizer = make_syn_lr(args, run.device, momentum=0.9)
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
    run.finish(data, pool, ipc=args.vpc)


if __name__ == "__main__":
    cli(main)
