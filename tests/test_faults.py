"""A small campaign of faults: none is silent. `bash sh/faults.sh` runs a long one."""
import json
import re

import faults
from conftest import ROOT, run_script


def test_no_kill_and_no_damage_changes_a_result_without_a_word():
    run = run_script("tests/faults.py", "--kills", 4, "--damages", 10, "--seed", 1)
    counts = json.loads(re.search("^RESULT (.*)$", run.stdout, re.MULTILINE)[1])
    assert counts["bad"] == [] and counts["kill: same"] == 4
    assert sum(count for verdict, count in counts.items() if verdict.startswith(("flip: ", "cut: "))) == 10


def test_every_script_that_leaves_or_reads_files_is_in_the_campaign():
    scripts = {command.split()[0] for command in faults.COMMANDS.values()}
    # export.py reads sets as evaluate.py does, and writes a new folder, whole or not at all (test_exchange.py)
    assert {path.stem for path in ROOT.glob("*.py")} - scripts == {"networks", "utils", "export"}
    assert any(name.startswith("extract_frames.") for name in scripts)
    assert {name for name, _ in faults.READ_BY.values()} <= set(faults.COMMANDS)


def test_a_wrong_result_would_be_found(tmp_path):
    for name in ("before", "now"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "synset.safetensors").write_bytes(b"set")
        (tmp_path / name / "result.json").write_text('{"top1_mean": 0.5, "seconds": 3}')
    reference = faults.made(tmp_path / "before")
    assert faults.compare(tmp_path / "now", reference) == "same"
    (tmp_path / "now" / "result.json").write_text('{"top1_mean": 0.5, "seconds": 4}')
    assert faults.compare(tmp_path / "now", reference) == "same"
    (tmp_path / "now" / "result.json").write_text('{"top1_mean": 0.6, "seconds": 3}')
    assert faults.compare(tmp_path / "now", reference).startswith("silent: result.json")
    (tmp_path / "now" / "synset.safetensors").write_bytes(b"sex")
    assert faults.compare(tmp_path / "now", reference, besides="result.json").startswith("silent: synset.safetensors")
