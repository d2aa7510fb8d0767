"""Accuracy over bytes on disk and over clips a class: real clips that are merely selected and compressed, and sets that
were distilled, each in several stores. Called by frontier.sh.

    frontier.py DATASET [--out FOLDER] [--data_path FOLDER]
    frontier.py DATASET --seeds 20 21 22 --rows FRePo --stores h264:36 --most 4
        a part of it, on other seeds: table and figure are frontier_part.json and .png

All rows are those of methods.py, with the settings that its search chose at one clip a class, and for three or more
real clips of each at five, in the same folder of runs. A distilled set is stored after it was learned, or learned
through its store. "Over real clips" is the difference, seed by seed, from the best real clips of the table at the same
bytes: selected at random or by herding, with class labels, a teacher's or learned ones, in the stores that SELECTED
names. Between two numbers of clips their accuracy is interpolated, on a logarithmic axis of bytes; the best is chosen
by its mean on the test clips, to the advantage of real clips.
"""
import argparse
import sys
from statistics import mean
from typing import NamedTuple

import methods
import numpy as np
import study

from distill_utils.args import positive

CLIPS = {"MotionDigits": 54, "AppearanceDigits": 54, "GameClips": 72}       # of a class, for training
# rows of methods.py that select real clips -> store -> clips a class; more than a data set has are all of them
DOUBLED = (1, 2, 4, 8, 16)
SELECTED = {"random": {"zip": (1, 4, 16, 10_000), "h264:30": (*DOUBLED, 32, 10_000),
                       "h264:40": (1, 2, 3, 4, 6, 8, 12, 16, 32, 10_000)},
            "random_soft": {"h264:40": DOUBLED}, "herding": {"h264:40": DOUBLED}, "herding_soft": {"h264:40": DOUBLED}}
DISTILLED = ("FRePo", "DM_experts", "S2D-DM", "S2D-MTT")        # rows of methods.py that are trained
LABELLED = ("labels_FRePo",)        # real clips, of which only the labels are learned
CODED = ("h264:30", "h264:36", "h264:40")


class Point(NamedTuple):
    """One place in the figure."""
    name: str           # of a row of methods.py
    title: str
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

    @property
    def real(self):
        return self.name not in DISTILLED


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    study.add_args(parser, CLIPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=study.SEEDS, help="at least two; if not given, those "
                        "of all tables")
    parser.add_argument("--rows", nargs="+", choices=DISTILLED, default=DISTILLED, help="distilled sets; if not given, "
                        "all")
    parser.add_argument("--stores", nargs="+", choices=CODED, default=CODED, help="of distilled sets; if not given, "
                        "all")
    parser.add_argument("--most", type=positive, default=10_000, metavar="N", help="at most so many real clips "
                        "a class, and no sets of more bytes than these; if not given, all")
    args = argparse.Namespace(**vars(parser.parse_args()), clips=1, search=False)       # as methods.py has them
    if len(set(args.seeds)) < 2 or len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds needs two or more that differ: without them there is no standard error")
    args.rows, args.stores = tuple(dict.fromkeys(args.rows)), tuple(dict.fromkeys(args.stores))
    chosen = {}
    for clips, names in (1, (*SELECTED, *DISTILLED, *LABELLED)), (5, SELECTED):
        chosen[clips] = methods.read_chosen(methods.chosen_file(of_clips(args, clips)))
        if not args.dry_run and (missing := set().union(*map(methods.needs, names)) - chosen[clips].keys()):
            sys.exit(f"error: no settings are chosen yet for {', '.join(sorted(missing))}: run bash "
                     f"sh/study/methods.sh {args.dataset} {clips} --search first")
    methods.make_experts(args)
    real, full = select(args, chosen)
    points = [*real, *distil(args, chosen[1])]
    if not args.dry_run:
        show(args, points, full)


# ---- runs ---------------------------------------------------------------------------------------------------------

def of_clips(args, clips):
    return argparse.Namespace(**vars(args) | {"clips": clips})


def select(args, chosen):
    """Real clips, selected and compressed, and the result of all of them as they are. chosen: the settings of one clip
    a class, and those of five, which are used from three on."""
    rows = [(name, store, count) for name, stores in SELECTED.items() for store, counts in stores.items()
            for count in dict.fromkeys(min(count, CLIPS[args.dataset]) for count in counts) if count <= args.most]
    jobs = [("all real clips", methods.command(args, "full", "", {}, study.SEEDS[0]))]
    for name, store, count in rows:
        settings = chosen[5 if count > 2 else 1]
        jobs += [(f"{name} {count} {store}, seed {seed}", methods.command(of_clips(args, count), name, (
            f"{settings.get(name, '')} --store {store}"), settings, seed)) for seed in args.seeds]
    full, *results = study.run_all(args, jobs)
    return points_of(args, [(name, methods.ROWS[name].title, store) for name, store, _ in rows], results), full


