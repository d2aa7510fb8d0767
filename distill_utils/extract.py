"""From video files to frame folders: which frames, one clip, and all clips of a data set in parallel processes.

A clip is the folder `<root>/<images>/<name>` with frame000001.jpg ..., square and in display order. It is written under
a hidden name beside its place and renamed, so it is whole or absent however a run ends.
"""
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import unicodedata
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from PIL import Image

from distill_utils.args import STOPS, Parser, not_negative, positive
from distill_utils.dataset import DATA, DATASETS
from distill_utils.files import disk_full, is_disk_full, is_whole, remove, replacing, try_lock, unfinished, with_sum
from distill_utils.progress import other_files, progress, some

VIDEOS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".vob", ".wmv", ".asf", ".flv", ".f4v",
          ".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".ogv", ".divx", ".mxf")
FROM_ZERO = ("avi", "matroska,webm", "asf")     # containers that count their length from time 0, whenever they begin
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
    seconds: float = 0  # for "middle": how long a clip lasts, in place of a stride; 0: the stride says it


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


def choose_times(times, length, seconds):
    """Numbers of the frames that are on screen at `length` moments, evenly spread over `seconds` around the middle of a
    video, or over all of a shorter one. times: when each frame appears, in order. A frame repeats where a video has
    too few frames a second."""
    if not len(times):
        return np.arange(0)
    times = np.asarray(times)
    end = times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1)
    span = min(seconds, end - times[0])
    moments = (times[0] + end) / 2 + span * ((np.arange(length) + 0.5) / length - 0.5)
    moments += 1e-3     # containers round times to milliseconds
    return np.clip(np.searchsorted(times, moments, side="right") - 1, 0, None)


def scaled_size(width, height, size, stretch):
    """(width, height) that a frame is resized to before the middle size x size is cut out: 160x120 for a size of 112
    (method of S2D, arXiv 2312.00362), or without `stretch` the short side so and the long side in proportion."""
    short = size * 15 // 14
    if stretch:
        return size * 10 // 7, short
    return tuple(max(short, round(side * short / min(width, height))) for side in (width, height))


