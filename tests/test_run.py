"""Runs: resumed equals undisturbed, what a stop, a full disk or a NaN leaves behind, and what is reported."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import summarize
import utils
from conftest import NET, ROOT
from distill_utils.args import STOPS, eval_iterations
from distill_utils.files import with_sum
from distill_utils.protocols import PROTOCOLS
from distill_utils.run import Run
from distill_utils.synset import load_synset
from runs import FAST, SCRIPTS, break_off, content

# ---- stopped and resumed -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method,where,call", [
    ("DM", "save", 3), ("S2D-DM", "evaluate", 2), ("DC", "finish", 1), ("MTT", "log", 3), ("S2D-MTT", "save", 4)])
def test_a_run_that_broke_off_ends_like_an_undisturbed_one(script, tmp_path, monkeypatch, method, where, call):
    wanted = content(script(method, "whole", num_eval=2))
    break_off(monkeypatch, script, method, where, call, num_eval=2)
    assert not (tmp_path / method / "broken" / "result.json").exists()
    assert content(script(method, "broken", "--resume", num_eval=2)) == wanted


def test_a_run_that_goes_on_on_another_kind_of_device_is_told(script, monkeypatch, capsys):
    script("DM", "x", Iteration=2)
    script("DM", "x", "--resume", Iteration=3)
    assert "note: this run was saved" not in capsys.readouterr().err
    monkeypatch.setattr("distill_utils.run.device_name", lambda device: "NVIDIA H100")
    script("DM", "x", "--resume", Iteration=4)
    assert "note: this run was saved on cpu and goes on on NVIDIA H100" in capsys.readouterr().err


def test_a_finished_run_resumed_says_its_result_again_and_can_be_prolonged(script):
    short = script("DM", "x", Iteration=2)
    again = content(short)
    assert content(script("DM", "x", "--resume", Iteration=2)) == again
    assert content(script("DM", "x", "--resume"))[0] == content(script("DM", "y"))[0]


@pytest.mark.slow
def test_kill_9_and_ctrl_c_in_a_process_of_its_own(script, few_digits, tmp_path):
    wanted = content(script("S2D-DM", "whole", Iteration=30))
    flags = {**FAST, **SCRIPTS["S2D-DM"][1], "Iteration": 30, "name": "killed", "data_path": few_digits,
             "save_path": tmp_path}
    command = [sys.executable, ROOT / "distill_s2d_DM.py", "--resume"]
    command += [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
    folder = tmp_path / "S2D-DM" / "killed"

    def start_and_send(number, after):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
        while process.poll() is None and not (
                (folder / "checkpoint.pt").exists() and reached(folder) >= after):
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(), process.stderr.read()

    code, _ = start_and_send(signal.SIGKILL, 5)
    assert code == -signal.SIGKILL
    code, said = start_and_send(signal.SIGINT, 11)
    assert code == 130 and "--resume goes on" in said and "Traceback" not in said
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("RESULT {")
    assert content(folder) == wanted


def reached(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["iteration"]


@pytest.mark.parametrize("number", STOPS)
def test_signals_that_end_jobs_save_the_iteration_and_stop(script, number, tmp_path, monkeypatch):
    wanted, log = content(script("DM", "whole")), Run.log
    sent = []

    def send(self, iteration, *args, **kwargs):
        if iteration == 1 and not sent:
            sent.append(os.kill(os.getpid(), number))
        return log(self, iteration, *args, **kwargs)

    monkeypatch.setattr(Run, "log", send)
    signal.signal(number, signal.SIG_DFL)       # whatever the tests themselves were started with
    with pytest.raises(KeyboardInterrupt, match="Iteration 2 is saved in .*--resume"):
        script("DM", "x", save_it=100)
    assert content(script("DM", "x", "--resume")) == wanted


def test_a_signal_that_nohup_ignores_stays_ignored(script, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log = Run.log
    monkeypatch.setattr(Run, "log", lambda *args, **kwargs: (os.kill(os.getpid(), signal.SIGHUP), log(*args, **kwargs)))
    try:
        script("DM", "x", Iteration=1)
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- folders and checkpoints ---------------------------------------------------------------------------------------

def test_a_folder_with_a_run_is_not_overwritten_unless_asked(script):
    folder = script("DM", "x", Iteration=1)
    before = (folder / "synset.safetensors").read_bytes()
    with pytest.raises(ValueError, match="already holds a run.*--resume.*--overwrite.*--name"):
        script("DM", "x", seed=1)
    assert (folder / "synset.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="contradict"):
        script("DM", "x", "--overwrite", "--resume")
    assert (script("DM", "x", "--overwrite", seed=1) / "synset.safetensors").read_bytes() != before


def test_bad_input_leaves_the_run_that_was_to_be_overwritten(script):
    folder = script("DM", "x", Iteration=1)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="cannot take 55 clips"):
        script("DM", "x", "--overwrite", ipc=55)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_a_dead_run_left_is_not_taken_for_this_ones(script, tmp_path):
    """Features that were trained with other settings, and no checkpoint."""
    flags = "--method", "herding", "--train_epochs", "1"
    clean = content(script("herding", "clean", *flags))
    left = tmp_path / "herding" / "x"
    left.mkdir()
    (left / "network.safetensors").write_bytes(b"of another run")
    assert content(script("herding", "x", *flags)) == clean


def test_a_network_named_twice_is_scored_once(script):
    folder = script("DM", "x", Iteration=1)
    scores = content(script("score", "s", "--model_eval", NET, NET, synset=folder / "synset.safetensors"))[1]
    assert scores["num_networks"] == 1


def test_a_checkpoint_is_plain_tensors_and_files_say_what_they_should(script):
    folder = script("S2D-DM", "x", num_eval=2)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["iteration"] == 4 and {"synset", "optimizer"} == set(state["parts"])
    args = json.loads((folder / "args.json").read_text())
    assert args["lr_dynamic"] == 0.1 and args["versions"]["torch"] == torch.__version__ and args["device"] == "cpu"
    result = json.loads((folder / "result.json").read_text())
    assert {"method", "dataset", "network", "protocol", "seed", "ipc", "top1_mean", "top1_std", "top5_mean",
            "num_networks", "per_class", "storage_bytes", "seconds", "peak_memory_bytes", "synset",
            "top1_start_mean"} <= set(result)
    assert {file.name for file in folder.iterdir()} == {
        ".lock", "args.json", "metrics.jsonl", "checkpoint.pt", "synset.safetensors", "preview.png", "preview.gif",
        "curve.png", "result.json", "confusion.json", "real.webp"}
    assert args["command"].startswith("python distill_s2d_DM --frames 4") and "--name x" in args["command"]
    confusion = json.loads((folder / "confusion.json").read_text())
    counts = np.array(confusion["confusion"])
    assert confusion["network"] == NET and confusion["classes"][0] == "ZeroUp" and (counts.sum(1) == 2 * 2).all()
    assert (counts.diagonal() / 4).tolist() == result["per_class"]
    assert [entry["iteration"] for entry in state["history"] if "confusion" in entry] == [2, 2, 4, 4]     # 0 went
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "top1_mean" in line] == [0, 2, 4]


def test_a_full_disk_while_saving_leaves_the_earlier_checkpoint(script, tmp_path, monkeypatch):
    wanted = content(script("DM", "whole"))
    save, calls = torch.save, []

    def full(content, file):
        calls.append(1)
        if len(calls) == 5:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space left to write .*checkpoint.pt.*--resume"):
            script("DM", "x")
    folder = tmp_path / "DM" / "x"
    assert reached(folder) >= 0 and [file.name for file in folder.glob(".*")] == [".lock"]
    assert content(script("DM", "x", "--resume")) == wanted


def test_nan_stops_the_run_and_names_iteration_rate_and_checkpoint(script, tmp_path):
    folder = script("DM", "x", Iteration=2)
    before = (folder / "synset.safetensors").read_bytes()
    names = r"(?s)iteration \d.*(checkpoint is of iteration|no step was).*rate \[1e\+38\]"
    with pytest.raises(ValueError, match=names):
        script("DM", "y", lr_img=1e38, Iteration=6, frames=8, im_size=32)
    broken = tmp_path / "DM" / "y" / "synset.safetensors"
    assert torch.isfinite(load_synset(broken)[0].videos).all()
    assert (folder / "synset.safetensors").read_bytes() == before


def test_a_result_without_its_checkpoint_is_still_a_result(script):
    folder = script("DM", "x", Iteration=2)
    (folder / "checkpoint.pt").unlink()
    before = (folder / "result.json").read_bytes()
    for switch, said in (([], "already holds a run"), (["--resume"], "no checkpoint.pt to go on from.*--overwrite")):
        with pytest.raises(ValueError, match=said):
            script("DM", "x", *switch, Iteration=2)
    assert (folder / "result.json").read_bytes() == before
    script("DM", "x", "--overwrite", Iteration=2)


def test_a_run_does_not_go_back(script):
    folder = script("DM", "x", Iteration=2)
    before = (folder / "result.json").read_bytes()
    with pytest.raises(ValueError, match="DM/x is at iteration 2 already: give an --Iteration of at least"):
        script("DM", "x", "--resume", Iteration=1)
    assert (folder / "result.json").read_bytes() == before
    script("DM", "x", "--resume", Iteration=2)


def test_all_results_are_found_once(script, tmp_path, monkeypatch, capsys):
    script("DM", "a", Iteration=1)
    (tmp_path / "DM").rename(tmp_path / "elsewhere")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "DM").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "r")
    monkeypatch.setattr(sys, "argv", ["summarize.py", *[str(tmp_path / "r")] * 2])
    summarize.main()
    assert capsys.readouterr().out.count("pixels (DM)") == 1
    assert len(list(summarize.find(tmp_path / "r"))) == 1       # and not once in each round of the circle
    file = tmp_path / "elsewhere" / "a" / "result.json"
    whole = json.loads(file.read_text())
    del whole["sum"]
    for change in ({"dataset": None}, {"dataset": 3}, {"protocol": None}, {"seed": "1"}, {"ipc": "1"}, {"network": 2}):
        file.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match="result.json is not the result of a run"):
            summarize.main()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="result.json is not the result of a run"):
        summarize.main()


@pytest.mark.parametrize("name", [".hidden", "../../x", "a/b", ".", "..", "/tmp/x", ""])
def test_a_name_leads_to_no_other_folder(script, tmp_path, name):
    if name == "":
        assert script("DM", name, Iteration=1).is_dir()      # as without --name
        return
    with pytest.raises(ValueError, match="--name .* is not a name for one folder"):
        script("DM", name, Iteration=1)
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_damaged_checkpoint_is_named_without_advice_to_trust_it(script):
    folder = script("DM", "x", Iteration=2)
    file = folder / "checkpoint.pt"
    whole = file.read_bytes()
    content = bytearray(whole)
    content[len(whole) // 2] ^= 1
    for damaged in (bytes(content), whole[:-9], b"", b"nothing", b"\x80\x02cos\nsystem\nq\x00."):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="checkpoint.pt cannot be read .*--overwrite") as raised:
            script("DM", "x", "--resume")
        assert "weights_only" not in str(raised.value)
    file.write_bytes(whole)
    script("DM", "x", "--resume")


def test_a_log_that_was_shortened_keeps_its_whole_lines(script, capsys):
    folder = script("DM", "x", Iteration=2)
    log = folder / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    script("DM", "x", "--resume")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["iteration"] == 4 and "metrics.jsonl is shorter than it was" in capsys.readouterr().err


def test_a_damaged_result_is_not_put_into_a_table(script, tmp_path, monkeypatch):
    file = script("DM", "x", Iteration=1) / "result.json"
    file.write_text(file.read_text().replace('"top1_mean": 0.', '"top1_mean": 0.9'))
    monkeypatch.setattr(sys, "argv", ["summarize.py", str(tmp_path)])
    with pytest.raises(ValueError, match="result.json is not what its run wrote"):
        summarize.main()


def test_rows_say_which_labels_are_no_class_numbers_and_stay_apart(script):
    result = json.loads((script("FRePo", "x", Iteration=1) / "result.json").read_text())
    assert result["labels"] == "learned"
    titles = {("random", "class"): "random", ("random", "teacher"): "random, a teacher's labels",
              ("FRePo", "learned"): "pixels (FRePo), learned labels",
              ("S2D-FRePo", "class"): "static + dynamic (FRePo+S2D)"}
    rows = [result | {"method": method, "labels": labels, "seed": seed} for seed in (0, 1) for method, labels in titles]
    lines = summarize.table(rows, merge_seeds=True).splitlines()[4:]
    assert [line.split(" | ")[0] for line in lines] == [f"| {title}" for title in titles.values()]
    assert all(line.split(" | ")[2] == "0 / 1" for line in lines)
    del result["labels"]        # as before there were others
    assert summarize.title(result | {"method": "random"}) == "random"


def test_a_network_that_diverged_has_no_score(script, tmp_path):
    with pytest.raises(ValueError, match="not finite, so it has no score.*--lr_net"):
        script("DM", "x", lr_net=1e30, epoch_eval_train=3)
    assert not list(tmp_path.rglob("result.json"))


def test_a_set_whose_size_standardisation_hides_is_told(script, capsys):
    script("DM", "x", "--optim", "adam", lr_img=1e9)
    assert "pixels of this set reach 2.61e+09, where those of real clips stay below 3" in capsys.readouterr().err


def test_a_folder_that_another_process_works_on_is_refused_and_left_overs_of_a_killed_one_removed(script, tmp_path):
    folder = tmp_path / "DM" / "x"
    folder.mkdir(parents=True)
    (folder / ".checkpoint.pt.tmp-1").write_bytes(b"half")
    code = f"import time; from distill_utils.files import try_lock; x = try_lock({str(folder / '.lock')!r}); " \
           "print(x is not None, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    with pytest.raises(ValueError, match="another process is working on .*DM/x.*--name"):
        script("DM", "x", Iteration=1)
    other.kill()
    other.wait()
    script("DM", "x", Iteration=1)
    assert not list(folder.glob("*.tmp-*")) and not list(folder.glob(".*.tmp-*"))


def test_a_run_that_never_began_does_not_refuse_the_corrected_one(script, tmp_path):
    with pytest.raises(ValueError, match="cannot take 55 clips"):
        script("DM", "x", ipc=55)
    assert [file.name for file in (tmp_path / "DM" / "x").iterdir()] == [".lock"]
    script("DM", "x", Iteration=1)


def test_wandb_is_imported_only_when_asked(script, tmp_path, monkeypatch):
    calls = []
    stub = SimpleNamespace(init=lambda **k: (calls.append(k), SimpleNamespace(
        log=lambda line, step=None: calls.append((step, line)), summary={}, finish=lambda: calls.append("finish")))[1],
        Video=lambda path, format: (path, format))
    monkeypatch.setitem(sys.modules, "wandb", None)     # an import would fail
    script("DM", "x", Iteration=1)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    script("DM", "y", Iteration=1, wandb="offline")
    assert calls[0]["mode"] == "offline" and calls[-1] == "finish" and len(calls) > 3
    assert calls[-2] == (None, {"clips": (str(tmp_path / "DM" / "y" / "preview.gif"), "gif")})


# ---- scores --------------------------------------------------------------------------------------------------------

def bare(protocol="standard"):
    run = Run.__new__(Run)
    run.report_best = PROTOCOLS[protocol].report_best
    run.args, run.history = {"protocol": protocol, "num_eval": 2}, [
        {"iteration": it, "network": "N", "number": i, "top1": top1, "top5": 0.9, "loss": 1.0, "per_class": [top1, 1.0]}
        for it, values in ((0, (0.1, 0.2)), (5, (0.5, 0.7, 0.9)), (10, (0.3, 0.5))) for i, top1 in enumerate(values)]
    return run


def test_mean_deviation_and_interval():
    scores = bare().scores(5, "N")
    values = np.array([0.5, 0.7, 0.9])
    assert scores["top1_mean"] == pytest.approx(0.7) and scores["top1_std"] == pytest.approx(values.std(ddof=1))
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert scores["top1_ci95"] == pytest.approx((high - low) / 2) and scores["num_networks"] == 3
    assert scores["per_class"] == pytest.approx([0.7, 1.0]) and scores["top5_mean"] == pytest.approx(0.9)


def test_standard_reports_the_last_iteration_and_paper_the_best():
    assert bare().reported_iteration(["N"]) == 10 and bare("paper").reported_iteration(["N"]) == 5


def test_an_iteration_that_was_not_scored_by_every_network_is_not_reported():
    run = bare("paper")
    run.args["num_eval"] = 3
    assert run.evaluated(["N"]) == [5]
    run.history.append({"iteration": 20, "network": "N", "number": 0, "top1": 1.0, "top5": 1.0, "loss": 0.0})
    assert run.reported_iteration(["N"]) == 5


def test_a_start_that_stays_the_best_is_named_the_start(script, monkeypatch, capsys):
    tops = iter([0.5, 0.25, 0.5])
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: utils.EvalResult(
        next(tops), 1.0, 1.0, torch.eye(10, dtype=torch.long)))
    result = content(script("DM", "x", "--protocol", "paper", Iteration=2, eval_it=1))[1]
    assert (result["iteration"], result["top1_mean"]) == (0, 0.5) and result["is_start"] and not result["below_start"]
    assert "no set that was trained scores above the start" in capsys.readouterr().err
    assert "(the start itself)" in summarize.table([result | {"seconds": 1, "distill_seconds": 1}])


@pytest.mark.parametrize("method", ["DC", ("DC", "pixels")])
def test_dc_keeps_its_last_iteration_whatever_the_test_split_says(method, script, monkeypatch):
    """A static memory that was chosen on the test split would hand what it knows of it to all that is made with it."""
    tops = iter([0.5, 0.75, 0.25])
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: utils.EvalResult(
        next(tops), 1.0, 1.0, torch.eye(10, dtype=torch.long)))
    folder = script(method, "x", "--protocol", "paper", Iteration=2, eval_it=1)
    result = content(folder)[1]
    assert (result["iteration"], result["top1_mean"]) == (2, 0.25)
    assert load_synset(folder / "synset.safetensors")[1]["iteration"] == 2


def test_a_set_that_was_removed_is_missed(script):
    (script("DM", "x", "--protocol", "paper", Iteration=2, lr_img=1e-30) / "synset.safetensors").unlink()
    with pytest.raises(ValueError, match="the set of iteration 0, was removed: make it again with --overwrite"):
        script("DM", "x", "--protocol", "paper", "--resume", Iteration=2, lr_img=1e-30)


@pytest.mark.parametrize("method,rate", [("DM", "lr_img"), ("S2D-DM", "lr_dynamic")])
def test_a_start_that_several_runs_share_is_scored_once(script, tmp_path, monkeypatch, method, rate):
    script(method, "a", Iteration=1)
    scored, evaluate_synset = [], utils.evaluate_synset
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: scored.append(1) or evaluate_synset(
        *args, **kwargs))
    script(method, "b", Iteration=1, **{rate: 2})
    assert len(scored) == 1         # its end
    for flags in ({"seed": 1}, {"epoch_eval_train": 2}, {"lr_net": 0.02}, {"store": "uint8"}):
        scored.clear()
        script(method, "c", "--overwrite", Iteration=1, **flags)
        assert len(scored) == 2, flags
    assert json.loads((tmp_path / method / "a" / "result.json").read_text())["top1_start_mean"] == json.loads(
        (tmp_path / method / "b" / "result.json").read_text())["top1_start_mean"]
    for file in (tmp_path / ".scores").iterdir():       # the time of a shared score counts
        scores = json.loads(file.read_text()) | {"seconds": 1000}
        file.write_text(json.dumps(with_sum(scores)))
    assert json.loads((script(method, "d", Iteration=1) / "result.json").read_text())["seconds"] > 1000
    # one that is not whole is made again
    for damage in ("{", "5", "[1]", "{}", '{"top1": 1.0}', {"loss": float("nan")}, {"top1": 0.123}):
        for file in (tmp_path / ".scores").iterdir():
            whole = json.loads(file.read_text()) | damage if isinstance(damage, dict) else None
            file.write_text(json.dumps(whole) if whole else damage)
        scored.clear()
        script(method, "d", "--overwrite", Iteration=1)
        assert len(scored) == 2, damage
    shutil.rmtree(tmp_path / ".scores")
    (tmp_path / ".scores").write_text("in the way")
    script(method, "d", "--overwrite", Iteration=1)


def test_a_set_that_ends_below_its_start_says_so(script, capsys, monkeypatch):
    tops = iter([0.5, 0.25, 0.25, 0.5])
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: utils.EvalResult(
        next(tops), 1.0, 1.0, torch.eye(10, dtype=torch.long)))
    assert content(script("DM", "a", Iteration=1))[1]["below_start"] is True
    assert "scores 25.0 %, below the 50.0 % that it started from" in capsys.readouterr().err
    assert content(script("DM", "b", Iteration=1, seed=1))[1]["below_start"] is False
    assert "below the" not in capsys.readouterr().err


def test_how_often_a_set_is_scored_changes_nothing_else(script):
    first, often = content(script("DM", "a")), content(script("DM", "b", eval_it=1))
    assert often[0][0] == first[0][0] and set(first[2]) < set(often[2])


def test_every_network_of_an_evaluation_has_a_seed_of_its_own(script, monkeypatch):
    seen, evaluate_synset = [], utils.evaluate_synset
    monkeypatch.setattr(utils, "evaluate_synset", lambda *args, **kwargs: (
        seen.append(kwargs["seed"]), evaluate_synset(*args, **kwargs))[1])
    script("DM", "a", Iteration=1, num_eval=3)
    script("S2D-DM", "b", Iteration=1, num_eval=3)
    assert len(set(seen[:3])) == 3 and seen == seen[:3] * 4      # differences between methods and iterations are paired
    seen.clear()
    script("DM", "c", Iteration=1, num_eval=3, seed=1)
    assert len(seen) == 6


@pytest.mark.parametrize("start,every,total,wanted", [
    (0, 2, 5, {0, 2, 4, 5}), (400, 400, 1000, {0, 400, 800, 1000}), (3, 4, 8, {0, 3, 7, 8}), (0, 500, 100, {0, 100})])
def test_iterations_that_are_scored(start, every, total, wanted):
    assert eval_iterations(SimpleNamespace(startIt=start, eval_it=every, Iteration=total)) == wanted
