"""The progress bar of everything that takes long: how far, how fast, and the time left."""
import sys

from tqdm import tqdm


def progress(*args, **kwargs):
    """A tqdm bar: quick on a terminal, two lines a minute in a log file."""
    return tqdm(*args, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30, **kwargs)
