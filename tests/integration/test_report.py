"""The report in a real browser."""

import pytest
from support.browser import look, needs_chromium
from support.made_up_runs import HOSTILE, config_text, make_evaluation, make_training
from support.paths import ROOT

from effchal.reporting.collect import collect
from effchal.reporting.page import fitting_page
from effchal.reporting.payload import Report

NAME = HOSTILE.replace("/", "")
REAL_RUNS = ROOT / "experiments" / "report" / "runs"
SECTIONS = ["curves", "costs", "scores", "differences", "layers", "mixes", "plans"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Eight jobs of two sweeps, two of them evaluated; names and texts are hostile."""
    folder = tmp_path_factory.mktemp("report")
    config = config_text(into=folder / "made.yaml")
    for number in range(8):
        sweep = folder / "runs" / ("ranks" if number % 2 else NAME)
        run = make_training(
            sweep / str(number), config, r=2**number, validation_loss=3 - number / 8
        )
        (sweep / "multirun.yaml").touch()
        if number < 2:
            make_evaluation(folder / "runs" / f"eval_{number}", run, 0.4 + number / 5, text=HOSTILE)
    (folder / "runs" / "empty").mkdir()
    path = folder / "report.html"
    path.write_text(fitting_page(Report(collect([folder / "runs"]), []))[0], encoding="utf-8")
    return path


@needs_chromium
def test_the_page_shows_charts_and_nothing_goes_wrong(page):
    found = look(
        page,
        f"""
        found.marks = Object.fromEntries({SECTIONS}.map((name) => [name,
          document.querySelectorAll(`#${{name}}_chart svg path`).length]));
        found.hidden = [...document.querySelectorAll("section[hidden]")].map((each) => each.id);
        found.title = document.title;
        found.images = document.images.length;
        found.cards = [...document.querySelectorAll(".card .run")].map((each) => each.textContent);
        found.problems = byId("problem_table").textContent;
        """,
    )
    assert found.pop("console") == []
    assert all(count > 3 for count in found["marks"].values()), found["marks"]
    assert found["hidden"] == ["empty"]
    assert "hacked" not in found["title"]
    assert found["images"] == 0
    assert "ranks/1 lora.r=2, dola low" in found["cards"]
    assert "empty" in found["problems"]


USE_THE_TABLE = """
const { table } = runTable;
const rows = () => table.getRows("active").map((row) => row.getData());
found.first = rows()[0].loss_after;
const all = (selector) => [...document.querySelectorAll(selector)];
const head = all("[tabulator-field=hours] .tabulator-col-title")[0];
head.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
head.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
await wait(300);
found.hours = rows().map((row) => row.hours ?? null);
table.setHeaderFilterValue("hours", "<2"); await wait(500);
found.filtered = rows().map((row) => row.hours);
table.clearFilter(true);
const give = async (id, value, event) => {
  byId(id).value = value;
  byId(id).dispatchEvent(new Event(event));
  await wait(500);
};
await give("find", "eval_1", "input");
found.typed = rows().map((row) => row.run);
byId("reset").click();
await give("group", "sweep", "change");
found.groups = all(".tabulator-group").map((each) => each.textContent);
await give("group", "", "change");
const legend = () => all("#curves_chart .role-legend-label text").length;
const before = legend();
table.selectRow([rows().find((row) => row.kind === "train").run]); await wait(1500);
found.legend = [before, legend()];
const labels = all("#columns label");
labels.find((each) => each.textContent.includes("device")).click(); await wait(300);
found.device = table.getColumn("device").isVisible();
found.missing = document.querySelector(".tabulator-row .missing")?.title;
found.images = document.images.length;
"""


@needs_chromium
def test_the_table_sorts_filters_groups_and_narrows_the_charts(page):
    found = look(page, USE_THE_TABLE)
    assert found.pop("console") == []
    assert "error" not in found
    assert found["first"] == 2.125
    assert found["hours"] == [16, 8, 4, 2, 1, 0.5, 0.25, 0.125, None, None]
    assert all(hours < 2 for hours in found["filtered"])
    assert len(found["filtered"]) == 4
    assert found["typed"] == ["eval_1"]
    assert {group.rpartition(" ")[0].strip() for group in found["groups"]} == {
        "ranks",
        "no sweep",
        NAME.strip(),
    }
    assert found["legend"] == [10, 3]  # eight runs and two kinds of loss; one run
    assert found["device"] is True
    assert found["missing"] == "not measured"
    assert found["images"] == 0


@needs_chromium
def test_answers_stand_side_by_side_where_they_differ(page):
    found = look(
        page,
        """
        const count = () => byId("instance_count").textContent;
        found.all = count();
        byId("instance_filter").value = "differ";
        byId("instance_filter").dispatchEvent(new Event("input", { bubbles: true }));
        found.differ = count();
        const all = (selector) => [...document.querySelectorAll(selector)];
        const answers = all("#instance_list article:first-child .answer");
        found.answers = answers.map((each) => each.querySelector("pre").textContent);
        found.marked = answers.map((each) => each.querySelector("mark")?.textContent ?? null);
        found.signs = answers.map((each) => each.querySelector("header span").textContent);
        found.prompt = document.querySelector("#instance_list .prompt").textContent;
        byId("instance_on").click();
        found.next = count();
        found.keys = all("#config_table td:first-child").map((each) => each.textContent);
        found.samples = byId("samples_list").textContent;
        """,
    )
    assert found.pop("console") == []
    assert found["all"] == "1 to 10 of 30"
    assert found["differ"] == "1 to 10 of 15"
    assert found["next"] == "11 to 15 of 15"
    assert found["answers"] == [HOSTILE, f"{HOSTILE} and more"] * 2
    assert found["marked"] == [None, " and more"] * 2
    assert found["signs"] == ["✓ right", "✗ wrong"] * 2
    assert HOSTILE in found["prompt"]
    assert found["keys"]
    assert "20!" in found["samples"]


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1280, True)])
def test_dark_and_narrow_pages_have_room(page, width, dark):
    found = look(
        page,
        """
        found.width = window.innerWidth;
        found.needed = document.documentElement.scrollWidth;
        found.theme = document.documentElement.dataset.theme;
        found.paper = getComputedStyle(document.body).backgroundColor;
        const title = "#curves_chart .role-axis-title text";
        const label = () => document.querySelector(title).getAttribute("fill");
        found.ink = label();
        byId("theme").click(); await wait(1500);
        found.other = label();
        """,
        width,
        dark,
    )
    assert found.pop("console") == []
    assert found["width"] == width
    assert found["needed"] <= width
    assert found["theme"] == ("dark" if dark else "light")
    assert found["paper"] == ("rgb(18, 23, 29)" if dark else "rgb(255, 255, 255)")
    assert {found["ink"], found["other"]} == {"#e8edf2", "#1a2129"}


@needs_chromium
@pytest.mark.skipif(not REAL_RUNS.is_dir(), reason="no folder experiments/report/runs")
def test_the_page_of_real_runs(tmp_path):
    path = tmp_path / "report.html"
    page, data = fitting_page(Report(collect([REAL_RUNS]), [REAL_RUNS]))
    path.write_text(page, encoding="utf-8")
    assert len([row for row in data["rows"] if row["status"] == "finished"]) >= 12
    found = look(
        path,
        f"""
        found.marks = {SECTIONS}.map((name) => [name,
          document.querySelectorAll(`#${{name}}_chart svg path`).length]);
        found.rows = runTable.table.getDataCount();
        runTable.table.setHeaderFilterValue("kind", "train"); await wait(500);
        found.kinds = unique(runTable.table.getData("active").map((row) => row.kind));
        """,
    )
    assert found.pop("console") == []
    assert found["rows"] == len(data["rows"])
    assert found["kinds"] == ["train"]
    assert all(count > 3 for name, count in found["marks"] if has_data(data, name))


def has_data(data, section):
    if section == "differences":
        return any(score["difference"] is not None for score in data["scores"])
    return bool(data[section])


@needs_chromium
def test_a_page_without_runs_says_what_to_do(tmp_path):
    (tmp_path / "runs").mkdir()
    path = tmp_path / "report.html"
    path.write_text(fitting_page(Report(collect([tmp_path / "runs"]), []))[0])
    script = 'found.text = byId("empty").innerText; found.runs = byId("runs").hidden;'
    found = look(path, script)
    assert found.pop("console") == []
    assert "effchal train" in found["text"]
    assert found["runs"] is True


@needs_chromium
def test_news_keep_what_the_reader_chose(page):
    found = look(
        page,
        """
        const { table } = runTable;
        table.setSort("hours", "desc"); table.setHeaderFilterValue("hours", ">1"); await wait(500);
        byId("curves_x").value = "hours";
        const first = table.getRows("active")[0].getData().run;
        table.selectRow([first]); await wait(500);
        const news = structuredClone(page.data);
        news.rows.find((row) => row.run === first).loss_after = 1.5;
        news.columns.push({ ...news.columns.find((each) => each.field === "hours"),
          field: "score_9", title: "new" });
        news.rows[0].score_9 = 0.5;
        const answers = byId("instance_list").firstElementChild;
        const loss = document.querySelector("#curves_chart svg");
        await show(news); await wait(1000);
        found.read_on = answers === byId("instance_list").firstElementChild;
        found.redrawn = loss !== document.querySelector("#curves_chart svg");
        found.sort = table.getSorters().map((each) => each.field);
        found.filter = table.getHeaderFilters().map((each) => each.value);
        found.selected = table.getSelectedData().map((row) => row.loss_after);
        found.x = byId("curves_x").value;
        found.added = table.getColumn("score_9").isVisible();
        """,
    )
    assert found.pop("console") == []
    assert found == {
        "sort": ["hours"],
        "filter": [">1"],
        "selected": [1.5],
        "x": "hours",
        "added": True,
        "read_on": True,
        "redrawn": True,
    }
