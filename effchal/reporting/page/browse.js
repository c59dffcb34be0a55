// Answers side by side, samples while training, and two configs beside each other.
"use strict";

const PAGE_SIZE = 10;
const MOST_ANSWERS = 4; // beside each other, until the reader chooses others
const LONGEST = "longest answer"; // a control that reads no question
const browse = { page: 0, shown: null, names: {} };

// The model that an evaluation scored; the evaluation itself where several scored the same.
function nameEvaluations(data) {
  const scored = data.rows.map((row) => row.scored).filter(Boolean);
  const alone = (name) => name && scored.filter((each) => each === name).length === 1;
  browse.names = Object.fromEntries(data.rows.map((row) => [row.run, alone(row.scored) ? row.scored : row.run]));
}

const answerName = (answer) => `${browse.names[answer.run]} · ${answer.decoding}`;
const isRight = (answer) => isMissing(answer.score) ? null : answer.score > 0.5;

function answerKey(answer) {
  if (!answer.logprobs) return answer.text;
  return String(answer.logprobs.indexOf(Math.max(...answer.logprobs)));
}

const FILTERS = {
  "": () => true,
  differ: (answers) => unique(answers.map(answerKey)).length > 1,
  mixed: (answers) => unique(answers.map(isRight)).length > 1,
  right: (answers) => answers.every((each) => isRight(each) === true),
  wrong: (answers) => answers.every((each) => isRight(each) === false),
};

function drawInstances(data) {
  const entries = unique(data.instances.map((each) => each.entry));
  fillSelect(byId("instance_entry"), entries.map((each) => [each, data.entries[each] ?? each]));
  nameEvaluations(data);
  const ofEntry = data.instances.filter((each) => each.entry === byId("instance_entry").value);
  const names = unique(ofEntry.flatMap((each) => each.answers.map(answerName)));
  if (!browse.shown || !names.some((name) => browse.shown.has(name))) {
    const telling = names.filter((name) => !name.endsWith(LONGEST));
    browse.shown = new Set((telling.length ? telling : names).slice(0, MOST_ANSWERS));
  }
  listAnswerers(data, names);
  const typed = byId("instance_find").value.toLowerCase();
  const fits = FILTERS[byId("instance_filter").value];
  const found = ofEntry
    .map((each) => ({ ...each, answers: each.answers.filter((answer) => browse.shown.has(answerName(answer))) }))
    .filter((each) => each.answers.length && fits(each.answers))
    .filter((each) => !typed || JSON.stringify(each).toLowerCase().includes(typed));
  const pages = Math.max(1, Math.ceil(found.length / PAGE_SIZE));
  browse.page = Math.min(browse.page, pages - 1);
  const start = browse.page * PAGE_SIZE;
  byId("instance_count").textContent = found.length
    ? `${start + 1} to ${Math.min(start + PAGE_SIZE, found.length)} of ${found.length}` : "no instance fits";
  byId("instance_back").disabled = browse.page === 0;
  byId("instance_on").disabled = browse.page === pages - 1;
  byId("instance_note").textContent = instanceNote(data);
  byId("instance_list").replaceChildren(...found.slice(start, start + PAGE_SIZE).map(instanceCard));
}

function instanceNote(data) {
  const cut = data.instance_counts.filter((each) => each.shown < each.of);
  const drawn = cut.length ? `Of each evaluation, ${data.detail.instances} instances at most, drawn by the digest of their ids. ` : "";
  return `${drawn}Texts longer than ${numberText(data.detail.characters, 0)} characters lack their middle. `
    + "Marked text differs from the first answer.";
}

function listAnswerers(data, names) {
  const boxes = names.map((name) => {
    const box = element("input", { type: "checkbox", checked: browse.shown.has(name) });
    box.addEventListener("change", () => {
      browse.shown[box.checked ? "add" : "delete"](name);
      if (!browse.shown.size) browse.shown.add(name);
      drawInstances(data);
    });
    return element("label", {}, box, ` ${name}`);
  });
  const place = byId("instance_columns").querySelector(".choices");
  if (place.textContent !== boxes.map((each) => each.textContent).join("")) place.replaceChildren(...boxes);
}

