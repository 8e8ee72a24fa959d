"""What the project says of itself in several places is the same in all of them."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

from tracer.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def shell_blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)]


def test_continuous_integration_runs_the_first_two_commands_of_the_readme() -> None:
    commands = shell_blocks(read("README.md"))[:2]

    assert [command.count("\n") for command in commands] == [0, 0]
    assert "cli.py trace samples/yolo_toy.py" in commands[0]
    assert "pytest" in commands[1]
    for command in commands:
        assert command in read(".ci/run").splitlines()


def test_every_slug_has_a_paragraph_and_every_paragraph_a_slug() -> None:
    listed = re.findall(r"^\|- \w+ +(.*)$|^`- \w+ +(.*)$", read("tracer/errors.py"), re.MULTILINE)
    slugs = {slug.strip() for line in listed for slug in "".join(line).split(",")}
    raised = {
        slug
        for file in ROOT.glob("tracer/**/*.py")
        for slug in re.findall(r"\(\s*\"([a-z]+(?:-[a-z]+)+)\",", file.read_text(encoding="utf-8"))
    }

    titles = set(re.findall(r"^## (.*)$", read("docs/errors.md"), re.MULTILINE))
    assert titles == slugs
    assert {slug for slug in raised if slug in slugs} <= titles


def test_every_command_has_a_page_that_knows_its_options(tmp_path: Path) -> None:
    for name in COMMANDS:
        page = read(f"docs/commands/{name}.md")
        shown = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), name, "--help"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout  # fmt: skip
        for option in set(re.findall(r"--[a-z-]+", shown)) - {"--help"}:
            assert option in page, f"docs/commands/{name}.md does not tell of {option}"


def test_what_is_pinned_covers_what_is_asked_for() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", read("requirements.txt"), re.MULTILINE))
    further = dict(re.findall(r"^([\w-]+)==(.+)$", read("requirements-dev.txt"), re.MULTILINE))

    assert names(setup["options"]["install_requires"]) <= set(pins)
    for extra in ("tests", "lint"):
        assert names(setup["options.extras_require"][extra]) <= set(further)
    assert not set(pins) & set(further)
    assert all(re.fullmatch(r"[0-9.]+", version) for version in {**pins, **further}.values())
    assert "-e ." in read("requirements.txt").splitlines()


def names(requirements: str) -> set[str]:
    lines = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    return {re.split(r"[<>=]", line)[0] for line in lines}