def orientation(frame):
    """How a decoded frame must be laid down to be seen as a player shows it, by its display matrix, rounded to one of
    the eight ways: (rows become columns, step through the rows, step through the columns after that)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    # a pixel goes from (x, y) to (a x + c y, b x + d y)
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    rows, columns = (b, c) if swapped else (d, a)
    return swapped, -1 if rows < 0 else 1, -1 if columns < 0 else 1


def square(frame, reformatter, settings, aspect=1):
    """The middle of a decoded frame as the viewer should see it: uint8 (im_size, im_size, 3). aspect: the width of a
    pixel of the video by its height."""
    size, (swapped, rows, columns) = settings.im_size, orientation(frame)
    order = -1 if swapped else 1
    shape = (frame.width * aspect, frame.height)[::order]
    width, height = scaled_size(*shape, size, settings.stretch)[::order]
    # bicubic is the default of FFmpeg; one thread, because there is a process a core
    image = reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    image = image[top:top + size, left:left + size]
    image = image.swapaxes(0, 1) if swapped else image
    return np.ascontiguousarray(image[::rows, ::columns])


def _open(video):
    import av
    if os.path.exists(video) and not os.path.isfile(video):     # opening a pipe would wait for ever
        raise BrokenVideo("it is not a file")
    # only files: a text file named like a video could otherwise make FFmpeg read from the network
    container = av.open(os.path.abspath(video), metadata_errors="replace",
                        container_options={"protocol_whitelist": "file"})
    try:
        stream = container.streams.best("video")
        # the cover of a song is a stream too
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise BrokenVideo("there is no video in it")
        if stream.codec_context is None:
            raise BrokenVideo(f"no decoder for its codec{_codec_name(container, stream)}")
    except BaseException:
        container.close()
        raise
    stream.codec_context.thread_count = 1
    return container, stream


def _codec_name(container, stream):
    """What the container calls the codec of a stream, after a blank; "" if it has no name. Without a decoder PyAV tells
    it in a text for people only."""
    import av
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        text = container.dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: Video: (\w+)(?: \((.{{4}}) / )?", text)
    name = found and (found[2] if found[1] == "none" else found[1])
    return f" {name}" if name else ""


def scan(video):
    """When the frames of a video seem to be shown, in seconds and in order: the times of its packets, without decoding.
    BrokenVideo if its end is missing.

    Headers may be silent about the number of frames (webm) or the time (FFmpeg guesses that of an avi that was cut off
    from its bytes), so the later of both ends counts; as they may also be wrong, 10 % and 0.3 s are allowed for.
    """
    container, stream = _open(video)
    with container:
        times, begin, end = [], float("inf"), 0
        for packet in container.demux():
            if packet.pts is not None:
                begin = min(begin, packet.pts * packet.time_base)
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream is stream and packet.size > 0 and not packet.is_discard:
                times.append(packet.pts)
        rate, promised = stream.average_rate, (container.duration or 0) / 1e6
        if container.format.name == "avi" and rate:     # that of mp4 counts what its edit list leaves out
            promised = max(promised, float(stream.frames / rate))
        seconds = float(max(end - min(begin, 0 if container.format.name in FROM_ZERO else begin), 0))
        if None in times:
            times = [number / float(rate or 25) for number in range(len(times))]
        else:
            times = [float(time * stream.time_base) for time in sorted(times)]
    if seconds < 0.9 * promised - 0.3:
        raise BrokenVideo(f"it ends after {seconds:.1f} of {promised:.1f} seconds")
    return times


def write_frames(video, folder, chosen, settings):
    """Writes the chosen frames (numbers in display order; None: all) as frame000001.jpg ... Returns (frames that could
    be decoded, packets that could not, frames of which the decoder says that they are damaged)."""
    import av
    from av.video.reformatter import VideoReformatter
    wanted = None if chosen is None else Counter(map(int, chosen))
    reformatter, decoded, failed, damaged, written = VideoReformatter(), 0, 0, 0, 0
    container, stream = _open(video)
    with container:
        aspect = stream.sample_aspect_ratio or 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:      # go on behind it, as players do
                failed, frames = failed + 1, ()
            for frame in frames:        # decoders give them in display order
                copies = 1 if wanted is None else wanted[decoded]
                image = Image.fromarray(square(frame, reformatter, settings, aspect)) if copies else None
                for _ in range(copies):
                    written += 1
                    image.save(folder / f"frame{written:06d}.jpg", quality=settings.quality)
                damaged += frame.is_corrupt
                decoded += 1
    return decoded, failed, damaged


def repeat_frames(folder, there, wanted):
    """Makes `wanted` files of fewer: frames repeat, in order and evenly, so that no video is too short."""
    for number in range(wanted, 0, -1) if there < wanted else ():      # from the end, so that no source is gone
        source = round((number - 1) * (there - 1) / (wanted - 1)) + 1
        if source != number:
            shutil.copyfile(folder / f"frame{source:06d}.jpg", folder / f"frame{number:06d}.jpg")


def extract_clip(video, folder, settings):
    """Makes the frame folder of one video. Returns (its number of different frames, why its video is damaged or None).
    BrokenVideo says why there is none.

    Not synced to the disk file by file, which would take longer than the rest: the readers notice torn frames.
    """
    import av
    folder = Path(folder)
    unfinished = folder.with_name(f"{UNFINISHED}{os.getpid()}")     # not of the clip's name, which may be long
    try:
        times = scan(video)
        packets = len(times)
        for _ in range(3):
            unfinished.mkdir()
            if settings.seconds:
                chosen = choose_times(times, settings.frames, settings.seconds)
            else:
                chosen = choose_frames(len(times), settings.frames, settings.choose, settings.stride)
            decoded, failed, damaged = write_frames(video, unfinished, chosen if settings.frames else None, settings)
            if decoded == 0 or failed and decoded < 0.9 * packets:
                raise BrokenVideo(f"{decoded} of its {packets} frames can be decoded")
            if decoded == len(times) or not settings.frames:
                repeat_frames(unfinished, len(chosen), settings.frames)
                os.rename(unfinished, folder)
                damaged += failed
                return (len(set(chosen)) if settings.frames else decoded,
                        f"at least {damaged} of its {packets} frames are damaged" if damaged else None)
            shutil.rmtree(unfinished)       # not every packet was a frame: choose again
            times = np.interp(np.linspace(0, 1, decoded), np.linspace(0, 1, len(times)), times)
        raise BrokenVideo("it changes while it is read")
    except av.FFmpegError as error:
        raise BrokenVideo(error.strerror or str(error)) from error
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder, error, "nothing half is left: make room and run the same command again") from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


# ---- all clips ----------------------------------------------------------------------------------------------------

def find_videos(source, like, folders=None):
    """(all videos below a folder, sorted; what was passed over, in words). ValueError if there is no video.

    Links are followed, but not in a circle. Hidden files and folders are passed over (macOS leaves ._v_x.avi).
    like: the tree that was expected, for the message. folders: the only folders of `source` that are read.
    """
    videos, hidden, others, unread, dead = [], 0, Counter(), [], []

    def read(folder, above):
        nonlocal hidden
        try:
            with os.scandir(folder) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if folder == source:
                raise
            unread.append(f"{_display(folder, source)} ({error.strerror})")
            return
        for entry in entries:
            ending = Path(entry.name).suffix.lower()
            link = entry.is_symlink()
            if entry.name.startswith("."):
                hidden += 1
            elif os.path.isdir(entry.path) if link else entry.is_dir():
                real = os.path.realpath(entry.path)
                if folder == source and folders and entry.name not in folders:
                    unread.append(_display(entry.path, source))
                elif real in above:
                    unread.append(f"{_display(entry.path, source)} (a link to a folder that it lies in)")
                else:
                    read(entry.path, above | {real})
            elif ending in VIDEOS:
                videos.append(Path(entry.path))
            elif link and not os.path.exists(entry.path):
                dead.append(_display(entry.path, source))
            else:
                others[ending if ending.isprintable() else ascii(ending)] += 1

    source = os.fspath(source)
    read(source, {os.path.realpath(source)})
    passed = "; ".join(filter(None, [other_files(others), f"{hidden} hidden" if hidden else "",
                                     f"folders not read: {some(unread)}" if unread else "",
                                     f"links that lead nowhere: {some(dead)}" if dead else ""]))
    if not videos:
        raise ValueError(f"no video below {source}{f' (passed over: {passed})' if passed else ''}: unpack the archives "
                         f"there so that it holds {like}, or name another folder with --source; videos end in "
                         f"{', '.join(VIDEOS)}")
    return sorted(videos), passed


def _display(path, source):
    """A path below `source` as a list or a message names it, in one line."""
    name = os.path.relpath(path, source)
    return name if name.isprintable() else ascii(name)


def extract_all(jobs, root, settings, source, num_workers=0, enough=0, like="another tree", passed=""):
    """Makes the clips that are not there yet, in parallel, and lists the rest. Returns {"<images>/<name>": number of
    frames} of all clips that are there now, and prints the RESULT line.

    jobs: (video, images, name) for the clip <root>/<images>/<name>; no name: the video is not where it should be. Of
    several videos in one folder for one clip, the first that can be read is used. Clips of fewer than `enough` frames
    are listed in <root>/short_videos.txt as they are made, those of damaged videos in damaged_videos.txt, videos that
    gave none in broken_videos.txt, a line each: the video below `source`, a tab and why. num_workers: processes; 0: one
    a core. like: the tree that was expected, for what lies elsewhere. passed: what find_videos passed over.
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
        remove(*unfinished(root))
        videos, broken = _sort_out(jobs, like, _ignores_case(root))
        for images in sorted({Path(clip).parent for clip in videos}):
            _check_settings(root / images, settings)
            for stale in (root / images).glob(f"{UNFINISHED}*"):    # of a run that was killed: we hold the lock
                shutil.rmtree(stale)
        frames = {clip: count for clip in videos if (count := _num_frames(root / clip))}
        # of the videos of a clip that is there nobody knows any more which were broken: what the list says stays
        known = {video for clip in frames if len(videos[clip]) > 1 for video in videos[clip]}
        present, missing = len(frames), [(videos[clip], clip) for clip in videos if clip not in frames]
        old = [clip for clip in frames if max(map(os.path.getmtime, videos[clip])) > os.path.getmtime(root / clip)]
        if old:
            print(f"note: {len(old)} clips in {root} are older than their videos, first {old[0]}, and stay as they "
                  "are: remove their folders, and the same command makes them anew", file=sys.stderr)
        told = {"short": [], "damaged": []}
        with closing(_in_parallel(missing, root, settings, num_workers or os.cpu_count())) as results:
            for clip, video, count, damage, why in results:
                for other, reason in why.items():
                    broken[other] = reason + (f"; {video.name} is used in its place" if video else "")
                if video:
                    frames[clip] = count
                    # told at once: the clip does not show it
                    for kind, line in (("short", count < enough and f"{count} frames, {enough} wanted"),
                                       ("damaged", damage)):
                        if line:
                            _update_list(root / f"{kind}_videos.txt", {video: line}, [video], source)
                        else:
                            told[kind].append(video)
        _update_list(root / "broken_videos.txt", broken, {video for video, _, _ in jobs} - known, source)
        num_short, num_damaged = (_update_list(root / f"{kind}_videos.txt", {}, mended, source)
                                  for kind, mended in told.items())
    several = [" and ".join(_display(video, source) for video in copies) for copies in videos.values()
               if len(copies) > 1]
    if several:
        passed += f"{'; ' if passed else ''}all but the first readable one of {some(several)}"
    if passed:
        print(f"passed over: {passed}", file=sys.stderr)
    if not frames:
        raise ValueError(f"none of {len(jobs)} videos gave a clip; {root / 'broken_videos.txt'} says why, first: "
                         f"{next(iter(broken.values()))}")
    result = {"made": len(frames) - present, "present": present, "short": num_short, "broken": len(broken),
              "seconds": round(time.time() - began, 1)}
    print(f"{root}: {result['made']} clips made, {present} were there, {num_short} of them short (short_videos.txt), "
          f"{num_damaged} of damaged videos (damaged_videos.txt), {len(broken)} videos without a clip "
          "(broken_videos.txt)", file=sys.stderr)
    print("RESULT " + json.dumps(result), flush=True)
    return frames


