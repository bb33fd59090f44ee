"""The structure of the package: no import circles, and every file that the documents name exists."""

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "crossbar_sim"


def imports(files: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports, also inside functions; imports for type checkers do not count.

    Args:
        files: text of each module by its dotted name.
    """
    found: dict[str, set[str]] = defaultdict(set)

    def walk(module: str, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom) and child.module in files:
                for name in child.names:
                    full = f"{child.module}.{name.name}"
                    found[module].add(full if full in files else str(child.module))
            walk(module, child)

    for module, text in files.items():
        walk(module, ast.parse(text))
    return found


def test_no_module_imports_itself_through_others() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in PACKAGE.rglob("*.py")
    }
    order = list(
        TopologicalSorter(imports(files)).static_order()
    )  # raises a CycleError that names the circle
    assert set(files) >= set(order)
    assert len(order) > 100


def test_a_circle_is_found_also_within_functions() -> None:
    files = {"p": "", "p.a": "from p.b import f", "p.b": "def f():\n    from p import a\n    return a"}
    with pytest.raises(CycleError):
        TopologicalSorter(imports(files)).prepare()


def test_files_that_the_documents_name_exist() -> None:
    own = {path.name for path in [*ROOT.iterdir(), *PACKAGE.iterdir()] if path.is_dir()}
    missing = [
        f"{document.name}: {name}"
        for document in [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.py)`", document.read_text("utf-8"))
        if name.split("/")[0] in own and not (ROOT / name).exists() and not (PACKAGE / name).exists()
    ]
    assert not missing
