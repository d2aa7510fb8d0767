"""Results of runs: found, read and put in words."""
import json
import os
from pathlib import Path

import numpy as np

from distill_utils.codecs import CODECS
from distill_utils.dataset import dataset_label
from distill_utils.files import is_whole
from distill_utils.synset import SETS
from distill_utils.tensors import check_file

TITLES = {"full": "all real clips", "random": "random", "herding": "herding", "k-center": "k-center",
          "static": "static images alone", "DM": "pixels (DM)", "MTT": "pixels (MTT)", "FRePo": "pixels (FRePo)",
          "S2D-DM": "static + dynamic (DM+S2D)", "S2D-MTT": "static + dynamic (MTT+S2D)",
          "S2D-FRePo": "static + dynamic (FRePo+S2D)",
          "DC": "static images on single frames (DC)"}
# rows come in this order; methods that are not in it, by name, after it
ORDER = ("full", "random", "herding", "k-center", "static", "DC", "DM", "MTT", "FRePo", "S2D-DM", "S2D-MTT",
         "S2D-FRePo")
# what is said of labels that are no class numbers, whatever the method's default (of others, "soft labels"): such rows
# need one of random clips with labels of the same kind beside them
LABELS = {None: "", "class": "", "teacher": "a teacher's labels", "learned": "learned labels"}
CODED = tuple(f" {name}" for name in CODECS)        # of which a title tells that each seed has other bytes
# of entries that rows are sorted and titled by
TYPES = {"method": str, "dataset": str, "network": str, "protocol": str, "seed": int, "ipc": (int, type(None)),
         "storage_bytes": int, "num_networks": int, "per_class": list, "epochs": int}
LATER = {"synset": (str, type(None)), "data": str}      # and of those that not every result has


def fail(error):
    raise error


def find(folder, names=("result.json",), onerror=fail):
    """The folders below one that hold a file of these names; links are followed, but not in a circle. (What is hidden
    is left of a run that --overwrite was deleting.) onerror: takes the error of a folder that cannot be read."""

    seen = set()
    for top, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        seen.add(real)
        if any(name in files for name in names):
            yield Path(top)


def read(file):
    try:
        check_file(file)
        result = json.loads(file.read_text(encoding="utf-8"))
        row(result)
        whole = is_whole(result, since="data")
        for name, kind in {**TYPES, **{name: kind for name, kind in LATER.items() if name in result}}.items():
            if not isinstance(result[name], kind):
                raise TypeError(f"{name} is {result[name]!r}"[:200])
        group(result)
        scores = np.array([*result["per_class"], *(result[name] for name in ("top1_mean", "top1_std", "top5_mean"))])
        if not (result["per_class"] and ((scores >= 0) & (scores <= 1)).all() and 0 <= result["storage_bytes"] < 1e18):
            raise ValueError("a value is none that a run writes")
        if result.get("fair"):
            fair_row(result)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{file} is not the result of a run of this program ({error}): take it out of the folder"
                         ) from error
    if not whole:
        raise ValueError(f"{file} is not what its run wrote: it is damaged, or was changed by hand: make it again with "
                         "--overwrite, or take it out of the folder")
    return result


def group(result):
    """What a table is of. It is headed by the first: data set, what was chosen of it, and protocol."""
    chosen = {"classes": "classes {}", "split_file": "split file {}", "split": "split {}", "frames": "{} frames",
              "im_size": "{} pixels", "holdout": "tested on {:.0%} held back of the training clips"}
    chosen = [words.format(result[flag]) for flag, words in chosen.items() if result.get(flag) is not None]
    return ", ".join([dataset_label(result["dataset"]), *chosen, f"protocol {result['protocol']}"])


def other_data(results):
    """group(result) with what tells apart data sets that share it: runs of one name may be of other clips. (Results of
    before clips were told apart have the path of the data set.)"""
    known, older = {}, {}
    for r in results:
        known.setdefault(group(r), set()).update([r["data"]] if "data" in r else [])
        older.setdefault(group(r), set()).update([] if "data" in r else [r["dataset"]])
    several = {heading for heading in known if max(len(known[heading]), len(older[heading])) > 1}
    return lambda r: (group(r), f", data {r.get('data', r['dataset'])[:100]}" if group(r) in several else "")


