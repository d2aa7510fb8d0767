"""Files and folders that are either whole or absent: atomic replacement, and a lock between processes."""
import errno
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

try:
    import fcntl
except ImportError:     # Windows has none of these two
    fcntl = None
try:
    import resource
except ImportError:
    resource = None

UMASK = os.umask(0o077)     # it can only be read by setting it
os.umask(UMASK)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)    # what a file system without locks says


@contextmanager
def replacing(path):
    """Yields a temporary path for a file or a folder, and moves what is there to `path` on success; on failure `path`
    keeps what it held. (A folder must not be there yet.)

    It lies in a hidden folder beside `path`, for libraries that write temporary files of their own beside theirs. The
    file gets the mode that the umask asks for, whatever the library gave it. A full disk raises OSError that names the
    file and the space left.
    """
    path = Path(path)
    folder = None
    # of a process that was killed, where no lock says so: no file that is written without one takes a day
    with suppress(FileNotFoundError):       # one that another process finishes just now
        remove(*(old for old in unfinished(path.parent, path.name) if time.time() - os.path.getmtime(old) > 86400))
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
        temporary = folder / path.name
        yield temporary
        if temporary.is_file():
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
    except BaseException as error:
        if is_disk_full(error):
            raise disk_full(path, error) from error
        if folder is None and isinstance(error, OSError):
            raise cannot_write(path.parent, error) from error
        raise
    finally:
        if folder:
            remove(folder)


def made_once(folder, write):
    """The folder, which write(temporary path) makes if it is not there.

    Safe when several processes start at once and when one is killed: the folder appears whole or not at all.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name.lower()}.lock"):
        if not folder.is_dir():
            remove(*unfinished(folder.parent, folder.name))
            with replacing(folder) as temporary:
                write(temporary)
    return folder


def remove(*paths):
    """Removes files and folders, whether they are there or not."""
    for path in map(Path, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def unfinished(folder, name="*"):
    """Temporary paths that `replacing` left where a process was killed: nobody else writes while the caller holds the
    lock of the folder."""
    return Path(folder).glob(f".{name}.tmp-*")


def is_disk_full(error):
    """Whether an exception of any library (safetensors and torch wrap the system's) says that a file cannot grow."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    signs = ("No space left", "Disk quota exceeded", "os error 28", "StorageFull", "File too large", "FileTooLarge",
             "unexpected pos", "iostream error", "failed writing file")     # all that torch.save says of it
    return getattr(error, "errno", None) in full or any(sign in str(error) for sign in signs)


def cannot_write(folder, error):
    return OSError(error.errno, f"cannot write to {folder} ({error.strerror}), where something is still to be made: "
                                "get the right to write there, or choose another --save_path, --cache_path, "
                                "--data_path or --buffer_path")


def disk_full(path, error, way_out="nothing half is left there; make room and go on with --resume, or choose another "
                                     "--save_path, --cache_path, --data_path or --buffer_path"):
    free = shutil.disk_usage(Path(path).parent).free / 1e6
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource else -1
    limited = "" if limit < 0 else f"; this process may write files of {limit / 1e6:.1f} MB at most, see ulimit -f"
    return OSError(getattr(error, "errno", None) or errno.ENOSPC,
                   f"no space left to write {path} ({free:.1f} MB free{limited}): {way_out}")


def with_sum(content):
    """A dict that JSON can hold, and under "sum" a check sum of it."""
    return content | {"sum": _sum(content)}


def read_summed(path):
    """The dict of `with_sum` in a file. ValueError where it is not what was written."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and "sum" in content and is_whole(content)
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged, or was not written by a run")
    return content


def is_whole(content, since=None):
    """Whether a dict of `with_sum` came back as it was; one without a sum is not known to be other. since: an entry
    that came with the sum, so that what has it must have both."""
    return content["sum"] == _sum(content) if "sum" in content else since not in content


def _sum(content):
    content = {key: value for key, value in content.items() if key != "sum"}
    return zlib.crc32(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def try_lock(path):
    """An open file that holds the lock `path` (made if absent) until it is closed or the process ends, however that
    happens; None where another process holds it."""
    return _lock(path, wait=False)


@contextmanager
def locked(path):
    """Holds an exclusive lock on `path` (made if absent). The system frees it however the process ends."""
    with _lock(path, wait=True):
        yield


def _lock(path, wait):
    """Where the system or the file system has no locks, it is said once and the work goes on without."""
    try:
        file = open(path, "a")      # noqa: SIM115 (closing it frees the lock)
    except OSError as error:
        raise cannot_write(Path(path).parent, error) from error
    try:
        if fcntl is None:
            _note_no_locks(Path(path).parent, "this system has no locks that we know")
        else:       # a lock of the process: a child forked meanwhile does not hold it on
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            _note_no_locks(Path(path).parent, os.strerror(error.errno))
            return file
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN) and not wait:
            return None
        raise OSError(error.errno, f"cannot lock {path} ({os.strerror(error.errno)}): write to another folder") \
            from error
    except BaseException:
        file.close()
        raise
    return file


@lru_cache
def _note_no_locks(folder, why):
    print(f"note: files in {folder} cannot be locked ({why}), so nothing keeps two processes from writing there at "
          "once: start one at a time", file=sys.stderr)
