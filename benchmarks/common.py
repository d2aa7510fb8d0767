"""What the benchmarks share: generated data, sides that alternate in one run, and how the result is printed."""
import argparse
import ctypes
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.clips import Clips
from distill_utils.dataset import Spec
from distill_utils.device import keep_memory, precision_name, set_kernels
from distill_utils.seeds import seeded
from distill_utils.synset import StaticDynamicSet, VideoSet

# network, classes, frames, pixels, real clips a class, synthetic clips a class; --size takes such a list too
SIZES = {"tiny": ("ConvNet3DD2W16", 4, 8, 32, 4, 2), "small": ("ConvNet3D", 10, 16, 64, 8, 5),
         "miniUCF101": ("ConvNet3D", 50, 16, 112, 64, 1)}


def size_of(name):
    """A row of SIZES by name, or written out: ConvNet3D,10,16,64,8,5."""
    if name in SIZES:
        return SIZES[name]
    network, *numbers = name.split(",")
    return network, *map(int, numbers)


def spec_of(size):
    _, classes, frames, pixels, _, _ = size_of(size)
    return Spec("generated", "generated", tuple(map(str, range(classes))), frames, 1, pixels, flip=False)


def make_clips(size):
    """Generated clips, uint8: smooth random fields, with one possible start and no flip, so that sides see the same."""
    _, classes, frames, pixels, per_class, _ = size_of(size)
    spec, rng, n = spec_of(size), np.random.default_rng(0), classes * per_class
    shown = np.empty((n * frames, 3, pixels, pixels), np.uint8)
    for i in range(n):
        coarse = torch.from_numpy(rng.normal(size=(frames, 3, pixels // 8 + 1, pixels // 8 + 1))).float()
        fine = torch.nn.functional.interpolate(coarse, (pixels, pixels), mode="bilinear")
        shown[i * frames:(i + 1) * frames] = (fine * 48 + 128).clamp(0, 255).byte().numpy()
    return Clips(SimpleNamespace(spec=spec, split="train", names=list(map(str, range(n))),
                                 labels=np.arange(n) % classes, counts=np.full(n, frames)), shown)


def make_set(size, kind, seed=0, **labels):
    """A VideoSet or a StaticDynamicSet of random values, with one image and one memory a clip. labels: as sets take
    them."""
    _, classes, frames, pixels, _, ipc = size_of(size)
    shape = (frames, 3, pixels, pixels)
    with seeded(seed):
        synset = (VideoSet(classes, ipc, shape, **labels) if kind == "pixels" else
                  StaticDynamicSet(classes, ipc, ipc, ipc, shape, **labels))
        for name, value in synset.named_parameters():
            if not name.startswith("hallucinators"):
                value.data.normal_()
    return synset


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def process_memory(field):
    """Bytes of VmRSS (now; RssAnon: without mapped files) or VmHWM (peak). Not ru_maxrss: Linux hands the parent's peak
    on to a child."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def peak_memory(solve, device):
    """Bytes that a call takes at its peak beyond what was held before it. The first call makes what is kept."""
    solve()
    if device.type == "cpu":
        ctypes.CDLL("libc.so.6").malloc_trim(0)     # what was freed is not held
        Path("/proc/self/clear_refs").write_text("5")       # VmHWM starts anew
        before = process_memory("VmRSS")
        solve()
        return process_memory("VmHWM") - before
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    solve()
    return torch.cuda.max_memory_allocated(device) - before


def child_memory(*flags):
    """What this program prints in a new process with the flags, as bytes; None where it ran out of memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()        # of this process: the new one has the device to itself
    done = subprocess.run([sys.executable, sys.argv[0], *map(str, flags)], capture_output=True, text=True)
    if done.returncode == 0:
        return int(done.stdout)
    if done.returncode == -9 or "OutOfMemoryError" in done.stderr:      # -9: killed by the system
        return None
    raise RuntimeError(f"{sys.argv[0]} {' '.join(map(str, flags))} failed:\n{done.stderr}")


def alternate(sides, repeats, device):
    """Seconds of each side, which take turns: {name: [seconds]}. The first round warms up and does not count."""
    seconds = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, solve in sides.items():
            begin = time.perf_counter()
            solve()
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def difference(plain, ours):
    """How far (loss, vector) of ours is from plain's: relative loss, cosine of the vectors."""
    return {"loss_difference": abs(float(ours[0]) / float(plain[0]) - 1),
            "cosine": torch.nn.functional.cosine_similarity(plain[1].double(), ours[1].double(), dim=0).item()}


def parser_of(doc, repeats=3):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", help=f"{', '.join(SIZES)}, or a row such as "
                        + ",".join(map(str, SIZES["small"])))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: a core each")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="of our side")
    parser.add_argument("--only_memory", nargs=2, metavar=("KIND", "SIDE"), help="(used by the program itself)")
    return parser


def cpu_name():
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"cpu ({found[1] if found else 'unknown'})"


def conditions(args):
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_memory()
    device = torch.device(args.device)
    set_kernels(precision_name(args.precision, device), device)     # as runs have it
    name = torch.cuda.get_device_name() if args.device == "cuda" else cpu_name()
    network, classes, frames, pixels, real, ipc = size_of(args.size)
    return device, {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "network": network,
                    "classes": classes, "clips": [frames, 3, pixels, pixels], "real_per_class": real,
                    "synthetic_per_class": ipc, "repeats": args.repeats,
                    "precision": precision_name(args.precision, device)}


def main(name, doc, kinds, make):
    """A program that compares "plain" with "ours" for each kind. make(kind, args, device) -> {side: call}, in the order
    in which they take turns. What a call returns gives (loss, vector) when it is called in turn, which is not timed;
    the difference is told from each side's first. None of a side that computes something else."""
    args = parser_of(doc).parse_args()
    device, facts = conditions(args)
    if args.only_memory:
        kind, side = args.only_memory
        print(peak_memory(make(kind, args, device)[side], device))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    rows = []
    for kind in kinds:
        sides = make(kind, args, device)
        results = {side: solve()() for side, solve in sides.items()}
        seconds = alternate(sides, args.repeats, device)
        row = {"kind": kind}
        for side in sides:
            row[f"{side}_seconds"] = median(seconds[side])
            row[f"{side}_bytes"] = child_memory("--size", args.size, "--device", args.device, "--threads", args.threads,
                                                "--precision", args.precision, "--only_memory", kind, side)
        for side in list(sides)[1:]:
            row[f"{side}_ratio"] = median(a / b for a, b in zip(seconds["plain"], seconds[side], strict=True))
            if results[side]:
                row |= {f"{side}_{key}": value for key, value in difference(results["plain"], results[side]).items()}
        rows.append(row)
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()), flush=True)
    print(json.dumps({"benchmark": name, **facts, "rows": rows}))
