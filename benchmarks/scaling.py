"""How time and memory grow: an iteration of DM, with and without a bank, and of MTT. A table and a log-log plot.

    python benchmarks/scaling.py --threads 1                     # about five minutes on one core
    python benchmarks/scaling.py --device cuda --network ConvNet3D --pixels 112 --frames 16 --real 16

One thing grows at a time from a middle size: classes (10, 50, 400), real clips of a class, frames; for MTT the steps of
a student. Written to benchmarks/results/scaling-<device>.json and .png.
"""
import json
from functools import partial
from statistics import median

import common
import dm_step
import mtt_step
from matplotlib.figure import Figure

RESULTS = common.Path(__file__).parent / "results"


def dm_rows(args, device, axis, values):
    middle = {"classes": 10, "frames": args.frames, "real": args.real}
    for value in values:
        now = middle | {axis: value}
        args.size = f"{args.network},{now['classes']},{now['frames']},{args.pixels},{now['real']},1"
        sides = dm_step.make("s2d", args, device)
        sides = {side: sides[side] for side in ("ours", "bank")}
        seconds = common.alternate(sides, args.repeats, device)
        yield {axis: value, **{f"{side}_seconds": median(seconds[side]) for side in sides},
               **{f"{side}_bytes": common.child_memory(*flags(args), "--only_memory", "s2d", side) for side in sides}}


def mtt_rows(args, device, values):
    args.size = f"{args.network},10,{args.frames},{args.pixels},1,1"
    solve, _ = mtt_step.make_problem(args.size, device)
    for steps in values:
        held = {side: common.child_memory(*flags(args), "--unroll", steps, "--only_memory", "mtt", side)
                for side in ("adjoint", "full")}
        sides = {side: partial(solve, side, steps) for side in held if held[side] is not None}      # None: no room
        seconds = common.alternate(sides, args.repeats, device)
        yield {"unroll": steps, **{f"{side}_seconds": median(seconds[side]) for side in sides},
               **{f"{side}_bytes": held[side] for side in sides}}


def flags(args):
    return "--device", args.device, "--threads", args.threads, "--precision", args.precision, "--size", args.size


def plot(path, tables):
    figure = Figure(figsize=(4 * len(tables), 6), layout="constrained")
    for column, (axis, rows) in enumerate(tables.items()):
        for line, (unit, scale) in enumerate((("seconds", 1), ("bytes", 2 ** 20))):
            ax = figure.add_subplot(2, len(tables), line * len(tables) + column + 1)
            for key in (key for key in rows[0] if key.endswith(unit)):
                there = [row for row in rows if key in row]
                ax.plot([row[axis] for row in there], [row[key] / scale for row in there], "o-",
                        label=key.removesuffix(f"_{unit}"))
            names = {"real": "real clips of a class", "unroll": "steps of a student"}
            ax.set(xscale="log", yscale="log", xlabel=names.get(axis, axis),
                   ylabel="seconds" if unit == "seconds" else "peak memory, MiB")
            ax.set_xticks([row[axis] for row in rows], [str(row[axis]) for row in rows])
            ax.set_xticks([], minor=True)
            ax.set_title("MTT" if axis == "unroll" else "DM (ours, with a bank)")
            ax.legend()
    figure.savefig(path, dpi=110)


def kinetics(args, device):
    """Hours of the published 5,000 iterations of DM on Kinetics-400 (ConvNet3D, 8x64x64, 400 classes, 64 real clips of
    each), from the time of 4 classes with 16 clips: both sides grow in proportion, as the tables show. Reading clips is
    not in it."""
    args.size = "ConvNet3D,4,8,64,16,1"
    sides = dm_step.make("s2d", args, device)
    seconds = common.alternate({side: sides[side] for side in ("ours", "bank")}, args.repeats, device)
    bank, real = median(seconds["bank"]), median(seconds["ours"]) - median(seconds["bank"])
    hours = 100 * 5000 / 3600
    return {"without_a_bank": hours * (bank + 4 * real), "with_a_bank": hours * bank,
            "bank_of_200_networks": 200 * 2 * 240_000 * real / 64 / 3600}      # both flips of all training clips


def main():
    parser = common.parser_of(__doc__)
    parser.add_argument("--network", default="ConvNet3DD2W16")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--real", type=int, default=8, help="real clips of a class")
    parser.add_argument("--unroll", type=int, help="(used by the program itself)")
    parser.set_defaults(size="tiny")
    args = parser.parse_args()
    device, facts = common.conditions(args)
    if args.only_memory:
        kind, side = args.only_memory
        if kind == "mtt":
            solve, _ = mtt_step.make_problem(args.size, device)
            print(common.peak_memory(lambda: solve(side, args.unroll), device))
        else:
            print(common.peak_memory(dm_step.make(kind, args, device)[side], device))
        return
    tables = {"classes": list(dm_rows(args, device, "classes", [10, 50, 400])),
              "real": list(dm_rows(args, device, "real", [4, 16, 64])),
              "frames": list(dm_rows(args, device, "frames", [4, 8, 16, 32])),
              "unroll": list(mtt_rows(args, device, [2, 5, 10, 20, 50]))}
    for rows in tables.values():
        for row in rows:
            print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                            for key, value in row.items()), flush=True)
    facts = {key: facts[key] for key in ("device", "threads", "torch", "repeats", "precision")} | {
        "network": args.network, "pixels": args.pixels, "frames": args.frames, "real": args.real}
    result = {"benchmark": "scaling", **facts, "tables": tables,
              "computed_hours_of_DM_on_Kinetics400": kinetics(args, device)}
    RESULTS.mkdir(exist_ok=True)
    name = f"scaling-{args.device}"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(RESULTS / f"{name}.png", tables)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
