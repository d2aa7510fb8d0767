"""Sets for other programs, and from them: frames, videos, numpy, a Hugging Face folder.

An export is a folder that is written whole or not at all. It has about.json, the header of the set, and soft labels in
soft_labels.csv, a row for each clip. WAYS says which there are: way -> function(folder, Rendered).

What comes in is compared before it is taken, and read a frame at a time.
"""
import csv
import html
import json
import sys
import unicodedata
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distill_utils import published
from distill_utils.dataset import in_order, read_csv
from distill_utils.files import replacing
from distill_utils.labels import KINDS, check_recipe, label_loss
from distill_utils.picture import to_uint8
from distill_utils.progress import other_files, progress
from distill_utils.splits import read_table
from distill_utils.storage import build, save_synset
from distill_utils.synset import VideoSet, all_pairs, check_classes, load_synset

LARGEST = 50_000_000        # pixels of a picture that is read


class Unfit(ValueError):
    """What is read is not what it has to be; the message names it."""


class Rendered(NamedTuple):
    """All clips that a set can make, and what they tell a network."""
    clips: np.ndarray           # uint8 (N, T, H, W, C)
    exact: torch.Tensor         # float32 (N, T, C, H, W), normalised, or None where nobody asks for it
    classes: list               # number of the class of each
    names: list                 # a name for each, of letters that every file system takes
    rows: np.ndarray            # soft labels (N, K), or None
    header: dict
    test: tuple                 # (uint8 clips, numbers of their classes): real ones that networks are tested on


def render_all(synset, header, exact=False):
    """Each clip of each slot, variants too; images are clips of one frame. Pixels beyond black and white are clamped in
    `clips`; the second value is their share."""
    if bad := [name for name in header["classes"] if any(unicodedata.category(letter)[0] == "C" for letter in name)]:
        raise ValueError(f"the class {bad[0]!r} has letters that no table holds: give the set other class names")
    classes, slots = all_pairs(synset)
    n = synset.num_variants
    classes, slots = classes.repeat_interleave(n), slots.repeat_interleave(n)
    variants = torch.arange(n).repeat(synset.num_classes * synset.num_slots)
    mean, std = (torch.tensor(header[key]).view(-1, 1, 1) for key in ("mean", "std"))
    shown, floats, rows, beyond = [], [], [], 0.0
    for some in progress(torch.arange(len(classes)).split(64), desc="rendering", unit="batch", leave=False):
        with torch.no_grad():
            clips, targets = synset.render(classes[some], slots[some], **(
                {"variants": variants[some]} if n > 1 else {}))
        clips = clips if clips.dim() == 5 else clips[:, None]
        values = clips * std + mean
        beyond += ((values < -0.5 / 255) | (values > 1 + 0.5 / 255)).float().mean().item() * len(some) / len(classes)
        shown.append(to_uint8(clips, header["mean"], header["std"]))
        floats += [clips] if exact else []
        rows.append(targets)
    names = [f"c{k:03d}_{slot:03d}" + (f"_{variant}" if n > 1 else "") for k, slot, variant in zip(
        classes.tolist(), slots.tolist(), variants.tolist(), strict=True)]
    return Rendered(np.concatenate(shown), torch.cat(floats) if exact else None, classes.tolist(), names,
                    None if synset.label_kind == "class" else torch.cat(rows).numpy(),
                    {**header, "label_kind": synset.label_kind}, ()), beyond


def real_clips(data):
    """The test clips of a data set, for `Rendered`."""
    parts = []
    for some in progress(torch.arange(len(data.test)).split(64), desc="test clips", unit="batch", leave=False):
        clips = data.test.get(some)
        parts.append(to_uint8(clips if clips.dim() == 5 else clips[:, None], data.spec.mean, data.spec.std))
    return np.concatenate(parts), data.test.labels.tolist()


# ---- ways out -----------------------------------------------------------------------------------------------------

