// The charts: Python describes them, the reader's choices fill them in, Vega draws them.
"use strict";

const charts = { specs: null, views: {} };
const MOST_RUNS = 12; // in a chart, until the reader selects some
const MOST_SELECTED = 40; // in a chart: more lines can neither be told apart nor drawn at once
const MOST_LINES = 40; // of a chart with a line for each decoding
const COLOURS = {
  light: ["#0b62a8", "#d1550a", "#0a8f68", "#b3448f", "#9a6b00", "#3d9be0", "#6b4bb0", "#8a4b2d", "#5c6670", "#c2255c", "#2b8a3e", "#1f7a8c"],
  dark: ["#6cb8ff", "#ffa15c", "#4fd6a8", "#f49ac9", "#ffd166", "#a9dcff", "#bda4f5", "#e0a987", "#b8c2cc", "#ff8fab", "#8ce99a", "#66d9e8"],
};

const isDark = () => document.documentElement.dataset.theme === "dark";

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function chartConfig() {
  const ink = style("--ink"), quiet = style("--quiet"), line = style("--line");
  const text = { labelColor: quiet, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  return {
    background: "transparent", font: style("--font"),
    view: { stroke: null },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line, titlePadding: 10, labelPadding: 6 },
    legend: { ...text, symbolStrokeWidth: 2 },
    text: { color: ink, fontSize: 12 }, rule: { color: quiet }, line: { strokeWidth: 2, color: quiet },
    point: { color: COLOURS[isDark() ? "dark" : "light"][0] },
    range: { category: COLOURS[isDark() ? "dark" : "light"] },
  };
}

// A copy of a chart's description with the reader's choices in the place of $words.
function filled(part, choices) {
  if (Array.isArray(part)) return part.map((each) => filled(each, choices));
  if (part && typeof part === "object") {
    return Object.fromEntries(Object.entries(part).map(([key, each]) => [key, filled(each, choices)]));
  }
  if (typeof part !== "string") return part;
  if (part in choices) return choices[part];
  return part.replace(/\$[a-z_]+/g, (word) => choices[word] ?? word);
}

async function draw(name, rows, choices = {}) {
  const place = byId(`${name}_chart`);
  const wide = place.clientWidth > 640;
  const spec = filled(charts.specs[name], {
    $limit: wide ? 320 : 120, $label: wide ? "datum.label" : "split(datum.label, ' · ')", $step: wide ? 26 : 48, $columns: Math.max(1, Math.floor(place.clientWidth / 250)),
    $ink: style("--ink"), $paper: style("--paper"), $scheme: isDark() ? "darkblue" : "blues", ...choices,
  });
  spec.datasets = { table: rows };
  charts.views[name]?.finalize();
  const made = await vegaEmbed(place, spec, {
    actions: false, renderer: rows.length > 6000 ? "canvas" : "svg", config: chartConfig(),
    tooltip: { theme: isDark() ? "dark" : "light" },
    logLevel: vega.Error, // Vega-Lite warns of a width of the place with a height of steps, which is meant
  });
  charts.views[name] = made;
}

// Labels of the training runs that charts show, and a sentence that says which these are.
function shownRuns(data, selected) {
  const all = data.rows.filter((row) => row.kind === "train");
  const chosen = all.filter((row) => selected.has(row.run));
  const [from, most] = chosen.length ? [chosen, MOST_SELECTED] : [all, MOST_RUNS];
  const best = [...from].sort((a, b) => (a.loss_after ?? Infinity) - (b.loss_after ?? Infinity)).slice(0, most);
  const few = `The ${most} of ${from.length} ${chosen.length ? "selected " : ""}runs with the lowest validation loss. `
    + `Select ${chosen.length ? "fewer" : "rows above"} to see others.`;
  const count = chosen.length ? `${counted(chosen.length, "selected run")}.` : "";
  return from.length > most ? [best.map((row) => row.run), few] : [from.map((row) => row.run), count];
}

const inSection = (id, selector) => byId(id).querySelector(selector);

function drawCurves(data, selected) {
  const [runs, words] = shownRuns(data, selected);
  const x = byId("curves_x").value, kind = byId("curves_kind").value;
  const rows = data.curves
    .filter((curve) => runs.includes(curve.run) && (!kind || curve.kind === kind))
    .flatMap(({ run, kind: its, step, tokens, hours, loss }) => loss.map((each, i) =>
      ({ run, kind: its, step: step[i], tokens: tokens[i], hours: hours[i], loss: each })));
  inSection("curves", ".which").textContent = words;
  byId("curves_note").textContent = `Not smoothed. A curve has at most ${data.detail.points} points here: `
    + "its ends, and the lowest and highest of equal stretches between. A click in the legend picks a run.";
  const titles = { step: "steps", tokens: "tokens trained on", hours: "hours, wall clock" };
  return draw("curves", rows, { $x: x, $x_title: titles[x] });
}

