"""The README's tour runs as written, and its two commands are there for users and for continuous integration."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block marked {name!r}"
    return found.group(1)


def test_the_tour_runs() -> None:
    """Every line of the tour works on this version."""
    namespace: dict[str, object] = {}
    exec(compile(_block("tour"), "README.md", "exec"), namespace)
    assert namespace["found"].best is not None  # type: ignore[attr-defined]
    assert namespace["made"].complete  # type: ignore[attr-defined]
    assert namespace["decision"].change == 0  # type: ignore[attr-defined]


def test_nothing_is_left_to_fill_in() -> None:
    """No placeholder is left."""
    assert "@@" not in README


def test_both_commands_do_their_own_set_up() -> None:
    """Each command is one line that makes its environment, installs the package, and runs."""
    for name, runs in (("example command", "-m dilu_core plan --example"), ("test command", "-m pytest")):
        (line,) = _block(name).splitlines()
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert runs in line
