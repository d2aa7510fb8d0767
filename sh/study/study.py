"""What the studies share. A study is a table of runs, each a command of the scripts: two run side by side, one that is
finished is not made again, and one that was broken off goes on."""
import hashlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
from distill_utils.args import cli  # noqa: E402, F401 (handed on)
from distill_utils.files import read_summed  # noqa: E402

SEEDS, LANES = (10, 11, 12), 2      # seeds of tables: nothing was chosen on them
NET = "ConvNet3DD2W16"
SIZE = "--frames 8 --im_size 32"
STEPS = 300                         # of a network on a set, at 32 clips each


def add_args(parser, datasets):
    parser.add_argument("dataset", choices=datasets)
    parser.add_argument("--out", type=Path, help="folder of the runs; result/study if not given")
    parser.add_argument("--data_path", type=lambda path: Path(path).resolve())
    parser.add_argument("--dry_run", action="store_true", help="print the commands in place of running them")


def out_folder(args):
    return (args.out or ROOT / "result" / "study").resolve()


def data_flags(args):
    return ["--dataset", args.dataset, *SIZE.split()]


def data_path(args):
    return ["--data_path", str(args.data_path)] if args.data_path else []


def scored(clips, epochs=None):
    """Flags of how a set of so many clips of each of 10 classes is scored."""
    epochs = epochs or max(1, STEPS // ceil(10 * clips / 32))
    return ["--epoch_eval_train", str(epochs), "--batch_train", "32", "--num_eval", "3", "--model", NET]


def named(args, words, name, seed, *settings, extra=()):
    """The command with a name that tells it from others, so that a changed row is a new run. settings: what else its
    result depends on; extra: flags that it does not depend on."""
    digest = hashlib.sha256(f"{words} {settings}".encode()).hexdigest()[:8]
    return [*words, *extra, *data_path(args), "--seed", str(seed), "--save_path",
            str(out_folder(args) / args.dataset), "--name", f"{name}_{digest}_seed{seed}", "--resume"]


def run(args, words):
    """The result of a command; of one that is finished, as it was; {"diverged": message} of one whose numbers grew too
    large."""
    if args.dry_run:
        print("python", shlex.join(words))
        return None
    if found := finished(args, words):
        return found
    cores = max(1, (os.cpu_count() or 1) // LANES)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(cores), "CUDA_VISIBLE_DEVICES": ""})
    if done.returncode and " is not finite " in done.stderr:
        return {"diverged": done.stderr.strip().splitlines()[-1]}
    if done.returncode:
        sys.exit(f"error: {' '.join(words)}\n{done.stderr[-2000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


def finished(args, words):
    """The result of a command that was run before, or None. ValueError for a file that is not what was written."""
    name = words[words.index("--name") + 1] if "--name" in words else None
    for file in (out_folder(args) / args.dataset).glob(f"*/{name}/result.json"):
        try:
            return read_summed(file)
        except ValueError as error:
            raise ValueError(f"{error}: remove its folder, and the same command makes it again") from None
    return None


def run_all(args, jobs):
    """Their results in order, two at a time. jobs: (what is printed, command)."""
    for _, words in jobs:       # what is damaged is told before hours of work
        finished(args, words)
    def one(job):
        result = run(args, job[1])
        if result and "diverged" in result:
            print(f"{job[0]}: {result['diverged']}", file=sys.stderr)
        elif result and "top1_mean" in result:
            start = f"{100 * result['top1_start_mean']:.1f} -> " if "top1_start_mean" in result else ""
            print(f"{job[0]}: {start}{100 * result['top1_mean']:.1f} %, {result['seconds']:.0f} s", file=sys.stderr)
        return result
    with ThreadPoolExecutor(1 if args.dry_run else LANES) as lanes:
        return list(lanes.map(one, jobs))


def standard_error(values):
    return stdev(values) / len(values) ** 0.5


def plus_minus(values):
    """Mean +- standard error over seeds."""
    return f"{mean(values):.1f} ± {standard_error(values):.1f}"


def before_training(results):
    """The mean score of what sets started from, in percent, or nothing of what is not trained."""
    return f"{mean(100 * r['top1_start_mean'] for r in results):.1f}" if "top1_start_mean" in results[0] else ""


def save_table(args, name, results):
    file = out_folder(args) / args.dataset / f"{name}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"TABLE {file}")
