// The page as a whole: what is shown, in which theme, and what follows the reader's choices.
"use strict";

const page = { data: null, selected: new Set() };

// Each is drawn from parts of the data, of which the first says whether it is there at all.
const SECTIONS = {
  curves: { parts: ["curves", "rows"], draw: drawCurves, follows: true },
  costs: { parts: ["costs"], draw: drawCosts },
  scores: { parts: ["scores", "entries"], draw: drawScores, follows: true },
  layers: { parts: ["layers", "entries"], draw: drawLayers },
  mixes: { parts: ["mixes"], draw: drawMixes },
  plans: { parts: ["plans", "rows"], draw: drawPlans, follows: true },
  configs: { parts: ["configs"], draw: drawConfigs, has: (data) => Object.keys(data.configs.runs).length > 1 },
  instances: { parts: ["instances", "instance_counts", "scores"], draw: drawInstances },
  samples: { parts: ["samples"], draw: drawSamples },
};

const isThere = (name, data) => {
  const { parts, has } = SECTIONS[name];
  return has ? has(data) : data[parts[0]].length > 0;
};

// News leave a section alone whose data are the same: the reader may be in the middle of it.
const hasChanged = (name, before, data) => !before
  || SECTIONS[name].parts.some((part) => JSON.stringify(before[part]) !== JSON.stringify(data[part]));

const drawSection = (name) => isThere(name, page.data)
  ? SECTIONS[name].draw(page.data, page.selected) : null;

async function show(data) {
  const changed = Object.keys(SECTIONS).filter((name) => hasChanged(name, page.data, data));
  page.data = data;
  byId("summary").textContent = `${data.summary} · ${data.made} · effchal ${data.version}`;
  byId("made").textContent = `Made by effchal ${data.version} on ${data.made} from ${data.paths.join(", ")}.`;
  byId("empty").hidden = data.rows.length > 0;
  byId("runs").hidden = data.rows.length === 0;
  showCards(data);
  showProblems(data);
  for (const name of Object.keys(SECTIONS)) byId(name).hidden = !isThere(name, data);
  showNav();
  if (data.rows.length) await drawRuns(data);
  await Promise.all(changed.map(drawSection));
  document.body.dataset.ready = "yes";
}

function showCards(data) {
  byId("best").hidden = !data.headline.length;
  byId("cards").replaceChildren(...data.headline.map((card, i) =>
    element("article", { className: i ? "card" : "card first" },
      element("h2", { textContent: card.title }),
      element("p", { className: "value" }, card.value,
        card.interval ? element("span", { className: "interval", textContent: card.interval }) : null),
      card.run ? element("p", { className: "run", textContent: card.run }) : null,
      element("p", { className: "why", textContent: card.why }))));
}

function showProblems(data) {
  byId("problems").hidden = !data.problems.length;
  byId("problem_table").replaceChildren(plainTable(["folder", "reason"],
    data.problems.map((each) => [each.folder, each.reason])));
}

function showNav() {
  byId("nav").replaceChildren(...[...document.querySelectorAll("section[data-nav]:not([hidden])")]
    .map((section) => element("a", { href: `#${section.id}`, textContent: section.dataset.nav })));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

async function redrawCharts() {
  if (page.data) await Promise.all(Object.keys(charts.views).map((name) =>
    drawSection(name === "differences" ? "scores" : name)));
}

function listen() {
  byId("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    redrawCharts();
  });
  runTable.onSelect = (labels) => {
    page.selected = new Set(labels);
    Object.keys(SECTIONS).filter((name) => SECTIONS[name].follows).forEach(drawSection);
  };
  for (const control of document.querySelectorAll("section select, section input")) {
    const name = control.closest("section").id;
    if (name in SECTIONS) control.addEventListener("input", () => {
      browse.page = 0;
      drawSection(name);
    });
  }
  const turn = (pages) => () => {
    browse.page += pages;
    drawSection("instances");
  };
  byId("instance_back").addEventListener("click", turn(-1));
  byId("instance_on").addEventListener("click", turn(1));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) redrawCharts();
    width = window.innerWidth;
  });
}

// A page that effchal serves asks for news, and keeps what the reader chose.
async function follow() {
  const answer = await fetch("data.json", { headers: { "If-None-Match": follow.tag ?? "" } }).catch(() => null);
  const line = byId("live");
  line.hidden = false;
  if (answer?.status === 200) {
    follow.tag = answer.headers.get("ETag");
    await show(await answer.json());
  }
  const running = page.data.rows.filter((row) => row.status === "running");
  const done = (row) => row.kind === "train" ? `${row.steps ?? 0}/${row.steps_planned ?? "?"} steps` : `(${row.kind})`;
  const ends = running.map((row) => `${row.run} ${done(row)}${row.ends ? `, ends about ${row.ends}` : ""}`);
  line.textContent = !answer ? "The server does not answer; what you see stays."
    : ends.length ? `Running: ${ends.join("; ")}` : "Live: nothing is running.";
  setTimeout(follow, 2000);
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  listen();
  charts.specs = await unpacked("specs");
  await show(await unpacked("data"));
  if (document.body.dataset.live === "yes") follow();
}

start().catch((error) => {
  byId("trouble").hidden = false;
  byId("trouble").textContent = `This page cannot be shown: ${error.message}`;
  console.error(error);
});
