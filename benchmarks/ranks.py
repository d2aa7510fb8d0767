"""What several processes bring: measured with two ranks here, and computed for GPUs from the bytes and flops of a step.

    python benchmarks/ranks.py                  # minutes on two cores; needs MotionDigits, as sh/demo.sh makes it
    python benchmarks/ranks.py --computed       # seconds: the second part alone

Measured: distill_DM.py, distill_MTT.py and distill_FRePo.py as a user runs them, one process with a thread, one with
two, and two ranks with a thread each, which take turns; seconds of an iteration, and the bytes that a rank sends in it.
Computed: the flops of a step at the published sizes are counted by torch on its device `meta`, where nothing is
computed, and the bytes are those that the scripts send (docs/speed.md). A step on N GPUs takes

    flops of the largest share / FLOPS + flops that all ranks compute / FLOPS + messages
    a message of B bytes: 2 (N - 1) / N * B / BYTES + LATENCY * log2 N

FLOPS, BYTES and LATENCY are what a GPU sustains, what it sends in a second, and what a message waits: of an H100 beside
seven more of one machine (NVLink), and of eight machines with a network card of 400 Gbit/s to a GPU. They are assumed,
not measured here. What the host does meanwhile is not in it.
"""
import json
import os
import subprocess
import sys
import tempfile
from math import log2
from pathlib import Path
from statistics import median

import common
import torch
from torch.utils.flop_counter import FlopCounterMode

from distill_utils.dataset import DATASETS
from distill_utils.matching import class_means, dm_loss, frepo_loss, mtt_gradient, student_loss
from distill_utils.synset import StaticDynamicSet, VideoSet
from networks import NETWORKS

ROOT, META = Path(__file__).resolve().parent.parent, torch.device("meta")
FLOPS, LATENCY = {"bf16": 200e12, "tf32": 60e12}, 20e-6
BYTES = {8: 300e9, 64: 40e9}        # GPUs -> bytes a second
RESULTS = ROOT / "benchmarks" / "results" / "ranks.json"
MODEL, REAL, STEPS, BATCH_REAL, BATCH_POOL = "ConvNet3D", 64, 10, 512, 500


