"""DSA against naive loops over pixels and finite differences."""
import math
import sys

import pytest
import torch
import torch.nn.functional as F

from distill_utils.augment import PARAMS, PARTS, STRATEGY, Draw, parse

GEOMETRIC = ("crop", "cutout", "flip", "scale", "rotate")
NEUTRAL = "brightness=0,crop=0,cutout=0,flip=0,rotate=0,scale=1"
SAMPLES = [(1, 3, 8, 8), (3, 3, 8, 8), (3, 3, 6, 13), (3, 1, 3, 8, 8), (1, 4, 3, 8, 8), (3, 4, 3, 7, 7)]
DSA = parse(STRATEGY)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=rng(seed), dtype=dtype)


def some_draw(part, batch_size, seed=1):
    """Not siamese; the flips are mixed where there are samples to mix."""
    draw = parse(part).draw(rng(seed), batch_size)
    if part == "flip" and batch_size > 1:
        draw.numbers[:2, 0] = torch.tensor([0.1, 0.9])
    return draw


# ---- oracles: one frame (C, H, W) of one sample, pixel by pixel ---------------------------------------------------

def bilinear(image, y, x):
    """The value (C,) at a position, from the four pixels around it; 0 outside."""
    total = torch.zeros(len(image), dtype=image.dtype)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total += image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def looked_up(image, source):
    """source(y, x) of a pixel, both from the centre -> the position, from the centre, that it shows."""
    _, height, width = image.shape
    cy, cx = (height - 1) / 2, (width - 1) / 2
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = source(i - cy, j - cx)
            out[:, i, j] = bilinear(image, y + cy, x + cx)
    return out


def naive_scale(image, numbers, ratio=1.2):
    across, down = (1 / ratio + u * (ratio - 1 / ratio) for u in numbers[:2])
    return looked_up(image, lambda y, x: (y * down, x * across))


