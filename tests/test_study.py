"""The study of methods: its commands are such as the scripts take, and search and table work on tiny data."""
import json
import math
import shlex
import shutil
import sys
from types import SimpleNamespace

import pytest

import buffer
import distill_coreset
import distill_DM
import distill_FRePo
import distill_MTT
import distill_s2d_DM
import distill_s2d_FRePo
import distill_s2d_MTT
import evaluate
from conftest import ROOT, run_script
from distill_utils.dataset import get_spec
from distill_utils.synset import SETS

sys.path.insert(0, str(ROOT / "sh" / "study"))
import frontier
import methods
import study
import taxonomy

MODULES = {module.__name__: module for module in (buffer, distill_coreset, distill_DM, distill_FRePo, distill_MTT,
                                                  distill_s2d_DM, distill_s2d_FRePo, distill_s2d_MTT, evaluate)}

@pytest.mark.parametrize("flags", [[], ["--search"]])
def test_every_command_parses_and_says_what_the_row_says(flags, parse):
    done = run_script("sh/study/methods.py", "GameClips", 5, "--dry_run", "--rows", *methods.ROWS, *flags)
    lines = done.stdout.splitlines()
    names = set()
    for line in lines:
        script, *words = shlex.split(line.removeprefix("python "))
        args = parse(MODULES[script.removesuffix(".py")], words)
        assert (args.holdout == 0.2) == bool(flags) and args.dataset == "GameClips"
        if script != "buffer.py":
            assert args.resume and args.name not in names
            names.add(args.name)
            assert args.seed in ((100, 101) if flags else (10, 11, 12))
    rows = methods.ROWS.values()
    wanted = sum(2 * len(row.settings) for row in rows if len(row.settings) > 1) if flags else 3 * len(rows)
    assert len(lines) == 1 + wanted


