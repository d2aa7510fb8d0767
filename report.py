"""Makes one page of runs, to look at in a browser: table, charts, moving clips beside real ones, and how all was made.

    python report.py result -o report.html

The page is one file that needs nothing else, and can be passed on.
"""
import os
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
    unreadable = []
    folders = sorted({run.resolve(): run for folder in args.folder for run in find(
        folder, ("result.json", "args.json", "checkpoint.pt"), unreadable.append)}.values())
    if not folders:
        raise ValueError(f"no run below {', '.join(map(str, args.folder))}: nothing there has a result.json, an "
                         f"args.json or a checkpoint.pt{''.join(f' ({error})' for error in unreadable)}")
    images = Images()
    runs = [read_run(folder, images) for folder in progress(folders, desc="reading runs", unit="run")]
    runs.sort(key=lambda run: (not run["result"], order(run["result"]) if run["result"] else run["folder"]))
    for number, run in enumerate(runs, 1):
        run["id"] = f"run-{number}"
    page = render(runs, images, ", ".join(map(str, args.folder)), [str(error) for error in unreadable])
    try:
        with replacing(args.out.resolve()) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="replace")      # of file names that are not UTF-8
    except OSError as error:
        raise ValueError(f"--out {args.out} cannot be written ({error.strerror}): name another place") from error
    broken = sum(bool(run["problems"]) for run in runs) + len(unreadable)
    print(f"{args.out}: {len(runs)} runs, {broken} of them with something missing or damaged, {len(page) / 1e6:.1f} MB")


def check_out(path):
    """ValueError for a file that is none of our pages, and would be lost, and for a folder that is not there."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for --out {path}: make it, or name another")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"nothing can be written to the folder of --out {path}: name another")
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: give the name of a file, such as {path}/report.html")
    if path.exists():
        if not path.is_file():
            raise ValueError(f"--out {path} is no file: give the name of one")
        with open(path, encoding="utf-8", errors="replace") as file:
            if MARK not in file.readline(200):
                raise ValueError(f"--out {path} is not a page of this script, and would be lost: give another name")


if __name__ == "__main__":
    cli(main)
