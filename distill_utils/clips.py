"""Real clips: the cache on the disk that is decoded once (uint8), views of it, and the sampler that draws by class."""
import hashlib
import math
import os
import sys
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from distill_utils.dataset import DataError, clip_positions
from distill_utils.files import locked, remove, replacing, unfinished
from distill_utils.frames import decode, read_frame
from distill_utils.progress import progress

LOCATIONS = ("auto", "device", "host")      # of the decoded frames, for a CUDA device
CACHE_FORMAT = 3    # raise when the decoding changes: older caches are made anew


def cache_folder(data_path, cache_path=None):
    """Where decoded frames, and what is computed of them for all runs, lie: --cache_path, or a folder of the data's."""
    return Path(cache_path or Path(data_path) / "cache")


def cached_frames(dataset, cache_path, num_workers=None, preload=False):
    """All grid frames of a FrameFolder, uint8 (F, 3, H, W): a FrameFile, which is made once.

    The file's name carries a digest of the clips, their frames (name, bytes, times of change) and the size, so a change
    of any of them makes a new file and removes the old. The same frames may be reached by another path. One process
    builds, others wait; a build that was killed leaves nothing that counts. A file that is not as long as it was
    written is made again. Behind the frames it has a check sum of each, which `Clips` compares when it first reads the
    frame, and one of the file that each came from. preload: all frames as an array in memory (still uint8). Sets
    `cache`, `sums` and `stored` (these check sums) of the dataset.
    """
    spec, total = dataset.spec, int(dataset.counts.sum())
    digest = hashlib.sha256(f"{CACHE_FORMAT} {spec.frames} {spec.stride} {spec.size}".encode())
    for name, folder, files in zip(dataset.names, dataset.files.folders, dataset.files.names, strict=True):
        line = [f"\n{name}"]
        for file in files:
            stat = os.stat(f"{folder}/{file}")
            # of the two times tools can set back the first alone
            line.append(f"{file}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}")
        digest.update("/".join(line).encode())
    cache_path = Path(cache_path)
    cache_path.mkdir(parents=True, exist_ok=True)
    stem = _cache_stem(dataset)
    name = digest.hexdigest()[:16]
    path, same = cache_path / f"{stem}-{name}.npy", f"{stem}-{'?' * 16}.npy"
    path = next(iter(sorted(cache_path.glob(f"*-{name}.npy"))), path)      # reached by another path, perhaps
    found = _open_cache(path, total, spec.size)
    if not found:
        with locked(cache_path / f".{stem}.lock"):
            found = _open_cache(path, total, spec.size)
            if not found:
                remove(*unfinished(cache_path, same))       # of a build that was killed: we hold the lock
                if path.is_file():
                    print(f"note: {path} is damaged and is made again", file=sys.stderr)
                _build(path, dataset, num_workers)
                remove(*(stale for stale in cache_path.glob(same) if stale != path))
                found = _open_cache(path, total, spec.size)
    frames, dataset.sums, dataset.stored = found
    dataset.cache = path
    return frames[np.arange(len(frames))] if preload else frames


class FrameFile:
    """The frames of a cache, uint8 (F, 3, H, W), read from the file as they are asked for. (A mapped file would count
    as memory of the process, until all of it does.) path, offset: the file, and where its frames begin."""

    def __init__(self, path, offset, shape):
        self.path, self.offset, self.shape = path, offset, shape
        self.frame_bytes = math.prod(shape[1:])
        self.nbytes = len(self) * self.frame_bytes
        self.file = open(path, "rb", buffering=0)       # noqa: SIM115 (as long as the object; a removed file stays)

    def __reduce__(self):
        return FrameFile, (self.path, self.offset, self.shape)

    def __len__(self):
        return self.shape[0]

    def take(self, indices, out):
        """Fills uint8 (*indices.shape, 3, H, W). Frames in a row are one read. IndexError outside 0 ... F - 1."""
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"frames {indices.min()} to {indices.max()} are asked for, of {len(self)}")
        flat, target = indices.reshape(-1), memoryview(out.reshape(-1))
        ends = [*(np.flatnonzero(np.diff(flat) != 1) + 1), len(flat)] if len(flat) else []
        for first, end in zip([0, *ends], ends, strict=False):
            part, at = target[first * self.frame_bytes:end * self.frame_bytes], int(flat[first]) * self.frame_bytes
            while part:
                self.file.seek(self.offset + at)
                count = self.file.readinto(part)        # at most 2 GiB at a time
                if not count:
                    raise DataError(f"{self.path} was cut short while it was in use: run the same command again (with "
                                    "--resume), which makes it anew")
                part, at = part[count:], at + count

    def __getitem__(self, indices):
        found = np.empty((*indices.shape, *self.shape[1:]), np.uint8)
        self.take(indices, found)
        return found


