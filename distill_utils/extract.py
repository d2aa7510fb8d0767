"""From video files to frame folders: which frames, one clip, and all clips of a data set in parallel processes.

A clip is the folder `<root>/<images>/<name>` with frame000001.jpg ..., square and in display order. It is written under
a hidden name beside its place and renamed, so it is whole or absent however a run ends.
"""
import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from PIL import Image

from distill_utils.args import Parser, not_negative, positive
from distill_utils.dataset import DATA, DATASETS
from distill_utils.files import disk_full, is_disk_full, replacing, try_lock
from distill_utils.progress import progress

VIDEOS = (".avi", ".mp4", ".mkv", ".webm", ".mov")
UNFINISHED = ".unfinished-"


class BrokenVideo(ValueError):
    """A video that no clip can be made of; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What the clips of a data set look like; kept beside them, so that no two kinds get mixed."""
    frames: int         # frames of a clip; 0: every frame of the video
    choose: str         # which of them: see choose_frames
    stride: int         # for "middle": frames of the video from one to the next
    im_size: int
    quality: int        # of the JPEG files, 1 to 100
    stretch: bool       # resized to 4:3 whatever the shape of the video, or by the short side


# ---- one clip -----------------------------------------------------------------------------------------------------

def choose_frames(num_frames, length, how, stride=1):
    """Numbers (from 0, in order) of the frames of a clip, given how many frames its video has. None of them repeats.

    middle: `length` frames around the middle, `stride` apart, or as far apart as a short video allows. spread: the
    middles of `length` equal parts. A length of 0, or a video with fewer frames, means every frame.
    """
    length = min(length or num_frames, num_frames)
    if how == "spread":
        return (2 * np.arange(length) + 1) * num_frames // (2 * length) if length else np.arange(0)
    if length > 1:
        stride = min(stride, (num_frames - 1) // (length - 1))
    return max(num_frames - (length - 1) * stride - 1, 0) // 2 + stride * np.arange(length)


def scaled_size(width, height, size, stretch):
    """(width, height) that a frame is resized to before the middle size x size is cut out: 160x120 for a size of 112
    (method of S2D, arXiv 2312.00362), or without `stretch` the short side so and the long side in proportion."""
    short = size * 15 // 14
    if stretch:
        return size * 10 // 7, short
    return tuple(max(short, round(side * short / min(width, height))) for side in (width, height))


def square(frame, reformatter, settings):
    """The middle of a decoded frame as the viewer should see it: uint8 (im_size, im_size, 3)."""
    size, turns = settings.im_size, round(frame.rotation / 90) % 4      # counterclockwise
    shape = (frame.width, frame.height)[::-1 if turns % 2 else 1]
    width, height = scaled_size(*shape, size, settings.stretch)[::-1 if turns % 2 else 1]
    # bicubic is the default of FFmpeg; one thread, because there is a process a core
    image = reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(np.rot90(image[top:top + size, left:left + size], turns))


def _open(video):
    # only files: a text file named like a video could otherwise make FFmpeg read from the network
    import av
    container = av.open(os.path.abspath(video), metadata_errors="replace",
                        container_options={"protocol_whitelist": "file"})
    if not container.streams.video:
        container.close()
        raise BrokenVideo("there is no video in it")
    stream = container.streams.best("video")
    stream.codec_context.thread_count = 1
    return container, stream


def scan(video):
    """How many frames a video seems to have: its packets, counted without decoding. BrokenVideo if its end is missing.

    Headers may be silent about the number of frames (webm) or the time (FFmpeg guesses that of an avi that was cut off
    from its bytes), so the later of both ends counts; as they may also be wrong, 10 % and 0.3 s are allowed for.
    """
    container, stream = _open(video)
    with container:
        packets, begin, end = 0, float("inf"), 0
        for packet in container.demux():
            if packet.pts is not None:
                begin = min(begin, packet.pts * packet.time_base)
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            packets += packet.stream is stream and packet.size > 0 and not packet.is_discard
        seconds, promised = float(max(end - begin, 0)), (container.duration or 0) / 1e6
        promised = max(promised, float(stream.frames / stream.average_rate) if stream.average_rate else 0)
    if seconds < 0.9 * promised - 0.3:
        raise BrokenVideo(f"it ends after {seconds:.1f} of {promised:.1f} seconds")
    return packets


def write_frames(video, folder, chosen, settings):
    """Writes the chosen frames (numbers in display order; None: all) as frame000001.jpg ... Returns (frames that could
    be decoded, packets that could not)."""
    import av
    from av.video.reformatter import VideoReformatter
    wanted = None if chosen is None else set(chosen)
    reformatter, decoded, damaged, written = VideoReformatter(), 0, 0, 0
    container, stream = _open(video)
    with container:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:      # go on behind it, as players do
                damaged, frames = damaged + 1, ()
            for frame in frames:        # decoders give them in display order
                if wanted is None or decoded in wanted:
                    written += 1
                    image = Image.fromarray(square(frame, reformatter, settings))
                    image.save(folder / f"frame{written:06d}.jpg", quality=settings.quality)
                decoded += 1
    return decoded, damaged


def repeat_frames(folder, there, wanted):
    """Makes `wanted` files of fewer: frames repeat, in order and evenly, so that no video is too short."""
    for number in range(wanted, 0, -1) if there < wanted else ():      # from the end, so that no source is gone
        source = round((number - 1) * (there - 1) / (wanted - 1)) + 1
        if source != number:
            shutil.copyfile(folder / f"frame{source:06d}.jpg", folder / f"frame{number:06d}.jpg")


def extract_clip(video, folder, settings):
    """Makes the frame folder of one video. Returns its number of different frames. BrokenVideo says why there is none.

    Not synced to the disk file by file, which would take longer than the rest: the readers notice torn frames.
    """
    import av
    folder = Path(folder)
    unfinished = folder.with_name(f"{UNFINISHED}{os.getpid()}")     # not of the clip's name, which may be long
    try:
        count = packets = scan(video)
        while True:
            unfinished.mkdir()
            chosen = choose_frames(count, settings.frames, settings.choose, settings.stride)
            decoded, damaged = write_frames(video, unfinished, chosen if settings.frames else None, settings)
            if decoded == 0 or damaged and decoded < 0.9 * packets:
                raise BrokenVideo(f"{decoded} of its {packets} frames can be decoded")
            if decoded == count or not settings.frames:
                repeat_frames(unfinished, min(settings.frames, decoded), settings.frames)
                os.rename(unfinished, folder)
                return min(settings.frames or decoded, decoded)
            shutil.rmtree(unfinished)       # not every packet was a frame: choose again
            count = decoded
    except av.FFmpegError as error:
        raise BrokenVideo(error.strerror or str(error)) from error
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder, error, "nothing half is left: make room and run the same command again") from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


