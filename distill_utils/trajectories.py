"""Expert trajectories, which MTT matches: snapshots of a network while it is trained on real data.

A buffer folder holds one file an expert, `expert_0000.safetensors`: tensors named "<epoch>/<parameter>", epoch 0 the
network before training, and a JSON header. The `replay_buffer_0.pt`, ... of other programs are read too.
Cazenavette, Wang, Torralba, Efros and Zhu, "Dataset Distillation by Matching Training Trajectories", arXiv 2203.11932.
"""
import hashlib
import json
import re
import sys
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch

from distill_utils.clips import change_of
from distill_utils.dataset import check_older, dataset_label
from distill_utils.files import is_whole, locked, remove, replacing, try_lock, unfinished, with_sum
from distill_utils.seeds import make_generator
from distill_utils.tensors import Damaged, TensorFile, check_archive, load_plain, save_tensors
from networks import plain

OWN, OTHERS = re.compile(r"expert_(\d+)\.safetensors"), re.compile(r"replay_buffer_(\d+)\.pt")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KEEP = ("needed", "all")
WAIT = 1.0      # seconds between looks at what other processes are making


# ---- snapshots ----------------------------------------------------------------------------------------------------

def parameters(network):
    """{name: parameter} in network order. A network with buffers raises ValueError: the losses match parameters only,
    and the statistics of a batch norm would belong to no point of a trajectory."""
    network = plain(network)
    buffer = next((name for name, _ in network.named_buffers()), None)
    if buffer:
        raise ValueError(f"the network has {buffer}, which is no parameter: trajectories hold and match parameters "
                         "only, so choose a --model without batch norm, such as ConvNet for ConvNetBN")
    return dict(network.named_parameters())


def snapshot(network):
    """A copy of the parameters in network order, on the CPU: a tuple of tensors that training on leaves alone.

    `.detach().cpu()` would copy nothing on a CPU, and every snapshot would end as the last one.
    """
    return tuple(parameter.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                 for parameter in parameters(network).values())


@torch.no_grad()
def load_weights(network, values):
    """Puts parameters, as `snapshot` gives them, into a network."""
    for parameter, value in zip(parameters(network).values(), values, strict=True):
        parameter.copy_(value)


def epochs_to_keep(train_epochs, max_start_epoch, expert_epochs, keep="needed"):
    """The epochs of an expert that are worth a snapshot, in order.

    A start epoch s is below max_start_epoch, and its target is s + expert_epochs. "needed": those; "all": every one up
    to train_epochs. ValueError where a target would not be there.
    """
    if keep not in KEEP:
        raise ValueError(f"unknown choice of epochs {keep!r}: choose one of {', '.join(KEEP)}")
    if min(max_start_epoch, expert_epochs) < 1:
        raise ValueError(f"--max_start_epoch {max_start_epoch} and --expert_epochs {expert_epochs} must be at least 1")
    last = max_start_epoch - 1
    if last + expert_epochs > train_epochs:
        raise ValueError(f"--train_epochs {train_epochs} ends before epoch {last} + {expert_epochs}, the last "
                         f"that --max_start_epoch {max_start_epoch} and --expert_epochs {expert_epochs} need: raise "
                         f"--train_epochs to {last + expert_epochs}, or lower one of them")
    if keep == "all":
        return list(range(train_epochs + 1))
    return sorted({epoch for start in range(max_start_epoch) for epoch in (start, start + expert_epochs)})


# ---- writing ------------------------------------------------------------------------------------------------------

def expert_folder(buffer_path, dataset, model):
    """The folder of the experts of a data set (its label) and a network, below --buffer_path."""
    return Path(buffer_path) / dataset / model


def holds_experts(folder):
    """Whether files of experts, ours or another program's, lie in a folder itself."""
    return bool(_numbered(folder, OWN) or _numbered(folder, OTHERS))


def expert_path(folder, index):
    return Path(folder) / f"expert_{index:04d}.safetensors"


