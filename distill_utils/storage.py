"""How a set lies on disk: the stores, saving, reading back, and bytes.

Which of a set's tensors may be coded as pictures and which stay exact is told by the set (`pixels`, `exact`); nothing
here knows the kinds of sets.
"""
import re
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch

from distill_utils.codecs import decode, encode, parse_store
from distill_utils.device import check_memory
from distill_utils.labels import check_recipe, check_rows
from distill_utils.tensors import TensorFile, save_tensors

STORES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}
LARGEST = 1e15      # of a value in a set: the variance of a batch of larger ones is more than float32 holds
METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,99}")     # it becomes part of the name of a run's folder


def store_of(text):
    """Of --store: the name of a store. ValueError for what is none, or what this machine has not."""
    if text not in STORES:
        parse_store(text)
    return text


def pack(synset, store, spec):
    """The tensors of a set as stored: those that its `exact` names as they are, the others in the type of the store.

    As uint8 a tensor x comes with x.range (2, C), the values that 0 and 255 stand for in each channel. As pictures or
    video (codecs.py) x is the bytes of all its streams, and there is x.lengths, that of each, too.
    """
    tensors = {}
    for name, value in synset.state_dict().items():
        value = value.detach().cpu().contiguous()
        if name.startswith(synset.exact) or store == "float32":
            tensors[name] = value
        elif store == "bfloat16":
            tensors[name] = value.bfloat16()
        else:
            low, high = _range(value, spec if name in synset.pixels else None)
            shape = (-1, 1, 1)
            tensors[name] = ((value - low.view(shape)) / (high - low).view(shape) * 255).round().to(torch.uint8)
            tensors[f"{name}.range"] = torch.stack([low, high])
            if store not in STORES:
                coded, lengths = encode(tensors[name].view(samples_of(value.shape)).numpy(), synset.num_classes, store)
                tensors[name], tensors[f"{name}.lengths"] = torch.from_numpy(coded), torch.from_numpy(lengths)
    return tensors


def _range(tensor, spec=None):
    """Lowest and highest value, by channel, that uint8 spans for a tensor (..., C, H, W). With the spec, for pixels, at
    least the range of a real pixel, so that real clips and frames are stored without loss."""
    channels = tensor.shape[-3]
    values = tensor.detach().float().transpose(-3, 0).reshape(channels, -1)
    low, high = values.amin(1), values.amax(1)
    if spec:
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        low, high = torch.minimum(low, (0 - mean) / std), torch.maximum(high, (1 - mean) / std)
    return low, torch.maximum(high, low + 1e-6)


def samples_of(shape):
    """Of a tensor of pixels, images (N, C, H, W) or clips (..., T, C, H, W), as (N, T, C, H, W)."""
    return (shape[0], 1, *shape[1:]) if len(shape) == 4 else (prod(shape[:-4]), *shape[-4:])


def unpack(tensors, store, num_classes, shapes):
    """The state of a set, of what `pack` gave. shapes: name -> that of its tensor. ValueError where a stream is not
    what these say."""
    state = {name: value.float() if value.dtype == torch.bfloat16 else value
             for name, value in tensors.items() if not name.endswith((".range", ".lengths"))}
    for name, value in tensors.items():
        if name.endswith(".range"):
            low, high = value.view(2, -1, 1, 1)
            coded = name.removesuffix(".range")
            if store not in STORES:
                try:
                    values = decode(state[coded].numpy(), tensors[f"{coded}.lengths"].numpy(),
                                    samples_of(shapes[coded]), num_classes, store)
                except ValueError as error:
                    raise ValueError(f"its {coded} cannot be decoded: {error}") from None
                state[coded] = torch.from_numpy(values).view(shapes[coded])
            state[coded] = state[coded].float() / 255 * (high - low) + low
    return state


def build(kind, arguments, state):
    """A set of a class, from what builds it and its state."""
    with torch.device("meta"):      # nothing is drawn and nothing filled: every tensor comes from the state
        synset = kind(**arguments)
    synset.load_state_dict(state, assign=True)
    return synset


def as_stored(synset, store, spec):
    """A copy of a set with the values that a file of it would give back: scores are of what is stored."""
    return build(type(synset), synset.arguments, _stored_state(synset, store, spec))


def _stored_state(synset, store, spec):
    shapes = {name: value.shape for name, value in synset.state_dict().items()}
    return unpack(pack(synset, store, spec), store, synset.num_classes, shapes)


