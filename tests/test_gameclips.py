"""GameClips: what a group sees of the screen, the same bytes for a seed, whole or absent, and games that move."""
import sys

import numpy as np
import pytest
from PIL import Image

from distill_utils import gameclips
from distill_utils.dataset import DATASETS, DataError, read_split
from distill_utils.gameclips import View, clip, draw_view, group_view, make, moves, see
from test_files import hang, killed_at
from test_motiondigits import contents
from utils import get_dataset

SCREENS = np.arange(210 * 160 * 3).reshape(1, 210, 160, 3).astype(np.uint8).repeat(2, 0)
WHOLE = View((0, 0, 1, 1), np.arange(3), np.ones(3), False)


@pytest.fixture
def emulator():
    return pytest.importorskip("ale_py")


@pytest.fixture
def noise(monkeypatch):
    """In place of the games noise, which needs no ale-py; and few frames."""
    def play(rom, rng):
        while True:
            yield rng.integers(0, 256, (gameclips.FRAMES, 21, 16, 3), dtype=np.uint8)

    monkeypatch.setitem(sys.modules, "ale_py", sys)
    monkeypatch.setattr(gameclips, "play", play)
    monkeypatch.setattr(gameclips, "FRAMES", 5)


@pytest.fixture
def few(monkeypatch):
    """Two games, two groups and two clips of each only: 8 clips."""
    monkeypatch.setattr(gameclips, "CLASSES", ("Pong", "Riverraid"))
    monkeypatch.setattr(gameclips, "GROUPS", {"test": range(1, 2), "train": range(8, 9)})
    monkeypatch.setattr(gameclips, "CLIPS", 2)
    monkeypatch.setattr(gameclips, "LEAD", 60)


# ---- what a group sees ----------------------------------------------------------------------------------------------

def test_the_whole_screen_is_seen_resized():
    frames = see(SCREENS, WHOLE)
    assert frames.shape == (2, 112, 112, 3) and frames.dtype == np.uint8
    assert (frames[0] == np.asarray(Image.fromarray(SCREENS[0]).resize((112, 112), Image.Resampling.BILINEAR))).all()


def test_a_part_of_the_screen():
    screens = np.zeros((1, 200, 100, 3), np.uint8)
    screens[:, 50:150, 20:60] = 200
    for box, wanted in (((0.2, 0.25, 0.6, 0.75), 200), ((0.6, 0.25, 1, 0.75), 0), ((0.2, 0.75, 0.6, 1), 0)):
        seen = see(screens, WHOLE._replace(box=box))
        assert (seen[:, 4:-4, 4:-4] == wanted).all()        # edges are blended with what lies beyond them


def test_colours_and_mirror():
    screens = np.full((1, 8, 8, 3), (10, 100, 200), np.uint8)
    seen = see(screens, WHOLE._replace(channels=np.array([2, 0, 1]), gains=np.array([1.4, 0.6, 0.755])))
    assert (seen == (255, 6, 75)).all()         # of 280, 6 and 75.5
    assert (see(SCREENS, WHOLE._replace(mirror=True)) == see(SCREENS, WHOLE)[:, :, ::-1]).all()


def test_views_are_as_different_as_they_may_be():
    views = [draw_view(np.random.default_rng(i)) for i in range(600)]
    left, top, right, bottom = np.array([view.box for view in views]).T
    for first, last in ((left, right), (top, bottom)):
        assert first.min() >= 0 and last.max() <= 1 and first.min() < 0.02 and last.max() > 0.98
        assert 0.45 <= (last - first).min() < 0.46 and 0.84 < (last - first).max() <= 0.85
    gains = np.array([view.gains for view in views])
    assert 0.6 <= gains.min() < 0.61 and 1.39 < gains.max() <= 1.4
    assert len({tuple(view.channels) for view in views}) == 6
    assert 250 < sum(view.mirror for view in views) < 350


