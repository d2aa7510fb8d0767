"""Extraction from real encoded videos: which frames, their order and content, and runs that are disturbed."""
import csv
import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from distill_utils import extract
from distill_utils.dataset import FrameFolder, clip_positions, get_spec, grid_frames
from distill_utils.extract import (
    VIDEOS,
    BrokenVideo,
    Settings,
    choose_frames,
    choose_times,
    extract_all,
    extract_clip,
    find_videos,
    scaled_size,
)
from distill_utils.files import try_lock
from test_files import fork, hang, wait_for

EVERY = Settings(frames=0, choose="spread", stride=1, im_size=56, quality=95, stretch=True)
VPX = {"cpu-used": "8", "deadline": "realtime", "b": "4000000", "qmax": "10"}
CODECS = {".mp4": ("libx264", {"bf": "3"}), ".mov": ("libx264", {"bf": "0"}), ".webm": ("libvpx-vp9", VPX),
          ".avi": ("mpeg4", {"bf": "2", "b": "4000000"}), ".mkv": ("libvpx", VPX)}
OTHERS = {".mpg": ("mpeg2video", {"bf": "2", "b": "4000000"}), ".wmv": ("wmv2", {"b": "4000000"}),
          ".flv": ("flv1", {"b": "4000000"}), ".3gp": ("mpeg4", {"b": "4000000"}), ".ts": ("libx264", {"bf": "3"}),
          ".mxf": ("mpeg2video", {"bf": "0", "b": "4000000"}), ".m4v": ("mpeg4", {"b": "4000000"})}


def picture(number, size=(80, 60)):
    """A grey that tells the number (0 to 39) of a frame."""
    return np.full((size[1], size[0], 3), 20 + 5 * number, np.uint8)


def encode(path, pictures, fps=10, times=None, codec=None, pix_fmt=None, aspect=None, view=None, **options):
    """A video of pictures (H, W, 3), shown at times (in 1/fps s). aspect: of a pixel. view: display matrix. Returns its
    path."""
    codec, defaults = (codec, {}) if codec else (CODECS | OTHERS)[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=defaults | options)
        stream.height, stream.width = pictures[0].shape[:2] if len(pictures) else (60, 80)
        stream.pix_fmt = pix_fmt or ("yuv420p" if stream.width % 2 == stream.height % 2 == 0 else "yuv444p")
        stream.codec_context.thread_count = 1
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if view:
            stream.set_display_matrix(view)
        container.start_encoding()
        for i, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = times[i] if times else i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def film(path, frames=40, first=0, **options):
    return encode(path, [picture(first + i) for i in range(frames)], **options)


def images(folder):
    """All frames of a clip, (T, H, W, 3), in the order of their names, which must be those of a clip."""
    names = sorted(os.listdir(folder))
    assert names == [f"frame{i + 1:06d}.jpg" for i in range(len(names))]
    frames = []
    for name in names:
        with Image.open(folder / name) as image:
            frames.append(np.asarray(image))
    return np.stack(frames)


def numbers(folder):
    """The numbers that the frames of a clip tell."""
    shown = (images(folder).astype(float) - 20) / 5
    assert np.abs(shown - np.rint(shown.mean((1, 2, 3), keepdims=True))).max() < 0.5     # flat, and no number between
    return np.rint(shown.mean((1, 2, 3))).astype(int).tolist()


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*"))
            if file.is_file() and file.name != ".extract.lock"}


def result(done):
    return json.loads(done.splitlines()[-1].removeprefix("RESULT "))