class ThroughStore:
    """Shows a set to a loss as its file will give it back, while gradients go to the set itself.

    Inside `with through(step):` what the store rounds has the value that is decoded. Its gradients are those at that
    value, passed straight through the codec (Bengio et al., arXiv 1308.3432). The codec runs at every step that is a
    multiple of `every`, and where the set has another shape than before; in between its differences are held. Steps of
    the optimizer belong outside. every=None: the set is seen as it is.
    """

    def __init__(self, synset, store, spec, every=None):
        self.synset, self.store, self.spec, self.every = synset, store, spec, every
        self.at, self.differences = None, {}

    @contextmanager
    def __call__(self, step):
        if not self.every:
            yield
            return
        rounded = {name: value for name, value in self.synset.named_parameters()
                   if not name.startswith(self.synset.exact)}
        own = {name: value.data for name, value in rounded.items()}
        if (step % self.every == 0 and step != self.at) or {n: v.shape for n, v in own.items()} != {
                n: v.shape for n, v in self.differences.items()}:
            stored, self.at = _stored_state(self.synset, self.store, self.spec), step
            self.differences = {name: stored[name].to(value.device) - value for name, value in own.items()}
        for name, value in rounded.items():
            value.data = own[name] + self.differences[name].to(value.device)
        try:
            yield
        finally:
            for name, value in rounded.items():
                value.data = own[name]

    def state_dict(self):
        return {"at": self.at, **self.differences} if self.every else {}

    def load_state_dict(self, state):
        self.differences = dict(state)
        self.at = self.differences.pop("at")


def storage_bytes(synset, store="float32", spec=None):
    """Bytes of a set's tensors as they are stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in pack(synset, store, spec).values())


def file_bytes(path):
    """The same of a set's file."""
    file = TensorFile(path)
    return sum(map(file.size, file.names()))


def file_sum(path):
    """The check sum of a set's file, which tells it from others; None of a file from before there were any."""
    return TensorFile(path).sum


def save_synset(path, synset, spec, store="float32", /, **header):
    """Writes a set as one safetensors file with a JSON header; the file is replaced whole or not at all.

    A value that is not finite raises ValueError: a set that trains nothing must not replace one that does.
    """
    tensors = pack(synset, store, spec)
    for name, tensor in synset.state_dict().items():
        check_values(f"{path} was left as it was, because {name} of the set", tensor)
    header |= {"kind": type(synset).__name__, "arguments": synset.arguments, "classes": list(spec.classes),
               "mean": list(spec.mean), "std": list(spec.std), "frames": spec.frames, "size": spec.size,
               "labels": [k for k in range(synset.num_classes) for _ in range(synset.num_slots)], "store": store}
    save_tensors(path, tensors, **header)


def read_synset(path, kinds, check=None):
    """Reads a set: (set, header). kinds: its classes by name. check(set without content, header): called before what is
    coded is decoded. Raises ValueError that names the file when it is not one of ours, or does not hold together:
    nothing in it is believed, and nothing built before it was compared."""
    if not Path(path).exists():
        raise ValueError(f"there is no synthetic set at {path}: give the synset.safetensors of a run")
    with _of_ours(path):
        file = TensorFile(path)
        header, tensors = check_header(file.header, kinds), file.read_all()
        kind, store = kinds[header["kind"]], header["store"]
        expected = empty_checked(kind, header["arguments"], tensors)
        shapes = {name: value.shape for name, value in expected.state_dict().items()}
        check_store(tensors, store, kind.exact, shapes)
        check_agreement(header, expected)
    if check:
        check(expected, header)
    with _of_ours(path):
        if store not in STORES:
            check_memory("decoded, it", 3 * sum(map(prod, shapes.values())))        # as bytes, and twice as numbers
        state = unpack(tensors, store, expected.num_classes, shapes)
        check_state(state, expected.state_dict(), f"a {kind.__name__} of the arguments of its header")
        synset = build(kind, header["arguments"], state)
        if synset.labels is not None:
            check_rows(synset)
    return synset, header


