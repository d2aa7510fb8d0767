"""The networks, and one table NETWORKS of name -> constructor.

    net = lookup("ConvNet3D")(spec)      # spec: anything with num_classes, frames, size (square pixels) and channels
    net(x)                               # (B, K) logits
    net.embed(x)                         # (B, D) the features that the logits are made from, never with dropout in them

Letters: B batch, K classes, T frames, C channels, H W size, D features. A video network takes (B, T, C, H, W), an image
network (B, C, H, W); `modality(name)` says which. Initial weights are torch's defaults, drawn from torch's global
generator, which the caller seeds.

Sources: ConvNet3D and the ConvNet per frame, Wang, Xu, Lu, Li, CVPR 2024, arXiv 2312.00362; the image networks, Zhao,
Mopuri, Bilen, ICLR 2021, arXiv 2006.05929.
"""

from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

CACHE = 32 << 20  # bytes of the largest map of the clips that a CPU takes at a time

ACTIVATIONS = {"relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "swish": nn.SiLU}
POOLINGS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
NORMS = {
    "none": lambda channels, side: nn.Identity(),
    "batch": lambda channels, side: nn.BatchNorm2d(channels),
    "layer": lambda channels, side: nn.LayerNorm((channels, side, side)),
    "group": lambda channels, side: nn.GroupNorm(4, channels),
    # One group per channel is instance norm. On a 1x1 map a channel minus its own mean is zero, which would wipe out
    # the signal (and torch refuses it for a batch of one), so such a map is passed on as it is.
    "instance": lambda channels, side: nn.GroupNorm(channels, channels) if side > 1 else nn.Identity(),
}


def space_to_depth_conv(conv, x):
    """conv(x) of stride (1, 2, 2) as one of stride 1 at half the size, on four times the channels: every other pixel,
    down and right, becomes a channel (space to depth). The same sums in another order. With few channels, a CPU takes
    half the time for gradients to the clips this way, and two thirds for their derivatives."""
    kernel, (_, *padding) = conv.kernel_size, conv.padding

    def space_to_depth(y):  # (N, C, T, H, W) -> (N, 4 C, T, H / 2, W / 2)
        y = y.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)
        return y.contiguous(memory_format=torch.channels_last_3d)

    rows, columns = (side % 2 for side in x.shape[3:])
    x = F.pad(x, (padding[1], padding[1] + columns, padding[0], padding[0] + rows))
    weight = F.pad(conv.weight, (0, kernel[2] % 2, 0, kernel[1] % 2))
    return F.conv3d(space_to_depth(x), space_to_depth(weight), conv.bias, padding=(conv.padding[0], 0, 0))


def convolve(conv, x, dtype):
    """conv(x) of a Conv3d in the type of the clips: with bfloat16, weights cast for the call, and the result of it."""
    if dtype != torch.bfloat16:
        if x.device.type != "cpu":
            return conv(x)
        first = x.requires_grad and conv.in_channels < 8 and conv.stride == (1, 2, 2)
        # Channels last, convolutions take up to a quarter less time on a CPU, and the pools after them a third.
        return space_to_depth_conv(conv, x) if first else conv(x.contiguous(memory_format=torch.channels_last_3d))
    # Where a convolution leaves one pixel, a CPU's bfloat16 gradients of its weights are wrong (torch 2.14). Such small
    # maps cost little in float32.
    if x.device.type == "cpu" and min(x.shape[3:]) < 4:
        return conv(x.float()).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d)  # the layout that bfloat16 kernels are fast in
    return F.conv3d(x, conv.weight.to(dtype), conv.bias.to(dtype), conv.stride, conv.padding)


def own_precision(x):
    """For a network that casts by itself: no autocast, which would pool bfloat16 clips in float32."""
    return torch.autocast(x.device.type, enabled=False) if x.dtype == torch.bfloat16 else nullcontext()