def naive_rotate(image, numbers, degrees=15):
    angle = math.radians((2 * numbers[0] - 1) * degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return looked_up(image, lambda y, x: (cos * y - sin * x, sin * y + cos * x))


def naive_crop(image, numbers, ratio=0.125):
    _, height, width = image.shape
    reach = [round(ratio * size) for size in (width, height)]       # of the sizes here none ends in .5
    right, down = (math.floor(u * (2 * r + 1)) - r for u, r in zip(numbers[:2], reach, strict=True))
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[:, i, j] = image[:, i - down, j - right]
    return out


def naive_cutout(image, numbers, ratio=0.5):
    out = image.clone()
    spans = []
    for u, size in zip(numbers[:2], image.shape[1:], strict=True):
        side = math.floor(ratio * size + 0.5)
        start = math.floor(u * (size + (1 - side % 2))) - side // 2
        spans.append(range(start, start + side))
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            if i in spans[0] and j in spans[1]:
                out[:, i, j] = 0
    return out


def naive_flip(image, numbers, probability=0.5):
    if numbers[0] >= probability:
        return image.clone()
    return torch.stack([image[:, :, j] for j in reversed(range(image.shape[2]))], 2)


def naive_color(clip, numbers):
    """Of a whole sample (T, C, H, W)."""
    clip = clip + (numbers[0] - 0.5) * 1.0
    out = torch.zeros_like(clip)
    for t in range(clip.shape[0]):
        for i in range(clip.shape[2]):
            for j in range(clip.shape[3]):
                pixel = clip[t, :, i, j]
                grey = sum(pixel) / len(pixel)
                out[t, :, i, j] = grey + (pixel - grey) * (numbers[1] * 2.0)
    mean = sum(out.flatten()) / out.numel()
    return mean + (out - mean) * (numbers[2] + 0.5)


NAIVE = {"crop": naive_crop, "cutout": naive_cutout, "flip": naive_flip, "scale": naive_scale, "rotate": naive_rotate}


def naive(part, x, numbers):
    clips = x if x.dim() == 5 else x[:, None]
    rows = [row.tolist() for row in numbers.expand(len(x), -1)]
    if part == "color":
        out = [naive_color(clip, row) for clip, row in zip(clips, rows, strict=True)]
    else:
        out = [torch.stack([NAIVE[part](frame, row) for frame in clip]) for clip, row in zip(clips, rows, strict=True)]
    return torch.stack(out).view(x.shape)


# ---- values -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", SAMPLES, ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_equals_a_loop_over_pixels(part, shape):
    x, draw = randn(*shape), some_draw(part, shape[0])
    out = DSA.apply(x, draw)
    torch.testing.assert_close(out, naive(part, x, draw.numbers))
    assert (out != x).any() or shape[0] == 1


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("part", PARTS)
def test_the_ends_of_every_range(part, size):
    """All corners of the numbers' cube [0, 1): the most that a part can do, with the cutout half outside."""
    ends = torch.tensor([0.0, 1 - 2**-50], dtype=torch.float64)
    numbers = torch.cartesian_prod(ends, ends, ends)
    x = randn(8, 3, size, size)
    torch.testing.assert_close(DSA.apply(x, Draw(part, numbers)), naive(part, x, numbers))


def test_scale_and_rotation_are_those_of_torch():
    x, numbers = randn(4, 3, 8, 8), torch.rand(4, 3, generator=rng(2), dtype=torch.float64)
    sx, sy = (1 / 1.2 + numbers[:, :2] * (1.2 - 1 / 1.2)).unbind(1)
    angle = torch.deg2rad((2 * numbers[:, 0] - 1) * 15)
    zero, cos, sin = torch.zeros(4, dtype=torch.float64), angle.cos(), angle.sin()
    for part, rows in (("scale", (sx, zero, zero, zero, sy, zero)), ("rotate", (cos, sin, zero, -sin, cos, zero))):
        grid = F.affine_grid(torch.stack(rows, 1).view(4, 2, 3), x.shape, align_corners=True)
        torch.testing.assert_close(DSA.apply(x, Draw(part, numbers)), F.grid_sample(x, grid, align_corners=True))


def test_the_parameters_that_are_given_are_used():
    x, numbers = randn(3, 3, 8, 8), torch.tensor([[0.7, 0.1, 0.3]], dtype=torch.float64)
    text = "flip=0.8,crop=0.25,cutout=0.25,rotate=40,scale=2,brightness=0.2,saturation=0.5,contrast=1.5"
    changed = parse(STRATEGY, text)
    for part, value in (("flip", 0.8), ("crop", 0.25), ("cutout", 0.25), ("rotate", 40), ("scale", 2)):
        expected = torch.stack([NAIVE[part](image, numbers[0].tolist(), value) for image in x])
        torch.testing.assert_close(changed.apply(x, Draw(part, numbers)), expected)
    y = x + 0.2 * 0.2
    y = y.mean(1, True) + (y - y.mean(1, True)) * 0.1 * 0.5
    mean = y.mean((1, 2, 3), True)
    torch.testing.assert_close(changed.apply(x, Draw("color", numbers)), mean + (y - mean) * 1.8)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 4, 3, 7, 7)], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_neutral_parameters_change_nothing(part, shape):
    numbers = torch.full((2, 3), 0.5, dtype=torch.float64)      # factors of 1 for saturation and contrast
    if part != "color":
        numbers = torch.rand(2, 3, generator=rng(), dtype=torch.float64)
    x = randn(*shape)
    torch.testing.assert_close(parse(STRATEGY, NEUTRAL).apply(x, Draw(part, numbers)), x)


# ---- clips --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part", GEOMETRIC)
def test_all_frames_of_a_clip_move_alike(part):
    x, draw = randn(3, 4, 3, 8, 8), some_draw(part, 3)
    frames = [DSA.apply(x[:, t], draw) for t in range(4)]
    torch.testing.assert_close(DSA.apply(x, draw), torch.stack(frames, 1))


