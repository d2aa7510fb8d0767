"""Runs many small commands in one process, or in each of the ranks that torchrun starts: test_parallel.py compares what
they leave. (A process of its own for each command would take longer to start than to run.)"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import distill_coreset  # noqa: E402
import distill_DM  # noqa: E402
import evaluate  # noqa: E402
from distill_utils import args, parallel  # noqa: E402
from runs import FAST, LOSSES, words  # noqa: E402

SETS = {"pixels": {"ipc": 2}, "s2d": {"vpc": 2, "spc": 4, "dpc": 2, "n_hal": 2},
        "keyframes": {"ipc": 1, "interpolation": "hallucinator"}}
RATES = {"pixels": ("lr_img",), "s2d": ("lr_static", "lr_dynamic", "lr_hal"), "keyframes": ("lr_img", "lr_hal")}
RATE = {"DC": 0.1, "DM": 1.0, "MTT": 5.0, "FRePo": 0.01}


def commands(folder, data, experts):
    """{name: (module, flags, switches)}"""
    common = {**FAST, "data_path": data, "save_path": folder, "precision": "fp32", "num_eval": 3, "optim": "sgd"}
    found = {}
    for loss, (module, own) in LOSSES.items():
        for kind, sizes in SETS.items():
            found[f"{loss}_{kind}"] = module, {
                **common, **own, **sizes, "set": kind, **{rate: RATE[loss] for rate in RATES[kind]},
                **({"buffer_path": experts, "experts_per_step": 2} if loss == "MTT" else {})}, ()
    common["num_eval"] = 2
    found["bank"] = distill_DM, {**common, "bank": 3, "lr_img": 1}, ()
    found["adam"] = distill_DM, {**common, "set": "pixels", "optim": "adam", "batch_real": 3, "ipc": 1}, ()
    found["grown"] = distill_DM, {**common, "set": "keyframes", "lr_img": 1, "batch_real": 2}, ("--grow",)
    found["store"] = distill_DM, {**common, "lr_img": 1, "batch_real": 2, "store": "jpeg:60", "through_store": 2}, ()
    # its batches are of 9 clips and of 1, of which not every rank has some
    found["uneven"] = LOSSES["MTT"][0], {**common, **LOSSES["MTT"][1], "set": "pixels", "ipc": 1, "batch_syn": 9,
                                         "syn_steps": 2, "lr_img": 5.0, "buffer_path": experts}, ()
    for key in ("Iteration", "eval_it", "optim", "save_it"):
        del common[key]
    found["herding"] = distill_coreset, {**common, "method": "herding", "train_epochs": 1, "ipc": 2}, ()
    found["batches"] = distill_coreset, {**common, "method": "herding", "ipc": 2, "protocol": "paper",
                                         "batch_train": 16}, ("--random_features",)
    found["score"] = evaluate, {**common, "synset": f"{folder}/DM/adam/synset.safetensors", "restore": "uint8"}, ()
    return found


def main():
    folder, data, experts, *only = sys.argv[1:]
    for name, (module, flags, switches) in commands(folder, data, experts).items():
        if not only or name in only:
            sys.argv = [f"{module.__name__}.py", *words(flags | {"name": name}), *switches]
            module.main()
    print(json.dumps({"ranks": parallel.size(), "sent": parallel.sent}))


if __name__ == "__main__":
    args.cli(main)
