"""`trace --check`: what `check` finds, below the summary; the exit code is the script's."""

from __future__ import annotations

from tests.cli.conftest import TRAINING, Folder

FORGETFUL = TRAINING.replace("    optimizer.zero_grad()\n", "") + "for _ in range(3):\n    step()\n"


def test_findings_come_below_the_summary_and_the_exit_code_stays(folder: Folder) -> None:
    folder.write("train.py", FORGETFUL + "raise SystemExit(7)\n")

    ended = folder.traced("--check", "train.py")

    assert ended.code == 7
    head, _, findings = ended.summary.partition("train.trace: 1 error")
    assert "recorded" in head
    assert "missing-zero-grad  train.py:" in findings


def test_without_the_option_nothing_is_checked(folder: Folder) -> None:
    folder.write("train.py", FORGETFUL)

    assert "missing-zero-grad" not in folder.traced("train.py").summary


def test_a_script_can_ask_for_it_itself(folder: Folder) -> None:
    block = "# /// script\n# [tool.tracer]\n# check = true\n# ///\n"
    folder.write("train.py", block + FORGETFUL)

    assert "missing-zero-grad" in folder.traced("train.py").summary
