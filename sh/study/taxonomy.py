"""Distribution matching of sets that keep few frames of a clip, after the taxonomy of S2D (arXiv 2312.00362, section
3.1): how many key frames, in how many segments, what is made between them, and what is matched. Called by taxonomy.sh.

    taxonomy.py DATASET [--out FOLDER]

Each point is run at equal clips (one a class) and at equal bytes: as many clips as the frames of one whole clip make,
or about as many where that is no whole number (static + dynamic) or not known before (clips that grow). No rate was
searched: all points have the defaults, which were found on MotionDigits.
"""
import argparse
import sys
from statistics import mean
from typing import NamedTuple

import study

T = 8           # frames of a clip
DM = "--Iteration 200 --eval_it 1000000 --batch_real 16"


class Point(NamedTuple):
    title: str
    group: str          # a line of the figure
    frames: float       # of a clip, as bytes; of one that grows, about what it ends with
    flags: str          # {n} is the number of clips a class
    mark: str = ""      # beside it in the figure


def key_frames(n_syn, segments=1, interpolation="duplicate", more=""):
    return (f"distill_DM.py --set keyframes --ipc {{n}} --n_syn {n_syn} --segments {segments} --interpolation "
            f"{interpolation} {more}{DM}")


POINTS = [
    *(Point(f"{n} key frame{'s' * (n > 1)}, {i}", i, n, key_frames(n, 1, i)) for i in ("duplicate", "linear",
      "hallucinator") for n in (1, 2, 4, 8) if not (i == "linear" and n in (1, 8))),        # then as duplicate
    *(Point(f"{k} segment{'s' * (k > 1)} of {n}, each matched with {real} frame{'s' * (real > 1)}",
            "duplicate, matched by segment", k * n, key_frames(n, k, more=f"--n_real {real} "), f"{k}x{n}, {real}")
      for k, n, real in ((1, 1, 1), (2, 1, 1), (2, 1, 4), (4, 1, 2), (2, 2, 4), (8, 1, 1))),     # n are duplicated
    Point("2 key frames that grow (PRISM)", "growing", 3, key_frames(2, 1, "linear", "--grow ")),
    Point("static + dynamic (S2D)", "static + dynamic", 1 + T / 3, "distill_s2d_DM.py --vpc {n} --spc {n} --dpc {n} "
          f"--static_init real --optim adam {DM}"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    study.add_args(parser, ("MotionDigits", "AppearanceDigits", "GameClips"))
    args = parser.parse_args()
    rows = [(point, clips) for point in POINTS for clips in dict.fromkeys((1, int(T // point.frames)))]
    results = study.run_all(args, [(f"{point.title}, {clips} clips, seed {seed}", command(args, point, clips, seed))
                                    for seed in study.SEEDS for point, clips in rows])
    if args.dry_run:
        return
    table = [(point, clips, results[i::len(rows)]) for i, (point, clips) in enumerate(rows)]
    print(f"**{args.dataset}, DM, 8x32x32, {study.NET}; seeds {', '.join(map(str, study.SEEDS))}, 3 networks "
          "each**\n\n| clips | clips a class | before training | top-1 % | bytes stored |\n" + "| --- " * 5 + "|")
    for point, clips, found in table:
        print(f"| {point.title} | {clips} | {study.before_training(found)} | "
              f"{study.plus_minus([100 * r['top1_mean'] for r in found])} | "
              f"{mean(r['storage_bytes'] for r in found):,.0f} |")
    study.save_table(args, "taxonomy", [r for _, _, found in table for r in found])
    file = study.out_folder(args) / args.dataset / "taxonomy.png"
    draw(file, args.dataset, table)
    print(f"figure: {file}", file=sys.stderr)


def command(args, point, clips, seed):
    words = [*point.flags.format(n=clips).split(), *study.data_flags(args), *study.scored(clips)]
    return study.named(args, words, f"taxonomy_{point.group.split()[0].strip(',')}_{clips}", seed)


def draw(path, dataset, table):
    """Top-1 at equal clips (left) and at equal bytes (middle) over the frames of a clip, and over bytes (right), with
    standard errors over seeds."""
    from matplotlib.figure import Figure
    frame = 4 * 10 * 3 * 32 * 32        # bytes of one in each class
    figure = Figure(figsize=(15, 4.8), dpi=110, layout="constrained")
    clips, same, over = figure.subplots(1, 3, sharey=True)
    groups = dict.fromkeys(point.group for point, _, _ in table)
    marks = {}
    for marker, group in zip("os^DPX", groups, strict=False):
        of_group = [row for row in table if row[0].group == group]
        if group == "linear":       # which is duplicate at both ends
            of_group += [row for row in table if row[0].group == "duplicate" and row[0].frames in (1, T)]
        most = {row[0]: row[1] for row in sorted(of_group, key=lambda row: row[1])}
        for axes, rows in ((clips, [row for row in of_group if row[1] == 1]),
                           (same, [row for row in of_group if row[1] == most[row[0]]]), (over, of_group)):
            points = []
            for point, n, found in rows:
                top1 = [100 * r["top1_mean"] for r in found]
                frames = mean(r["storage_bytes"] for r in found) / frame
                points.append((frames / (1 if axes is over else n), mean(top1), study.standard_error(top1)))
                if axes is clips and point.mark:
                    marks.setdefault(point.frames, []).append((mean(top1), point.mark))
            x, y, error = zip(*sorted(points), strict=True)
            line = "-" if axes is not over and group in ("duplicate", "linear", "hallucinator") else ""
            axes.errorbar(x, y, error, marker=marker, linestyle=line, capsize=2, label=group)
    for frames, of_frames in marks.items():
        clips.annotate("\n".join(mark for _, mark in of_frames), (frames, max(y for y, _ in of_frames)), fontsize=7,
                       xytext=(6, 8), textcoords="offset points")
    clips.set(xlabel="frames stored for each clip", ylabel="top-1 on real test clips (%)",
              title=f"{dataset}: one clip a class (KxN, real frames)")
    same.set(xlabel="frames stored for each clip", title=f"as many clips a class as {T} frames hold")
    over.set(xlabel="frames stored for each class (bytes)", title="both, over bytes")
    clips.legend(frameon=False, fontsize=8)
    for axes in (clips, same, over):
        axes.grid(alpha=0.25)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    study.cli(main)
