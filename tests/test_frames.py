"""One frame: whatever picture it is, it has the colours, the direction and the size that it should, or is named."""
import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from distill_utils import frames as module
from distill_utils.dataset import DataError
from distill_utils.frames import decode, frame_size
from test_clips import no_decoding


def encoded(image, kind="JPEG", **kwargs):
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}) | kwargs)
    return stream.getvalue()


@pytest.fixture(params=["simplejpeg", "Pillow alone"])
def decoder(request, monkeypatch):
    """Both ways to read a JPEG."""
    if request.param != "simplejpeg":
        monkeypatch.setattr(module, "simplejpeg", None)
    elif module.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    return request.param


def gradient(width=48, height=32):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def pixels_of(file, size=16):
    return decode(file, size).permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [16, 30])
def test_a_frame_is_turned_as_its_exif_says(tmp_path, decoder, value, kind, size):
    """0 and 9 mean nothing. At 16 pixels a JPEG is decoded at a smaller size, at 30 at its own."""
    exif, file = Image.Exif(), tmp_path / "x.jpg"
    exif[0x112] = value
    file.write_bytes(encoded(gradient(), kind, exif=exif))
    upright = ImageOps.exif_transpose(Image.open(file))
    wanted = tmp_path / "upright.png"
    wanted.write_bytes(encoded(upright, "PNG"))
    assert abs(pixels_of(file, size) - pixels_of(wanted, size)).max() <= 4
    assert frame_size(file) == upright.size == ((32, 48) if value in (5, 6, 7, 8) else (48, 32))


@pytest.mark.parametrize("before", [b"", b"\xff\xe0\x00\x06ABCD\xff\xfe\x00\x04hi"])
def test_exif_that_is_damaged_and_xmp(tmp_path, decoder, before):
    whole, file = encoded(gradient()), tmp_path / "x.jpg"
    for content, turned in ((b"Exif\0\0not a TIFF at all", False), (b"Exif\0\0", False), (
            b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>', True)):
        segment = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
        file.write_bytes(whole[:2] + before + segment + whole[2:])
        assert frame_size(file) == ((32, 48) if turned else (48, 32))
        assert pixels_of(file).shape == (16, 16, 3)


def test_16_bits_are_scaled_and_not_cut_off(tmp_path):
    grey = np.linspace(0, 65535, 256).round(-2).clip(0, 65535).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    wanted = np.rint(grey / 257).astype(int)
    assert (pixels_of(tmp_path / "x.png") == wanted[..., None]).all() and wanted.max() == 255


@pytest.mark.parametrize("mode, kind, error", [
    ("L", "PNG", 0), ("1", "PNG", 0), ("P", "PNG", 0), ("LA", "PNG", 0), ("RGBA", "PNG", 0), ("L", "JPEG", 4),
    ("CMYK", "JPEG", 4), ("P", "GIF", 0), ("RGB", "BMP", 0), ("RGB", "JPEG", 4)])
def test_every_kind_of_picture_has_its_colours(tmp_path, decoder, mode, kind, error):
    image = gradient(16, 16).convert(mode)
    if mode == "RGBA":
        image.putalpha(255)
    (tmp_path / "x.jpg").write_bytes(encoded(image, kind, **({"subsampling": 0} if kind == "JPEG" else {})))
    assert abs(pixels_of(tmp_path / "x.jpg") - np.asarray(image.convert("RGB")).astype(int)).max() <= error


def test_inverted_cmyk_is_read_alike_by_both_decoders(tmp_path, monkeypatch):
    content = encoded(gradient(16, 16).convert("CMYK"), subsampling=0)
    marker = content.find(b"Adobe") + 11        # the transform: 2 is YCCK
    for transform in (0, 2):
        (tmp_path / "x.jpg").write_bytes(content[:marker] + bytes([transform]) + content[marker + 1:])
        fast = pixels_of(tmp_path / "x.jpg")
        with monkeypatch.context() as patch:
            patch.setattr(module, "simplejpeg", None)
            assert abs(fast - pixels_of(tmp_path / "x.jpg")).max() <= 2


@pytest.mark.parametrize("image, kwargs", [
    (gradient().convert("RGBA"), {}), (gradient().quantize(8), {"transparency": 3}),
    (Image.fromarray(np.full((9, 9), 1000, np.uint16)), {"transparency": 1000})], ids=["alpha", "palette", "16 bits"])
def test_transparent_pixels_have_no_colour(tmp_path, image, kwargs):
    if image.mode == "RGBA":
        image.putpixel((3, 3), (0, 0, 0, 128))
    (tmp_path / "x.png").write_bytes(encoded(image, "PNG", **kwargs))
    with pytest.raises(DataError, match=r"cannot read the frame .*x\.png .it has transparent pixels.*save it without"):
        decode(tmp_path / "x.png", 16)


def test_a_jpeg_that_is_damaged_inside_is_named(tmp_path):
    if module.simplejpeg is None:
        pytest.skip("Pillow fills up with grey")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kwargs in ({}, {"progressive": True}):
        whole = encoded(noise, **kwargs)
        half = len(whole) // 2
        for content in (whole[:half] + b"\xff\xd9", whole[:half] + bytes(half // 3) + whole[half + half // 3:]):
            (tmp_path / "x.jpg").write_bytes(content)
            with pytest.raises(DataError, match=r"cannot read the frame .*x\.jpg .Corrupt JPEG data"):
                decode(tmp_path / "x.jpg", 64)
            frame_size(tmp_path / "x.jpg")      # it has its head and its end


def test_what_the_faster_decoder_refuses_is_read_by_pillow(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(encoded(gradient(16, 16), subsampling=0))
    wanted = pixels_of(tmp_path / "x.jpg")

    def refuse(*args, **kwargs):
        raise ValueError("Unsupported color conversion request")

    for name in ("decode_jpeg", "decode_jpeg_header"):
        with monkeypatch.context() as patch:
            patch.setattr(module.simplejpeg, name, refuse)
            assert abs(pixels_of(tmp_path / "x.jpg") - wanted).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_too_large_is_named_before_it_is_decoded(tmp_path, decoder, monkeypatch, kind):
    (tmp_path / "x.jpg").write_bytes(encoded(gradient(40, 30), kind))
    monkeypatch.setattr(module, "MAX_PIXELS", 40 * 30)
    decode(tmp_path / "x.jpg", 16)
    monkeypatch.setattr(module, "MAX_PIXELS", 40 * 30 - 1)
    monkeypatch.setattr(module, "_rgb", no_decoding)
    if module.simplejpeg:
        monkeypatch.setattr(module.simplejpeg, "decode_jpeg", no_decoding)
    for read in (lambda file: decode(file, 16), frame_size):
        with pytest.raises(DataError, match=r"x\.jpg .it has 40 x 30 pixels, where 1,199 are the most: make it sm"):
            read(tmp_path / "x.jpg")


def test_what_is_no_regular_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "link", "circle", "zero"):
        for read in (lambda file: decode(file, 16), frame_size):
            with pytest.raises(DataError, match=f"cannot read the frame .*{name}.jpg .it is no regular file"):
                read(tmp_path / f"{name}.jpg")
