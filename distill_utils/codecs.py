"""Pixels as pictures and video: uint8 samples to streams of bytes and back, through Pillow and PyAV.

A store is a codec and its quality, as "h264:28". CODECS says which there are. Samples are uint8 (N, T, C, H, W), T = 1
for still images. A stream holds the frames of one class or of one sample, whichever takes fewer bytes; pictures have
them one below the other. What is decoded is compared with what is expected, frame by frame: nothing in a stream is
believed.
"""
import io
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np

LARGEST = 16_383        # pixels of a side of a WebP picture


class Codec(NamedTuple):
    """encode(frames (n, H, W, C), quality) -> bytes; decode(bytes, shape) -> frames of that shape, or ValueError.
    worst, best: the qualities that it takes, where it takes one. encoder: FFmpeg's name. picture: it is of one size."""
    encode: callable
    decode: callable
    worst: int | None = None
    best: int | None = None
    encoder: str | None = None
    picture: bool = False


def parse_store(text):
    """(codec, quality) of a store such as "jpeg:75". ValueError for what is none, or what this machine has not."""
    name, colon, quality = text.partition(":")
    if name not in CODECS:
        raise ValueError(f"there is no store {text!r}: choose float32, bfloat16, uint8, "
                         + ", ".join(name + (f":{codec.worst}..{codec.best}" if codec.worst is not None else "")
                                     for name, codec in CODECS.items()))
    codec = CODECS[name]
    if codec.worst is None:
        if colon:
            raise ValueError(f"the store {name} has no quality: give {name} in place of {text}")
        return codec, None
    low, high = sorted((codec.worst, codec.best))
    if quality not in map(str, range(low, high + 1)):       # one way to write each: no 028
        raise ValueError(f"the store {text!r} needs a quality from {codec.worst} (smallest) to {codec.best} (best), "
                         f"such as {name}:{(low + high) // 2}")
    if codec.encoder:
        check_encoder(name, codec.encoder)
    return codec, int(quality)


def check_encoder(name, encoder):
    try:
        import av
    except ImportError:
        raise ValueError(f"the store {name} codes video with PyAV, which is not installed: pip install av, or choose a "
                         "store of pictures") from None
    os.environ.setdefault("SVT_LOG", "1")       # it tells its settings at every stream
    try:
        av.codec.Codec(encoder, "w")
    except ValueError:      # which av's own error for an unknown codec is
        there = [other for other, codec in CODECS.items() if codec.encoder in av.codecs_available]
        raise ValueError(f"the store {name} needs {encoder}, which the FFmpeg of the installed PyAV has not; it has "
                         f"{', '.join(there) or 'none of them'}: choose one of those, or install av with pip") from None


# ---- streams ------------------------------------------------------------------------------------------------------

def encode(samples, num_classes, store):
    """uint8 (N, T, C, H, W), class by class -> (all streams one behind the other, uint8 (bytes,); their lengths, int64
    (streams,))."""
    codec, quality = parse_store(store)
    _, _, channels, height, width = samples.shape
    if channels not in (1, 3):
        raise ValueError(f"--store {store} codes grey and colour, and these samples have {channels} channels: give "
                         "float32, bfloat16 or uint8")
    frames = np.ascontiguousarray(samples.transpose(0, 1, 3, 4, 2))         # (N, T, H, W, C)
    found = []
    for streams in sorted(groupings(samples.shape, num_classes, codec.picture)):
        parts = frames.reshape(streams, -1, height, width, channels)
        if codec.picture and parts.shape[1] * height > LARGEST:
            continue
        with ThreadPoolExecutor() as pool:
            found.append(list(pool.map(lambda part: codec.encode(part, quality), parts)))
    if not found:
        raise ValueError(f"--store {store} takes at most {LARGEST} pixels a side: give another")
    coded = min(found, key=lambda parts: sum(map(len, parts)) + 8 * len(parts))
    return np.frombuffer(b"".join(coded), np.uint8).copy(), np.array([len(part) for part in coded], np.int64)