def _ignores_case(folder):
    """Whether names that differ only by case (or Unicode form) are one on the file system of a folder that holds
    .extract.lock, as on most of macOS and Windows."""
    return (folder / ".EXTRACT.LOCK").exists()


def _sort_out(jobs, like, ignores_case=False):
    """{clip: its videos} of the jobs that can be done and {video: why} of the others."""
    videos, broken, clips = {}, {}, {}
    for video, images, name in jobs:
        clip = f"{images}/{name}"
        folder = unicodedata.normalize("NFC", clip).casefold() if ignores_case else clip
        there = clips.get(folder)
        if not name:
            broken[video] = f"its place and name do not say which clip it is; expected is {like}"
        elif name == ".." or Path(name).name != name or not name.isprintable() or name.startswith(UNFINISHED):
            broken[video] = f"{name!a} cannot be the name of a folder in {images}"
        elif len(os.fsencode(name)) > 255:
            broken[video] = f"its clip's name would have {len(os.fsencode(name))} bytes, and 255 are allowed: rename it"
        elif there == clip and videos[clip][0].parent == video.parent:
            videos[clip].append(video)      # 1.mp4 beside 1.webm
        elif there:
            why = "" if there == clip else ", because this file system takes upper and lower case for one"
            broken[video] = f"{videos[there][0]} is to become the same clip{why}: rename one of them"
        else:
            videos[clip] = [video]
            clips[folder] = clip
    return videos, broken


