"""Prints one table of runs, a row each, and keeps it as a JSON list.

    python summarize.py result/demo --json result/demo/table.json
"""
import argparse
import json
from itertools import groupby
from pathlib import Path

from distill_utils.files import replacing
from distill_utils.run import cli

ORDER = ("full", "random", "herding", "k-center", "static", "DC", "DM", "MTT", "S2D-DM", "S2D-MTT")
TITLES = {"full": "all real clips", "static": "static images alone", "S2D-DM": "static + dynamic (DM+S2D)",
          "S2D-MTT": "static + dynamic (MTT+S2D)", "DC": "static images on single frames (DC)",
          "DM": "pixels (DM)", "MTT": "pixels (MTT)"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", help="folders that hold runs, searched for result.json")
    parser.add_argument("--json", help="file of the list")
    parser.add_argument("--merge_seeds", action="store_true", help="one row for runs of one kind, of several seeds")
    args = parser.parse_args()
    files = sorted(file for folder in args.folder for file in Path(folder).rglob("result.json")
                   if not file.parent.name.startswith("."))     # left of a run that --overwrite was deleting
    if not files:
        raise ValueError(f"no result.json below {', '.join(args.folder)}: has a run finished there?")
    results = [read(file) for file in files]
    results.sort(key=lambda r: (*group(r), r["network"], ORDER.index(r["method"]), r["ipc"] or 0, r["seed"]))
    print(table(results, args.merge_seeds))
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
        print(f"TABLE {args.json}")


def read(file):
    try:
        result = json.loads(file.read_text())
        row(result)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the result of a run of this program: take it out of the folder") from error
    return result


def group(result):
    return result["dataset"], result["protocol"]


def table(results, merge_seeds=False):
    """Markdown, one table for each data set and protocol; percentages, +- one standard deviation over networks."""
    lines = []
    for (dataset, protocol), rows in groupby(results, group):
        lines += ["", f"**{dataset}, protocol {protocol}**", "",
                  "| method | clips/class | seed | before training | top-1 % | top-5 % | networks | epochs "
                  "| bytes stored | seconds | of them distilling |", "| --- " * 11 + "|"]
        cells = [row(r) for r in rows]
        if merge_seeds:     # runs of the same method, clips, networks, epochs and bytes; their other cells side by side
            same, merged = (0, 1, 6, 7, 8), {}
            for line in cells:
                merged.setdefault(tuple(line[i] for i in same), []).append(line)
            cells = [[column[0] if i in same or not any(column) else " / ".join(column)
                      for i, column in enumerate(zip(*alike, strict=True))] for alike in merged.values()]
        lines += ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join(lines[1:])


def row(r):
    """The cells of one run."""
    title = TITLES.get(r["method"], r["method"]) + (", scored again" if r.get("scored_again") else "")
    title += ", DSA" if r.get("dsa", "none") not in ("", "none") else ""
    start = f"{100 * r['top1_start_mean']:.1f} ± {100 * r['top1_start_std']:.1f}" if "top1_start_mean" in r else ""
    return [title, str(r["ipc"] or "all"), str(r["seed"]), start,
            f"{100 * r['top1_mean']:.1f} ± {100 * r['top1_std']:.1f}", f"{100 * r['top5_mean']:.1f}",
            f"{r['num_networks']} {r['network']}", str(r["epochs"]), f"{r['storage_bytes']:,}", f"{r['seconds']:.0f}",
            format(r["distill_seconds"], ".0f") if start else ""]


if __name__ == "__main__":
    cli(main)
