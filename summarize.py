"""Prints one table of runs, a row each, and keeps it as a JSON list.

    python summarize.py result/demo --json result/demo/table.json
"""
import json
from itertools import groupby
from pathlib import Path

from distill_utils.args import Parser, cli
from distill_utils.files import replacing
from distill_utils.results import (
    CODED,
    COLUMNS,
    FAIR_COLUMNS,
    below_start,
    fair_row,
    find,
    order,
    other_data,
    read,
    row,
    title,
)


def main():
    parser = Parser(__doc__)
    parser.add_argument("folder", nargs="+", help="folders that hold runs, searched for result.json")
    parser.add_argument("--json", help="file of the list")
    parser.add_argument("--merge_seeds", action="store_true", help="one row for runs of one kind, of several seeds")
    args = parser.parse_args()
    runs = sorted({run.resolve(): run for folder in args.folder for run in find(Path(folder))}.values())
    if not runs:
        raise ValueError(f"no result.json below {', '.join(args.folder)}: has a run finished there?")
    results = [read(run / "result.json") for run in runs]
    results.sort(key=order)
    print(table(results, args.merge_seeds))
    if measured := [r for r in results if r.get("fair")]:
        print("\n" + fair_table(measured))
    for r in filter(below_start, results):
        print(f"note: {title(r)}, {r['ipc']} clips a class, seed {r['seed']}, ends below its start: "
              f"{100 * r['top1_start_mean']:.1f} -> {100 * r['top1_mean']:.1f} %")
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"TABLE {args.json}")


def table(results, merge_seeds=False):
    """Markdown, one table for each data set and protocol; percentages, +- one standard deviation over networks."""
    lines, several = [], other_data(results)
    for (heading, data), rows in groupby(sorted(results, key=several), several):
        cells = [row(r) for r in rows]
        if merge_seeds:     # runs of the same method, clips, networks, epochs and bytes; their other cells side by side
            same, merged = (0, 1, 6, 7, 8), {}
            for line in cells:
                # of sets that grow or are coded each seed has another size
                of_bytes = "" if "-grown" in line[0] or any(codec in line[0] for codec in CODED) else line[8]
                merged.setdefault((*(line[i] for i in same[:4]), of_bytes), []).append(line)
            cells = [[column[0] if i in same and len({*column}) == 1 or not any(column) else " / ".join(column)
                      for i, column in enumerate(zip(*alike, strict=True))] for alike in merged.values()]
        lines += ["", f"**{heading}{data}**", "", markdown(COLUMNS, cells)]
    return "\n".join(lines[1:])


def fair_table(results):
    """Markdown of what `evaluate.py --fair` measured."""
    return markdown(FAIR_COLUMNS, map(fair_row, results))


def markdown(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


if __name__ == "__main__":
    cli(main)