# ---- which frames -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_the_middle_against_brute_force(length, stride):
    for n in range(1, 150):
        chosen = choose_frames(n, length, "middle", stride).tolist()
        if n <= length:
            assert chosen == list(range(n))
            continue
        runs = [list(range(start, start + (length - 1) * step + 1, step)) for step in range(1, stride + 1)
                for start in range(n - (length - 1) * step)]
        widest = max(run[-1] - run[0] for run in runs)
        runs = [run for run in runs if run[-1] - run[0] == widest and len(run) == length]
        assert chosen == min(runs, key=lambda run: (abs(run[0] + run[-1] - (n - 1)), run[0]))
        grid = grid_frames(n, length, stride)
        assert chosen == grid[clip_positions([len(grid)], length)[0]].tolist()      # the test clip of whole videos


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
def test_even_spread_against_brute_force(length):
    for n in range(1, 150):
        chosen = choose_frames(n, length, "spread").tolist()
        parts = [[t for t in range(2 * n) if i * 2 * n <= t * length < (i + 1) * 2 * n] for i in range(length)]
        if n < length:
            assert chosen == list(range(n))
        else:
            assert chosen == [math.floor(Fraction(2 * i + 1, 2) * n / length) for i in range(length)]
            assert all(t * 2 in part or t * 2 + 1 in part for t, part in zip(chosen, parts, strict=True))
            gaps = np.diff([-1 - chosen[0], *chosen, 2 * n - 1 - chosen[-1]])       # mirrored at both ends
            assert max(gaps) - min(gaps) <= 2 and len(set(chosen)) == length


@pytest.mark.parametrize("how", ["middle", "spread"])
def test_no_length_means_every_frame(how):
    for n in range(40):
        assert choose_frames(n, 0, how, 4).tolist() == list(range(n))


@pytest.mark.parametrize("shape, size, stretch, wanted", [
    ((320, 240), 112, True, (160, 120)), ((426, 240), 112, True, (160, 120)), ((320, 240), 112, False, (160, 120)),
    ((426, 240), 112, False, (213, 120)), ((240, 426), 112, False, (120, 213)), ((1280, 720), 64, False, (121, 68)),
    ((1, 1), 64, False, (68, 68)), ((3, 1000), 1, False, (1, 333)), ((7, 5), 1, True, (1, 1))])
def test_frames_are_resized_before_the_cut(shape, size, stretch, wanted):
    assert scaled_size(*shape, size, stretch) == wanted


# ---- one clip -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [*CODECS, *OTHERS])
def test_every_frame_in_display_order(tmp_path, kind):
    assert kind in VIDEOS
    video = film(tmp_path / f"a{kind}", fps=25 if kind == ".mpg" or kind == ".mxf" else 10)
    if (CODECS | OTHERS)[kind][1].get("bf", "0") != "0":      # stored in another order, or the test shows nothing
        with av.open(str(video)) as container:
            shown = [packet.pts for packet in container.demux(video=0) if packet.size]
            assert shown != sorted(shown)
    assert extract_clip(video, tmp_path / "clip", EVERY) == (40, None)
    assert numbers(tmp_path / "clip") == list(range(40)) and images(tmp_path / "clip").shape == (40, 56, 56, 3)
    assert sorted(os.listdir(tmp_path)) == [video.name, "clip"]


@pytest.mark.parametrize("kind", [".mp4", ".webm"])
@pytest.mark.parametrize("how, frames, wanted", [
    ("middle", 40, range(4, 36, 4)), ("middle", 24, range(1, 23, 3)), ("middle", 9, range(8)),
    ("middle", 5, [0, 1, 1, 2, 2, 3, 3, 4]), ("spread", 40, range(2, 40, 5)), ("spread", 16, range(1, 16, 2)),
    ("spread", 3, [0, 0, 1, 1, 1, 1, 2, 2])])     # of a video that is too short frames repeat
def test_the_chosen_frames_and_no_others(tmp_path, kind, how, frames, wanted):
    settings = Settings(8, how, 4, 32, 95, stretch=False)
    if how == "middle" and frames == 40:
        wanted = range(5, 34, 4)
    assert extract_clip(film(tmp_path / f"a{kind}", frames), tmp_path / "clip", settings) == (len(set(wanted)), None)
    assert numbers(tmp_path / "clip") == list(wanted)


@pytest.mark.parametrize("seems", [8, 20, 33, 50, 400])
def test_a_header_that_counts_wrongly(tmp_path, monkeypatch, seems):
    monkeypatch.setattr(extract, "scan", lambda video: list(range(seems)))
    video = film(tmp_path / "a.webm", 33)
    assert extract_clip(video, tmp_path / "clip", Settings(4, "spread", 1, 32, 95, True)) == (4, None)
    assert numbers(tmp_path / "clip") == choose_frames(33, 4, "spread").tolist()


