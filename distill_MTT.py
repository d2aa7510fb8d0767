"""Trajectory matching (MTT), of any kind of set. Cazenavette et al., arXiv 2203.11932.

    python buffer.py --dataset miniUCF101
    python distill_MTT.py --dataset miniUCF101 --ipc 1 --lr_img 1e5 --train_lr
"""
import copy
import json
import sys
from functools import partial

import torch
from torch import nn

import networks
import utils
from distill_utils import args as flags
from distill_utils import estimate, parallel
from distill_utils.labels import RECIPES, label_loss, start_labels
from distill_utils.matching import add_gradients, diversity_loss, mtt_gradient, student_loss
from distill_utils.parallel import Shards, Team, whole_dropout
from distill_utils.run import Run
from distill_utils.seeds import make_generator
from distill_utils.storage import ThroughStore
from distill_utils.synset import SETS, all_pairs, grow, method_name, watched_by
from distill_utils.trajectories import load_weights

# miniUCF101 at one clip a class (S2D, arXiv 2312.00362)
SGD = {"lr_img": 1e5, "lr_dynamic": 1e4, "lr_hal": 1e-3}


def main(description=__doc__, only=None, iterations=8000, momentum=0.5, lr_momentum=0.5):
    """only: the set of a script for one pair; the others are its published defaults."""
    # arguments
    parser, kind = flags.set_parser(description, SETS, only, sgd=SGD, labels=("class", "teacher", "learned"))
    flags.add_distill_args(parser, iterations, momentum)
    flags.add_mtt_args(parser, lr_momentum)
    args = parser.parse_args()
    spec, pool = flags.check_args(args)
    synset = SETS[kind].from_args(args, spec)
    optim, rates = flags.set_rates(args, synset, SGD)
    recipe = flags.recipe_of(args, synset.label_kind, RECIPES["class"])
    rules, dsa = utils.PROTOCOLS[args.protocol], flags.dsa_of(args)
    loss_of = label_loss(recipe.loss, synset.label_kind, recipe.temperature)
    check_rules(args, synset)
    if args.dry_run:
        with torch.device("meta"):      # shapes alone
            network = networks.lookup(args.model)(spec)
        print("RESULT " + json.dumps(estimate.trajectory_matching(
            network, synset, spec, store=args.store, matching=rules.matching, batch=args.batch_syn,
            syn_steps=args.syn_steps, unroll=args.unroll, students=args.Iteration * args.experts_per_step,
            max_start_epoch=args.max_start_epoch, expert_epochs=args.expert_epochs)))
        return
    experts = flags.find_experts(args, spec, args.max_start_epoch, args.expert_epochs)
    if not experts.own and rules.evaluation is not utils.per_batch:
        print("note: experts of other programs were trained on batches standardised as a whole, as --protocol paper "
              "does; students here see each clip standardised by itself", file=sys.stderr)

    # run, data
    run = Run(parser, args, method_name("MTT", kind), flags.run_name(args, synset), recipe=recipe)
    data = utils.get_dataset(**flags.data_settings(args))
    teacher = flags.teacher_of(args, data, run.device)
    experts.check_clips(data.train.identity(), args.dataset)

    # set
    synset.start(data.train, run.derive("start"))
    synset.to(run.device)
    start_labels(synset, teacher)

    # optimizers, resume
    optimizer = utils.make_optimizer(optim, rates, synset, args.momentum)
    syn_lr = nn.ParameterDict({"lr": torch.tensor(args.lr_teacher)}).to(run.device)     # a checkpoint holds it
    lr_optimizer = None
    if args.train_lr or args.lr_lr is not None:
        lr_lr = 1e-5 if args.lr_lr is None else args.lr_lr
        lr_optimizer = torch.optim.SGD(syn_lr.parameters(), lr_lr, args.lr_momentum)
    average = Average(synset, args.ema) if args.ema else None
    through = ThroughStore(synset, args.store, spec, args.through_store)
    classes, slots = all_pairs(synset, run.device)
    shards, team = Shards(synset, optimizer, classes, slots, whole=True), Team(args.experts_per_step)
    if team.members > 1 and args.unroll == "full":
        raise ValueError(f"--unroll full keeps one graph of all steps, which {team.members} ranks to an expert cannot "
                         "share: leave it out, or give --experts_per_step a multiple of the ranks")
    run.resume(data, shards, synset=synset, syn_lr=syn_lr, optimizer=optimizer, lr_optimizer=lr_optimizer,
               experts=experts, teacher=teacher, average=average, through=through)
    watched = watched_by(synset)
    with run.seeded("student"):     # its weights are never used: students start at those of experts
        student = utils.get_network(args.model, spec, run.device)
    if team.members > 1:
        parallel.check_batches(student, args.model)

    def step_loss(theta, i, index):
        """The loss of step i of student `index` at the weights theta. All that is random in it is derived from the two,
        so it is the same each time it is asked for."""
        generator = run.generator(index, "step", i)
        chosen = student_batch(len(classes), args.batch_syn, i, run.derive(index, "order"))
        part, count = team.part(len(chosen)), len(chosen)
        if part.start == part.stop:     # the last batch of an epoch is smaller, perhaps than the ranks are many
            return 0 * sum(weight.square().sum() for weight in theta)       # a gradient with a graph, as of others
        clips, targets = shards.render(generator, chosen, part)
        draw = dsa.draw(generator, count)
        clips = rules.matching(dsa.apply(clips, draw and draw._replace(numbers=draw.numbers[part])))
        mine = classes[chosen[part].to(run.device, non_blocking=True)]
        with run.seeded(index, "dropout", i), whole_dropout(student, torch.arange(count)[part], count):
            loss = student_loss(student, theta, clips, targets, partial(loss_of, classes=mine))
        return loss * (len(mine) / count)

    def reach(it):
        """Segments start below this epoch."""
        first = args.first_max_start_epoch or args.max_start_epoch
        return first + round((args.max_start_epoch - first) * min(1.0, it / (args.expansion_end or 1)))

    def push_apart(start, it, learned):
        """Adds the gradient of what keeps hallucinators from being one and the same, under the weights of an expert."""
        n = len(synset.hallucinators)
        seen = torch.randint(synset.num_variants // n, (len(classes),), generator=run.generator(it, "pairs"))
        seen = seen.to(run.device) * n
        load_weights(student, start)
        clips = [synset.render(classes, slots, variants=seen + which)[0] for which in range(n)]
        features = torch.stack([student.embed(rules.matching(part)) for part in clips])
        loss = args.hal_diversity * diversity_loss(features)
        add_gradients(learned, torch.autograd.grad(loss, learned, materialize_grads=True))

    # loop
    for it in run.loop(args.Iteration):
        if it in flags.eval_iterations(args):
            learned_lr = syn_lr["lr"].item() if lr_optimizer else None
            settings = flags.eval_settings(args, run.device, recipe, learned_lr)
            run.evaluate(it, pool, utils.evaluate_synset, data, settings, average.of if average else synset, teacher,
                         syn_lr=learned_lr)
        if it == args.Iteration:
            break
        learned = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        for tensor in (*learned, *watched, syn_lr["lr"]):
            tensor.grad = None
        total = 0
        with through(it):
            if teacher and not synset.learn_labels:
                teacher.label(synset)
            for job in team.jobs(args.experts_per_step):
                index = it * args.experts_per_step + job
                segment = experts.sample(run.seed, index, reach(it))
                loss, gradients, lr_gradient = mtt_gradient(
                    partial(step_loss, index=index), segment.start, segment.target, args.syn_steps, syn_lr["lr"],
                    [*learned, *watched], args.unroll, args.match, team.add_up if team.members > 1 else None)
                add_gradients([*learned, *watched, syn_lr["lr"]], [*gradients, lr_gradient],
                              1 / args.experts_per_step)
                total += loss / args.experts_per_step / team.members
            if args.hal_diversity and parallel.rank() == (team.teams - 1) * team.members:   # one that has this segment
                push_apart(segment.start, it, learned)
        total = shards.reduce(total, syn_lr["lr"].grad)
        norm = nn.utils.clip_grad_norm_(learned, args.grad_clip or float("inf"))
        skipped = bool(args.max_loss) and float(total) > args.max_loss
        if skipped:     # infinite, perhaps
            run.log(it, every=1, skipped=1, syn_lr=syn_lr["lr"])
        else:
            run.log(it, every=1, loss=total, grad_norm=norm, syn_lr=syn_lr["lr"])
            optimizer.step()
            grow(synset, optimizer, it / args.Iteration)
            if lr_optimizer:
                lr_optimizer.step()
                syn_lr["lr"].data.clamp_(min=args.min_lr)
        if average:
            average.update(synset, it)

    # finish
    skipped = {"skipped": run.count("skipped")} if args.max_loss else {}
    if skipped.get("skipped") == args.Iteration:
        print(f"note: every step was skipped, its loss being above --max_loss {args.max_loss:g}, so the set is the "
              "start itself: raise it", file=sys.stderr)
    run.finish(data, pool, ipc=synset.num_slots, **skipped)


def check_rules(args, synset):
    """ValueError for flags that do not belong together."""
    if bool(args.first_max_start_epoch) != bool(args.expansion_end):
        raise ValueError("--first_max_start_epoch EPOCH and --expansion_end ITERATION say together how the range of "
                         "start epochs grows: give both, or neither")
    if (args.first_max_start_epoch or 0) > args.max_start_epoch:
        raise ValueError(f"--first_max_start_epoch {args.first_max_start_epoch} is above --max_start_epoch "
                         f"{args.max_start_epoch}, to which it is to grow: lower it")
    if args.ema and vars(args).get("grow"):
        raise ValueError(f"--ema {args.ema:g} is the mean of sets of one size, and --grow changes it: leave out one")
    if args.hal_diversity and len(getattr(synset, "hallucinators", ())) < 2:
        raise ValueError(f"--hal_diversity {args.hal_diversity:g} pushes several hallucinators apart: give --set s2d "
                         "--n_hal 2, or more, or leave it out")


class Average:
    """The running mean of a set: of the set before each step, `share` is kept, less in the first steps."""

    def __init__(self, synset, share):
        self.of, self.share = copy.deepcopy(synset).requires_grad_(False), share
        self.state_dict, self.load_state_dict = self.of.state_dict, self.of.load_state_dict

    @torch.no_grad()
    def update(self, synset, iteration):
        share = min(self.share, (1 + iteration) / (10 + iteration))
        for mean, value in zip(self.of.parameters(), synset.parameters(), strict=True):
            mean.lerp_(value, 1 - share)


def student_batch(size, batch, step, seed):
    """Indices of the clips of a student's step: all of them, or `batch` and each once before any comes again."""
    if not batch or batch >= size:
        return torch.arange(size)
    epoch, turn = divmod(step, -(-size // batch))
    return torch.randperm(size, generator=make_generator(seed, epoch)).split(batch)[turn]


if __name__ == "__main__":
    flags.cli(main)
