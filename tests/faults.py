"""A campaign of faults: runs that are stopped at a random moment, and files that lose a bit or their end.

    python tests/faults.py --kills 100 --damages 200

After each fault the command is given again, as a user would. A trial passes when that gives, byte for byte, what a run
without the fault gave, or, of a damaged file, ends with an error that names the file. What is wrong without a word is
counted, and the exit status is 1. The last line is RESULT and the counts. Everything follows from --seed, but for the
moment at which a run really is when it is stopped.
"""
import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from distill_utils import args as flags
from distill_utils import motiondigits
from distill_utils.progress import progress

NET = "ConvNet3DD2W16"
TINY = "--model {net} --frames 3 --im_size 8 --data_path {world}/../data --cache_path {world}/cache --device cpu"
SCORED = TINY + " --num_eval 1 --epoch_eval_train 2 --save_path {world}/result --name x --resume"
LOOP = SCORED + " --Iteration {iterations} --eval_it 2 --save_it 1"
MTT = LOOP + " --syn_steps 2 --max_start_epoch 2 --buffer_path {world}/buffers"
STATIC = " --path_static {world}/result/DC/x/synset.safetensors --vpc 1 --spc 2 --dpc 2"
FREPO = " --batch_real 12 --pool 2 --pool_updates 1 --batch_pool 3"     # a network is renewed at once
COMMANDS = {    # in their order: each may read what those before it left
    "experts": "buffer " + TINY + " --num_experts 2 --train_epochs 3 --max_start_epoch 2 --batch_train 8 "
               "--buffer_path {world}/buffers",
    "DC": "distill_DC " + LOOP.replace("{net}", "ConvNetD2W32") + " --ipc 2 --batch_real 2 --inner_loop 1",
    "DM": "distill_DM " + LOOP + " --batch_real 2 --bank 3",
    "S2D-DM": "distill_s2d_DM " + LOOP + STATIC + " --batch_real 2",
    "MTT": "distill_MTT " + MTT + " --train_lr",
    "S2D-MTT": "distill_s2d_MTT " + MTT + STATIC + " --store uint8",
    "FRePo": "distill_FRePo " + LOOP + FREPO,
    "S2D-FRePo": "distill_s2d_FRePo " + LOOP + STATIC + FREPO + " --labels teacher --teacher 2 --buffer_path "
                 "{world}/buffers",
    "herding": "distill_coreset " + SCORED + " --method herding --train_epochs 1",
    "k-center": "distill_coreset " + SCORED + " --method k-center --pretrained_path "
                "{world}/result/herding/x/network.safetensors",
    "score": "evaluate " + SCORED.replace("--name x", "--name {world_name}") + " --synset "
             "{world}/result/S2D-DM/x/synset.safetensors",
    "table": "summarize {world}/result --json {world}/table.json",
    "page": "report {world}/result -o {world}/page.html",
    "clips": "extract_frames.extract_folder --source {world}/videos --target {world}/mine --num_workers 1 --im_size 32"}
# what is made once and kept: the fault's trial starts without it, and its command makes it again
OUTPUT = {"experts": ["buffers"], "DM": ["result/DM", "cache"], "score": ["result/score"], "table": ["table.json"],
          "page": ["page.html"],
          "clips": ["mine"]}
READ_BY = {     # files, and a command that reads them; with True one that goes on from half-way
    "result/DC/x/checkpoint.pt": ("DC", True), "result/DM/x/checkpoint.pt": ("DM", True),
    "result/S2D-DM/x/checkpoint.pt": ("S2D-DM", True), "result/MTT/x/checkpoint.pt": ("MTT", True),
    "result/S2D-MTT/x/checkpoint.pt": ("S2D-MTT", True),
    "result/FRePo/x/checkpoint.pt": ("FRePo", True), "result/S2D-FRePo/x/checkpoint.pt": ("S2D-FRePo", True),
    "result/S2D-DM/x/synset.safetensors": ("score", False), "result/DC/x/synset.safetensors": ("S2D-DM", False),
    "result/herding/x/network.safetensors": ("k-center", False), "result/DM/x/result.json": ("table", False),
    "buffers/MotionDigits/*/expert_*": ("MTT", False), "buffers/MotionDigits/*/buffer.json": ("experts", False),
    "cache/bank-*/000*": ("DM", False), "cache/*-train-*.npy": ("DM", False), "cache/*-test-*.npy": ("DM", False),
    "result/.scores/*.json": ("S2D-DM", False), "mine/settings_frames.json": ("clips", False)}


def start(world, name, iterations=4):
    """Forks a process that runs a command; its output goes to <world>/log. Returns its number."""
    words = COMMANDS[name].format(world=world, world_name="x", net=NET, iterations=iterations).split()
    signal.pthread_sigmask(signal.SIG_BLOCK, flags.STOPS)   # until libraries have locks of their own in the fork
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, flags.STOPS)
        return process
    status = 1
    try:
        log = os.open(world / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in flags.STOPS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, flags.STOPS)
        sys.argv = [words[0], *words[1:]]
        flags.cli(importlib.import_module(words[0]).main)
        sys.stdout.flush()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status or 0)


def run(world, name, iterations=4):
    """(exit status, output) of a command. A negative status is the signal that ended it."""
    _, status = os.waitpid(start(world, name, iterations), 0)
    return os.waitstatus_to_exitcode(status), (world / "log").read_text(errors="replace")


