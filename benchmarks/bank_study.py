"""What a bank of class means costs in accuracy and saves in time: DM on MotionDigits, pixels and static + dynamic, at
the bytes of one and of five real clips a class.

    bash sh/demo.sh --full                              # leaves static images, for two seeds
    python benchmarks/bank_study.py result/demo_full    # about two hours on two cores

A row is a run of distill_DM.py or distill_s2d_DM.py with the demo's flags and --bank P (0: none, as published). One
seed says little: runs of other seeds start from other real clips and end up to 20 points apart, so differences are told
between runs of the same seed, with the standard error of their mean. (Static images are those of seed 0 for even seeds,
and of seed 1 for odd ones.) P = 300 is as many networks as a run of 300
iterations takes, each once: exact means in place of sampled ones, and nothing else. Rows of other lengths compare equal
times, and rows of other learning rates make the sweep. Runs that are finished are not made again.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
LENGTH = {"s2d": 300, "pixels": 200}
RATES = {("s2d", 1): (0.02, 0.005), ("s2d", 5): (0.004, 0.001), ("pixels", 1): (0.02,), ("pixels", 5): (0.02,)}
SWEEP = (0.25, 0.5, 1, 2, 4)        # times the rates


def run(args, kind, clips, bank, seed, iterations=None, times=1, build=False):
    """A row: the result of one run, with the seconds of all but its evaluation. build: a run for its bank alone."""
    iterations = iterations or LENGTH[kind]
    name = f"{kind}{clips}_bank{bank}_{iterations}_{times}_seed{seed}" if not build else f"build_bank{bank}"
    rates = [times * rate for rate in RATES[kind, clips]]
    if kind == "s2d":
        static = args.demo / "DC" / f"{clips}_seed{seed % 2}" / "synset.safetensors"
        flags = ["distill_s2d_DM.py", *(x for flag in ("--vpc", "--spc", "--dpc") for x in (flag, 2 * clips)),
                 "--path_static", static, "--no_train_static", "--lr_dynamic", rates[0], "--lr_hal", rates[1]]
    else:
        flags = ["distill_DM.py", "--ipc", clips, "--lr_img", rates[0]]
    command = [sys.executable, *flags, "--dataset", "MotionDigits", "--model", "ConvNet3DD2W16", "--optim", "adam",
               "--batch_real", 16, "--Iteration", iterations, "--eval_it", 10000, "--num_eval", 5,
               "--epoch_eval_train", 300 if clips == 1 else 100, "--batch_train", 32,
               *(["--bank", bank] if bank else []), "--cache_path", args.out / "cache", "--seed", seed, "--save_path",
               args.out, "--name", name, "--resume"]
    if build:
        command += ["--Iteration", 1, "--num_eval", 1, "--epoch_eval_train", 1]
    file = args.out / ("S2D-DM" if kind == "s2d" else "DM") / name / "result.json"
    if not file.is_file():
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    result = json.loads(file.read_text())
    row = {"set": kind, "clips": clips, "bank": bank, "iterations": iterations, "rates": rates, "seed": seed,
           **{key: result[key] for key in ("top1_start_mean", "top1_mean", "top1_std", "distill_seconds")}}
    print(f"{name:32} top-1 {100 * row['top1_start_mean']:.1f} -> {100 * row['top1_mean']:.1f} +- "
          f"{100 * row['top1_std']:.1f} %  {row['distill_seconds']:.0f} s", flush=True)
    return row


def table(rows):
    """One line for each setting with a bank at the demo's rates: means over seeds, and the difference from runs without
    one, of the same seeds."""
    score = {(r["set"], r["clips"], r["bank"], r["iterations"], r["seed"]): 100 * r["top1_mean"] for r in rows
             if tuple(r["rates"]) == RATES[r["set"], r["clips"]]}
    for setting in sorted({key[:4] for key in score if key[2]}, key=lambda key: (key[0] != "s2d", *key[1:])):
        kind, clips, bank, _ = setting
        seeds = [key[4] for key in score
                 if key[:4] == setting and (kind, clips, 0, LENGTH[kind], key[4]) in score]
        if not seeds:
            continue
        fresh = [score[kind, clips, 0, LENGTH[kind], seed] for seed in seeds]
        pairs = [score[*setting, seed] - other for seed, other in zip(seeds, fresh, strict=True)]
        yield {"set": kind, "clips": clips, "bank": bank, "iterations": setting[3], "seeds": len(seeds),
               "top1": round(mean(score[*setting, seed] for seed in seeds), 1),
               "fresh": round(mean(fresh), 1), "difference": round(mean(pairs), 1),
               "standard_error": round(stdev(pairs) / len(pairs) ** 0.5, 1) if len(pairs) > 2 else None}


def markdown(summary):
    """The table as text; differences with the standard error of their mean over three seeds or more."""
    lines = ["| set | bytes of clips | P | iterations | each network comes | seeds | without a bank, top-1 % "
             "| with one | difference |", "| --- " * 9 + "|"]
    for row in summary:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.1f}"
        kind = "static + dynamic" if row["set"] == "s2d" else "pixels"
        times = max(1, row["iterations"] / row["bank"])
        lines.append(f"| {kind} | {row['clips']} | {row['bank']} | {row['iterations']} | {times:.3g} times "
                     f"| {row['seeds']} | {row['fresh']:.1f} | {row['top1']:.1f} | {row['difference']:+.1f}{error} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that demo.sh --full left")
    parser.add_argument("--out", type=Path, default=ROOT / "result" / "bank_study")
    parser.add_argument("--sets", nargs="+", choices=tuple(LENGTH), default=["s2d", "pixels"])
    parser.add_argument("--clips", type=int, nargs="+", choices=(1, 5), default=[1, 5])
    parser.add_argument("--banks", type=int, nargs="+", default=[0, 10, 50, 200, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--iterations", type=int, help="if other than the demo's")
    parser.add_argument("--sweep", action="store_true", help="the rates of SWEEP in place of the demo's")
    parser.add_argument("--lanes", type=int, default=2, help="runs side by side, a core each")
    args = parser.parse_args()
    args.demo, args.out = args.demo.resolve(), args.out.resolve()
    rows, build = [], None
    if any(args.banks):     # the largest first, alone: all others are part of it
        build = run(args, args.sets[0], args.clips[0], max(args.banks), 0, build=True)
    with ThreadPoolExecutor(args.lanes) as pool:
        jobs = [(args, kind, clips, bank, seed, args.iterations, times) for clips in args.clips for kind in args.sets
                for bank in args.banks for seed in args.seeds for times in (SWEEP if args.sweep else (1,))]
        rows += pool.map(lambda job: run(*job), jobs)
    summary = list(table(rows))
    print(markdown(summary))
    print(json.dumps({"benchmark": "bank_study", "threads": 1, "lanes": args.lanes, "build": build, "table": summary,
                      "rows": rows}))


if __name__ == "__main__":
    main()
