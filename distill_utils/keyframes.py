"""A set of key frames: a clip is a few frames, from which the others are made. After the taxonomy of S2D (arXiv
2312.00362, section 3.1), of which no code was released; key frames that grow in number are those of PRISM (arXiv
2505.22564).
"""
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from distill_utils import labels
from distill_utils.args import part, positive
from distill_utils.device import check_memory
from distill_utils.seeds import make_generator

INTERPOLATIONS = ("duplicate", "linear", "hallucinator")
GROWS = 0.2, 0.8        # from this share of the iterations to that


class KeyFrameSet(nn.Module):
    """Key frames (N, C, H, W), clip by clip in the order of time: `n_syn` for each of `segments` segments of a clip.

    A clip of T frames is made of its F = segments * n_syn key frames by the interpolation. duplicate: frame t is key
    frame floor(t F / T). linear: the first key frame stands at frame 0 and the last at T - 1, the others evenly
    between, and a frame between two of them is their weighted mean. hallucinator: as duplicate, and a Conv3d that all
    clips share then runs over them; it starts as the identity.

    growing (first, last): the set starts with its key frames at whole frames, and from the share `first` of the
    iterations to `last` more of them are added by `grow`. A set that grew keeps `places` (K * ipc, T), which frames of
    a clip are key frames. num_frames: how many those of a file are in all.
    """
    title, label, clips_flag = "a few frames of each clip, interpolated", "KF", "ipc"
    pixels, exact, num_variants = ("frames",), ("labels", "places", "hallucinator"), 1
    shared = ("hallucinator",)
    apart = 0.0         # gradients with a cosine below it point away from each other
    # as of whole clips; of the hallucinator as of static + dynamic sets
    rates = {"lr_img": ("the key frames", 30.0, 0.02), "lr_hal": ("the hallucinator", 1e-3, 5e-3)}

    def __init__(self, num_classes, ipc, shape, n_syn=2, segments=1, interpolation="linear", num_frames=None,
                 init="real", growing=None, label_kind="class", learn_labels=False):
        super().__init__()
        self.num_classes, self.num_slots, self.shape, self.init = num_classes, ipc, tuple(shape), init
        self.n_syn, self.segments, self.interpolation, self.growing = n_syn, segments, interpolation, growing
        length, channels, *size = shape
        if interpolation not in INTERPOLATIONS or not 1 <= n_syn * segments <= length or (
                (growing or num_frames) and (interpolation != "linear" or n_syn * segments < 2)):
            raise ValueError("no such key frames")
        clips, self.probe, times = num_classes * ipc, None, key_times(n_syn * segments, length, interpolation)
        self.frames = nn.Parameter(torch.zeros(num_frames or clips * len(times), channels, *size))
        if growing or num_frames:
            self.register_buffer("places", torch.zeros(clips, length, dtype=torch.bool))
            self.places[:, times] = True
        else:
            self.places = None
        if interpolation == "hallucinator":
            self.hallucinator = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
            nn.init.dirac_(self.hallucinator.weight)
            nn.init.zeros_(self.hallucinator.bias)
        self.label_kind, self.learn_labels = label_kind, learn_labels
        self.labels = labels.make_rows(label_kind, num_classes, clips)
        for name in ("rows", "weights"):
            self.register_buffer(name, None, persistent=False)
        if not num_frames:      # else its places are still to come
            self._lay_out()

    @classmethod
    def add_args(cls, parser, trained=True):
        group = parser.add_argument_group(f"set: {cls.title}")
        group.add_argument("--ipc", type=positive, default=1, help="synthetic clips a class")
        group.add_argument("--n_syn", type=positive, default=2, help="key frames of each segment of a clip")
        group.add_argument("--segments", type=positive, default=1, help="segments of time, of --n_syn key frames each; "
                           "they are matched one by one only with --n_real of distill_DM.py")
        group.add_argument("--interpolation", choices=INTERPOLATIONS, default="linear", help="how a clip is made of "
                           "its key frames. duplicate: each stands for a while; linear: each turns into the next; "
                           "hallucinator: duplicate, and a learned convolution over it that all clips share")
        if trained:
            group.add_argument("--init", choices=("real", "noise"), default="real", help="start of the key frames: "
                               "those of real clips, or noise (PRISM)")
            group.add_argument("--grow", action="store_true", help="start from --n_syn key frames and add more: a "
                               "frame becomes one where its gradient points away from those of both neighbouring key "
                               "frames (PRISM). The bytes of a clip are known at the end. For linear interpolation")
            for flag, which, default in zip(("from", "until"), ("first", "last"), GROWS, strict=True):
                group.add_argument(f"--grow_{flag}", type=part, help=f"share of the iterations at which the {which} "
                                   f"may be added; {default} if not given")

    @classmethod
    def from_args(cls, args, spec):
        given, count = vars(args), args.n_syn * args.segments
        if spec.view == "single":
            clips = args.dataset.removeprefix("single")
            raise ValueError(f"--dataset {args.dataset} gives single frames, which have no key frames: give "
                             + (clips if clips != args.dataset else "a data set of clips"))
        if count > spec.frames:
            raise ValueError(f"--n_syn {args.n_syn} key frames in each of --segments {args.segments} are {count}, and "
                             f"a clip has only {spec.frames} frames: lower one of them")
        growing = tuple(default if given.get(flag) is None else given[flag]
                        for flag, default in zip(("grow_from", "grow_until"), GROWS, strict=True))
        if given.get("grow"):
            if args.interpolation != "linear":
                raise ValueError(f"--grow is of --interpolation linear, and it is {args.interpolation}: give linear, "
                                 "or leave out --grow")
            if not 2 <= count < spec.frames:
                raise ValueError(f"--grow adds key frames between those at both ends of a clip, and starts with "
                                 f"{count} of {spec.frames} frames: give --n_syn 2")
            if growing[0] >= growing[1]:
                raise ValueError(f"--grow_from {growing[0]:g} must be less than --grow_until {growing[1]:g}")
            if given.get("lr_img") == 0:
                raise ValueError("--grow adds frames that are to be trained, and --lr_img 0 trains none: leave out one "
                                 "of them")
        elif (given.get("grow_from"), given.get("grow_until")) != (None, None):
            raise ValueError("--grow_from and --grow_until change nothing without --grow: give that too, or leave them "
                             "out")
        check_memory(f"--ipc {args.ipc}", spec.num_classes * args.ipc * prod(spec.shape))
        return cls(spec.num_classes, args.ipc, spec.shape, args.n_syn, args.segments, args.interpolation,
                   init=given.get("init", "real"),
                   growing=growing if given.get("grow") else None, **labels.settings(args))

    @property
    def clips_needed(self):
        return self.num_slots

    def start(self, clips, seed):
        generator = make_generator(seed)
        if self.init == "real":
            self.encode(clips.random_clips(self.clips_needed, generator))
        else:
            self.frames.data.normal_(generator=generator)

    def encode(self, real):
        times = key_times(self.n_syn * self.segments, self.shape[0], self.interpolation)
        self.frames.data = real.flatten(0, 1)[:, times].flatten(0, 1)

    def groups(self):
        learned = {"lr_hal": list(self.hallucinator.parameters())} if self.interpolation == "hallucinator" else {}
        return {"lr_img": [self.frames], "lr_hal": [], **learned, **labels.group(self)}

    def render(self, classes, slots, generator=None, variants=None):
        which = classes * self.num_slots + slots
        clips = self._interpolate(self.frames, self.rows[which], self.weights[which])
        for probe in self.watched:
            clips = clips + probe[which]
        return clips, labels.targets_of(self, classes, which)

    def render_segment(self, classes, slots, segment, length):
        """Segment k of each clip alone, (B, length, C, H, W): its key frames, expanded to that length."""
        rows = self.rows[classes * self.num_slots + slots, segment * self.n_syn:(segment + 1) * self.n_syn]
        weights = fixed_weights(self.n_syn, length, self.interpolation).to(rows.device)
        return self._interpolate(self.frames, rows, weights.expand(len(rows), -1, -1))

    def _interpolate(self, frames, rows, weights):
        """frames (N, C, H, W), rows (B, F) of them, weights (B, T, F) -> (B, T, C, H, W)."""
        frames = frames[rows]
        clips = (weights @ frames.flatten(2)).unflatten(2, frames.shape[2:])
        if self.interpolation == "hallucinator":
            return self.hallucinator(clips.transpose(1, 2)).transpose(1, 2)
        return clips

    # ---- growth

    @property
    def watched(self):
        """Tensors that are never trained, whose gradient a set that grows wants to see: 0, added to every frame that is
        rendered, so that its gradient is that of the frame."""
        if not self.growing:
            return []
        if self.probe is None or self.probe.device != self.frames.device:
            self.probe = torch.zeros(self.num_classes * self.num_slots, *self.shape, device=self.frames.device,
                                     requires_grad=True)
        return [self.probe]

    @torch.no_grad()
    def grow(self, optimizer, done):
        """After a step of the set: every frame whose gradient points away from those of both neighbouring key frames
        becomes a key frame, with the value that it has, so that no clip changes. done: share of the iterations. PRISM,
        arXiv 2505.22564."""
        gradient, self.probe.grad = self.probe.grad, None
        if not self.growing[0] <= done < self.growing[1]:
            return
        gradient = gradient.flatten(2)
        cosines = gradient @ gradient.mT        # (K * ipc, T, T)
        lengths = cosines.diagonal(dim1=1, dim2=2).sqrt().clamp(min=1e-30)
        cosines = cosines / lengths[:, :, None] / lengths[:, None]
        left, right = (cosines.gather(2, times[..., None])[..., 0] for times in neighbours(self.places))
        places = self.places | ((left < self.apart) & (right < self.apart))
        new = places & ~self.places
        if not new.any():
            return
        before, kept = self.frames, ~new[places]

        def widened(value, still=False):
            wider = value.new_zeros(len(kept), *self.shape[1:])
            wider[kept] = value
            if not still:
                wider[~kept] = self._interpolate(value, self.rows, self.weights)[new]
            return wider

        self.frames = nn.Parameter(widened(before.data))    # a graph that is still there knows the old one
        for group in optimizer.param_groups:
            group["params"] = [self.frames if tensor is before else tensor for tensor in group["params"]]
        # a new frame has no momentum; the size of Adam's steps is that of its neighbours
        optimizer.state[self.frames] = {
            name: widened(value, still=name not in ("exp_avg_sq", "max_exp_avg_sq"))
            if torch.is_tensor(value) and value.shape == before.shape else value
            for name, value in optimizer.state.pop(before, {}).items()}
        self.places = places
        self._lay_out()

    def _lay_out(self):
        """Which rows of `frames` each clip is made of (K * ipc, F), and with which weights (K * ipc, T, F). ValueError
        unless the places of a file are those of its frames."""
        clips, length = self.num_classes * self.num_slots, self.shape[0]
        if self.frames.is_meta:     # its tensors are still to come
            return
        device = self.frames.device
        if self.places is None:
            count = self.n_syn * self.segments
            self.rows = torch.arange(clips * count, device=device).view(clips, count)
            self.weights = fixed_weights(count, length, self.interpolation).to(device).expand(clips, -1, -1)
            return
        counts = self.places.sum(1)
        if counts.sum() != len(self.frames) or not self.places[:, [0, -1]].all():
            raise ValueError(f"it has {len(self.frames)} key frames, and the places of {int(counts.sum())}, with or "
                             "without those at the ends of each clip")
        most = int(counts.max())
        self.rows = (counts.cumsum(0) - counts)[:, None] + torch.arange(most, device=device).clamp(
            max=counts[:, None] - 1)
        left, right = neighbours(self.places)
        number = self.places.cumsum(1) - 1      # of the last key frame up to a frame
        share_of_right = (torch.arange(length, device=device) - left) / (right - left).clamp(min=1)
        self.weights = weights_of(number, number + (right > left), share_of_right, most)

    def load_state_dict(self, state, *args, **options):
        if "places" in state and state["frames"].shape != self.frames.shape:     # of a checkpoint, after growth
            self.frames.data = torch.zeros_like(state["frames"], device=self.frames.device)
        result = super().load_state_dict(state, *args, **options)
        self._lay_out()
        return result

    @property
    def form(self):
        """What tells it from other sets of key frames, for names and tables."""
        return f"{self.n_syn}x{self.segments}-{self.interpolation}" + ("-grown" if self.places is not None else "")

    @property
    def key_frames(self):
        """Which frames of each clip are key frames, or the nearest to one, bool (K * ipc, T)."""
        if self.places is not None:
            return self.places
        marked = torch.zeros(self.num_classes * self.num_slots, self.shape[0], dtype=torch.bool)
        marked[:, key_times(self.n_syn * self.segments, self.shape[0], self.interpolation)] = True
        return marked

    @property
    def arguments(self):
        return {"num_classes": self.num_classes, "ipc": self.num_slots, "shape": list(self.shape), "n_syn": self.n_syn,
                "segments": self.segments, "interpolation": self.interpolation,
                "num_frames": None if self.places is None else len(self.frames), **labels.argument(self)}