def made(world):
    """What the commands leave: {path: content} of tensors, scores without times, and tables."""
    found = {}
    for path in sorted(world.rglob("*")):
        name = str(path.relative_to(world))
        if path.suffix in (".safetensors", ".npy", ".png", ".gif", ".jpg", ".csv", ".webp"):
            found[name] = path.read_bytes()
        elif path.name in ("result.json", "table.json", "confusion.json"):
            found[name] = without_times(json.loads(path.read_text()))
    return found


def without_times(content):
    if isinstance(content, list):
        return [without_times(row) for row in content]
    return {key: value for key, value in content.items() if key not in ("seconds", "distill_seconds", "sum", "synset",
                                                                        "peak_memory_bytes")}


def prepare(folder):
    """(a world where all commands ran, one where they are half-way, seconds of each command, what was made: by command
    of one that went on from half-way, and for None in the first world)."""
    motiondigits.GROUPS, motiondigits.CLIPS = {"test": range(1, 2), "train": range(8, 10)}, {"test": 2, "train": 2}
    world, seconds = folder / "trial", {}
    motiondigits.make(folder / "data")
    for name in ("a/1", "a/2", "b/1", "b/2"):
        film(world / "videos" / f"{name}.mp4")
    for kept, iterations in (("half", 2), ("whole", 4)):
        for path in ("result", "buffers"):
            remove(world / path)
        for name in COMMANDS:
            began = time.time()
            status, text = run(world, name, iterations)
            if status:
                sys.exit(f"{name} fails without any fault:\n{text}")
            seconds[name] = time.time() - began
        shutil.copytree(world, folder / kept)
    references = {None: made(world)}
    for name in {name for name, resumes in READ_BY.values() if resumes}:
        run(copy_of(folder / "half"), name)
        references[name] = made(world)
    return folder / "whole", folder / "half", seconds, references


def film(path):
    import av
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 48
        for value in range(40):
            picture = np.full((48, 48, 3), 6 * value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def copy_of(world):
    """The same world where it was made. (The data lie beside it: the cache remembers when their files were made.)"""
    copy = world.with_name("trial")
    shutil.rmtree(copy)
    shutil.copytree(world, copy)
    return copy


def kill(rng, world, seconds, references):
    """Stops a command at a random moment; (what was done, what came of the next one)."""
    name = rng.choice(list(COMMANDS))
    number = rng.choice([signal.SIGKILL] * 3 + list(flags.STOPS))
    world = copy_of(world)
    for path in OUTPUT.get(name, [f"result/{name}"]):
        remove(world / path)
    moment = rng.uniform(0, seconds[name])
    process = start(world, name)
    time.sleep(moment)
    os.kill(process, number)
    os.waitpid(process, 0)
    status, text = run(world, name)
    what = f"{name}, {signal.Signals(number).name} after {moment:.2f} s"
    # what is written without a lock is tidied up a day later
    strays = [str(path) for path in world.rglob(".*") if (".tmp" in path.name or ".unfinished" in path.name)
              and not path.name.startswith((".table.json.", ".split.csv.", ".page.html."))]
    if status or strays:
        return what, f"failed: {strays or text.strip().splitlines()[-1]}"
    return what, compare(world, references[None])


def damage(rng, whole, half, references):
    """Flips a bit of a file, or cuts it; (what was done, what came of the command that reads it)."""
    pattern, (name, resumes) = rng.choice(list(READ_BY.items()))
    world = copy_of(half if resumes else whole)
    if not resumes:
        for path in OUTPUT.get(name, [f"result/{name}"]):
            if not pattern.startswith(path) or path.startswith("result"):       # or it would not be read
                remove(world / path)
    file = rng.choice(sorted(world.glob(pattern)))
    content = bytearray(file.read_bytes())
    if rng.random() < 0.75:
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        what = f"{file.relative_to(world)}: bit {bit} flipped"
    else:
        length = rng.randrange(len(content))
        del content[length:]
        what = f"{file.relative_to(world)}: cut to {length} bytes"
    file.write_bytes(content)
    status, text = run(world, name)
    if status == 0:
        reference = references[name if resumes else None]
        return what, compare(world, reference, besides=str(file.relative_to(world)))
    if file.name not in text or "Traceback" in text or status < 0:
        return what, f"unclear (status {status}): {' / '.join(text.strip().splitlines()[-2:])}"
    return what, "named"


def compare(world, reference, besides=None):
    """"same", or what differs from the reference. besides: a damaged file that nothing had to write again."""
    now = made(world)
    other = sorted(name for name in now.keys() | reference.keys()
                   if name != besides and now.get(name) != reference.get(name))
    return "same" if not other else f"silent: {other[0]} and {len(other) - 1} more are not what they were"


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, counts, bad = random.Random(args.seed), Counter(), []
    torch.set_num_threads(1)        # threads would not survive the forks
    for name in COMMANDS.values():
        importlib.import_module(name.split()[0])        # once, for all forks
    with tempfile.TemporaryDirectory() as folder:
        whole, half, seconds, references = prepare(Path(folder))
        trials = ["kill"] * args.kills + ["damage"] * args.damages
        for kind in progress(trials, desc="faults", unit="trial"):
            if kind == "kill":
                what, came = kill(rng, whole, seconds, references)
            else:
                what, came = damage(rng, whole, half, references)
            verdict = came.partition(":")[0].partition(" ")[0]
            kind = "kill" if kind == "kill" else "flip" if "flipped" in what else "cut"
            counts[f"{kind}: {verdict}"] += 1
            if verdict not in ("same", "named"):
                bad.append(f"{what} -> {came}")
                print(bad[-1], file=sys.stderr)
    print("RESULT " + json.dumps({**dict(sorted(counts.items())), "seed": args.seed, "bad": bad}))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