def _open_cache(path, total, size):
    """(a FrameFile, check sums uint32 (F,) of its frames, and of their files) of a cache; None where there is no whole
    one."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
        first = frames.offset + frames.nbytes
        if frames.shape == (total, 3, size, size) and frames.dtype == np.uint8 \
                and os.path.getsize(path) == first + 8 * total + 4:
            sums = np.fromfile(path, np.uint32, offset=first)
            if zlib.crc32(sums[:-1]) == sums[-1]:
                return FrameFile(path, frames.offset, frames.shape), *sums[:-1].reshape(2, total)
    except PermissionError:
        raise
    except Exception:       # no file, or whatever a damaged head makes numpy raise
        return None
    return None


def _cache_stem(dataset):
    """What the file of a split is called, but for the digest of its frames: several may share a cache folder."""
    spec = dataset.spec
    root = hashlib.sha256(str(dataset.root.resolve()).encode()).hexdigest()[:8]
    stem = f"{Path(spec.split).stem}-{dataset.split}-{spec.frames}x{spec.stride}x{spec.size}-{root}"
    if spec.all_classes or os.path.isabs(spec.split):       # --classes, --split_file
        stem += "-" + hashlib.sha256(f"{spec.classes} {spec.split}".encode()).hexdigest()[:8]
    return stem


def _build(path, dataset, num_workers):
    """Decodes a few clips at a time and writes them to where they belong: no more is ever in memory."""
    size, chunk, total = dataset.spec.size, 8, int(dataset.counts.sum())
    first = np.cumsum(dataset.counts) - dataset.counts
    unreadable = []
    sums = np.zeros((2, total), np.uint32)
    with replacing(path) as temporary:
        content = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(total, 3, size, size)).offset
        if hasattr(os, "posix_fallocate"):      # take the space now: a full disk is better known at once
            with open(temporary, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)

        def fill(start):
            files = [file for clip in range(start, min(start + chunk, len(first))) for file in dataset.files[clip]]
            frames = np.zeros((len(files), 3, size, size), np.uint8)
            for i, (frame, file) in enumerate(zip(frames, files, strict=True)):
                try:
                    stored = read_frame(file)
                    frame[:] = decode(file, size, stored).numpy()
                    sums[:, int(first[start]) + i] = zlib.crc32(frame), zlib.crc32(stored)
                except DataError as error:
                    unreadable.append(str(error))
            # not through mapped memory, which is slower to fill, and where a full disk would kill the process
            with open(temporary, "r+b") as file:
                file.seek(content + int(first[start]) * frames[0].nbytes)
                file.write(frames)
            return len(files)

        with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool, progress(
                total=total, unit="frame", desc=f"decoding {Path(dataset.spec.folder).name} {dataset.split}") as bar:
            jobs = [pool.submit(fill, start) for start in range(0, len(first), chunk)]
            try:
                for job in jobs:
                    bar.update(job.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        with open(temporary, "ab") as file:
            file.write(sums)
            file.write(np.uint32(zlib.crc32(sums)))
        if unreadable:
            raise DataError(f"{len(unreadable)} of {total} frames cannot be read, first:\n"
                            + "\n".join(sorted(unreadable)[:5]))


class Clips:
    """The clips of one split, read from the cache.

    labels: long (N,). A sample is what the spec's view says: (T, C, H, W), or (C, H, W) of single frames.
    location: one of LOCATIONS, where the frames are read from for a CUDA device; "auto": the device itself, where they
    take at most a third of its free memory (each split is asked for itself).
    """

    def __init__(self, dataset, frames, location="auto"):
        self.whole, self.whole_length = True, None      # not what --holdout leaves of them, and not parts of clips
        self.spec, self.split, self.names = dataset.spec, dataset.split, dataset.names
        self.labels = torch.from_numpy(dataset.labels)
        self.frames, self.location, self.on_device = frames, location, {}
        self.counts = dataset.counts
        self.first = np.cumsum(self.counts) - self.counts
        # of a cache on disk; what was read into memory otherwise is as it was read
        self.cache, sums = getattr(dataset, "cache", None), getattr(dataset, "sums", None)
        self.sums = np.array([zlib.crc32(frame) for frame in frames], np.uint32) if sums is None else sums
        self.stored = self.sums if sums is None else dataset.stored      # of the files that frames came from
        self.unread = None if sums is None else np.ones(len(frames), bool)      # whose sum was not compared
        if isinstance(frames, np.ndarray):
            self._compare(np.arange(len(frames)), frames)

    def __len__(self):
        return len(self.labels)

    def identity(self):
        """What the clips are, wherever they lie and however their path is spelled, as JSON can hold it: digests of
        their names, their labels with the classes, the content of their frame files, and how they are seen. (Not of
        pixels, which another decoder gives a little differently.)"""
        spec = self.spec
        own = self._own_frames()
        about = {"names": self.names, "labels": (self.labels.tolist(), spec.classes),
                 "stored": (self.stored[own].tolist(), self.counts.tolist()),
                 "view": (spec.view, spec.frames, spec.stride, spec.size, spec.flip, spec.mean, spec.std)}
        return {"split": self.split, "count": len(self), **{
            key: hashlib.sha256(f"{value}".encode()).hexdigest()[:16] for key, value in about.items()}}

    def content(self):
        """A digest of all that a sample depends on, every pixel included."""
        return hashlib.sha256(f"{self.identity()}".encode() + self.sums[self._own_frames()].tobytes()).hexdigest()

    def _compare(self, frame_indices, frames):
        """Compares the check sums of frames that were not read before. DataError, without the cache, where one differs:
        the cache is made again by the next command."""
        if self.unread is None or not self.unread[frame_indices].any():
            return
        for place in np.argwhere(self.unread[frame_indices]):
            place, i = tuple(place), frame_indices[tuple(place)]
            if zlib.crc32(frames[place]) != self.sums[i]:
                remove(self.cache)
                raise DataError(f"{self.cache} was damaged: frame {i} in it is not what was written. It was removed: "
                                "run the same command again (with --resume), which makes it anew")
        self.unread[frame_indices] = False

    def _own_frames(self):
        """Indices of the frames that these clips are made of, clip by clip: all, but of a part."""
        before = np.cumsum(self.counts) - self.counts
        return np.repeat(self.first - before, self.counts) + np.arange(self.counts.sum())

    def part(self, chosen, split):
        """Some of the clips, by a mask (N,) or indices; frames and cache are shared. split: what they are called."""
        part = copy(self)
        part.whole = False
        part.split, part.labels = split, self.labels[torch.from_numpy(chosen)]
        part.names = [str(name) for name in np.array(self.names, dtype=object)[chosen]]
        part.first, part.counts = self.first[chosen], self.counts[chosen]
        return part

    def single_frames(self):
        """The same clips, of which a sample is one frame (C, H, W)."""
        return self._seen(view="single")

    def within_clips(self, frames):
        """The same clips, of which a sample is so many frames in a row of a segment."""
        clips = self._seen(frames=frames)
        clips.whole_length = self.spec.frames
        return clips

    def _seen(self, **changes):
        clips = copy(self)
        clips.spec = replace(self.spec, **changes)
        return clips

    def sample_frames(self, indices, generator=None, segment=(0, 1)):
        """(indices (B, T) of the frames that samples are made of, which samples are flipped (B,) or None).

        With a generator the training view: random start, random left-right flip, one draw for all frames of a clip;
        without one the test view: centre clip, nothing random. Drawn on the CPU: a seed gives the same on any device.
        segment (split_id, split_num): which part of the video single frames come from, and parts of clips
        (`within_clips`) of the clip.
        """
        indices = np.asarray(indices)
        counts = self.counts[indices]
        length = self.length
        if not self.in_two_steps:
            positions = clip_positions(counts, length, generator, segment)
        else:
            clip = clip_positions(counts, self.whole_length, generator)
            part = clip_positions(np.full(len(counts), self.whole_length), length, generator, segment)
            positions = np.take_along_axis(clip, part, 1)
        flip = None
        if generator is not None and self.spec.flip:
            flip = torch.rand(len(indices), generator=generator) < 0.5
        return self.first[indices][:, None] + positions, flip

    @property
    def length(self):
        """Frames of a sample."""
        return self.spec.frames if self.spec.view == "clip" else 1

    @property
    def in_two_steps(self):
        """Whether a sample is drawn as a part of a clip that is drawn."""
        return self.whole_length not in (None, self.length)

    @property
    def numbers_drawn(self):
        """How many random numbers of 32 bits `sample_frames` takes of a generator for each sample: two for a start."""
        return 2 * (1 + self.in_two_steps) + self.spec.flip

    def read(self, frame_indices, flip=None, device="cpu"):
        """uint8 samples (B, T, C, H, W) or (B, C, H, W) on the device, of what `sample_frames` gave. A CUDA device is
        not waited for, but that frames of the host are at most three batches ahead of it."""
        device = torch.device(device)
        on_device = self._frames_on(device)
        if on_device is not None:
            flat = torch.from_numpy(frame_indices).flatten().int().to(device, non_blocking=True)
            clips = on_device.index_select(0, flat).unflatten(0, frame_indices.shape)
        elif device.type == "cuda":
            clips = self._send(frame_indices, device)
        else:
            found = self.frames[frame_indices]
            self._compare(frame_indices, found)
            clips = torch.from_numpy(found)
        if flip is not None and device.type != "cpu":
            flip = flip.to(device, non_blocking=True).view(-1, 1, 1, 1, 1)
            clips = torch.where(flip, clips.flip(-1), clips)
        elif flip is not None:
            for i in flip.nonzero()[:, 0].tolist():     # by index or mask it takes 20 times as long
                clips[i] = clips[i].flip(-1)
        if self.spec.view == "single":
            return clips[:, 0]
        return clips.expand(-1, self.spec.frames, -1, -1, -1) if self.spec.view == "static" else clips

    def _send(self, frame_indices, device):
        """Frames by index (B, T) to a CUDA device, through pinned memory and on a stream of their own: they are
        gathered and travel while the device computes. No more than three batches are on their way, however slow it is.
        """
        current, (copies, begun) = torch.cuda.current_stream(device), _copies(device)
        if len(begun) == 2:
            begun[0].synchronize()      # what used the last batch but two is done
        begun.append(current.record_event())
        pinned = torch.empty(*frame_indices.shape, *self.frames.shape[1:], dtype=torch.uint8, pin_memory=True)
        if isinstance(self.frames, FrameFile):
            self.frames.take(frame_indices, pinned.numpy())
        else:
            np.take(self.frames, frame_indices, axis=0, out=pinned.numpy(), mode="clip")  # "raise" would copy once more
        self._compare(frame_indices, pinned.numpy())
        with torch.cuda.stream(copies):
            sent = pinned.to(device, non_blocking=True)
        current.wait_stream(copies)
        sent.record_stream(current)
        return sent

    def _frames_on(self, device):
        """All frames on the device, brought there once; None where they stay on the host."""
        if device.type == "cpu":
            return None
        if device in self.on_device:
            return self.on_device[device]
        if self.location == "auto":
            free, _ = torch.cuda.mem_get_info(device)
            self.location = "device" if self.frames.nbytes <= free / 3 else "host"
        if self.location == "device":
            on_device = torch.empty(self.frames.shape, dtype=torch.uint8, device=device)
            chunk = max(1, (64 << 20) // on_device[0].numel())
            with progress(total=len(self.frames), desc=f"{Path(self.spec.folder).name} to {device}", unit="frame",
                          delay=2, leave=False) as bar:
                for first in range(0, len(self.frames), chunk):
                    rows = np.arange(first, min(first + chunk, len(self.frames)))
                    some = self.frames[rows]
                    self._compare(rows, some)
                    on_device[first:first + len(some)].copy_(torch.from_numpy(some))
                    bar.update(len(some))
            self.on_device[device] = on_device
        return self.on_device.get(device)

    def get(self, indices, generator=None, device="cpu", segment=(0, 1)):
        """Normalised float samples (B, T, C, H, W) or (B, C, H, W) on the device, in the views of `sample_frames`; the
        bytes travel there, not the floats."""
        return normalise(self.read(*self.sample_frames(indices, generator, segment), device), self.spec)

    def get_share(self, indices, generator, device, chunk, own):
        """The same, so many at a time, of the range of them that one of several ranks takes; what is random in the
        others is drawn all the same."""
        frames, flip = self.sample_frames(indices, generator)
        for first in range(own.start, own.stop, chunk):
            some = slice(first, min(first + chunk, own.stop))
            yield normalise(self.read(frames[some], flip if flip is None else flip[some], device), self.spec)

    @property
    def clips_of_each(self):
        """How many clips the smallest class has."""
        return int(torch.bincount(self.labels, minlength=self.spec.num_classes).min())

    def check_count(self, n):
        """Raises ValueError where a class has fewer than n clips."""
        count, fewest = torch.bincount(self.labels, minlength=self.spec.num_classes).min(0)
        if n > count:
            raise ValueError(f"cannot take {n} clips of each class: {self.spec.classes[fewest]} has {count}: lower "
                             "--ipc (or --spc, --dpc) to at most that")

    def random_clips(self, n, generator):
        """n clips of each class in the test view (K, n, ...): what sets start from, and the random baseline."""
        self.check_count(n)
        chosen = ClassSampler(self).indices(range(self.spec.num_classes), n, generator)
        return torch.stack([self.get(row) for row in chosen])


def same_clips(identity):
    """Of an identity of clips what does not depend on how they are seen: the same of their single frames, say."""
    return {key: value for key, value in identity.items() if key != "view"}


def change_of(before, now):
    """What is different between two identities of clips, in words."""
    if before["count"] != now["count"]:
        return f"{before['count']} {now['split']} clips then, {now['count']} now"
    for key, what in (("names", "names"), ("labels", "labels (or classes)"), ("view", "length, size or view"),
                      ("stored", "frames")):
        if before[key] != now[key]:
            return f"the {now['split']} clips have other {what}"
    return ""


def normalise(clips, spec):
    """uint8 (..., C, H, W) -> float, normalised with the data set's mean and std."""
    mean, std = _moments(spec.mean, spec.std, clips.device)
    return clips.float().sub_(mean).div_(std)      # in place: fresh memory costs more than the arithmetic


