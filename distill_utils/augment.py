"""DSA: one differentiable augmentation for real and synthetic samples alike, of images and of clips.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", arXiv 2102.08259. Every batch gets ONE
part of the strategy, drawn at random; how strongly it acts is drawn for each sample, or (siamese) once for all of them.
All frames of a clip are treated alike. Where nothing is left to show there is 0, the mean colour of normalised samples.
"""
import math
from typing import NamedTuple

import torch
from torch import Tensor

STRATEGY = "color_crop_cutout_flip_scale_rotate"
PARAMS = {          # name -> (default, lowest, highest)
    "flip": (0.5, 0.0, 1.0),                    # probability
    "crop": (0.125, 0.0, 1.0),                  # shifts of up to this share of the size
    "cutout": (0.5, 0.0, 1.0),                  # side of the square, as a share of the size
    "rotate": (15.0, 0.0, 180.0),               # degrees, to either side
    "scale": (1.2, 1.0, math.inf),              # factors between 1 / this and this
    "brightness": (1.0, 0.0, math.inf),         # width of the range of what is added
    "saturation": (2.0, 0.0, math.inf),         # highest factor
    "contrast": (0.5, 0.0, math.inf),           # lowest factor; the highest is one more
}


class Draw(NamedTuple):
    """What happens to a batch: a part's name and, for each sample, numbers from [0, 1) that say how strongly.

    numbers: (B, 3) float64 on the CPU, of which a part takes as many as it needs; (1, 3) is siamese, and fits any B.
    """
    part: str
    numbers: Tensor


class Augmentation(NamedTuple):
    """The parts to draw from (none: off) and the values of all PARAMS. Made by `parse`."""
    parts: tuple
    params: dict

    def draw(self, generator, batch_size=1):
        """A Draw for a batch, from a CPU generator: batch_size 1, the default, is siamese. None where DSA is off, and
        then nothing is taken from the generator."""
        if not self.parts:
            return None
        part = self.parts[torch.randint(len(self.parts), (), generator=generator)]
        # the same for every part: what is drawn later does not depend on which part this was
        return Draw(part, torch.rand(batch_size, 3, generator=generator, dtype=torch.float64))

    def apply(self, x, draw):
        """The augmented batch: x (B, C, H, W) or (B, T, C, H, W) -> the same shape, differentiable in x to any order.

        A draw of None leaves x alone. A draw for another number of samples raises ValueError.
        """
        if draw is None:
            return x
        if len(draw.numbers) not in (1, len(x)):
            raise ValueError(f"the draw is for {len(draw.numbers)} samples, but the batch has {len(x)}: draw for this "
                             "batch, or for 1 (siamese), which fits any")
        return PARTS[draw.part](x, draw.numbers.unbind(1), self.params)


def parse(strategy, param=""):
    """The Augmentation of --dsa_strategy ("flip_rotate"; "" or "none": off) and --dsa_param ("rotate=10,cutout=0.25").

    What these cannot mean raises ValueError, and so does a strategy that needs kornia where it is not installed.
    """
    parts = () if strategy.lower() in ("", "none") else tuple(strategy.split("_"))
    for part in parts:
        if part not in PARTS or parts.count(part) > 1:
            raise ValueError(f"{'unknown' if part not in PARTS else 'repeated'} part {part!r} of --dsa_strategy "
                             f"{strategy!r}: join some of {', '.join(PARTS)} by _, or give none")
    params = {name: default for name, (default, _, _) in PARAMS.items()}
    for item in param.split(",") if param else ():
        name, _, text = (word.strip() for word in item.partition("="))
        if name not in PARAMS:
            raise ValueError(f"unknown name {name!r} in --dsa_param {param!r}: give name=value, separated by commas, "
                             f"with names of {', '.join(PARAMS)}")
        _, low, high = PARAMS[name]
        try:
            params[name] = float(text)
        except ValueError:
            params[name] = math.nan
        if not (low <= params[name] <= high and math.isfinite(params[name])):
            raise ValueError(f"--dsa_param {name}={text}: give a number from {low:g} to {high:g}")
    if {"crop", "rotate", "scale"} & set(parts):
        _kornia()
    return Augmentation(parts, params)


