"""Seeds: each purpose has one of its own, so what one draws never shifts what another draws."""
import hashlib
from contextlib import contextmanager

import torch


def derive_seed(*purpose):
    """A seed of a purpose such as (seed, iteration, "clips"): a number below 2^56."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def make_generator(*purpose):
    """A CPU generator with the seed of a purpose."""
    return torch.Generator().manual_seed(derive_seed(*purpose))


@contextmanager
def seeded(seed, device="cpu"):
    """For code that draws from torch's global state (initialisation, dropout): seeds it, and puts it back after."""
    devices = range(torch.cuda.device_count()) if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
