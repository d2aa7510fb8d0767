"""Extraction from real encoded videos: which frames, their order and content, and runs that are disturbed."""
import errno
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
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
from distill_utils.args import STOPS
from distill_utils.dataset import clip_positions, grid_frames
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


@pytest.mark.parametrize("length", [1, 2, 8, 16])
@pytest.mark.parametrize("seconds", [0.5, 2, 100])
def test_moments_against_brute_force(length, seconds):
    for n, fps in [(1, 25), (7, 3), (40, 10), (100, 24), (300, 30), (601, 60)]:
        begins = [Fraction(5) + Fraction(i, fps) for i in range(n)]      # of a video that begins at 5 s
        lasts = min(Fraction(seconds), Fraction(n, fps)) if n > 1 else 0
        wanted = []
        for i in range(length):
            moment = (begins[0] + begins[-1] + (Fraction(1, fps) if n > 1 else 0)) / 2 - lasts / 2
            moment += lasts * Fraction(2 * i + 1, 2 * length)
            wanted.append(max(k for k in range(n) if begins[k] <= moment + Fraction(1, 1000)))
        assert choose_times([float(t) for t in begins], length, seconds).tolist() == wanted
        rounded = [math.floor(float(t) * 1000 + 0.5) / 1000 for t in begins]        # as Matroska writes them
        assert np.abs(choose_times(rounded, length, seconds) - wanted).max() <= 1


def test_moments_of_a_video_that_stands_still():
    times = [0, 1, 2, 3, 3.1, 3.2, 3.3, 7]       # 8 moments of 8 s, half a second in
    assert choose_times(times, 8, 100).tolist() == [0, 1, 2, 6, 6, 6, 6, 7]
    assert choose_times([], 8, 2).tolist() == []


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


@pytest.mark.parametrize("kind", [".mp4", ".mkv"])
@pytest.mark.parametrize("a, b, c, d", [      # a pixel is shown at (a x + c y, b x + d y)
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),         # turned
    (-1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 0, -1), (0, -1, -1, 0),         # mirrored, and turned then
    (0.996, 0.087, -0.087, 0.996)])                                     # 5 degrees
def test_turned_and_mirrored_cameras(tmp_path, kind, a, b, c, d):
    stored = cross(240, 360, slice(8, 232), slice(68, 292))
    view = [round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0, 16384)]
    encode(tmp_path / f"a{kind}", [stored], codec="libx264", crf="5", view=view)
    extract_clip(tmp_path / f"a{kind}", tmp_path / "clip", Settings(0, "spread", 1, 112, 95, False))
    frame = images(tmp_path / "clip")[0].mean(-1)
    for (x, y), grey in {(-1, -1): 16, (1, -1): 60, (1, 1): 110, (-1, 1): 160}.items():
        column, row = round(a * x + c * y), round(b * x + d * y)
        assert abs(frame[56 + 36 * row, 56 + 36 * column] - grey) < 8
    assert frame.max() < 200


@pytest.mark.parametrize("kind, view, stretch", [
    *((kind, None, False) for kind in (".mp4", ".mkv", ".avi", ".ts", ".wmv")), (".mp4", None, True),
    *((kind, (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), False) for kind in (".mp4", ".mkv"))])
def test_pixels_that_are_no_squares(tmp_path, kind, view, stretch):
    stored = cross(160, 240, slice(24, 136), slice(8, 232))       # shown as 320x240
    codec = "libx264" if kind == ".mkv" else None       # VP8 says nothing of its pixels
    encode(tmp_path / f"a{kind}", [stored], codec=codec, aspect=Fraction(2), view=view)
    extract_clip(tmp_path / f"a{kind}", tmp_path / "clip", Settings(0, "spread", 1, 112, 95, stretch))
    frame = images(tmp_path / "clip")[0].mean(-1)
    assert frame[1:-1, 1:-1].max() < 200     # none of the white that was cut off
    greys = [frame[20, 20], frame[20, 92], frame[92, 92], frame[92, 20]]
    assert np.abs(np.subtract(greys, [160, 16, 60, 110] if view else [16, 60, 110, 160])).max() < 12
    assert abs(frame[20, 50] - greys[0]) < 12 and abs(frame[20, 62] - greys[1]) < 12     # the cross is in the middle


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray16le", "yuv420p10le", "yuv444p16le", "bgr0"])
def test_grey_and_deep_pixels(tmp_path, pix_fmt):
    encode(tmp_path / "a.mkv", [picture(i) for i in (0, 7, 39)], codec="ffv1", pix_fmt=pix_fmt, strict="-2")
    extract_clip(tmp_path / "a.mkv", tmp_path / "clip", EVERY)
    assert numbers(tmp_path / "clip") == [0, 7, 39]


