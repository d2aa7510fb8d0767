"""Files of tensors whose damage is noticed: safetensors with a check sum of each tensor and of the header.

The bytes on a disk may change without an error of the disk, and a changed weight is still a number. Everything that is
saved here and read back (sets, experts, banks, networks) is therefore compared with what was written, tensor by tensor,
where it is read. A file without check sums, from before them or of another program, is read as it is.
"""
import json
import zipfile
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from distill_utils.files import json_sum, replacing


class Damaged(ValueError):
    """A file that does not hold what was written; the message names it."""


def save_tensors(path, tensors, **header):
    """Writes tensors (by name) and a header that JSON can hold as one safetensors file, whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header["sums"] = {name: check_sum(name, value) for name, value in tensors.items()}
    header["sum"] = json_sum(header)
    with replacing(path) as temporary:      # one entry: safetensors writes several in an order of chance
        save_file(tensors, temporary, metadata={"header": json.dumps(header, sort_keys=True)})


def check_sum(name, tensor):
    """CRC-32 of a tensor: its name, type, shape and bytes."""
    about = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), zlib.crc32(about))


class TensorFile:
    """A file of `save_tensors`, memory-mapped: a tensor is read, and its check sum compared, when it is asked for.

    header: a dict; about: its text, which tells a file from another of the same shapes. Raises Damaged; what
    safetensors meets in a file that is none of its own is left to the caller.
    """

    def __init__(self, path):
        self.path = path
        self.file = safe_open(path, framework="pt")
        self.about = (self.file.metadata() or {}).get("header", "{}")
        self.header = dict(json.loads(self.about))
        if self.header.pop("sum", None) not in (None, json_sum(self.header)):
            raise Damaged(f"{path} is damaged: its header is not what was written")
        self.sums, self.compared = self.header.pop("sums", None), set()

    def names(self):
        return list(self.file.keys())

    def shape(self, name):
        return tuple(self.file.get_slice(name).get_shape())

    def read(self, name):
        value = self.file.get_tensor(name)
        if self.sums is not None and name not in self.compared:     # once is enough
            if check_sum(name, value) != self.sums.get(name):
                raise Damaged(f"{self.path} is damaged: {name} is not what was written")
            self.compared.add(name)
        return value

    def read_all(self):
        return {name: self.read(name) for name in self.names()}


def check_archive(path):
    """Compares the check sums in a file of torch.save, which torch writes and does not look at. Raises Damaged. A file
    that is no archive (torch before 1.6 wrote none) has none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error, RuntimeError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error
    if bad:
        raise Damaged(f"{path} is damaged: {bad} in it is not what was written")


def load_plain(path, mmap=False):
    """What torch.save wrote, of plain tensors, lists and dicts alone. Raises whatever the unpickler meets in another
    file. mmap: memory-mapped, where it can be."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
