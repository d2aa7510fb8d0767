"""Makes one page of runs, to look at in a browser: table, charts, moving clips beside real ones, and how all was made.

    python report.py result -o report.html

The page is one file that needs nothing else, and can be passed on.
"""
from pathlib import Path

from distill_utils.args import Parser, cli
from distill_utils.files import replacing
from distill_utils.page import MARK, Images, read_run, render
from distill_utils.progress import progress
from distill_utils.results import find, order


def main():
    parser = Parser(__doc__)
    parser.add_argument("folder", nargs="+", type=Path, help="folders that hold runs")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the page; one that this script "
                        "wrote is replaced")
    args = parser.parse_args()
    check_out(args.out)
    folders = sorted({run.resolve(): run for folder in args.folder for run in find(
        folder, ("result.json", "args.json"))}.values())
    if not folders:
        raise ValueError(f"no run below {', '.join(map(str, args.folder))}: nothing there has a result.json or an "
                         "args.json")
    images = Images()
    runs = [read_run(folder, images) for folder in progress(folders, desc="reading runs", unit="run")]
    runs.sort(key=lambda run: (not run["result"], order(run["result"]) if run["result"] else run["folder"]))
    for number, run in enumerate(runs, 1):
        run["id"] = f"run-{number}"
    page = render(runs, images, ", ".join(map(str, args.folder)))
    with replacing(args.out) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")      # of file names that are not UTF-8
    broken = sum(bool(run["problems"]) for run in runs)
    print(f"{args.out}: {len(runs)} runs, {broken} of them with something missing or damaged, {len(page) / 1e6:.1f} MB")


def check_out(path):
    """ValueError for a file that is none of our pages, and would be lost, and for a folder that is not there."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for --out {path}: make it, or name another")
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: give the name of a file, such as {path}/report.html")
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            if MARK not in file.readline():
                raise ValueError(f"--out {path} is not a page of this script, and would be lost: give another name")


if __name__ == "__main__":
    cli(main)
