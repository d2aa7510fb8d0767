"""Data that several tests share, each made once: MotionDigits, and a tiny UCF101 tree of blank-coloured frames."""
import builtins
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NET = "ConvNet3DD2W16"      # small enough for a CPU
EXPERTS = ["--model", NET, "--train_epochs", 3, "--max_start_epoch", 2, "--batch_train", 8, "--device", "cpu"]


@pytest.fixture(autouse=True)
def own_signals():
    """A run that was stopped ignores signals until its process ends: here the process lives, and starts others."""
    from distill_utils.args import STOPS
    handlers = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A data path that holds MotionDigits."""
    from distill_utils import motiondigits
    path = tmp_path_factory.mktemp("data")
    motiondigits.make(path)
    return path


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """The same with four training clips and two test clips a class, for tests that run whole scripts."""
    from distill_utils import motiondigits
    path = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motiondigits, "GROUPS", {"test": range(1, 2), "train": range(8, 10)})
        patch.setattr(motiondigits, "CLIPS", {"test": 2, "train": 2})
        motiondigits.make(path)
    return path


@pytest.fixture(scope="session")
def few_experts(few_digits, tmp_path_factory):
    """A --buffer_path with three experts of three epochs, trained on few_digits."""
    path = tmp_path_factory.mktemp("experts")
    run_script("buffer.py", *EXPERTS, "--data_path", few_digits, "--buffer_path", path, "--num_experts", 3)
    return path


@pytest.fixture(scope="session")
def digit_data(digits):
    from utils import get_dataset
    return get_dataset("MotionDigits", digits)


@pytest.fixture
def parse(monkeypatch):
    """parse(module, words) -> the arguments that a script makes of a command line, before it does anything."""
    from distill_utils.args import Parser
    parse_args = Parser.parse_args

    class Parsed(BaseException):
        pass

    def stop(self, *args, **kwargs):
        raise Parsed(parse_args(self, *args, **kwargs))

    def call(module, words):
        monkeypatch.setattr(sys, "argv", [module.__name__, *words])
        with monkeypatch.context() as patch:
            patch.setattr(Parser, "parse_args", stop)
            with pytest.raises(Parsed) as parsed:
                module.main()
        return parsed.value.args[0]

    return call


@pytest.fixture(scope="session")
def tiny_experts(few_digits, tmp_path_factory):
    """A --buffer_path with three experts of two epochs, for the clips of runs.py."""
    from runs import make_experts
    return make_experts(few_digits, tmp_path_factory.mktemp("tiny_experts"))


@pytest.fixture(name="script")
def script_(few_digits, tiny_experts, tmp_path, monkeypatch):
    """script(method, name, flag=value, ...) runs a script as runs.py says, and returns the folder of its run."""
    from runs import runner
    return runner(few_digits, tiny_experts, tmp_path, monkeypatch)


@pytest.fixture
def run_here(monkeypatch, capsys):
    """run_here(script, words ...) -> (stdout, stderr): the script as `python script words ...` runs it, but in this
    process, which has torch already: starting one takes three seconds."""
    import_module = builtins.__import__

    def watched(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and name.split(".")[0] in ("distill_utils", "networks", "utils"):
            assert str(ROOT) in sys.path, f"in a process of its own {name} would not be found"
        return import_module(name, globals, locals, fromlist, level)

    def call(script, *words):
        path = ROOT / script
        elsewhere = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(path.parent), *elsewhere])
            patch.setattr(sys, "argv", [str(path), *map(str, words)])
            patch.setattr(builtins, "__import__", watched)
            runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr()

    return call


def uint8(clips, indices, generator=None, segment=(0, 1)):
    """Samples as the cache holds them."""
    return clips.read(*clips.sample_frames(indices, generator, segment))


def run_script(script, *args, cwd=None, check=True, env=None, **kwargs):
    """A script as a user runs it, in a process of its own; on the CPU unless it is given --device cuda."""
    hidden = {**({} if "cuda" in args else {"CUDA_VISIBLE_DEVICES": ""}), **(env or {})}
    done = subprocess.run([sys.executable, ROOT / script, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **hidden}, **kwargs)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done
