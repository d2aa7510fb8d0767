"""What a page of runs shows: everything that is known of each, read from its folder, and the charts."""
import base64
import hashlib
import io
import json
import math
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from distill_utils import picture, results
from distill_utils.files import read_summed
from distill_utils.storage import file_bytes
from distill_utils.synset import is_ours, load_synset

TEMPLATE = "page.html"
MARK = "<!-- a page of report.py -->"       # in the first line: what has it may be written anew
CLIPS, POINTS, NUMBERS, CONFUSED = 48, 200, 20, 8       # at most: clips of a set, points of a curve, classes of a
#                                                         confusion matrix in numbers, pairs of classes in words
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 270, 46, 24, 8, 38       # of a chart, and its margins
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)     # what reading a damaged file raises


class Images:
    """The moving pictures of a page: each is kept once, however many runs show it."""

    def __init__(self):
        self.data = {}      # name -> address with the picture in it

    def add(self, webp):
        """What a page needs to cut clips out of an animated WebP that has them one below the other."""
        with Image.open(io.BytesIO(webp)) as image:
            image.load()
            width, height = image.size
        name = hashlib.sha256(webp).hexdigest()[:12]
        self.data[name] = "data:image/webp;base64," + base64.b64encode(webp).decode()
        return {"name": name, "count": max(1, round(height / width)), "width": width}