def test_every_point_of_the_taxonomy_parses_and_has_a_name_of_its_own(parse):
    lines = run_script("sh/study/taxonomy.py", "MotionDigits", "--dry_run").stdout.splitlines()
    names, frames = set(), set()
    for line in lines:
        script, *words = shlex.split(line.removeprefix("python "))
        args = parse(MODULES[script.removesuffix(".py")], words)
        names.add(args.name)
        if script == "distill_DM.py":
            kept = args.n_syn * args.segments
            assert args.ipc in (1, 8 // (3 if args.grow else kept))
            frames.add(kept)
            synset = SETS[args.set].from_args(args, get_spec("MotionDigits", 8, 32))
            assert len(synset.frames) == 10 * args.ipc * kept
        assert args.seed in (10, 11, 12) and args.holdout is None
    assert len(names) == len(lines) and frames == {1, 2, 4, 8}
    assert len(lines) == 3 * sum(1 + (point.frames < 8) for point in taxonomy.POINTS)


def test_a_taxonomy_on_tiny_data(few_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "SIZE", "--frames 8 --im_size 16 --device cpu")
    monkeypatch.setattr(study, "STEPS", 1)
    monkeypatch.setattr(study, "SEEDS", (10, 11))
    points = [point._replace(flags=point.flags.replace("--Iteration 200", "--Iteration 1"))
              for point in taxonomy.POINTS if point.frames == 4]
    monkeypatch.setattr(taxonomy, "POINTS", points)
    monkeypatch.setattr(sys, "argv", ["taxonomy.py", "MotionDigits", "--data_path", str(few_digits), "--out",
                                      str(tmp_path)])
    taxonomy.main()
    out = capsys.readouterr().out
    assert out.count("\n| ") == 2 + 2 * len(points)
    results = json.loads((tmp_path / "MotionDigits" / "taxonomy.json").read_text())
    assert {r["storage_bytes"] for r in results if r["ipc"] == 2} >= {10 * 2 * 4 * 3 * 16 * 16 * 4}
    assert (tmp_path / "MotionDigits" / "taxonomy.png").stat().st_size > 10_000


def test_every_run_of_a_frontier_parses_and_has_a_name_of_its_own(parse):
    lines = run_script("sh/study/frontier.py", "GameClips", "--dry_run").stdout.splitlines()
    names, seen = set(), []
    for line in lines:
        script, *words = shlex.split(line.removeprefix("python "))
        if script == "buffer.py":
            continue
        args = parse(MODULES[script.removesuffix(".py")], words)
        names.add(args.name)
        assert args.dataset == "GameClips" and args.holdout is None
        if "coreset" in script and args.labels == "teacher":     # settings of the nearest search
            assert args.loss == ("kl" if args.ipc > 2 else None)
        if vars(args).get("train_on") != "full":
            seen.append((script, vars(args).get("restore") or args.store, bool(vars(args).get("through_store")),
                         args.seed))
    assert len(names) == len(seen) + 1      # all real clips
    assert {seed for *_, seed in seen} == {10, 11, 12}
    assert {store for script, store, _, _ in seen if script == "evaluate.py"} == set(frontier.CODED)
    assert {store for *_, store, through, _ in seen if through} == set(frontier.CODED)
    selected = sum(len(counts) for stores in frontier.SELECTED.values() for counts in stores.values())
    assert len(seen) == 3 * (selected + len(frontier.DISTILLED) * (1 + 2 * len(frontier.CODED))
                             + len(frontier.LABELLED) * (1 + len(frontier.CODED)))


@pytest.fixture
def frontier_of(tmp_path, monkeypatch, capsys):
    """What a frontier of MotionDigits prints, on results that are made up: a random clip of each class takes 100 bytes
    in h264 and 1000 in zip; every doubling brings 10 points, from 10; a teacher's labels 5 more, for 40 bytes."""
    def run_all(args, jobs):
        results = []
        for _, words in jobs:
            store = next((words[words.index(flag) + 1] for flag in ("--store", "--restore") if flag in words), "")
            clips = int(words[words.index("--ipc") + 1]) if "--ipc" in words else 1
            seed, result = int(words[words.index("--seed") + 1]), {"ipc": clips}
            if "coreset" in words[0]:
                soft = "teacher" in words
                result |= {"storage_bytes": (1000 if store == "zip" else 100) * clips + 40 * soft, "top1_mean": 0.1 + (
                    0.1 * math.log2(clips)) + 0.05 * soft + seed / 1000 - 0.01 * ("herding" in words)}
            elif "--through_store" in words and store == "h264:36" and "s2d_MTT" in words[0]:
                result = {"diverged": "loss is not finite"}
            else:
                frepo = "FRePo" in words[0] and "--lr_img 0 " not in f"{' '.join(words)} "
                result |= {"storage_bytes": 30 if store == "h264:40" else 282.8427 if store == "h264:30" else 10**9,
                           "top1_mean": (0.5 if frepo else 0.2) + seed / 500, "synset": "x"}
            results.append(result)
        return results

    def print_frontier(*flags):
        monkeypatch.setattr(sys, "argv", ["frontier.py", "MotionDigits", "--out", str(tmp_path), *flags])
        frontier.main()
        return capsys.readouterr().out

    monkeypatch.setattr(study, "run_all", run_all)
    monkeypatch.setattr(methods, "make_experts", lambda args: None)
    (tmp_path / "MotionDigits").mkdir()
    return print_frontier


def test_a_frontier_compares_with_the_best_real_clips_at_the_same_bytes(tmp_path, frontier_of):
    out = frontier_of()
    # half-way from 2 to 4 clips: 25 points; with a teacher's labels, between 240 and 440 bytes, more
    row, = [line for line in out.splitlines() if line.startswith("| FRePo, through its store | h264:30 |")]
    share = math.log(282.8427 / 240) / math.log(440 / 240)
    best = 25 + 10 * share
    assert best > 25
    gains = [50 + seed / 5 - best - seed / 10 for seed in (10, 11, 12)]
    assert row.endswith(f"| {study.plus_minus(gains)} | random, a teacher's labels, h264:40 |")
    assert ("| FRePo, through its store | h264:40 | 1 | 30 | 52.2 ± 0.1 | 30.0 ± 0.0 | random, labels learned by FRePo"
            ", h264:40 |") in out
    assert "| MTT+S2D, through its store | h264:36 |  |  | diverged in 3 of 3 runs |" in out
    points = 7 * len(frontier.DISTILLED) - 1        # without the one that diverged
    for what, ahead in ("the best real clips", 2), ("random clips with class labels", 1):      # none takes 30 bytes
        assert (f"Ahead of {what} at the same bytes by more than two standard errors: {ahead} of {points} points\n"
                "- FRePo, through its store, h264:30: ") in out
    assert "| FRePo | 30.0 ± 0.0 | 30.0 ± 0.0 | 30.0 ± 0.0 |\n" in out
    assert "| MTT+S2D | 0.0 ± 0.0 |  | 0.0 ± 0.0 |\n" in out       # h264:30, :36, :40
    assert (tmp_path / "MotionDigits" / "frontier.png").stat().st_size > 10_000


def test_a_part_of_a_frontier_shows_what_its_real_clips_can_be_compared_with(tmp_path, frontier_of):
    out = frontier_of("--seeds", "20", "21", "--rows", "FRePo", "--stores", "h264:30", "h264:36", "--most", "2")
    assert "seeds 20, 21," in out and "| random | h264:40 | 2 |" in out and "| random | h264:40 | 3 |" not in out
    # h264:30 takes 283 bytes, and two random clips of each class 200: nothing is left to compare with
    assert "| FRePo, through" not in out and "| FRePo | h264" not in out and "DM" not in out
    assert out.count("0 of 0 points") == 2
    out = frontier_of("--seeds", "20", "21", "--rows", "FRePo", "--stores", "h264:30", "h264:36", "--most", "4")
    assert "| FRePo, through its store | h264:30 |" in out and "| FRePo | float32 |" not in out
    assert {path.name for path in (tmp_path / "MotionDigits").iterdir()} == {"frontier_part.json", "frontier_part.png"}
    with pytest.raises(SystemExit):
        frontier_of("--seeds", "20", "20")


def test_a_frontier_without_chosen_settings_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "CHOSEN", tmp_path)
    monkeypatch.setattr(study, "run_all", lambda *args: pytest.fail("something was run"))
    monkeypatch.setattr(sys, "argv", ["frontier.py", "GameClips", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="no settings are chosen yet for DM_experts, FRePo, S2D-DM"):
        frontier.main()
    shutil.copy(study.ROOT / "sh" / "study" / "chosen" / "GameClips_1.json", tmp_path)
    with pytest.raises(SystemExit, match="chosen yet for random, random_soft: run .* GameClips 5 --search"):
        frontier.main()


@pytest.mark.parametrize("content", ["{bad", "[1]", "{}", '{"top1_mean": 0.99, "seconds": 1}'])
def test_a_result_that_no_run_has_written_is_not_a_row(content, tmp_path, monkeypatch):
    folder = tmp_path / "MotionDigits" / "DM" / "x"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(content)
    monkeypatch.setattr(study.subprocess, "run", lambda *args, **kwargs: pytest.fail("something was run"))
    args = SimpleNamespace(out=tmp_path, dataset="MotionDigits", dry_run=False)
    with pytest.raises(ValueError, match="x/result.json is damaged, or was not written by a run: remove its folder"):
        study.run_all(args, [("first", ["distill_DM.py"]), ("x", ["distill_DM.py", "--name", "x"])])


@pytest.mark.parametrize("content", ["{bad", "", "[1]", "null", '{"random": 3}', '{"random": "--lr_net 1e-3 --bogus"}'])
def test_settings_that_no_search_has_written_are_refused(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, "CHOSEN", tmp_path)
    (tmp_path / "MotionDigits_1.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["methods.py", "MotionDigits", "1", "--dry_run"])
    with pytest.raises(ValueError, match="MotionDigits_1.json has settings that are not among those that a search"):
        methods.main()
    assert not capsys.readouterr().out


def test_a_path_is_one_word_of_a_printed_command_and_no_part_of_a_name(tmp_path):
    names = set()
    for folder in ("a b", "c"):
        lines = run_script("sh/study/taxonomy.py", "MotionDigits", "--dry_run", "--out", tmp_path / folder,
                           "--data_path", f"{tmp_path / folder}/../data").stdout.splitlines()
        words = shlex.split(lines[0])
        assert f"{tmp_path}/{folder}/MotionDigits" in words and f"{tmp_path}/data" in words
        names.add(words[words.index("--name") + 1])
    assert len(names) == 1


def test_a_setting_that_diverges_is_not_chosen_and_a_row_that_does_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, "make_experts", lambda args: None)
    monkeypatch.setattr(methods, "CHOSEN", tmp_path / "chosen")
    monkeypatch.setattr(methods, "ROWS", {"a": methods.Row("A", "x.py", ("--rate 1", "--rate 2"), beside=""),
                                          "b": methods.Row("B", "y.py", beside="a")})

    def run(words, **kwargs):
        if "y.py" in words and "12" in words or "2" in words:
            return SimpleNamespace(returncode=1, stderr="...\nerror: loss is not finite at iteration 3", stdout="")
        return SimpleNamespace(returncode=0, stderr="", stdout="RESULT " + json.dumps(
            {"top1_mean": 0.5, "seconds": 1, "storage_bytes": 7}) + "\n")

    monkeypatch.setattr(study.subprocess, "run", run)
    for words in (["--search"], []):
        (tmp_path / "MotionDigits").mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["methods.py", "MotionDigits", "1", "--out", str(tmp_path), *words])
        methods.main()
    out = capsys.readouterr()
    assert json.loads((tmp_path / "chosen" / "MotionDigits_1.json").read_text()) == {"a": "--rate 1"}
    assert "| A |  | 50.0 ± 0.0 |" in out.out and "| B |  | diverged in 1 of 3 runs |" in out.out
    assert "b seed 12: error: loss is not finite at iteration 3" in out.err
    monkeypatch.setattr(methods, "ROWS", {"a": methods.Row("A", "x.py", ("--rate 2", "--rate  2"))})
    (tmp_path / "chosen" / "MotionDigits_1.json").unlink()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--search", "--rows", "a"])
    with pytest.raises(ValueError, match="no setting of a is without a run that diverged"):
        methods.main()


