"""Sets for other programs, and from them: frames, videos, numpy, a Hugging Face folder.

An export is a folder that is written whole or not at all. It has about.json, the header of the set, and soft labels in
soft_labels.csv, a row for each clip. WAYS says which there are: way -> function(folder, Clips).
"""
import csv
import json
import zipfile
from typing import NamedTuple

import numpy as np
import torch

from distill_utils.files import replacing
from distill_utils.labels import KINDS, check_recipe
from distill_utils.picture import to_uint8
from distill_utils.synset import VideoSet, all_pairs


class Rendered(NamedTuple):
    """All clips that a set can make, as uint8, and what they tell a network."""
    clips: np.ndarray           # uint8 (N, T, H, W, C)
    exact: torch.Tensor         # float32 (N, T, C, H, W), normalised
    classes: list               # number of the class of each
    names: list                 # a name for each, of letters that every file system takes
    rows: np.ndarray | None     # soft labels (N, K)
    header: dict
    split: list                 # "train" of the set's clips, "test" of real ones


def render_all(synset, header):
    """Each clip of each slot, variants too; images are clips of one frame. Pixels beyond black and white are clamped in
    `clips`; the second value is their share."""
    classes, slots = all_pairs(synset)
    n = synset.num_variants
    classes, slots = classes.repeat_interleave(n), slots.repeat_interleave(n)
    variants = torch.arange(n).repeat(synset.num_classes * synset.num_slots)
    with torch.no_grad():
        clips, targets = synset.render(classes, slots, **({"variants": variants} if n > 1 else {}))
    if clips.dim() == 4:
        clips = clips[:, None]
    mean, std = (torch.tensor(header[key]).view(-1, 1, 1) for key in ("mean", "std"))
    values = clips * std + mean
    beyond = ((values < -0.5 / 255) | (values > 1 + 0.5 / 255)).float().mean().item()
    names = [f"c{k:03d}_{slot:03d}" + (f"_{variant}" if n > 1 else "") for k, slot, variant in zip(
        classes.tolist(), slots.tolist(), variants.tolist(), strict=True)]
    rows = None if synset.label_kind == "class" else targets.numpy()
    return Rendered(to_uint8(clips, header["mean"], header["std"]), clips, classes.tolist(), names, rows,
                    {**header, "label_kind": synset.label_kind}, ["train"] * len(names)), beyond


def with_test(rendered, data):
    """With the test clips of a data set behind them."""
    clips = data.test
    tested = torch.cat([clips.get(some) for some in torch.arange(len(clips)).split(64)])
    tested = tested if tested.dim() == 5 else tested[:, None]
    return rendered._replace(
        clips=np.concatenate([rendered.clips, to_uint8(tested, data.spec.mean, data.spec.std)]),
        classes=rendered.classes + clips.labels.tolist(), split=rendered.split + ["test"] * len(clips),
        names=rendered.names + [f"test{i:05d}" for i in range(len(clips))])


# ---- ways out -----------------------------------------------------------------------------------------------------

def to_frames(folder, rendered):
    """UCF101's layout, without loss: frames/<clip>/frame000001.png ... and split.csv."""
    from PIL import Image
    for name, clip in zip(rendered.names, rendered.clips, strict=True):
        (folder / "frames" / name).mkdir(parents=True)
        for number, frame in enumerate(clip, 1):
            image = Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame)
            image.save(folder / "frames" / name / f"frame{number:06d}.png")
    write_csv(folder / "split.csv", ("folder_name", "label", "split"), [
        (name, rendered.header["classes"][k], split) for name, k, split in zip(
            rendered.names, rendered.classes, rendered.split, strict=True)])


def to_videos(folder, rendered):
    """<clip>.mp4, nearly without loss, and labels.csv."""
    for name, clip in zip(rendered.names, rendered.clips, strict=True):
        write_video(folder / f"{name}.mp4", clip)
    write_csv(folder / "labels.csv", ("file_name", "label", "class"), [
        (f"{name}.mp4", rendered.header["classes"][k], k) for name, k in zip(rendered.names, rendered.classes,
                                                                           strict=True)])


