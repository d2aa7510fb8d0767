"""What a bank of class means costs in accuracy and saves in time: S2D by DM on MotionDigits, two seeds, two sizes.

    bash sh/demo.sh --full                              # leaves the static images
    python benchmarks/bank_study.py result/demo_full    # about 20 minutes on two cores

Each row is `distill_s2d_DM.py` with the demo's flags and --bank P (0: none, as published): at the same number of
iterations, and for P = 50 also at the number that takes as long as without a bank. Networks that score are fresh, and
the same for every P. The first row builds the largest bank, which all later runs share; rows of one iteration show what
a run takes beside its loop.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parent.parent
NET = ["--dataset", "MotionDigits", "--model", "ConvNet3DD2W16"]
SIZES = {"1": (2, 300, []), "5": (10, 100, ["--optim", "adam", "--lr_dynamic", "0.004", "--lr_hal", "0.001"])}


def run(demo, out, clips, seed, bank, iterations):
    """The result of one run, with the seconds of all but its evaluation."""
    vpc, epochs, rates = SIZES[clips]
    name = f"{clips}_{bank}_{iterations}_seed{seed}"
    static = demo / "DC" / f"{clips}_seed{seed}" / "synset.safetensors"
    command = [sys.executable, str(ROOT / "distill_s2d_DM.py"), *NET, "--vpc", vpc, "--spc", vpc, "--dpc", vpc,
               "--path_static", static, "--no_train_static", *rates, "--batch_real", 16, "--Iteration", iterations,
               "--eval_it", 10000, "--num_eval", 5, "--epoch_eval_train", epochs, "--batch_train", 32,
               *(["--bank", bank] if bank else []), "--cache_path", out / "cache", "--seed", seed, "--save_path", out,
               "--name", name, "--resume"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    return {"clips": clips, "bank": bank, "iterations": iterations, "seed": seed,
            **{key: result[key] for key in ("top1_start_mean", "top1_mean", "top1_std", "distill_seconds")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that demo.sh --full left")
    parser.add_argument("--out", type=Path, default=ROOT / "result" / "bank_study")
    parser.add_argument("--banks", type=int, nargs="+", default=[0, 10, 50, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--lanes", type=int, default=2, help="runs side by side, a core each")
    args = parser.parse_args()
    rows = []
    # the largest bank first, alone, and one iteration: the others are part of it
    rows += [run(args.demo, args.out, "1", args.seeds[0], bank, 1) for bank in (max(args.banks), 0)]
    with ThreadPoolExecutor(args.lanes) as pool:
        jobs = [(clips, seed, bank, 300) for clips in SIZES for bank in args.banks for seed in args.seeds]
        rows += pool.map(lambda job: run(args.demo, args.out, *job), jobs)
        if {0, 50} <= set(args.banks):      # as many iterations with a bank of 50 as take the time of 300 without
            beside = rows[1]["distill_seconds"]
            cost = {(clips, bank): mean(r["distill_seconds"] - beside for r in rows[2:]
                                        if (r["clips"], r["bank"]) == (clips, bank))
                    for clips in SIZES for bank in (0, 50)}
            more = {clips: round(300 * cost[clips, 0] / cost[clips, 50]) for clips in SIZES}
            rows += pool.map(lambda job: run(args.demo, args.out, *job), [
                (clips, seed, 50, more[clips]) for clips in SIZES for seed in args.seeds if more[clips] > 300])
    for r in rows:
        print(f"clips {r['clips']}  bank {r['bank']:>3}  iterations {r['iterations']}  seed {r['seed']}  top-1 "
              f"{100 * r['top1_start_mean']:.1f} -> {100 * r['top1_mean']:.1f} +- {100 * r['top1_std']:.1f} %  "
              f"{r['distill_seconds']:.0f} s")
    print(json.dumps({"benchmark": "bank_study", "threads": 1, "lanes": args.lanes, "rows": rows}))


if __name__ == "__main__":
    main()
