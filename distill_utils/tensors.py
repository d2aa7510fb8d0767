"""Files of tensors whose damage is noticed: safetensors with a check sum of each tensor and of the header.

The bytes on a disk may change without an error of the disk, and a changed weight is still a number. Everything that is
saved here and read back (sets, experts, banks, networks) is therefore compared with what was written, tensor by tensor,
where it is read. A file without check sums, from before them or of another program, is read as it is.
"""
import json
import pickle
import re
import warnings
import zipfile
import zlib
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distill_utils.files import is_whole, replacing, with_sum


class Damaged(ValueError):
    """A file that does not hold what was written; the message names it."""


def save_tensors(path, tensors, /, **header):
    """Writes tensors (by name) and a header that JSON can hold as one safetensors file, whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header["sums"] = {name: check_sum(name, value) for name, value in tensors.items()}
    with replacing(path) as temporary:      # one entry: safetensors writes several in an order of chance
        save_file(tensors, temporary, metadata={"header": json.dumps(with_sum(header), sort_keys=True)})


def check_sum(name, tensor):
    """CRC-32 of a tensor: its name, type, shape and bytes."""
    about = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), zlib.crc32(about))


class TensorFile:
    """A file of `save_tensors`, memory-mapped: a tensor is read, and its check sum compared, when it is asked for.

    header: a dict; about: its text, which tells a file from another of the same shapes. ValueError for another kind of
    file, Damaged for one that is not what was written.
    """

    def __init__(self, path):
        check_file(path)
        self.path = path
        try:
            self.file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError("it is no safetensors file, or not a whole one") from error
        self.about = (self.file.metadata() or {}).get("header", "{}")
        try:
            self.header = json.loads(self.about)
        except (ValueError, RecursionError):
            raise ValueError("its header is not JSON") from None
        if not isinstance(self.header, dict):
            raise ValueError("its header is no JSON object")
        if not is_whole(self.header, since="sums"):
            raise Damaged(f"{path} is damaged: its header is not what was written")
        self.sum = self.header.pop("sum", None)      # of the whole file, as it has those of the tensors in it
        self.sums, self.compared = self.header.pop("sums", None), set()
        if not isinstance(self.sums, (dict, type(None))):
            raise Damaged(f"{path} is damaged: its header is not what was written")

    def names(self):
        return list(self.file.keys())

    def shape(self, name):
        return tuple(self.file.get_slice(name).get_shape())

    def size(self, name):
        """Bytes of a tensor, which is not read."""
        bits = re.search(r"\d+", self.file.get_slice(name).get_dtype())         # "F32", "U8"; "BOOL" takes a byte
        return prod(self.shape(name)) * int(bits[0] if bits else 8) // 8

    def read(self, name):
        try:
            value = self.file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"it has no tensor {name!r}") from error
        if self.sums is not None and name not in self.compared:     # once is enough
            if check_sum(name, value) != self.sums.get(name):
                raise Damaged(f"{self.path} is damaged: {name} is not what was written")
            self.compared.add(name)
        return value

    def read_all(self):
        return {name: self.read(name) for name in self.names()}


def check_file(path):
    """ValueError unless a path is a file that can be read and is not empty. (A pipe would be waited for.)"""
    if Path(path).is_dir():
        raise ValueError("it is a folder")
    if not Path(path).is_file():
        raise ValueError("there is no such file")
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise ValueError("it is empty")
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error


def check_archive(path):
    """Compares the check sums in a file of torch.save, which torch writes and does not look at, and returns them.
    Raises Damaged. A file that is no archive (torch before 1.6 wrote none) has none: ()."""
    try:
        if not zipfile.is_zipfile(path):
            return ()
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch.save never does")      # and may not fit into memory
            bad, sums = archive.testzip(), tuple(entry.CRC for entry in archive.infolist())
    except PermissionError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error, RuntimeError, OSError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error
    if bad:
        raise Damaged(f"{path} is damaged: {bad} in it is not what was written")
    return sums


def load_plain(path, mmap=True, compare=True, besides=()):
    """What torch.save wrote, of plain tensors, lists and dicts alone, memory-mapped where it can be (with mmap).
    compare: check sums first. besides: (class, name) of other globals that may be named in it. ValueError says what
    kind of thing is wrong: torch's own messages are not handed on, as they advise to let a file run what it says."""
    check_file(path)
    if compare:
        check_archive(path)
    try:
        with torch.serialization.safe_globals(besides), warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of odd tensors
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise ValueError("it has objects other than tensors in it, or was not written by torch.save") from None
    except (MemoryError, PermissionError):
        raise
    except Exception as error:      # whatever else the unpickler meets
        if "allocate memory" in str(error):
            raise
        raise ValueError("it is damaged, cut short, or was not written by torch.save") from None
