"""The device that a run computes on, in which precision and with which kernels, and the memory it took."""
import ctypes
import math
import os
import sys
from contextlib import suppress

import torch

from distill_utils import parallel

try:
    import resource
except ImportError:     # Windows has none
    resource = None

PRECISIONS = ("auto", "bf16", "fp32")


def resolve_device(name):
    """The torch device that --device names; "auto" is CUDA where there is one. ValueError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if parallel.size() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ValueError(f"--device {name} is of one process, and {parallel.size()} ranks take a GPU each: give "
                             "auto, cpu or cuda")
        name = f"cuda:{parallel.local_rank()}"
        there = torch.cuda.device_count()
        if parallel.local_rank() >= there:
            raise ValueError(f"each rank takes a GPU, and torch sees {there} on this machine, where at least "
                             f"{parallel.local_rank() + 1} ranks are: start fewer, or give --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown --device {name!r}: give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices: give --device cpu")
    if device.type not in ("cpu", "cuda", "meta"):      # meta: on which the tests see what waits for a device
        raise ValueError(f"--device {name} is not one of these programs': give auto, cpu, cuda or cuda:N")
    return device


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def resolve_precision(name, device):
    """The torch dtype that --precision asks for. auto: bfloat16 where the device multiplies in it."""
    fast = (torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if name == "bf16" or (name == "auto" and fast) else torch.float32


def precision_name(name, device):
    """"bf16" or "fp32": what --precision comes to on a device, as runs and experts remember it."""
    return "bf16" if resolve_precision(name, device) == torch.bfloat16 else "fp32"


def in_precision(function, dtype):
    """A network, or its `embed`, computed in dtype: weights, and what comes back, stay float32."""
    def computed(x):
        with torch.autocast(x.device.type, dtype):
            return function(x.to(dtype)).float()
    return function if dtype == torch.float32 else computed


def set_kernels(precision, device):
    """For the whole process: kernels that give the same bytes again, and on CUDA convolutions of float32 in TF32,
    unless the precision is "fp32"; and a device with an index is the current one, on which CUDA graphs are recorded."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def keep_memory():
    """Lets the C library keep freed memory for the next tensor. By default it hands large pieces back to the system and
    gets them again page by page, a tenth of the time that small networks take on a CPU."""
    with suppress(OSError, AttributeError, TypeError):      # where the C library is another than glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)          # M_MMAP_THRESHOLD, at its highest
        libc.mallopt(-1, (1 << 31) - 1)     # M_TRIM_THRESHOLD


def default_chunk(shape, device):
    """Samples of a shape in memory as floats at a time, where --chunk does not say: many on a GPU, and 64 MB on a CPU,
    which is no faster with more."""
    return 640 if device.type == "cuda" else max(1, (64 << 20) // (4 * math.prod(shape)))


def check_memory(what, numbers):
    """ValueError, before anything is allocated, where so many float32 numbers are more than this machine's memory.
    what: the flag that asks for them."""
    if not hasattr(os, "sysconf"):      # Windows does not tell
        return
    ranks = parallel.local_size()
    wanted, there = ranks * 4 * numbers, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > there:
        of = f" in the {ranks} ranks of this machine" if ranks > 1 else ""
        raise ValueError(f"{what} takes {wanted / 1e9:.0f} GB of memory{of}, and this machine has {there / 1e9:.0f}: "
                         "lower it")


def peak_memory(device):
    """Peak bytes so far: on the device for CUDA, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