@contextmanager
def _of_ours(path):
    """What is wrong in here is told of the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} is not a synthetic set of this program ({error}): give the synset.safetensors of a "
                         "run") from None


def check_header(header, kinds):
    """The header of a set, every entry of which that is read was compared. ValueError for what cannot be one."""
    numbers = (int, float)
    optional = {"method": str, "dataset": str, "syn_lr": numbers, "recipe": dict, "labelled": str, "teacher": int,
                "clips": dict, "dm_networks": str, "dm_kernel": str, "dm_n_real": int, "through_store": int}
    types = {"kind": str, "arguments": dict, "classes": list, "mean": list, "std": list, "frames": int, "size": int,
             "labels": list, "store": str, **optional}
    for name, wanted in types.items():
        value = header.get(name)
        if value is None and name in optional:
            continue
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"its header has no {name}" if value is None else f"the {name} of its header is a "
                             f"{type(value).__name__}")
    for name, wanted in {"classes": str, "labels": int, "mean": numbers, "std": numbers}.items():
        if not all(isinstance(value, wanted) and not isinstance(value, bool) for value in header[name]):
            raise ValueError(f"the {name} of its header are not {'names' if wanted is str else 'numbers'}")
    if header["kind"] not in kinds:
        raise ValueError(f"it holds a kind of set that is not one of {', '.join(kinds)}")
    store_of(header["store"])
    if header.get("method") is not None and not METHOD.fullmatch(header["method"]):
        raise ValueError("the method of its header is more than letters, digits, - _ and +")
    rate = header.get("syn_lr")
    if rate is not None and not 0 < rate < 1e6:
        raise ValueError("the syn_lr of its header is no learning rate")
    if header.get("recipe") is not None:
        check_recipe(header["recipe"])
    return header


def check_store(tensors, store, exact, shapes):
    """ValueError unless the tensors of a file are in the types of its store: a rounded one comes with the range of each
    channel, and a coded one with the lengths of its streams too. shapes: name -> that of a tensor of the set."""
    streams, parts = store not in STORES, {}
    for name in shapes.keys() & tensors.keys():
        value, wanted = tensors[name], STORES.get(store, torch.uint8)
        if name.startswith(exact) or store == "float32":
            continue
        if value.dtype != wanted or (streams and value.dim() != 1):
            raise ValueError(f"its tensor {name!r} is not in the store that its header names, {store}")
        if wanted == torch.uint8:
            parts |= {f"{name}.range": (torch.float32, (2, shapes[name][-3])),
                      **({f"{name}.lengths": (torch.int64, None)} if streams else {})}
    for name in sorted({*parts, *(name for name in tensors if name.endswith((".range", ".lengths")))}):
        kind, shape = parts.get(name, (None, None))
        value = tensors.get(name)
        if value is None or value.dtype != kind or (value.shape != shape if shape else value.dim() != 1) or (
                shape and (value[0] > value[1]).any()):
            raise ValueError(f"its tensor {name[:80]!r} is {'missing or ' * (value is None)}not the "
                             f"{name.rpartition('.')[2]} of another in the store that its header names, {store}")


def empty_checked(kind, arguments, tensors):
    """A set without content of arguments that may not belong to the tensors of its file: ValueError names what does
    not. The tensors are there already, so no number among the arguments can be larger than they are."""
    most = sum(value.numel() for value in tensors.values())
    for name, value in arguments.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (bool, float, dict, list)) or (
                    isinstance(number, int) and not 1 <= number <= most):
                raise ValueError(f"the argument {name[:80]!r} of its header is not a count that its tensors can have")
    for name, modules in getattr(kind, "counted", {}).items():
        found = len({key.split(".")[1] for key in tensors if key.startswith(f"{modules}.")})
        if arguments.get(name, 1) != found:
            raise ValueError(f"its header says {name} {arguments.get(name, 1)}, and its tensors are of {found}")
    try:
        with torch.device("meta"):
            expected = kind(**arguments)
    except Exception as error:      # whatever a class says to arguments that are not its own
        raise ValueError(f"the arguments of its header build no {kind.__name__}") from error
    for name in arguments.keys() - expected.arguments.keys() - {"label_kind"}:
        raise ValueError(f"the arguments of its header have {name[:80]!r}, which no file of a {kind.__name__} has")
    return expected


def check_state(state, wanted, what, floats=()):
    """ValueError unless tensors have the names, shapes and types of a state dict, and values to train on. what: whose
    it is. floats: other types that floating point numbers may have."""
    for name in sorted(state.keys() ^ wanted.keys(), key=str):
        raise ValueError(f"it has {'no' if name in wanted else 'a'} tensor {str(name)[:80]!r}, unlike {what}")
    for name, value in wanted.items():
        here, types = state[name], (value.dtype, *(floats if value.is_floating_point() else ()))
        if here.shape != value.shape or here.dtype not in types:
            raise ValueError(f"its tensor {name} is {here.dtype} {tuple(here.shape)}, and that of {what} {value.dtype} "
                             f"{tuple(value.shape)}")
        check_values(f"its tensor {name}", here)


def check_values(name, tensor):
    """ValueError for values that are not finite, or so large that standardising them is not."""
    if tensor.is_floating_point() and tensor.numel():
        low, high = (value.item() for value in tensor.aminmax())        # NaN where there is one
        if not max(-low, high) <= LARGEST:
            raise ValueError(f"{name} holds values that are not finite, or too large to train on ({low:.3g} to "
                             f"{high:.3g}): make it again, with a lower learning rate")


def check_agreement(header, synset):
    """ValueError unless the header of a set says of it what it is."""
    classes, frames, size = len(header["classes"]), header["frames"], header["size"]
    if classes != synset.num_classes or len(set(header["classes"])) != classes:
        raise ValueError(f"its header lists {classes} classes, and its tensors are of {synset.num_classes}, each with "
                         "a name of its own")
    if len(header["labels"]) != classes * synset.num_slots or header["labels"] != [
            k for k in range(classes) for _ in range(synset.num_slots)]:
        raise ValueError(f"the labels of its header are not {synset.num_slots} of each class, class by class")
    *length, channels, height, width = synset.shape
    if (height, width) != (size, size) or (length and length != [frames]):
        raise ValueError(f"its header says {frames} frames of {size} pixels, and its samples have the shape "
                         f"{tuple(synset.shape)}")
    if (len(header["mean"]), len(header["std"])) != (channels, channels):
        raise ValueError(f"its header has not one mean and std for each of {channels} channels")