def save_expert(folder, index, network, snapshots, settings, dtype="float32", **header):
    """Writes one expert: the whole file or nothing. snapshots: {epoch: what `snapshot(network)` gave}.

    settings: what `check_settings` was given; more header entries (accuracies by epoch) as keywords. Values that are
    not finite raise ValueError, a full disk OSError; the experts that are there stay as they are.
    """
    path = expert_path(folder, index)
    names = list(parameters(network))
    tensors = {}
    for epoch, values in snapshots.items():
        for name, value in zip(names, values, strict=True):
            value = tensors[f"{epoch}/{name}"] = value.to(DTYPES[dtype])
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} of expert {index} is not finite after epoch {epoch}, so {path} was not "
                                 "written: give a lower learning rate, and another --buffer_path")
    header = {"kind": "expert", "number": index, "epochs": sorted(snapshots), "parameters": names, "dtype": dtype,
              "settings": settings, **header}
    save_tensors(path, tensors, **header)


def check_settings(folder, settings):
    """Makes a buffer folder for experts of these settings (a dict that JSON can hold), remembered in `buffer.json`.

    A folder made with others raises ValueError that names the first difference.
    """
    folder, settings = Path(folder), json.loads(json.dumps(settings))
    folder.mkdir(parents=True, exist_ok=True)
    if _numbered(folder, OTHERS):
        raise ValueError(f"{folder} holds the replay_buffer files of another program: choose another --buffer_path")
    path = folder / "buffer.json"
    if path.is_file():      # in a folder that nobody may write to, perhaps
        return _check_settings(folder, _read_settings(path), settings)
    with locked(folder / ".buffer.lock"):
        experts = _numbered(folder, OWN)
        if path.is_file():
            saved = _read_settings(path)
        else:
            saved = _read(experts[0], _OwnFile, lambda file: file.settings) if experts else settings
        _check_settings(folder, saved, settings)
        remove(*unfinished(folder, path.name))
        if not path.is_file():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(with_sum(settings), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read_settings(path):
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
        if not is_whole(settings):
            raise ValueError("it is not what was written")
        settings.pop("sum", None)
        return settings
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, and the experts beside it will say how they "
                         "were made") from error


def _check_settings(folder, saved, settings):
    if "precision" in settings:
        saved = {"precision": "fp32", **saved}        # all there was before the flag
    _compare(f"{folder} holds experts of", saved, settings, sorted((saved.keys() | settings.keys()) - {"clips"}))
    _compare_clips(folder, saved, settings.get("clips"))


def _compare(where, saved, current, keys):
    """ValueError that names the first of the keys whose value differs."""
    if "dataset" in saved:      # which was once kept as it was typed; what it holds is told by the clips
        saved = {**saved, "dataset": dataset_label(saved["dataset"])}
    for key in keys:
        if saved.get(key) != current.get(key):
            raise ValueError(f"{where} another run: --{key} was {saved.get(key)!r} and is now {current.get(key)!r}: "
                             "give the same, or choose another --buffer_path")


def _compare_clips(path, saved, current):
    """ValueError where experts were trained on other clips. Settings from before clips were remembered pass, but for
    what meant something else then."""
    if "clips" not in saved:
        check_older(path, saved)
    elif current and saved["clips"] != current:
        raise ValueError(f"{path} is of other clips than --dataset has ({change_of(saved['clips'], current)}): give "
                         "the --dataset, --split and --classes that it was made with, or choose another --buffer_path")


def missing_experts(folder, num_experts):
    """Yields the index of the next expert that nobody has made or is making, until all of them are there.

    It stays claimed until the next is asked for; by then the caller has called `save_expert`. Any number of processes
    may fill one folder, each expert is made once. The system frees the claim of a process that dies, and another one
    takes its expert over: one that finds the rest claimed therefore waits, and no process ends before the folder is
    full. After an interruption of all of them the next call goes on with what is missing.
    """
    folder, told = Path(folder), False
    folder.mkdir(parents=True, exist_ok=True)
    while missing := [i for i in range(num_experts) if not expert_path(folder, i).is_file()]:
        all_claimed = True
        for index in missing:
            path = expert_path(folder, index)
            claim = folder / f".{path.stem}.lock"
            lock = try_lock(claim)
            if lock is None:
                continue
            with lock:
                all_claimed = False
                if not path.is_file():      # or it was finished before we came to the lock
                    remove(*unfinished(folder, path.name))
                    yield index
                    if not path.is_file():
                        raise RuntimeError(f"expert {index} was asked for and not saved in {folder}")
                remove(claim)       # whoever locks what was removed finds the expert made
        if all_claimed:
            if not told:
                print(f"waiting for experts that other processes are making in {folder}: {_ranges(missing)}",
                      file=sys.stderr)
            told = True
            time.sleep(WAIT)


