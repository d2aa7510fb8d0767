"""How tests run scripts in their own process: tiny settings, a call for all methods, and what two runs must share."""
import json
import sys

import pytest

import buffer
import distill_coreset
import distill_DC
import distill_DM
import distill_FRePo
import distill_MTT
import distill_s2d_DM
import distill_s2d_FRePo
import distill_s2d_MTT
import evaluate
from conftest import NET
from distill_utils.run import Run
from distill_utils.synset import SETS, method_name

TINY = {"frames": 4, "im_size": 16, "device": "cpu"}
FAST = {**TINY, "model": NET, "num_eval": 1, "epoch_eval_train": 1, "Iteration": 4, "eval_it": 2, "save_it": 1}
S2D = {"vpc": 2, "spc": 4, "dpc": 2, "n_hal": 2, "optim": "sgd", "lr_static": 0.1, "lr_dynamic": 0.1}
MTT = {"syn_steps": 3, "batch_syn": 7, "max_start_epoch": 2, "dsa_strategy": "color_flip"}
FREPO = {"batch_real": 12, "pool": 2, "pool_updates": 1, "batch_pool": 3}       # a network is renewed at once
LOSSES = {"DC": (distill_DC, {"inner_loop": 1, "outer_loop": 2, "batch_real": 2}),
          "DM": (distill_DM, {"batch_real": 2}),
          "MTT": (distill_MTT, MTT),
          "FRePo": (distill_FRePo, FREPO)}
PAIRS = [(loss, kind) for loss in LOSSES for kind in SETS]
# name of a run's method -> script and flags
SCRIPTS = {"DM": (distill_DM, {"lr_img": 1, "batch_real": 2}),
           "S2D-DM": (distill_s2d_DM, {**S2D, "batch_real": 2}),
           "DC": (distill_DC, {"model": "ConvNetD2W32", "ipc": 2, "inner_loop": 1, "batch_real": 2}),
           "MTT": (distill_MTT, {**MTT, "lr_img": 10, "experts_per_step": 2}),
           "S2D-MTT": (distill_s2d_MTT, {**MTT, **S2D}),
           "FRePo": (distill_FRePo, FREPO), "S2D-FRePo": (distill_s2d_FRePo, {**FREPO, **S2D}),
           "herding": (distill_coreset, {}), "score": (evaluate, {})}


def make_experts(data_path, path, **flags):
    flags = {**TINY, "model": NET, "data_path": data_path, "buffer_path": path, "num_experts": 3, "train_epochs": 2,
             "max_start_epoch": 2, "batch_train": 8, **flags}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["buffer.py", *words(flags)])
        buffer.main()
    return path


def words(flags):
    return [word for key, value in flags.items() for word in (f"--{key}", str(value))]


def runner(data_path, experts, save_path, monkeypatch):
    """A call that runs a script's main in this process: call(method, name, flag=value, ...) -> the run's folder. The
    method is a key of SCRIPTS, or a pair of PAIRS."""
    def call(method, name, *switches, **flags):
        if isinstance(method, tuple):
            loss, kind = method
            module, own = LOSSES[loss]
            own = {"set": kind, **own}
            if loss == "DC" and kind == "still":
                own["model"] = "ConvNetD2W32"
            method = method_name(loss, kind, "still" if loss == "DC" else "pixels")
        else:
            module, own = SCRIPTS[method]
        flags = {**FAST, **own, **flags, "name": name, "data_path": data_path, "save_path": save_path}
        if module in (distill_coreset, evaluate):
            for key in ("Iteration", "eval_it"):
                del flags[key]
        if method.endswith("MTT") or "teacher" in flags or flags.get("networks") == "experts":
            flags = {"buffer_path": experts, **flags}
        if method.endswith("MTT"):
            switches = [*(["--train_lr"] if flags.pop("learn_rate", True) else []), *switches]
        monkeypatch.setattr(sys, "argv", [module.__name__, *words(flags), *switches])
        module.main()
        return save_path / method / name
    call.experts = experts
    return call


def content(folder):
    """What must not differ between two runs: the bytes of set, pictures and confusions, the result but for times, the
    log."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "distill_seconds", "peak_memory_bytes", "synset", "sum"):
        del result[key]
    names = ("synset.safetensors", "preview.png", "preview.gif", "confusion.json", "real.webp")
    files = [(folder / name).read_bytes() for name in names if (folder / name).is_file()]
    return files, result, (folder / "metrics.jsonl").read_text().splitlines()


class Crash(BaseException):
    pass


def break_off(monkeypatch, script, method, where, call, **flags):
    """Runs it under the name "broken", and stops it at a call of one of Run's methods."""
    original, calls = getattr(Run, where), []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, where, stop)
        with pytest.raises(Crash):
            script(method, "broken", **flags)