@pytest.mark.parametrize("times", [[0, 1, 2, 3, 20, 21, 22, 50, 90, 200]])
@pytest.mark.parametrize("kind", [".mp4", ".webm", ".avi"])
def test_a_variable_frame_rate_neither_repeats_nor_drops(tmp_path, kind, times):
    film(tmp_path / f"a{kind}", len(times), times=times, fps=25)
    assert extract_clip(tmp_path / f"a{kind}", tmp_path / "clip", EVERY) == (len(times), None)
    assert numbers(tmp_path / "clip") == list(range(len(times)))


@pytest.mark.parametrize("kind", CODECS)
def test_one_frame(tmp_path, kind):
    extract_clip(film(tmp_path / f"a{kind}", 1, first=7), tmp_path / "clip", Settings(8, "middle", 8, 32, 95, False))
    assert numbers(tmp_path / "clip") == [7] * 8


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("size", [(161, 121), (33, 17), (17, 301), (1, 1), (320, 240)])
def test_odd_sizes(tmp_path, size, stretch):
    settings = Settings(0, "spread", 1, 45, 95, stretch)
    encode(tmp_path / "a.mp4", [picture(i, size) for i in (3, 9)])
    extract_clip(tmp_path / "a.mp4", tmp_path / "clip", settings)
    assert numbers(tmp_path / "clip") == [3, 9] and images(tmp_path / "clip").shape == (2, 45, 45, 3)


def cross(width, height, x, y):
    """Black, white outside the rectangle of x and y (ranges), with four greys in its corners."""
    image = np.full((height, width, 3), 235, np.uint8)
    image[y, x] = 16
    inner = image[y, x]
    h, w = inner.shape[0] // 2, inner.shape[1] // 2
    inner[:h, w:], inner[h:, w:], inner[h:, :w] = 60, 110, 160
    return image


@pytest.mark.parametrize("shape, stretch, x, y", [
    ((320, 240), True, slice(48, 272), slice(8, 232)), ((320, 240), False, slice(48, 272), slice(8, 232)),
    ((480, 240), True, slice(72, 408), slice(8, 232)), ((480, 240), False, slice(128, 352), slice(8, 232)),
    ((240, 360), False, slice(8, 232), slice(68, 292))])
def test_the_middle_is_cut_out(tmp_path, shape, stretch, x, y):
    encode(tmp_path / "a.mp4", [cross(*shape, x, y)], crf="5")
    extract_clip(tmp_path / "a.mp4", tmp_path / "clip", Settings(0, "spread", 1, 112, 95, stretch))
    frame = images(tmp_path / "clip")[0].mean(-1)
    wanted = np.kron([[16, 60], [160, 110]], np.ones((56, 56)))
    inside = np.ones((112, 112), bool)
    inside[54:58] = inside[:, 54:58] = inside[:1] = inside[-1:] = inside[:, :1] = inside[:, -1:] = False   # edges blur
    assert np.abs(frame - wanted)[inside].max() < 12
    assert frame[0].max() < 200 and frame[:, 0].max() < 200     # no row of the white that was cut off


@pytest.mark.parametrize("turn, matrix", [      # clockwise, as the display matrix of mp4 says it
    (1, (0, 65536, 0, -65536, 0, 0)), (2, (-65536, 0, 0, 0, -65536, 0)), (3, (0, -65536, 0, 65536, 0, 0))])
def test_a_turned_camera(tmp_path, turn, matrix):
    upright = cross(240, 360, slice(8, 232), slice(68, 292))
    encode(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(upright, turn))], crf="5")     # as the sensor saw it
    content = (tmp_path / "a.mp4").read_bytes()
    at = content.index(b"tkhd") + 44
    matrix = b"".join(int(value).to_bytes(4, "big", signed=True) for value in matrix)
    (tmp_path / "a.mp4").write_bytes(content[:at] + matrix + content[at + 24:])
    extract_clip(tmp_path / "a.mp4", tmp_path / "clip", Settings(0, "spread", 1, 112, 95, False))
    frame = images(tmp_path / "clip")[0].mean(-1)
    corners = [frame[20, 20], frame[20, 92], frame[92, 92], frame[92, 20]]
    assert np.abs(np.subtract(corners, [16, 60, 110, 160])).max() < 8 and frame.max() < 200


