import pytest

from effchal.runs import append_json_line, provenance, read_json_lines, write_atomic


def test_a_line_that_a_kill_cut_costs_no_other_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path) == []
    append_json_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    append_json_line(path, {"a": 3, "text": "\u2028"})
    assert read_json_lines(path) == [{"a": 1}, {"a": 3, "text": "\u2028"}]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half \ud800")
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_provenance_names_device_commit_and_versions():
    import torch

    found = provenance(torch.device("cpu"))
    assert found["device"].endswith("threads")
    assert {"effchal", "torch", "transformers"} <= found["versions"].keys()
    assert "git_commit" in found
