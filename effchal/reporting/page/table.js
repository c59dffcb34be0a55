// The table of runs: sort, filter, group, choose columns, select rows.
"use strict";

const MOST_OPEN_ROWS = 60; // groups of more runs start closed, so that all groups can be seen
const runTable = { table: null, data: null, ready: null, onSelect: () => {} };

function sortedFirst(data) {
  const has = (field) => data.rows.some((row) => !isMissing(row[field]));
  return has("loss_after") ? [{ column: "loss_after", dir: "asc" }]
    : [{ column: data.columns.find((each) => each.field.startsWith("score_"))?.field ?? "run", dir: "desc" }];
}

// "<0.5", ">=2" or a part of the number.
function numberFilter(typed, value) {
  const [, sign, number] = /^\s*([<>]=?)?\s*(\S+)\s*$/.exec(typed) ?? [];
  if (number === undefined) return true;
  if (isMissing(value)) return false;
  if (!sign) return String(value).includes(number);
  const bound = Number(number);
  return { "<": value < bound, ">": value > bound, "<=": value <= bound, ">=": value >= bound }[sign];
}

function runCell(data) {
  const best = new Map(data.headline.filter((card) => card.best).map((card) => [card.best, card.title]));
  return (cell) => {
    const shown = shownValue(cell.getValue());
    const title = best.get(cell.getValue());
    if (title) shown.append(" ", element("span", { className: "badge", title, textContent: "★ best" }));
    return shown;
  };
}

function statusCell(cell) {
  const row = cell.getData();
  const signs = { finished: "✓", running: "▶", failed: "✗", interrupted: "‖", "no record": "?" };
  let text = `${signs[row.status] ?? "•"} ${row.status.replaceAll("_", " ")}`;
  if (row.status === "running" && row.steps_planned) {
    text += ` ${numberText(row.steps ?? 0, 0)}/${numberText(row.steps_planned, 0)}`;
  }
  const end = row.ends ? `ends about ${row.ends}` : row.status;
  return element("span", { className: `status ${row.status === "finished" ? "" : "open"}`, textContent: text, title: end });
}

// With the unit; and what it means when the pointer rests on it.
function headOf(column) {
  const unit = column.unit ? [" ", element("span", { className: "unit", textContent: column.unit })] : [];
  return element("span", { title: column.meaning || column.title }, column.title, ...unit);
}

function columnsOf(data) {
  const filled = (field) => data.rows.some((row) => !isMissing(row[field]));
  const chosen = runTable.table ? shownColumns() : null;
  const select = {
    formatter: "rowSelection", titleFormatter: "rowSelection", headerSort: false, width: 44,
    hozAlign: "center", headerHozAlign: "center", field: "chosen",
  };
  return [select, ...data.columns.filter((column) => filled(column.field)).map((column) => {
    const isNumber = column.kind === "number";
    return {
      field: column.field, title: column.field, titleFormatter: () => headOf(column),
      visible: chosen && chosen.known.has(column.field) ? chosen.shown.has(column.field) : column.shown,
      hozAlign: isNumber ? "right" : "left", headerHozAlign: isNumber ? "right" : "left",
      sorter: isNumber ? "number" : "alphanum", sorterParams: { alignEmptyValues: "bottom" },
      headerFilter: "input", headerFilterPlaceholder: "filter",
      headerFilterFunc: isNumber ? numberFilter : "like",
      minWidth: isNumber ? 84 : 90, maxInitialWidth: 300,
      frozen: column.field === "run" && window.innerWidth > 760,
      formatter: column.field === "run" ? runCell(data) : column.field === "status" ? statusCell
        : (cell) => shownValue(cell.getValue(), column),
    };
  })];
}

function shownColumns() {
  const columns = runTable.table.getColumns();
  return {
    known: new Set(columns.map((each) => each.getField())),
    shown: new Set(columns.filter((each) => each.isVisible()).map((each) => each.getField())),
  };
}