@pytest.mark.parametrize("part", PARTS)
def test_a_clip_that_stands_still_goes_on_standing_still(part):
    still = randn(3, 1, 3, 8, 8).expand(-1, 4, -1, -1, -1)
    out = DSA.apply(still, some_draw(part, 3))
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=1e-14)
    torch.testing.assert_close(out[:, 0], DSA.apply(still[:, 0], some_draw(part, 3)))


def test_contrast_of_a_clip_is_about_the_mean_of_all_its_frames():
    x = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]).double()[None]        # dark, then bright
    out = DSA.apply(x, Draw("color", torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)))
    torch.testing.assert_close(out, 0.5 + (x - 0.5) * 0.5)


# ---- draws --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part", PARTS)
def test_siamese_treats_all_samples_of_both_batches_alike(part):
    draw = parse(part).draw(rng())
    real, synthetic = randn(5, 4, 3, 8, 8), randn(2, 4, 3, 8, 8, seed=1)
    real[3] = synthetic[1]
    torch.testing.assert_close(DSA.apply(real, draw)[3], DSA.apply(synthetic, draw)[1])
    torch.testing.assert_close(DSA.apply(real, draw), DSA.apply(real, Draw(part, draw.numbers.expand(5, -1))))


@pytest.mark.parametrize("part", PARTS)
def test_samples_differ_where_it_is_not_siamese(part):
    same = randn(1, 3, 8, 8).expand(16, -1, -1, -1)
    out = DSA.apply(same, parse(part).draw(rng(), 16))
    assert len(out.flatten(1).unique(dim=0)) >= (2 if part == "flip" else 6)


def test_draws_follow_the_generator_alone():
    def draws(seed):
        generator = rng(seed)
        return [DSA.draw(generator, 4) for _ in range(20)]

    state = torch.random.get_rng_state()
    for a, b in zip(draws(0), draws(0), strict=True):
        assert a.part == b.part
        torch.testing.assert_close(a.numbers, b.numbers, rtol=0, atol=0)
        x = randn(4, 3, 8, 8)
        torch.testing.assert_close(DSA.apply(x, a), DSA.apply(x, b), rtol=0, atol=0)
    assert [d.part for d in draws(0)] != [d.part for d in draws(1)]
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_part_is_drawn_equally_often_and_nothing_else():
    generator = rng()
    drawn = [DSA.draw(generator, 2) for _ in range(1200)]
    counts = [sum(draw.part == part for draw in drawn) for part in PARTS]
    assert sum(counts) == 1200 and min(counts) > 140        # 200 each: 5 standard deviations of 13
    assert {parse("flip_rotate").draw(generator).part for _ in range(50)} == {"flip", "rotate"}
    numbers = torch.cat([draw.numbers for draw in drawn])
    assert 0 <= numbers.min() < 0.01 and 0.99 < numbers.max() < 1
    torch.testing.assert_close(numbers.mean(0), torch.full((3,), 0.5).double(), rtol=0, atol=0.03)


def test_off_changes_nothing_and_draws_nothing():
    x, generator = randn(2, 3, 8, 8), rng()
    for text in ("", "none", "None"):
        off = parse(text)
        assert off.apply(x, off.draw(generator, 2)) is x
    assert torch.equal(generator.get_state(), rng().get_state())


@pytest.mark.parametrize("samples", [1, 6])
def test_a_draw_for_another_number_of_samples_is_refused(samples):
    with pytest.raises(ValueError, match=f"3 samples, but the batch has {samples}"):
        DSA.apply(randn(samples, 3, 8, 8), some_draw("color", 3))


# ---- derivatives --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (2, 2, 1, 4, 4)], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_derivatives_of_first_and_second_order(part, shape):
    x, draw = randn(*shape).requires_grad_(), some_draw(part, 2)
    assert torch.autograd.gradcheck(lambda x: DSA.apply(x, draw), x)
    # cubed, since the parts themselves are linear: their second derivative alone would be zero
    assert torch.autograd.gradgradcheck(lambda x: DSA.apply(x, draw) ** 3, x)