def to_frames(folder, rendered):
    """UCF101's layout, without loss: frames/<clip>/frame000001.png ... and split.csv, of test clips too."""
    from PIL import Image
    clips, classes = rendered.test or ((), ())
    jobs = [*zip(rendered.names, rendered.clips, rendered.classes, ["train"] * len(rendered.names), strict=True),
            *zip([f"test{i:05d}" for i in range(len(clips))], clips, classes, ["test"] * len(clips), strict=True)]
    for name, clip, _, _ in progress(jobs, desc="frames", unit="clip"):
        (folder / "frames" / name).mkdir(parents=True)
        for number, frame in enumerate(clip, 1):
            image = Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame)
            image.save(folder / "frames" / name / f"frame{number:06d}.png")
    write_csv(folder / "split.csv", ("folder_name", "label", "split"), [
        (name, rendered.header["classes"][k], split) for name, _, k, split in jobs])


def to_videos(folder, rendered):
    """<clip>.mp4 and labels.csv."""
    write_videos(folder, rendered)
    write_csv(folder / "labels.csv", ("file_name", "label", "class"), [
        (f"{name}.mp4", rendered.header["classes"][k], k) for name, k in zip(rendered.names, rendered.classes,
                                                                           strict=True)])


def to_numpy(folder, rendered):
    """set.npz: clips float32 (N, T, C, H, W), normalised as networks see them, labels (N,), and soft_labels (N, K)."""
    soft = {} if rendered.rows is None else {"soft_labels": rendered.rows,
                                             "label_kind": np.array(rendered.header["label_kind"])}
    arrays = {"clips": rendered.exact.numpy(), "labels": np.array(rendered.classes),
              "class_names": np.array(rendered.header["classes"]), "mean": np.array(rendered.header["mean"]),
              "std": np.array(rendered.header["std"]), **soft}
    with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():      # np.savez writes the time too, and so other bytes each time
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def to_hugging_face(folder, rendered):
    """data/train/<clip>.mp4 with metadata.jsonl, and README.md, whose card `datasets` reads."""
    (folder / "data" / "train").mkdir(parents=True)
    write_videos(folder / "data" / "train", rendered)
    with open(folder / "data" / "train" / "metadata.jsonl", "w", encoding="utf-8") as file:
        for i, (name, k) in enumerate(zip(rendered.names, rendered.classes, strict=True)):
            soft = {} if rendered.rows is None else {"soft_label": rendered.rows[i].tolist()}
            file.write(json.dumps({"file_name": f"{name}.mp4", "label": rendered.header["classes"][k], "class": k,
                                   **soft}) + "\n")
    header, n = rendered.header, len(rendered.names)
    source, method = (html.escape(" ".join(Path(str(header.get(key) or "unknown")).name.split()))
                      for key in ("dataset", "method"))
    size = next((word for limit, word in ((10**3, "n<1K"), (10**4, "1K<n<10K")) if n < limit), "10K<n<100K")
    (folder / "README.md").write_text(f"""---
task_categories:
- video-classification
size_categories:
- {size}
configs:
- config_name: default
  data_dir: data
---
# A distilled video set

{n} clips of {len(header['classes'])} classes, of {header['frames']} frames and {header['size']}x{header['size']}
pixels, made from {source} by {method}. `class` is the number of a class, in the order of the values of `soft_label`
where there are any. How networks are trained on them is in about.json.
""", encoding="utf-8")


def write_csv(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def need_av():
    try:
        import av
        return av
    except ImportError:
        raise Unfit("videos are written and read by PyAV, which is not installed: pip install av") from None


def write_videos(folder, rendered):
    """<clip>.mp4: H.264 in 4:2:0, sides made even by repeating the last row and column; 8 frames a second."""
    av = need_av()
    for name, clip in progress(list(zip(rendered.names, rendered.clips, strict=True)), desc="videos", unit="clip"):
        height, width = (side + side % 2 for side in clip.shape[1:3])
        clip = np.pad(clip, [(0, 0), (0, height - clip.shape[1]), (0, width - clip.shape[2]), (0, 0)], mode="edge")
        clip = clip.repeat(3, axis=3) if clip.shape[3] == 1 else clip
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "1", "x264-params": "asm=0"}       # asm: see codecs.py
            for frame in clip:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))


