"""What several processes bring: measured with two ranks here, and computed for GPUs from the bytes and flops of a step.

    python benchmarks/processes.py                  # minutes on two cores; needs MotionDigits, as sh/demo.sh makes it
    python benchmarks/processes.py --computed       # seconds: the second part alone

Measured: distill_DM.py, distill_MTT.py and distill_FRePo.py as a user runs them, one process with a thread, one with
two, and two ranks with a thread each, which take turns; seconds of an iteration, and the bytes that a rank sends in it.
Computed: the flops of a step at the published sizes are counted by torch on its device `meta`, where nothing is
computed (but for the solution of FRePo, under a thousandth). The messages are those that the scripts send: a test
compares them. A step on N GPUs takes, with the flops of each precision at the speed of that precision,

    flops of the largest share / FLOPS + flops that all ranks compute / FLOPS + messages
    a message of B bytes: 2 (N - 1) / N * B / BYTES + LATENCY * log2 N;  a number by way of the hosts: HOST * log2 N

FLOPS, BYTES, LATENCY and HOST are what a GPU sustains, what it sends in a second, and what a message waits: of an H100
beside seven more of one machine (NVLink), and of eight machines with a network card of 400 Gbit/s to a GPU. They are
assumed, not measured here. What the hosts do meanwhile is not in it.
"""
import json
import os
import subprocess
import sys
import tempfile
from math import log2
from pathlib import Path
from statistics import median
from typing import NamedTuple

import common
import torch
from torch.utils.flop_counter import FlopCounterMode

from distill_utils.dataset import DATASETS
from distill_utils.estimate import step_operations
from distill_utils.matching import frepo_loss
from distill_utils.synset import StaticDynamicSet, VideoSet
from networks import NETWORKS

ROOT, META = Path(__file__).resolve().parent.parent, torch.device("meta")
FLOPS = {"bf16": 200e12, "tf32": 60e12, "fp32": 30e12, "fp64": 30e12}
BYTES = {8: 300e9, 64: 40e9}        # GPUs -> bytes a second
LATENCY, HOST = 20e-6, 50e-6
RESULTS = ROOT / "benchmarks" / "results" / "processes.json"