function instanceCard(instance) {
  const prompt = isMissing(instance.prompt)
    ? element("p", { className: "note", textContent: "The prompt is not in the evaluation's file: an older version wrote it." })
    : element("pre", { className: "prompt", textContent: instance.prompt, tabIndex: 0 });
  const references = (instance.references ?? []).filter((each) => each.correct).map((each) => each.text);
  const right = references.length ? element("p", { className: "references" },
    element("strong", { textContent: "Right: " }), references.join(" | ")) : null;
  const first = instance.answers[0];
  const answers = instance.answers.map((answer) => answerBox(answer, first, instance.references ?? []));
  return element("article", {}, element("h3", { textContent: instance.id }), prompt, right,
    element("div", { className: "answers" }, ...answers));
}

function answerBox(answer, first, references) {
  const right = isRight(answer);
  const sign = right === null ? "" : right ? "✓ right" : "✗ wrong";
  const score = isMissing(answer.score) ? "" : `${answer.metric} ${numberText(answer.score, 3)}`;
  const head = element("header", {}, element("strong", { textContent: answerName(answer) }),
    element("span", { className: right ? "right" : "wrong", textContent: sign, title: score }));
  const body = answer.logprobs ? choicesList(answer, references) : element("pre", {}, ...markedText(answer.text, first.text ?? answer.text));
  return element("div", { className: "answer" }, head, body);
}

// The text; what follows the first difference to another one is marked.
function markedText(text, other) {
  if (text === "") return [element("em", { textContent: "(no text)" })];
  let same = 0;
  while (same < text.length && text[same] === other[same]) same += 1;
  if (same === text.length) return [text];
  return [text.slice(0, same), element("mark", { textContent: text.slice(same) })];
}

function choicesList(answer, references) {
  const chosen = answer.logprobs.indexOf(Math.max(...answer.logprobs));
  const title = answer.decoding === LONGEST ? "score" : "log-probability";
  return plainTable(["choice", title, ""], answer.logprobs.map((each, i) => [
    (references[i]?.text ?? `choice ${i + 1}`) + (references[i]?.correct ? " ✓" : ""),
    each, i === chosen ? element("strong", { textContent: "chosen" }) : "",
  ].map((value) => value === "" ? element("span") : value)));
}

function drawSamples(data) {
  fillSelect(byId("samples_run"), unique(data.samples.map((each) => each.run)).map((each) => [each, each]));
  const ofRun = data.samples.filter((each) => each.run === byId("samples_run").value);
  fillSelect(byId("samples_prompt"), unique(ofRun.map((each) => each.prompt)).map((each) => [each, each.slice(0, 60)]));
  const shown = ofRun.filter((each) => each.prompt === byId("samples_prompt").value);
  byId("samples_list").replaceChildren(
    element("pre", { className: "prompt", textContent: shown[0]?.prompt ?? "", tabIndex: 0 }),
    plainTable(["step", "completion"], shown.map((each) => [each.step,
      element("pre", { textContent: each.completion })])));
}

function configOf(data, label) {
  const { base, runs } = data.configs;
  const config = { ...base, ...runs[label].set };
  runs[label].without.forEach((key) => delete config[key]);
  return config;
}

function drawConfigs(data) {
  const known = data.rows.filter((row) => row.run in data.configs.runs);
  const labels = [...known].sort((a, b) => (b.kind === "train") - (a.kind === "train")).map((row) => row.run);
  fillSelect(byId("config_a"), labels.map((each) => [each, each]), labels[0]);
  fillSelect(byId("config_b"), labels.map((each) => [each, each]), labels[1]);
  const [a, b] = [byId("config_a").value, byId("config_b").value];
  const [one, other] = [configOf(data, a), configOf(data, b)];
  const typed = (value) => value === undefined ? "not there" : JSON.stringify(value);
  const keys = unique([...Object.keys(one), ...Object.keys(other)])
    .filter((key) => byId("config_all").checked || typed(one[key]) !== typed(other[key]));
  byId("config_table").replaceChildren(keys.length
    ? plainTable(["key", a, b], keys.map((key) => [key, typed(one[key]), typed(other[key])]))
    : element("p", { className: "note", textContent: "The two configs are equal." }));
}