@lru_cache(maxsize=16)
def _moments(mean, std, device):
    """Of uint8 values, (C, 1, 1) on the device."""
    return [255 * torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std)]


@lru_cache(maxsize=8)
def _copies(device):
    """(the stream, the events at which the last two batches were asked for)."""
    return torch.cuda.Stream(device), deque(maxlen=2)


class ClassSampler:
    """Draws real clips by class, in the training view."""

    def __init__(self, clips):
        self.clips = clips
        self.members = [np.flatnonzero(clips.labels.numpy() == k) for k in range(clips.spec.num_classes)]

    def indices(self, classes, n, generator):
        """Indices (len(classes), n) of n clips of each class: none twice before all of the class were drawn."""
        rows = []
        for k in classes:
            members = self.members[k]
            order = [torch.randperm(len(members), generator=generator) for _ in range(-(-n // len(members)))]
            rows.append(members[torch.cat(order)[:n].numpy()])
        return np.stack(rows)

    def skip(self, classes, n, generator):
        """Leaves the generator as `sample` would, where another rank has these classes: so many numbers of 32 bits are
        drawn at once. (Draw by draw, 400 classes take 15 ms of each step, and this way 1.)"""
        of_samples = len(classes) * n * self.clips.numbers_drawn
        of_order = sum(-(-n // len(self.members[k])) * (len(self.members[k]) - 1) for k in classes)
        torch.empty(of_samples + of_order, dtype=torch.int32).random_(generator=generator)

    def sample(self, classes, n, generator, device="cpu", segment=(0, 1)):
        """Normalised float samples (len(classes), n, ...). Ask for a few classes at a time: floats are four times the
        cache. Which clips come depends on the generator alone, not on how the classes are cut into calls."""
        frames, flips = zip(*(self.clips.sample_frames(self.indices([k], n, generator)[0], generator, segment)
                              for k in classes), strict=True)
        flip = None if flips[0] is None else torch.cat(flips)
        clips = normalise(self.clips.read(np.concatenate(frames), flip, device), self.clips.spec)
        return clips.unflatten(0, (len(flips), n))
