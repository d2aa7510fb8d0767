"""Pictures are tested by their pixels: every clip has colours of its own, so a tile is found wherever it was drawn."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from distill_utils.picture import _legible, animate, contact_sheet, curve, to_uint8

MEAN, STD = (0.45, 0.43, 0.40), (0.22, 0.21, 0.23)


def flat(*colours, size=32):
    """One frame of one colour for each of `colours` (0..255), normalised: (T, 3, size, size)."""
    pixels = torch.tensor(colours, dtype=torch.float32)[:, :, None, None] / 255
    mean, std = (torch.tensor(m)[:, None, None] for m in (MEAN, STD))
    return ((pixels - mean) / std).expand(-1, -1, size, size)


def reds(frames, green=0, **size):
    return flat(*[(100 + 9 * t, green, 0) for t in range(frames)], **size)


def blues(frames, green=0, **size):
    return flat(*[(0, green, 100 + 9 * t) for t in range(frames)], **size)


def box(image, colour, slack=0):
    """(left, top, right, bottom) of the pixels of that colour and their number; None where there is none."""
    ys, xs = np.nonzero((np.abs(np.asarray(image, dtype=int) - colour) <= slack).all(-1))
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, len(xs)) if len(xs) else None


def sheet(tmp_path, rows, **options):
    contact_sheet(tmp_path / "sheet.png", rows, MEAN, STD, **options)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return image.copy()


def movie(tmp_path, rows, **options):
    animate(tmp_path / "movie.gif", rows, MEAN, STD, **options)
    with Image.open(tmp_path / "movie.gif") as image:
        assert image.format == "GIF"
        return dict(image.info), [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def draw_sheet(path):
    contact_sheet(path, [("Diving", reds(3), blues(3)), ("Punch", None, blues(3, 90))], MEAN, STD)


def draw_movie(path):
    animate(path, [("Diving", reds(3), blues(3)), ("Punch", reds(3, 90), None)], MEAN, STD)


def draw_curve(path):
    pytest.importorskip("matplotlib")
    curve(path, {"DM": [(0, 0.1, 0.01), (500, 0.3, 0.02)]}, title="miniUCF101")


WRITERS = [draw_sheet, draw_movie, draw_curve]


# ---- pixels


def test_to_uint8_moves_channels_last_and_undoes_the_normalisation():
    colours = [(0, 128, 255), (7, 8, 9)]
    clips = to_uint8(flat(*colours, size=4)[None].double().requires_grad_(), torch.tensor(MEAN), STD)
    assert clips.dtype == np.uint8 and clips.shape == (1, 2, 4, 4, 3)
    assert (clips[0] == np.array(colours)[:, None, None]).all()


def test_to_uint8_clamps_and_refuses_nan():
    clips = torch.tensor([-1e9, 1e9, torch.inf]).view(1, 1, 3, 1, 1)
    assert to_uint8(clips, MEAN, STD).ravel().tolist() == [0, 255, 255]
    clips[0, 0, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(clips, MEAN, STD)


# ---- contact sheet


def test_sheet_puts_distilled_left_real_right_frames_in_time_and_rows_in_order(tmp_path):
    image = sheet(tmp_path, [("Diving", reds(4), blues(4)), ("Punch", reds(4, 90), blues(4, 90))])
    for green, below in ((0, None), (90, box(image, (100, 0, 0)))):
        boxes = [box(image, (100 + 9 * t, green, 0)) for t in range(4)]
        boxes += [box(image, (0, green, 100 + 9 * t)) for t in range(4)]
        lefts = [left for left, *_ in boxes]
        assert lefts == sorted(lefts) and len({top for _, top, *_ in boxes}) == 1
        assert all(right - left == bottom - top == 64 and count == 64**2 for left, top, right, bottom, count in boxes)
        assert lefts[4] - lefts[3] > 64 + 10  # the blocks stand apart
        assert below is None or boxes[0][1] > below[3]
    beside = np.asarray(image)[box(image, (100, 0, 0))[1] :][:64, : box(image, (100, 0, 0))[0]]
    assert (beside.max(-1) < 80).sum() > 30, "no class name left of the row"


def test_sheet_spaces_frames_evenly_from_first_to_last(tmp_path):
    image = sheet(tmp_path, [("Diving", reds(16), None)], frames=4)
    assert [t for t in range(16) if box(image, (100 + 9 * t, 0, 0))] == [0, 5, 10, 15]


@pytest.mark.parametrize(
    "size, scale, tile",
    [(8, None, 64), (32, None, 64), (100, None, 100), (112, None, 112), (224, None, 112), (32, 3, 96), (224, 0.25, 56)],
)
def test_sheet_tile_sizes(tmp_path, size, scale, tile):
    left, top, right, bottom, _ = box(sheet(tmp_path, [("a", reds(1, size=size), None)], scale=scale), (100, 0, 0))
    assert (right - left, bottom - top) == (tile, tile)


def test_sheet_enlarges_to_sharp_squares_and_keeps_the_aspect(tmp_path):
    clip = reds(1, size=32)[..., :16].clone()
    clip[:, :, 5, 7] = flat((0, 200, 0))[:, :, 0, 0]
    image = sheet(tmp_path, [("a", clip, None)])
    left, top, right, bottom, _ = box(image, (100, 0, 0))
    assert (right - left, bottom - top) == (32, 64)
    assert box(image, (0, 200, 0)) == (left + 14, top + 10, left + 16, top + 12, 4)


def test_sheet_without_a_side_has_one_block_and_a_missing_clip_is_blank(tmp_path):
    both = sheet(tmp_path, [("a", reds(2), blues(2)), ("b", reds(2, 90), None)])
    one = sheet(tmp_path, [("a", reds(2), None), ("b", reds(2, 90), None)])
    other = sheet(tmp_path, [("a", None, blues(2)), ("b", None, blues(2, 90))])
    assert both.width > one.width == other.width and both.height == one.height == other.height
    left, _, right, bottom, _ = box(both, (0, 0, 100))
    assert len(np.unique(np.asarray(both)[bottom + 2 : bottom + 66, left:right].reshape(-1, 3), axis=0)) == 1


def test_sheet_of_images_beside_clips(tmp_path):
    image = sheet(tmp_path, [("a", reds(1), blues(16))])
    assert box(image, (100, 0, 0)) and sum(box(image, (0, 0, 100 + 9 * t)) is not None for t in range(16)) == 8


@pytest.mark.parametrize("rows", [50, 150])
def test_sheet_of_many_rows_stays_drawable(tmp_path, rows):
    label = "Pushing something from left to right with a long name"
    image = sheet(tmp_path, [(label, reds(1, size=112), blues(1, size=112))] * rows)
    assert 50 * 112 < image.height <= 16_000 and image.width <= 600


# ---- animation


def test_movie_plays_every_frame_for_ever_with_synthetic_above_real(tmp_path):
    info, frames = movie(tmp_path, [("Diving", reds(5), blues(5)), ("Punch", reds(5, 90), blues(5, 90))], fps=5)
    assert len(frames) == 5 and info["loop"] == 0 and info["duration"] == 200
    assert len({frame.size for frame in frames}) == 1 and len({frame.tobytes() for frame in frames}) == 5
    for time, frame in enumerate(frames):
        above, below, beside = (
            box(frame, colour, slack=4)
            for colour in ((100 + 9 * time, 0, 0), (0, 0, 100 + 9 * time), (100 + 9 * time, 90, 0))
        )
        assert above[0] == below[0] and above[3] < below[1] and above[4] == below[4] == 64**2
        assert beside[0] > above[2] and beside[1] == above[1]


def test_movie_of_an_image_beside_a_clip_and_of_an_image_alone(tmp_path):
    _, frames = movie(tmp_path, [("a", reds(1), blues(4)), ("b", None, blues(4, 90))])
    assert len(frames) == 4 and all(box(frame, (100, 0, 0), slack=4) for frame in frames)
    assert len(movie(tmp_path, [("a", reds(1), None)])[1]) == 1


def test_movie_does_not_flicker_where_nothing_moves(tmp_path):
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).repeat(6, 1, 1, 1)
    noise[:, :, :8, :8] = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    _, frames = movie(tmp_path, [("a", noise, None)])
    pictures = np.stack([np.asarray(frame) for frame in frames])
    ys, xs = np.nonzero((pictures != pictures[0]).any((0, 3)))
    assert len(frames) == 6 and 12 <= xs.max() - xs.min() < 16 and 12 <= ys.max() - ys.min() < 16


def test_movie_of_fifty_classes_stays_small(tmp_path):
    _, frames = movie(tmp_path, [(f"class {i}", reds(2, i, size=112), blues(2, i, size=112)) for i in range(50)])
    assert max(frames[0].size) <= 1_000 and len(frames) == 2


# ---- curve


def test_curve_shows_percent_over_sorted_iterations(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn, save = [], figure.savefig
    monkeypatch.setattr(figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    points = [(200, 0.5, 0.02), (0, 0.25, 0.01)]
    curve(tmp_path / "c.png", {"DM": points, "MTT": [(0, 0.1, float("nan"))]}, "title")
    (axes,) = drawn[0].axes
    lines = {line.get_label(): np.stack(line.get_data()).tolist() for line in axes.get_lines()}
    assert lines == {f"{name}, ± one std over networks": line for name, line in (
        ("DM", [[0, 200], [25, 50]]), ("MTT", [[0], [10]]))}
    assert axes.collections[0].get_paths()[0].get_extents().extents.tolist() == [0, 24, 200, 52]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "top-1 on real test clips (%)")
    assert axes.get_legend() is not None and axes.get_title() == "title"


@pytest.mark.parametrize("series", [{}, {"DM": []}])
def test_curve_without_points_is_an_empty_picture(tmp_path, series):
    pytest.importorskip("matplotlib")
    curve(tmp_path / "c.png", series)
    assert Image.open(tmp_path / "c.png").width > 400


# ---- files


@pytest.mark.parametrize("draw", WRITERS)
def test_same_input_gives_the_same_bytes_and_nothing_else(tmp_path, draw):
    draw(tmp_path / "first")
    draw(str(tmp_path / "second"))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first", "second"]


@pytest.mark.parametrize("draw", WRITERS)
def test_a_full_disk_leaves_the_earlier_picture_and_no_litter(tmp_path, monkeypatch, draw):
    path = tmp_path / "picture"
    path.write_bytes(b"earlier")

    def save(self, file, *args, **kwargs):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="no space left"):
        draw(path)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("draw", WRITERS)
def test_no_folder_is_made(tmp_path, draw):
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "absent" / "picture")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("draw", [contact_sheet, animate])
def test_a_caption_stands_below_in_lines_that_fit(tmp_path, draw):
    rows = [("Diving", reds(3), blues(3))]
    draw(tmp_path / "plain", rows, MEAN, STD)
    draw(tmp_path / "told", rows, MEAN, STD, caption="what a set is, " * 12)
    plain, told = (Image.open(tmp_path / name).convert("RGB") for name in ("plain", "told"))
    assert told.width == plain.width and told.height > plain.height + 30        # several lines
    below = np.asarray(told.crop((0, plain.height, told.width, told.height)))
    assert below.min() < 100 and (below[:, -8:] > 200).all() and (below[:, :8] > 200).all()


@pytest.mark.parametrize("draw", [contact_sheet, animate])
def test_clips_that_cannot_be_drawn_are_named(tmp_path, draw):
    nan = reds(2).clone()
    nan[1, 2, 3, 4] = torch.nan
    unlike = [("a", reds(2), blues(2)), ("b", reds(3), None)]
    for rows, message in (([("a", nan, None)], "NaN"), (unlike, "one shape"), ([("a", None, None)], "no"), ([], "no")):
        with pytest.raises(ValueError, match=message):
            draw(tmp_path / "picture", rows, MEAN, STD)
    assert not list(tmp_path.iterdir())


def test_a_class_name_that_the_font_cannot_show_has_its_number():
    names = {"plain": "plain", "jump_rope (2)": "jump_rope (2)", "a?b": "a?b", "öl": "class 3: ol",
             "跳舞": "class 3: TiaoWu", "a 舞": "class 3: a Wu", "прыжок": "class 3: pryzhok"}
    assert {name: _legible(name, 3) for name in names} == names