def to_numpy(folder, rendered):
    """set.npz: clips float32 (N, T, C, H, W), normalised as networks see them, labels (N,), and soft_labels (N, K)."""
    soft = {} if rendered.rows is None else {"soft_labels": rendered.rows,
                                             "label_kind": np.array(rendered.header["label_kind"])}
    np.savez_compressed(folder / "set.npz", clips=rendered.exact.numpy(), labels=np.array(rendered.classes),
                        class_names=np.array(rendered.header["classes"]), mean=np.array(rendered.header["mean"]),
                        std=np.array(rendered.header["std"]), **soft)


def to_hugging_face(folder, rendered):
    """data/train/<clip>.mp4 with metadata.jsonl, and README.md, whose card `datasets` reads."""
    (folder / "data" / "train").mkdir(parents=True)
    for name, clip in zip(rendered.names, rendered.clips, strict=True):
        write_video(folder / "data" / "train" / f"{name}.mp4", clip)
    with open(folder / "data" / "train" / "metadata.jsonl", "w", encoding="utf-8") as file:
        for i, (name, k) in enumerate(zip(rendered.names, rendered.classes, strict=True)):
            soft = {} if rendered.rows is None else {"soft_label": rendered.rows[i].tolist()}
            file.write(json.dumps({"file_name": f"{name}.mp4", "label": rendered.header["classes"][k], **soft}) + "\n")
    header, method = rendered.header, rendered.header.get("method") or "unknown"
    card = ["---", "task_categories:", "- video-classification", f"size_categories:\n- {size_of(len(rendered.names))}",
            "configs:", "- config_name: default", "  data_dir: data", "---", "# A distilled video set", "",
            f"{len(rendered.names)} clips of {len(header['classes'])} classes, of {header['frames']} frames and "
            f"{header['size']}x{header['size']} pixels, made from {header.get('dataset') or 'a data set'} by {method}.",
            "How networks are trained on them is in about.json."]
    (folder / "README.md").write_text("\n".join(card) + "\n", encoding="utf-8")


def size_of(n):
    """The hub's word for a number of clips."""
    for limit, word in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K")):
        if n < limit:
            return word
    return "100K<n<1M"


def write_csv(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def write_video(path, clip):
    """uint8 (T, H, W, C) as H.264 in 4:2:0, sides made even by repeating the last row and column; 8 frames a second."""
    import av
    height, width = (side + side % 2 for side in clip.shape[1:3])
    clip = np.pad(clip, [(0, 0), (0, height - clip.shape[1]), (0, width - clip.shape[2]), (0, 0)], mode="edge")
    clip = clip.repeat(3, axis=3) if clip.shape[3] == 1 else clip
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "1", "x264-params": "asm=0"}
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


WAYS = {"frames": to_frames, "mp4": to_videos, "npz": to_numpy, "hf": to_hugging_face}


