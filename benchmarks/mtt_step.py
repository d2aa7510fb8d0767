"""Time and peak memory of one trajectory matching gradient: the adjoint against the full unroll, plain and ours.

    python benchmarks/mtt_step.py --size tiny                          # about two minutes on one core
    python benchmarks/mtt_step.py --size miniUCF101 --device cuda

The set is a StaticDynamicSet, every step sees all of it (or the first --batch of its clips), and dropout is on.
"plain" is the full unroll through the network as it is written down, "full" the same through ours. The sides alternate
in one run; the times are medians. The memory is what the process (CPU, needs Linux) or the allocator (CUDA) held at its
peak beyond what it held before, each in a process of its own. Aims: the adjoint's memory grows by no more than the
weights it stores, one copy a step; its time is at most 1.35 of the full unroll's at N = 10, and no more than the plain
one's at under a third of its memory.
"""
import json
from functools import partial
from statistics import median

import common
import plain
import torch

from distill_utils.matching import mtt_gradient, student_loss
from distill_utils.seeds import make_generator, seeded
from distill_utils.synset import all_pairs
from networks import NETWORKS

SIDES = ("plain", "full", "adjoint")


def make_problem(size, device, batch=None):
    """(solve, bytes of one copy of the weights); solve(side, steps) -> all the gradients as one vector."""
    spec, synset = common.spec_of(size), common.make_set(size, "s2d")
    with seeded(0):
        network = NETWORKS[common.size_of(size)[0]](spec).to(device)
        target = [tensor.detach() + 0.01 * torch.randn(tensor.shape).to(device) for tensor in network.parameters()]
    synset.to(device)
    parameters, pairs = tuple(synset.parameters()), [pairs[:batch] for pairs in all_pairs(synset, device)]

    def solve(side, steps):
        student = plain.Network(network) if side == "plain" else network

        def step_loss(theta, i):
            with seeded(i, device):
                return student_loss(student, theta, *synset.render(*pairs, make_generator(i)))

        _, gradients, lr_gradient = mtt_gradient(step_loss, tuple(network.parameters()), target, steps,
                                                 torch.tensor(0.01, device=device), parameters,
                                                 "full" if side == "plain" else side)
        return torch.cat([gradient.flatten() for gradient in (*gradients, lr_gradient)]).cpu()      # waits for CUDA

    return solve, sum(tensor.nbytes for tensor in target)


def measure(solve, steps, args, device):
    """One row: seconds and bytes of each side at N = steps; a side that does not fit in memory is left out."""
    flags = ("--device", args.device, "--size", args.size, "--threads", args.threads, "--steps", steps,
             *(("--batch", args.batch) if args.batch else ()), "--only_memory", "s2d")
    row = {"steps": steps, **{f"{side}_bytes": common.child_memory(*flags, side) for side in SIDES}}
    sides = [side for side in SIDES if row[f"{side}_bytes"] is not None]
    vectors = {side: solve(side, steps) for side in sides}
    seconds = common.alternate({side: partial(solve, side, steps) for side in sides}, args.repeats, device)
    row |= {f"{side}_seconds": median(values) for side, values in seconds.items()}
    for other in sides[:-1]:        # neighbours in time, so that load cancels out
        pairs = zip(seconds["adjoint"], seconds[other], strict=True)
        row[f"time_to_{other}"] = median(adjoint / theirs for adjoint, theirs in pairs)
        row[f"memory_to_{other}"] = row["adjoint_bytes"] / row[f"{other}_bytes"]
        row["difference"] = float((vectors["adjoint"] - vectors[other]).norm() / vectors[other].norm())
    return row


def main():
    parser = common.parser_of(__doc__)
    parser.set_defaults(size="tiny")
    parser.add_argument("--batch", type=int, help="clips that a step sees; all if not given")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], help="values of N")
    args = parser.parse_args()
    device, conditions = common.conditions(args)
    solve, weights = make_problem(args.size, device, args.batch)
    if args.only_memory:
        print(common.peak_memory(lambda: solve(args.only_memory[1], args.steps[0]), device))
        return
    conditions |= {"weight_bytes": weights, "precision": "fp32"}     # all of it is differentiated twice
    print(", ".join(f"{key} {value}" for key, value in conditions.items()))
    columns = {"N": "steps", "plain s": "plain_seconds", "full s": "full_seconds", "adjoint s": "adjoint_seconds",
               "to plain": "time_to_plain", "to full": "time_to_full", "plain MiB": "plain_bytes",
               "full MiB": "full_bytes", "adjoint MiB": "adjoint_bytes", "difference": "difference"}
    print("  ".join(f"{title:>12}" for title in columns), flush=True)
    rows = []
    for steps in args.steps:
        rows.append(row := measure(solve, steps, args, device))
        values = (row.get(key) for key in columns.values())
        values = (value / 2 ** 20 if "MiB" in title and value else value
                  for title, value in zip(columns, values, strict=True))
        print("  ".join(f"{'no room':>12}" if value is None else f"{value:>12.4g}" for value in values), flush=True)
    print(json.dumps({"benchmark": "mtt_step", **conditions, "rows": rows}))


if __name__ == "__main__":
    main()
