"""How a set lies on disk: the stores, saving, reading back, and bytes.

Which of a set's tensors may be coded as pictures and which stay exact is told by the set (`pixels`, `exact`); nothing
here knows the kinds of sets.
"""
from pathlib import Path

import torch
from safetensors import SafetensorError

from distill_utils.tensors import TensorFile, save_tensors

STORES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


def pack(synset, store, spec):
    """The tensors of a set as stored: those that its `exact` names as they are, the others in the type of the store.

    As uint8 a tensor x comes with x.range (2, C), the values that 0 and 255 stand for in each channel.
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


def unpack(tensors):
    """The state of a set, of what `pack` gave."""
    state = {name: value.float() if value.dtype == torch.bfloat16 else value
             for name, value in tensors.items() if not name.endswith(".range")}
    for name, value in tensors.items():
        if name.endswith(".range"):
            low, high = value.view(2, -1, 1, 1)
            coded = name.removesuffix(".range")
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
    return build(type(synset), synset.arguments, unpack(pack(synset, store, spec)))


def storage_bytes(synset, store="float32", spec=None):
    """Bytes of a set's tensors as they are stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in pack(synset, store, spec).values())


def save_synset(path, synset, spec, store="float32", **header):
    """Writes a set as one safetensors file with a JSON header; the file is replaced whole or not at all.

    A value that is not finite raises ValueError: a set that trains nothing must not replace one that does.
    """
    tensors = pack(synset, store, spec)
    for name, tensor in synset.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} of the set is not finite, so {path} was left as it was: lower the learning rate "
                             "and go on from the last checkpoint with --resume")
    header = {"kind": type(synset).__name__, "arguments": synset.arguments, "classes": list(spec.classes),
              "mean": list(spec.mean), "std": list(spec.std), "frames": spec.frames, "size": spec.size,
              "labels": [k for k in range(synset.num_classes) for _ in range(synset.num_slots)], "store": store,
              **header}
    save_tensors(path, tensors, **header)


def read_synset(path, kinds):
    """Reads a set: (set, header). kinds: its classes by name. Raises ValueError that names the file when it is not one
    of ours."""
    if not Path(path).is_file():
        raise ValueError(f"there is no synthetic set at {path}: give the synset.safetensors of a run")
    try:
        file = TensorFile(path)
        header, tensors = file.header, file.read_all()
        synset = build(kinds[header["kind"]], header["arguments"], unpack(tensors))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a synthetic set of this program ({error}): give the synset.safetensors of a "
                         "run") from error
    return synset, header


def read_static_pt(path):
    """The images (N, C, H, W) of another program's static memory: a `.pt` file, a dict with the key "image", read as
    plain tensors only. ValueError that names the file for any other content."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # whatever the unpickler meets in a file that is no plain tensor file
        raise ValueError(f"--path_static {path} is not a file of plain tensors ({error}): make a static memory "
                         "with distill_DC.py") from error
    images = content.get("image") if isinstance(content, dict) else None
    if not torch.is_tensor(images):
        raise ValueError(f'--path_static {path} has no tensor "image": a static memory is a dict with the key '
                         '"image", (K * spc, 3, H, W)')
    return images.detach().float()
