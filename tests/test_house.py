"""What stands where: imports point one way, and the bottom imports nothing of ours."""
import ast
from graphlib import TopologicalSorter

from conftest import ROOT

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path
         for path in (*ROOT.glob("*.py"), *(ROOT / "distill_utils").glob("*.py"))}


def imports(path):
    """The modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & FILES.keys()


def test_no_import_runs_in_a_circle():
    order = list(TopologicalSorter({name: imports(path) for name, path in FILES.items()}).static_order())
    assert len(order) == len(FILES)


def test_nothing_below_the_scripts_imports_a_script():
    scripts = {name for name in FILES if "." not in name} - {"utils", "networks"}
    importers = {name: imports(path) & scripts for name, path in FILES.items()}
    assert {name: found for name, found in importers.items() if found} == {
        f"distill_s2d_{loss}": {f"distill_{loss}"} for loss in ("DM", "MTT", "FRePo")}


def test_the_bottom_imports_nothing_of_ours():
    below = ("seeds", "files", "progress", "protocols", "matching", "parallel", "splits")
    for name in ("networks", *(f"distill_utils.{name}" for name in below)):
        assert not imports(FILES[name]), name