def order(r):
    """Sorts results as tables have them."""
    method = r["method"]
    rank = (ORDER.index(method), "") if method in ORDER else (len(ORDER), method)
    return group(r), r["network"], rank, r["ipc"] or 0, r["seed"]


def of_labels(r):
    return LABELS.get(r.get("labels"), "soft labels")


def title(r):
    """What a row is called; a method that TITLES does not have, by the label of its set."""
    label, _, loss = r["method"].partition("-")
    sets = {kind.label: name for name, kind in SETS.items()}
    form = f" {r['form']}" if r.get("form") else ""
    name = TITLES.get(r["method"]) or (f"{sets[label]}{form} ({loss})" if label in sets else r["method"])
    name += f", {r['dm_n_real']} real frames" if r.get("dm_n_real") else ""
    name += ", under experts" if r.get("dm_networks") == "experts" else ""
    name += ", Gaussian kernel" if r.get("dm_kernel") == "gaussian" else ""
    name += f", {of_labels(r)}" if of_labels(r) else ""
    name += ", scored again" if r.get("scored_again") else ""
    if r.get("store", "float32") != "float32":
        how = "stored anew in" if r.get("restored") else "learned through" if r.get("through_store") else "in"
        name += f", {how} {r['store']}"
    return name + (", DSA" if r.get("dsa", "none") not in ("", "none") else "")


def below_start(r):
    """Whether training made a set worse."""
    return r.get("top1_start_mean", 0) > r["top1_mean"]


COLUMNS = ("method", "clips/class", "seed", "before training", "top-1 %", "top-5 %", "networks", "epochs",
           "bytes stored", "seconds", "of them distilling")


def row(r):
    """The cells of one run."""
    start = f"{100 * r['top1_start_mean']:.1f} ± {100 * r['top1_start_std']:.1f}" if "top1_start_mean" in r else ""
    score = f"{100 * r['top1_mean']:.1f} ± {100 * r['top1_std']:.1f}"
    score += " (below its start)" if below_start(r) else " (the start itself)" if r.get("is_start") else ""
    return [title(r), str(r["ipc"] or "all"), str(r["seed"]), start, score, f"{100 * r['top5_mean']:.1f}",
            f"{r['num_networks']} {r['network']}", str(r["epochs"]), f"{r['storage_bytes']:,}", f"{r['seconds']:.0f}",
            format(r["distill_seconds"], ".0f") if start else ""]


FAIR_COLUMNS = ("set", "clips/class", "seed", "top-1 %", "over as many random clips (IOR)",
                "over as many bytes of them", "lacks of all real clips (HLR)", "LRS", "ARS")


def fair_row(r):
    """The cells of what `evaluate.py --fair` measured of a set: in percent, LRS and ARS from 0 to 1."""
    found = r["fair"]

    def percent(name):
        std = f" ± {100 * found[f'{name}_std']:.1f}" if f"{name}_std" in found else ""
        return f"{100 * found[name]:.1f}{std}" if name in found else ""

    over_bytes = f"none fits ({found['store']})"
    if "ior_bytes" in found:
        over_bytes = f"{percent('ior_bytes')} ({found['random_clips_in_bytes']:.1f} a class, {found['store']})"
    return [title(r), str(r["ipc"]), str(r["seed"]), f"{100 * r['top1_mean']:.1f}", percent("ior"), over_bytes,
            percent("hlr"), f"{found['lrs']:.2f}" if "lrs" in found else "", f"{found['ars']:.2f}"]


def caption(r, what):
    """What a picture of a set says of it: set (in words), loss, labels, store, bytes and score."""
    return (f"{r['method']}: {what}, {r['ipc']} a class, {of_labels(r) or 'class labels'}; "
            f"{r.get('store', 'float32')}, {r['storage_bytes']:,} bytes; "
            f"top-1 {100 * r['top1_mean']:.1f} % ({r['num_networks']} {r['network']})")