WAYS = {"frames": to_frames, "mp4": to_videos, "npz": to_numpy, "hf": to_hugging_face}


def check_new(path):
    """ValueError unless a folder can be written there."""
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ValueError(f"--out {path} is there already, and an export never replaces anything: name another folder")


def export(path, way, rendered):
    """Writes a folder, whole or not at all. ValueError where there is one already."""
    check_new(path)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "about.json").write_text(json.dumps(rendered.header, indent=1, sort_keys=True) + "\n",
                                              encoding="utf-8")
        WAYS[way](temporary, rendered)
        if rendered.rows is not None:
            write_csv(temporary / "soft_labels.csv", ("clip", *rendered.header["classes"]), [
                (name, *map(repr, row)) for name, row in zip(rendered.names, rendered.rows.tolist(), strict=True)])


# ---- ways in ------------------------------------------------------------------------------------------------------

VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".mpg", ".mpeg", ".gif")


@contextmanager
def reading(path):
    """Whatever a library says to a file that is not what it should be is an Unfit that names it."""
    from PIL import Image
    try:
        yield
    except Unfit:
        raise
    except (MemoryError, PermissionError):
        raise
    except (ValueError, OSError, SyntaxError, LookupError, TypeError, ArithmeticError, RuntimeError, EOFError,
            AttributeError, csv.Error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise Unfit(f"{path} cannot be read ({type(error).__name__}): it is damaged, or of another kind") from error


def read_clips(path, spec, values=None):
    """Clips of another program as a VideoSet, and what is known of them: (set, {...}). path: a folder that `export`
    wrote, or of <class>/<clip>, videos or folders of frames; or a .npz with clips and labels. Each class must have as
    many. values: what the floats of a .npz are, a key of VALUES.

    Clips of another length are reduced to frames that lie evenly in them; those of another size have their short side
    resized and the middle cropped, and a note says so. ValueError where something is missing, or left over.
    """
    about, soft, kind = {}, None, None
    if path.is_dir():
        about = read_about(path, spec)
        kind, path = about.get("label_kind"), path / "set.npz" if (path / "set.npz").is_file() else path
    if values and (path.is_dir() or path.suffix != ".npz"):
        raise ValueError(f"--values {values} is of numbers, and {path} holds pictures: leave it out")
    if path.is_dir():
        found = find_clips(path)
        classes, clips, changed = number_of([label for _, label, _ in found], spec, path), [], 0
        for clip, _, _ in progress(found, desc="clips", unit="clip"):
            with reading(clip):
                pixels, as_it_was = read_clip(clip, spec)
            clips.append(normalised(pixels, spec))
            changed += not as_it_was
        if changed:
            print(f"note: {changed} of {len(found)} clips had another length or size than {spec.frames} frames of "
                  f"{spec.size} pixels: of longer ones frames were taken evenly, and pictures were resized",
                  file=sys.stderr)
        clips = torch.stack(clips)
        if (path / "soft_labels.csv").exists():
            with reading(path / "soft_labels.csv"):
                soft = read_soft(path / "soft_labels.csv", [key for _, _, key in found], spec)
    else:
        with reading(path):
            clips, classes, soft, kind = read_npz(path, spec, values, kind)
    kind = kind or "class"
    if (soft is None) != (kind == "class") or kind not in KINDS:
        raise ValueError(f"{path} {'has no' if soft is None else 'has'} soft labels, and they are said to be {kind!r}: "
                         f"label_kind, in about.json or the .npz, must be one of {', '.join(KINDS)}, and all but class "
                         "need soft_labels")
    counts = torch.bincount(torch.tensor(classes, dtype=torch.long), minlength=spec.num_classes)
    if counts.min() != counts.max() or not counts.min():
        few, many = counts.argmin(), counts.argmax()
        raise ValueError(f"{path} has {counts[few]} clips of {spec.classes[few]} and {counts[many]} of "
                         f"{spec.classes[many]}: a set has as many of each class")
    order = torch.tensor(classes).argsort(stable=True)
    if about.get("recipe"):
        label_loss(check_recipe(about["recipe"]).loss, kind)
    synset = build(VideoSet, {"num_classes": spec.num_classes, "ipc": int(counts[0]), "shape": list(spec.shape),
                              **({} if kind == "class" else {"label_kind": kind})},
                   {"videos": clips[order], **({} if soft is None else {"labels": soft[order]})})
    known = ("recipe", "labelled", "teacher", "syn_lr")
    return synset, {key: about[key] for key in known if about.get(key) is not None}


def save_external(path, synset, spec, store, source, about):
    """Writes a set that came in, if it can be read again."""
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            save_synset(temporary, synset, spec, store, **{**about, "method": "external"})
            load_synset(temporary)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{source} makes no set that could be read again ({error})".replace(
                str(temporary), "it")) from None


