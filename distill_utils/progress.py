"""What is printed: the progress bar of everything that takes long, and output that cannot end a run."""
import io
import os
import sys

from tqdm import tqdm


def progress(*args, **kwargs):
    """A tqdm bar: quick on a terminal, two lines a minute in a log file."""
    return tqdm(*args, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30, **kwargs)


def some(names, most=5):
    """The first of many names, in words."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def other_files(endings):
    """"12 other files (.txt 7, .mpg 5)" of a Counter of the endings of their names ("" for none)."""
    kinds = [f"{ending or 'without ending'} {count}" for ending, count in sorted(
        endings.items(), key=lambda kind: (-kind[1], kind[0]))]
    return f"{endings.total()} other files ({some(kinds)})" if kinds else ""


class _Pipe(io.FileIO):
    """A file descriptor that goes on, to nowhere, when nobody takes what is written."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError:     # a broken pipe, a terminal that was closed, a full disk
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def keep_streams():
    """For the whole process: a reader of the output that leaves (`| head`) ends no run and fails none, nor do a closed
    stream and an output that has no letter for a character."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")    # noqa: SIM115 (for the process)
        elif stream is getattr(sys, f"__{name}__"):     # and not what a test or a notebook put in its place
            stream.flush()
            stream = io.TextIOWrapper(io.BufferedWriter(_Pipe(number, "w", closefd=False)), stream.encoding,
                                      "backslashreplace", line_buffering=True, write_through=stream.write_through)
        setattr(sys, name, stream)