def distil(args, chosen):
    """Sets that are learned and stored afterwards, and sets that are learned through their store."""
    def command(name, seed, more=""):
        return methods.command(args, name, f"{chosen.get(name, '')}{more}", chosen, seed)

    rows = [(name, store) for name in (*args.rows, *LABELLED)
            for store in ("float32", *(args.stores if name in DISTILLED else ()))]
    jobs = [(f"{name} {store}, seed {seed}", command(
        name, seed, "" if store == "float32" else f" --store {store} --through_store"))
        for name, store in rows for seed in args.seeds]
    learned = points_of(args, [
        (name, methods.ROWS[name].title + (", through its store" if store != "float32" else ""), store)
        for name, store in rows], study.run_all(args, jobs))

    exact = {point.name: point.results for point in learned if point.store == "float32" and not (
        not args.dry_run and point.diverged)}
    rows, jobs = [(name, store) for name in exact for store in (args.stores if name in DISTILLED else CODED)], []
    for name, store in rows:
        for number, seed in enumerate(args.seeds):
            words = ["evaluate.py", "--restore", store, *study.data_flags(args), *study.scored(1)]
            run = command(name, seed)
            file = "SET" if args.dry_run else exact[name][number]["synset"]
            jobs.append((f"{name} in {store}, seed {seed}", study.named(
                args, words, f"frontier_{name}", seed, run[run.index("--name") + 1], extra=["--synset", file])))
    return learned + points_of(args, [(name, methods.ROWS[name].title, store) for name, store in rows],
                               study.run_all(args, jobs))


def points_of(args, rows, results):
    """A Point for each row (name, title, store), of the results of its seeds."""
    n = len(args.seeds)
    return [Point(*row, results[i * n:i * n + n]) for i, row in enumerate(rows)]


# ---- table and figure ---------------------------------------------------------------------------------------------

def over_real(point, points):
    """What a point is ahead of the best of real clips at its bytes: (by seed, what these are), or None where none take
    so few. points: the real clips, and others, which do not count."""
    lines = {}
    for other in points:
        if other.real:
            lines.setdefault((other.title, other.store), []).append(other)
    found = []
    for (title, store), line in lines.items():
        line.sort(key=lambda other: other.bytes)
        sizes = [np.log(other.bytes) for other in line]
        if point.bytes >= line[0].bytes:
            found.append(([float(np.interp(np.log(point.bytes), sizes, [other.top1[i] for other in line]))
                           for i in range(len(point.top1))], f"{title}, {store}"))
    if not found:
        return None
    best, what = max(found, key=lambda entry: mean(entry[0]))
    return [mine - theirs for mine, theirs in zip(point.top1, best, strict=True)], what


def ahead_of(points, others):
    """The points of distilled sets that are ahead of the best of others at their bytes by more than two standard
    errors, and by what."""
    found = []
    for point in points:
        gain, _ = (not point.real and over_real(point, others)) or (None, "")
        if gain and mean(gain) > 2 * study.standard_error(gain):
            found.append(f"- {point.title}, {point.store}: {study.plus_minus(gain)}")
    return found


