"""What a set looks like: a contact sheet (PNG), an animation (GIF), the accuracy over the iterations (PNG).

`rows` is a list of (label, synthetic, real): a class name and two clips (T, C, H, W), float, normalised with the data
set's mean and std; either may be None. All synthetic clips share one shape, and so do all real ones; else ValueError.
The same input gives the same bytes. A picture that cannot be written leaves the earlier one whole. No folder is made.
"""

import io
import re
import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from distill_utils.files import replacing

PAPER, INK, FAINT = (250, 250, 248), (32, 32, 36), (125, 125, 132)
ACCENT = {"set": (196, 78, 32), "real": (38, 104, 168)}     # selected clips are a set too, and not distilled
HEADINGS = {"set": "the set", "real": "real clips"}
GAP, MARGIN = 2, 12  # pixels between tiles, around the picture
SHOWN = 24  # classes of a set on a page: some hundred would make it too large to open


def preview_rows(synset, data):
    """Rows of a set: of each class its first synthetic clip beside its first training clip. A class whose name has
    letters that the font lacks is told by its number too."""
    classes = torch.arange(data.spec.num_classes)
    with torch.no_grad():
        synthetic, _ = synset.render(classes, torch.zeros_like(classes))
    first = [int((data.train.labels == k).nonzero()[0]) for k in classes]
    real = data.train.get(first)
    if synthetic.dim() == 4:        # images are clips of one frame
        synthetic, real = synthetic[:, None], real[:, None]
    names = [_legible(name, k) for k, name in enumerate(data.spec.classes)]
    return list(zip(names, synthetic, real, strict=True))


def shown(num_classes):
    """The classes that a page shows: all, or SHOWN of them, evenly spaced."""
    return np.linspace(0, num_classes - 1, min(SHOWN, num_classes)).round().astype(int).tolist()


def real_clips(data):
    """The first training clip of each class that a page shows: (N, T, C, H, W), normalised. (N, C, H, W) of images."""
    return data.train.get([int((data.train.labels == k).nonzero()[0]) for k in shown(data.spec.num_classes)])


def to_uint8(clips, mean, std):
    """Normalised clips to displayable ones: float (N, T, C, H, W) -> uint8 array (N, T, H, W, C).

    mean, std: C numbers each, of pixels in [0, 1]. Pixels outside [0, 1] are clamped; NaN raises ValueError.
    """
    clips = clips.detach().float().cpu().numpy()  # numpy from here: torch's threads cost more than such small clips
    if np.isnan(clips).any():
        raise ValueError("a clip holds NaN, which has no colour: the set has diverged; lower its learning rate")
    mean, std = (torch.as_tensor(m).float().cpu().numpy().reshape(-1, 1, 1) for m in (mean, std))
    return np.moveaxis(((clips * std + mean).clip(0, 1) * 255).round().astype(np.uint8), 2, -1)


