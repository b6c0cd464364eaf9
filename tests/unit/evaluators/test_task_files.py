"""Python in task files is found by reading them, not by running them."""

from pathlib import Path

from evaluators.task_files import code_references, unreadable


def test_code_is_found_wherever_it_hides(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "shared").write_text("process_docs: !function utils.docs\ninclude: ../task.yaml\n")
    (tmp_path / "task.yaml").write_text(
        "include: deep/shared\ntask: one\nmetric_list:\n  - metric: !function utils.score\n"
        "more: &loop\n  - *loop\n  - !!python/name:os.system\n"
    )
    found = [line.replace(str(tmp_path), "") for line in code_references(tmp_path / "task.yaml")]
    assert "/task.yaml:4: !function utils.score" in found
    assert "/deep/shared:1: !function utils.docs" in found
    assert any(line.startswith("/task.yaml:7: tag:yaml.org,2002:python/name:os.system") for line in found)
    assert len(found) == 3


def test_plain_files_hold_no_code(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("task: one\ndoc_to_text: '!function looks.like'\nwhen: 2024-05-01\nn: 1.5\n")
    assert code_references(tmp_path / "task.yaml") == []
    (tmp_path / "torn.yaml").write_text("task: 'one\n")
    assert [line.split(":")[0] for line in unreadable([tmp_path])] == [str(tmp_path / "torn.yaml")]
