"""What the README shows is true: its commands parse, its files exist, its table is one that the demo made."""
import importlib
import json
import re
import shlex
import sys

import pytest

import summarize
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()
            if line.strip() and not line.startswith("#")]


def test_the_two_commands_come_first():
    assert COMMANDS[:2] == ["bash sh/demo.sh", "bash sh/test.sh"]


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("python ")}))
def test_python_commands_parse(command, monkeypatch):
    words = shlex.split(command)
    if words[1] == "-m":
        importlib.import_module(words[2])
        return
    path = ROOT / words[1]
    assert path.is_file(), command
    if "/" in words[1] or words[1] == "summarize.py":
        return
    module = __import__(words[1].removesuffix(".py"))

    class Parsed(Exception):
        pass

    def stop(*args, **kwargs):
        raise Parsed

    monkeypatch.setattr(sys, "argv", words[1:])
    if "--dry_run" in words:
        module.main()
        return
    monkeypatch.setattr(module, "get_spec" if words[1] == "buffer.py" else "check_args", stop)
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if "bash sh/" in c}))
def test_launchers_are_there(command):
    assert (ROOT / re.search(r"sh/\S+", command)[0]).is_file()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))))
def test_linked_files_are_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name,merge,methods", [
    ("demo", False, {"full", "random", "herding", "k-center", "static", "DC", "DM", "S2D-DM"}),
    ("demo_full", True, {"full", "random", "herding", "k-center", "static", "DC", "DM", "S2D-DM", "MTT", "S2D-MTT"}),
    ("demo_seeds", True, {"S2D-DM", "S2D-MTT"})])
def test_the_tables_are_those_of_the_demo(name, merge, methods):
    rows = json.loads((ROOT / "docs" / f"{name}.json").read_text())
    shown = re.search(rf"<!-- table of docs/{name}.json -->\n(.*?)\n<!-- end -->", TEXT, re.DOTALL)[1]
    assert shown == summarize.table(rows, merge) and {row["method"] for row in rows} == methods


def test_the_table_of_the_bank_is_that_of_its_rows():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bank_study
    study = json.loads((ROOT / "benchmarks" / "results" / "bank.json").read_text())
    assert study["table"] == list(bank_study.table(study["rows"]))
    assert f"<!-- table of bank.json -->\n{bank_study.markdown(study['table'])}\n<!-- end -->" in TEXT


def test_the_speed_table_is_that_of_its_file():
    def rows(name, **wanted):
        line, = (line for line in lines if line["benchmark"] == name and wanted.items() <= line.items())
        return line.get("rows", line)

    lines = [json.loads(line) for line in (ROOT / "benchmarks" / "results" / "cpu.jsonl").read_text().splitlines()]
    many, few, evals = (rows("dm_step", real_per_class=32), rows("dm_step", real_per_class=8), rows("eval_epoch"))
    mtt = {row["steps"]: row for row in rows("mtt_step", threads=1)}
    two, = rows("mtt_step", threads=2)
    square, ucf = rows("loading", stored="112x112"), rows("loading", stored="320x240")
    for shown in (
            "{:.1f} (pixels), {:.1f} (static + dynamic)".format(*(row["ours_ratio"] for row in many)),
            "with a bank of class means {:.0f}, {:.0f}".format(*(row["bank_ratio"] for row in many)),
            "| {:.1f}, {:.1f} | with a bank".format(*(row["ours_ratio"] for row in few)),
            "with a bank {:.1f}, {:.1f} |".format(*(row["bank_ratio"] for row in few)),
            "epoch of an evaluation | {:.1f}, {:.1f} |".format(*(row["ours_ratio"] for row in evals)),
            "one pass for three | {ours_ratio:.1f} | {three_ratio:.1f} pass for pass".format(**rows("test_pass")[0]),
            "epoch of an expert | {ours_ratio:.1f} |".format(**rows("buffer_epoch")[0]),
            f"{square['frame_ratio']:.1f} (stored as 112x112), {ucf['frame_ratio']:.1f} (320x240)",
            f"from the cache: {square['second_epoch_ratio']:.0f}, {ucf['second_epoch_ratio']:.0f} |",
            f"{1 / mtt[10]['time_to_plain']:.2f} ({1 / two['time_to_plain']:.2f} on two) | "
            f"{mtt[10]['adjoint_bytes'] / 2 ** 20:.0f} MiB for {mtt[10]['plain_bytes'] / 2 ** 20:.0f}, at 50 steps "
            f"{mtt[50]['adjoint_bytes'] / 2 ** 20:.0f} for {mtt[50]['plain_bytes'] / 2 ** 20:.0f} |"):
        assert shown in TEXT, shown


DRY_RUNS = {    # the published miniUCF101 settings: title -> script and flags
    "MTT, 1 clip a class": ["distill_MTT", "--ipc", "1"],
    "MTT, 5 clips a class": ["distill_MTT", "--ipc", "5"],
    "MTT+S2D, 1 clip a class": ["distill_s2d_MTT", "--vpc", "1"],
    "MTT+S2D, 5 clips a class": ["distill_s2d_MTT", "--vpc", "5", "--spc", "10", "--dpc", "10", "--batch_syn", "128",
                                 "--syn_steps", "5"],
    "MTT+S2D, 5 clips a class, --unroll full": ["distill_s2d_MTT", "--vpc", "5", "--spc", "10", "--dpc", "10",
                                                "--batch_syn", "128", "--syn_steps", "5", "--unroll", "full"],
}


def dry_runs(monkeypatch, capsys):
    """The README's table of what runs will take."""
    def plan(script, *flags):
        flags = "--dataset", "miniUCF101", "--buffer_path", "none", "--dry_run", *flags
        monkeypatch.setattr(sys, "argv", [script, *flags])
        __import__(script).main()
        return json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))

    experts = plan("buffer")
    assert f"The experts take {experts['operations'] / 1e15:.0f}." in TEXT
    experts = f"{experts['buffer_bytes'] / 1e9:.1f} GB"
    return "\n".join(
        f"| {title} | {p['parameters']:,} | {experts} | {p['set_bytes'] / 1e6:.0f} MB | {p['clips_per_step']} "
        f"| {p['estimated_peak_memory_bytes'] / 1e9:.0f} GB | {p['operations'] / 1e15:.0f} |"
        for title, p in ((title, plan(*words)) for title, words in DRY_RUNS.items()))


def test_the_dry_runs_are_those_of_the_scripts(monkeypatch, capsys):
    assert f"| --- |\n{dry_runs(monkeypatch, capsys)}\n" in TEXT


def test_every_script_is_described():
    for script in ROOT.glob("*.py"):
        assert f"`{script.name}`" in TEXT, script.name