# ---- reading ------------------------------------------------------------------------------------------------------

class _OwnFile:
    """`expert_0000.safetensors`, memory-mapped: one expert, of which only what is asked for is read."""
    experts = 1

    def __init__(self, path):
        self.file = TensorFile(path)
        header = self.file.header
        self.saved, self.names, self.settings = header["epochs"], header["parameters"], dict(header["settings"])
        self.about = self.file.about

    def epochs(self, expert):
        return self.saved

    def shapes(self, expert, epoch):
        return [(name, self.file.shape(f"{epoch}/{name}")) for name in self.names]

    def read(self, expert, epoch):
        return [self.file.read(f"{epoch}/{name}") for name in self.names]


class _OthersFile:
    """`replay_buffer_0.pt`: a list of experts, each a list of snapshots, each a list of parameters in network order.

    Memory-mapped where torch wrote it as a zip file, as it does since 1.6; an older one is read as a whole.
    """
    settings, about = {}, ""

    def __init__(self, path):
        self.content = load_plain(path, compare=False)   # compared once, by Experts
        self.experts = len(self.content)

    def epochs(self, expert):
        return range(len(self.content[expert]))

    def shapes(self, expert, epoch):
        return [(None, tuple(parameter.shape)) for parameter in self.content[expert][epoch]]

    def read(self, expert, epoch):
        return self.content[expert][epoch]