def test_what_counts_as_movement():
    frames = np.zeros((48, 112, 112, 3), np.uint8)
    frames[::8, :2, :5] = 41        # ten pixels that change in a quarter of the pairs four frames apart
    assert not moves(frames)
    frames[1::8, :2, :5, 0] = 41    # and in another quarter, by one colour
    assert moves(frames)
    assert not moves(np.minimum(frames, 40))
    frames[:, 0, 0] = 0
    assert not moves(frames)


# ---- the data set ---------------------------------------------------------------------------------------------------

def test_counts_and_layout(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(gameclips, "save_clip", lambda path, frames: path.mkdir(parents=True))
    folder, spec = make(tmp_path), DATASETS["GameClips"]
    rows = read_split(spec, tmp_path)
    for split, wanted in (("train", 72), ("test", 28)):
        assert np.bincount([label for _, label, where in rows if where == split]).tolist() == [wanted] * 10
    for name, label, split in rows:
        assert name.startswith(f"v_{spec.classes[label]}_g") and (int(name[-6:-4]) <= 7) == (split == "test")
    (folder / spec.split).unlink()
    assert read_split(spec, tmp_path) == rows       # UCF101's rule, from the folder names


def test_groups_see_each_their_own(noise):
    views = [group_view(seed, number, group) for seed in (0, 1) for number in range(2) for group in range(1, 26)]
    assert len({view.box for view in views}) == 100


def test_without_the_emulator_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(DataError, match="ale-py, which is not installed: pip install -r requirements-games.txt"):
        get_dataset("GameClips", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_killed_writer_leaves_no_half_data_set(noise, few, tmp_path, monkeypatch):
    whole, save, calls = contents(make(tmp_path / "whole")), gameclips.save_clip, []

    def slow(*args):
        calls.append(1)
        return hang(tmp_path / "marker") if len(calls) == 6 else save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(gameclips, "save_clip", slow)
        killed_at(tmp_path / "marker", make, tmp_path / "data")
    assert not (tmp_path / "data" / "GameClips").exists()
    assert contents(make(tmp_path / "data")) == whole
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".gameclips.lock", "GameClips"]


# ---- the games ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", range(10), ids=gameclips.CLASSES)
def test_every_game_is_played_and_moves(number, emulator, monkeypatch, capfd):
    monkeypatch.setattr(gameclips, "LEAD", 600)
    view = group_view(0, number, 8)
    clips = [clip(0, number, 8, c, view) for c in (1, 2)]
    for frames in clips:
        assert frames.shape == (48, 112, 112, 3) and frames.dtype == np.uint8
        assert moves(frames) and frames.std() > 1
    assert (clips[0] != clips[1]).any()         # and not the same start of the game
    assert capfd.readouterr() == ("", "")       # nor a line of the emulator


def test_a_seed_gives_the_same_bytes(emulator, few, tmp_path, run_here):
    first, other = (contents(make(tmp_path / name, seed)) for name, seed in (("first", 3), ("other", 4)))
    words = "extract_frames/make_gameclips.py", "--data_path", tmp_path / "again", "--seed", 3
    assert run_here(*words).out.splitlines() == [str(tmp_path / "again" / "GameClips")]
    assert len(first) == 8 * 48 + 1 and first == contents(tmp_path / "again" / "GameClips")
    assert first.keys() == other.keys()
    assert sum(first[name] == other[name] for name in first) == 1       # the split file
    for name in ("first", "again"):
        data = get_dataset("GameClips", tmp_path / name, im_size=32, classes="Pong,Riverraid")
        assert len(data.train) == len(data.test) == 4 and data.spec.shape == (8, 3, 32, 32)


def test_a_clip_can_be_made_alone(emulator, few, tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr(gameclips, "save_clip", lambda path, frames: made.update({path.name: frames}))
    monkeypatch.setattr(gameclips, "save_split", lambda folder, rows: folder.mkdir())
    make(tmp_path, 5)
    assert len(made) == 8
    for name, number, group, index in (("v_Riverraid_g08_c02", 1, 8, 2), ("v_Pong_g01_c01", 0, 1, 1)):
        assert (clip(5, number, group, index, group_view(5, number, group)) == made[name]).all()
