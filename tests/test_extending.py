"""The examples of docs/extending.md do what the page says: each is added, run, and taken out again."""
import csv
import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import distill_coreset
import distill_DC
import distill_DM
import distill_FRePo
import distill_MTT
import evaluate
import export
import networks
from conftest import NET, ROOT
from distill_utils import args, check, codecs, dataset, exchange, labels, synset

BLOCKS = re.findall(r"```python\n# (.*?)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
FAST = ["--num_eval", 1, "--epoch_eval_train", 1, "--device", "cpu", "--name", "x"]


def example(words):
    code, = (code for title, code in BLOCKS if words in title)
    return code


@pytest.fixture
def add(monkeypatch):
    """add(words, module, table): executes an example in a module, whose table has the new row until the test ends."""
    def call(words, module, table):
        before = set(vars(module))
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
        exec(compile(example(words), f"docs/extending.md: {words}", "exec"), vars(module))
        for name in set(vars(module)) - before:
            monkeypatch.setattr(module, name, vars(module)[name], raising=False)
        return getattr(module, table)
    return call


def run(module, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    module.main()


def test_a_data_set_and_a_network_are_a_row_each(add, tmp_path, monkeypatch, capsys):
    add("a row of DATASETS", dataset, "DATASETS")
    rows = [(f"{label}{split}{i}", label, split) for label in ("Still", "Waving") for split in ("train", "test")
            for i in range(2)]
    for name, label, _ in rows:
        folder = tmp_path / "Waves" / "jpegs_112" / name
        folder.mkdir(parents=True)
        for t in range(8):
            light = np.full((16, 16, 3), 40 * (t % 4) if label == "Waving" else 60, np.uint8)
            Image.fromarray(light).save(folder / f"frame{t + 1:06d}.jpg")
    with open(tmp_path / "Waves" / "waves_splits.csv", "w", newline="") as file:
        csv.writer(file).writerows([("folder_name", "label", "split"), *rows])
    run(check, monkeypatch, "Waves", "--data_path", tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == "READY: Waves has 4 training and 4 test clips of 2 classes."
    add("a class of networks.py", networks, "NETWORKS")
    for name in ("NETWORKS",):
        monkeypatch.setattr(sys.modules["utils"], name, networks.NETWORKS)
    run(distill_DM, monkeypatch, "--dataset", "Waves", "--model", "FrameDifference", "--data_path", tmp_path,
        "--save_path", tmp_path / "result", "--Iteration", 2, "--batch_real", 2, *FAST, "--epoch_eval_train", 20)
    result = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))
    assert result["network"] == "FrameDifference" and result["dataset"] == "Waves" and result["top1_mean"] == 1


def test_a_set_is_a_class_and_works_under_every_loss(add, few_digits, few_experts, tmp_path, monkeypatch, capsys):
    sets = add("a class of distill_utils/synset.py", synset, "SETS")
    monkeypatch.setattr(args, "LOSSES", add("a loss of distill_utils/labels.py", labels, "LOSSES"))
    where = ["--model", NET, "--data_path", few_digits, "--save_path", tmp_path, *FAST]
    for module, method, flags in (
            (distill_DM, "Half-DM", ["--Iteration", 2, "--batch_real", 2]),
            (distill_FRePo, "Half-FRePo", ["--Iteration", 2, "--batch_real", 8]),
            (distill_DC, "Half-DC", ["--Iteration", 1, "--batch_real", 2]),
            (distill_MTT, "Half-MTT", ["--Iteration", 2, "--syn_steps", 2, "--max_start_epoch", 2, "--buffer_path",
                                       few_experts]),
            (distill_coreset, "Half-random", ["--store", "uint8", "--labels", "teacher", "--teacher", 2, "--loss",
                                              "cosine", "--buffer_path", few_experts])):
        monkeypatch.setattr(module, "SETS", sets)
        run(module, monkeypatch, "--set", "half", *where, *flags)
        file = tmp_path / method / "x" / "synset.safetensors"
        loaded, header = synset.load_synset(file)
        assert header["method"] == method and loaded.videos.shape == (10, 8, 3, 16, 16)
        stored = json.loads(capsys.readouterr().out.splitlines()[-1][7:])["storage_bytes"]
        assert stored == {"Half-FRePo": 245_760 + 400, "Half-random": 61_440 + 24 + 400}.get(method, 245_760)
    assert header["recipe"]["loss"] == "cosine" and loaded.labels.std() > 0
    run(evaluate, monkeypatch, "--synset", file, *where)
    assert torch.isfinite(synset.load_synset(file)[0].render(*synset.all_pairs(loaded))[0]).all()


def test_a_store_is_two_functions_and_works_in_every_script(add, few_digits, tmp_path, monkeypatch, capsys):
    add("a row of CODECS", codecs, "CODECS")
    where = ["--model", NET, "--data_path", few_digits, "--save_path", tmp_path, *FAST]
    run(distill_coreset, monkeypatch, "--ipc", 2, "--store", "lzma:6", *where)
    path = tmp_path / "random" / "x" / "synset.safetensors"
    coded, _ = synset.load_synset(path)
    run(evaluate, monkeypatch, "--synset", path, "--restore", "zip", *where)
    again, header = synset.load_synset(tmp_path / "score" / "x" / "synset.safetensors")
    assert header["store"] == "zip" and torch.allclose(coded.videos, again.videos, atol=1e-5)
    assert '"store": "lzma:6"' not in capsys.readouterr().out.splitlines()[-1]
    codec = codecs.CODECS["lzma"]
    for content, shape in ((b"no stream", (1, 8, 8, 3)), (codec.encode(np.zeros((2, 8, 8, 3), np.uint8), 0),
                                                          (1, 8, 8, 3))):
        with pytest.raises(ValueError):
            codec.decode(content, shape)


def test_a_way_out_is_a_function(add, few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "WAYS", add("a row of WAYS", exchange, "WAYS"))
    run(distill_coreset, monkeypatch, "--ipc", 2, "--model", NET, "--data_path", few_digits, "--save_path", tmp_path,
        *FAST)
    run(export, monkeypatch, tmp_path / "random" / "x" / "synset.safetensors", "--to", "webp", "--out",
        tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*/*.webp"))
    assert len(files) == 20 and Image.open(files[-1]).n_frames == 8


@pytest.mark.parametrize("kind", synset.SETS)
def test_a_loss_is_a_script_and_works_with_every_set(kind, few_digits, tmp_path, monkeypatch, capsys):
    script = tmp_path / "distill_Mean.py"
    script.write_text(example("distill_Mean.py"))
    monkeypatch.setattr(sys, "argv", [str(word) for word in (
        script, "--set", kind, "--model", NET, "--data_path", few_digits, "--save_path", tmp_path, "--Iteration", 30,
        "--eval_it", 30, *FAST)])
    runpy.run_path(str(script), run_name="__main__")
    result = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))
    losses = [json.loads(line)["loss"] for line in (tmp_path / result["method"] / "x" / "metrics.jsonl").read_text(
        ).splitlines() if "loss" in json.loads(line)]
    assert result["method"].endswith("Mean") and losses[-1] < losses[0]
