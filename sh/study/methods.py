"""Makes one table of methods on a small data set, at so many clips a class. Called by methods.sh.

    methods.py DATASET CLIPS [--out FOLDER] --search    tries the settings of each row on held-back training clips, and
                                                        writes those that scored best to sh/study/chosen/
    methods.py DATASET CLIPS [--out FOLDER]             makes the table with these settings, on other seeds, tested on
                                                        the test clips

Every run is a command of the scripts, and one that is finished is not made again. Two run side by side.
"""
import argparse
import json
import sys
from statistics import mean
from typing import NamedTuple

import study
from study import NET, ROOT, SEEDS

from distill_utils.args import positive

CHOSEN = ROOT / "sh" / "study" / "chosen"
SEARCH_SEEDS, HOLDOUT, EXPERTS = (100, 101), 0.2, 10
EPOCHS = {"MotionDigits": 60, "AppearanceDigits": 40, "GameClips": 30}       # of an expert
TRAINED = "--lr_teacher 0.01 --mom 0.9 --batch_train 32"        # an expert: as all real clips are trained
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


def students(rates, of_students):
    return tuple(f"{rate} --lr_teacher {lr}" for rate, lr in zip(rates, of_students, strict=True))


MTT_PIXELS = students(pixels(0.1, 0.05, 0.05), (0.05, 0.02, 0.01))
MTT_S2D = students(parts(0.02, 0.02, 0.02), (0.05, 0.02, 0.01))
FREPO = "--batch_real 128 --Iteration 500 --lr_net 1e-3"
DM = "--batch_real 16 --Iteration 200"
ROWS = {
    "full": Row("all real clips", "evaluate.py --train_on full", beside=""),
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
    "MTT": Row("MTT", f"distill_MTT.py --ipc {{n}} {STUDENTS}", MTT_PIXELS, ("random",)),
    "MTT_soft": Row("MTT, learned labels", f"distill_MTT.py --ipc {{n}} {STUDENTS} {LEARNED}", MTT_PIXELS,
                    beside="labels_MTT"),
    "labels_MTT": Row("random, labels learned by MTT", f"distill_MTT.py --ipc {{n}} {STUDENTS} {LEARNED} --lr_img 0",
                      recipe=("MTT_soft",)),
    "labels_FRePo": Row("random, labels learned by FRePo", f"distill_FRePo.py --ipc {{n}} {FREPO} --lr_img 0"),
    "FRePo": Row("FRePo", f"distill_FRePo.py --ipc {{n}} {FREPO}", pixels(0.005, 0.02), beside="labels_FRePo"),
    "S2D": Row("static + dynamic of random clips", f"distill_coreset.py --method random --set s2d {S2D}",
               recipe=("random",)),
    "S2D_soft": Row("static + dynamic of random clips, a teacher's labels", "distill_coreset.py --method random "
                    f"--set s2d {S2D} {TEACHER}", recipe=("random_soft",), beside="random_soft"),
    "S2D-DM": Row("DM+S2D", f"distill_s2d_DM.py {S2D} {DM} --static_init real", parts(0.005, 0.02), ("random",)),
    "S2D-DM_experts": Row("DM+S2D under experts, a teacher's labels", f"distill_s2d_DM.py {S2D} {DM} --static_init "
                          f"real --networks experts {TEACHER}", parts(0.02, 0.1), ("random_soft",), "random_soft"),
    "S2D-MTT": Row("MTT+S2D", f"distill_s2d_MTT.py {S2D} {STUDENTS} --static_init real", MTT_S2D, ("random",)),
    "S2D-MTT_two": Row("MTT+S2D, two hallucinators", f"distill_s2d_MTT.py {S2D} {STUDENTS} --static_init "
                       "real --n_hal 2", recipe=("random", "S2D-MTT")),
    "S2D-MTT_soft": Row("MTT+S2D, learned labels", f"distill_s2d_MTT.py {S2D} {STUDENTS} --static_init real {LEARNED}",
                        MTT_S2D, beside="labels_MTT"),
    "S2D-FRePo": Row("FRePo+S2D", f"distill_s2d_FRePo.py {S2D} {FREPO} --static_init real", parts(0.005, 0.02),
                     beside="labels_FRePo"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    study.add_args(parser, EPOCHS)
    parser.add_argument("clips", type=positive, help="a class")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    args = parser.parse_args()
    chosen = read_chosen(chosen_file(args))
    if args.search:
        search(args, chosen, chosen_file(args))
    elif missing := [name for name in args.rows if not args.dry_run and needs(name) - chosen.keys()]:
        sys.exit(f"error: no settings are chosen yet for {', '.join(missing)}: run the same with --search")
    else:
        make_table(args, chosen)


def chosen_file(args):
    return CHOSEN / f"{args.dataset}_{args.clips}.json"


def read_chosen(file):
    """Row -> its setting. ValueError for what no search has written."""
    if not file.is_file():
        return {}
    try:
        chosen = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        chosen = None
    if not isinstance(chosen, dict) or any(
            name not in ROWS or setting not in ROWS[name].settings for name, setting in chosen.items()):
        raise ValueError(f"{file} has settings that are not among those that a search tries: remove it, and run the "
                         "same with --search")
    return chosen


def needs(name):
    """The rows whose choices a row is run with."""
    return {name, *ROWS[name].recipe} if len(ROWS[name].settings) > 1 else set(ROWS[name].recipe)


# ---- runs ---------------------------------------------------------------------------------------------------------

def command(args, name, setting, chosen, seed):
    """What runs a row with a setting, and with what was chosen for others."""
    script, *own = ROWS[name].command.format(n=args.clips).split()
    taken = [word for other in ROWS[name].recipe for word in chosen.get(other, "").split()]
    words = [script, *taken, *setting.split(), *own, *data_flags(args)]      # of two flags of a name the later counts
    if "--Iteration" in words:
        words += ["--eval_it", "1000000"]
    if name == "full":
        return study.named(args, [*words, *study.scored(None, 100)], name, seed)
    buffers = ["--buffer_path", str(study.out_folder(args) / "buffers")]
    return study.named(args, [*words, *study.scored(args.clips)], f"{name}_{args.clips}", seed, EXPERTS, EPOCHS,
                        extra=buffers)


def data_flags(args):
    return [*study.data_flags(args), *(["--holdout", str(HOLDOUT)] if args.search else [])]


def make_experts(args):
    words = ["buffer.py", *data_flags(args), "--model", NET, "--num_experts", str(EXPERTS), "--train_epochs",
             str(EPOCHS[args.dataset]), "--keep_epochs", "all", *TRAINED.split(), *study.data_path(args),
             "--buffer_path", str(study.out_folder(args) / "buffers")]
    study.run_all(args, [("experts", words)] * (1 if args.dry_run else study.LANES))


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
        results = study.run_all(args, jobs)
        if args.dry_run:
            continue
        scores = [mean(r.get("top1_mean", -1) for r in results[i:i + len(SEARCH_SEEDS)])       # -1: it diverged
                  for i in range(0, len(results), len(SEARCH_SEEDS))]
        if max(scores) < 0:
            raise ValueError(f"no setting of {name} is without a run that diverged: give it lower rates in {__file__}")
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
    results = study.run_all(args, jobs)
    if args.dry_run:
        return
    found = {name: results[i::len(args.rows)] for i, name in enumerate(args.rows)}
    print(f"**{args.dataset}, {args.clips} clip{'s' * (args.clips > 1)} a class, 8x32x32, {NET}; seeds "
          f"{', '.join(map(str, SEEDS))}, 3 networks each**\n")
    print("| method | before training | top-1 % | by seed | over random with such labels | bytes stored |\n"
          + "| --- " * 6 + "|")
    for name, rows in found.items():
        if diverged := [r["diverged"] for r in rows if "diverged" in r]:
            print(f"| {ROWS[name].title} |  | diverged in {len(diverged)} of {len(rows)} runs |  |  |  |")
            continue
        top1 = [100 * r["top1_mean"] for r in rows]
        ahead, others = "", found.get(ROWS[name].beside, [{}])
        if all("top1_mean" in r for r in others):
            ahead = study.plus_minus([a - 100 * r["top1_mean"] for a, r in zip(top1, others, strict=True)])
        print(f"| {ROWS[name].title} | {study.before_training(rows)} | {study.plus_minus(top1)} | "
              f"{' / '.join(f'{x:.1f}' for x in top1)} | {ahead} | {rows[0]['storage_bytes']:,} |")
    study.save_table(args, f"table_{args.clips}", [r for rows in found.values() for r in rows if "top1_mean" in r])


if __name__ == "__main__":
    study.cli(main)