def groupings(shape, num_classes, picture):
    """The numbers of streams that samples can lie in: one a class or one a sample, and of pictures one a frame."""
    samples, length = shape[:2]
    return {1 if samples % num_classes else num_classes, samples, samples * length if picture else samples}


def decode(coded, lengths, shape, num_classes, store):
    """What `encode` gave, of samples of that shape (N, T, C, H, W), uint8. ValueError names the first stream that is
    not what it should be."""
    codec, _ = parse_store(store)
    n, _, channels, height, width = shape
    groups = groupings(shape, num_classes, codec.picture)
    if len(lengths) not in groups or ((lengths < 0) | (lengths > len(coded))).any() or lengths.sum() != len(coded):
        raise ValueError(f"its {len(lengths)} streams of {len(coded)} bytes are not those of {n} samples")
    ends = lengths.cumsum()
    part_shape = (shape[0] * shape[1] // len(lengths), height, width, channels)

    def one(index):
        part = coded[ends[index] - lengths[index]:ends[index]].tobytes()
        try:
            return codec.decode(part, part_shape)
        except ValueError as error:
            raise ValueError(f"its stream {index} is no {store} of {part_shape[0]} frames of {width}x{height} pixels "
                             f"({error})") from None

    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(one, range(len(lengths))))
    return np.stack(parts).reshape(*shape[:2], height, width, channels).transpose(0, 1, 4, 2, 3)


# ---- codecs -------------------------------------------------------------------------------------------------------

def encode_zip(frames, quality):
    """Without loss, deflated: the values ("v"), or their differences from the frame before ("d")."""
    change = np.diff(frames, axis=0, prepend=np.zeros_like(frames[:1]))     # modulo 256
    return min((tag + zlib.compress(values.tobytes(), 9) for tag, values in ((b"v", frames), (b"d", change))), key=len)


def decode_zip(coded, shape):
    size = int(np.prod(shape))
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(coded[1:], size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(content) != size or not inflate.eof or inflate.unused_data or coded[:1] not in (b"v", b"d"):
        raise ValueError(f"{len(content)} bytes of {size}, or more of them")
    values = np.frombuffer(content, np.uint8).reshape(shape)
    return values if coded[:1] == b"v" else values.cumsum(0, dtype=np.uint8)


def encode_picture(frames, quality, kind):
    """The frames one below the other, as one picture."""
    from PIL import Image
    tall = frames.reshape(-1, *frames.shape[2:])
    picture, file = Image.fromarray(tall[..., 0] if tall.shape[2] == 1 else tall), io.BytesIO()
    options = {"optimize": True} if kind == "JPEG" else {"method": 6}
    picture.save(file, kind, quality=quality, **options)
    return file.getvalue()


def decode_picture(coded, shape, kind):
    from PIL import Image, UnidentifiedImageError
    count, height, width, channels = shape
    try:
        with Image.open(io.BytesIO(coded), formats=(kind,)) as picture:
            if picture.size != (width, count * height) or getattr(picture, "n_frames", 1) != 1:
                raise ValueError(f"it is {picture.size[0]}x{picture.size[1]}, {getattr(picture, 'n_frames', 1)} frames")
            if picture.mode != ("L" if channels == 1 and kind == "JPEG" else "RGB"):
                raise ValueError(f"its pixels are {picture.mode}")
            size = (len(coded) - 8).to_bytes(4, "little")
            whole = coded[-2:] == b"\xff\xd9" if kind == "JPEG" else coded[4:8] == size
            if not whole:
                raise ValueError("it does not end where its bytes do")
            return np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(shape)
    except UnidentifiedImageError:
        raise ValueError(f"it is no {kind}, or damaged") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def encode_video(frames, quality, encoder, options):
    """As the bare packets of one stream, without a container, which would take more bytes than small clips."""
    import av
    frames = padded(frames)
    context = av.CodecContext.create(encoder, "w")
    context.height, context.width = frames.shape[1:3]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 25), 25
    context.thread_count, context.options = 1, {"crf": str(quality), **options}
    packets = []
    try:
        for number, frame in enumerate(frames):
            layout = "gray" if frame.shape[2] == 1 else "rgb24"
            picture = av.VideoFrame.from_ndarray(frame[..., 0] if layout == "gray" else frame, format=layout)
            picture = picture.reformat(format="yuv420p")
            picture.pts = number
            packets += context.encode(picture)
        return b"".join(map(bytes, [*packets, *context.encode(None)]))
    except av.error.FFmpegError as error:
        raise ValueError(f"{encoder} does not code frames of {context.width}x{context.height} pixels "
                         f"({error.strerror or error}): give another --store") from None