def contact_sheet(path, rows, mean, std, frames=8, scale=None, marked=None, caption=""):
    """Draw a PNG with one row per clip: at most `frames` evenly spaced frames, those of the set left, real ones right.

    Frames are numbered from 1. marked: bool (rows, T), which frames of the set are framed: its key frames. scale: tile
    pixels per clip pixel. By default small clips are enlarged to about 64 pixels a tile and large ones shrunk to 112,
    or to less where the sheet would be higher than 16,000 pixels. caption: what stands below.
    """
    sides, (width, height) = _tiles(rows, mean, std, min(112, 15_900 // max(1, len(rows)) - GAP), scale)
    title, text, small = (ImageFont.load_default(size) for size in (12 + height // 12, 10 + height // 14, 11))
    labels = [_fit(label, text, 11 * text.size, height // (text.size + 4)) for label, _, _ in rows]
    left = 2 * MARGIN + int(max(text.getlength(line) for label in labels for line in label.split("\n")))
    ys = [MARGIN + 42 + row * (height + GAP) for row in range(len(rows))]
    lengths = {name: max(map(len, strips)) for name, strips in sides.items()}
    times = {name: np.linspace(0, n - 1, min(frames, n)).round().astype(int) for name, n in lengths.items()}
    spans = {name: len(times[name]) * (width + GAP) + 2 * MARGIN for name in sides}

    sheet = Image.new("RGB", (left + sum(spans.values()) - MARGIN, ys[-1] + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for y, label in zip(ys, labels, strict=True):
        draw.text((left - MARGIN, y + height // 2), label, INK, text, anchor="rm", align="right", spacing=2)
    for name, strips in sides.items():
        heading = " (framed: key frames)" if marked is not None and name == "set" else ""
        draw.text((left, ys[0] - 20), HEADINGS[name] + heading, ACCENT[name], title, anchor="ls")
        for column, time in enumerate(times[name]):
            x = left + column * (width + GAP)
            number = f"frame {time + 1}" if column == 0 and width > 44 else str(time + 1)
            draw.text((x + width // 2, ys[0] - 4), number, FAINT, small, anchor="ms")
            for row, (y, strip) in enumerate(zip(ys, strips, strict=True)):
                if strip:
                    sheet.paste(strip[time], (x, y))
                if marked is not None and name == "set" and marked[row][time]:
                    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=ACCENT[name], width=2 + width // 50)
        left += spans[name]
    with replacing(path) as temporary:
        _captioned(sheet, caption).save(temporary, format="PNG")


def animate(path, rows, mean, std, fps=6, caption=""):
    """Draw a GIF that plays all clips in step, for ever, in a grid with the class names; synthetic stands above real.

    A clip that is shorter than the longest one starts again. A GIF counts time in hundredths of a second.
    """
    limit = max(48, int((250_000 / max(1, len(rows))) ** 0.5))  # half a megapixel: noise hardly compresses
    sides, (width, height) = _tiles(rows, mean, std, min(112, limit))
    title, text = ImageFont.load_default(14), ImageFont.load_default(11)
    cell_w, cell_h = max(width, 76) + 8, len(sides) * (height + GAP) + 38
    lines = round(len(rows) / max(4, (len(rows) * cell_h / cell_w) ** 0.5)) or 1  # about a square
    columns, top = -(-len(rows) // lines), MARGIN + 24
    places = [(MARGIN + i % columns * cell_w, top + i // columns * cell_h) for i in range(len(rows))]

    base = Image.new("RGB", (max(columns * cell_w, 190) + 2 * MARGIN, lines * cell_h + top), PAPER)
    draw, left = ImageDraw.Draw(base), MARGIN + 4
    for name, where in zip(sides, (" above", " below"), strict=False):
        heading = HEADINGS[name] + (where if len(sides) > 1 else "")
        draw.text((left, MARGIN - 4), heading, ACCENT[name], title)
        left += int(title.getlength(heading)) + MARGIN
    for (x, y), (label, _, _) in zip(places, rows, strict=True):
        label, middle = _fit(label, text, cell_w - 6, 2), (x + cell_w // 2, y + cell_h - 34)
        draw.text(middle, label, INK, text, anchor="ma", align="center", spacing=1)
    base = _captioned(base, caption)
    movie = [base.copy() for _ in range(max(len(strip) for strips in sides.values() for strip in strips))]
    for side, strips in enumerate(sides.values()):
        for (x, y), strip in zip(places, strips, strict=True):
            for time, frame in enumerate(movie if strip else []):
                corner = x + (cell_w - width) // 2, y + side * (height + GAP)
                frame.paste(strip[time % len(strip)], corner)

    # One palette of all frames and no dithering: a colour that stays is drawn the same, so nothing flickers.
    step = max(1, round((len(movie) * base.width * base.height / 300_000) ** 0.5))
    sample = Image.fromarray(np.concatenate([np.asarray(frame)[::step, ::step] for frame in movie]))
    palette = sample.quantize(255, method=Image.Quantize.MEDIANCUT)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in movie)
    options = {"save_all": True, "append_images": rest, "duration": round(1000 / fps), "loop": 0}
    with replacing(path) as temporary:
        first.save(temporary, format="GIF", **options)


def moving(clips, mean, std, fps=6):
    """The bytes of an animated WebP that plays clips for ever, one below the other, for a page that cuts them out.

    clips: (N, T, C, H, W), or (N, C, H, W) for images. Of long clips it has 16 frames, of large ones 96 pixels.
    """
    strips = to_uint8(clips if clips.dim() == 5 else clips[:, None], mean, std)
    n, length, height, width, channels = strips.shape
    times = np.linspace(0, length - 1, min(16, length)).round().astype(int)
    movie = strips[:, times].swapaxes(0, 1).reshape(len(times), n * height, width, channels)
    size = [round(side * min(1, 96 / max(height, width))) for side in (width, height)]
    first, *rest = (Image.fromarray(frame[..., 0] if channels == 1 else frame).convert("RGB").resize(
        (size[0], n * size[1]), Image.Resampling.LANCZOS) for frame in movie)
    duration = round(1000 / fps * length / len(times))
    file = io.BytesIO()
    first.save(file, format="WEBP", save_all=True, append_images=rest, duration=duration, loop=0, quality=70, method=4)
    return file.getvalue()


def curve(path, series, title=None):
    """Draw a PNG of top-1 against the iteration: for each name a line in a band of one standard deviation.

    series: name -> list of (iteration, mean, std), fractions in [0, 1].
    """
    from matplotlib.figure import Figure  # only this picture needs it; without pyplot: no display, no global state

    figure = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="top-1 on real test clips (%)", title=title or "")
    for name, points in series.items():
        iteration, mean, std = np.array(sorted(points), dtype=float).reshape(-1, 3).T * [[1], [100], [100]]
        (line,) = axes.plot(iteration, mean, marker="o", markersize=3, label=f"{name}, ± one std over networks")
        axes.fill_between(iteration, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _tiles(rows, mean, std, limit, scale=None):
    """rows -> ({"set": strips, "real": strips}, (width, height)), without a side that has no clip.

    A strip is the list of a clip's frames as images of that size, empty for None. Unless `scale` says otherwise, the
    size is an integer multiple of a small clip, near 64 pixels, or a large one shrunk to `limit`.
    """
    sides = {"set": [row[1] for row in rows], "real": [row[2] for row in rows]}
    sides = {name: clips for name, clips in sides.items() if any(clip is not None for clip in clips)}
    shapes = {name: {tuple(clip.shape) for clip in clips if clip is not None} for name, clips in sides.items()}
    if not sides:
        raise ValueError("no clip to draw: give at least one row with a synthetic or a real clip")
    if max(map(len, shapes.values())) > 1:
        raise ValueError(f"the clips of a side must share one shape (T, C, H, W); got {shapes}")
    height, width = np.max([shape[-2:] for found in shapes.values() for shape in found], axis=0)
    scale = scale or min(max(1, round(64 / max(height, width))), limit / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def strip(clip):
        frames = [] if clip is None else to_uint8(clip[None], mean, std)[0]
        images = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
        kinds = Image.Resampling.LANCZOS, Image.Resampling.NEAREST  # enlarged pixels stay sharp squares
        return [image.resize(size, kinds[size[0] >= image.width]) for image in images]

    return {name: [strip(clip) for clip in clips] for name, clips in sides.items()}, size


def _captioned(image, text):
    """The image with a text below it, broken into lines of its width."""
    if not text:
        return image
    font, lines = ImageFont.load_default(11), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > image.width - 2 * MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    whole = Image.new("RGB", (image.width, image.height + 15 * len(lines) + MARGIN // 2), PAPER)
    whole.paste(image, (0, 0))
    ImageDraw.Draw(whole).text((MARGIN, image.height - 4), "\n".join(lines), INK, font, spacing=4)
    return whole


def _legible(name, number):
    """A class name in which letters that the font would draw as empty boxes are written in Latin ones, behind its
    number."""
    from anyascii import anyascii
    font = ImageFont.load_default(14)
    box = bytes(font.getmask("\U0010ffff"))
    letters = [letter if letter.isspace() or bytes(font.getmask(letter)) != box else anyascii(letter) or "?"
               for letter in name]
    return name if "".join(letters) == name else f"class {number}: {''.join(letters)}"


def _fit(text, font, width, lines):
    """Break a class name, at spaces or capitals, into at most `lines` lines of `width` pixels; the rest is cut."""
    if font.getlength(text) <= width:
        return text
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text)
    wrapped = (textwrap.wrap(words, n, max_lines=max(1, lines), placeholder="...") for n in range(len(words), 3, -1))
    fitting = (broken for broken in wrapped if max(map(font.getlength, broken)) <= width)
    return "\n".join(next(fitting, [text]))

