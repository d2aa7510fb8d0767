"""Prints the static memory that a launcher of the dynamic stage starts from: the newest that distill_DC.py made of the
same data, with as many images a class, below the same --save_path. Called by launch.sh with the command line of the
script: `static_memory.py GPUS SCRIPT FLAGS...`. Prints nothing where a flag says what the start is; ends with 1, and
what makes a static memory, where there is none.
"""
import argparse
import json
import os
import shlex
import sys
from pathlib import Path

DATA = ("split", "split_file", "classes", "im_size", "holdout")        # flags that say which data, beside --dataset
MACHINE = ("save_path", "data_path", "cache_path")          # and where they are


def main():
    gpus, _, *words = sys.argv[1:]
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for flag in ("dataset", "spc", "path_static", "static_init", *DATA, *MACHINE):
        parser.add_argument(f"--{flag}")
    args = parser.parse_known_args(words)[0]
    if args.path_static or args.static_init == "real" or {"-h", "--help", "--dry_run"} & set(words):
        return
    folder = Path(args.save_path) / "DC"
    found = [run for run in sorted(folder.glob("[!.]*/")) if is_fit(run, args)]
    if not found:
        make = ["bash", str(Path(__file__).resolve().parent / "static" / "DC.sh"), gpus.split(",")[0], args.dataset,
                args.spc, *(word for flag in (*DATA, *MACHINE) if vars(args)[flag]
                            for word in (f"--{flag}", vars(args)[flag]))]
        sys.exit(f"error: there is no static memory of {args.dataset} with {args.spc} images a class in {folder}. Make "
                 f"it with\n    {shlex.join(make)}\nor give --path_static FILE, or --static_init real to start from "
                 "frames of real clips")
    newest = max(found, key=lambda run: (run / "synset.safetensors").stat().st_mtime)
    others = f", the newest of {len(found)} in {folder}: give --path_static FILE for another" if found[1:] else ""
    print(f"static memory: {newest / 'synset.safetensors'}{others}", file=sys.stderr)
    print(newest / "synset.safetensors")


def is_fit(run, args):
    """Whether a folder of distill_DC.py holds a finished run of these data and so many images a class."""
    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        made = {flag: {"holdout": None, **result}[flag] for flag in ("dataset", "ipc", *DATA)}
    except FileNotFoundError:       # not finished
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"note: {run / 'result.json'} is left out: it cannot be read ({error!r})", file=sys.stderr)
        return False
    wanted = {"dataset": args.dataset, "ipc": args.spc, **{flag: vars(args)[flag] for flag in DATA}}
    for flag, name in (("dataset", os.path.realpath), ("split_file", os.path.basename)):
        made[flag], wanted[flag] = (value and name(value) for value in (made[flag], wanted[flag]))
    return {flag: str(value) for flag, value in made.items()} == {flag: str(value) for flag, value in wanted.items()
        } and (run / "synset.safetensors").is_file()


if __name__ == "__main__":
    main()