class Step(NamedTuple):
    """Flops by precision: of a class (or, in MTT, a clip), those that each of several ranks adds to that, and those
    that all ranks compute alike; the bytes of each message; numbers that go by way of the hosts."""
    of_class: dict
    of_ranks: dict
    of_all: dict
    messages: list
    numbers: int

    def seconds(self, classes, ranks=1):
        share = -(-classes // ranks)
        compute = sum(share * count / FLOPS[kind] for kind, count in self.of_class.items())
        compute += sum(count / FLOPS[kind] for kind, count in self.of_all.items())
        if ranks == 1:
            return compute
        compute += sum(share * count / FLOPS[kind] for kind, count in self.of_ranks.items())
        speed = next(speed for count, speed in BYTES.items() if ranks <= count)
        sending = sum(2 * (ranks - 1) / ranks * size / speed + LATENCY * log2(ranks) for size in self.messages)
        return compute + sending + self.numbers * HOST * log2(ranks)


def flops(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def make_set(kind, spec, ipc=1):
    with META:
        return (VideoSet(spec.num_classes, ipc, spec.shape) if kind == "pixels" else
                StaticDynamicSet(spec.num_classes, ipc, 2 * ipc, 2 * ipc, spec.shape))


def clips_of(spec, count, grad=False):
    return torch.empty(count, *spec.shape, device=META, requires_grad=grad)


def rendering(synset):
    """Flops of rendering a clip, and of its gradient."""
    index = torch.zeros(1, dtype=torch.long, device=META)
    return flops(lambda: synset.render(index, index, variants=index)[0].sum().backward())


def shared_bytes(synset):
    return sum(value.nbytes for name, value in synset.named_parameters() if name.startswith(synset.shared))


def bytes_of(tensors):
    return sum(tensor.nbytes for tensor in tensors)


# a step always tells whether a signal has come: one number by way of the hosts

def dm_step(synset, network, spec, real=64):
    """One synthetic clip a class."""
    network.requires_grad_(False)
    one = clips_of(spec, 1, grad=True)[None]
    learned = rendering(synset) + flops(lambda: network.embed(one[0]).sum().backward())
    return Step({"bf16": flops(lambda: network.embed(clips_of(spec, real))), "tf32": learned}, {}, {},
                [4 + shared_bytes(synset)], 1)


def frepo_step(synset, network, spec, real=512, pool=500):
    """The same; real clips and the batch of a network's step are shared out as classes are."""
    classes, clips, clip = spec.num_classes, spec.num_classes * synset.num_slots, clips_of(spec, 1)
    network.requires_grad_(False)
    forward, width = flops(lambda: network.embed(clip)), network.embed(clip).shape[1]
    learned = rendering(synset) + flops(lambda: network.embed(clips_of(spec, 1, grad=True)).sum().backward())
    network.requires_grad_().train()
    trained = min(1, pool / classes) * flops(lambda: network(clip).sum().backward())
    rows, labels, seen = (torch.empty(shape, device=META) for shape in (
        (clips, width), (clips, classes), (real, width)))
    targets = torch.empty(real, classes, device=META)
    regression = flops(lambda: frepo_loss(rows.requires_grad_(), labels, seen, targets).backward())
    return Step({"bf16": real / classes * forward + trained, "fp32": learned}, {"fp32": forward}, {"fp64": regression},
                [real * width * 4, clips * width * 4, clips * classes * 4, 4 + shared_bytes(synset),
                 bytes_of(network.parameters())], 4)


def mtt_step(synset, network, spec, steps=10):
    """One expert, whose ranks share the batch of each step of the student: all clips, one a class."""
    of_clip = steps * step_operations(network, synset, 1, lambda clips: clips, "adjoint")
    return Step({"tf32": of_clip}, {}, {},
                [bytes_of(network.parameters())] * (2 * steps) + [bytes_of(synset.parameters()) + 8], 1)


STEPS = {"DM": dm_step, "FRePo": frepo_step, "MTT": mtt_step}


def computed():
    """Rows of a table: a step on one GPU, and how many times as fast 8 and 64 are."""
    for loss, step_of in STEPS.items():
        for dataset in ("miniUCF101", "Kinetics400"):
            for kind in ("pixels", "s2d"):
                spec = DATASETS[dataset]
                classes = spec.num_classes
                with META:
                    network = NETWORKS["ConvNet3D"](spec)
                step = step_of(make_set(kind, spec), network, spec)
                alone = step.seconds(classes)
                yield {"loss": loss, "set": kind, "dataset": dataset,
                       "step_flops": classes * sum(step.of_class.values()) + sum(step.of_all.values()),
                       "step_bytes": sum(step.messages), "seconds_on_1": alone,
                       **{f"speedup_on_{min(ranks, classes)}": alone / step.seconds(classes, min(ranks, classes))
                          for ranks in BYTES}}


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

        run(1, 2, "buffer.py", "--num_experts", "1", "--train_epochs", "3", "--max_start_epoch", "2")
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

    def sent(count):
        return f"{count / 1e6:,.1f} MB" if count > 1e5 else f"{count:,} bytes"

    kinds = {"pixels": "pixels", "s2d": "static + dynamic"}
    most = max(BYTES)
    computed = [[row["loss"], kinds[row["set"]], row["dataset"], f"{row['step_flops'] / 1e12:.0f}",
                 sent(row["step_bytes"]), f"{1e3 * row['seconds_on_1']:,.0f}", f"{row['speedup_on_8']:.1f}",
                 next(f"{value:.0f}" + (f" (on {key[11:]})" if key[11:] != str(most) else "")
                      for key, value in row.items() if key.startswith("speedup_on_") and key != "speedup_on_8")]
                for row in tables["computed"]]
    measured = [[row["run"], *(f"{1e3 * row[f'seconds_{side}']:,.0f}" for side in SIDES),
                 f"{row['seconds_1x1'] / row['seconds_2x1']:.2f}", sent(row["step_bytes"])]
                for row in tables["measured"]]
    return (table(["loss", "set", "data", "Tflop a step", "sent in it", "ms on one GPU", "8 GPUs, times as fast",
                   f"{most} GPUs"], computed),
            table(["run", "one process, one thread: ms an iteration", "one process, two threads",
                   "two ranks, a thread each", "two ranks to one thread, times as fast", "sent in it"], measured))


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
    result = {"benchmark": "processes", **facts, **tables}
    if not args.computed:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