def read_about(folder, spec):
    """about.json of an export, or {}. ValueError for another, or one of other clips than the data set has."""
    path = folder / "about.json"
    if not path.exists():
        return {}
    with reading(path):
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise Unfit(f"{path} holds no JSON object: mend or remove it")
        if all(isinstance(about.get(name), list) for name in ("classes", "mean", "std")):
            try:
                check_classes(str(path), about, spec)
            except ValueError as error:
                raise Unfit(str(error)) from None
    for name, flag in (("frames", "frames"), ("size", "im_size")):
        if about.get(name, getattr(spec, name)) != getattr(spec, name):
            raise ValueError(f"{path} says that {name} is {about[name]}, and the data set has {getattr(spec, name)}: "
                             f"give --{flag} {about[name]}")
    return about


def find_clips(folder):
    """[(path of a video or of a folder of frames, class name, its name in soft_labels.csv)] in the order of the table,
    or of names where there is none."""
    if (folder / "split.csv").is_file() and (folder / "labels.csv").is_file():
        raise ValueError(f"{folder} has a split.csv and a labels.csv: keep one of them")
    if (folder / "split.csv").is_file():
        base = folder / "frames" if (folder / "frames").is_dir() else folder
        rows = [(base / name, label, name) for name, label, split in read_csv(folder / "split.csv") if split == "train"]
    elif (folder / "labels.csv").is_file():
        columns, table = read_table(folder / "labels.csv")
        if not table or not {"file_name", "label"} <= set(columns):
            raise ValueError(f"{folder / 'labels.csv'} must have the columns file_name,label and at least one clip")
        for line, row in table:
            if not row["file_name"] or not row["label"]:
                raise ValueError(f"{folder / 'labels.csv'}, line {line}: a clip needs a file_name and a label")
        rows = [(folder / row["file_name"], row["label"], str(Path(row["file_name"]).with_suffix("")))
                for _, row in table]
    elif (folder / "README.md").is_file() and (folder / "data" / "train").is_dir():
        raise ValueError(f"{folder} is a Hugging Face folder, which is not read back: export it as frames or npz")
    else:
        rows = in_classes(folder)
    seen = set()
    for path, _, _ in rows:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} leads out of {folder}: put the clip into it")
        if not (path.is_dir() or path.is_file()):
            raise ValueError(f"there is no clip {path}, neither a video nor a folder of frames")
        if path.resolve() in seen:
            raise ValueError(f"{folder} has the clip {path} more than once: keep one line of it")
        seen.add(path.resolve())
    if not rows:
        raise ValueError(f"{folder} has no clip for training: give a folder with split.csv, labels.csv or "
                         "<class>/<clip>")
    return rows