function drawRuns(data) {
  runTable.data = data;
  if (runTable.table) return updateRuns(data);
  runTable.table = new Tabulator("#run_table", {
    data: data.rows, index: "run", columns: columnsOf(data), layout: "fitDataFill",
    maxHeight: "min(70vh, 600px)", selectableRows: true, selectableRowsRangeMode: "click",
    initialSort: sortedFirst(data), placeholder: "no run fits the filters",
    columnDefaults: { resizable: "header" }, groupHeader: groupHead,
    groupStartOpen: () => runTable.data.rows.length <= MOST_OPEN_ROWS,
  });
  runTable.ready = new Promise((done) => runTable.table.on("tableBuilt", done)).then(() => {
    listColumns(data);
    reachHeadsByKeyboard();
  });
  runTable.table.on("rowSelectionChanged", (rows) => runTable.onSelect(rows.map((row) => row.run)));
  runTable.table.on("dataFiltered", (_, rows) => {
    byId("count").textContent = `${rows.length} of ${runTable.data.rows.length} runs`;
  });
  byId("count").textContent = `${data.rows.length} of ${data.rows.length} runs`;
  byId("find").addEventListener("input", findText);
  byId("group").addEventListener("change", (event) => runTable.table.setGroupBy(event.target.value || false));
  byId("reset").addEventListener("click", () => {
    byId("find").value = "";
    runTable.table.clearFilter(true);
  });
  return runTable.ready;
}

// New data of a page that is live: sort, filters, columns and selection stay.
async function updateRuns(data) {
  const { table } = runTable;
  const chosen = table.getSelectedData().map((row) => row.run);
  const fields = columnsOf(data).map((each) => each.field).join();
  if (table.getColumns().map((each) => each.getField()).join() !== fields) {
    const filters = table.getHeaderFilters();
    const sorters = table.getSorters().map((each) => ({ column: each.field, dir: each.dir }));
    table.setColumns(columnsOf(data));
    filters.forEach((each) => table.setHeaderFilterValue(each.field, each.value));
    table.setSort(sorters);
    listColumns(data);
    reachHeadsByKeyboard();
  }
  await table.replaceData(data.rows);
  const there = new Set(data.rows.map((row) => row.run)); // asking the table for others is an error
  table.selectRow(chosen.filter((label) => there.has(label)));
}

function findText() {
  const typed = byId("find").value.toLowerCase();
  const fields = runTable.data.columns.map((column) => column.field);
  runTable.table.setFilter((row) =>
    fields.some((field) => String(row[field] ?? "").toLowerCase().includes(typed)));
}

function groupHead(value, count) {
  const name = isMissing(value) ? `no ${byId("group").value.replace("_", " ")}` : value;
  return element("span", { textContent: `${name} (${count})` });
}

function listColumns(data) {
  const boxes = runTable.table.getColumns().filter((each) => each.getField() !== "chosen").map((each) => {
    const box = element("input", { type: "checkbox", checked: each.isVisible() });
    box.addEventListener("change", () => (box.checked ? each.show() : each.hide()));
    const title = data.columns.find((column) => column.field === each.getField()).title;
    return element("label", {}, box, ` ${title}`);
  });
  byId("columns").querySelector(".choices").replaceChildren(...boxes);
}

function reachHeadsByKeyboard() {
  for (const column of runTable.table.getColumns()) {
    const title = column.getElement().querySelector(".tabulator-col-title");
    if (!title || column.getField() === "chosen") continue;
    title.tabIndex = 0;
    title.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      const before = runTable.table.getSorters().find((each) => each.field === column.getField());
      runTable.table.setSort(column.getField(), before?.dir === "asc" ? "desc" : "asc");
    });
  }
  for (const input of document.querySelectorAll("#run_table .tabulator-header-filter input")) {
    const field = input.closest(".tabulator-col").getAttribute("tabulator-field");
    const column = runTable.data.columns.find((each) => each.field === field);
    input.setAttribute("aria-label", `filter ${column?.title ?? field}`);
  }
  for (const box of document.querySelectorAll("#run_table .tabulator-col input[type=checkbox]")) {
    box.setAttribute("aria-label", "select all runs");
  }
}
