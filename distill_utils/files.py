"""Files and folders that are either whole or absent: atomic replacement and a lock between processes."""
import errno
import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """Yields a temporary path beside `path`, for a file or a folder, and moves it there on success; on failure `path`
    keeps what it held. (A folder must not be there yet.)

    A full disk raises OSError that names the file and the space left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        remove(temporary)
        if is_disk_full(error):
            raise disk_full(path, error) from error
        raise


def remove(*paths):
    """Removes files and folders, whether they are there or not."""
    for path in map(Path, paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def unfinished(folder, name="*"):
    """Temporary paths that `replacing` left where a process was killed: nobody else writes while the caller holds the
    lock of the folder."""
    return Path(folder).glob(f".{name}.tmp-*")


def is_disk_full(error):
    """Whether an exception of any library (safetensors and torch wrap the system's) says that the disk is full."""
    full = (errno.ENOSPC, errno.EDQUOT)
    signs = ("No space left", "Disk quota exceeded", "os error 28", "StorageFull",
             "unexpected pos", "iostream error", "failed writing file")     # all that torch.save says of it
    return getattr(error, "errno", None) in full or any(sign in str(error) for sign in signs)


def disk_full(path, error, way_out="what it held before is untouched; make room and go on with --resume, or choose "
                                     "another --save_path, --cache_path, --data_path or --buffer_path"):
    free = shutil.disk_usage(Path(path).parent).free / 1e6
    return OSError(getattr(error, "errno", None) or errno.ENOSPC,
                   f"no space left to write {path} ({free:.0f} MB free): {way_out}")


def try_lock(path):
    """An open file that holds the lock `path` (made if absent) until it is closed or the process ends, however that
    happens; None where another process holds it."""
    file = open(path, "a")      # noqa: SIM115 (closing it frees the lock)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return None
        raise
    return file


@contextmanager
def locked(path):
    """Holds an exclusive lock on `path` (made if absent). The system frees it however the process ends."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)    # or a child forked meanwhile would hold it on
