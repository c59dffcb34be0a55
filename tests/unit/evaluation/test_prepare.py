"""effchal fetch: one folder with all data of some entries, from stand-ins for their sources."""

import hashlib
import io
import zipfile

import datasets
import pytest
from support import forked
from support.contest_data import made_up_math, made_up_sam_sum, perturbation_tables
from support.hub_stand_in import Hub, mmlu_source, served, tiny_mmlu
from support.scenario_files import load

from effchal.evaluation.scenarios import hub, sources
from effchal.evaluation.scenarios.helm_tables import CANONICAL, TABLES
from effchal.evaluation.scenarios.math_problems import SUBJECTS
from effchal.evaluation.scenarios.prepare import needed_downloads, prepare
from effchal.evaluation.scenarios.types import ScenarioError
from effchal.mixing.rows import read_jsonl

MMLU = "mmlu:subject=x,data_augmentation=canonical"
MATH = "math:subject=algebra,level=1,use_chain_of_thought=True"


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder that is served in the place of GitHub, gists and HELM's storage."""
    folder = tmp_path / "web"
    folder.mkdir()
    with served(folder) as address:
        for name in ("GITHUB", "GIST", "BUCKET"):
            monkeypatch.setattr(hub, name, address)
        yield folder


def put(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def serve_tables(web, monkeypatch, tmp_path):
    """Made-up tables at their addresses, with their own digests."""
    perturbation_tables(tmp_path / "tables")
    digests = {}
    for table in CANONICAL:
        source = sources.TABLE_SOURCES[table]
        content = (tmp_path / "tables" / TABLES[table][0]).read_bytes()
        digests[table] = hashlib.sha256(content).hexdigest()
        put(web, f"{source.repo}/{source.revision}/{source.config}", content)
    monkeypatch.setattr(hub, "DIGESTS", digests)


def states(found):
    return [each.state for each in prepare(found)]


def test_a_folder_has_all_that_its_entries_need_and_is_not_fetched_twice(
    web, tmp_path, monkeypatch
):
    serve_tables(web, monkeypatch, tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", Hub(mmlu=(mmlu_source("x"), tiny_mmlu())))
    folder = tmp_path / "data"
    found = needed_downloads([MMLU, "mmlu:subject=x"], folder)
    assert len(found) == 5  # the subject once, and four tables
    assert states(found) == ["fetched"] * 5
    assert states(found) == ["there"] * 5
    assert load(MMLU, folder).instances


def test_what_fails_costs_only_itself_and_is_tried_again(web, tmp_path, monkeypatch):
    task = sources.BIG_BENCH
    address = f"{task.repo}/{task.revision}/bigbench/benchmark_tasks"
    put(web, f"{address}/a/task.json", b"{}")
    entries = [f"big_bench:task={name},subtask=" for name in "ab"]
    found = needed_downloads(entries, tmp_path / "data")
    outcomes = list(prepare(found))
    assert [each.state for each in outcomes] == ["fetched", "failed", "failed"]
    assert outcomes[0].size == 2
    assert outcomes[1].place.startswith("nltk/nltk_data")  # for BLEU, which some tasks ask for
    assert "/b/task.json (<HTTPError 404" in outcomes[2].reason
    put(web, f"{address}/b/task.json", b"{}")
    assert states(found) == ["there", "failed", "fetched"]


def test_a_table_with_another_digest_is_refused(web, tmp_path):
    source = sources.TABLE_SOURCES["misspellings"]
    put(web, f"{source.repo}/{source.revision}/{source.config}", b"{}")
    (outcome,) = (
        each
        for each in prepare(needed_downloads([MMLU], tmp_path / "data"))
        if each.download.source == source
    )
    assert outcome.state == "failed"
    assert "has sha256" in outcome.reason
    assert not (tmp_path / "data" / TABLES["misspellings"][0]).exists()


def test_math_joins_the_subjects_of_the_hub(tmp_path, monkeypatch):
    made_up_math(tmp_path / "own")
    rows = {
        split: [row.fields for row in read_jsonl(tmp_path / f"own/MATH/{split}.jsonl", ValueError)]
        for split in ("train", "test")
    }
    tables = {}
    for subject, title in SUBJECTS.items():
        of_subject = {
            split: datasets.Dataset.from_list([row for row in found if row["type"] == title])
            if any(row["type"] == title for row in found)
            else datasets.Dataset.from_dict({name: [] for name in found[0]})
            for split, found in rows.items()
        }
        source = sources.replace(sources.MATH, config=subject)
        tables[subject] = (source, datasets.DatasetDict(of_subject))
    monkeypatch.setattr(datasets, "load_dataset", Hub(**tables))
    assert states(needed_downloads([MATH], tmp_path / "data")) == ["fetched"]
    found, own = (load(MATH, tmp_path / name) for name in ("data", "own"))
    assert found == own


def test_sam_sum_brings_sentence_data_out_of_their_archive(web, tmp_path, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("punkt_tab/english/ortho_context.tab", "x")
        stream.writestr("punkt_tab/czech/ortho_context.tab", "y")
    made_up_sam_sum(tmp_path / "own")
    gist, punkt = sources.GISTS["sam_sum"], sources.TABLE_SOURCES["punkt"]
    chats = (tmp_path / "own/sam_sum/data/samsum.tsv").read_bytes()
    put(web, f"{gist.repo}/raw/{gist.revision}/{gist.config}", chats)
    put(web, f"{punkt.repo}/{punkt.revision}/{punkt.config}", archive.getvalue())
    monkeypatch.setattr(hub, "DIGESTS", {})
    outcomes = list(prepare(needed_downloads(["sam_sum"], tmp_path / "data")))
    assert [each.state for each in outcomes] == ["fetched", "failed", "fetched"]  # no word lists
    assert (tmp_path / "data" / TABLES["punkt"][0]).read_text() == "x"
    assert not list((tmp_path / "data").rglob("*czech*"))


@pytest.mark.parametrize(
    "source",
    [sources.MATH, *sources.GISTS.values(), sources.TABLE_SOURCES["punkt"]],
    ids=lambda source: source.repo,
)
def test_a_source_is_pinned_to_a_commit(source):
    assert len(source.revision) == 40
    int(source.revision, 16)


def test_what_has_no_commit_has_a_digest_but_for_helms_storage():
    unpinned = {name for name, each in sources.TABLE_SOURCES.items() if len(each.revision) != 40}
    assert unpinned - sources.DIGESTS.keys() == {"dialect", "names"}


def test_an_unknown_entry_is_refused(tmp_path):
    with pytest.raises(ScenarioError, match="unknown entry 'mmli'"):
        needed_downloads(["mmli:subject=x"], tmp_path)


@pytest.mark.integration
def test_the_command_tells_what_failed_and_ends_with_1(tmp_path):
    typed = ["scenarios", "scenario.entries=['big_bench:task=none,subtask=']", "scenario.path=data"]
    ran = forked.run(["fetch", *typed], cwd=tmp_path)
    assert ran.returncode == 1
    assert "1 of 2  failed" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: not all data are there")
    assert "data: 0.0 MB; sources: 0 there, 0 fetched, 2 failed" in ran.stdout
