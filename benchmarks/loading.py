"""Reading clips: the usual reader (PIL, torchvision transforms, DataLoader) against the cache that is decoded once.

    python benchmarks/loading.py                          # about three minutes on one core
    python benchmarks/loading.py --index                  # an index of 240,000 clips, as Kinetics-400 has

The usual reader decodes the 16 frames of each clip in every epoch, resizes and crops them one by one, turns them into
floats, normalises them, and stacks them in a DataLoader without workers. Ours decodes every 4th frame of each video
once, writes it to the cache, and reads clips from there. Both give the same normalised floats in batches of one size,
on one thread, so times are per core; the two sides alternate and the ratios are medians over pairs. A frame of ours is
timed from the file to normalised floats (frame), and from the file to the cache on the disk (build). Aims: a frame at
least 4 times as fast, a second epoch at least 30 times, the cache at most 1/4 of its frames as floats.

--index: folders of small frames and annotations as those of Kinetics, made in a temporary folder; what it takes to
read the index, to stream the cache of it, and how much memory the process holds (all of it, mapped files included).
Then distill_DM.py is run on it as a user would, three iterations of 400 classes with 64 real clips each, and its peak
memory is given beside the bytes of the cache.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import process_memory
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from distill_utils.clips import Clips, cached_frames, normalise
from distill_utils.dataset import DATASETS, FrameFolder, Spec, read_split
from distill_utils.device import keep_memory
from distill_utils.frames import decode
from distill_utils.seeds import make_generator

SPEC = Spec("Noise", "noise.csv", ("a", "b"), frames=16, stride=4, size=112, flip=True)
STORED = {"square": (112, 112), "ucf": (320, 240)}      # frames as extract_frames/ writes them; as UCF101's videos are


class UsualReader(Dataset):
    """Clips as most published code reads them: a random start, and each frame decoded and transformed by itself."""

    def __init__(self, clips, spec, stored):
        self.clips, self.spec = clips, spec         # [(frame files, label)]
        to_size = [] if stored == (spec.size, spec.size) else [
            transforms.Resize((spec.size * 15 // 14, spec.size * 10 // 7)), transforms.CenterCrop(spec.size)]
        self.transform = transforms.Compose([*to_size, transforms.ToTensor(),
                                             transforms.Normalize(spec.mean, spec.std)])

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, i):
        files, label = self.clips[i]
        span = (self.spec.frames - 1) * self.spec.stride + 1
        start = int(torch.randint(len(files) - span + 1, ()))
        flip = torch.rand(()) < 0.5
        frames = []
        for file in files[start:start + span:self.spec.stride]:
            frame = self.transform(Image.open(file).convert("RGB"))
            frames.append(frame.flip(-1) if flip else frame)
        return torch.stack(frames), label


def make_clips(root, stored, clips, frames):
    """Folders of smooth noise, which JPEG packs about as well as video. Returns [(frame files, label)]."""
    rng, made = np.random.default_rng(0), []
    width, height = stored
    for number in range(clips):
        folder = root / SPEC.folder / "jpegs_112" / f"clip{number:04d}"
        folder.mkdir(parents=True)
        field = gaussian_filter(rng.normal(size=(frames + 8, height, width, 3)), (3, 3, 3, 0))
        field = (255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)
        files = [folder / f"frame{t:06d}.jpg" for t in range(1, frames + 1)]
        for file, image in zip(files, field[4:], strict=False):
            Image.fromarray(image).save(file, quality=95)
        made.append((files, number % 2))
    return made


@contextmanager
def stopwatch(times):
    begin = time.perf_counter()
    yield
    times.append(time.perf_counter() - begin)


def compare(args):
    """Times of both readers over the same clips, pair by pair."""
    with tempfile.TemporaryDirectory() as temporary, open(os.devnull, "w") as quiet:
        root = Path(temporary)
        made = make_clips(root, STORED[args.stored], args.clips, args.frames)
        rows = [(files[0].parent.name, label, "train") for files, label in made]
        folder = FrameFolder(SPEC, root, "train", rows=rows)
        loader = DataLoader(UsualReader(made, SPEC, STORED[args.stored]), args.batch, shuffle=True)
        files = [file for clip in range(len(folder.names)) for file in folder.files[clip]]
        usual, decoding, build, second = [], [], [], []
        for number in range(args.repeats + 1):          # the first is the warm-up
            with stopwatch(usual):
                for _ in loader:
                    pass
            with stopwatch(decoding):
                for first in range(0, len(files), SPEC.frames):
                    clip = torch.empty(SPEC.shape, dtype=torch.uint8)
                    for frame, file in zip(clip, files[first:first + SPEC.frames], strict=False):
                        frame.numpy()[:] = decode(file, SPEC.size).numpy()
                    normalise(clip, SPEC)
            with stopwatch(build), redirect_stderr(quiet):
                frames = cached_frames(folder, root / f"cache{number}", num_workers=1)
            ours = Clips(folder, frames)
            with stopwatch(second):
                for batch in torch.randperm(len(ours), generator=make_generator(number)).split(args.batch):
                    ours.get(batch, make_generator(number, "draw"))
        held = frames.nbytes
    per_frame = [t / (args.clips * SPEC.frames) for t in usual[1:]], [t / len(files) for t in decoding[1:]]
    return {"stored": "x".join(map(str, STORED[args.stored])), "clips": args.clips, "frames": args.frames,
            "batch": args.batch, "usual_epoch_seconds": median(usual[1:]), "second_epoch_seconds": median(second[1:]),
            "second_epoch_ratio": median(a / b for a, b in zip(usual[1:], second[1:], strict=True)),
            "usual_frame_ms": 1e3 * median(per_frame[0]), "our_frame_ms": 1e3 * median(per_frame[1]),
            "frame_ratio": median(a / b for a, b in zip(*per_frame, strict=True)),
            "build_frame_ms": 1e3 * median(build[1:]) / len(files), "cache_bytes": held,
            "cache_to_float32": held / (4 * len(files) * 3 * SPEC.size ** 2)}


def index(args):
    """Reads an index of Kinetics' size, and streams the cache of tiny frames that belongs to it."""
    spec = replace(DATASETS["Kinetics400"], size=args.index_size)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        base = root / spec.folder
        pictures = [base / f"picture{t}.jpg" for t in range(1, spec.frames + 1)]
        base.mkdir()
        for picture in pictures:
            Image.fromarray(np.zeros((spec.size, spec.size, 3), np.uint8)).save(picture)
        begin = time.perf_counter()
        for split, csv_name, count in (("train", "train.csv", args.index_clips), ("val", "validate.csv", 800)):
            (base / split).mkdir()
            with open(base / csv_name, "w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("label", "youtube_id", "time_start", "time_end", "split"))
                for i in range(count):
                    rows.writerow((spec.classes[i % 400], f"{split}{i:07d}", 0, 10, split))
                    clip = base / split / f"{split}{i:07d}_000000_000010"
                    clip.mkdir()
                    for t, picture in enumerate(pictures, 1):
                        os.symlink(picture, clip / f"frame{t:06d}.jpg")
        print(f"made {args.index_clips} clips in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        os.sync()       # what the writing of the tree left to do is none of the reader's
        times, start = [], process_memory("VmRSS")
        with stopwatch(times):
            rows = read_split(spec, root)
        with stopwatch(times):
            folder = FrameFolder(spec, root, "train", rows=rows)
        after_index = process_memory("VmRSS")
        with stopwatch(times):
            frames = cached_frames(folder, root / "cache", num_workers=args.threads)
        after_build = process_memory("VmRSS")
        with stopwatch(times):
            frames = cached_frames(folder, root / "cache")
        clips = Clips(folder, frames)
        with stopwatch(times):
            for batch in torch.randperm(len(clips), generator=make_generator(0)).split(256):
                clips.read(*clips.sample_frames(batch, make_generator(1)))
        after_epoch = process_memory("VmRSS")
        run = [sys.executable, "distill_DM.py", "--dataset", "Kinetics400", "--data_path", root, "--im_size", spec.size,
               "--save_path", root / "out", "--model", "ConvNet3DD2W16", "--ipc", 1, "--lr_img", 1, "--batch_real", 64,
               "--Iteration", 3, "--num_eval", 1, "--epoch_eval_train", 1]
        printed = subprocess.run(list(map(str, run)), check=True, stdout=subprocess.PIPE, text=True,
                                 cwd=Path(__file__).resolve().parent.parent).stdout
        result = json.loads(printed.rpartition("RESULT ")[2])
    split, listing, build, again, epoch = times
    return {"clips": len(clips), "cache_bytes": frames.nbytes, "split_seconds": split, "listing_seconds": listing,
            "build_seconds": build, "open_again_seconds": again, "epoch_seconds": epoch,
            "index_bytes_held": after_index - start, "build_bytes_held": after_build - after_index,
            "epoch_bytes_held": after_epoch - after_build, "DM_peak_bytes": result["peak_memory_bytes"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", choices=STORED, default="square", help="size of the stored frames")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=100, help="of a video")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--index", action="store_true", help="the index and cache of a set of Kinetics' size instead")
    parser.add_argument("--index_clips", type=int, default=240_000)
    parser.add_argument("--index_size", type=int, default=16, help="pixels of its frames")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_memory()       # as the scripts do, for both sides
    conditions = {"threads": args.threads, "torch": torch.__version__, "pillow": Image.__version__,
                  "repeats": args.repeats}
    rows = index(args) if args.index else compare(args)
    for key, value in {**conditions, **rows}.items():
        print(f"{key:>30}  {value:,.3f}" if isinstance(value, float) else f"{key:>30}  {value}")
    print(json.dumps({"benchmark": "loading", **conditions, **rows}))


if __name__ == "__main__":
    main()
