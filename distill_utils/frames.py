"""One frame: a picture file of any kind, decoded, turned as its EXIF says, resized and cut to the size of clips."""
import os
import re
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import simplejpeg  # twice as fast as Pillow, to the same pixels
except ImportError:
    simplejpeg = None

from distill_utils.dataset import DataError

JPEG = b"\xff\xd8"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")     # of frames, whatever their names end in
MAX_PIXELS = 2 ** 26    # of a frame, 8192 x 8192: decoded it takes 200 MB
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)      # of more than that
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)   # what decoders raise for a broken file
DAMAGED = re.compile("Corrupt JPEG data|Premature end|Inconsistent progression")   # libjpeg's words for it
ORIENTATION = 0x112     # EXIF's tag
# its values but 1, which is upright -> (rows become columns, then rows are reversed, columns are reversed)
TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
EXIF, OTHERS = b"\xff\xe1", {bytes((0xff, kind)) for kind in (*range(0xe0, 0xf0), 0xfe)}     # what a JPEG begins with
PNG, PNG_EXIF = b"\x89PNG", (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


def decode(file, size, content=None):
    """One frame, uint8 (3, size, size). One of another size is resized and centre-cropped, the same for all of a clip.

    Frames stored square are resized; others are resized to a short side of 15/14 of the size first, which is 160x120
    before the crop to 112 for a 4:3 video (method of S2D). A JPEG of twice that or more is decoded at half its size (a
    quarter, an eighth), which is faster and as good. What EXIF says of a camera that was turned is done first. An
    unreadable frame raises DataError with its name. content: its bytes, where they were read already.
    """
    content = read_frame(file) if content is None else content
    try:
        pixels, square = _decode_jpeg(content, size) or _decode_any(content, size)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    if turn := TURNS.get(_orientation(content)):
        pixels = _turned(pixels, *turn)
    if pixels.shape[:2] != (size, size):
        short = _short_side(square, size)
        box = _centre_box(pixels.shape[1::-1], short, size)
        if min(pixels.shape[:2]) == short:      # nothing to resize
            left, top = map(int, box[:2])
            pixels = pixels[top:top + size, left:left + size]
        else:
            pixels = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _short_side(square, size):
    return size if square else size * 15 // 14


def _shrink(width, height, size):
    """By how much a JPEG may be shrunk as it is decoded, and still be no smaller than it is needed."""
    spare = min(width, height) // _short_side(width == height, size)
    return max(scale for scale in (1, 2, 4, 8) if scale == 1 or scale <= spare)


def _decode_jpeg(content, size):
    """(uint8 (H, W, 3), whether the picture was square) by the faster decoder, which notices damaged data where Pillow
    fills up with grey; None where it is not there or refuses the picture for another reason."""
    if simplejpeg is None or not content.startswith(JPEG):
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
    except ValueError:
        return None
    if height * width > MAX_PIXELS:
        return None
    scale = _shrink(width, height, size)
    least = {"min_height": -(-height // scale), "min_width": -(-width // scale)} if scale > 1 else {}
    try:
        return simplejpeg.decode_jpeg(content, **least), width == height
    except ValueError as error:
        if DAMAGED.search(str(error)):
            raise
        return None


def _decode_any(content, size):
    with _open_whole(content) as opened:
        width, height = opened.size
        scale = _shrink(width, height, size)
        opened.draft("RGB", (width // scale, height // scale))
        return _rgb(opened), width == height


def _rgb(opened):
    """uint8 (H, W, 3) of a picture of any kind; OSError for one whose colours are not known."""
    hidden = False
    if opened.mode.startswith("I"):     # grey of 16 bits, which Pillow would cut off at 255
        grey = np.asarray(opened).astype(np.int64)
        hidden = "transparency" in opened.info and (grey == opened.info["transparency"]).any()
        pixels = np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    elif opened.has_transparency_data:
        pixels = np.array(opened.convert("RGBA"))
        hidden, pixels = pixels[..., 3].min() < 255, pixels[..., :3]
    else:
        pixels = np.array(opened.convert("RGB"))
    if hidden:
        raise OSError("it has transparent pixels, and nothing says what is behind them: save it without transparency")
    return pixels


def _orientation(content):
    """1 to 8, as EXIF (or XMP) counts how a picture must be turned; 1, upright, where it says nothing of use."""
    if content.startswith(JPEG):
        at = 2
        while (marker := content[at:at + 2]) in OTHERS and marker != EXIF:
            at += 2 + int.from_bytes(content[at + 2:at + 4], "big")
        if marker != EXIF:
            return 1
    elif content.startswith(PNG) and not any(word in content for word in PNG_EXIF):
        return 1
    try:
        return _open(content).getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1


def _turned(pixels, transposed, rows, columns):
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    return np.ascontiguousarray(pixels[::-1 if rows else 1, ::-1 if columns else 1])


def _centre_box(stored, short, size):
    """The part of a (width, height) picture that is left when it is resized to the short side and cut to the size."""
    resized = [short * side // min(stored) for side in stored]
    box = [((new - size) // 2, side / new) for side, new in zip(stored, resized, strict=True)]
    return (*(first * scale for first, scale in box), *((first + size) * scale for first, scale in box))


def frame_size(file):
    """(width, height) of a frame; one that is cut short or is no picture raises DataError with its name."""
    content = read_frame(file)
    try:
        with _open_whole(content) as opened:
            width, height = opened.size
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    transposed = TURNS.get(_orientation(content), (0,))[0]
    return (height, width) if transposed else (width, height)


def read_frame(file):
    """The bytes of a frame; DataError with its name where it cannot be read."""
    try:
        if not os.path.isfile(file):        # a pipe would be waited for
            raise OSError("it is no regular file, or a link that leads nowhere")
        return Path(file).read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file, error):
    return DataError(f"cannot read the frame {file} ({error}): extract its clip again, or take the clip out of the "
                     "split file")


def _open_whole(content):
    """The picture that these bytes hold. OSError or SyntaxError for one that Pillow would fill up: a tail of zeros, as
    a crash leaves it."""
    opened = _open(content)
    width, height = opened.size
    if width * height > MAX_PIXELS:     # before anything is decoded
        raise OSError(f"it has {width} x {height} pixels, where {MAX_PIXELS:,} are the most: make it smaller")
    if not content.startswith(JPEG):
        opened.verify()                 # the check sums of a PNG; it must be opened again after that
        opened = _open(content)
    elif content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):    # no end of the image after its last scan
        raise OSError("its end is missing")
    return opened


def _open(content):
    return Image.open(BytesIO(content), formats=FORMATS)