def in_classes(folder):
    """<class>/<clip> in name order, without what is hidden."""
    rows, others = [], {}
    for parent in sorted(folder.iterdir()):
        if parent.name.startswith(".") or parent.name in ("about.json", "soft_labels.csv") or not parent.is_dir():
            continue
        for clip in sorted(parent.iterdir()):
            if clip.name.startswith("."):
                continue
            if not clip.is_dir() and clip.suffix.lower() not in VIDEOS:
                others[clip.suffix.lower()] = others.get(clip.suffix.lower(), 0) + 1
                continue
            rows.append((clip, parent.name, f"{parent.name}/{clip.name if clip.is_dir() else clip.stem}"))
    if others:
        raise ValueError(f"{folder} has {other_files(Counter(others))} in its classes, which are no videos "
                         f"({', '.join(VIDEOS)}) and no folders of frames: take them out")
    return rows


def number_of(labels, spec, path):
    """The class number of each class name."""
    known = {name: k for k, name in enumerate(spec.classes)}
    for name in labels:
        if name not in known:
            raise ValueError(f"{path} has clips of the class {name[:80]!r}, which is none of --dataset "
                             f"({spec.classes[0]}, {spec.classes[1]}, ...): give the --dataset that they were made for")
    return [known[name] for name in labels]


def read_clip(path, spec):
    """(uint8 (T, H, W, C) of the shape of a data set, whether it had it), of a video or a folder of frames."""
    from PIL import Image
    if path.is_dir():
        there = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        if others := [file for file in there if not file.is_file()]:        # a pipe would be waited for
            raise Unfit(f"{others[0]} is no file: take it out")
        names, wrong = in_order(tuple(file.name for file in there))
        if wrong:
            raise Unfit(f"the clip {path}: {wrong}")

        def pictures(chosen):
            for i in chosen:
                with Image.open(path / names[i]) as picture:
                    check_picture(picture.size, path / names[i])
                    if picture.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
                        raise Unfit(f"{path / names[i]} is a picture of the kind {picture.mode}: save it as 8-bit RGB")
                    yield picture

        count = len(names)
    else:
        av = need_av()

        def decoded():
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise Unfit(f"{path} has no picture")
                check_picture((container.streams.video[0].width, container.streams.video[0].height), path)
                yield from container.decode(video=0)

        def pictures(chosen):
            wanted = list(chosen)
            for number, frame in enumerate(decoded()):
                for _ in range(wanted.count(number)):
                    yield frame.to_image()

        count = sum(1 for _ in decoded())
    if not count:
        raise Unfit(f"{path} has no frame")
    chosen, same = np.linspace(0, count - 1, spec.frames).round().astype(int).tolist(), count == spec.frames
    frames = []
    for picture in pictures(chosen):
        pixels, fits = fitted(picture, spec)
        frames.append(pixels)
        same &= fits
    return np.stack(frames), same


def check_picture(size, path):
    if size[0] * size[1] > LARGEST:
        raise Unfit(f"{path} has {size[0]}x{size[1]} pixels, more than {LARGEST:,}: make it smaller")


def fitted(picture, spec):
    """(uint8 (H, W, C), whether nothing was resized). One of which `write_videos` made the sides even is cut."""
    from PIL import Image, ImageOps
    size, even = (spec.size, spec.size), spec.size + spec.size % 2
    fits = picture.size in (size, (even, even))
    picture = picture.convert("L" if spec.channels == 1 else "RGB")
    picture = picture.crop((0, 0, *size)) if fits else ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(*size, spec.channels), fits


def normalised(clip, spec):
    """uint8 (T, H, W, C) -> float32 (T, C, H, W) as networks of the data set see it."""
    values = torch.from_numpy(clip.copy()).movedim(-1, 1).float() / 255
    return (values - torch.tensor(spec.mean).view(-1, 1, 1)) / torch.tensor(spec.std).view(-1, 1, 1)