@pytest.mark.parametrize("part", PARTS)
def test_a_gradient_of_gradients_reaches_the_samples(part):
    """What DC and MTT differentiate: the gradient of a network that saw augmented samples, by the samples."""
    weight, label, draw = randn(2, 3 * 16, seed=3).requires_grad_(), torch.tensor([0, 1]), some_draw(part, 2)

    def distance(x):
        loss = F.cross_entropy(F.tanh(DSA.apply(x, draw).flatten(1)) @ weight.T, label)
        return torch.autograd.grad(loss, weight, create_graph=True)[0].square().sum()

    assert torch.autograd.gradcheck(distance, randn(2, 3, 4, 4).requires_grad_())


@pytest.mark.parametrize("part", PARTS)
def test_float32_stays_float32_and_is_near_float64(part):
    x, draw = randn(3, 4, 3, 16, 16), some_draw(part, 3)
    out = DSA.apply(x.float(), draw)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), DSA.apply(x, draw), rtol=0, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("part", PARTS)
def test_a_gpu_gives_the_same_and_has_second_derivatives(part):
    x, draw = randn(2, 3, 4, 4), some_draw(part, 2)
    torch.testing.assert_close(DSA.apply(x.cuda(), draw).cpu(), DSA.apply(x, draw))
    y = x.float().cuda().requires_grad_()       # float32 is what cuDNN takes
    gradient, = torch.autograd.grad(DSA.apply(y, draw).pow(3).sum(), y, create_graph=True)
    z = x.clone().requires_grad_()
    expected, = torch.autograd.grad(DSA.apply(z, draw).pow(3).sum(), z, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(gradient.sum(), y)[0].cpu().double(),
                               torch.autograd.grad(expected.sum(), z)[0], rtol=1e-3, atol=1e-3)


# ---- flags --------------------------------------------------------------------------------------------------------

def test_the_defaults_are_those_of_dsa():
    assert DSA.parts == ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert DSA.params == {"flip": 0.5, "crop": 0.125, "cutout": 0.5, "rotate": 15, "scale": 1.2, "brightness": 1,
                          "saturation": 2, "contrast": 0.5}
    assert parse("flip", " rotate=10, cutout = 0.25").params == {**DSA.params, "rotate": 10, "cutout": 0.25}


@pytest.mark.parametrize("strategy", ["blur", "color_blur", "color__flip", "flip_"])
def test_unknown_parts_are_refused_with_the_choices(strategy):
    wrong = next(part for part in strategy.split("_") if part not in PARTS)
    with pytest.raises(ValueError, match=f"unknown part {wrong!r}.*color, crop, cutout, flip, scale, rotate"):
        parse(strategy)


def test_a_repeated_part_is_refused():
    with pytest.raises(ValueError, match="repeated part 'flip'"):
        parse("flip_crop_flip")


@pytest.mark.parametrize("param", ["noise=1", "rotate=10,,flip=1", "rotate=10,", "=3"])
def test_unknown_parameters_are_refused_with_the_choices(param):
    with pytest.raises(ValueError, match=f"unknown name.*{', '.join(PARAMS)}"):
        parse(STRATEGY, param)


@pytest.mark.parametrize("param", ["flip=1.1", "flip=-0.1", "crop=2", "cutout=1.5", "rotate=181", "scale=0.9",
                                   "brightness=-1", "saturation=inf", "contrast=nan", "rotate=ten", "rotate", "scale="])
def test_values_out_of_range_are_refused(param):
    name = param.partition("=")[0]
    with pytest.raises(ValueError, match=f"--dsa_param {name}=.*give a number from"):
        parse(STRATEGY, param)


def test_without_kornia_only_the_parts_that_need_it_are_refused(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kornia"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kornia", None)        # as if not installed
    for part in ("crop", "scale", "rotate"):
        with pytest.raises(ValueError, match="pip install kornia"):
            parse(f"flip_{part}")
    light = parse("color_cutout_flip")
    assert light.apply(randn(2, 3, 8, 8), light.draw(rng(), 2)).shape == (2, 3, 8, 8)