# ---- all clips ----------------------------------------------------------------------------------------------------

def find_videos(source, like):
    """All videos below a folder, sorted; hidden ones (macOS leaves ._v_x.avi) are none. ValueError if there is none.

    like: the tree that was expected, for the message.
    """
    def fail(error):
        raise error

    videos = [Path(folder) / name for folder, _, names in os.walk(source, onerror=fail, followlinks=True)
              for name in names if name.lower().endswith(VIDEOS) and not name.startswith(".")]
    if not videos:
        raise ValueError(f"no video below {source}: unpack the archives there so that it holds {like}, or name another "
                         "folder with --source")
    return sorted(videos)


def extract_all(jobs, root, settings, source, num_workers=0, enough=0, like="another tree"):
    """Makes the clips that are not there yet, in parallel, and lists the rest. Returns {"<images>/<name>": number of
    frames} of all clips that are there now, and prints the RESULT line.

    jobs: (video, images, name) for the clip <root>/<images>/<name>; no name: the video is not where it should be. Clips
    of fewer than `enough` frames are listed in <root>/short_videos.txt as they are made, videos that gave none in
    broken_videos.txt, a line each: the video below `source`, a tab and why. num_workers: processes; 0: one a core.
    like: the tree that was expected, for what lies elsewhere.
    """
    try:
        import av  # noqa: F401 (before any work)
    except ImportError as error:
        raise ValueError("videos are decoded by PyAV, which is not installed: pip install av") from error
    began, root = time.time(), Path(root)
    root.mkdir(parents=True, exist_ok=True)
    lock = try_lock(root / ".extract.lock")
    if lock is None:
        raise ValueError(f"another extraction is writing to {root}: wait for it, or write to another folder")
    with lock:
        videos, broken = _sort_out(jobs, like)
        for images in sorted({Path(clip).parent for clip in videos}):
            _check_settings(root / images, settings)
            for stale in (root / images).glob(f"{UNFINISHED}*"):    # of a run that was killed: we hold the lock
                shutil.rmtree(stale)
        frames = {clip: count for clip in videos if (count := _num_frames(root / clip))}
        present, missing = len(frames), [(videos[clip], clip) for clip in videos if clip not in frames]
        with closing(_in_parallel(missing, root, settings, num_workers or os.cpu_count())) as results:
            for video, clip, count, why in results:
                if why:
                    broken[video] = why
                else:
                    frames[clip] = count
                    if count < enough:      # told at once: where frames were repeated the clip does not show it
                        short = {video: f"{count} frames, {enough} wanted"}
                        _update_list(root / "short_videos.txt", short, [video], source)
        _update_list(root / "broken_videos.txt", broken, [video for video, _, _ in jobs], source)
        num_short = _update_list(root / "short_videos.txt", {}, [], source)
    if not frames:
        raise ValueError(f"none of {len(jobs)} videos gave a clip; {root / 'broken_videos.txt'} says why, first: "
                         f"{next(iter(broken.values()))}")
    result = {"made": len(frames) - present, "present": present, "short": num_short, "broken": len(broken),
              "seconds": round(time.time() - began, 1)}
    print(f"{root}: {result['made']} clips made, {present} were there, {num_short} of them short (short_videos.txt), "
          f"{len(broken)} videos without a clip (broken_videos.txt)", file=sys.stderr)
    print("RESULT " + json.dumps(result), flush=True)
    return frames