@pytest.mark.parametrize("kind", [*CODECS, *OTHERS])
def test_a_video_that_does_not_begin_at_zero(tmp_path, kind):
    film(tmp_path / f"a{kind}", 20, times=range(125, 145), fps=25)
    extract_clip(tmp_path / f"a{kind}", tmp_path / "clip", EVERY)
    assert numbers(tmp_path / "clip") == list(range(20))


def test_a_video_that_was_trimmed_by_its_edit_list(tmp_path):
    """As phones trim: the file holds 40 frames, the list says which are shown."""
    video = film(tmp_path / "a.mp4", g="10")
    content = bytearray(video.read_bytes())
    at = content.index(b"elst") + 12
    begin = int.from_bytes(content[at + 4:at + 8], "big")
    with av.open(str(video)) as container:
        begin += int(2.2 / container.streams.video[0].time_base)
    content[at:at + 8] = (1000).to_bytes(4, "big") + begin.to_bytes(4, "big")     # 1 s from 2.2 s on
    video.write_bytes(content)
    extract_clip(video, tmp_path / "clip", EVERY)
    assert numbers(tmp_path / "clip") == list(range(22, 32))


def test_a_stream_without_times(tmp_path):
    """Bare H.264, as some cameras write it: its frame rate tells the times."""
    film(tmp_path / "a.ts", fps=25)
    with av.open(str(tmp_path / "a.ts")) as container:
        content = b"".join(bytes(packet) for packet in container.demux(video=0))
    (tmp_path / "a.m4v").write_bytes(content)
    with av.open(str(tmp_path / "a.m4v")) as container:
        assert any(packet.pts is None for packet in container.demux(video=0) if packet.size)
    settings = replace(EVERY, frames=4, choose="middle", seconds=0.8)
    assert extract_clip(tmp_path / "a.m4v", tmp_path / "clip", settings) == (4, None)
    assert numbers(tmp_path / "clip") == [12, 17, 22, 27]      # 0.4 s to 1.2 s of 1.6 s


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