class ConvNet3D(nn.Module):
    """3D ConvNet on clips, with no norm layer. The field calls it MiniC3D.

    (B, T, C, H, W) -> (B, K). 3,647,666 parameters at 50 classes. D is 2,048 at 16x112x112 and 256 at 8x64x64.
    width: channels of the first block; the blocks after it have twice as many.
    The published width is 64 and the published depth 3. arXiv 2312.00362.
    """

    modality = "video"

    def __init__(self, spec, depth=3, width=64):
        super().__init__()
        widths = (width,) + (2 * width,) * (depth - 1)
        self.convs = nn.ModuleList(
            nn.Conv3d(before, after, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3))
            for before, after in pairwise((spec.channels, *widths))
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv3d(widths[-1], spec.num_classes, 1)

    def feature_map(self, x):
        """(B, T, C, H, W) -> (B, width, T', H', W')."""
        if x.device.type != "cpu":
            return self._feature_map(x)
        # a few clips at a time, so that a map is still in the processor's cache when the next layer asks for it
        _, frames, _, height, width = x.shape
        of_clip = self.convs[0].out_channels * frames * height * width  # bytes: of floats, a quarter of the pixels
        return torch.cat([self._feature_map(part) for part in x.split(max(1, CACHE // of_clip))])

    def _feature_map(self, x):
        """The same, of all clips at once."""
        x, dtype = x.transpose(1, 2), x.dtype
        with own_precision(x):
            for i, conv in enumerate(self.convs):
                x = convolve(conv, x, dtype)
                # A short or small clip has less left than the kernel asks for.
                kernel = [min(k, left) for k, left in zip((1 if i == 0 else 2, 2, 2), x.shape[2:], strict=True)]
                # ReLU and maximum commute, values and gradients alike; after the pool a quarter or an eighth is left.
                x = F.relu(F.max_pool3d(x, kernel), inplace=True)
        return x

    def embed(self, x):
        """(B, T, C, H, W) -> (B, D), the flattened map before the last pool."""
        return self.feature_map(x).flatten(1)

    def forward(self, x):
        with own_precision(x):
            x = self.feature_map(x)
            x = x.float() if x.dtype == torch.bfloat16 else x  # logits in bfloat16 would tie
            frames, height, width = x.shape[2:]
            # All that is left in space, two steps in time: the published (2, 2, 2) at 112 pixels and (2, 1, 1) at 64.
            x = F.avg_pool3d(x, (min(2, frames), height, width), stride=1)
            x = self.classifier(self.dropout(x))  # (B, K, T'', 1, 1)
            return x.flatten(2).max(dim=2).values


def conv_stack(channels, side, plan, act, norm, pool):
    """Convolution, norm, activation and perhaps a pool by 2, for each row (width, kernel, padding, pooled) of `plan`.

    channels, side: of the images. Returns the layers, the channels of the last map and its side in pixels.
    """
    layers = []
    for i, (width, kernel, padding, pooled) in enumerate(plan):
        if i == 0 and side == 28:
            padding += 2  # the 28 pixels of MNIST are padded to 32, as DC does, so that they halve five times
        side += 2 * padding - kernel + 1
        layers += [nn.Conv2d(channels, width, kernel, padding=padding), NORMS[norm](width, side), ACTIVATIONS[act]()]
        if pooled and pool != "none" and side > 1:  # a 1x1 map has nothing left to pool
            layers.append(POOLINGS[pool](2))
            side //= 2
        channels = width
    return nn.Sequential(*layers), channels, side


class ConvNet(nn.Module):
    """A stack of convolutions, hidden linear layers if any, a linear classifier. (B, C, H, W) -> (B, K).

    With neither `plan` nor `hidden` it is the usual ConvNet: `depth` blocks of 3x3 convolution, norm, activation, pool;
    320,010 parameters for 10 classes at 32 pixels; D = width * (H / 2^depth)^2.
    plan: rows of `conv_stack`, which replace width and depth.
    hidden: widths of the linear layers between the map and the classifier.
    arXiv 2006.05929.
    """

    modality = "image"

    def __init__(self, spec, width=128, depth=3, act="relu", norm="instance", pool="avg", plan=None, hidden=()):
        super().__init__()
        plan = [(width, 3, 1, True)] * depth if plan is None else plan
        self.features, channels, side = conv_stack(spec.channels, spec.size, plan, act, norm, pool)
        sizes = (channels * side * side, *hidden)
        self.hidden = nn.Sequential()
        for before, after in pairwise(sizes):
            self.hidden.extend([nn.Linear(before, after), ACTIVATIONS[act]()])
        self.classifier = nn.Linear(sizes[-1], spec.num_classes)

    def embed(self, x):
        """(B, C, H, W) -> (B, D), what the classifier sees."""
        return self.hidden(self.features(x).flatten(1))

    def forward(self, x):
        return self.classifier(self.embed(x))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. (B, before, H, W) -> (B, after, H', W'); H' is `self.side`.

    side: H. stride: 1 or 2. average: halve by average pooling in place of a strided convolution.
    """

    def __init__(self, before, after, stride, side, norm, average):
        super().__init__()
        pooled = average and stride > 1 and side > 1
        step = 1 if average else stride
        middle = (side - 1) // step + 1  # side after the first convolution
        self.side = middle // 2 if pooled else middle
        pool = [nn.AvgPool2d(2)] if pooled else []
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=step, padding=1, bias=False),
            NORMS[norm](after, middle),
            nn.ReLU(),
            *pool,
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            NORMS[norm](after, self.side),
        )
        self.shortcut = nn.Identity()
        if before != after or stride > 1:
            # Pooling and a 1x1 convolution commute; pooled first, the convolution costs a quarter.
            conv = nn.Conv2d(before, after, 1, stride=step, bias=False)
            self.shortcut = nn.Sequential(*pool, conv, NORMS[norm](after, self.side))

    def forward(self, x):
        return F.relu(self.residual(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images: 3x3 stem without a pool, four stages, average over the map. (B, C, H, W) -> (B, K).

    D is 512; 11,173,962 parameters for 10 classes. average: average pooling in place of strided convolutions, and the
    whole map, 4x4 at 32 pixels, goes to the classifier: D is 512 * (H / 8)^2; 11,250,762 parameters for 10 classes at
    32 pixels. arXiv 1512.03385, 2006.05929.
    """

    modality = "image"

    def __init__(self, spec, norm="instance", average=False):
        super().__init__()
        stem = nn.Conv2d(spec.channels, 64, 3, padding=1, bias=False)
        layers = [stem, NORMS[norm](64, spec.size), nn.ReLU()]
        before, side = 64, spec.size
        for after, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            for stride in (first_stride, 1):
                layers.append(ResidualBlock(before, after, stride, side, norm, average))
                before, side = after, layers[-1].side
        self.features = nn.Sequential(*layers)
        self.average = average
        self.classifier = nn.Linear(before * (side * side if average else 1), spec.num_classes)

    def embed(self, x):
        """(B, C, H, W) -> (B, D), what the classifier sees."""
        maps = self.features(x)
        return maps.flatten(1) if self.average else maps.mean((2, 3))

    def forward(self, x):
        return self.classifier(self.embed(x))


class MeanOverTime(nn.Module):
    """(B, T, F) -> (B, F), for any T."""

    def __init__(self, features, frames):
        super().__init__()
        self.size = features

    def forward(self, x):
        return x.mean(1)


class WeightsOverTime(nn.Module):
    """(B, T, F) -> (B, F): a weighted sum of the frames, with a weight for each feature and frame, and a bias for each
    feature. Both start as standard normal numbers, as published. T is fixed."""

    def __init__(self, features, frames):
        super().__init__()
        self.size = features
        self.weight = nn.Parameter(torch.randn(frames, features))
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        return (x * self.weight).sum(1) + self.bias


class MLPOverTime(nn.Module):
    """(B, T, F) -> (B, size): one linear layer shared by the frames, their outputs side by side, one more. T is fixed.

    Straight from T * F numbers the first layer alone would hold 51 million weights at 16x112x112.
    """

    def __init__(self, features, frames, size=128):
        super().__init__()
        self.size = size
        self.frame = nn.Sequential(nn.Linear(features, size), nn.ReLU())
        self.clip = nn.Sequential(nn.Linear(frames * size, size), nn.ReLU())

    def forward(self, x):
        return self.clip(self.frame(x).flatten(1))


class RecurrentOverTime(nn.Module):
    """(B, T, F) -> (B, size): one recurrent layer, for any T. Its hidden state after the last frame or, with average,
    the mean of those after each frame.

    cell: nn.RNNCell, nn.LSTMCell or nn.GRUCell. It is stepped here, and not by nn.RNN, nn.LSTM and nn.GRU, because
    cuDNN's recurrent layers have no second derivative, which trajectory matching needs, and no first one in eval mode.
    Weights, initial draw and output are the same. size: 128, or with share F / share.
    """

    def __init__(self, features, frames, cell, share=None, average=False):
        super().__init__()
        self.size = features // share if share else 128
        self.average = average
        self.cell = cell(features, self.size)

    def forward(self, x):
        state, outputs = None, []
        for frame in x.unbind(1):
            state = self.cell(frame, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)  # an LSTM's state is (hidden, cell)
        return torch.stack(outputs).mean(0) if self.average else outputs[-1]


PUBLISHED_OVER_TIME = {
    "Mean": MeanOverTime,
    "MLP": WeightsOverTime,
    "RNN": partial(RecurrentOverTime, cell=nn.RNNCell, share=8, average=True),
    "LSTM": partial(RecurrentOverTime, cell=nn.LSTMCell, share=1, average=True),
    "GRU": partial(RecurrentOverTime, cell=nn.GRUCell, share=8, average=True),
}
SMALL_OVER_TIME = {  # our own: 128 numbers a clip, so that few bytes and little time are enough
    "MLP": MLPOverTime,
    "RNN": partial(RecurrentOverTime, cell=nn.RNNCell),
    "LSTM": partial(RecurrentOverTime, cell=nn.LSTMCell),
    "GRU": partial(RecurrentOverTime, cell=nn.GRUCell),
}


class VideoConvNet(nn.Module):
    """The depth-3 ConvNet on each frame, then `over_time`, then a linear classifier. (B, T, C, H, W) -> (B, K).

    over_time: makes of (features of a frame F, frames T) a module (B, T, F) -> (B, D) with D as `size`; F is
    width * (H / 8)^2. side: of larger clips only the central side x side pixels are seen (published: 64).
    arXiv 2312.00362.
    """

    modality = "video"

    def __init__(self, spec, over_time, width=128, side=None):
        super().__init__()
        self.side = min(side or spec.size, spec.size)
        plan = [(width, 3, 1, True)] * 3
        self.features, channels, side = conv_stack(spec.channels, self.side, plan, "relu", "instance", "avg")
        self.over_time = over_time(channels * side * side, spec.frames)
        self.classifier = nn.Linear(self.over_time.size, spec.num_classes)

    def embed(self, x):
        """(B, T, C, H, W) -> (B, D), what the classifier sees."""
        begin = (x.shape[-1] - self.side) // 2
        x = x.narrow(3, begin, self.side).narrow(4, begin, self.side)
        frames = self.features(x.flatten(0, 1)).flatten(1)  # (B * T, F)
        return self.over_time(frames.unflatten(0, x.shape[:2]))

    def forward(self, x):
        return self.classifier(self.embed(x))


# Rows of conv_stack: (width, kernel, padding, pooled).
LENET = [(6, 5, 0, True), (16, 5, 0, True)]
ALEXNET = [(128, 5, 2, True), (192, 5, 2, True), (256, 3, 1, False), (192, 3, 1, False), (192, 3, 1, True)]
VGG11 = [(64, 3, 1, True), (128, 3, 1, True)] + [
    (width, 3, 1, pooled) for width in (256, 512, 512) for pooled in (False, True)
]

NETWORKS = {
    "ConvNet3D": ConvNet3D,
    "ConvNet3DW16": partial(ConvNet3D, width=16),
    "ConvNet3DW32": partial(ConvNet3D, width=32),
    "ConvNet3DD1": partial(ConvNet3D, depth=1),
    "ConvNet3DD2": partial(ConvNet3D, depth=2),
    "ConvNet3DD2W16": partial(ConvNet3D, depth=2, width=16),
    "ConvNet3DD2W32": partial(ConvNet3D, depth=2, width=32),
    **{f"VideoConvNet{name}": partial(VideoConvNet, over_time=layer, side=64)
       for name, layer in PUBLISHED_OVER_TIME.items()},
    **{f"VideoConvNet{name}_small": partial(VideoConvNet, over_time=layer) for name, layer in SMALL_OVER_TIME.items()},
    "VideoConvNetMeanW32": partial(VideoConvNet, over_time=MeanOverTime, width=32),
    **{f"VideoConvNet{name}W32": partial(VideoConvNet, over_time=layer, width=32)
       for name, layer in SMALL_OVER_TIME.items()},
    "MLP": partial(ConvNet, plan=(), hidden=(128, 128)),
    "ConvNet": ConvNet,
    **{f"ConvNetD{depth}": partial(ConvNet, depth=depth) for depth in range(1, 9)},
    **{f"ConvNetW{width}": partial(ConvNet, width=width) for width in (32, 64, 128, 256)},
    **{f"ConvNetD{depth}W32": partial(ConvNet, depth=depth, width=32) for depth in (2, 3, 4)},
    "ConvNetAS": partial(ConvNet, act="sigmoid"),
    "ConvNetAR": partial(ConvNet, act="relu"),
    "ConvNetAL": partial(ConvNet, act="leakyrelu"),
    "ConvNetASwish": partial(ConvNet, act="swish"),
    "ConvNetASwishBN": partial(ConvNet, act="swish", norm="batch"),
    "ConvNetNN": partial(ConvNet, norm="none"),
    "ConvNetBN": partial(ConvNet, norm="batch"),
    "ConvNetLN": partial(ConvNet, norm="layer"),
    "ConvNetIN": partial(ConvNet, norm="instance"),
    "ConvNetGN": partial(ConvNet, norm="group"),
    "ConvNetNP": partial(ConvNet, pool="none"),
    "ConvNetMP": partial(ConvNet, pool="max"),
    "ConvNetAP": partial(ConvNet, pool="avg"),
    "LeNet": partial(ConvNet, plan=LENET, hidden=(120, 84), norm="none", pool="max"),
    "AlexNet": partial(ConvNet, plan=ALEXNET, norm="none", pool="max"),
    "AlexNetBN": partial(ConvNet, plan=ALEXNET, norm="batch", pool="max"),
    "VGG11": partial(ConvNet, plan=VGG11, norm="instance", pool="max"),
    "VGG11BN": partial(ConvNet, plan=VGG11, norm="batch", pool="max"),
    "ResNet18": partial(ResNet18, norm="instance"),
    "ResNet18BN": partial(ResNet18, norm="batch"),
    "ResNet18_AP": partial(ResNet18, norm="instance", average=True),
    "ResNet18BN_AP": partial(ResNet18, norm="batch", average=True),
}

# names that stood for other architectures until runs remembered their clips
CHANGED = {"VideoConvNetMean", "VideoConvNetMLP", "VideoConvNetRNN", "VideoConvNetLSTM", "VideoConvNetGRU",
           "ResNet18_AP", "ResNet18BN_AP"}


def lookup(name):
    """NETWORKS[name]; ValueError with the choices for a name that is not there."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def modality(name):
    """What the network of this name takes: "video" (B, T, C, H, W) or "image" (B, C, H, W)."""
    constructor = lookup(name)
    return getattr(constructor, "func", constructor).modality  # a partial's class is its func


def check_network(name, spec, dataset):
    """Raises ValueError unless the network takes what the data set gives, before any work is done."""
    gives = "image" if spec.view == "single" else "video"
    if modality(name) != gives:
        fitting = [other for other in NETWORKS if modality(other) == gives]
        raise ValueError(f"--model {name} takes {modality(name)}s, but --dataset {dataset} gives {gives}s: choose one "
                         f"of {', '.join(fitting)}")
    try:
        with torch.device("meta"):  # shapes only
            lookup(name)(spec)(torch.zeros(2, *spec.shape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--model {name} cannot take {spec.size} pixels and {spec.frames} frames ({error}): choose "
                         "another, or other --im_size and --frames") from error


POOLS = {  # --eval_mode -> networks that score a set; S and SS are the network itself
    "M": {"video": ["ConvNet3D", "VideoConvNetMean", "VideoConvNetMLP", "VideoConvNetRNN", "VideoConvNetLSTM",
                    "VideoConvNetGRU"],
          "image": ["MLP", "LeNet", "ConvNet", "AlexNet", "VGG11", "ResNet18"]},
    "W": {"image": ["ConvNetW32", "ConvNetW64", "ConvNetW128", "ConvNetW256"],
          "video": ["ConvNet3DW16", "ConvNet3DW32", "ConvNet3D"]},
    "D": {"image": ["ConvNetD1", "ConvNetD2", "ConvNetD3", "ConvNetD4"],
          "video": ["ConvNet3DD1", "ConvNet3DD2", "ConvNet3D"]},
    "A": {"image": ["ConvNetAS", "ConvNetAR", "ConvNetAL", "ConvNetASwish"]},
    "P": {"image": ["ConvNetNP", "ConvNetMP", "ConvNetAP"]},
    "N": {"image": ["ConvNetNN", "ConvNetBN", "ConvNetLN", "ConvNetIN", "ConvNetGN"]},
    "B": {"image": ["ConvNetBN", "ConvNetASwishBN", "AlexNetBN", "VGG11BN", "ResNet18BN"]},
}


def get_eval_pool(eval_mode, name):
    """The networks that score a set made with the network `name`, the main one first."""
    if eval_mode in ("SS", "top5"):  # top-5 is in every result
        return [name]
    if eval_mode == "S":  # a tiny set is too small for batch statistics: the variant without
        return [name.split("BN")[0] if name.split("BN")[0] in NETWORKS else name]
    kind = modality(name)
    if kind not in POOLS.get(eval_mode, {}):
        known = ["S", "SS", *(mode for mode, pool in POOLS.items() if kind in pool)]
        raise ValueError(f"unknown --eval_mode {eval_mode!r} for {name}, a network of {kind}s: choose one of "
                         f"{', '.join(known)}")
    pool = POOLS[eval_mode][kind]
    return [name, *(other for other in pool if other != name)] if name in pool or eval_mode == "M" else pool


def plain(network):
    """The network itself, of one that may be `Parallel`: what is saved, and what weights are put into."""
    return getattr(network, "module", network)


class Dispatch(nn.Module):
    """One forward that stands for both `forward` and `embed`: nn.DataParallel calls nothing else on its replicas."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, features):
        # A replica's thread is told that there is autocast, and not of which type: it would take float16.
        with torch.autocast(x.device.type, x.dtype) if x.dtype == torch.bfloat16 else nullcontext():
            return self.module.embed(x) if features else self.module(x)


class Parallel(nn.Module):
    """A network on several devices: `forward` and `embed` alike split the batch over nn.DataParallel's replicas.

    `parallel.module` is the plain network: save its state_dict, not this one's.
    """

    def __init__(self, module, device_ids=None):
        super().__init__()
        self.replicas = nn.DataParallel(Dispatch(module), device_ids=device_ids)

    @property
    def module(self):
        return self.replicas.module.module

    @property
    def modality(self):
        return self.module.modality

    # The flag goes by position: as a keyword DataParallel would hand it to every device, and a device that gets no part
    # of a small batch would be called without x.
    def forward(self, x):
        return self.replicas(x, False)

    def embed(self, x):
        return self.replicas(x, True)