def export(path, way, rendered):
    """Writes a folder that must not be there yet. ValueError where it is."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out {path} is there already, and an export never replaces anything: name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rmdir()
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "about.json").write_text(json.dumps(rendered.header, indent=1, sort_keys=True) + "\n",
                                              encoding="utf-8")
        WAYS[way](temporary, rendered)
        if rendered.rows is not None:
            n = len(rendered.rows)
            write_csv(temporary / "soft_labels.csv", ("clip", *rendered.header["classes"]), [
                (name, *map(repr, row)) for name, row in zip(rendered.names[:n], rendered.rows.tolist(), strict=True)])


# ---- ways in ------------------------------------------------------------------------------------------------------

VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_clips(path, spec):
    """Clips of another program as a VideoSet, and its header: (set, {...}). path: a folder that `export` wrote, or of
    <class>/<clip>, videos or folders of frames; or a .npz with clips and labels. Each class must have as many.

    Clips of another length are reduced to frames that lie evenly in them; those of another size have their short side
    resized and the middle cropped. ValueError where something is missing, or left over.
    """
    about, soft = read_about(path if path.is_dir() else path.parent), None
    if (path / "set.npz").is_file():
        path = path / "set.npz"
    if path.is_dir():
        rows = find_clips(path)
        classes = number_of(rows, spec, path)
        clips = torch.stack([normalise(read_clip(clip, spec), spec) for clip, _ in rows])
        if (path / "soft_labels.csv").is_file():
            soft = read_soft(path / "soft_labels.csv", [clip.stem for clip, _ in rows], spec)
    else:
        clips, classes, soft, kind = read_npz(path, spec)
        about |= kind
    order = torch.tensor(classes).argsort(stable=True)
    counts = torch.bincount(torch.tensor(classes), minlength=spec.num_classes)
    if counts.min() != counts.max() or not counts.min():
        few, many = counts.argmin(), counts.argmax()
        raise ValueError(f"{path} has {counts[few]} clips of {spec.classes[few]} and {counts[many]} of "
                         f"{spec.classes[many]}: a set has as many of each class")
    kind = about.get("label_kind", "class") if soft is not None else "class"
    if soft is not None and kind == "class":
        raise ValueError(f"{path} has soft labels, and nothing says of which kind: write label_kind "
                         f"({', '.join(KINDS)}) into about.json")
    synset = VideoSet(spec.num_classes, int(counts[0]), spec.shape, label_kind=kind)
    synset.videos.data = clips[order]
    if soft is not None:
        synset.labels.data = soft[order]
    return synset, {key: about[key] for key in ("recipe", "labelled", "teacher", "syn_lr") if key in about}


def read_about(folder):
    """about.json of an export, or {}. ValueError for another."""
    if not (folder / "about.json").is_file():
        return {}
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError("it is no JSON object")
        if about.get("recipe") is not None:
            check_recipe(about["recipe"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'about.json'} is not what an export writes ({error}): mend or remove it") from None
    return about


def find_clips(folder):
    """[(path of a video or of a folder of frames, class name)] in name order."""
    for name, key in (("split.csv", "folder_name"), ("labels.csv", "file_name")):
        if not (folder / name).is_file():
            continue
        with open(folder / name, newline="", encoding="utf-8-sig") as file:
            table = list(csv.DictReader(file))
        if not table or not {key, "label"} <= table[0].keys():
            raise ValueError(f"{folder / name} must have the columns {key},label and at least one clip")
        rows = [row for row in table if (row.get("split") or "train").lower() == "train"]
        base = folder / "frames" if (folder / "frames").is_dir() else folder
        return [(inside(base, row[key]), row["label"]) for row in rows]
    found = [(clip, parent.name) for parent in sorted(folder.iterdir()) if parent.is_dir()
             for clip in sorted(parent.iterdir()) if clip.is_dir() or clip.suffix.lower() in VIDEOS]
    if not found:
        raise ValueError(f"{folder} has no split.csv, no labels.csv and no <class>/<clip>: give a folder of clips")
    return found


def inside(base, name):
    """A path that a table names, which must lie in its folder."""
    path = base / name
    if not path.resolve().is_relative_to(base.resolve()):
        raise ValueError(f"{name!r} leads out of {base}: name a clip in it")
    if not path.exists():
        raise ValueError(f"there is no clip {path}, which its table names")
    return path


def number_of(rows, spec, path):
    """The class number of each row."""
    known = {name: k for k, name in enumerate(spec.classes)}
    for _, name in rows:
        if name not in known:
            raise ValueError(f"{path} has clips of the class {name!r}, which is none of --dataset ({spec.classes[0]}, "
                             f"{spec.classes[1]}, ...): give the --dataset that they were made for")
    return [known[name] for _, name in rows]


def read_clip(path, spec):
    """uint8 (T, H, W, C) of the shape of a data set, of a video or a folder of frames."""
    from PIL import Image, ImageOps
    if path.is_dir():
        names = sorted(name for name in path.iterdir() if name.suffix.lower() in IMAGES)
        frames = [Image.open(names[i]) for i in evenly(len(names), spec.frames, path)]
    else:
        import av
        with av.open(str(path)) as container:
            decoded = [frame.to_image() for frame in container.decode(video=0)]
        frames = [decoded[i] for i in evenly(len(decoded), spec.frames, path)]
    mode, size = ("L" if spec.channels == 1 else "RGB"), (spec.size, spec.size)
    frames = [frame.convert(mode) for frame in frames]
    frames = [frame if frame.size == size else ImageOps.fit(frame, size, Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(frame).reshape(*size, spec.channels) for frame in frames])


def evenly(there, wanted, path):
    if not there:
        raise ValueError(f"{path} has no frame")
    return np.linspace(0, there - 1, wanted).round().astype(int)


def normalise(clip, spec):
    """uint8 (T, H, W, C) -> float32 (T, C, H, W) as networks of the data set see it."""
    values = torch.from_numpy(clip).movedim(-1, 1).float() / 255
    return (values - torch.tensor(spec.mean).view(-1, 1, 1)) / torch.tensor(spec.std).view(-1, 1, 1)


def read_soft(path, names, spec):
    """Rows (N, K) of soft_labels.csv, in the order of the clips."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = {row["clip"]: row for row in csv.DictReader(file)}
    try:
        return torch.tensor([[float(table[name][k]) for k in spec.classes] for name in names])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} has no whole row of numbers for each clip and class ({error})") from None