def read_soft(path, keys, spec):
    """Rows (N, K) of soft_labels.csv, in the order of the clips."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        columns, *rows = [row for row in csv.reader(file) if row]
    if columns != ["clip", *spec.classes]:
        raise Unfit(f"{path} must have the columns clip and then the classes of --dataset, in their order")
    table = {row[0]: [float(value) for value in row[1:]] for row in rows}
    wrong = sorted(table.keys() ^ set(keys))
    if wrong or len(table) != len(rows) or any(len(row) != spec.num_classes for row in table.values()):
        about = f", and {wrong[0][:80]!r} is {'left over' if wrong[0] in table else 'missing'}" if wrong else ""
        raise Unfit(f"{path} must have one row of {spec.num_classes} numbers for each clip{about}")
    return torch.tensor([table[key] for key in keys])


# array of a .npz -> (kinds of its type, dimensions)
ARRAYS = {"clips": ("fu", 5), "labels": ("iu", 1), "class_names": ("U", 1), "mean": ("f", 1), "std": ("f", 1),
          "soft_labels": ("f", 2), "label_kind": ("U", 0)}


def read_npz(path, spec, values, kind):
    """(clips, class numbers, soft labels or None, kind of labels or None) of a numpy archive. What its arrays are is
    compared before any is read."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read[version](file)
            shapes[name.removesuffix(".npy")] = shape, dtype
    if not {"clips", "labels"} <= shapes.keys() or shapes.keys() - ARRAYS.keys():
        raise Unfit(f"{path} has the arrays {', '.join(sorted(shapes))[:200]}: it needs clips and labels, and may have "
                    f"{', '.join(ARRAYS)}")
    n, k = shapes["labels"][0][:1] or (0,), spec.num_classes
    wanted = {"clips": (*n, *((spec.frames, spec.size, spec.size, spec.channels) if shapes["clips"][1] == np.uint8
                              else spec.shape)),
              "labels": n, "class_names": (k,), "mean": (spec.channels,), "std": (spec.channels,),
              "soft_labels": (*n, k), "label_kind": ()}
    for name, (shape, dtype) in shapes.items():
        if dtype.kind not in ARRAYS[name][0] or shape != wanted[name] or (name == "clips" and dtype.kind == "u" and (
                dtype != np.uint8)) or not n[0]:
            raise Unfit(f"the {name} of {path} are {dtype} {shape}: needed are {wanted[name]}"
                        + (", uint8 (N, T, H, W, C) or floats (N, T, C, H, W)" if name == "clips" else ""))
    with np.load(path, allow_pickle=False) as file:
        content = {name: np.ascontiguousarray(file[name]) for name in shapes}
    labels = content["labels"].astype(np.int64)
    if labels.min() < 0 or labels.max() >= k:
        raise Unfit(f"the labels of {path} are not class numbers below {k}")
    if content.get("class_names", np.array(spec.classes)).tolist() != list(spec.classes):
        raise Unfit(f"{path} has other classes than --dataset: give the --dataset that it was made for")
    for name in ("mean", "std"):
        if not np.allclose(content.get(name, getattr(spec, name)), getattr(spec, name)):
            raise Unfit(f"{path} was normalised with another {name} than --dataset has: give its --dataset")
    clips = content["clips"]
    if clips.dtype == np.uint8:
        if values:
            raise Unfit(f"the clips of {path} are uint8, which need no --values: leave it out")
        clips = torch.stack([normalised(clip, spec) for clip in clips])
    else:
        clips = torch.from_numpy(clips.astype(np.float32))
        if "mean" not in content or values:
            try:
                clips = published.normalise(clips, values, spec, str(path)).float()
            except ValueError as error:
                raise Unfit(str(error)) from None
    soft = torch.from_numpy(content["soft_labels"].astype(np.float32)) if "soft_labels" in content else None
    return clips, labels.tolist(), soft, str(content["label_kind"].item()) if "label_kind" in content else kind
