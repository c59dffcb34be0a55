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
    + "Marked text differs from the first answer. Of choices, the log-probability is shown, and the chosen one marked.";
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
  const choosing = instance.answers.filter((each) => each.logprobs);
  const writing = instance.answers.filter((each) => !each.logprobs);
  return element("article", {}, element("h3", { textContent: instance.id }), prompt, right,
    element("div", { className: "answers" }, ...writing.map((each) => answerBox(each, writing[0]))),
    choosing.length ? choicesTable(choosing, instance.references ?? []) : null);
}

function signOf(answer) {
  const right = isRight(answer);
  const textContent = right === null ? "" : right ? "✓ right" : "✗ wrong";
  const title = isMissing(answer.score) ? "" : `${answer.metric} ${numberText(answer.score, 3)}`;
  return element("span", { className: right ? "right" : "wrong", textContent, title });
}

function answerBox(answer, first) {
  const head = element("header", {}, element("strong", { textContent: answerName(answer) }), signOf(answer));
  return element("div", { className: "answer" }, head, element("pre", {}, ...markedText(answer.text, first.text)));
}

// The text; what follows the first difference to another one is marked.
function markedText(text, other) {
  if (text === "") return [element("em", { textContent: "(no text)" })];
  let same = 0;
  while (same < text.length && text[same] === other[same]) same += 1;
  if (same === text.length) return [text];
  return [text.slice(0, same), element("mark", { textContent: text.slice(same) })];
}

// A line for each choice, a column for each answerer: what it gave the choice, its own one marked.
function choicesTable(answers, references) {
  const heads = answers.map((each) => element("span", {}, answerName(each), element("br"), signOf(each)));
  const most = Math.max(...answers.map((each) => each.logprobs.length));
  const lines = Array.from({ length: most }, (_, i) => [
    element("span", { textContent: (references[i]?.text ?? `choice ${i + 1}`) + (references[i]?.correct ? " ✓" : "") }),
    ...answers.map((each) => {
      const given = each.logprobs[i], chosen = given === Math.max(...each.logprobs);
      const text = isMissing(given) ? MISSING : numberText(given);
      return element(chosen ? "mark" : "span", { textContent: text, title: chosen ? "chosen" : "" });
    }),
  ]);
  const table = plainTable(["choice (✓ right)", ...heads], lines);
  table.classList.add("choices_given");
  return element("div", { className: "scroll" }, table);
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
  const lines = configLines(one, other, byId("config_all").checked);
  byId("config_table").replaceChildren(lines.length ? plainTable(["key", a, b], lines)
    : element("p", { className: "note", textContent: "The two configs are equal." }));
}

// Lines of key and both values. A part that only one config has is one line, with what it sets.
function configLines(one, other, withEqual) {
  const typed = (value) => value === undefined ? "not there" : JSON.stringify(value);
  const keys = unique([...Object.keys(one), ...Object.keys(other)]);
  const parent = (key) => key.slice(0, Math.max(0, key.lastIndexOf(".")));
  const within = (config, part) => keys.filter((key) => parent(key) === part && key in config);
  const set = (config, part) => within(config, part)
    .filter((key) => ![null, "", "{}", "[]"].includes(config[key] && JSON.stringify(config[key])))
    .map((key) => `${key.slice(part.length + 1)}: ${JSON.stringify(config[key])}`).join(", ") || "not there";
  const isAlone = (part) => part && [one, other].some((config) => !within(config, part).length);
  const heads = unique(keys.map((key) => (!withEqual && isAlone(parent(key)) ? `${parent(key)}.*` : key)));
  return heads.map((head) => head.endsWith(".*")
    ? [head, set(one, head.slice(0, -2)), set(other, head.slice(0, -2))]
    : [head, typed(one[head]), typed(other[head])])
    .filter(([, left, right]) => withEqual || left !== right)
    .map(([head, ...values]) => [breakable(head), ...values]);
}

// A dotted key that a narrow column breaks behind its dots.
function breakable(key) {
  const parts = key.split(/(?<=\.)/).flatMap((part) => [part, element("wbr")]);
  return element("span", { title: key }, ...parts);
}