def _sort_out(jobs, like):
    """{clip: video} of the jobs that can be done and {video: why} of the others."""
    videos, broken = {}, {}
    for video, images, name in jobs:
        clip = f"{images}/{name}"
        if not name:
            broken[video] = f"its place and name do not say which clip it is; expected is {like}"
        elif name == ".." or Path(name).name != name or not name.isprintable() or name.startswith(UNFINISHED):
            broken[video] = f"{name!a} cannot be the name of a folder in {images}"
        elif len(os.fsencode(name)) > 255:
            broken[video] = f"its clip's name would have {len(os.fsencode(name))} bytes, and 255 are allowed: rename it"
        elif clip in videos:
            broken[video] = f"{videos[clip]} is to become the same clip"
        else:
            videos[clip] = video
    return videos, broken


def _check_settings(folder, settings):
    """Raises ValueError if the clips in a folder were made with other settings; notes the settings of a new one."""
    file, asked = folder.with_name(f"settings_{folder.name}.json"), asdict(settings)
    way_out = "move them away, or write to another folder"
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        other = [f"{key} {there.get(key)} there, {value} asked" for key, value in asked.items()
                 if there.get(key) != value]
        if other:
            raise ValueError(f"the clips in {folder} were made with other settings ({'; '.join(other)}): ask for the "
                             f"same, {way_out}")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds clips that were not made here ({file.name} is missing): {way_out}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


def _num_frames(folder):
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0


