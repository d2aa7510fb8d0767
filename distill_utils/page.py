"""What a page of runs shows: everything that is known of each, read from its folder, and the charts."""
import base64
import hashlib
import io
import json
import math
import os
from itertools import groupby
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from PIL import Image, UnidentifiedImageError

from distill_utils import picture, results
from distill_utils.files import read_summed
from distill_utils.storage import file_bytes, file_sum
from distill_utils.synset import is_ours, load_synset
from distill_utils.tensors import check_file

TEMPLATE = "page.html"
MARK = "<!-- a page of report.py -->"       # in the first line: what has it may be written anew
CLIPS, POINTS, LARGEST = 48, 200, 8_000_000      # at most: clips of a set, points of a curve, bytes of real clips
NUMBERS, CONFUSED = 20, 8       # and classes of a confusion matrix in numbers, pairs of classes in words
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 270, 46, 24, 8, 38       # of a chart, and its margins
COLUMNS = (0, 4, 1, 2, 3, 5, 6, 7, 8, 9, 10)        # of results.COLUMNS: the score is seen on a narrow screen too
# what reading a damaged file raises
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


class Images:
    """The moving pictures of a page: each is kept once, however many runs show it."""

    def __init__(self):
        self.data = {}      # name -> address with the picture in it

    def add(self, webp):
        """What a page needs to cut clips out of an animated WebP that has them, square ones, one below the other."""
        try:
            with Image.open(io.BytesIO(webp), formats=("WEBP",)) as image:
                image.load()
                width, height = image.size
        except UnidentifiedImageError:
            raise ValueError("it is no WebP picture") from None
        name = hashlib.sha256(webp).hexdigest()[:12]
        self.data[name] = "data:image/webp;base64," + base64.b64encode(webp).decode()
        return {"name": name, "count": max(1, round(height / width))}