def _check_settings(folder, settings):
    """Raises ValueError if the clips in a folder were made with other settings; notes the settings of a new one."""
    file, asked = folder.with_name(f"settings_{folder.name}.json"), asdict(settings)
    way_out = "move them away, or write to another folder"
    if file.is_file():
        try:
            there = dict(json.loads(file.read_text(encoding="utf-8")))
            if not is_whole(there):
                raise ValueError("it is not what was written")
            there = {"seconds": 0, **there}     # older files say nothing of it
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({error}), and it says how the clips beside it were made: "
                             f"{way_out}") from error
        other = [f"{key} {there.get(key)} there, {value} asked" for key, value in asked.items()
                 if there.get(key) != value]
        if other:
            stride = f" with --stride {there.get('stride')}" if asked["seconds"] and not there["seconds"] else ""
            raise ValueError(f"the clips in {folder} were made with other settings ({'; '.join(other)}): ask for the "
                             f"same{stride}, {way_out}")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds clips that were not made here ({file.name} is missing): {way_out}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(with_sum(asked), indent=1) + "\n", encoding="utf-8")


def _num_frames(folder):
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0


def _in_parallel(missing, root, settings, workers):
    """Makes clips in processes, and yields (clip, its video or None, number of frames, damage, {video: why not}) in the
    order they are done. missing: (videos, clip)."""
    todo, running = iter(missing), {}
    # forked: a new interpreter in each process would import the script, and torch with it
    with ProcessPoolExecutor(workers, get_context("fork"), _start_worker) as pool:
        try:
            for job in islice(todo, 2 * workers):
                running[pool.submit(_work, job[0], root / job[1], settings)] = job
            with progress(total=len(missing), desc=f"clips of {root.name}", unit="clip") as bar:
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running[future][1], *future.result()
                        del running[future]
                        bar.update()
                        for job in islice(todo, 1):
                            running[pool.submit(_work, job[0], root / job[1], settings)] = job
        except BrokenProcessPool as error:
            names = sorted(str(video) for videos, _ in running.values() for video in videos)
            raise ValueError("a decoding process died, out of memory or of a damaged video, at one of "
                             f"{', '.join(names)}: run the same command again with fewer --num_workers, or move that "
                             "video away") from error
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("Clips that are done stay: the same command goes on") from stop
        finally:
            pool.shutdown(cancel_futures=True)      # those under way are finished