def test_quality_is_that_of_the_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    encode(tmp_path / "a.mp4", [noise])
    sizes = []
    for quality in (30, 95):
        extract_clip(tmp_path / "a.mp4", tmp_path / f"{quality}", Settings(0, "spread", 1, 56, quality, True))
        sizes.append((tmp_path / f"{quality}" / "frame000001.jpg").stat().st_size)
    assert 2 * sizes[0] < sizes[1]


# ---- videos that give no clip -------------------------------------------------------------------------------------

def cut(video, part):
    video.write_bytes(video.read_bytes()[:int(video.stat().st_size * part)])


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BROKEN = {
    "zero.mp4": (lambda path: encode(path, []), "no video in it"),
    "zero.avi": (lambda path: encode(path, []), "0 of its 0 frames"),
    "zero.webm": (lambda path: encode(path, []), "End of file"),
    "cut.mp4": (lambda path: cut(film(path), 0.4), "Invalid data"),
    "fast.mp4": (lambda path: cut(film(path, movflags="faststart"), 0.4), "Invalid data|it ends after"),
    "cut.avi": (lambda path: cut(film(path), 0.4), "Invalid data"),
    "cut2.avi": (lambda path: cut(film(path), 0.7), r"it ends after [012]\.\d of 4\.0 seconds"),
    "cut.webm": (lambda path: cut(film(path), 0.4), r"it ends after [012]\.\d of 4\.0 seconds"),
    "cut.mkv": (lambda path: cut(film(path), 0.4), r"it ends after [012]\.\d of 4\.0 seconds"),
    "sound.mp4": (sound, "no video in it"),
    "empty.mp4": (lambda path: path.touch(), "Invalid data"),
    "text.avi": (lambda path: path.write_text("not found"), "Invalid data"),
    "gone.mp4": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "list.mp4": (lambda path: path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film(path.with_name('x') / 'a.mp4')}\n#EXT-X-ENDLIST\n"),
        "Invalid data"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_videos_say_why_and_leave_nothing(tmp_path, name):
    make, message = BROKEN[name]
    make(tmp_path / name)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(BrokenVideo, match=message):
        extract_clip(tmp_path / name, tmp_path / "clip", EVERY)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("damaged", [1, 10])
def test_frames_behind_a_damaged_one_are_kept(tmp_path, damaged):
    video = film(tmp_path / "a.mp4", g="1", bf="0")       # each frame by itself
    with av.open(str(video)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(video.read_bytes())
    for position, size in places[20:20 + damaged]:
        content[position:position + size] = bytes(size)
    video.write_bytes(content)
    if damaged > 4:
        with pytest.raises(BrokenVideo, match="30 of its 40 frames can be decoded"):
            extract_clip(video, tmp_path / "clip", EVERY)
    else:
        extract_clip(video, tmp_path / "clip", EVERY)
        assert numbers(tmp_path / "clip") == [i for i in range(40) if i != 20]


# ---- all clips ----------------------------------------------------------------------------------------------------

@pytest.fixture
def videos(tmp_path):
    """Six videos of 20, 21, ... frames; the first frame of the n-th shows n."""
    return [film(tmp_path / "videos" / f"{i}.mp4", 20 + i, first=i) for i in range(6)]


def run(videos, root, settings=EVERY, names=None, **kwargs):
    jobs = [(video, "jpegs", name) for video, name in zip(videos, names or [v.stem for v in videos], strict=True)]
    return extract_all(jobs, root, settings, videos[0].parent, **{"num_workers": 2, "enough": 22, **kwargs})


def test_a_run_makes_all_and_a_second_one_decodes_nothing(tmp_path, videos, capsys):
    assert run(videos, tmp_path / "set") == {f"jpegs/{i}": 20 + i for i in range(6)}
    done = result(capsys.readouterr().out)
    assert done.pop("seconds") > 0 and done == {"made": 6, "present": 0, "short": 2, "broken": 0}
    for i in range(6):
        assert numbers(tmp_path / "set" / "jpegs" / str(i)) == list(range(i, 20 + 2 * i))
    whole = contents(tmp_path / "set")
    assert whole["broken_videos.txt"] == b""
    assert whole["short_videos.txt"] == b"0.mp4\t20 frames, 22 wanted\n1.mp4\t21 frames, 22 wanted\n"
    for video in videos:
        video.write_text("decode me and fail")
    videos.append(film(tmp_path / "videos" / "new.avi", 5))
    assert len(run(videos, tmp_path / "set")) == 7
    done = result(capsys.readouterr().out)
    del done["seconds"]
    assert done == {"made": 1, "present": 6, "short": 3, "broken": 0}
    again = contents(tmp_path / "set")
    assert {name: again[name] for name in whole if name != "short_videos.txt"} == {
        name: content for name, content in whole.items() if name != "short_videos.txt"}
    assert again["short_videos.txt"] == whole["short_videos.txt"] + b"new.avi\t5 frames, 22 wanted\n"


def test_broken_videos_are_listed_until_they_are_mended(tmp_path, videos, capsys):
    cut(videos[3], 0.4)
    videos[4].write_bytes(b"")
    assert sorted(run(videos, tmp_path / "set")) == [f"jpegs/{i}" for i in (0, 1, 2, 5)]
    assert result(capsys.readouterr().out)["broken"] == 2
    broken = tmp_path / "set" / "broken_videos.txt"
    assert broken.read_text() == "".join(f"{i}.mp4\tInvalid data found when processing input\n" for i in (3, 4))
    run(videos[:2], tmp_path / "set")       # not about those
    assert broken.read_text().count("\n") == 2
    film(videos[3], 23)
    run(videos, tmp_path / "set")
    assert broken.read_text() == "4.mp4\tInvalid data found when processing input\n"
    assert numbers(tmp_path / "set" / "jpegs" / "3") == list(range(23))


def test_nothing_but_broken_videos_is_an_error(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.mp4").touch()
    with pytest.raises(ValueError, match="none of 3 videos gave a clip; .*broken_videos.txt says why.*Invalid data"):
        run(sorted(tmp_path.glob("*.mp4")), tmp_path / "set")


@pytest.mark.parametrize("name, why", [(None, "do not say which clip"), ("", "do not say which clip"),
    *((name, "cannot be the name of a folder in jpegs") for name in (
        "..", ".", "../x", "a/b", "/tmp/x", "x/", "a\nb", "a\tb", "bad\udcff", ".unfinished-1", "nul\0")),
    ("0", "0.mp4 is to become the same clip"), ("\u6f22" * 86, "258 bytes, and 255 are allowed")])
def test_names_that_cannot_be_clips_are_refused(tmp_path, videos, name, why):
    run(videos[:2], tmp_path / "set", names=["0", name])
    file, reason = (tmp_path / "set" / "broken_videos.txt").read_text().strip().split("\t")
    assert file == "1.mp4" and why in reason
    assert os.listdir(tmp_path / "set" / "jpegs") == ["0"] and sorted(os.listdir(tmp_path)) == ["set", "videos"]


@pytest.mark.parametrize("change, difference", [
    ({"im_size": 64}, "im_size 56 there, 64 asked"), ({"frames": 8}, "frames 0 there, 8 asked"),
    ({"quality": 90, "stretch": False}, "quality 95 there, 90 asked; stretch True there, False asked")])
def test_clips_of_two_kinds_are_not_mixed(tmp_path, videos, change, difference):
    run(videos[:1], tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match=f"jpegs were made with other settings .{difference}.: ask for the same"):
        run(videos, tmp_path / "set", Settings(**{**vars(EVERY), **change}))
    (tmp_path / "set" / "settings_jpegs.json").unlink()
    with pytest.raises(ValueError, match=r"holds clips that were not made here \(settings_jpegs.json is missing\)"):
        run(videos, tmp_path / "set")
    del before["settings_jpegs.json"]
    assert contents(tmp_path / "set") == before


def test_one_extraction_at_a_time(tmp_path, videos):
    (tmp_path / "set").mkdir()

    def hold():
        lock = try_lock(tmp_path / "set" / ".extract.lock")
        hang(tmp_path / "held") if lock else None

    holder = fork(hold)
    wait_for(tmp_path / "held")
    with pytest.raises(ValueError, match="another extraction is writing to .*set: wait for it"):
        run(videos, tmp_path / "set")
    holder.kill()
    holder.join()
    assert len(run(videos, tmp_path / "set")) == 6


def test_without_pyav(tmp_path, videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="PyAV, which is not installed: pip install av"):
        run(videos, tmp_path / "set")
    assert not (tmp_path / "set").exists()


# ---- disturbed runs -----------------------------------------------------------------------------------------------

def at_frame(monkeypatch, number, action):
    """Does something in the place of the frame that shows `number`, in whichever process decodes it. Only the last
    frame of the last video of `videos` shows 29, its last but one 28 and so on."""
    square = extract.square

    def disturbed(*args):
        image = square(*args)
        return action() if round((image.mean() - 20) / 5) == number else image

    monkeypatch.setattr(extract, "square", disturbed)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_half_way_then_run_again(tmp_path, videos, monkeypatch):
    run(videos, tmp_path / "whole")
    marker = tmp_path / "marker"
    with monkeypatch.context() as patch:
        at_frame(patch, 29, lambda: hang(marker))
        process = multiprocessing.get_context("fork").Process(      # not daemonic: those cannot have workers
            target=run, args=(videos, tmp_path / "set"), kwargs={"num_workers": 1})
        process.start()
        try:
            wait_for(marker)
            (unfinished,) = (tmp_path / "set" / "jpegs").glob(".*")
            assert len(os.listdir(unfinished)) == 24        # half a clip, under a name that does not count
        finally:
            process.kill()
            process.join()
    assert not (tmp_path / "set" / "jpegs" / "5").exists() and process.exitcode == -signal.SIGKILL
    worker, end = int(unfinished.name.rpartition("-")[2]), time.time() + 20
    while alive(worker) and time.time() < end:
        time.sleep(0.05)
    assert not alive(worker)
    present = {clip: os.stat(tmp_path / "set" / "jpegs" / clip).st_mtime_ns for clip in "01234"}
    run(videos, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path / "set" / "jpegs")) == list("012345")
    assert present == {clip: os.stat(tmp_path / "set" / "jpegs" / clip).st_mtime_ns for clip in "01234"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path, videos, monkeypatch, code):
    def full():
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        at_frame(patch, 29, full)
        with pytest.raises(OSError, match="no space left to write .*jpegs/5 .*MB free.*run the same command") as raised:
            run(videos, tmp_path / "set")
    assert raised.value.errno == code
    assert sorted(os.listdir(tmp_path / "set" / "jpegs")) == list("01234")
    assert len(run(videos, tmp_path / "set")) == 6


def test_a_process_that_dies_is_named(tmp_path, videos, monkeypatch):
    with monkeypatch.context() as patch:
        at_frame(patch, 29, lambda: os._exit(9))
        with pytest.raises(ValueError, match=r"a decoding process died.* at one of .*5\.mp4.*fewer --num_workers"):
            run(videos, tmp_path / "set")
    assert len(run(videos, tmp_path / "set")) == 6
    assert sorted(os.listdir(tmp_path / "set" / "jpegs")) == list("012345")


# ---- the scripts --------------------------------------------------------------------------------------------------

ODD = ["a b", "it's", 'say "hi"', "x; touch pwned", "$(touch pwned)", "-rf", "100%d", "a:b", "film é 映", "#1&2|3*?"]


def test_odd_names_and_ctrl_c(tmp_path, run_here, monkeypatch):
    """Own videos with names of all kinds; a first run is stopped by Ctrl-C, the second goes on."""
    source, target = tmp_path / "videos", tmp_path / "out"
    for i, name in enumerate(ODD):
        film(source / f"class {i % 2}" / f"{name}{sorted(CODECS)[i % 5]}", 20 + i)
    slow = encode(source / "slow" / "00.mp4", [picture(0, (320, 240))] * 150, preset="ultrafast").read_bytes()
    for i in range(30):     # time to be stopped in
        (source / "slow" / f"{i:02d}.mp4").write_bytes(slow)
    (source / "slow" / "._00.mp4").write_text("what macOS leaves")
    film(source / "no class.mp4", 1)
    script = ["extract_frames/extract_folder.py", "--source", "videos", "--target", "out", "--num_workers", 1]
    process = subprocess.Popen([sys.executable, ROOT / script[0], *map(str, script[1:])], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               # a shell that runs the tests in the background has them ignore it
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(target / "frames" / "slow_00")
    os.killpg(process.pid, signal.SIGINT)       # as a terminal does: all processes at once
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped. Clips that are done stay" in err and "Traceback" not in err
    before = os.listdir(target / "frames")
    assert 11 <= len(before) < 40 and not any(name.startswith(".") for name in before) and "RESULT" not in out
    assert all(len(os.listdir(target / "frames" / name)) == 150 for name in before if name.startswith("slow"))

    for video in sorted((source / "slow").glob("[0-9]*.mp4"))[5:]:
        if f"slow_{video.stem}" not in before:
            film(video, 17)     # no need to wait for those
    monkeypatch.chdir(tmp_path)
    done = result(run_here(*script).out)
    assert (done["made"], done["present"], done["broken"]) == (40 - len(before), len(before), 1)
    for i, name in enumerate(ODD):
        assert numbers(target / "frames" / f"class {i % 2}_{name}") == list(range(20 + i))
    assert not list(tmp_path.rglob("pwned"))
    assert (target / "broken_videos.txt").read_text().startswith("no class.mp4\tits place and name do not say")
    with open(target / "split.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["folder_name"] for row in rows} == set(os.listdir(target / "frames"))
    assert all(row["folder_name"].startswith(row["label"] + "_") for row in rows)
    tests = [row["label"] for row in rows if row["split"] == "test"]
    assert {label: tests.count(label) for label in tests} == {"class 0": 1, "class 1": 1, "slow": 6}


@pytest.fixture
def script(run_here):
    """Runs a script of extract_frames/: script(name, source, data path, flag, ...) -> its result."""
    def call(name, source, path, *flags):
        return result(run_here(f"extract_frames/{name}", "--source", source, "--data_path", path, "--num_workers", 1,
                               *flags).out)
    return call


def clips(root):
    return sorted(str(file.parent.relative_to(root)) for file in root.rglob("frame000001.jpg"))


def test_ucf101_as_its_archive_unpacks(tmp_path, script):
    for label in ("YoYo", "HandStandPushups"):
        film(tmp_path / "UCF-101" / label / f"v_{label}_g01_c01.avi", 20)
    done = script("extract_ucf101.py", tmp_path / "UCF-101", tmp_path)
    assert done["made"] == 2 and done["short"] == done["broken"] == 0
    assert clips(tmp_path) == ["UCF101/jpegs_112/v_HandStandPushups_g01_c01", "UCF101/jpegs_112/v_YoYo_g01_c01"]
    assert images(tmp_path / clips(tmp_path)[0]).shape == (20, 112, 112, 3)
    assert numbers(tmp_path / clips(tmp_path)[0]) == list(range(20))


def test_hmdb51_with_its_names(tmp_path, script):
    name = "#437_How_To_Ride_A_Bike_(x)_[y];_ride_bike_f_cm_np1_ri_med_1"
    film(tmp_path / "hmdb51_org" / "ride_bike" / f"{name}.avi", 9)
    done = script("extract_hmdb51.py", tmp_path / "hmdb51_org", tmp_path, "--im_size", 64, "--quality", 80)
    assert done["made"] == done["short"] == 1
    assert (tmp_path / "HMDB51" / "short_videos.txt").read_text() == f"ride_bike/{name}.avi\t9 frames, 16 wanted\n"
    assert clips(tmp_path) == [f"HMDB51/jpegs_112/{name}"] and images(tmp_path / clips(tmp_path)[0]).shape[1] == 64


@pytest.mark.parametrize("dataset, folder, frames, wanted", [
    ("Kinetics400", "Kinetics", 8, range(2, 38, 5)), ("Kinetics400_long", "Kinetics_long", 16, range(4, 36, 2))])
def test_kinetics_around_the_middle(tmp_path, script, dataset, folder, frames, wanted):
    source = tmp_path / "k400"
    film(source / "train" / "playing cards" / "-_0aB3dEfGh_000010_000020.mp4")
    film(source / "train" / "_1_2_3_4_5__7_17.mp4", 3)      # flat, seconds as other downloaders write them
    film(source / "val" / "abcdefghijk_000000_000010.mkv")
    film(source / "train" / "no clip.mp4")
    film(source / "replacement" / "replacement_for_corrupted_k400" / "AbCdEfGhIjK_000100_000110.mp4")
    done = script("extract_k400.py", source, tmp_path, "--dataset", dataset)
    assert {key: done[key] for key in ("made", "short", "broken")} == {"made": 4, "short": 1, "broken": 1}
    long = ["replacement/AbCdEfGhIjK_000100_000110", "train/-_0aB3dEfGh_000010_000020", "val/abcdefghijk_000000_000010"]
    assert clips(tmp_path / folder) == sorted([*long, "train/_1_2_3_4_5__000007_000017"])
    for clip in long:
        assert numbers(tmp_path / folder / clip) == list(wanted)
    short = numbers(tmp_path / folder / "train" / "_1_2_3_4_5__000007_000017")
    assert len(short) == frames and short == sorted(short) and set(short) == {0, 1, 2}
    assert images(tmp_path / folder / long[0]).shape[1] == {8: 64, 16: 112}[frames]
    assert (tmp_path / folder / "broken_videos.txt").read_text().startswith("train/no clip.mp4\tits place and name")
    spec = replace(get_spec(dataset), images=("train",))        # a short video is read like any other
    rows = [(clip.split("/")[1], 0, "train") for clip in clips(tmp_path / folder) if clip.startswith("train")]
    read = FrameFolder(spec, tmp_path, "train", rows=rows)
    assert sorted(read.names) == sorted(name for name, *_ in rows) and set(read.counts) == {frames}
    again = script("extract_k400.py", source, tmp_path, "--dataset", dataset)
    assert {key: again[key] for key in ("made", "present", "short")} == {"made": 0, "present": 4, "short": 1}


def test_ssv2_straight_from_webm(tmp_path, script):
    for number in (7, 220847):
        film(tmp_path / "20bn-something-something-v2" / f"{number}.webm", 40)
    assert script("extract_sthsth.py", tmp_path / "20bn-something-something-v2", tmp_path)["made"] == 2
    assert clips(tmp_path) == ["SSv2/frame/220847", "SSv2/frame/7"]
    for clip in clips(tmp_path):
        assert numbers(tmp_path / clip) == list(range(2, 40, 5)) and images(tmp_path / clip).shape[1] == 64


@pytest.mark.parametrize("name, message", [
    ("extract_ucf101", "no video below .*unpack the archives there so that it holds <Class>/v_<Class>_g01_c01.avi"),
    ("extract_k400", "holds none of the folders train, val, test, replacement, but .'other'.*--source")])
def test_a_wrong_source(tmp_path, monkeypatch, name, message):
    (tmp_path / "other").mkdir()
    monkeypatch.syspath_prepend(ROOT / "extract_frames")
    monkeypatch.setattr(sys, "argv", [name, "--source", str(tmp_path), "--data_path", str(tmp_path / "data")])
    with pytest.raises(ValueError, match=message):
        __import__(name).main()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_that_say_the_split(tmp_path, monkeypatch, capsys, test):
    monkeypatch.syspath_prepend(ROOT / "extract_frames")
    for split, label, first in (("train", "up", 0), ("train", "down", 1), (test, "up", 2), (test, "down", 3)):
        film(tmp_path / "videos" / split / label / "0.mp4", 3, first)      # one name in both
    monkeypatch.setattr(sys, "argv", ["extract_folder", "--source", str(tmp_path / "videos"), "--target",
                                      str(tmp_path / "out"), "--num_workers", "1"])
    main = __import__("extract_folder").main
    main()
    assert (tmp_path / "out" / "split.csv").read_text().splitlines() == [
        "folder_name,label,split", *sorted([f"{test}_down_0,down,test", f"{test}_up_0,up,test",
                                            "train_down_0,down,train", "train_up_0,up,train"])]
    mine = f"folder_name,label,split\ntrain_up_0,up,train\n{test}_up_0,up,test\n"
    (tmp_path / "out" / "split.csv").write_text(mine)
    main()
    assert (tmp_path / "out" / "split.csv").read_text() == mine
    assert "2 clips are not in" in capsys.readouterr().err      # of videos that came later, or were mended


def test_whatever_one_odd_video_raises_is_its_own_fault(tmp_path, videos, monkeypatch):
    real = extract.scan

    def odd(video):
        if video.stem == "1":
            raise ZeroDivisionError("division\nby zero")
        return real(video)

    monkeypatch.setattr(extract, "scan", odd)
    assert len(run(videos[:3], tmp_path / "set", num_workers=1)) == 2
    assert (tmp_path / "set" / "broken_videos.txt").read_text() == "1.mp4\tZeroDivisionError: division\n"