def show(args, points, full):
    if args.most < CLIPS[args.dataset]:     # a set of more bytes than these real clips has nothing to be compared with
        lines = {}
        for point in points:
            if point.name in SELECTED and not point.diverged:
                lines.setdefault((point.name, point.store), []).append(point.bytes)
        limit = min(map(max, lines.values()))
        left_out = [point for point in points if not (point.real or point.diverged) and point.bytes > limit]
        points = [point for point in points if point not in left_out]
        for point in left_out:
            print(f"left out, as --most {args.most} real clips take fewer bytes: {point.title}, {point.store}",
                  file=sys.stderr)
    print(f"**{args.dataset}, 8x32x32, {study.NET}; seeds {', '.join(map(str, args.seeds))}, 3 networks each, "
          f"{study.STEPS} steps each; all real clips (100 epochs, seed {study.SEEDS[0]}) "
          f"{100 * full['top1_mean']:.1f} %**\n\n| set | store | clips a class | bytes | top-1 % | over real clips at "
          "these bytes | these real clips |\n" + "| --- " * 7 + "|")
    whole = [point for point in points if not point.diverged]
    for point in points:
        if point.diverged:
            print(f"| {point.title} | {point.store} |  |  | diverged in {point.diverged} of {len(point.results)} runs "
                  "|  |  |")
            continue
        gain, what = ("", "") if point.real else over_real(point, whole) or ("", "none takes so few")
        print(f"| {point.title} | {point.store} | {point.clips} | {point.bytes:,.0f} | {study.plus_minus(point.top1)} "
              f"| {study.plus_minus(gain) if gain else ''} | {what} |")
    tried = sum(not point.real for point in whole)
    best, random = ahead_of(whole, whole), ahead_of(whole, [point for point in whole if point.name == "random"])
    for what, lines in ("the best real clips", best), ("random clips with class labels", random):
        print(f"\nAhead of {what} at the same bytes by more than two standard errors: {len(lines)} of {tried} points",
              *lines, sep="\n")
    show_through(args, whole)
    all_of = tuple(args.seeds), tuple(args.rows), tuple(args.stores), args.most >= CLIPS[args.dataset]
    name = "frontier" if all_of == (study.SEEDS, DISTILLED, CODED, True) else "frontier_part"
    study.save_table(args, name, [r for point in whole for r in point.results])
    file = study.out_folder(args) / args.dataset / f"{name}.png"
    draw(file, f"{args.dataset}: {tried} points of distilled sets\nmore than two standard errors ahead at the same "
         f"bytes:\nof the best real clips {len(best)}, of random clips {len(random)}", whole, full, CLIPS[args.dataset])
    print(f"figure: {file}", file=sys.stderr)


def show_through(args, points):
    """What learning through a store brings over storing afterwards in it, seed by seed."""
    coded = {(point.title, point.store): point for point in points}
    print("\nLearned through its store, over stored afterwards, top-1 in points:\n\n| set | " + " | ".join(args.stores)
          + " |\n" + "| --- " * (1 + len(args.stores)) + "|")
    for title in (methods.ROWS[name].title for name in args.rows):
        cells = []
        for store in args.stores:
            pair = coded.get((f"{title}, through its store", store)), coded.get((title, store))
            cells.append(study.plus_minus([a - b for a, b in zip(*(point.top1 for point in pair), strict=True)])
                         if all(pair) else "")
        print(f"| {title} | {' | '.join(cells)} |")


def draw(path, title, points, full, most):
    """Top-1 over bytes (left) and over clips a class (right), with standard errors over seeds. most: clips of a class
    of the whole training split."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    figure = Figure(figsize=(13, 5.5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    marks = dict(zip((*DISTILLED, *LABELLED), "ovsD^", strict=True))
    lines, colours = {}, {}
    for point in points:        # of selected clips a line for each store; what is learned, a line over its coded stores
        store = "" if point.name in marks and point.store in CODED else point.store
        lines.setdefault((point.title, store), []).append(point)
        key = point.name, "" if point.name in marks else store
        if key not in colours:
            colours[key] = (*colormaps["tab10"].colors, "black")[len(colours)]
    for (label, store), line in lines.items():
        name, mark, through = line[0].name, marks.get(line[0].name), "through" in label
        for axes, x_of in ((left, lambda point: point.bytes), (right, lambda point: point.clips)):
            x, y, error = zip(*sorted((x_of(point), mean(point.top1), study.standard_error(point.top1))
                                      for point in line), strict=True)
            axes.errorbar(x, y, error, marker=mark or ".", linestyle="--" if mark and not through else "-", linewidth=1,
                          capsize=2, markersize=5, color=colours[name, "" if mark else store], alpha=0.8,
                          markerfacecolor="none" if through else None,
                          label=f"{label}, {store}" if not mark else "_" if store else label)   # "_": not listed
        if mark and store:
            left.annotate(store, (line[0].bytes, mean(line[0].top1)), xytext=(4, 4),
                          textcoords="offset points", fontsize=6)
    for point in points:        # the whole training split, in each store
        if point.name == "random" and point.clips == most:
            left.axvline(point.bytes, color="grey", linewidth=0.8)
            left.annotate(f"all clips, {point.store}", (point.bytes, 0.02), rotation=90, fontsize=7, ha="right",
                          xycoords=("data", "axes fraction"))
    for axes in (left, right):
        axes.axhline(100 * full["top1_mean"], color="grey", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.25)
        axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    stores = [store for store in reversed(CODED) if any(point.store == store and not point.real for point in points)]
    left.set(xlabel="bytes of the set, without the header of its file\nmarks that a line joins, from left to right: "
             + ", ".join(stores),
             ylabel="top-1 on real test clips (%)", title=title)
    right.xaxis.set_major_formatter("{x:g}")
    right.set(xlabel="clips a class", title="dotted: all real clips as they are")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    study.cli(main)
