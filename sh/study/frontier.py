"""Accuracy over bytes on disk and over clips a class: random and herded clips, and sets that were distilled, each in
several stores. Called by frontier.sh.

    frontier.py DATASET [--out FOLDER] [--data_path FOLDER]

A distilled set is a row of methods.py with the settings that its search chose, in the same folder of runs. It is stored
after it was learned, or learned through its store. "Over random" is the difference, seed by seed, from the best random
clips that take no more bytes, in whichever store; the best is chosen by its mean, to the advantage of random clips.
"""
import argparse
import sys
from statistics import mean
from typing import NamedTuple

import methods
import study

CLIPS = {"MotionDigits": 54, "AppearanceDigits": 54, "GameClips": 72}       # of a class, for training
STORES = ("h264:30", "h264:36", "h264:40", "av1:50")
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
HERDED = (1, 4, 16)
DISTILLED = ("DM_experts", "MTT", "FRePo", "S2D-MTT")
AFTER = ("uint8", "webp:20", *STORES)
THROUGH = ("h264:30", "h264:36", "h264:40")


class Point(NamedTuple):
    """One place in the figure."""
    title: str
    line: str           # of the figure
    store: str
    results: list       # of all seeds

    @property
    def clips(self):
        return self.results[0]["ipc"]

    @property
    def bytes(self):
        return mean(r["storage_bytes"] for r in self.results)

    @property
    def top1(self):
        return [100 * r["top1_mean"] for r in self.results]

    @property
    def diverged(self):
        return sum("diverged" in r for r in self.results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    study.add_args(parser, CLIPS)
    args = parser.parse_args()
    args.clips, args.search = 1, False          # of methods.py
    points = [*select(args), *distil(args)]
    if args.dry_run:
        return
    full, = study.run_all(args, [("all real clips", methods.command(args, "full", "", {}, study.SEEDS[0]))])
    show(args, points, full)


# ---- runs ---------------------------------------------------------------------------------------------------------

def select(args):
    """Real clips, chosen at random or by herding."""
    chosen = methods.read_chosen(methods.chosen_file(args))
    recipe, rows = chosen.get("random", "").split(), []
    for method, counts in (("random", (*COUNTS, CLIPS[args.dataset])), ("herding", HERDED)):
        more = ["--train_epochs", "20"] if method == "herding" else []
        for store in ("zip", *(STORES if method == "random" else ("h264:40",))):
            rows += [(method, store, ["distill_coreset.py", "--method", method, *more, *recipe, "--ipc", str(clips),
                                      "--store", store, *study.data_flags(args), *study.scored(clips)])
                     for clips in counts]
    jobs = [(f"{words[2]} {words[words.index('--ipc') + 1]} {store}, seed {seed}",
             study.named(args, words, f"frontier_{method}", seed))
            for method, store, words in rows for seed in study.SEEDS]
    return points_of(rows, study.run_all(args, jobs), lambda method, store, _: (method, f"{method}, {store}", store))


def distil(args):
    """Sets of methods.py, stored after they were learned, and learned through their store."""
    chosen = methods.read_chosen(methods.chosen_file(args))
    if missing := [name for name in DISTILLED if not args.dry_run and methods.needs(name) - chosen.keys()]:
        sys.exit(f"error: no settings are chosen yet for {', '.join(missing)}: run methods.sh {args.dataset} 1 "
                 "--search")
    methods.make_experts(args)

    def command(name, seed, more=""):
        return methods.command(args, name, f"{chosen.get(name, '')}{more}", chosen, seed)

    rows = [(name, store) for name in DISTILLED for store in ("float32", *THROUGH)]
    jobs = [(f"{name} {store}, seed {seed}", command(
        name, seed, "" if store == "float32" else f" --store {store} --through_store"))
        for name, store in rows for seed in study.SEEDS]
    learned = points_of(rows, study.run_all(args, jobs), lambda name, store: (
        methods.ROWS[name].title + (", through its store" if store != "float32" else ""), name, store))

    rows, jobs = [(name, store) for name in DISTILLED for store in AFTER], []
    exact = {point.line: point.results for point in learned if point.store == "float32"}
    for name, store in rows:
        for number, seed in enumerate(study.SEEDS):
            words = ["evaluate.py", "--restore", store, *study.data_flags(args), *study.scored(1)]
            run = command(name, seed)
            if not args.dry_run and "diverged" in exact[name][number]:
                sys.exit(f"error: {name} diverged: search its settings anew")
            file = "SET" if args.dry_run else exact[name][number]["synset"]
            jobs.append((f"{name} in {store}, seed {seed}", study.named(
                args, words, f"frontier_{name}", seed, run[run.index("--name") + 1], extra=["--synset", file])))
    return learned + points_of(rows, study.run_all(args, jobs), lambda name, store: (
        methods.ROWS[name].title, name, store))


def points_of(rows, results, about):
    """A Point for each row, of the results of its seeds; about(*row) -> its title, line and store."""
    n = len(study.SEEDS)
    return [Point(*about(*row), results[i * n:i * n + n]) for i, row in enumerate(rows)]


# ---- table and figure ---------------------------------------------------------------------------------------------

def over_random(point, points):
    """Percent, by seed, over the best random clips that take no more bytes; None where none do."""
    fitting = [other for other in points if other.title == "random" and other.bytes <= point.bytes]
    if not fitting:
        return None
    best = max(fitting, key=lambda other: mean(other.top1))
    return [mine - theirs for mine, theirs in zip(point.top1, best.top1, strict=True)], best


def show(args, points, full):
    print(f"**{args.dataset}, 8x32x32, {study.NET}; seeds {', '.join(map(str, study.SEEDS))}, 3 networks each; all "
          f"real clips {100 * full['top1_mean']:.1f} %**\n\n| set | store | clips a class | bytes on disk | top-1 % "
          "| over random clips of no more bytes | which are |\n" + "| --- " * 7 + "|")
    for point in points:
        if point.diverged:
            print(f"| {point.title} | {point.store} |  |  | diverged in {point.diverged} of {len(point.results)} runs "
                  "|  |  |")
            continue
        found = over_random(point, points) if point.title != "random" else None
        gain, best = (study.plus_minus(found[0]), f"{found[1].clips}, {found[1].store}") if found else ("", "")
        print(f"| {point.title} | {point.store} | {point.clips} | {point.bytes:,.0f} | {study.plus_minus(point.top1)} "
              f"| {gain} | {best} |")
    points = [point for point in points if not point.diverged]
    study.save_table(args, "frontier", [r for point in points for r in point.results])
    file = study.out_folder(args) / args.dataset / "frontier.png"
    draw(file, args.dataset, points, full)
    print(f"figure: {file}", file=sys.stderr)


def draw(path, dataset, points, full):
    """Top-1 over bytes (left) and over clips a class (right), with standard errors over seeds."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12, 5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    markers, lines = dict(zip(DISTILLED, "osDP", strict=True)), list(dict.fromkeys(point.line for point in points))
    for line, title in dict.fromkeys((point.line, point.title) for point in points):
        some = [point for point in points if (point.line, point.title) == (line, title)]
        distilled = line in markers
        for axes, x_of in ((left, lambda point: point.bytes), (right, lambda point: point.clips)):
            x, y, error = zip(*sorted((x_of(point), mean(point.top1), study.standard_error(point.top1))
                                      for point in some), strict=True)
            axes.errorbar(x, y, error, marker=markers.get(line, "."), linestyle="" if distilled else "-", linewidth=1,
                          markersize=6, capsize=2, label=title if distilled else line, alpha=1 if distilled else 0.6,
                          color=f"C{lines.index(line) % 10}", markerfacecolor="none" if "through" in title else None)
    for axes in (left, right):
        axes.axhline(100 * full["top1_mean"], color="grey", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.25)
        axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    for point in points:        # the whole training split, in each store
        if point.title == "random" and point.clips == CLIPS[dataset]:
            left.axvline(point.bytes, color="grey", linewidth=0.8)
            left.annotate(f"all clips, {point.store}", (point.bytes, 0.02), rotation=90, fontsize=7, ha="right",
                          xycoords=("data", "axes fraction"))
    left.set(xlabel="bytes on disk", ylabel="top-1 on real test clips (%)", title=dataset)
    right.set(xlabel="clips a class", title="dotted: all real clips")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    study.cli(main)
