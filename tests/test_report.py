"""The page of results: what it says of runs, also of damaged ones, and that a browser shows it as it should."""
import io
import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import distill_coreset
import distill_DM
import evaluate
import report
from conftest import NET
from distill_utils import page, picture
from distill_utils.dataset import Spec, get_spec
from distill_utils.files import with_sum
from distill_utils.page import Images, read_run
from distill_utils.storage import file_sum, save_synset
from distill_utils.synset import VideoSet, load_synset
from runs import FAST, words
from test_own_data import write_csv

NAMES = ("<img src=x onerror=alert(1)>", 'He said "no"', "прыжок & 跳舞")       # of classes
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A folder of runs on data with awkward class names: pixels, key frames, a selection, a score, all real clips, and
    one that was broken off."""
    folder = tmp_path_factory.mktemp("report")
    root, rows = folder / "mine", []
    for label, name in enumerate(NAMES):
        for split, n in (("train", 3), ("test", 2)):
            for i in range(n):
                clip = root / "frames" / f"clip{label}{split}{i}"
                clip.mkdir(parents=True)
                for t in range(6):
                    Image.new("RGB", (16, 16), (40 * label + 3 * i, 40 * t, 0)).save(clip / f"{t:05d}.png")
                rows.append((f"clip{label}{split}{i}", name, split))
    write_csv(root / "split.csv", rows)

    def run(module, *switches, **flags):
        flags = {**FAST, "num_eval": 2, **flags, "dataset": root, "save_path": folder / "result"}
        if module is not distill_DM:
            del flags["Iteration"], flags["eval_it"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{module.__name__}.py", *words(flags), *switches])
            module.main()

    run(distill_DM, name="a<b>&", ipc=2, batch_real=2, seed=1)
    run(distill_DM, name="kf", ipc=1, set="keyframes", batch_real=2)
    run(distill_coreset, name="r", store="jpeg:90")
    run(evaluate, name="full", train_on="full")
    run(evaluate, "--fair", "jpeg:50", "--model_eval", NET, "ConvNet3DD1", name="again",
        synset=folder / "result/DM/a<b>&/synset.safetensors")
    shutil.copytree(folder / "result/DM/a<b>&", folder / "result/DM/half")
    (folder / "result/DM/half/result.json").unlink()
    return folder / "result"


@pytest.fixture
def copied(result, tmp_path):
    return shutil.copytree(result, tmp_path / "result")


def make(monkeypatch, folder, *flags):
    """The page of a folder, a text, as the script writes it beside it."""
    out = folder.parent / "page.html"
    monkeypatch.setattr(sys, "argv", ["report.py", str(folder), "-o", str(out), *flags])
    report.main()
    return out.read_text(encoding="utf-8")


# ---- what it says -------------------------------------------------------------------------------------------------

def test_everything_of_a_run_is_there_and_it_is_text(copied, monkeypatch, capsys):
    text = make(monkeypatch, copied)
    assert "6 runs, 1 of them with something missing" in capsys.readouterr().out
    for name in NAMES:
        assert escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in text
    assert "<img src=x" not in text and "a<b>" not in text and "a&lt;b&gt;&amp;" in text
    assert len(re.findall(r"<details class=\"run\"", text)) == 6
    assert "key frames 1, 4" in text and "jpeg:90" in text and "over as many bytes of them" in text
    assert "there is no result.json: the run is not finished" in text
    assert "distill_DM.py" in text and "peak memory" in text and re.search(r"ConvNet3DD1</span> .*? ± .*? %", text)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"|url\(\"(?!data:)|@import", text)     # nothing is fetched
    assert text == make(monkeypatch, copied)


def test_pictures_that_runs_share_are_kept_once(result):
    images = Images()
    for name in ("DM/a<b>&", "score/again", "KF-DM/kf"):
        read_run(result / name, images)
    assert len(images.data) == 3        # the two sets, and the real clips


def test_clips_stand_beside_the_real_ones_of_their_class(result):
    images = Images()
    run = read_run(result / "DM/a<b>&", images)
    synset, header = load_synset(result / "DM/a<b>&/synset.safetensors")
    assert run["problems"] == [] and [name for name, _, _ in run["tiles"]] == [
        *NAMES[:2], "прыжок & 跳舞 (pryzhok & TiaoWu)"]
    for k, (_, accuracy, parts) in enumerate(run["tiles"]):
        assert accuracy == run["result"]["per_class"][k]
        assert [(kind, which) for kind, _, which, _ in parts] == [("set", 2 * k), ("set", 2 * k + 1), ("real", k)]
        assert parts[0][1]["count"] == 6 and parts[2][1]["count"] == 3
    wanted = picture.to_uint8(synset.videos, header["mean"], header["std"])
    webp = picture.moving(synset.videos.detach(), header["mean"], header["std"])
    with Image.open(io.BytesIO(webp)) as image:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    assert frames.shape == (4, 6 * 16, 16, 3)
    shown = frames.reshape(4, 6, 16, 16, 3).swapaxes(0, 1).astype(int)
    assert np.abs(shown - wanted).mean() < 12       # it is coded with loss
    assert images.add(webp)["name"] == run["tiles"][0][2][0][1]["name"]


def test_a_confusion_matrix_of_few_and_of_many_classes(tmp_path):
    counts = np.zeros((30, 30), int)
    counts[np.arange(30), np.arange(30)] = 6
    counts[3, 5], counts[4, 6], counts[4, 4] = 4, 5, 95
    content = {"network": "N", "classes": [f"c{k}" for k in range(30)], "confusion": counts.tolist()}
    (tmp_path / "confusion.json").write_text(json.dumps(with_sum(content)))
    result = {"per_class": [0.6 if k == 3 else 0.95 if k == 4 else 1 for k in range(30)]}
    names, found = page.confusion(tmp_path / "confusion.json", result)
    assert names[3] == "c3" and found["shares"] is None and found["worst"] == [("c3", "c5", 0.4), ("c4", "c6", 0.05)]
    content = {"network": "N", "classes": ["a", "b"], "confusion": [[3, 1], [0, 2]]}
    (tmp_path / "confusion.json").write_text(json.dumps(with_sum(content)))
    assert page.confusion(tmp_path / "confusion.json", {"per_class": [0.75, 1]})[1]["shares"] == [[0.75, 0.25], [0, 1]]
    with pytest.raises(ValueError, match="is of other scores"):
        page.confusion(tmp_path / "confusion.json", {"per_class": [0.5, 1]})


def test_a_set_of_400_classes_makes_a_small_page(result, tmp_path):
    assert picture.shown(3) == [0, 1, 2] and picture.shown(400)[-1] == 399
    spec = Spec("K", "s.csv", tuple(f"class {k}" for k in range(400)), frames=2, stride=1, size=8)
    synset = VideoSet(400, 3, spec.shape)
    synset.videos.data.normal_()
    save_synset(tmp_path / "synset.safetensors", synset, spec, method="DM", iteration=4)
    whole = json.loads((result / "DM/a<b>&/result.json").read_text()) | {
        "per_class": [0.5] * 400, "storage_bytes": 400 * 3 * 2 * 3 * 64 * 4,
        "set_sum": file_sum(tmp_path / "synset.safetensors")}
    del whole["sum"]
    (tmp_path / "result.json").write_text(json.dumps(with_sum(whole)))
    (tmp_path / "args.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "loss": 1}\n')
    (tmp_path / "real.webp").write_bytes(picture.moving(torch.randn(24, 2, 3, 8, 8), spec.mean, spec.std))
    content = {"network": "N", "classes": spec.classes, "confusion": (np.eye(400, dtype=int) + np.eye(
        400, k=1, dtype=int) + np.eye(400, k=-399, dtype=int)).tolist()}
    (tmp_path / "confusion.json").write_text(json.dumps(with_sum(content)))
    images = Images()
    run = read_run(tmp_path, images) | {"id": "run-1"}
    assert run["problems"] == [] and len(run["tiles"]) == 24 and run["shown"]["slots"] == 2
    text = page.render([run], images, "x")
    assert len(text) < 400_000 and "24 of 400 classes, 2 of 3 clips of each" in text
    # noise, the worst case, of the size and length of Kinetics
    assert len(picture.moving(torch.randn(24, 8, 3, 112, 112), spec.mean, spec.std)) < 4e6
    assert len(picture.moving(torch.randn(1, 64, 3, 40, 40), spec.mean, spec.std)) < 1e5


def test_curves_and_frontier(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"iteration": it, "loss": 5.0 - it / 1000} for it in range(1000)]
    lines += [{"iteration": it, "network": "N", "top1_mean": it / 1000, "top1_std": 0.01} for it in (0, 500)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 7')      # still being written
    loss, top1 = page.curves(file, finished=False)
    assert loss["y_label"] == "loss" and len(loss["series"][0]["points"]) == page.POINTS
    assert top1["y_label"] == "top-1 %" and len(top1["series"][0]["points"]) == 2
    runs = [{"id": f"run-{i}", "result": {"method": "random", "seed": i, "ipc": i, "storage_bytes": size,
                                          "top1_mean": top1, "top1_std": 0.02, "network": "N", "epochs": 1}}
            for i, (size, top1) in enumerate([(1000, 0.2), (20_000, 0.1), (500_000, 0.6)])]
    found = page.frontier(runs)
    points, best = found["series"][0]["points"], found["series"][-1]["points"]
    assert [text for _, text in found["x_ticks"]] == ["1 kB", "10 kB", "100 kB", "1 MB"]
    assert points[0]["x"] < points[1]["x"] < points[2]["x"] and points[1]["y"] > points[0]["y"] > points[2]["y"]
    assert [(p["x"], p["y"]) for p in best] == [(points[0]["x"], points[0]["y"]), (points[2]["x"], points[0]["y"]),
                                                *[(points[2]["x"], points[2]["y"])] * 2]
    assert points[2]["link"] == "#run-2" and "60.0 ± 2.0 %, 500,000 bytes" in points[2]["text"]
    lucky = {"id": "run-9", "result": runs[0]["result"] | {"top1_mean": 0.8, "seed": 9}}      # the line has means
    assert page.frontier([*runs, lucky])["series"][-1]["points"][0]["y"] == page.frontier([
        {"id": "run-8", "result": runs[0]["result"] | {"top1_mean": 0.5}}, *runs[1:], {
            "id": "run-7", "result": runs[0]["result"] | {"top1_mean": 0.8, "ipc": 3, "storage_bytes": 9e5}}]
        )["series"][-1]["points"][0]["y"]
    one = page.chart([("a", [(5, 50.0, 0, None, None)], True)], "x", "y")      # a single point has no span
    assert one["series"][0]["points"][0]["x"] >= page.LEFT
    assert len({text for _, text in one["y_ticks"]}) == len(one["y_ticks"]) > 2


# ---- bad input ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file,damage,message", [
    ("result.json", "{", "is not the result of a run"), ("result.json", None, "there is no result.json"),
    ("result.json", ('"seed": 0', '"seed": 1'), "was changed by hand"),
    ("args.json", "[]", "does not hold a JSON object"), ("args.json", None, "args.json"),
    ("metrics.jsonl", "7\n", "metrics.jsonl"), ("confusion.json", "{}", "is damaged"),
    ("real.webp", "nonsense", "is no WebP"), ("real.webp", None, "real.webp"),
    ("confusion.json", None, "confusion.json"), ("metrics.jsonl", "", "metrics.jsonl"),
    ("real.webp", "x" * 8_000_001, "bytes, and no run writes more"),
    ("synset.safetensors", "nonsense", "synset.safetensors"),
    ("synset.safetensors", None, "is not there any more"), ("synset.safetensors", "other", "is another set than"),
    ("synset.safetensors", "later", "is another set than"), ("result.json", {"per_class": [0.5]}, ""),
    ("result.json", {"per_class": "abc"}, "is not the result of a run"),
    ("result.json", {"fair": [1]}, "is not the result of a run"),
    ("result.json", {"storage_bytes": 1e300}, "is not the result of a run"),
    ("args.json", '{"versions": [1]}', "cannot be read"), ("result.json", {"data": 5}, "is not the result of a run"),
    ("result.json", {"synset": 5}, "is not the result"), ("result.json", {"epochs": []}, "is not the result"),
    ("result.json", {"holdout": "x"}, "is not the result"), ("result.json", {"top1_std": 1e308}, "is not the result"),
    ("result.json", {"dataset": "\ud800"}, "is not the result"), ("args.json", "[" * 100_000, "args.json"),
    ("metrics.jsonl", '{"iteration": 1, "loss": NaN}\n{"iteration": 2, "loss": NaN}\n', "not finite")])
def test_what_is_damaged_is_named_and_the_rest_is_shown(file, damage, message, copied, monkeypatch):
    folder = copied / "KF-DM" / "kf"
    path = folder / file
    if damage is None:
        path.unlink()
        if file == "synset.safetensors":        # results name the file where it was
            content = json.loads((folder / "result.json").read_text())
            del content["sum"]
            (folder / "result.json").write_text(json.dumps(with_sum(content | {"synset": str(path)})))
    elif damage == "later":         # as of a run that goes on
        synset, header = load_synset(path)
        keep = {key: header[key] for key in ("method", "iteration")}
        save_synset(path, synset, replace(get_spec("MotionDigits", 4, 16), classes=NAMES), **keep | {"iteration": 9})
    elif isinstance(damage, dict):  # an old result, without what tells that it was changed
        content = {k: value for k, value in json.loads(path.read_text()).items() if k not in ("sum", "data")}
        path.write_text(json.dumps(content | damage))
    elif damage == "other":
        shutil.copy(copied / "DM/a<b>&" / file, path)
    elif isinstance(damage, tuple):
        path.write_text(path.read_text().replace(*damage))
    else:
        path.write_text(damage)
    run = read_run(folder, Images())
    assert len(run["problems"]) == 1 + (isinstance(damage, dict) and message == "") * 2
    assert message in run["problems"][0]
    text = make(monkeypatch, copied)
    assert message in text.replace("&#39;", "'") and len(re.findall(r"<details class=\"run\"", text)) == 6


def test_a_page_replaces_no_file_but_a_page(result, tmp_path, monkeypatch):
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["report.py", str(result), "-o", str(notes)])
    with pytest.raises(ValueError, match="is not a page of this script, and would be lost"):
        report.main()
    assert notes.read_text() == "mine"
    monkeypatch.setattr(sys, "argv", ["report.py", str(result), "-o", str(tmp_path)])
    with pytest.raises(ValueError, match="is a folder"):
        report.main()
    os.mkfifo(tmp_path / "pipe")        # and others that would never end
    for out, message in (("/dev/full", "is no file"), (tmp_path / "pipe", "is no file"), ("/x/y.html", "no folder /x")):
        monkeypatch.setattr(sys, "argv", ["report.py", str(result), "-o", str(out)])
        with pytest.raises(ValueError, match=message):
            report.main()
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "-o", str(tmp_path / "x.html")])
    with pytest.raises(ValueError, match="no run below"):
        report.main()


def test_a_set_of_another_program_says_how_its_clips_are_shown(copied):
    path = copied / "score" / "again" / "result.json"
    published = copied / "set.pt"
    published.write_bytes(b"a set")
    content = json.loads(path.read_text()) | {"synset": str(published)}
    del content["sum"]
    path.write_text(json.dumps(with_sum(content)))
    run = read_run(path.parent, Images())
    assert "export.py --from" in run["note"] and run["problems"] == [] and run["shown"] is None


def test_folders_may_be_relative_and_moved(result, tmp_path, monkeypatch):
    shutil.copytree(result, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for name in ("DM/a<b>&", "score/again"):
        path = Path("elsewhere") / name
        content = json.loads((path / "result.json").read_text())
        del content["sum"]
        gone = {"synset": f"/gone{content['synset'][-len('/DM/a<b>&/synset.safetensors'):]}"}
        (path / "result.json").write_text(json.dumps(with_sum(content | gone)))
        run = read_run(path, Images())
        assert run["problems"] == [] and run["shown"]["slots"] == 2, name


def test_a_scored_set_that_was_made_anew_is_not_shown_under_its_score(copied):
    path = copied / "DM/a<b>&/synset.safetensors"
    synset, header = load_synset(path)
    synset.videos.data.add_(1)
    save_synset(path, synset, replace(get_spec("MotionDigits", 4, 16), classes=NAMES),
                **{key: header[key] for key in ("method", "iteration")})
    for name in ("DM/a<b>&", "score/again"):
        run = read_run(copied / name, Images())
        assert run["shown"] is None and "is another set than" in run["problems"][0], name


@pytest.mark.parametrize("name", ["args.json", "metrics.jsonl", "result.json", "confusion.json", "real.webp",
                                  "synset.safetensors"])
def test_what_is_no_file_is_named_and_waited_for_by_nobody(name, copied):
    path = copied / "KF-DM" / "kf" / name
    for make_odd in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        make_odd(path)
        assert name in " ".join(read_run(path.parent, Images())["problems"])


def test_a_folder_that_cannot_be_read_is_named_beside_the_runs_of_others(copied, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/random"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    text = make(monkeypatch, copied)
    assert "Permission denied" in text and len(re.findall(r"<details class=\"run\"", text)) == 5


def test_names_that_are_no_utf8_do_not_stop_the_page(copied, monkeypatch):
    path = copied / "DM/a<b>&/args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command": "python x.py --data \udcff"}))
    assert "x.py" in make(monkeypatch, copied)


# ---- in a browser -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                 "disable-background-networking", "disable-component-update", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, copied, monkeypatch):
    make(monkeypatch, copied)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.get((copied.parent / "page.html").as_uri())
    return browser


def column(driver, number):
    return driver.execute_script("return [...document.querySelector('table.sortable').tBodies[0].rows]"
                                 f".map(row => row.cells[{number}].textContent)")


def test_a_browser_shows_the_page_without_an_error(opened):
    loaded = opened.execute_script("""
        const done = [];
        for (const element of document.querySelectorAll(".tile, img")) {
          const address = element.tagName === "IMG" ? element.src :
            getComputedStyle(element).backgroundImage.slice(5, -2);
          const image = new Image();
          image.src = address;
          done.push(image.decode().then(() => image.naturalWidth));
        }
        return Promise.all(done);""")
    assert len(loaded) >= 15 and all(loaded)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 400
    assert opened.execute_script("return [...document.querySelectorAll('svg text')].every("
                                 "text => text.getBoundingClientRect().height >= 8 || !text.getClientRects().length)")
    assert opened.get_log("browser") == []


def number_of(text):
    return float(text.replace(",", "").split()[0])


def test_a_click_on_a_heading_sorts(opened):
    headings = opened.find_elements("css selector", "table.sortable th button")
    assert headings[1].text == "top-1 %"
    for number, key in ((0, str), (3, number_of), (8, number_of), (1, number_of)):
        headings[number].click()
        up = column(opened, number)
        headings[number].click()
        down = column(opened, number)
        assert sorted(up) == sorted(down) and len(up) == 5
        assert [key(text) for text in up] == sorted(map(key, up))
        assert [key(text) for text in down] == sorted(map(key, down), reverse=True)
    for number, last in ((2, "all"), (4, "")):       # words come after numbers, and what is empty last
        headings[number].click()
        assert column(opened, number)[-1] == last
        headings[number].click()
    assert len(opened.find_elements("css selector", "th[aria-sort=descending]")) == 1
    assert opened.get_log("browser") == []


def test_a_click_on_a_row_opens_its_run(opened):
    opened.execute_script("for (const run of document.querySelectorAll('details.run')) run.open = false")
    links = opened.find_elements("css selector", "table.sortable a")
    opened.execute_script("arguments[0].click()", links[1])
    for _ in range(50):
        if opened.execute_script("return document.querySelectorAll('details.run[open]').length"):
            break
        time.sleep(0.1)
    wanted = links[1].get_attribute("href").split("#")[1]
    assert [run.get_attribute("id") for run in opened.find_elements("css selector", "details.run[open]")] == [wanted]
    opened.find_element("id", "all").click()
    assert len(opened.find_elements("css selector", "details.run[open]")) == 6


def test_clips_move(opened):
    """Two looks at one tile are of other frames."""
    tile = opened.find_element("css selector", "#run-2 .tile")
    opened.execute_script("arguments[0].scrollIntoView()", tile)
    looks = set()
    for _ in range(20):
        looks.add(tile.screenshot_as_png)
        time.sleep(0.1)
    assert len(looks) > 1
