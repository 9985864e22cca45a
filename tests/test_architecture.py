"""The shape of the house: who may import whom, what importing costs, and that packaging lists every folder."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GROUND = {"dilu_core.errors", "dilu_core.units", "dilu_core.result", "dilu_core._checks"}
FACE = {"dilu_core", "dilu_core.__main__", "dilu_core.latency_plots", "dilu_core.plotting", "dilu_core.profiling"}
FACE |= {"dilu_core.coscaling_plots", "dilu_core.placement_plots", "dilu_core.testing", "dilu_core.trial_plots"}
FACE_PREFIXES = ("dilu_core.adapters",)
ORTOOLS = {
    f"dilu_core.solvers.placement.{name}"
    for name in ("column_generation", "column_selection", "cpsat", "cpsat_model", "layers")
}


def _modules() -> dict[str, Path]:
    folders = {
        "dilu_core": ROOT / "dilu_core",
        "dilu_core.kernels": ROOT / "kernels",
        "dilu_core.solvers": ROOT / "solvers",
    }
    found = {}
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "dilu_core" and parts[0] in ("kernels", "solvers"):
                continue  # the committed links: walked under their own name
            name = ".".join((package, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, only for type checkers) for every import in the file, wherever it stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; absolute submodule imports only"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                whole = submodule in MODULES or submodule == "numba.cuda"
                yield (submodule if whole else str(node.module)), id(node) in guarded


def _is(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _is_face(module: str) -> bool:
    return module in FACE or module.startswith(FACE_PREFIXES)


def _forbidden(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, or None."""
    ours = _is(imported, "dilu_core")
    top = imported.split(".")[0]
    if _is(importer, "dilu_core.kernels"):
        if ours and not _is(imported, "dilu_core.kernels"):
            return "kernels know nothing above them"
        if importer == "dilu_core.kernels.formulas" and imported not in ("math", "__future__"):
            return "formulas import only math"
        if top in ("scipy", "ortools"):
            return "kernels import the standard library, numpy and numba"
        if _is(imported, "dilu_core.kernels.cuda") and not _is(
            importer, "dilu_core.kernels.cuda", "dilu_core.kernels.backend"
        ):
            return "CPU kernels know no CUDA kernels; the choice is the back end's"
    if importer in GROUND and ours and imported not in GROUND | {"dilu_core.kernels.backend"}:
        return "errors, units, result and checks stand on the ground"
    if not _is_face(importer):
        if _is_face(imported):
            return "nothing inside imports the face"
        if not _is(importer, "dilu_core.solvers") and _is(imported, "dilu_core.solvers"):
            return "values and policies never import solvers"
    if not _is(importer, "dilu_core.kernels", "dilu_core.solvers"):
        allowed = imported == "dilu_core.kernels.backend" and importer == "dilu_core.errors"
        formulas = imported.startswith("dilu_core.kernels.formulas")
        if _is(imported, "dilu_core.kernels") and not (allowed or formulas or _is_face(importer)):
            return "values use only the scalar formulas of the kernels"
    if top == "ortools" and importer not in ORTOOLS:
        return "ortools belongs to the placement solvers that say so"
    if top == "scipy" and not _is(importer, "dilu_core.solvers"):
        return "scipy belongs to solvers"
    if top == "numba" and not _is(importer, "dilu_core.kernels"):
        return "numba belongs to kernels"
    if (top in ("cupy", "cupyx") or _is(imported, "numba.cuda")) and not _is(importer, "dilu_core.kernels.cuda"):
        return "CUDA belongs to kernels/cuda"
    if top in ("ray", "dask", "matplotlib", "tqdm") and not _is_face(importer):
        return "optional packages belong to the face"
    return None


@pytest.mark.parametrize("importer", sorted(MODULES))
def test_imports_follow_the_arrows(importer: str) -> None:
    """No module imports a floor above its own, and each outside package stays in its room."""
    broken = [
        f"{importer} imports {imported}: {why}"
        for imported, only_types in _imports(MODULES[importer])
        if not only_types and (why := _forbidden(importer, imported))
    ]
    assert not broken