def render(runs, images, title, unreadable=()):
    """The page of what `read_run` gave, a text. unreadable: what else there is to say of the folders."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(
        mark=MARK, title=title, unreadable=unreadable, runs=runs, images=images.data, groups=groups(runs),
        columns=[results.COLUMNS[i] for i in COLUMNS], fair_columns=results.FAIR_COLUMNS, width=WIDTH, height=HEIGHT,
        left=LEFT, right=WIDTH - RIGHT, bottom=HEIGHT - BOTTOM)


def groups(runs):
    """Tables of runs of the same data and protocol, as `summarize.py` has them: the cells, and the frontier."""
    done = [run for run in runs if run["result"]]
    several, found = results.other_data([run["result"] for run in done]), []
    for (heading, data), of_one in groupby(sorted(done, key=lambda run: several(run["result"])),
                                           lambda run: several(run["result"])):
        of_one = list(of_one)
        cells = [results.row(run["result"]) for run in of_one]
        found.append({"heading": heading + data, "rows": [
            (run, [row[i] for i in COLUMNS]) for run, row in zip(of_one, cells, strict=True)], "fair": [
                (run, results.fair_row(run["result"])) for run in of_one if run["result"].get("fair")],
            "frontier": frontier(of_one)})
    return found


# ---- one run ------------------------------------------------------------------------------------------------------

def read_run(folder, images):
    """What a page shows of the run in a folder: a dict. What is missing or damaged is in its `problems`, in words."""
    problems = []

    def attempt(path, read, *more):
        try:
            return read(path, *more)
        except DAMAGE as error:
            problems.append(str(error) if str(path) in str(error) else
                            f"{path} cannot be read ({str(error) or type(error).__name__}): make the run again with "
                            "--overwrite, or leave it as it is"[:1000])

    run = {"folder": str(folder), "name": folder.name, "problems": problems, "result": None, "classes": None,
           "confusion": None, "shown": None, "real": None, "tiles": None, "accuracy": [], "note": None}
    if os.path.lexists(folder / "result.json"):
        run["result"] = attempt(folder / "result.json", results.read)
    else:
        problems.append("there is no result.json: the run is not finished, and goes on with the same command and "
                        "--resume unless it is running now")
    args = attempt(folder / "args.json", read_dict) or {}
    result = run["result"] or {}
    run["args"] = {str(name): shortened(value) for name, value in args.items()}
    run["facts"] = attempt(folder, lambda _: facts(result, args)) or []
    run["curves"] = attempt(folder / "metrics.jsonl", curves, bool(result)) or []
    run["caption"] = results.title(result) if result else f"{args.get('method') or folder.parent.name}"
    if not result:
        return run
    def is_due(name):       # runs that remember their command have it
        return "command" in args or os.path.lexists(folder / name)

    if is_due("confusion.json"):
        run["classes"], run["confusion"] = attempt(folder / "confusion.json", confusion, result) or (None, None)
    if file := set_of(folder, result):
        if is_ours(file) or not file.is_file():
            run["shown"] = attempt(file, read_set, result, images, file.parent == folder)
        else:
            run["note"] = (f"{file} is a set of another program: its clips are shown once export.py --from has made a "
                           "file of ours of it.")
    if run["shown"]:
        run["caption"] = results.caption(result, run["shown"]["title"])
        run["classes"] = run["classes"] or run["shown"]["classes"]
    if not run["classes"] or len(run["classes"]) != len(result["per_class"]):
        run["classes"] = [str(k) for k in range(len(result["per_class"]))]
    run["classes"] = [with_latin(name) for name in run["classes"]]
    if is_due("real.webp"):
        run["real"] = attempt(folder / "real.webp", read_real, len(run["classes"]), images)
    run["tiles"] = tiles(run["classes"], result["per_class"], run["shown"], run["real"])
    run["accuracy"] = list(zip(run["classes"], result["per_class"], strict=True))
    return run


def shortened(value, most=2000):
    text = str(value)
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} letters)"


def read_dict(file):
    check_file(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content


def set_of(folder, result):
    """The file of the set that a result is of: in the folder of its run, or, of a score, beside that in the folder of
    another, whatever folders lie above, or where it was. None where there is none."""
    own, file = folder / "synset.safetensors", Path(result.get("synset") or "")
    if os.path.lexists(own) or file.parts[-3:] == own.absolute().parts[-3:]:
        return own
    beside = folder.parent.parent.joinpath(*file.parts[-3:])
    return (beside if os.path.isfile(beside) else file) if result.get("synset") else None


def with_latin(name):
    """A class name, with its letters in Latin ones where a browser may have no font for them."""
    from anyascii import anyascii
    return name if all(ord(letter) < 0x250 for letter in name) else f"{name} ({anyascii(name)})"


def facts(result, args):
    """How a run was made: (what, how) in words."""
    def percent(network):
        return f"{network} {100 * result[f'top1_mean_{network}']:.1f} ± {100 * result[f'top1_std_{network}']:.1f} %"

    others = [name.removeprefix("top1_mean_") for name in result if name.startswith("top1_mean_")]
    trained = ("loss", "temperature", "optim_net", "lr_net", "wd_net", "schedule", "epochs")
    versions, peak = args.get("versions") or {}, result.get("peak_memory_bytes")
    how = {"data": results.group(result) if result else args.get("dataset"), "seed": args.get("seed"),
           "commit": args.get("commit"), "device": args.get("device"), "precision": result.get("precision"),
           "processes": result.get("ranks") if result.get("ranks", 1) != 1 else None,
           "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
           "iteration": result.get("iteration"), "seconds": result.get("seconds"),
           "of them distilling": result.get("distill_seconds") if "top1_start_mean" in result else None,
           "peak memory": f"{peak / 1e9:.2f} GB" if peak else None, "network": result.get("network"),
           "other networks": ", ".join(map(percent, others)) or None,
           "networks trained by": ", ".join(f"{name} {result[name]}" for name in trained if result.get(name)) or None,
           "set": result.get("synset"), "stored anew from": result.get("restored")}
    how = {what: [value] for what, value in how.items() if value is not None}
    command = {"command": shortened(args["command"]).split()} if args.get("command") else {}
    return [*command.items(), *how.items()]


def read_set(file, result, images, own):
    """The clips of a set: which, and a moving picture of them. own: it lies in the folder of its run."""
    if not os.path.isfile(file):
        raise ValueError(f"the set {file} is not there any more, or lies elsewhere: its clips are not shown")
    synset, header = load_synset(file)
    if result.get("set_sum"):
        same = file_sum(file) == result["set_sum"]
    else:       # of before there were sums
        same = file_bytes(file) == result["storage_bytes"] and (
            not own or result.get("restored") or header.get("iteration") == result["iteration"])
    if not same:
        raise ValueError(f"{file} is another set than the one that this result is of: its clips are not shown (a run "
                         "that goes on has a new set before it has a new result)")
    if synset.num_classes != len(result["per_class"]):
        raise ValueError(f"{file} has {synset.num_classes} classes, and its result {len(result['per_class'])}")
    classes = picture.shown(synset.num_classes)
    slots = range(min(synset.num_slots, max(1, CLIPS // len(classes))))
    pairs = torch.tensor([(k, slot) for k in classes for slot in slots])
    with torch.no_grad():
        clips, _ = synset.render(*pairs.T)
    marked = getattr(synset, "key_frames", None)
    return {"title": synset.title, "classes": header["classes"], "slots": len(slots), "of": synset.num_slots,
            "image": images.add(picture.moving(clips, header["mean"], header["std"])),
            "key_frames": None if marked is None else [
                [int(t) + 1 for t in marked[k * synset.num_slots + slot].nonzero()] for k, slot in pairs.tolist()]}


def read_real(file, num_classes, images):
    """real.webp, a clip of each class that is shown."""
    check_file(file)
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes, and no run writes more than {LARGEST:,}")
    image = images.add(file.read_bytes())
    if image["count"] != len(picture.shown(num_classes)):
        raise ValueError(f"{file} is not of the classes that are shown: it is damaged, or was made by another version")
    return image


def tiles(names, accuracy, shown, real):
    """(class, accuracy, parts): what is drawn of each class that is shown. A part is (kind, picture, which of its
    clips, key frames)."""
    found = []
    for i, k in enumerate(picture.shown(len(names))):
        parts = []
        for n in range(i * shown["slots"], (i + 1) * shown["slots"]) if shown else ():
            parts.append(("set", shown["image"], n, shown["key_frames"] and shown["key_frames"][n]))
        parts += [("real", real, i, None)] if real else []
        found.append((names[k], accuracy[k], parts))
    return found if shown or real else None


def confusion(file, result):
    """(class names, what a page shows of a confusion matrix)."""
    check_file(file)
    content = read_summed(file)
    names, counts = content["classes"], np.array(content["confusion"])
    k, totals = len(result["per_class"]), counts.sum(-1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    named = isinstance(names, list) and len(names) == k and all(isinstance(name, str) for name in names)
    if counts.shape != (k, k) or not named or (counts < 0).any():
        raise ValueError(f"{file} is not of the {k} classes of its result")
    if not np.allclose(shares.diagonal(), result["per_class"], atol=1e-4):
        raise ValueError(f"{file} is of other scores than its result.json")
    wrong = shares * ~np.eye(k, dtype=bool)
    pairs = [divmod(int(i), k) for i in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]]
    drawn = io.BytesIO()
    Image.fromarray((255 * (1 - shares)).round().astype(np.uint8)).save(drawn, format="PNG")
    address = "data:image/png;base64," + base64.b64encode(drawn.getvalue()).decode()
    return names, {"shares": shares.tolist() if k <= NUMBERS else None, "image": address,
                   "worst": [(with_latin(names[a]), with_latin(names[b]), shares[a, b])
                             for a, b in pairs if wrong[a, b]]}


# ---- charts -------------------------------------------------------------------------------------------------------

def curves(file, finished):
    """Charts of a log: the scores (of each network a line), and each other value that it has."""
    check_file(file)
    values = {}
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") and not finished:    # it is being written
            continue
        line = json.loads(line)
        it = int(line["iteration"])
        if "network" in line:
            top1, std = 100 * line["top1_mean"], 100 * line["top1_std"]
            values.setdefault("top-1 %", {}).setdefault(line["network"], []).append(
                (it, top1, std, f"iteration {it}: {top1:.1f} ± {std:.1f} %", None))
        else:
            for name, value in line.items():
                if name != "iteration":
                    values.setdefault(name, {}).setdefault(name, []).append((it, float(value), 0, None, None))
    return [chart([(name, thinned(points), True) for name, points in lines.items()], "iteration", label)
            for label, lines in values.items() if max(map(len, lines.values())) > 1]


def thinned(points):
    """A long curve as means of as many of its points as make it a short one."""
    if len(points) <= POINTS:
        return points
    parts = np.array_split(np.array([point[:2] for point in points], dtype=float), POINTS)
    return [(*part.mean(0), 0, None, None) for part in parts]


def frontier(runs):
    """Chart of the accuracy over the bytes as stored: a point of each run, and a line through the best means over the
    seeds of a kind of run at most so large."""
    kinds, same = {}, {}
    for run in runs:
        r, top1, std = run["result"], 100 * run["result"]["top1_mean"], 100 * run["result"]["top1_std"]
        name, size = results.title(r), r["storage_bytes"]
        kinds.setdefault(name, []).append((
            size, top1, std, f"{name}, {r['ipc'] or 'all'} clips a class, seed {r['seed']}: {top1:.1f} ± {std:.1f} %, "
            f"{size:,} bytes", f"#{run['id']}"))
        same.setdefault((name, r["ipc"], r["network"], r["epochs"]), []).append((size, top1))
    best, steps = None, []
    for size, top1 in sorted([mean(values) for values in zip(*of_one, strict=True)] for of_one in same.values()):
        if best is None or top1 > best:
            steps += [(size, best, 0, None, None)] * (best is not None) + [(size, top1, 0, None, None)]
            best = top1
    steps.append((max(point[0] for points in kinds.values() for point in points), best, 0, None, None))
    return chart([*((name, points, False) for name, points in kinds.items()),
                  ("the best at most so large (means over seeds)", steps, True)], "bytes stored", "top-1 %", True)


def chart(series, x_label, y_label, log=False):
    """Where everything of a chart is, in its own units. series: (name, points (x, y, error, text, link), whether a line
    joins them). log: of the x axis."""
    points = [point for _, of_one, _ in series for point in of_one]
    if not np.isfinite([point[:3] for point in points]).all():
        raise ValueError(f"{y_label} has a value that is not finite")
    to_x = (lambda x: math.log10(max(x, 1))) if log else float
    xs, ys = [to_x(point[0]) for point in points], [point[1:3] for point in points]
    low, high = min(xs), max(xs)
    if log:
        low, high = math.floor(low), max(math.floor(low) + 1, math.ceil(high))
        x_ticks = [(n, f"{10 ** (n % 3)} {('', 'k', 'M', 'G', 'T', 'P', 'E')[n // 3]}B") for n in range(low, high + 1)]
    else:
        x_ticks = [(x, f"{x:g}") for x in nice_ticks(low, high) if low <= x <= high]
    y_ticks = nice_ticks(min(y - error for y, error in ys), max(y + error for y, error in ys))
    bottom, top = y_ticks[0], y_ticks[-1]

    def across(x):
        return round(LEFT + (x - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def down(y):
        return round(HEIGHT - BOTTOM - (y - bottom) / ((top - bottom) or 1) * (HEIGHT - BOTTOM - TOP), 1)

    return {"x_label": x_label, "y_label": y_label, "x_ticks": [(across(x), text) for x, text in x_ticks],
            "y_ticks": [(down(y), f"{y:g}") for y in y_ticks], "series": [{
                "name": name, "colour": "#202024" if line and log else colour(i), "line": line, "points": [
                    {"x": across(to_x(x)), "y": down(y), "low": down(y - error), "high": down(y + error), "text": text,
                     "link": link} for x, y, error, text, link in of_one]}
                for i, (name, of_one, line) in enumerate(series)]}


def nice_ticks(low, high):
    if high - low <= 1e-6 * abs(high):      # a line through equal values, or one point
        low, high = low - 0.5, high + 0.5
    return [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)]


def colour(number):
    """Nine hues, then the same lighter and darker."""
    return f"hsl({number * 160 % 360} 60% {(42, 66, 24)[number // 9 % 3]}%)"