def render(runs, images, title):
    """The page of what `read_run` gave, a text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(
        mark=MARK, title=title, runs=runs, images=images.data, groups=groups(runs), columns=results.COLUMNS,
        fair_columns=results.FAIR_COLUMNS, width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT,
        bottom=HEIGHT - BOTTOM)


def groups(runs):
    """Tables of runs of the same data and protocol, as `summarize.py` has them: the cells, and the frontier."""
    done = [run for run in runs if run["result"]]
    several, found = results.other_data([run["result"] for run in done]), []
    for (heading, data), of_one in groupby(sorted(done, key=lambda run: several(run["result"])),
                                           lambda run: several(run["result"])):
        of_one = list(of_one)
        found.append({"heading": heading + data, "rows": [(run["id"], results.row(run["result"])) for run in of_one],
                      "fair": [(run["id"], results.fair_row(run["result"])) for run in of_one
                               if run["result"].get("fair")],
                      "frontier": frontier(of_one)})
    return found


# ---- one run ------------------------------------------------------------------------------------------------------

def read_run(folder, images):
    """What a page shows of the run in a folder: a dict. What is missing or damaged is in its `problems`, in words."""
    problems = []

    def attempt(name, read, *more):
        try:
            return read(folder / name, *more)
        except DAMAGE as error:
            problems.append(str(error) if str(name) in str(error) else f"{name} cannot be read: {error!r}")

    run = {"folder": str(folder), "problems": problems, "result": None, "classes": None, "confusion": None,
           "tiles": None, "accuracy": []}
    if (folder / "result.json").is_file():
        run["result"] = attempt("result.json", results.read)
    else:
        problems.append("there is no result.json: the run is not finished, and goes on with the same command and "
                        "--resume unless it is running now")
    run["args"] = attempt("args.json", read_dict) or {}
    run["curves"] = attempt("metrics.jsonl", curves) or []
    run["facts"] = facts(run["result"] or {}, run["args"])
    run["caption"] = results.title(run["result"]) if run["result"] else f"{run['args'].get('method')}, {folder.name}"
    if not run["result"]:
        return run
    if (folder / "confusion.json").is_file():
        run["classes"], run["confusion"] = attempt("confusion.json", confusion, run["result"]) or (None, None)
    file = folder / "synset.safetensors"
    file = file if file.is_file() else run["result"].get("synset")
    shown = attempt(file, read_set, run["result"], images) if file else None
    if shown:
        run["caption"] = results.caption(run["result"], shown["title"])
        run["classes"] = run["classes"] or shown["classes"]
    names = run["classes"] or [str(k) for k in range(len(run["result"]["per_class"]))]
    names = run["classes"] = [legible(name) for name in names]
    real = attempt("real.webp", read_real, len(names), images) if (folder / "real.webp").is_file() else None
    run["tiles"], run["kinds"] = tiles(names, run["result"]["per_class"], shown, real), [bool(shown), bool(real)]
    run["accuracy"] = list(zip(names, run["result"]["per_class"], strict=True))
    return run


def legible(name):
    """A class name, with its letters in Latin ones where a browser may have no font for them."""
    from anyascii import anyascii
    return name if all(ord(letter) < 0x250 for letter in name) else f"{name} ({anyascii(name)})"


def read_dict(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content


def facts(result, args):
    """How a run was made: (what, how) in words."""
    def size(count):
        return f"{count / 1e9:.2f} GB" if count else None

    versions = args.get("versions") or {}
    how = {"command": args.get("command"), "commit": args.get("commit"), "seed": args.get("seed"),
           "iteration": result.get("iteration"), "device": args.get("device"), "precision": result.get("precision"),
           "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
           "seconds": result.get("seconds"),
           "of them distilling": result.get("distill_seconds") if "top1_start_mean" in result else None,
           "peak memory": size(result.get("peak_memory_bytes")), "networks trained by": ", ".join(
               f"{name} {result[name]}" for name in ("loss", "temperature", "optim_net", "lr_net", "wd_net", "schedule",
                                                     "epochs") if result.get(name)) or None,
           "set": result.get("synset"), "restored from": result.get("restored")}
    return [(what, value) for what, value in how.items() if value is not None]


def read_set(file, result, images):
    """The clips of a set: which, and a moving picture of them."""
    if not Path(file).is_file():
        raise ValueError(f"the set {file} is not there any more, or lies elsewhere: its clips are not shown")
    if not is_ours(file):
        raise ValueError(f"{file} is a set of another program: its clips are shown once export.py --from has made a "
                         "file of ours of it")
    synset, header = load_synset(file)
    if file_bytes(file) != result["storage_bytes"]:
        raise ValueError(f"{file} has {file_bytes(file):,} bytes, and this result is of a set with "
                         f"{result['storage_bytes']:,}: another set has taken its place")
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
            marked = shown["key_frames"] and shown["key_frames"][n]
            parts.append(("set", shown["image"], n, marked))
        parts += [("real", real, i, None)] if real else []
        found.append((names[k], accuracy[k], parts))
    return found if shown or real else None


def confusion(file, result):
    """(class names, what a page shows of a confusion matrix)."""
    content = read_summed(file)
    names, counts = content["classes"], np.array(content["confusion"])
    k = len(result["per_class"])
    if counts.shape != (k, k) or len(names) != k:
        raise ValueError(f"{file} is not of the {k} classes of its result")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = counts * ~np.eye(k, dtype=bool)
    pairs = [divmod(int(i), k) for i in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]]
    picture_of = io.BytesIO()
    Image.fromarray((255 * (1 - shares)).round().astype(np.uint8)).save(picture_of, format="PNG")
    names = [legible(name) for name in names]
    return content["classes"], {"shares": shares.tolist() if k <= NUMBERS else None,
                   "image": "data:image/png;base64," + base64.b64encode(picture_of.getvalue()).decode(),
                   "worst": [(names[a], names[b], int(counts[a, b]), int(counts[a].sum())) for a, b in pairs
                             if wrong[a, b]]}


# ---- charts -------------------------------------------------------------------------------------------------------

def curves(file):
    """Charts of a log: the scores (of each network a line), and each other value that it has."""
    values = {}
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):     # it is being written
            continue
        line = json.loads(line)
        if "network" in line:
            mean, std = 100 * line["top1_mean"], 100 * line["top1_std"]
            values.setdefault("top-1 %", {}).setdefault(line["network"], []).append(
                (line["iteration"], mean, std, f"iteration {line['iteration']}: {mean:.1f} ± {std:.1f} %", None))
        else:
            for name, value in line.items():
                if name != "iteration":
                    values.setdefault(name, {}).setdefault(name, []).append((line["iteration"], value, 0, None, None))
    return [chart([(name, thinned(points), True) for name, points in lines.items()], "iteration", label)
            for label, lines in values.items() if max(map(len, lines.values())) > 1]


def thinned(points):
    """A long curve as means of as many of its points as make it a short one."""
    if len(points) <= POINTS:
        return points
    parts = np.array_split(np.array([point[:2] for point in points], dtype=float), POINTS)
    return [(*part.mean(0), 0, None, None) for part in parts]


def frontier(runs):
    """Chart of the accuracy over the bytes as stored: of each kind of run its points, and the best at most so large."""
    kinds = {}
    for run in runs:
        r, mean, std = run["result"], 100 * run["result"]["top1_mean"], 100 * run["result"]["top1_std"]
        kinds.setdefault(results.title(r), []).append((
            r["storage_bytes"], mean, std, f"{results.title(r)}, {r['ipc'] or 'all'} clips a class, seed {r['seed']}: "
            f"{mean:.1f} ± {std:.1f} %, {r['storage_bytes']:,} bytes", f"#{run['id']}"))
    best, steps = -1.0, []
    for size, mean, *_ in sorted(point for points in kinds.values() for point in points):
        if mean > best:
            steps += [(size, best, 0, None, None)] * (best >= 0) + [(size, mean, 0, None, None)]
            best = mean
    return chart([*((name, points, False) for name, points in kinds.items()), ("best of at most so many bytes", steps,
                                                                               True)], "bytes stored", "top-1 %", True)


def chart(series, x_label, y_label, log=False):
    """Where everything of a chart is, in its own units. series: (name, points (x, y, error, text, link), whether a line
    joins them). log: of the x axis."""
    points = [point for _, of_one, _ in series for point in of_one]
    to_x = (lambda x: math.log10(max(x, 1))) if log else float
    xs, ys = [to_x(point[0]) for point in points], [point[1:3] for point in points]
    low, high = min(xs), max(xs)
    if log:
        low, high = math.floor(low), math.ceil(high)
        x_ticks = [(n, f"{10 ** (n % 3)} {'kMGT'[n // 3 - 1] if n > 2 else ''}B") for n in range(low, high + 1)]
    else:
        x_ticks = [(x, f"{x:g}") for x in MaxNLocator(5).tick_values(low, high) if low <= x <= high]
    y_ticks = list(MaxNLocator(5).tick_values(min(y - error for y, error in ys), max(y + error for y, error in ys)))
    bottom, top = y_ticks[0], y_ticks[-1]

    def across(x):
        return round(LEFT + (x - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def down(y):
        return round(HEIGHT - BOTTOM - (y - bottom) / ((top - bottom) or 1) * (HEIGHT - BOTTOM - TOP), 1)

    return {"x_label": x_label, "y_label": y_label, "x_ticks": [(across(x), text) for x, text in x_ticks],
            "y_ticks": [(down(y), f"{y:g}") for y in y_ticks], "series": [{
                "name": name, "hue": round(i * 137.5) % 360, "line": line, "points": [
                    {"x": across(to_x(x)), "y": down(y), "low": down(y - error), "high": down(y + error), "text": text,
                     "link": link}
                    for x, y, error, text, link in (sorted(of_one) if line and not log else of_one)]}
                for i, (name, of_one, line) in enumerate(series)]}