function drawCosts(data) {
  const measures = unique(data.costs.map((each) => each.measure));
  const differs = (measure) => new Set(data.costs.filter((each) => each.measure === measure).map((each) => each.y)).size > 1;
  const telling = measures.filter(differs);
  const score = telling.find((each) => !each.startsWith("validation loss"));
  fillSelect(byId("costs_measure"), measures.map((each) => [each, each]), score ?? telling[0]);
  fillSelect(byId("costs_cost"), unique(data.costs.map((each) => each.cost)).map((each) => [each, each]));
  const measure = byId("costs_measure").value, cost = byId("costs_cost").value;
  const rows = data.costs.filter((each) => each.measure === measure && each.cost === cost);
  return draw("costs", rows, { $measure: rows[0]?.y_title ?? measure, $cost: cost });
}

const decodingName = (each) => `${each.model} · ${each.decoding}`;

// The first entry whose main scores are not all the same.
function tellingEntry(data) {
  return Object.keys(data.entries).find((entry) =>
    new Set(data.scores.filter((each) => each.entry === entry && each.main).map((each) => each.score)).size > 1);
}

function drawScores(data, selected) {
  const entries = Object.entries(data.entries);
  fillSelect(byId("scores_entry"), entries, tellingEntry(data));
  const entry = byId("scores_entry").value;
  const ofEntry = data.scores.filter((each) => each.entry === entry);
  const main = ofEntry.find((each) => each.main)?.metric;
  const metrics = unique(ofEntry.map((each) => each.metric));
  fillSelect(byId("scores_metric"), metrics.map((each) => [each, each === main ? `${each} (main)` : each]), main);
  const metric = byId("scores_metric").value;
  const all = ofEntry.filter((each) => each.metric === metric);
  const chosen = all.filter((each) => selected.has(each.run) || selected.has(each.trained));
  const wanted = chosen.length ? chosen : all.filter((each) => !each.again);
  const few = wanted.length > MOST_LINES;
  const ordered = few ? [...wanted].sort((a, b) => b.score - a.score) : wanted;
  const rows = ordered.slice(0, MOST_LINES).map((each) =>
    ({ ...each, role: each.control ? "control" : "asked for" }));
  inSection("scores", ".which").textContent = few
    ? `The ${MOST_LINES} best of ${wanted.length} decodings. Select rows above to see others.` : "";
  const differing = rows.filter((each) => !isMissing(each.difference));
  byId("differences").hidden = !differing.length;
  byId("scores_table").replaceChildren(scoresTable(rows));
  return Promise.all([
    draw("scores", rows, { $metric: metric }),
    differing.length ? draw("differences", differing) : null,
  ]);
}

function scoresTable(rows) {
  const titles = ["model", "decoding", "evaluation", "score", "low", "high", "difference", "low", "high", "answers that differ", "instances"];
  return plainTable(titles, rows.map((each) => [each.model, each.decoding, each.run, each.score, each.low, each.high,
    each.difference, each.difference_low, each.difference_high, each.answers_that_differ, each.instances]));
}

function drawLayers(data) {
  const entries = unique(data.layers.map((each) => each.entry));
  fillSelect(byId("layers_entry"), entries.map((each) => [each, data.entries[each] ?? each]));
  const rows = data.layers.filter((each) => each.entry === byId("layers_entry").value)
    .map((each) => ({ ...each, name: decodingName(each) }));
  return draw("layers", rows);
}

function drawMixes(data) {
  const share = byId("mixes_share").value;
  const rows = data.mixes.flatMap((mix) => mix.sources.map((source) => ({ ...source, mix: mix.mix })));
  const titles = ["mix", "source", "licence", "rows", "kept", "copies", "tokens", "dropped by rule", "runs"];
  byId("mixes_table").replaceChildren(plainTable(titles, data.mixes.flatMap((mix) =>
    mix.sources.map((source) => [mix.mix, source.source, source.license, source.rows, source.kept,
      source.copies, source.tokens,
      Object.entries(source.dropped).map(([rule, count]) => `${rule} ${count}`).join(", ") || "none",
      mix.runs.length]))));
  return draw("mixes", rows, { $share: share, $share_title: `share of ${share.slice(6)}` });
}

function drawPlans(data, selected) {
  const [runs, words] = shownRuns(data, selected);
  const rows = data.plans.filter((each) => runs.includes(each.run));
  inSection("plans", ".which").textContent = words;
  byId("plans_table").replaceChildren(plainTable(["run", "quantity", "planned", "actual", "actual / planned"],
    rows.map((each) => [each.run, each.quantity, each.planned, each.actual, each.ratio])));
  return draw("plans", rows);
}