def flops(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def make_set(kind, spec, ipc=1):
    with META:
        return (VideoSet(spec.num_classes, ipc, spec.shape) if kind == "pixels" else
                StaticDynamicSet(spec.num_classes, ipc, 2 * ipc, 2 * ipc, spec.shape))


def make_network(spec):
    with META:
        return NETWORKS[MODEL](spec)


def clips_of(spec, count, grad=False):
    return torch.empty(count, *spec.shape, device=META, requires_grad=grad)


def rendering(synset, pairs):
    """Flops of rendering so many clips, and of its gradient."""
    index = torch.zeros(pairs, dtype=torch.long, device=META)
    return flops(lambda: synset.render(index, index, variants=index)[0].sum().backward())


def dm_step(kind, spec):
    """(flops of a class, flops of all ranks, messages in bytes): a rank has some of the classes."""
    network, synset = make_network(spec).requires_grad_(False), make_set(kind, spec)
    one = clips_of(spec, 1, grad=True)[None]
    of_class = rendering(synset, 1) + flops(
        lambda: dm_loss(network.embed, class_means(network.embed, clips_of(spec, REAL)[None]), one).backward())
    return of_class, 0, [4 + shared_bytes(synset)]


def frepo_step(kind, spec):
    """The same; real clips and the batch of a network's step are shared out as classes are."""
    network, synset = make_network(spec), make_set(kind, spec)
    clips, classes = clips_of(spec, 1), spec.num_classes
    width = network.embed(clips).shape[1]
    of_class = BATCH_REAL / classes * flops(lambda: network.requires_grad_(False).embed(clips)) + rendering(synset, 1)
    of_class += flops(lambda: network.embed(clips)) + flops(
        lambda: network.embed(clips_of(spec, 1, grad=True)).sum().backward())       # features, then their gradient
    of_class += min(1, BATCH_POOL / classes) * flops(lambda: network.requires_grad_().train()(clips).sum().backward())
    real, labels = (torch.empty(BATCH_REAL, n, device=META) for n in (width, classes))
    rows = torch.empty(classes, width, device=META, requires_grad=True)
    regression = flops(lambda: frepo_loss(rows, torch.empty(classes, classes, device=META), real, labels).backward())
    weights = sum(tensor.nbytes for tensor in network.parameters())
    return of_class, regression, [half(BATCH_REAL * width * 4), half(classes * width * 4), half(classes * classes * 4),
                                  4 + shared_bytes(synset), weights]


def half(size):
    """What is handed round travels once, where what is added up travels twice."""
    return size / 2


def mtt_step(kind, spec):
    """The same, of one expert: its ranks share the batch of each step of the student, here of all clips."""
    network, synset = make_network(spec), make_set(kind, spec)
    one = torch.zeros(1, dtype=torch.long, device=META)
    weights = [torch.ones(tensor.shape) for tensor in network.parameters()]
    target = [tensor + 1 for tensor in weights]

    def compute():
        mtt_gradient(lambda theta, i: student_loss(network, theta, synset.render(one, one, variants=one)[0], one),
                     weights, target, STEPS, torch.zeros((), device=META), list(synset.parameters()))

    size = sum(tensor.nbytes for tensor in weights)
    return flops(compute), 0, [size] * (2 * STEPS) + [sum(tensor.nbytes for tensor in synset.parameters()) + 8]


def shared_bytes(synset):
    return sum(value.nbytes for name, value in synset.named_parameters() if name.startswith(synset.shared))


def computed():
    """Rows of a table: a step on one GPU, and how many times as fast 8 and 64 are."""
    for loss, solve, rate in (("DM", dm_step, "bf16"), ("FRePo", frepo_step, "bf16"), ("MTT", mtt_step, "tf32")):
        for dataset in ("miniUCF101", "Kinetics400"):
            for kind in ("pixels", "s2d"):
                spec = DATASETS[dataset]
                of_class, of_all, messages = solve(kind, spec)
                row = {"loss": loss, "set": kind, "dataset": dataset,
                       "step_flops": of_class * spec.num_classes + of_all,
                       "step_bytes": sum(messages), "messages": len(messages)}
                alone = row["step_flops"] / FLOPS[rate]
                row["seconds_on_1"] = alone
                for ranks, speed in BYTES.items():
                    ranks = min(ranks, spec.num_classes)
                    share = -(-spec.num_classes // ranks)
                    sending = sum(2 * (ranks - 1) / ranks * size / speed + LATENCY * log2(ranks) for size in messages)
                    row[f"speedup_on_{ranks}"] = alone / ((share * of_class + of_all) / FLOPS[rate] + sending)
                yield row


RUNS = {"DM+S2D": ("distill_s2d_DM.py", 60, "--batch_real 32"),
        "MTT, 5 clips a class": ("distill_MTT.py", 12, "--ipc 5 --lr_img 1 --syn_steps 10 --max_start_epoch 2 "
                                 "--expert_epochs 1"),
        "FRePo, 5 clips a class": ("distill_FRePo.py", 60, "--ipc 5 --lr_img 0.01 --batch_real 128")}
SIDES = {"1x1": (1, 1), "1x2": (1, 2), "2x1": (2, 1)}       # ranks and threads of each


def measured(args):
    """Rows: seconds of an iteration in one process with a thread, in one with two, and in two ranks."""
    with tempfile.TemporaryDirectory() as temporary:
        size = ["--dataset", "MotionDigits", "--data_path", args.data_path, "--frames", "8", "--device", "cpu",
                "--model", "ConvNet3DD2W16", "--precision", args.precision, "--buffer_path", f"{temporary}/buffers"]

        def run(ranks, threads, script, *flags):
            start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
            subprocess.run([sys.executable, *start, script, *size, *flags], cwd=ROOT, check=True,
                           env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL)

        run(1, 2, "buffer.py", "--num_experts", "1", "--train_epochs", "3")
        for name, (script, iterations, flags) in RUNS.items():
            seconds, sent = {side: [] for side in SIDES}, 0
            for number in range(args.repeats):
                for side, (ranks, threads) in SIDES.items():
                    result = Path(temporary, "result", f"{len(name)}-{number}-{side}")
                    run(ranks, threads, script, *flags.split(), "--save_path", result, "--name", "run", "--Iteration",
                        str(iterations), "--num_eval", "1", "--epoch_eval_train", "1")
                    folder, = result.glob("*/run")
                    found = json.loads((folder / "result.json").read_text())
                    seconds[side].append(found["distill_seconds"] / iterations)
                    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
                    sent = max(line.get("bytes_sent", 0) for line in lines)
            yield {"run": name, **{f"seconds_{side}": median(values) for side, values in seconds.items()},
                   "step_bytes": sent}


def markdown(tables):
    """The tables of docs/speed.md: what was computed, and what was measured."""
    def table(head, rows):
        return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))

    kinds = {"pixels": "pixels", "s2d": "static + dynamic"}
    most = max(BYTES)
    computed = [[row["loss"], kinds[row["set"]], row["dataset"], f"{row['step_flops'] / 1e12:.0f}",
                 f"{row['step_bytes'] / 1e6:,.1f}" if row["step_bytes"] > 1e5 else f"{row['step_bytes']:,} bytes",
                 f"{1e3 * row['seconds_on_1']:,.0f}", f"{row['speedup_on_8']:.1f}",
                 next(f"{value:.0f}" + (f" (on {key[11:]})" if key[11:] != str(most) else "")
                      for key, value in row.items() if key.startswith("speedup_on_") and key != "speedup_on_8")]
                for row in tables["computed"]]
    measured = [[row["run"], *(f"{1e3 * row[f'seconds_{side}']:,.0f}" for side in SIDES),
                 f"{row['seconds_1x1'] / row['seconds_2x1']:.2f}", f"{row['step_bytes'] / 1e6:.2f}"]
                for row in tables["measured"]]
    return (table(["loss", "set", "data", "Tflop a step", "MB sent in it", "ms on one GPU", "8 GPUs, times as fast",
                   f"{most} GPUs"], computed),
            table(["run", "one process, one thread: ms an iteration", "one process, two threads",
                   "two ranks, a thread each", "two ranks to one thread, times as fast", "MB sent in it"], measured))


def main():
    parser = common.parser_of(__doc__, repeats=2)
    parser.add_argument("--data_path", default=str(ROOT / "distill_utils" / "data"))
    parser.add_argument("--computed", action="store_true", help="what needs no run alone")
    args = parser.parse_args()
    _, facts = common.conditions(args)
    facts = {key: facts[key] for key in ("device", "torch", "precision", "repeats")}
    tables = {"computed": list(computed())}
    if not args.computed:
        tables["measured"] = list(measured(args))
    for rows in tables.values():
        for row in rows:
            print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                            for key, value in row.items()), flush=True)
    result = {"benchmark": "ranks", **facts, **tables}
    if not args.computed:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