def _color(x, numbers, params):
    """Brightness, saturation and contrast, one after another."""
    u, v, w = (_per_sample(number, x) for number in numbers)
    x = x + (u - 0.5) * params["brightness"]
    x = x.mean(-3, keepdim=True).lerp(x, v * params["saturation"])
    # over all frames of a clip: means of their own would make it flicker
    return x.mean(tuple(range(1, x.dim())), keepdim=True).lerp(x, w + params["contrast"])


def _crop(x, numbers, params):
    """A shift by whole pixels: what a crop from the zero-padded sample gives."""
    reach = [_pixels(params["crop"], size) for size in (x.shape[-1], x.shape[-2])]
    return _affine(x, shift=[(u * (2 * r + 1)).floor() - r for u, r in zip(numbers[:2], reach, strict=True)])


def _cutout(x, numbers, params):
    """A square of zeros whose centre is anywhere in the sample: at its border, part of the square is outside."""
    inside = []
    for u, size in zip(numbers[:2], x.shape[-2:], strict=True):
        side = _pixels(params["cutout"], size)
        start = (u * (size + 1 - side % 2)).floor()[:, None] - side // 2
        pixel = torch.arange(size)
        inside.append((start <= pixel) & (pixel < start + side))
    keep = ~(inside[0][:, :, None] & inside[1][:, None, :])
    return x * keep.view(-1, *(1,) * (x.dim() - 3), *x.shape[-2:]).to(x, non_blocking=True)


def _flip(x, numbers, params):
    """Left to right, with the probability that is given."""
    return torch.where(_per_sample(numbers[0] < params["flip"], x) > 0, x.flip(-1), x)


def _scale(x, numbers, params):
    """About the centre, width and height each by its own factor. As in DSA it is the factor of the positions that are
    looked up, so those above 1 shrink."""
    low, high = 1 / params["scale"], params["scale"]
    return _affine(x, scale=[1 / (low + u * (high - low)) for u in numbers[:2]])


def _rotate(x, numbers, params):
    """About the centre, clockwise where the angle is positive."""
    return _affine(x, angle=(2 * numbers[0] - 1) * params["rotate"])


PARTS = {"color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate}


def _per_sample(numbers, x):
    """(B,) -> (B, 1, ...), of x's type and device, to act on all of a sample."""
    return numbers.view(-1, *(1,) * (x.dim() - 1)).to(x, non_blocking=True)


def _pixels(ratio, size):
    return int(ratio * size + 0.5)


def _kornia():
    try:
        from kornia.geometry import transform
    except ImportError as error:
        raise ValueError("crop, scale and rotate of --dsa_strategy need kornia: pip install kornia") from error
    return transform


def _affine(x, shift=None, scale=None, angle=None):
    """x shifted (pixels to the right, down), scaled (width, height) or turned (degrees), bilinear.

    What is given is (B,) float64, shift and scale a pair of it. Frames are channels to kornia: one matrix and one grid
    a clip, so that no frame moves on its own.
    """
    kornia = _kornia()
    zeros = torch.zeros_like(angle if angle is not None else (shift or scale)[0])
    pair = torch.stack((zeros, zeros), 1)
    matrix = kornia.get_affine_matrix2d(
        translations=torch.stack(shift, 1) if shift else pair,
        center=pair + torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1]) / 2,
        scale=torch.stack(scale, 1) if scale else pair + 1,
        angle=zeros if angle is None else angle)[:, :2].to(x, non_blocking=True)
    return _Linear.apply(x.flatten(1, -3), lambda y: kornia.warp_affine(y, matrix, y.shape[-2:]), False).view_as(x)


class _Linear(torch.autograd.Function):
    """A map that is linear in x (or its transpose), with derivatives of any order: by definition the derivative of the
    one is the other. grid_sample, on which kornia's warps stand, has no second derivative in cuDNN and older torch."""

    @staticmethod
    def forward(ctx, x, function, transpose):
        ctx.function, ctx.transpose = function, transpose
        if not transpose:
            return function(x)
        with torch.enable_grad():
            zeros = torch.zeros_like(x, requires_grad=True)
            return torch.autograd.grad(function(zeros), zeros, x)[0]

    @staticmethod
    def backward(ctx, gradient):
        return _Linear.apply(gradient, ctx.function, not ctx.transpose), None, None