def song(path, codec="mjpeg", cover=av.stream.Disposition.attached_pic):
    """A song and its cover."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codec, rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 80, 60, "yuvj420p"
        pictures.disposition = cover
        music = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.VideoFrame.from_ndarray(picture(3), "rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux([*pictures.encode(frame), *pictures.encode()])
        for i in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts, frame.time_base = 48000, 1024 * i, Fraction(1, 48000)
            container.mux(music.encode(frame))
        container.mux(music.encode())


def rename_codec(path, tag, other):
    film(path)
    path.write_bytes(path.read_bytes().replace(tag, other))


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
    "song.mp4": (song, "no video in it"),
    "late.mkv": (lambda path: cut(film(path, times=range(99, 139)), 0.4), r"it ends after 1[01]\.\d of 13\.9 seconds"),
    "codec.mp4": (lambda path: rename_codec(path, b"avc1", b"zz99"), "no decoder for its codec zz99$"),
    "codec.avi": (lambda path: rename_codec(path, b"FMP4", b"zz99"), "no decoder for its codec zz99$"),
    "codec.mkv": (lambda path: rename_codec(path, b"V_VP8", b"V_QQQ"), "no decoder for its codec$"),
    "device.mp4": (lambda path: path.symlink_to(os.devnull), "it is not a file"),
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


def test_a_cover_is_not_taken_for_the_video(tmp_path):
    song(tmp_path / "a.mp4", cover=av.stream.Disposition.default)       # what else is one picture is a video of one
    assert extract_clip(tmp_path / "a.mp4", tmp_path / "clip", EVERY) == (1, None)


def test_a_video_that_never_has_as_many_frames_as_before(tmp_path, monkeypatch):
    counts = iter(range(50, 60))
    monkeypatch.setattr(extract, "write_frames", lambda *args: (next(counts), 0, 0))
    with pytest.raises(BrokenVideo, match="it changes while it is read"):
        extract_clip(film(tmp_path / "a.mp4"), tmp_path / "clip", Settings(4, "spread", 1, 32, 95, True))


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
        damage = extract_clip(video, tmp_path / "clip", EVERY)[1]
        assert damage == "at least 1 of its 40 frames are damaged"
        assert numbers(tmp_path / "clip") == [i for i in range(40) if i != 20]


def test_damage_that_the_decoder_conceals_is_listed_until_it_is_mended(tmp_path, capsys):
    rng = np.random.default_rng(0)
    video = encode(tmp_path / "videos" / "a.avi", [rng.integers(0, 256, (60, 80, 3), np.uint8) for _ in range(40)],
                   g="10", bf="0")
    whole = video.read_bytes()
    with av.open(str(video)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.is_keyframe][2]
    content = bytearray(whole)
    content[place + size // 2:place + size] = rng.bytes(size - size // 2)
    video.write_bytes(content)
    run([video], tmp_path / "set")
    assert len(images(tmp_path / "set" / "jpegs" / "a")) == 40 and "1 of damaged videos" in capsys.readouterr().err
    line = "a.avi\tat least 1 of its 40 frames are damaged\n"
    assert (tmp_path / "set" / "damaged_videos.txt").read_text() == line
    run([video], tmp_path / "set")      # nothing made: the clip is still that of a damaged video
    assert (tmp_path / "set" / "damaged_videos.txt").read_text() == line
    video.write_bytes(whole)
    shutil.rmtree(tmp_path / "set" / "jpegs" / "a")
    run([video], tmp_path / "set")
    assert (tmp_path / "set" / "damaged_videos.txt").read_text() == ""


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
    ("\u6f22" * 86, "258 bytes, and 255 are allowed")])
def test_names_that_cannot_be_clips_are_refused(tmp_path, videos, name, why):
    run(videos[:2], tmp_path / "set", names=["0", name])
    file, reason = (tmp_path / "set" / "broken_videos.txt").read_text().strip().split("\t")
    assert file == "1.mp4" and why in reason
    assert os.listdir(tmp_path / "set" / "jpegs") == ["0"] and sorted(os.listdir(tmp_path)) == ["set", "videos"]


def test_videos_of_one_clip_in_two_places_are_named(tmp_path, videos):
    other = film(tmp_path / "videos" / "b" / "0.mp4", 5)
    assert run([videos[0], other], tmp_path / "set") == {"jpegs/0": 20}
    name, why = (tmp_path / "set" / "broken_videos.txt").read_text().split("\t")
    assert name == "b/0.mp4" and "videos/0.mp4 is to become the same clip: rename one" in why


def test_names_that_the_file_system_takes_for_one(tmp_path, videos, monkeypatch):
    names = ["Clip", "clip", "caf\u00e9", "cafe\u0301"]
    assert len(run(videos[:4], tmp_path / "linux", names=names)) == 4
    monkeypatch.setattr(extract, "_ignores_case", lambda folder: (folder / ".extract.lock").exists())
    assert sorted(run(videos[:4], tmp_path / "mac", names=names)) == ["jpegs/Clip", "jpegs/caf\u00e9"]
    lines = (tmp_path / "mac" / "broken_videos.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1.mp4", "3.mp4"]
    assert "0.mp4 is to become the same clip, because this file system takes upper and lower case for one" in lines[0]


def test_of_two_copies_of_a_clip_the_first_that_can_be_read_is_used(tmp_path, videos, capsys):
    good = film(videos[0].with_name("0.webm"), 5)
    broken = videos[1].with_name("1.avi")
    broken.touch()
    jobs = [videos[0], good, broken, videos[1]], tmp_path / "set"
    for _ in range(2):      # of clips that are there the list stays
        assert run(*jobs, names=["0", "0", "1", "1"]) == {"jpegs/0": 20, "jpegs/1": 21}
        assert (tmp_path / "set" / "broken_videos.txt").read_text() == (
            "1.avi\tInvalid data found when processing input; 1.mp4 is used in its place\n")
        assert ("passed over: all but the first readable one of 0.mp4 and 0.webm, 1.avi and 1.mp4"
                in capsys.readouterr().err)
    videos[2].write_bytes(b"")
    with pytest.raises(ValueError, match="none of 2 videos"):
        run([videos[2], broken], tmp_path / "other", names=["2", "2"])
    assert (tmp_path / "other" / "broken_videos.txt").read_text().count("when processing input\n") == 2


# ---- which videos -------------------------------------------------------------------------------------------------

def test_what_is_passed_over_is_said(tmp_path, monkeypatch):
    source = tmp_path / "videos"
    (source / "a" / "b" / "c").mkdir(parents=True)
    for name in ("a/1.MP4", "a/2.m2ts", "a/b/3.Mpeg", "a/gone.avi/x.mp4", "closed/4.mp4", ".trash/5.mp4", "a/.6.mp4",
                 "a/list.txt", "a/b/1.JPG", "a/b/2.jpg", "a/b/README"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    (source / "a" / "7.mp4").symlink_to("nowhere")       # told as a video that gives no clip
    (source / "a" / "class").symlink_to("nowhere")
    (source / "a" / "self").symlink_to("self")
    (source / "a" / "b" / "up").symlink_to(source)
    (source / "linked").symlink_to(source / "a" / "b" / "c")
    (source / "a" / "b" / "c" / "8.ts").touch()
    (source / "a" / "b" / "c" / "round").symlink_to(source / "linked")
    scandir = os.scandir

    def closed(folder):
        if os.path.basename(folder) == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(extract.os, "scandir", closed)
    videos, passed = find_videos(source, "videos")
    names = sorted(str(video.relative_to(source)) for video in videos)
    assert names == sorted(["a/1.MP4", "a/2.m2ts", "a/7.mp4", "a/b/3.Mpeg", "a/b/c/8.ts", "a/gone.avi/x.mp4",
                            "linked/8.ts"])
    circle = "(a link to a folder that it lies in)"
    assert passed == ("4 other files (.jpg 2, without ending 1, .txt 1); 2 hidden; folders not read: "
                      f"a/b/c/round {circle}, a/b/up {circle}, closed (Permission denied), linked/round {circle}; "
                      "links that lead nowhere: a/class, a/self")
    assert find_videos(source / "linked", "videos", ["x"])[1] == "folders not read: round"
    with pytest.raises(ValueError, match=r"no video below .*\(passed over: 1 other files \(.txt 1\)\): unpack"):
        (source / "closed" / "list").mkdir()
        (source / "closed" / "list" / "4.txt").touch()
        find_videos(source / "closed" / "list", "videos")
    with pytest.raises(PermissionError):
        find_videos(source / "closed", "videos")


def test_the_endings_are_those_of_the_document():
    text = (ROOT / "docs" / "data.md").read_text()
    listed = text[text.index("whose name ends in"):text.index("in upper or lower case. Links")]
    assert re.findall(r"\.\w+", listed) == list(VIDEOS)


def test_many_names_are_cut_short(tmp_path):
    for i in range(9):
        (tmp_path / f"a.{i}").touch()
        (tmp_path / f"b{i}").symlink_to("nowhere")
    (tmp_path / "x.avi").touch()
    passed = find_videos(tmp_path, "videos")[1]
    assert passed.startswith("9 other files (.0 1, .1 1, .2 1, .3 1, .4 1 and 4 more); links that lead nowhere: b0, b1")
    assert passed.endswith("b4 and 4 more")


def test_a_run_ends_with_what_was_passed_over(tmp_path, videos, capsys):
    run(videos[:1], tmp_path / "set", passed="3 hidden")
    captured = capsys.readouterr()
    assert "passed over: 3 hidden\n" in captured.err and captured.out.startswith("RESULT ")
    run(videos[:1], tmp_path / "set")
    assert "passed over" not in capsys.readouterr().err


# ---- settings and processes ---------------------------------------------------------------------------------------

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


def test_clips_that_are_older_than_their_videos_are_told(tmp_path, videos, capsys):
    run(videos[:1], tmp_path / "set")
    run(videos[:1], tmp_path / "set")
    assert "older than their videos" not in capsys.readouterr().err
    os.utime(videos[0], (2e9, 2e9))
    run(videos[:1], tmp_path / "set")
    assert "1 clips in " in (said := capsys.readouterr().err) and "remove their folders" in said


def test_clips_from_before_there_were_seconds_go_on(tmp_path, videos):
    run(videos[:1], tmp_path / "set")
    file = tmp_path / "set" / "settings_jpegs.json"
    settings = json.loads(file.read_text())
    assert settings.pop("seconds") == 0
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"settings_jpegs.json cannot be read \(it is not what was written\)"):
        run(videos[:2], tmp_path / "set")
    for damaged in ("{", "[1]"):
        file.write_text(damaged)
        with pytest.raises(ValueError, match="settings_jpegs.json cannot be read"):
            run(videos[:2], tmp_path / "set")
    del settings["sum"]
    file.write_text(json.dumps(settings))
    assert len(run(videos[:2], tmp_path / "set")) == 2
    with pytest.raises(ValueError, match=r"seconds 0 there, 2 asked.: ask for the same with --stride 1, move them"):
        run(videos, tmp_path / "set", replace(EVERY, seconds=2))


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


def test_signals_to_all_processes_are_left_to_the_parent(tmp_path):
    """A worker goes on with its clip; but the pool ends its workers by SIGTERM when one of them died."""
    def look():
        extract._start_worker()
        ignored = [number for number in STOPS if signal.getsignal(number) == signal.SIG_IGN]
        (tmp_path / "seen").write_text(" ".join(signal.Signals(number).name for number in ignored))

    fork(look).join()
    names = {signal.Signals(number).name for number in STOPS}
    assert set((tmp_path / "seen").read_text().split()) == names - {"SIGTERM"}


def test_whatever_one_odd_video_raises_is_its_own_fault(tmp_path, videos, monkeypatch):
    real = extract.scan

    def odd(video):
        if video.stem == "1":
            raise ZeroDivisionError("division\nby zero")
        return real(video)

    monkeypatch.setattr(extract, "scan", odd)
    assert len(run(videos[:3], tmp_path / "set", num_workers=1)) == 2
    assert (tmp_path / "set" / "broken_videos.txt").read_text() == "1.mp4\tZeroDivisionError: division\n"