def _in_parallel(missing, root, settings, workers):
    """Makes clips in processes, and yields (video, clip, number of frames, why not) in the order they are done."""
    todo, running = iter(missing), {}
    # forked: a new interpreter in each process would import the script, and torch with it
    with ProcessPoolExecutor(workers, get_context("fork"), _start_worker) as pool:
        try:
            for job in islice(todo, 2 * workers):
                running[pool.submit(_work, job[0], root / job[1], settings)] = job
            with progress(total=len(missing), desc=f"clips of {root.name}", unit="clip") as bar:
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield *running[future], *future.result()
                        del running[future]
                        bar.update()
                        for job in islice(todo, 1):
                            running[pool.submit(_work, job[0], root / job[1], settings)] = job
        except BrokenProcessPool as error:
            raise ValueError("a decoding process died, out of memory or of a damaged video, at one of "
                             f"{', '.join(sorted(str(video) for video, _ in running.values()))}: run the same command "
                             "again with fewer --num_workers, or move that video away") from error
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("Clips that are done stay: the same command goes on") from stop
        finally:
            pool.shutdown(cancel_futures=True)      # those under way are finished


def _start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C reaches all; the parent stops the work

    def end_with_parent():      # or a worker whose parent was killed would wait for work for ever
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(video, folder, settings):
    try:
        return extract_clip(video, folder, settings), None
    except BrokenVideo as error:
        return 0, str(error)
    except OSError:     # a full disk, no right to write: the next video would meet it too
        raise
    except Exception as error:      # whatever one odd video makes a library raise
        return 0, f"{type(error).__name__}: {error}".splitlines()[0]


def _update_list(file, lines, videos, source):
    """Rewrites a list {video: why}; what it says of videos that this run was not about stays. Returns its length."""
    def display(video):
        name = os.path.relpath(video, source)
        return name if name.isprintable() else ascii(name)

    current = {display(video) for video in videos}
    earlier = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    earlier = [line for line in earlier if line.partition("\t")[0] not in current]
    with replacing(file) as temporary:
        new = [f"{display(video)}\t{why}" for video, why in lines.items()]
        temporary.write_text("".join(f"{line}\n" for line in sorted(earlier + new)), encoding="utf-8")
    return len(earlier + new)


def extract_table(description, name, like, stretch):
    """The whole of a script for a data set of the table whose videos are named as its clips, at any depth."""
    spec = DATASETS[name]
    args = extract_parser(description, spec.size, spec.frames if spec.sampled else 0).parse_args()
    frames = args.frames or (spec.frames if spec.sampled else 0)
    settings = Settings(frames, "spread", 1, args.im_size, args.quality, stretch)
    jobs = [(video, spec.images[0], video.stem) for video in find_videos(args.source, like)]
    extract_all(jobs, Path(args.data_path) / spec.folder, settings, args.source, args.num_workers,
                enough=frames or spec.frames, like=like)


# ---- arguments ----------------------------------------------------------------------------------------------------

def extract_parser(description, im_size, frames=0, own=False):
    """The arguments that all extraction scripts share, with the data set's number of pixels and frames; `own`: for
    data that are in no table."""
    parser = Parser(description)
    parser.add_argument("--source", required=True, help="folder of the videos")
    if own:
        parser.add_argument("--target", required=True, help="folder of the data set, the --dataset of other scripts")
    else:
        parser.add_argument("--data_path", default=str(DATA), help="folder of the data sets")
    parser.add_argument("--frames", type=not_negative, default=frames, help="frames of a clip; 0: all of the video")
    parser.add_argument("--im_size", type=positive, default=im_size, help="pixels")
    parser.add_argument("--quality", type=int, choices=range(1, 101), default=95, metavar="1-100",
                        help="of the JPEG files")
    parser.add_argument("--num_workers", type=not_negative, default=0, help="processes that decode; 0: one a core")
    return parser
