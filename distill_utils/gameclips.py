"""GameClips: real footage of ten games of the Atari 2600, as frame folders in the layout of UCF101.

The games come with the pip package ale-py. They are played at random: an action is drawn and kept for up to half a
second, then the next. Every third frame of the emulator is stored, 20 a second. So the 48 frames of a clip last 2.4
seconds, and the 8 frames with the stride 4 that are read of it 1.4 seconds. In pictures of these a ball crosses the
screen, and the slow games (SpaceInvaders, Kangaroo) move by some steps.

A group of clips sees the game in a way of its own: a part of the screen, in other colours, and maybe mirrored. So no
class is one constant screen, and training and test clips never share a view.
"""
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill_utils.files import made_once
from distill_utils.motiondigits import GROUPS, save_clip, save_split
from distill_utils.progress import progress
from distill_utils.splits import DataError

ROMS = {"Assault": "assault", "Asterix": "asterix", "Bowling": "bowling", "Breakout": "breakout",
        "DemonAttack": "demon_attack", "Kangaroo": "kangaroo", "Krull": "krull", "Pong": "pong",
        "Riverraid": "riverraid", "SpaceInvaders": "space_invaders"}
CLASSES = tuple(ROMS)
SIZE, FRAMES, EVERY = 112, 48, 3
CLIPS = 4               # a group and class: 280 test, 720 train
LEAD = 1800             # frames of the emulator: a clip starts after up to 30 seconds of play


class View(NamedTuple):
    """What a group sees of the screen."""
    box: tuple              # left, top, right, bottom, in [0, 1]
    channels: np.ndarray    # a permutation of the three colours
    gains: np.ndarray       # (3,), what they are multiplied by then
    mirror: bool


def draw_view(rng):
    sides = rng.uniform(0.45, 0.85, 2)
    corner = rng.uniform(0, 1 - sides)
    return View((*corner, *(corner + sides)), rng.permutation(3), rng.uniform(0.6, 1.4, 3), bool(rng.integers(2)))


def see(screens, view):
    """uint8 (T, H, W, 3) -> uint8 (T, SIZE, SIZE, 3)"""
    from PIL import Image
    box = tuple(np.multiply(view.box, screens.shape[2:0:-1] * 2))
    frames = np.stack([Image.fromarray(screen).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
                       for screen in screens])
    frames = np.minimum(frames[..., view.channels] * view.gains, 255).astype(np.uint8)
    return frames[:, :, ::-1] if view.mirror else frames


def moves(frames):
    """Whether ten pixels or more change at least half of the time: no black screen, no game that waits."""
    change = abs(frames[4:].astype(np.int16) - frames[:-4]).max(-1)
    return ((change > 40).sum((1, 2)) >= 10).mean() >= 0.5


def play(rom, rng):
    """Yields what a game played at random shows, one stretch after the other: uint8 (FRAMES, 210, 160, 3)."""
    from ale_py import ALEInterface, LoggerMode, roms
    ALEInterface.setLoggerMode(LoggerMode.Error)
    game = ALEInterface()
    game.setInt("random_seed", int(rng.integers(2 ** 31)))
    game.setFloat("repeat_action_probability", 0.25)
    game.loadROM(roms.get_rom_path(rom))
    actions, kept, screens = game.getMinimalActionSet(), 0, []
    for t in count(-rng.integers(LEAD)):
        if not kept:
            action, kept = actions[rng.integers(len(actions))], rng.integers(1, 31)
        game.act(action)
        kept -= 1
        if game.game_over():
            game.reset_game()
        if t >= 0 and t % EVERY == 0:
            screens.append(game.getScreenRGB())
        if len(screens) == FRAMES:
            yield np.stack(screens)
            screens = []


def group_view(seed, number, group):
    """The view of a group of class `number`: the first that shows something move."""
    rng = np.random.default_rng([seed, number, group])
    for screens in play(ROMS[CLASSES[number]], rng):
        view = draw_view(rng)
        if moves(see(screens, view)):
            return view


def clip(seed, number, group, index, view):
    """Clip `index`, from 1, of a group: uint8 (FRAMES, SIZE, SIZE, 3), whichever other clips are made."""
    rng = np.random.default_rng([seed, number, group, index])
    return next(frames for screens in play(ROMS[CLASSES[number]], rng) if moves(frames := see(screens, view)))


def make(data_path, seed=0):
    """Writes GameClips below `data_path` if it is not there, byte for byte the same for a seed. Returns its folder."""
    return made_once(Path(data_path) / "GameClips", lambda folder: _write(folder, seed))


def _write(folder, seed):
    try:
        import ale_py  # noqa: F401 (its games)
    except ImportError as error:
        raise DataError("GameClips is made from the games that come with ale-py, which is not installed: pip install "
                        "-r requirements-games.txt") from error
    rows = []
    jobs = [(number, split, g) for number in range(len(CLASSES)) for split, groups in GROUPS.items() for g in groups]
    for number, split, g in progress(jobs, desc="GameClips", unit="group"):
        view = group_view(seed, number, g)
        for c in range(1, CLIPS + 1):
            name = f"v_{CLASSES[number]}_g{g:02d}_c{c:02d}"
            save_clip(folder / f"jpegs_{SIZE}" / name, clip(seed, number, g, c, view))
            rows.append((name, CLASSES[number], split))
    save_split(folder, rows)