def test_search_and_table_on_tiny_data(few_digits, tmp_path, monkeypatch, capsys):
    """Choices come from held-back clips and the seeds of the search; the table is of other seeds; nothing that is
    finished is made again."""
    monkeypatch.setattr(study, "SIZE", "--frames 4 --im_size 16 --device cpu")
    monkeypatch.setattr(methods, "HOLDOUT", 0.5)
    monkeypatch.setattr(methods, "EXPERTS", 1)
    monkeypatch.setattr(study, "STEPS", 1)
    monkeypatch.setitem(methods.EPOCHS, "MotionDigits", 10)
    tiny = "--ipc {n}"
    rows = {"random": methods.Row("random", f"distill_coreset.py {tiny}", ("--lr_net 0.01", "--lr_net 0.02"),
                                  beside=""),
            "DM": methods.Row("DM", f"distill_DM.py {tiny} --Iteration 1 --batch_real 2",
                              ("--lr_img 1", "--lr_img 2"), ("random",)),
            "DM_too": methods.Row("DM too", f"distill_DM.py {tiny} --Iteration 1 --batch_real 2 --kernel gaussian",
                                  recipe=("random", "DM"))}
    monkeypatch.setattr(methods, "ROWS", rows)
    monkeypatch.setattr(methods, "CHOSEN", tmp_path / "chosen")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["methods.py", "MotionDigits", "1", "--data_path", str(few_digits), "--out",
                                          str(tmp_path / "out"), "--rows", "random", "DM", "DM_too", *words])
        methods.main()
        return capsys.readouterr().out

    with pytest.raises(SystemExit, match="no settings are chosen yet for random, DM, DM_too: run the same with"):
        call()
    out = call("--search")
    chosen = json.loads((tmp_path / "chosen" / "MotionDigits_1.json").read_text())
    assert chosen["random"] in rows["random"].settings and chosen["DM"] in rows["DM"].settings
    assert "-> [--lr_net" in out and "DM_too" not in chosen
    found = list((tmp_path / "out" / "MotionDigits").glob("*/*/result.json"))
    results = [json.loads(file.read_text()) for file in found]
    assert {r["seed"] for r in results} == {100, 101} and all(r["holdout"] == 0.5 for r in results)

    out = call()
    table = json.loads(out.strip().splitlines()[-1].removeprefix("TABLE ") and (
        tmp_path / "out" / "MotionDigits" / "table_1.json").read_text())
    assert [(r["method"], r["seed"]) for r in table] == [(m, s) for m in ("random", "DM", "DM") for s in (10, 11, 12)]
    assert all(r["holdout"] is None and f"--lr_net {r['lr_net']:g}" == chosen["random"] for r in table)
    assert out.count("\n| ") == 5 and "| DM too |" in out
    assert all(f"--lr_img {json.loads(file.read_text())['lr_img']:g}" == chosen["DM"] for file in (
        tmp_path / "out" / "MotionDigits").glob("DM/DM_too_*/args.json"))       # a choice of another row
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*/*/*/result.json")}
    assert call() == out and times == {file: file.stat().st_mtime_ns for file in times}