def _numbered(folder, pattern):
    """The files of a folder whose whole name fits the pattern, in the order of their numbers: 10 after 9."""
    found = [(pattern.fullmatch(path.name), path) for path in Path(folder).glob("*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def _read(path, open_file, what):
    """what(open_file(path)); ValueError that names the file for whatever wrong content makes them raise."""
    try:
        return what(open_file(path))
    except (Damaged, PermissionError) as error:
        way_out = ("remove the file, and buffer.py makes it again" if OWN.fullmatch(Path(path).name) else
                   "get the file again, or take it out of the folder")
        raise ValueError(f"{error}: {way_out}") from error
    except Exception as error:
        kind, way_out = (("an expert of this program", "remove it, and buffer.py makes it again")
                         if OWN.fullmatch(Path(path).name) else
                         ("lists of plain tensors", "take it out of the folder, or make experts with buffer.py"))
        raise ValueError(f"{path} is not a file of {kind}, or not a whole one ({type(error).__name__}): {way_out}"
                         ) from error


def _ranges(numbers):
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)


class Segment(NamedTuple):
    """Part of a trajectory. start, target: tuples of float32 tensors in network order, copies, on the CPU."""
    start: tuple
    target: tuple
    expert: str     # "expert_0003.safetensors" or "replay_buffer_0.pt[3]"
    epoch: int      # of start


class Experts:
    """The expert trajectories of a folder. What a step needs is read when it needs it; opening reads shapes only.

    expected: settings that the experts must have been made with (model, protocol, ...), by the names that
    `check_settings` was given; files of other programs say nothing of theirs. Raises ValueError that names the file and
    the way out for an empty folder, another network, other settings, missing epochs or a broken file.
    """

    def __init__(self, folder, network, max_start_epoch, expert_epochs, **expected):
        self.folder, self.max_start_epoch, self.expert_epochs = Path(folder), max_start_epoch, expert_epochs
        self.shapes = [(name, tuple(value.shape)) for name, value in parameters(network).items()]
        own, others = _numbered(folder, OWN), _numbered(folder, OTHERS)
        if own and others:
            raise ValueError(f"{folder} holds both {own[0].name} and {others[0].name}: keep them in two folders, and "
                             "give one of them as --buffer_path")
        self.own, self.kind = bool(own), _OwnFile if own else _OthersFile
        self.counts = {}                        # file -> how many experts are in it
        self.digests = {}                       # file -> digests of what tells it from another of its name
        self.settings = {}                      # file of this program -> how it was made
        self.order = self.opened = (None, None)     # of what, and the permutation; the file in use
        for path in own or others:
            self._admit(path, json.loads(json.dumps(expected)))
        if not len(self):
            raise ValueError(f"there are no experts in {folder}: make them with buffer.py, or give as --buffer_path "
                             "the very folder of expert_0000.safetensors, ... or replay_buffer_0.pt, ...")

    def __len__(self):
        return sum(self.counts.values())

    def check_clips(self, identity, dataset):
        """ValueError where an expert was trained on other clips. identity: of the training clips, see Clips. dataset:
        its name or folder, for experts from before clips were remembered."""
        for name, settings in self.settings.items():
            _compare_clips(self.folder / name, settings, identity)
            if "clips" not in settings:
                _compare(f"{self.folder / name} is of", settings, {"dataset": dataset_label(dataset)}, ["dataset"])

    def sample(self, seed, index, max_start_epoch=None):
        """Segment `index` (0, 1, ...) of a run, which depends on (seed, index) and nothing else. max_start_epoch: less
        than that of all segments.

        Every expert has its turn before any comes again: permutation index // len(self), file by file, so that a file
        that cannot be memory-mapped is read once a round. The start epoch is drawn uniformly.
        """
        round_, turn = divmod(index, len(self))
        if self.order[0] != (seed, round_):
            self.order = (seed, round_), self._permutation(make_generator(seed, "experts", round_))
        name, expert = self.order[1][turn]
        epoch = int(torch.randint(max_start_epoch or self.max_start_epoch, (),
                                  generator=make_generator(seed, "start epoch", index)))
        start, target = self.weights(name, expert, [epoch, epoch + self.expert_epochs])
        label = self._label(name, expert)
        if all(map(torch.equal, start, target)):
            raise ValueError(f"{label} in {self.folder} is the same at the epochs {epoch} and "
                             f"{epoch + self.expert_epochs}: its snapshots were no copies, as some programs make them "
                             "on a CPU; make the experts again with buffer.py, in another --buffer_path")
        return Segment(start, target, label, epoch)

    def last(self, number):
        """The parameters of expert `number` (0, 1, ...) at its last kept epoch, as `sample` gives them."""
        name, index = self._all()[number]
        epoch = max(_read(self.folder / name, self._open, lambda file: file.epochs(index)))
        return self.weights(name, index, [epoch])[0]

    def draw(self, seed, low=0, high=None, later=0):
        """(weights, weights at most `later` epochs later, which may be the same) of a network somewhere on a
        trajectory, each a tuple of tensors in network order. Of all experts, the kept epochs from `low` to below `high`
        are as likely. Depends on the seed alone."""
        generator = make_generator(seed, "expert")

        def one_of(choices):
            return choices[int(torch.randint(len(choices), (), generator=generator))]

        name, index = one_of(self._all())
        kept = list(_read(self.folder / name, self._open, lambda file: file.epochs(index)))
        starts = [epoch for epoch in kept if low <= epoch and (high is None or epoch < high)]
        if not starts:
            raise ValueError(f"{self.folder / name} keeps the epochs {_ranges(kept)}, none of them from "
                             f"--min_start_epoch {low} " + (f"to below --max_start_epoch {high}" if high else "on")
                             + ": give others")
        start = one_of(starts)
        return self.weights(name, index, [start, one_of([epoch for epoch in kept if start <= epoch <= start + later])])

    def _all(self):
        return [(name, index) for name, count in self.counts.items() for index in range(count)]

    def weights(self, name, index, epochs):
        """Copies of an expert's parameters at some epochs: a list of tuples of float32 tensors on the CPU."""
        values = _read(self.folder / name, self._open, lambda file: [
            tuple(value.detach().to(torch.float32, copy=True) for value in file.read(index, epoch))
            for epoch in epochs])
        for epoch, tensors in zip(epochs, values, strict=True):
            for (parameter, _), value in zip(self.shapes, tensors, strict=True):
                if not torch.isfinite(value).all():
                    raise ValueError(f"{parameter} of {self._label(name, index)} in {self.folder} is not finite at "
                                     f"epoch {epoch}: take the file away, and make experts with a lower learning rate")
        return values

    def _label(self, name, index):
        return name if self.own else f"{name}[{index}]"

    def _permutation(self, generator):
        files = list(self.counts)
        return [(files[i], expert) for i in torch.randperm(len(files), generator=generator).tolist()
                for expert in torch.randperm(self.counts[files[i]], generator=generator).tolist()]

    def _open(self, path):
        """The file, kept open until another one is: no two are in memory at a time."""
        if self.opened[0] != path:
            self.opened = (None, None)
            self.opened = (path, self.kind(path))
        return self.opened[1]

    def state_dict(self):
        """For the checkpoint of a run: which experts it draws from."""
        return {name: [count, self.digests[name][0]] for name, count in self.counts.items()}

    def load_state_dict(self, state):
        """A resumed run draws from the experts it began with, whatever was added to the folder since."""
        for name, saved in state.items():
            if saved not in [[self.counts.get(name), digest] for digest in self.digests.get(name, ())]:
                raise ValueError(f"{self.folder}/{name} is not what it was when this run began: give the --buffer_path "
                                 "it began with, or start anew with another --name")
        self.counts, self.order = {name: count for name, (count, _) in state.items()}, (None, None)

    def _admit(self, path, expected):
        """Takes in a file whose settings, shapes and epochs fit. Only its shapes are read."""
        def describe(file):
            return file.settings, [{epoch: file.shapes(expert, epoch) for epoch in file.epochs(expert)}
                                   for expert in range(file.experts)]

        about = () if self.own else _read(path, check_archive, lambda sums: sums)
        settings, experts = _read(path, self.kind, describe)
        if settings:
            _compare(f"{path} is of", settings, expected, expected)
            self.settings[path.name] = settings
        for index, expert in enumerate(experts):
            for shapes in expert.values():
                self._compare_shapes(path, shapes, settings)
            lacking = [start for start in range(self.max_start_epoch)
                       if start not in expert or start + self.expert_epochs not in expert]
            if lacking:
                lower = f"lower --max_start_epoch to at most {lacking[0]}" if lacking[0] else "lower --expert_epochs"
                raise ValueError(f"{path} keeps the epochs {_ranges(expert)} of its expert {index}, but "
                                 f"--max_start_epoch {self.max_start_epoch} --expert_epochs {self.expert_epochs} would "
                                 f"start at {_ranges(lacking)} too, and end {self.expert_epochs} later: {lower}, or "
                                 "make experts with these flags in another --buffer_path")
        self.counts[path.name] = len(experts)
        if self.own:
            about = _read(path, self.kind, lambda file: file.about)
        # of files of others runs once remembered the size alone, which still counts where they go on
        self.digests[path.name] = [hashlib.sha256(f"{path.stat().st_size} {what}".encode()).hexdigest()
                                   for what in (about or "", "")]

    def _compare_shapes(self, path, theirs, settings):
        made_with = " ".join(f"--{key} {settings[key]}" for key in ("dataset", "model", "frames", "im_size")
                             if settings.get(key) is not None)
        for i, ((there, shape_there), (name, shape)) in enumerate(
                zip_longest(theirs, self.shapes, fillvalue=(None, "nothing"))):
            if shape != shape_there or there not in (None, name):
                theirs_is = f"{there} {shape_there}" if there else shape_there
                raise ValueError(f"{path} is of another network: parameter {i}, {name or 'which is none'} here, is "
                                 f"{theirs_is} there and {shape} here: give the --model, --dataset, --frames and "
                                 f"--im_size that it was made with{made_with and f' ({made_with})'}")
