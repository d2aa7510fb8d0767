"""Makes one table of methods on a small data set, at so many clips a class. Called by methods.sh.

    methods.py DATASET CLIPS [--out FOLDER] --search    tries the settings of each row on held-back training clips, and
                                                        writes those that scored best to sh/study/chosen/
    methods.py DATASET CLIPS [--out FOLDER]             makes the table with these settings, on other seeds, tested on
                                                        the test clips

Every run is a command of the scripts, and one that is finished is not made again. Two run side by side.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
CHOSEN = ROOT / "sh" / "study" / "chosen"
SEARCH_SEEDS, SEEDS, HOLDOUT, EXPERTS, LANES = (100, 101), (10, 11, 12), 0.2, 10, 2
NET = "ConvNet3DD2W16"
SIZE = "--frames 8 --im_size 32"
EPOCHS = {"MotionDigits": 60, "AppearanceDigits": 100, "GameClips": 30}       # of an expert
TRAINED = "--lr_teacher 0.01 --mom 0.9 --batch_train 32"        # an expert: as all real clips are trained
STEPS = 300                 # of a network on a set, at 32 clips each
TEACHER = f"--labels teacher --teacher {EXPERTS}"
STUDENTS = "--expert_epochs 1 --max_start_epoch 20 --batch_syn 20 --grad_clip 1 --Iteration 100"
ADAMW = "--optim_net adamw --wd_net 0.01 --schedule cosine"


class Row(NamedTuple):
    title: str
    command: str                # a script and its flags; {n} is the number of clips a class
    settings: tuple = ("",)     # what the search chooses among
    recipe: tuple = ()          # rows whose choices it takes over, such as how networks are trained on its labels
    beside: str = "random"      # the row of random clips with the same labels


CLASS_RECIPES = ("", f"{ADAMW} --lr_net 1e-3", f"{ADAMW} --lr_net 3e-3")
TEACHER_RECIPES = ("--lr_net 1e-3", "--lr_net 3e-3", "--loss kl --temperature 4 --lr_net 3e-3")
LEARNED = f"--labels learned --teacher {EXPERTS} --loss ce {ADAMW} --lr_net 1e-3"
S2D = "--vpc {n} --spc {n} --dpc {n}"


def pixels(*rates):
    return tuple(f"--optim adam --lr_img {rate}" for rate in rates)


def parts(*rates):
    return tuple(f"--optim adam --lr_static {rate} --lr_dynamic {rate} --lr_hal {rate / 4}" for rate in rates)


FREPO = "--batch_real 128 --Iteration 500 --lr_net 1e-3"
DM = "--batch_real 16 --Iteration 200"
ROWS = {
    "full": Row("all real clips", "evaluate.py --train_on full --epoch_eval_train 100", beside=""),
    "random": Row("random", "distill_coreset.py --method random --ipc {n}", CLASS_RECIPES, beside=""),
    "random_soft": Row("random, a teacher's labels", f"distill_coreset.py --method random --ipc {{n}} {TEACHER}",
                       TEACHER_RECIPES),
    "herding": Row("herding", "distill_coreset.py --method herding --train_epochs 20 --ipc {n}", recipe=("random",)),
    "herding_soft": Row("herding, a teacher's labels", "distill_coreset.py --method herding --train_epochs 20 "
                        f"--ipc {{n}} {TEACHER}", recipe=("random_soft",), beside="random_soft"),
    "DM": Row("DM", f"distill_DM.py --ipc {{n}} {DM}", pixels(0.02, 0.1), ("random",)),
    "DM_gaussian": Row("DM, Gaussian kernel", f"distill_DM.py --ipc {{n}} {DM} --kernel gaussian",
                       recipe=("random", "DM")),
    "DM_experts": Row("DM under experts, a teacher's labels", f"distill_DM.py --ipc {{n}} {DM} --networks experts "
                      f"{TEACHER}", pixels(0.02, 0.1), ("random_soft",), "random_soft"),
    "MTT": Row("MTT", f"distill_MTT.py --ipc {{n}} {STUDENTS}", pixels(0.02, 0.05), ("random",)),
    "labels_MTT": Row("random, labels learned by MTT", f"distill_MTT.py --ipc {{n}} {STUDENTS} {LEARNED} --optim adam "
                      "--lr_img 0"),
    "MTT_soft": Row("MTT, learned labels", f"distill_MTT.py --ipc {{n}} {STUDENTS} {LEARNED}", pixels(0.02, 0.05),
                    beside="labels_MTT"),
    "labels_FRePo": Row("random, labels learned by FRePo", f"distill_FRePo.py --ipc {{n}} {FREPO} --lr_img 0"),
    "FRePo": Row("FRePo", f"distill_FRePo.py --ipc {{n}} {FREPO}", pixels(0.005, 0.02), beside="labels_FRePo"),
    "S2D": Row("static + dynamic of random clips", f"distill_coreset.py --method random --set s2d {S2D}",
               recipe=("random",)),
    "S2D_soft": Row("static + dynamic of random clips, a teacher's labels", "distill_coreset.py --method random "
                    f"--set s2d {S2D} {TEACHER}", recipe=("random_soft",), beside="random_soft"),
    "S2D-DM": Row("DM+S2D", f"distill_s2d_DM.py {S2D} {DM} --static_init real", parts(0.005, 0.02), ("random",)),
    "S2D-DM_experts": Row("DM+S2D under experts, a teacher's labels", f"distill_s2d_DM.py {S2D} {DM} --static_init "
                          f"real --networks experts {TEACHER}", parts(0.02, 0.1), ("random_soft",), "random_soft"),
    "S2D-MTT": Row("MTT+S2D", f"distill_s2d_MTT.py {S2D} {STUDENTS} --static_init real", parts(0.02, 0.05),
                   ("random",)),
    "S2D-MTT_soft": Row("MTT+S2D, learned labels", f"distill_s2d_MTT.py {S2D} {STUDENTS} --static_init real {LEARNED}",
                        parts(0.02, 0.05), beside="labels_MTT"),
    "S2D-FRePo": Row("FRePo+S2D", f"distill_s2d_FRePo.py {S2D} {FREPO} --static_init real", parts(0.005, 0.02),
                     beside="labels_FRePo"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=EPOCHS)
    parser.add_argument("clips", type=int, help="a class")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the runs; result/study if not given")
    parser.add_argument("--data_path", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--dry_run", action="store_true", help="print the commands in place of running them")
    args = parser.parse_args()
    args.out = (args.out or ROOT / "result" / "study").resolve()
    chosen_file = CHOSEN / f"{args.dataset}_{args.clips}.json"
    chosen = json.loads(chosen_file.read_text()) if chosen_file.is_file() else {}
    if args.search:
        search(args, chosen, chosen_file)
    elif missing := [name for name in args.rows if not args.dry_run and needs(name) - chosen.keys()]:
        sys.exit(f"error: no settings are chosen yet for {', '.join(missing)}: run the same with --search")
    else:
        make_table(args, chosen)


def needs(name):
    """The rows whose choices a row is run with."""
    return {name, *ROWS[name].recipe} if len(ROWS[name].settings) > 1 else set(ROWS[name].recipe)


# ---- runs ---------------------------------------------------------------------------------------------------------

def command(args, name, setting, chosen, seed):
    """What runs a row with a setting, and with what was chosen for others."""
    words = ROWS[name].command.format(n=args.clips).split()
    taken = [word for other in ROWS[name].recipe for word in chosen.get(other, "").split()]
    epochs = [] if name == "full" else ["--epoch_eval_train", str(STEPS // ceil(10 * args.clips / 32))]
    loop = ["--eval_it", "1000000"] if "--Iteration" in words else []
    buffers = [] if name == "full" else ["--buffer_path", str(args.out / "buffers")]
    words = [*words, *epochs, *setting.split(), *taken, *loop, *data_flags(args), "--model", NET, "--num_eval", "3",
             "--batch_train", "32"]
    digest = hashlib.sha256(f"{words} {EXPERTS} {EPOCHS}".encode()).hexdigest()[:8]     # a changed row is a new run
    return [*words, *buffers, "--seed", str(seed), "--save_path", str(args.out / args.dataset),
            "--name", f"{name}{'' if name == 'full' else f'_{args.clips}'}_{digest}_seed{seed}", "--resume"]


def data_flags(args):
    return ["--dataset", args.dataset, *SIZE.split(), *(["--holdout", str(HOLDOUT)] if args.search else []),
            *(["--data_path", str(args.data_path)] if args.data_path else [])]


def run(args, words):
    """The result of a command; of one that is finished, as it was."""
    if args.dry_run:
        print("python", " ".join(words))
        return None
    if "--name" in words:
        name = words[words.index("--name") + 1]
        for file in (args.out / args.dataset).glob(f"*/{name}/result.json"):
            return json.loads(file.read_text())
    cores = max(1, (os.cpu_count() or 1) // LANES)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(cores), "CUDA_VISIBLE_DEVICES": ""})
    if done.returncode:
        sys.exit(f"error: {' '.join(words)}\n{done.stderr[-2000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


def run_all(args, jobs):
    """Their results in order, two at a time. jobs: (what is printed, command)."""
    def one(job):
        result = run(args, job[1])
        if result and "top1_mean" in result:
            start = f"{100 * result['top1_start_mean']:.1f} -> " if "top1_start_mean" in result else ""
            print(f"{job[0]}: {start}{100 * result['top1_mean']:.1f} %, {result['seconds']:.0f} s", file=sys.stderr)
        return result
    with ThreadPoolExecutor(1 if args.dry_run else LANES) as lanes:
        return list(lanes.map(one, jobs))


def make_experts(args):
    words = ["buffer.py", *data_flags(args), "--model", NET, "--num_experts", str(EXPERTS), "--train_epochs",
             str(EPOCHS[args.dataset]), "--keep_epochs", "all", *TRAINED.split(), "--buffer_path",
             str(args.out / "buffers")]
    run_all(args, [("experts", words)] * (1 if args.dry_run else LANES))


# ---- search -------------------------------------------------------------------------------------------------------

def search(args, chosen, file):
    """Chooses a setting for each row that has several: rows whose choice others use come first in ROWS."""
    make_experts(args)
    for name in args.rows:
        settings = ROWS[name].settings
        if len(settings) == 1:
            continue
        if not args.dry_run and (missing := needs(name) - {name} - chosen.keys()):
            sys.exit(f"error: {name} needs the choice of {', '.join(missing)} first: give --rows {' '.join(missing)} "
                     f"{name}")
        jobs = [(f"{name} [{setting}] seed {seed}", command(args, name, setting, chosen, seed))
                for setting in settings for seed in SEARCH_SEEDS]
        results = run_all(args, jobs)
        if args.dry_run:
            continue
        scores = [mean(r["top1_mean"] for r in results[i:i + len(SEARCH_SEEDS)])
                  for i in range(0, len(results), len(SEARCH_SEEDS))]
        chosen[name] = settings[scores.index(max(scores))]
        print(f"{name}: " + ", ".join(f"[{setting}] {100 * score:.1f}" for setting, score in
                                      zip(settings, scores, strict=True)) + f" -> [{chosen[name]}]", flush=True)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(chosen, indent=1) + "\n")


# ---- table --------------------------------------------------------------------------------------------------------

def make_table(args, chosen):
    make_experts(args)
    jobs = [(f"{name} seed {seed}", command(args, name, chosen.get(name, ROWS[name].settings[0]), chosen,
                                         seed))
            for seed in SEEDS for name in args.rows]
    results = run_all(args, jobs)
    if args.dry_run:
        return
    found = {name: results[i::len(args.rows)] for i, name in enumerate(args.rows)}
    print(f"**{args.dataset}, {args.clips} clip{'s' * (args.clips > 1)} a class, 8x32x32, {NET}; seeds "
          f"{', '.join(map(str, SEEDS))}, 3 networks each**\n")
    print("| method | before training | top-1 % | by seed | over random with such labels | bytes stored | seconds "
          "distilling |\n" + "| --- " * 7 + "|")
    for name, rows in found.items():
        top1 = [100 * r["top1_mean"] for r in rows]
        start = f"{mean(100 * r['top1_start_mean'] for r in rows):.1f}" if "top1_start_mean" in rows[0] else ""
        ahead = ""
        if ROWS[name].beside in found:
            ahead = plus_minus([a - 100 * r["top1_mean"] for a, r in zip(top1, found[ROWS[name].beside], strict=True)])
        trained = f"{mean(r['distill_seconds'] for r in rows):.0f}" if start else ""
        print(f"| {ROWS[name].title} | {start} | {plus_minus(top1)} | {' / '.join(f'{x:.1f}' for x in top1)} | {ahead} "
              f"| {rows[0]['storage_bytes']:,} | {trained} |")
    file = args.out / args.dataset / f"table_{args.clips}.json"
    file.write_text(json.dumps([r for rows in found.values() for r in rows], indent=1) + "\n")
    print(f"TABLE {file}")


def plus_minus(values):
    """Mean +- standard error over seeds."""
    return f"{mean(values):.1f} ± {stdev(values) / len(values) ** 0.5:.1f}"


if __name__ == "__main__":
    main()