def key_times(count, length, interpolation):
    """The frames of a clip (count,) that its key frames start from: the middle of what each stands for where they are
    duplicated, otherwise evenly from the first to the last."""
    if interpolation == "linear" and count > 1:
        return torch.linspace(0, length - 1, count, dtype=torch.float64).round().long()
    first = (torch.arange(count + 1) * length + count - 1) // count     # of those t where floor(t count / length) = j
    return (first[:-1] + first[1:]) // 2


def fixed_weights(count, length, interpolation):
    """(length, count): of which key frames a frame is made."""
    t = torch.arange(length)
    if interpolation != "linear" or count == 1 or length == 1:
        number = t * count // length
        return weights_of(number, number, torch.zeros(length), count)
    at = t * (count - 1) / (length - 1)
    number = at.floor().long().clamp(max=count - 2)
    return weights_of(number, number + 1, at - number, count)


def weights_of(left, right, share_of_right, count):
    """Numbers (..., T) of the key frames before and behind a frame, and its share of the latter -> (..., T, count)."""
    check_memory(f"to make clips of {left.shape[-1]} frames of {count} key frames each", 7 * left.numel() * count)
    share_of_right = share_of_right[..., None].float()
    return F.one_hot(left, count) * (1 - share_of_right) + F.one_hot(right, count) * share_of_right


def neighbours(places):
    """The key frames before and behind each frame, two of long (N, T); of a key frame itself. places: bool (N, T)."""
    t = torch.arange(places.shape[1], device=places.device).expand(places.shape)
    before = torch.where(places, t, 0).cummax(1).values
    behind = torch.where(places, t, places.shape[1] - 1).flip(1).cummin(1).values.flip(1)
    return before, behind