def padded(frames):
    """With sides that the encoders take: even, and of at least 32 pixels; the last row and column repeat."""
    missing = [(0, max(side + side % 2, 32) - side) for side in frames.shape[1:3]]
    return np.pad(frames, [(0, 0), *missing, (0, 0)], mode="edge")


def decode_video(coded, shape, decoder):
    import av
    from av.video.reformatter import Interpolation
    count, height, width, channels = shape
    wide = padded(np.zeros((1, height, width, 1), np.uint8)).shape[1:3]
    context = av.CodecContext.create(decoder, "r")
    context.thread_count, context.options = 1, {"max_pixels": str(2 * wide[0] * wide[1] + 4096)}
    # what FFmpeg does if not told otherwise makes colours darker by one of 255, at every store anew
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    frames = []

    def take(pictures):
        for picture in pictures:
            if len(frames) == count or (picture.height, picture.width) != wide:
                raise ValueError(f"frame {len(frames)} is {picture.width}x{picture.height}"
                                 if len(frames) < count else f"it has more than {count} frames")
            if picture.is_corrupt:
                raise ValueError(f"frame {len(frames)} is damaged")
            frame = picture.reformat(format="gray" if channels == 1 else "rgb24", interpolation=exact).to_ndarray()
            frames.append(frame.reshape(*wide, channels)[:height, :width].copy())

    try:
        for packet in [*context.parse(coded), *context.parse(None)]:
            take(context.decode(packet))
        take(context.decode(None))
    except av.error.FFmpegError as error:
        raise ValueError(f"{error.strerror or error}") from None
    if len(frames) != count:
        raise ValueError(f"it has {len(frames)} frames")
    return np.stack(frames)


def encode_h264(frames, quality, **kwargs):
    """Without x264's message about itself, a unit of type 6 that takes more bytes than a small clip. Units begin with
    0, 0, 1, which is nowhere else in a stream."""
    _, *units = encode_video(frames, quality, **kwargs).split(b"\0\0\1")
    return b"".join(b"\0\0\1" + unit for unit in units if unit[0] & 31 != 6)


def _picture(kind):
    return partial(encode_picture, kind=kind), partial(decode_picture, kind=kind)


def _video(encoder, decoder, encode=encode_video, **options):
    return partial(encode, encoder=encoder, options=options), partial(decode_video, decoder=decoder)


# asm=0: what x264 and x265 compute with vector units depends on memory that nobody has written (other bytes from run to
# run), and in x265 it ended the process at 34 and 48 pixels
CODECS = {"zip": Codec(encode_zip, decode_zip),
          "jpeg": Codec(*_picture("JPEG"), 1, 95, picture=True),
          "webp": Codec(*_picture("WEBP"), 1, 100, picture=True),
          "h264": Codec(*_video("libx264", "h264", encode_h264, preset="slow", **{"x264-params": "asm=0"}), 51, 0,
                        "libx264"),
          # other blocks than of 16 pixels, and preset slow above 96 pixels, give other bytes from run to run
          "h265": Codec(*_video("libx265", "hevc", preset="medium", **{
              "x265-params": "log-level=none:info=0:pools=none:frame-threads=1:ctu=16:asm=0"}), 51, 0, "libx265"),
          "av1": Codec(*_video("libsvtav1", "libdav1d", preset="6"), 63, 1, "libsvtav1")}
