// Values as text, and elements made of texts. No text of a run is ever taken for HTML.
"use strict";

const MISSING = "–";

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function numberText(value, digits = null) {
  const most = digits === null ? { maximumSignificantDigits: 4 }
    : { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const tiny = value !== 0 && Math.abs(value) < 10 ** -(digits ?? 4);
  return tiny ? value.toPrecision(2) : value.toLocaleString("en", most);
}

const isMissing = (value) => value === null || value === undefined || value === "";

// A value as a table shows it.
function shownValue(value, column = {}) {
  if (isMissing(value)) {
    return element("span", { className: "missing", title: "not measured", textContent: MISSING });
  }
  const text = typeof value === "number" ? numberText(value, column.digits) : String(value);
  return element("span", { textContent: text, title: text });
}

// A plain table of rows of values; the first line of it names the columns.
function plainTable(titles, rows) {
  const isNumber = titles.map((_, i) => rows.some((row) => typeof row[i] === "number"));
  const cell = (tag, child, i) => {
    const made = element(tag, { className: isNumber[i] ? "number" : "" }, child);
    if (tag === "th") made.scope = "col";
    return made;
  };
  const head = element("tr", {}, ...titles.map((title, i) => cell("th", title, i)));
  const body = rows.map((row) => element("tr", {}, ...row.map((value, i) =>
    cell("td", value instanceof Node ? value : shownValue(value), i))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

// Fill a select with [value, text] pairs; what was chosen stays so, if it is still there.
function fillSelect(select, pairs, first = null) {
  const before = select.value || first;
  select.replaceChildren(...pairs.map(([value, textContent]) =>
    element("option", { value, textContent })));
  if (pairs.some(([value]) => value === before)) select.value = before;
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const unique = (values) => [...new Set(values)];

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