def _start_worker():
    for number in STOPS:        # such as Ctrl-C reach all processes; the parent stops the work
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)

    def end_with_parent():      # or a worker whose parent was killed would wait for work for ever
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(videos, folder, settings):
    """Makes a clip of the first of its videos that can be read: (the video or None, number of frames, damage, {video:
    why not})."""
    broken = {}
    for video in videos:
        try:
            return video, *extract_clip(video, folder, settings), broken
        except BrokenVideo as error:
            broken[video] = str(error)
        except OSError:     # a full disk, no right to write: the next video would meet it too
            raise
        except Exception as error:      # whatever one odd video makes a library raise
            broken[video] = f"{type(error).__name__}: {error}".splitlines()[0]
    return None, 0, None, broken


def _update_list(file, lines, videos, source):
    """Rewrites a list {video: why}; what it says of videos that this run was not about stays. Returns its length."""
    current = {_display(video, source) for video in videos}
    earlier = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    earlier = [line for line in earlier if line.partition("\t")[0] not in current]
    with replacing(file) as temporary:
        new = [f"{_display(video, source)}\t{why}" for video, why in lines.items()]
        temporary.write_text("".join(f"{line}\n" for line in sorted(earlier + new)), encoding="utf-8")
    return len(earlier + new)


def extract_table(description, name, like, stretch):
    """The whole of a script for a data set of the table whose videos are named as its clips, at any depth."""
    spec = DATASETS[name]
    args = extract_parser(description, spec.size, spec.frames if spec.sampled else 0).parse_args()
    frames = args.frames or (spec.frames if spec.sampled else 0)
    settings = Settings(frames, "spread", 1, args.im_size, args.quality, stretch)
    videos, passed = find_videos(args.source, like)
    jobs = [(video, spec.images[0], video.stem) for video in videos]
    extract_all(jobs, Path(args.data_path) / spec.folder, settings, args.source, args.num_workers,
                enough=frames or spec.frames, like=like, passed=passed)


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
