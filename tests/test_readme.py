"""What README.md and docs/*.md show is true: commands parse, links lead somewhere, tables are those of their files."""
import argparse
import importlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import summarize
from conftest import ROOT

README = ROOT / "README.md"
TEXTS = {path: path.read_text() for path in (README, *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(TEXTS.values())


def commands_of(text):
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()
            if line.strip() and not line.startswith("#")]


COMMANDS = commands_of(TEXT)


def tables(file):
    """Every table of a file that the documents show."""
    shown = re.findall(rf"<!-- table of {re.escape(file)} -->\n(.*?)\n<!-- end -->", TEXT, re.DOTALL)
    assert shown, f"no table of {file}"
    return shown


# ---- commands -----------------------------------------------------------------------------------------------------

def test_the_two_commands_come_first():
    assert commands_of(TEXTS[README])[:2] == ["bash sh/demo.sh", "bash sh/test.sh"]


def test_the_readme_is_short():
    assert len(TEXTS[README].splitlines()) <= 180


class Parsed(Exception):
    pass


def stop(*args, **kwargs):
    raise Parsed


def stop_when_parsed(monkeypatch):
    """The next command line that argparse accepts raises Parsed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def stop_at_data(monkeypatch):
    """Whichever module of ours first asks what the data set is raises Parsed: by then a script has read its flags."""
    names, found = ("check_args", "spec_of", "get_spec"), 0
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).parent in (ROOT, ROOT / "distill_utils"):
            for name in names:
                if callable(vars(module).get(name)):
                    monkeypatch.setattr(module, name, stop)
                    found += 1
    assert found, f"none of {names} is left: where is the data set looked up now?"


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("python ")}))
def test_python_commands_parse(command, monkeypatch):
    words = shlex.split(command)
    if words[1] == "-m":
        module, words = importlib.import_module(words[2]), words[1:]
    elif "/" in words[1] or words[1] == "summarize.py":
        path = ROOT / words[1]
        assert path.is_file(), command
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.syspath_prepend(path.parent)
        stop_when_parsed(monkeypatch)
        with pytest.raises(Parsed):
            runpy.run_path(str(path), run_name="__main__")
        return
    else:
        assert (ROOT / words[1]).is_file(), command
        module = importlib.import_module(words[1].removesuffix(".py"))
    monkeypatch.setattr(sys, "argv", words[1:])
    if "--dry_run" in words:
        module.main()
        return
    stop_at_data(monkeypatch)
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if "bash sh/" in c}))
def test_launchers_are_there(command):
    assert (ROOT / re.search(r"sh/\S+", command)[0]).is_file()


def test_every_script_is_described():
    for script in ROOT.glob("*.py"):
        assert f"`{script.name}`" in TEXTS[README], script.name


def test_every_document_is_linked():
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name})" in TEXTS[README], path.name


# ---- links --------------------------------------------------------------------------------------------------------

def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
LINKS = sorted({(path, link) for path, text in TEXTS.items() for link in LINK.findall(text)})


@pytest.mark.parametrize("path,link", LINKS, ids=[f"{path.name}-{link}" for path, link in LINKS])
def test_links_lead_somewhere(path, link):
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    assert target.exists()
    assert not anchor or anchor in anchors(target.read_text())


# ---- tables of results --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,merge,methods", [
    ("demo", False, {"full", "random", "herding", "k-center", "static", "DC", "DM", "S2D-DM", "FRePo"}),
    ("demo_full", True, {"full", "random", "herding", "k-center", "static", "DC", "DM", "S2D-DM", "MTT", "S2D-MTT"}),
    ("demo_seeds", True, {"S2D-DM", "S2D-MTT"})])
def test_the_tables_are_those_of_the_demo(name, merge, methods):
    rows = json.loads((ROOT / "docs" / f"{name}.json").read_text())
    assert {row["method"] for row in rows} == methods
    assert set(tables(f"docs/{name}.json")) == {summarize.table(rows, merge)}


def test_the_readme_shows_the_table_of_the_demo():
    assert "<!-- table of docs/demo.json -->\n" in TEXTS[README]


def test_the_table_of_the_bank_is_that_of_its_rows():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bank_study
    study = json.loads((ROOT / "benchmarks" / "results" / "bank.json").read_text())
    assert study["table"] == list(bank_study.table(study["rows"]))
    assert set(tables("bank.json")) == {bank_study.markdown(study["table"])}


def test_the_tables_of_processes_are_those_of_their_file(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import processes
    assert set(tables("processes.json")) == set(processes.markdown(json.loads(processes.RESULTS.read_text())))


# ---- speed --------------------------------------------------------------------------------------------------------

def benchmark(lines, name, **wanted):
    """The rows of the one line of a benchmark, or the line itself where it has none."""
    line, = (line for line in lines if line["benchmark"] == name and wanted.items() <= line.items())
    return line.get("rows", line)


def speed_table(lines):
    """Markdown: benchmarks/results/cpu.jsonl as docs/speed.md shows it."""
    def times(ratio):
        return f"{ratio:{'.0f' if ratio >= 10 else '.1f'}}"

    def row(what, data, ratio, float32="", bank="", memory=(), unit=1e6, name="MB"):
        memory = [f"{held / unit:,.0f} {name}" if held else "" for held in (*memory, *[0] * 3)][:3]
        cells.append([what, data, ratio, float32, bank, *memory])

    def rows(what, name, **wanted):
        for r, other in zip(*(benchmark(lines, name, precision=precision, **wanted) for precision in ("bf16", "fp32")),
                            strict=True):
            row(what, {"pixels": "pixels", "s2d": "static + dynamic", "real": "real clips"}[r["kind"]],
                times(r["ours_ratio"]), times(other["ours_ratio"]), times(r["bank_ratio"]) if "bank_ratio" in r else "",
                (r["ours_bytes"], other["ours_bytes"], r["plain_bytes"]))

    def trajectory(what, r):
        row(what, "static + dynamic", "", f"{1 / r['time_to_plain']:.2f}", "",
            (0, r["adjoint_bytes"], r["plain_bytes"]), 2 ** 20, "MiB")

    cells = []
    rows("DM iteration, 32 real clips and 1 synthetic clip per class", "dm_step", real_per_class=32)
    rows("DM iteration, 8 real and 5 synthetic clips per class", "dm_step", real_per_class=8)
    rows("epoch of training in an evaluation", "eval_epoch")
    rows("test of a network, one pass here and three in the plain loop", "test_pass")
    test, other = (benchmark(lines, "test_pass", precision=precision)[0] for precision in ("bf16", "fp32"))
    row("the same with three passes in both", "real clips", times(test["three_ratio"]), times(other["three_ratio"]), "",
        (test["three_bytes"], other["three_bytes"], test["plain_bytes"]))
    rows("epoch of training an expert", "buffer_epoch")
    for what, key in (("reading frames into floats, one core", "frame_ratio"),
                      ("second epoch of reading, from the cache, one core", "second_epoch_ratio")):
        for stored in ("112x112", "320x240"):
            row(what, f"stored as {stored}", times(benchmark(lines, "loading", stored=stored)[key]))
    one = {r["steps"]: r for r in benchmark(lines, "mtt_step", threads=1)}
    two, = benchmark(lines, "mtt_step", threads=2)
    trajectory("iteration of trajectory matching, 10 steps, one core", one[10])
    trajectory("the same on two cores", two)
    trajectory("iteration of trajectory matching, 50 steps, one core", one[50])
    head = ["what", "data", "times as fast", "in float32", "with a bank", "memory here", "in float32",
            "memory of the plain loop"]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def cpu_lines():
    return [json.loads(line) for line in (ROOT / "benchmarks" / "results" / "cpu.jsonl").read_text().splitlines()]


def test_the_speed_table_is_that_of_its_file():
    assert set(tables("cpu.jsonl")) == {speed_table(cpu_lines())}


def test_the_costs_of_frepo_key_frames_and_stores_are_those_of_the_file():
    pixels, s2d = benchmark(cpu_lines(), "frepo_step")
    frames, = benchmark(cpu_lines(), "keyframes_step")
    through, opened = benchmark(cpu_lines(), "store_step")
    costs = [row["ours_seconds"] / row["dm_seconds"] for row in (pixels, s2d)]
    for shown in (f"costs {costs[0]:.2f} (pixels) and {costs[1]:.2f} (static + dynamic) times as much as one of DM, "
                  f"and is {pixels['ours_ratio']:.1f} and {s2d['ours_ratio']:.1f} times",
                  f"takes {1 / frames['ours_ratio']:.2f} times as long on key frames as on whole clips, and "
                  f"{1 / frames['growing_ratio']:.2f} times on sets that grow",
                  f"takes {1 / through['h264_ratio']:.2f} times as long as without, and through AV1 "
                  f"{1 / through['av1_ratio']:.2f} times",
                  f"opens in {opened['ours_seconds']:.1f} s, {opened['ours_ratio']:.0f} times as fast"):
        assert shown in " ".join(TEXT.split()), shown


def test_the_missed_targets_are_those_of_the_speed_table():
    lines = cpu_lines()
    eight = benchmark(lines, "dm_step", real_per_class=8, precision="bf16")
    evaluation = benchmark(lines, "eval_epoch", precision="fp32")
    expert, = benchmark(lines, "buffer_epoch", precision="fp32")
    one, two = ({r["steps"]: r for r in benchmark(lines, "mtt_step", threads=n)}[10] for n in (1, 2))
    square, ucf = (benchmark(lines, "loading", stored=stored) for stored in ("112x112", "320x240"))
    for shown in (f"8 real and 5 synthetic clips per class, pixels / static + dynamic | {eight[0]['ours_ratio']:.1f} / "
                  f"{eight[1]['ours_ratio']:.1f} | 2.0 |",
                  "evaluation, in float32, pixels / static + dynamic | "
                  f"{evaluation[0]['ours_ratio']:.1f} / {evaluation[1]['ours_ratio']:.1f} | 2.0 |",
                  f"epoch of training an expert, in float32 | {expert['ours_ratio']:.1f} | 1.5 |",
                  f"from the cache | {square['second_epoch_ratio']:.0f} | 30 |",
                  f"reading frames of 320x240 | {ucf['frame_ratio']:.1f} | 4 |",
                  f"two cores | {1 / one['time_to_plain']:.2f} / {1 / two['time_to_plain']:.2f} | 1 |"):
        assert shown in TEXT, shown


def test_the_hours_of_kinetics_are_those_of_scaling():
    hours = json.loads((ROOT / "benchmarks" / "results" / "scaling-cpu.json").read_text())
    hours = {key: round(value) for key, value in hours["computed_hours_of_DM_on_Kinetics400"].items()}
    said = " ".join(TEXT.split())       # wherever lines are broken
    assert f"on Kinetics-400 would take {hours['without_a_bank']} hours on one core" in said
    assert (f"they would take {hours['with_a_bank']} hours, after {hours['bank_of_200_networks']} hours to make the "
            "bank once") in said


# ---- dry runs -----------------------------------------------------------------------------------------------------

FIVE = ["--vpc", "5", "--spc", "10", "--dpc", "10", "--batch_syn", "128", "--syn_steps", "5"]
DRY_RUNS = {    # the published miniUCF101 settings: title -> script and flags
    "MTT, 1 clip per class": ["distill_MTT", "--ipc", "1"],
    "MTT, 5 clips per class": ["distill_MTT", "--ipc", "5"],
    "S2D-MTT, 1 clip per class": ["distill_s2d_MTT", "--vpc", "1"],
    "S2D-MTT, 5 clips per class": ["distill_s2d_MTT", *FIVE],
    "S2D-MTT, 5 clips per class, `--unroll full`": ["distill_s2d_MTT", *FIVE, "--unroll", "full"],
}


def dry_runs(plan):
    """(the table of what runs will take, what the experts take): plan(script, flags...) is a dry run's result."""
    experts = plan("buffer")
    disk = f"{experts['buffer_bytes'] / 1e9:.1f} GB"
    return "\n".join(
        f"| {title} | {p['parameters']:,} | {disk} | {p['set_bytes'] / 1e6:.0f} MB | {p['clips_per_step']} "
        f"| {p['estimated_peak_memory_bytes'] / 1e9:.0f} GB | {p['operations'] / 1e15:.0f} |"
        for title, p in ((title, plan(*words)) for title, words in DRY_RUNS.items())
    ), f"The experts take {experts['operations'] / 1e15:.0f} x 10^15 operations."


def test_the_dry_runs_are_those_of_the_scripts(monkeypatch, capsys):
    def plan(script, *flags):
        flags = "--dataset", "miniUCF101", "--buffer_path", "none", "--dry_run", *flags
        monkeypatch.setattr(sys, "argv", [script, *flags])
        importlib.import_module(script).main()
        return json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))

    table, experts = dry_runs(plan)
    assert f"| --- |\n{table}\n" in TEXT
    assert experts in TEXT
