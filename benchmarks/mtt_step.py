"""Time and peak memory of one trajectory matching gradient: the adjoint against the full unroll.

    python benchmarks/mtt_step.py --size tiny                          # about two minutes on one core
    python benchmarks/mtt_step.py --size miniUCF101 --device cuda

The set is a StaticDynamicSet at one video per class, every step sees all classes, and dropout is on. The two sides
alternate in one run; the times are medians. The memory is what the process (CPU, needs Linux) or the allocator (CUDA)
held at its peak beyond what it held before, each in a process of its own. Aims: the adjoint's memory grows by no more
than the weights it stores, one copy a step, and its time is at most 1.35 of the full unroll's at N = 10.
"""
import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.matching import UNROLLS, mtt_gradient, student_loss
from distill_utils.run import generator, seeded
from distill_utils.synset import StaticDynamicSet, all_pairs
from networks import NETWORKS

SIZES = {"tiny": ("ConvNet3DD2W16", SimpleNamespace(num_classes=10, frames=8, size=32, channels=3)),
         "miniUCF101": ("ConvNet3D", SimpleNamespace(num_classes=50, frames=16, size=112, channels=3))}


def make_problem(size, device):
    """(solve, bytes of one copy of the weights); solve(unroll, steps) -> all the gradients as one vector."""
    name, spec = SIZES[size]
    with seeded(0):
        network = NETWORKS[name](spec).to(device)
        synset = StaticDynamicSet(spec.num_classes, 1, 2, 2, (spec.frames, spec.channels, spec.size, spec.size))
        synset.static.data.normal_()
        synset.dynamic.data.normal_()
        target = [tensor.detach() + 0.01 * torch.randn(tensor.shape).to(device) for tensor in network.parameters()]
    synset.to(device)
    parameters, pairs = tuple(synset.parameters()), all_pairs(synset, device)

    def step_loss(theta, i):
        with seeded(i, device):
            return student_loss(network, theta, *synset.render(*pairs, generator(i)))

    def solve(unroll, steps):
        _, gradients, lr_gradient = mtt_gradient(step_loss, tuple(network.parameters()), target, steps,
                                                 torch.tensor(0.01, device=device), parameters, unroll)
        return torch.cat([gradient.flatten() for gradient in (*gradients, lr_gradient)]).cpu()      # waits for CUDA

    return solve, sum(tensor.nbytes for tensor in target)


def process_memory(field):
    """Bytes of VmRSS (now) or VmHWM (peak). Not ru_maxrss: Linux hands the parent's peak on to a child."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def peak_memory(solve, unroll, steps, device):
    """Bytes that one gradient takes at its peak; for a process that did nothing else before."""
    if device == "cpu":
        before = process_memory("VmRSS")
        solve(unroll, steps)
        return process_memory("VmHWM") - before
    before = torch.cuda.memory_allocated()
    solve(unroll, steps)
    return torch.cuda.max_memory_allocated() - before


def child_memory(unroll, steps, args):
    """`peak_memory` in a new process; None where it ran out of memory."""
    command = [sys.executable, __file__, "--device", args.device, "--size", args.size, "--steps", str(steps)]
    done = subprocess.run([*command, "--only_memory", unroll], capture_output=True, text=True)
    if done.returncode == 0:
        return int(done.stdout)
    if done.returncode == -9 or "OutOfMemoryError" in done.stderr:      # -9: killed by the system
        return None
    raise RuntimeError(f"{' '.join(command)} --only_memory {unroll} failed:\n{done.stderr}")


def measure(solve, steps, args):
    """One row: seconds and bytes of each side at N = steps; a side that does not fit in memory is left out."""
    row = {"steps": steps, **{f"{unroll}_bytes": child_memory(unroll, steps, args) for unroll in UNROLLS}}
    sides = [unroll for unroll in UNROLLS if row[f"{unroll}_bytes"] is not None]
    vectors = {unroll: solve(unroll, steps) for unroll in sides}        # the warm-up
    seconds = {unroll: [] for unroll in sides}
    for _ in range(args.repeats):
        for unroll in sides:
            begin = time.perf_counter()
            solve(unroll, steps)
            seconds[unroll].append(time.perf_counter() - begin)
    row |= {f"{unroll}_seconds": median(values) for unroll, values in seconds.items()}
    if len(sides) == 2:
        pairs = zip(seconds["adjoint"], seconds["full"], strict=True)       # neighbours in time, so load cancels out
        row["time_ratio"] = median(adjoint / full for adjoint, full in pairs)
        row["memory_ratio"] = row["adjoint_bytes"] / row["full_bytes"]
        row["difference"] = float((vectors["adjoint"] - vectors["full"]).norm() / vectors["full"].norm())
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", default="tiny", choices=SIZES)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], help="values of N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only_memory", choices=UNROLLS, help="print the peak bytes of this side (used by itself)")
    args = parser.parse_args()

    solve, weights = make_problem(args.size, args.device)
    if args.only_memory:
        print(peak_memory(solve, args.only_memory, args.steps[0], args.device))
        return
    name, spec = SIZES[args.size]
    conditions = {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                  "threads": torch.get_num_threads(), "torch": torch.__version__, "network": name,
                  "clips": [spec.num_classes, spec.frames, spec.channels, spec.size, spec.size],
                  "repeats": args.repeats, "weight_bytes": weights}
    print(", ".join(f"{key} {value}" for key, value in conditions.items()))
    columns = {"N": "steps", "full s": "full_seconds", "adjoint s": "adjoint_seconds", "time ratio": "time_ratio",
               "full MiB": "full_bytes", "adjoint MiB": "adjoint_bytes", "memory ratio": "memory_ratio",
               "difference": "difference"}
    print("  ".join(f"{title:>12}" for title in columns), flush=True)
    rows = []
    for steps in args.steps:
        rows.append(row := measure(solve, steps, args))
        values = (row.get(key) for key in columns.values())
        values = (value / 2 ** 20 if "MiB" in title and value else value
                  for title, value in zip(columns, values, strict=True))
        print("  ".join(f"{'no room':>12}" if value is None else f"{value:>12.4g}" for value in values), flush=True)
    print(json.dumps({"benchmark": "mtt_step", **conditions, "rows": rows}))


if __name__ == "__main__":
    main()