def test_the_arrow_check_can_fail() -> None:
    """The rules above do refuse what DESIGN forbids."""
    assert _forbidden("dilu_core.quota", "dilu_core.solvers.planner")
    assert _forbidden("dilu_core.kernels.cpu.packing", "dilu_core.quota")
    assert _forbidden("dilu_core.kernels.formulas", "numpy")
    assert _forbidden("dilu_core.cluster", "numba")
    assert _forbidden("dilu_core.solvers.fitting", "ortools.sat")
    assert _forbidden("dilu_core.plans", "matplotlib")
    assert _forbidden("dilu_core.solvers.fitting", "cupy")
    assert _forbidden("dilu_core.kernels.cpu.packing", "numba.cuda")
    assert not _forbidden("dilu_core.kernels.cuda.fits", "numba.cuda")
    assert _forbidden("dilu_core.solvers.planner", "dilu_core.plotting")
    assert not _forbidden("dilu_core.solvers.planner", "dilu_core.quota")


def _loaded_on_import(path: Path) -> Iterator[str]:
    """Modules that importing the file imports: its imports outside functions and type-checker guards."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) not in inside and isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif id(node) not in inside and isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_cuda_is_loaded_on_use() -> None:
    """CuPy is imported inside functions only; nothing outside kernels/cuda imports that package before it is used."""
    assert "cupy" in {name for name, _ in _imports(MODULES["dilu_core.kernels.cuda.modules"])}
    eager = {name: list(_loaded_on_import(path)) for name, path in MODULES.items()}
    assert [name for name, loaded in eager.items() if any(_is(each, "cupy", "cupyx") for each in loaded)] == []
    outside = {name: loaded for name, loaded in eager.items() if not _is(name, "dilu_core.kernels.cuda")}
    assert [
        name
        for name, loaded in outside.items()
        if any(_is(each, "dilu_core.kernels.cuda", "numba.cuda") for each in loaded)
    ] == []


def test_importing_is_cheap() -> None:
    """`import dilu_core` and its values load no numba, ortools, scipy or CUDA: only what numpy loads."""
    code = (
        "import sys, dilu_core\n"
        "from dilu_core import FunctionSpec, Instance, ProfileSamples, CoScaler\n"
        "heavy = {'numba', 'ortools', 'scipy', 'cupy', 'matplotlib', 'pandas', 'tqdm', 'ray'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_public_name_loads() -> None:
    """Each name in `__all__` resolves, and an unknown one is an AttributeError."""
    import dilu_core

    assert [name for name in dilu_core.__all__ if not hasattr(dilu_core, name)] == []
    assert set(dilu_core.__all__) <= set(dir(dilu_core))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dilu_core.no_such_name


def test_packaging_lists_every_package() -> None:
    """`packages` in pyproject.toml is exactly the set of folders that hold an `__init__.py`."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(packages)


def test_packaging_lists_every_file_of_data() -> None:
    """A file that is no Python and lies in a package is installed with it: the library reads it at run time."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in settings["packages"]:
        folder = ROOT.joinpath(*package.split("."))
        patterns = settings["package-data"].get(package, [])
        data = [each.name for each in folder.iterdir() if each.is_file() and each.suffix not in (".py", ".pyc")]
        assert [name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_checkers_and_run_time_see_the_same_names() -> None:
    """The imports for type checkers, `__all__` and the lazy table agree name by name and module by module."""
    import dilu_core

    tree = ast.parse((ROOT / "dilu_core" / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    for_checkers = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    at_run_time = {name: module for module, names in dilu_core._NAMES_OF.items() for name in names}
    assert for_checkers == at_run_time
    assert sorted(at_run_time) == sorted(dilu_core.__all__)


def test_a_submodule_never_hides_the_function_of_its_name() -> None:
    """`dilu_core.fragmentation` stays the function, whichever is imported first."""
    code = (
        "import dilu_core.fragmentation\n"
        "from dilu_core import fragmentation\n"
        "from dilu_core.fragmentation import FragmentationReport\n"
        "print(callable(fragmentation), callable(dilu_core.fragmentation))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "True"]