def read_npz(path, spec):
    """(clips, class numbers, soft labels or None, what is known of them) of a numpy archive."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile):        # whose words advise to let it run code
        raise ValueError(f"{path} is no .npz of plain arrays: give one, or a folder of clips") from None
    if not {"clips", "labels"} <= content.keys():
        raise ValueError(f"{path} has the arrays {', '.join(content)}: it needs clips and labels")
    clips, labels = content["clips"], content["labels"]
    if clips.dtype == np.uint8:
        shape = (spec.frames, spec.size, spec.size, spec.channels)
        clips = torch.stack([normalise(clip, spec) for clip in clips]) if clips.shape[1:] == shape else clips
    else:
        shape = tuple(spec.shape)
        for name in ("mean", "std"):
            if not np.allclose(content.get(name, getattr(spec, name)), getattr(spec, name)):
                raise ValueError(f"{path} was normalised with another {name} than --dataset has: give its --dataset")
        clips = torch.from_numpy(clips.astype(np.float32)) if clips.shape[1:] == shape else clips
    if not torch.is_tensor(clips):
        raise ValueError(f"the clips of {path} are {clips.dtype} {clips.shape}: needed are (N, "
                         f"{', '.join(map(str, shape))}), uint8 (N, T, H, W, C) or normalised floats (N, T, C, H, W)")
    if labels.shape != (len(clips),) or labels.dtype.kind not in "iu" or (
            len(labels) and not 0 <= labels.min() <= labels.max() < spec.num_classes):
        raise ValueError(f"the labels of {path} are not {len(clips)} class numbers below {spec.num_classes}")
    if content.get("class_names", np.array(spec.classes)).tolist() != list(spec.classes):
        raise ValueError(f"{path} has other classes than --dataset: give the --dataset that it was made for")
    soft = torch.from_numpy(content["soft_labels"]).float() if "soft_labels" in content else None
    about = {"label_kind": str(content["label_kind"])} if "label_kind" in content else {}
    if soft is not None and soft.shape != (len(clips), spec.num_classes):
        raise ValueError(f"the soft_labels of {path} are {tuple(soft.shape)}: needed are "
                         f"{(len(clips), spec.num_classes)}")
    return clips, labels.tolist(), soft, about
