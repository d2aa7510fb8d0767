"""Dynamic stage by trajectory matching (MTT+S2D): static images + a learnable dynamic memory. arXiv 2312.00362.

    python buffer.py --dataset miniUCF101
    python distill_s2d_MTT.py --dataset miniUCF101 --vpc 1 --spc 2 --dpc 2 --path_static static.pt --no_train_static \\
        --lr_dynamic 1e4 --lr_hal 1e-3 --train_lr --hal_init published --dynamic_init noise
"""
from functools import partial

import torch

from distill_utils.matching import add_gradients, mtt_gradient, student_loss
from distill_utils.run import Run, add_mtt_args, add_s2d_args, cli, eval_iterations, script_parser, set_rates
from distill_utils.synset import StaticDynamicSet, all_pairs
from utils import (
    PROTOCOLS,
    check_args,
    check_s2d_args,
    data_settings,
    dry_run,
    dsa_of,
    eval_settings,
    evaluate_synset,
    get_dataset,
    get_network,
    make_optimizer,
    make_s2d_set,
    open_experts,
    student_batch,
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
    classes, slots = all_pairs(synset, run.device)
    syn_lr = torch.nn.ParameterDict({"lr": torch.tensor(args.lr_teacher)}).to(run.device)

    # optimizers, resume
    optimizer = make_optimizer(optim, [
        (synset.static, rates["lr_static"]), (synset.dynamic, rates["lr_dynamic"]),
        (list(synset.hallucinators.parameters()), rates["lr_hal"])], args.momentum)
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
    run.finish(data, pool, ipc=args.vpc)


if __name__ == "__main__":
    cli(main)
