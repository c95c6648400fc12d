"use strict";

const $ = (id) => document.getElementById(id);
const readJson = (id) => JSON.parse($(id).textContent);
const runs = readJson("runs");
// What is the same for all runs: the numbers by name (title, unit, whether it is a probability, what stands at the
// light end of the scale of colours, low, and at the dark one, scale, and whether more is open), the groups of samples
// and tokens, the keys that are swept.
const { numbers: NUMBERS, groups: GROUPS, swept } = readJson("page");
const COLOURS = Object.keys(NUMBERS).filter((number) => NUMBERS[number].scale !== null);
const TINY = 0.001; // probabilities below it are not told from each other
const state = { run: null, sample: 0, position: 0, number: COLOURS[0], horizon: null, task: "", score: "all",
  sort: "order", group: "", search: "",
  missing: "", // what a link asked for, and the page has not
  beside: null, // the sample that is kept beside
  timestep: null }; // the one that is played, whose forward pass is shown before it commits; null is the whole text
const loaded = {}; // the data of the runs that were opened
let run = null; // the data of the chosen run
let timer = null; // of the sample that plays
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const MASK = "▢"; // hatched, so that it is taken for no token
let listed = []; // the numbers of the samples in the list, in its order

/** An element; text goes in as text, whatever it looks like. */
function make(tag, attributes = {}, ...children) {
  const space = ["svg", "path", "circle", "line", "text", "title", "rect", "g"].includes(tag);
  const element = space ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A token as text that can be seen and is no other token's. */
function visible(sample, token) {
  return sample.run.shown[token] ?? sample.run.tokens[token];
}

/** What a number is called; where only a part of the logits was kept, some are bounds. */
function nameOf(number) {
  return NUMBERS[number].title + (run.bounded.includes(number) ? ", lower bound" : "");
}

function format(value, probability = false) {
  if (probability && value < TINY) return `< ${TINY}`;
  if (value === undefined || Number.isNaN(value)) return "–";
  if (value === Infinity) return "∞";
  if (Number.isInteger(value)) return String(value);
  return value < 0.0001 ? "< 0.0001" : value.toPrecision(value < 1 ? 2 : 3);
}

/** A number of one entry. An infinite one is null in the data, which JSON can't say otherwise. */
function numberOf(sample, entry, number) {
  const { candidates, probability_scale: scale } = sample.run;
  if (number === "confidence") return sample.probabilities[entry * candidates] / scale;
  if (number === "final_token_probability") return sample[number][entry] / scale;
  return sample[number][entry] ?? Infinity;
}

function formatNumber(value, number) {
  return format(value, NUMBERS[number].probability);
}

/** The entries that predict a position, by timestep. */
function entriesAt(sample, position) {
  if (!sample.at) {
    sample.at = sample.output.map(() => []);
    sample.position.forEach((at, entry) => sample.at[at].push(entry));
    sample.at.forEach((entries) => entries.sort((a, b) => sample.horizon[b] - sample.horizon[a]));
  }
  return sample.at[position];
}

/** The timestep at which a position was committed, also beyond the end of the text; null where it never was. */
function commitOf(sample, position) {
  return sample.commit ? sample.commit[position] : position;
}

/** The positions committed before a timestep. */
function revealedBefore(sample, timestep) {
  const commits = sample.commit ?? sample.output.map((_, position) => position);
  return commits.flatMap((at, position) => (at !== null && at < timestep ? [position] : []));
}

function timestepOf(sample, entry) {
  return commitOf(sample, sample.position[entry]) + 1 - sample.horizon[entry];
}

/** How many timesteps it took to the last position shown. */
function timestepsOf(sample) {
  return sample.output.reduce((most, _, position) => Math.max(most, commitOf(sample, position) + 1), 0);
}

/** The position committed last before a timestep, of several the largest; -1 before the first. */
function lastRevealed(sample, timestep) {
  return revealedBefore(sample, timestep).reduce((last, position) =>
    (last < 0 || commitOf(sample, position) >= commitOf(sample, last) ? position : last), -1);
}

/** Whether a position of a sample is in the chosen group; all are where none is chosen. */
function inGroup(sample, position) {
  if (state.group === "") return true;
  const [group, value] = state.group.split(":").map(Number);
  const found = sample.groups[group];
  return (Array.isArray(found) ? found[position] : found) === value;
}

/** All values of the chosen number at the chosen horizon in a sample, of the chosen group. */
function valuesOf(sample) {
  return sample.horizon.flatMap((horizon, entry) =>
    horizon === state.horizon && inGroup(sample, sample.position[entry]) ? [numberOf(sample, entry, state.number)] : []);
}

function meanOf(sample) {
  const values = valuesOf(sample);
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The position with the most to see: where the prediction at the chosen horizon is farthest from the final one. */
function mostTelling(sample) {
  let best = 0, farthest = -1;
  sample.horizon.forEach((horizon, entry) => {
    const far = horizon === state.horizon ? numberOf(sample, entry, "js") : -1;
    if (far > farthest) [best, farthest] = [sample.position[entry], far];
  });
  return best;
}

/** Where the searched text is found among the tokens of a sample: the positions it covers. */
function found(sample) {
  const positions = new Set(), wanted = state.search.toLowerCase();
  if (!wanted) return positions;
  const texts = sample.output.map((token) => sample.run.tokens[token].toLowerCase());
  const whole = texts.join(""), ends = [];
  texts.reduce((end, text) => (ends.push(end + text.length), end + text.length), 0);
  for (let at = whole.indexOf(wanted); at >= 0; at = whole.indexOf(wanted, at + 1)) {
    ends.forEach((end, position) => {
      if (end > at && end - texts[position].length < at + wanted.length) positions.add(position);
    });
  }
  // A token as it is shown, for its own text may be white space.
  sample.output.forEach((token, position) => {
    if (visible(sample, token).toLowerCase().includes(wanted)) positions.add(position);
  });
  return positions;
}

function matchesSearch(sample) {
  const wanted = state.search.toLowerCase();
  const texts = [sample.id, sample.name, sample.label ?? "", ...sample.prompt.map(([, content]) => content)];
  return texts.some((text) => text.toLowerCase().includes(wanted)) || found(sample).size > 0;
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  select.value = chosen;
}

/** The data of a run; each sample knows its run. */
function dataOf(number) {
  if (!(number in loaded)) {
    const data = loaded[number] = readJson(`run-${number}`);
    data.number = number;
    data.label = runs.find((each) => each.number === number).label;
    for (const sample of data.samples) sample.run = data;
  }
  return loaded[number];
}

function openRun(number) {
  run = dataOf(number);
  state.run = number;
  if (!run.horizons.includes(state.horizon)) state.horizon = run.horizons[1] ?? run.horizons[0];
  const before = state.task === "" ? null : $("task").selectedOptions[0].text; // another run numbers its tasks anew
  state.task = before !== null && run.tasks.includes(before) ? String(run.tasks.indexOf(before)) : "";
  $("run-label").textContent = swept.length ? `Run (${swept.join(", ")})` : "Run";
  fill($("run"), runs.map(({ number, label }) => [number, `${number}: ${label}`]), number);
  fill($("horizon"), run.horizons.map((horizon) => [horizon, horizon]), state.horizon);
  fill($("number"), COLOURS.map((number) => [number, nameOf(number)]), state.number);
  fill($("task"), [["", "all"], ...run.tasks.map((name, task) => [String(task), name])], state.task);
  fillGroups();
  $("about").textContent = JSON.stringify(run.about, null, 2);
}

/** The menu of groups: the values of each, under its name. */
function fillGroups() {
  const menus = GROUPS.map(({ name, values }, group) => {
    const menu = make("optgroup", { label: name });
    menu.append(...values.map((value, number) => make("option", { value: `${group}:${number}` }, `${name}: ${value}`)));
    return menu;
  });
  $("group").replaceChildren(make("option", { value: "" }, "all"), ...menus);
  $("group").value = state.group;
  $("groups").hidden = !GROUPS.length;
}

function showList() {
  const kept = (sample) =>
    (state.task === "" || sample.task === Number(state.task)) && matchesSearch(sample) &&
    sample.output.some((_, position) => inGroup(sample, position)) &&
    (state.score === "all" || (sample.score !== null && (sample.score >= 1) === (state.score === "right")));
  listed = run.samples.flatMap((sample, number) => (kept(sample) ? [number] : []));
  const means = run.samples.map(meanOf);
  const rank = (number) => (Number.isNaN(means[number]) ? -1 : means[number]);
  if (state.sort === "high") listed.sort((a, b) => (rank(b) > rank(a)) - (rank(b) < rank(a)) || a - b);
  if (state.sort === "low") listed.sort((a, b) => (rank(a) > rank(b)) - (rank(a) < rank(b)) || a - b);
  const left = run.num_samples - run.samples.length;
  $("count").textContent = `${listed.length} of ${run.samples.length}` +
    (left ? ` that are shown; the run has ${left} more` : "") + `; mean ${nameOf(state.number)} at horizon ${state.horizon}`;
  $("list").replaceChildren(...listed.map((number) => {
    const sample = run.samples[number];
    const mark = sample.score === null ? "" : sample.score >= 1 ? "✓" : "✗";
    const spoken = { "✓": "right", "✗": "wrong", "": "not scored" }[mark];
    return make("li", { role: "option", id: `sample-${number}`, "data-number": number },
      make("span", { class: "name" }, sample.name),
      make("span", { role: "img", "aria-label": spoken, title: spoken }, mark),
      make("span", { class: "mean" }, formatNumber(means[number], state.number)));
  }));
  if (!listed.length) $("list").append(make("li", { class: "empty" }, "No sample is like this."));
  if (listed.length && !listed.includes(state.sample) && !state.missing) {
    stop();
    Object.assign(state, { sample: listed[0], position: mostTelling(run.samples[listed[0]]), timestep: null });
  }
  markSample();
}

function markSample() {
  for (const item of $("list").children) {
    const chosen = item.id === `sample-${state.sample}`;
    item.setAttribute("aria-selected", chosen);
    if (chosen) {
      $("list").setAttribute("aria-activedescendant", item.id);
      const { top, bottom } = item.getBoundingClientRect(), frame = $("list").getBoundingClientRect();
      if (top < frame.top) $("list").scrollTop -= frame.top - top;
      if (bottom > frame.bottom) $("list").scrollTop += bottom - frame.bottom;
    }
  }
}

/** The samples that are shown, each with the ids of its elements: the chosen one, and the one kept beside. */
function panes() {
  const shown = [{ sample: run.samples[state.sample], title: "text-title", prompt: "prompt", tokens: "tokens" }];
  if (state.beside) {
    shown.push({ sample: state.beside, title: "beside-title", prompt: "beside-prompt", tokens: "beside-tokens" });
  }
  return shown;
}

function titleOf(sample) {
  const verdict = sample.score === null ? "" : sample.score >= 1 ? " (right)" : ` (wrong; label: ${sample.label})`;
  return (state.beside ? `${sample.run.number}: ${sample.run.label} – ` : "") + sample.name + verdict;
}

function showText() {
  $("notice").textContent = state.missing;
  $("notice").hidden = !state.missing;
  for (const section of document.querySelectorAll("section.text, section.detail")) section.hidden = Boolean(state.missing);
  $("keep").hidden = Boolean(state.missing);
  $("beside").hidden = !state.beside;
  $("beside").parentElement.classList.toggle("two", Boolean(state.beside));
  $("keep").textContent = state.beside ? "Close the second" : "Keep beside";
  if (state.missing) return;
  for (const { sample, title, prompt, tokens } of panes()) {
    $(title).textContent = titleOf(sample);
    const parts = sample.prompt.map(([role, content]) =>
      make("div", { dir: "auto" }, ...(role ? [make("b", {}, role)] : []), content));
    $(prompt).replaceChildren(...parts);
    const elements = sample.output.flatMap((token, position) => {
      const button = make("button", { type: "button", class: "token", "data-position": position, dir: "auto" });
      return /[\r\n]/.test(sample.run.tokens[token]) ? [button, make("span", { class: "break" })] : [button];
    });
    $(tokens).replaceChildren(...elements);
  }
  const sample = run.samples[state.sample];
  $("timestep").max = timestepsShown();
  if (state.timestep !== null) state.timestep = Math.min(state.timestep, timestepsShown() - 1);
  showTimestep();
  const { low, scale, unit, open } = NUMBERS[state.number];
  $("low").textContent = format(low);
  $("high").textContent = (open ? "≥ " : "") + format(scale) + unit;
  const moment = sample.commit ? " (timesteps up to the commit)" : "";
  $("meaning").textContent = `${nameOf(state.number)} at horizon ${state.horizon}${moment}; underlined: its most ` +
    "probable token is not the final prediction's; dashed: no prediction";
  $("beyond").textContent = sample.beyond ? `${sample.beyond} positions after the end of the text are left out.` : "";
  choosePosition(Math.min(state.position, sample.output.length - 1), false);
}

/** How many timesteps the longer of the samples shown took. */
function timestepsShown() {
  return Math.max(...panes().map(({ sample }) => timestepsOf(sample)));
}

/** A token as it was committed, coloured by the chosen number at the chosen horizon. */
function showCommitted(button, sample, position) {
  button.textContent = visible(sample, sample.output[position]);
  button.className = "token";
  button.style.setProperty("--share", "");
  if (!inGroup(sample, position)) {
    button.classList.add("apart");
    button.title = "not in this group";
    return;
  }
  const entry = entriesAt(sample, position).find((each) => sample.horizon[each] === state.horizon);
  if (entry === undefined) {
    button.classList.add("none");
    button.title = `no prediction at horizon ${state.horizon}`;
    return;
  }
  const value = numberOf(sample, entry, state.number), { low, scale, unit } = NUMBERS[state.number];
  button.style.setProperty("--share", `${100 * Math.max(0, Math.min(1, (value - low) / (scale - low)))}%`);
  button.title = `${nameOf(state.number)} ${formatNumber(value, state.number)}${unit}`;
  if (!sample.top1_agreement[entry]) button.classList.add("differs");
}

/** A position that is still masked: what is predicted for it, where that was recorded. */
function showMasked(button, sample, position) {
  const entry = entriesAt(sample, position).find((each) => timestepOf(sample, each) === state.timestep);
  button.style.setProperty("--share", "");
  button.className = entry === undefined ? "token masked" : "token guessed";
  const guess = entry === undefined ? null : sample.candidates[entry * sample.run.candidates];
  button.textContent = guess === null ? MASK : visible(sample, guess);
  button.title = guess === null ? "masked; no prediction was recorded" :
    `masked; predicted at horizon ${sample.horizon[entry]}: ${visible(sample, guess)} ` +
      formatNumber(numberOf(sample, entry, "confidence"), "confidence");
  if (guess !== null && guess !== sample.output[position]) button.classList.add("differs");
}

/** The texts as they are at the chosen timestep: before its commits, with what its forward pass predicts. */
function showTimestep() {
  if (state.missing) return;
  const count = timestepsShown(), timestep = state.timestep ?? count;
  const [moment] = panes().map(({ sample, tokens }) => showTokens(sample, $(tokens), count, timestep));
  $("timestep").value = timestep;
  $("timestep").setAttribute("aria-valuetext", moment);
  $("moment").textContent = moment;
  $("playing").hidden = state.timestep === null;
  markPosition();
}

/** One sample at a timestep of `count`; gives how far it is, in words. */
function showTokens(sample, container, count, timestep) {
  const buttons = [...container.querySelectorAll("button")], matches = found(sample);
  buttons.forEach((button, position) => {
    Object.assign(button.style, { width: "", height: "" });
    showCommitted(button, sample, position);
    button.classList.toggle("found", matches.has(position));
  });
  if (state.timestep !== null) {
    const sizes = buttons.map((button) => button.getBoundingClientRect());
    buttons.forEach((button, position) => {
      const { width, height } = sizes[position]; // kept, so that nothing moves while masks fill in
      Object.assign(button.style, { width: `${width}px`, height: `${height}px` });
      if (commitOf(sample, position) >= timestep) showMasked(button, sample, position);
      else if (commitOf(sample, position) === timestep - 1) button.classList.add("fresh");
    });
  }
  const revealed = revealedBefore(sample, timestep);
  const within = revealed.filter((position) => position < buttons.length).length, beyond = revealed.length - within;
  return `${timestep} of ${count} timesteps, ${within} of ${buttons.length} tokens` +
    (beyond ? `, ${beyond} after the end` : "");
}

/** Step to a timestep; after the last the whole text is shown. */
function goTo(timestep) {
  const count = timestepsShown();
  state.timestep = timestep >= count ? null : Math.max(0, timestep);
  showTimestep();
  remember();
}

function stepBy(steps) {
  goTo((state.timestep ?? timestepsShown()) + steps);
}

/** Go on to the next timestep; from the whole text to the first. */
function goOn() {
  if (state.timestep === null) goTo(0);
  else stepBy(1);
}

/** Start or stop playing. Who prefers less motion steps instead: nothing moves but what they move. */
function play() {
  if (calm.matches) return goOn();
  if (timer !== null) {
    stop();
    return remember();
  }
  goOn();
  const pause = Math.max(150, Math.min(700, 8000 / timestepsShown()));
  timer = setInterval(() => {
    stepBy(1);
    if (state.timestep !== null) return;
    stop();
    remember();
  }, pause);
  namePlay();
}

function stop() {
  clearInterval(timer);
  timer = null;
  namePlay();
}

function namePlay() {
  $("play").textContent = calm.matches ? "Next timestep" : timer === null ? "▶ Play" : "❚❚ Pause";
}

/** Show the predictions of a position, and move the keyboard to it in the tokens named, if any. */
function choosePosition(position, focus = "tokens") {
  state.position = position;
  markPosition(focus);
  showDetail();
  remember();
}

function markPosition(focus = false) {
  for (const { tokens, sample } of panes()) {
    const there = Math.min(state.position, sample.output.length - 1); // so that the keyboard reaches both
    for (const button of $(tokens).querySelectorAll("button")) {
      const position = Number(button.dataset.position);
      button.setAttribute("aria-pressed", position === state.position);
      button.tabIndex = position === there ? 0 : -1;
      if (position === state.position && focus === tokens) button.focus();
    }
  }
}

function showDetail() {
  const [first, second] = panes();
  const token = first.sample.output[state.position];
  $("detail-title").textContent = `Position ${state.position}` +
    (token === undefined ? "" : `: “${visible(first.sample, token)}”`);
  $("detail").replaceChildren(...detailOf(first.sample));
  $("beside-detail").replaceChildren(
    ...(second ? [make("h3", {}, titleOf(second.sample)), ...detailOf(second.sample)] : []));
  for (const table of document.querySelectorAll(".detail table")) {
    table.style.setProperty("--stub", `${table.querySelector("tbody th").offsetWidth}px`);
  }
}

/** The chart and the table of the chosen position of a sample. */
function detailOf(sample) {
  if (state.position >= sample.output.length) return [make("p", { class: "quiet" }, "This text ends before this position.")];
  const entries = entriesAt(sample, state.position);
  return [
    make("figure", {}, chart(sample, entries), make("figcaption", { class: "quiet" },
      "How the prediction came about. Solid: the committed token; dashed: the most probable one (confidence).")),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predictions by horizon" },
      tableOf(sample, entries.toReversed()))];
}

/** One column for each prediction of the position: the final one, which stays in sight, and then the earlier ones. */
function tableOf(sample, entries) {
  const isFinal = (entry) => (sample.horizon[entry] === 1 ? { class: "final" } : {});
  const heads = entries.map((entry) => make("th", { scope: "col", ...isFinal(entry) },
    sample.horizon[entry] === 1 ? "Final (horizon 1)" : `Horizon ${sample.horizon[entry]}`));
  const row = (name, cell) => make("tr", {}, make("th", { scope: "row" }, name), ...entries.map((entry) => {
    const made = cell(entry);
    if (sample.horizon[entry] === 1) made.classList.add("final");
    return made;
  }));
  const timesteps = row("Timestep", (entry) => make("td", {}, String(timestepOf(sample, entry))));
  const revealed = row("Last revealed", (entry) => {
    const last = lastRevealed(sample, timestepOf(sample, entry));
    if (last < 0) return make("td", {}, "prompt");
    if (last >= sample.output.length) return make("td", {}, `after the end, at ${last}`);
    const where = sample.commit ? [` at ${last}`] : [];
    return make("td", {}, make("span", { class: "guess" }, visible(sample, sample.output[last])), ...where);
  });
  const { candidates: count, probability_scale: scale } = sample.run;
  const candidates = Array.from({ length: count }, (_, place) => row(`Candidate ${place + 1}`, (entry) => {
    const at = entry * count + place;
    const text = visible(sample, sample.candidates[at]);
    const probability = sample.probabilities[at] / scale;
    const committed = sample.candidates[at] === sample.output[state.position];
    return make("td", committed ? { class: "committed" } : {},
      make("span", { class: "guess", title: text, dir: "auto" }, text), ` ${format(probability, true)}`,
      bar(probability));
  }));
  const numbers = Object.entries(NUMBERS).map(([number, { unit }]) =>
    row(nameOf(number) + (unit && ` (${unit.trim()})`), (entry) =>
      make("td", {}, formatNumber(numberOf(sample, entry, number), number))));
  return make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...heads)),
    make("tbody", {}, timesteps, revealed, ...candidates, ...numbers));
}

function bar(probability) {
  const element = make("span", { class: "bar", "aria-hidden": "true" });
  element.style.setProperty("--share", `${100 * probability}%`);
  return element;
}

/** Probability of the committed token, and confidence, over the timesteps of the predictions. */
function chart(sample, entries) {
  const times = entries.map((entry) => timestepOf(sample, entry));
  const first = times[0], last = times.at(-1);
  const x = (time) => 40 + (last === first ? 130 : (260 * (time - first)) / (last - first));
  const y = (probability) => 110 - 100 * probability;
  const series = ["confidence", "final_token_probability"].flatMap((number) => {
    const values = entries.map((entry) => numberOf(sample, entry, number));
    const line = values.map((value, at) => `${at ? "L" : "M"}${x(times[at])} ${y(value)}`).join("");
    const points = values.map((value, at) => make("circle",
      { cx: x(times[at]), cy: y(value), r: 3.5, class: number }, make("title", {}, `${nameOf(number)} ${formatNumber(value, number)}`)));
    return [make("path", { d: line, class: number }), ...points];
  });
  const scale = [0, 0.5, 1].flatMap((value) => [
    make("line", { x1: 40, x2: 300, y1: y(value), y2: y(value) }),
    make("text", { x: 34, y: y(value) + 4, "text-anchor": "end" }, String(value))]);
  const ticks = times.map((time) => make("text", { x: x(time), y: 126, "text-anchor": "middle" }, String(time)));
  const name = "Probability of the committed token (solid) and confidence (dashed) by timestep";
  const axes = [
    make("text", { x: 170, y: 142, "text-anchor": "middle" }, "Timestep"),
    make("text", { x: -60, y: 10, "text-anchor": "middle", transform: "rotate(-90)" }, "Probability")];
  return make("svg", { class: "chart", viewBox: "0 0 310 144", role: "img", "aria-label": name }, ...scale, ...series,
    ...ticks, ...axes);
}

/** Keep what is shown in the address, so that it can be linked to. */
function remember() {
  if (timer !== null || state.missing) return;
  const { run: number, position, number: colour, horizon, timestep, beside } = state;
  const shown = { run: number, question: run.samples[state.sample].id, position, number: colour, horizon };
  if (timestep !== null) shown.timestep = timestep;
  if (beside) Object.assign(shown, { beside_run: beside.run.number, beside_question: beside.id });
  history.replaceState(null, "", `#${new URLSearchParams(shown)}`);
}

/** The sample of a run that a link asks for, by its question id or its number, or what to say where there is none. */
function askedSample(data, id, number) {
  const sample = id === null ? data.samples[Number(number)] : data.samples.find((each) => each.id === id);
  if (sample) return [sample, ""];
  const shown = data.samples.length, wanted = id === null ? `number ${number}` : `“${id}”`;
  const held = shown < data.num_samples ?
    `, which shows ${shown} of its ${data.num_samples} samples (explorer.samples in the experiment)` : "";
  return [null, `This page has no sample ${wanted} of run ${data.number}${held}.`];
}

/** What the address asks for. What it does not name is as the page opens; what there is not is said. */
function recall() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const known = runs.some((each) => each.number === asked.get("run"));
  state.missing = asked.has("run") && !known ? `This page has no run ${asked.get("run")}.` : "";
  if (COLOURS.includes(asked.get("number"))) state.number = asked.get("number");
  openRun(known ? asked.get("run") : runs.find((each) => each.opening).number);
  if (run.horizons.includes(Number(asked.get("horizon")))) state.horizon = Number(asked.get("horizon"));
  let sample = run.samples[run.opening];
  if (!state.missing && (asked.has("question") || asked.has("sample"))) {
    [sample, state.missing] = askedSample(run, asked.get("question"), asked.get("sample"));
  }
  state.beside = null;
  if (runs.some((each) => each.number === asked.get("beside_run"))) {
    const [beside, missing] = askedSample(dataOf(asked.get("beside_run")), asked.get("beside_question"), null);
    state.beside = beside;
    state.missing ||= missing;
  }
  state.sample = state.missing ? -1 : run.samples.indexOf(sample);
  $("horizon").value = state.horizon;
  $("number").value = state.number;
  if (state.missing) return;
  const within = (name, end) => Math.max(0, Math.min(Number.parseInt(asked.get(name) ?? 0, 10) || 0, end - 1));
  state.position = asked.has("position") ? within("position", sample.output.length) : mostTelling(sample);
  state.timestep = asked.has("timestep") ? within("timestep", timestepsShown()) : null;
}

function show() {
  showList();
  showText();
}

/** Which of `count` places a key leads to from `place`, or null. */
function keyTarget(key, place, count, back, forward) {
  const targets = { [back]: place - 1, [forward]: place + 1, Home: 0, End: count - 1 };
  return key in targets ? Math.max(0, Math.min(targets[key], count - 1)) : null;
}

function chooseSample(number) {
  stop();
  Object.assign(state, { sample: number, position: mostTelling(run.samples[number]), timestep: null, missing: "" });
  markSample();
  showText();
}

/** Keep the sample that is shown beside the next one, or close it. */
function keepBeside() {
  stop();
  state.beside = state.beside ? null : run.samples[state.sample];
  state.timestep = null;
  showText();
}

/** The next token in which the searched text is found, in this sample or in the next of the list. */
function nextMatch() {
  const place = listed.indexOf(state.sample);
  for (let step = 0; step <= listed.length; step += 1) {
    const number = listed[(place + step) % listed.length];
    const after = step === 0 ? state.position : -1;
    const position = [...found(run.samples[number])].sort((a, b) => a - b).find((each) => each > after);
    if (position === undefined) continue;
    if (step > 0) chooseSample(number);
    choosePosition(position, false);
    return;
  }
}

function listen() {
  $("run").addEventListener("change", ({ target }) => {
    stop();
    const before = run.samples[state.sample];
    openRun(target.value);
    // Beside another, the same prompt in another run is what is wanted.
    const same = state.beside && before ? run.samples.findIndex((sample) => sample.id === before.id) : -1;
    const sample = same < 0 ? run.opening : same;
    const position = same < 0 ? mostTelling(run.samples[sample]) : state.position;
    Object.assign(state, { sample, position, timestep: null, missing: "" });
    show();
  });
  $("keep").addEventListener("click", keepBeside);
  $("save-svg").addEventListener("click", () => save("svg"));
  $("save-png").addEventListener("click", () => save("png"));
  $("search").addEventListener("input", ({ target }) => {
    state.search = target.value;
    show();
  });
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !listed.length || state.missing) return;
    event.preventDefault();
    nextMatch();
  });
  for (const name of ["number", "horizon", "task", "score", "sort", "group"]) {
    $(name).addEventListener("change", ({ target }) => {
      state[name] = name === "horizon" ? Number(target.value) : target.value;
      if (name === "sort" && !state.missing) state.sample = -1; // the first of the new order
      show();
    });
  }
  $("list").addEventListener("click", ({ target }) => {
    const item = target.closest("[data-number]");
    if (item) chooseSample(Number(item.dataset.number));
  });
  $("list").addEventListener("keydown", (event) => {
    const to = keyTarget(event.key, listed.indexOf(state.sample), listed.length, "ArrowUp", "ArrowDown");
    if (to === null || !listed.length) return;
    event.preventDefault();
    chooseSample(listed[to]);
  });
  for (const name of ["tokens", "beside-tokens"]) {
    $(name).addEventListener("click", ({ target }) => {
      const button = target.closest("[data-position]");
      if (button) choosePosition(Number(button.dataset.position), name);
    });
    $(name).addEventListener("keydown", (event) => {
      const { length } = panes().find(({ tokens }) => tokens === name).sample.output;
      const to = keyTarget(event.key, Math.min(state.position, length - 1), length, "ArrowLeft", "ArrowRight");
      if (to === null) return;
      event.preventDefault();
      choosePosition(to, name);
    });
  }
  $("play").addEventListener("click", play);
  $("timestep").addEventListener("input", ({ target }) => { stop(); goTo(Number(target.value)); });
  $("player").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.target.id === "timestep" && event.key === " ") play();
    else if (event.target.id === "play" && steps) { stop(); stepBy(steps); }
    else return;
    event.preventDefault();
  });
  calm.addEventListener("change", stop);
  window.addEventListener("resize", showTimestep);
  window.addEventListener("hashchange", () => { stop(); recall(); show(); });
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
}

/** A colour as any program reads it: what a page can say in many ways, as three numbers and an opacity. */
function plainColour(colour) {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue, opacity] = context.getImageData(0, 0, 1, 1).data;
  return opacity ? { colour: `rgb(${red},${green},${blue})`, opacity: opacity / 255 } : null;
}

/** The parts of a text node line by line: the text, and where it stands. */
function linesOf(node) {
  const range = document.createRange(), lines = [];
  let at = 0;
  for (const character of node.data) {
    range.setStart(node, at);
    range.setEnd(node, (at += character.length));
    const box = range.getClientRects()[0];
    if (!box || !box.width) continue;
    const last = lines.at(-1);
    if (last && Math.abs(last.top - box.top) < 2) {
      last.text += character;
      last.right = Math.max(last.right, box.right);
    } else lines.push({ text: character, left: box.left, right: box.right, top: box.top, bottom: box.bottom });
  }
  return lines;
}

/** What an element shows of itself: its background and its edges, as SVG. */
function boxOf(element, style) {
  const { left, top, width, height } = element.getBoundingClientRect();
  const fill = plainColour(style.backgroundColor), parts = [];
  const line = ["Top", "Right", "Bottom", "Left"].every((side) => parseFloat(style[`border${side}Width`]) > 0);
  const edge = line ? plainColour(style.borderTopColor) : null;
  if (fill || edge) {
    parts.push(make("rect", { x: left, y: top, width, height, rx: parseFloat(style.borderTopLeftRadius) || 0,
      fill: fill ? fill.colour : "none", "fill-opacity": fill ? fill.opacity : 1,
      ...(edge ? { stroke: edge.colour } : {}),
      ...(edge && style.borderTopStyle !== "solid" ? { "stroke-dasharray": "3 2" } : {}) }));
  }
  const below = !line && parseFloat(style.borderBottomWidth) > 0 ? plainColour(style.borderBottomColor) : null;
  if (below) {
    const y = top + height;
    parts.push(make("line", { x1: left, x2: left + width, y1: y, y2: y, stroke: below.colour }));
  }
  const ring = style.outlineStyle === "solid" ? plainColour(style.outlineColor) : null;
  if (ring) parts.push(make("rect", { x: left, y: top, width, height, rx: 4, fill: "none", stroke: ring.colour, "stroke-width": 3 }));
  return parts;
}

/** The bar of a probability and the scale of colours, which a page paints as gradients. */
function gradientOf(element) {
  const { left, top, width, height } = element.getBoundingClientRect(), style = getComputedStyle(document.body);
  const rect = (x, share, fill) => make("rect", { x, y: top, width: share, height, fill });
  if (element.classList.contains("bar")) {
    const share = (parseFloat(element.style.getPropertyValue("--share")) / 100) * width;
    const [full, rest] = ["--accent", "--rule"].map((name) => plainColour(style.getPropertyValue(name)).colour);
    return [rect(left, width, rest), rect(left, share, full)];
  }
  const steps = 24;
  return Array.from({ length: steps }, (_, step) => {
    const mixed = `color-mix(in oklab, ${style.getPropertyValue("--high")} ${(100 * step) / (steps - 1)}%, ` +
      `${style.getPropertyValue("--paper")})`;
    return rect(left + (step * width) / steps, width / steps + 0.5, plainColour(resolved(mixed)).colour);
  });
}

/** A colour that the canvas may not know, as the page computes it. */
function resolved(colour) {
  const probe = make("span");
  probe.style.color = colour;
  document.body.append(probe);
  const computed = getComputedStyle(probe).color;
  probe.remove();
  return computed;
}

/** A chart of the page with its styles written out, where it stands. */
function chartCopy(svg) {
  const { left, top, width, height } = svg.getBoundingClientRect();
  const copy = svg.cloneNode(true);
  const originals = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, number) => {
    const style = getComputedStyle(originals[number]);
    const [fill, stroke] = [style.fill, style.stroke].map((paint) => (paint === "none" ? null : plainColour(paint)));
    element.setAttribute("fill", fill ? fill.colour : "none");
    element.setAttribute("stroke", stroke ? stroke.colour : "none");
    for (const name of ["stroke-width", "stroke-dasharray", "font-size", "font-family"]) element.setAttribute(name, style.getPropertyValue(name));
    element.removeAttribute("class");
  });
  for (const [name, value] of Object.entries({ x: left, y: top, width, height })) copy.setAttribute(name, value);
  return copy;
}

/** An element and all in it, as it is shown, as SVG. */
function drawn(element) {
  const style = getComputedStyle(element);
  if (element.hidden || style.display === "none" || element.matches(".player button, .player input")) return [];
  if (element.tagName === "svg") return [chartCopy(element)];
  if (element.matches(".bar, .ramp")) return gradientOf(element);
  const ink = plainColour(style.color), parts = boxOf(element, style);
  const underlined = style.textDecorationLine.includes("underline");
  for (const node of element.childNodes) {
    if (node.nodeType === Node.ELEMENT_NODE) parts.push(...drawn(node));
    if (node.nodeType !== Node.TEXT_NODE) continue;
    for (const { text, left, right, top, bottom } of linesOf(node)) {
      const size = parseFloat(style.fontSize), y = (top + bottom) / 2 + 0.35 * size;
      parts.push(make("text", { x: left, y, "font-size": size, "font-family": style.fontFamily.replaceAll('"', "'"),
        "font-weight": style.fontWeight, "font-style": style.fontStyle, fill: ink.colour, "xml:space": "preserve",
        textLength: right - left, lengthAdjust: "spacingAndGlyphs" }, text));
      if (underlined) parts.push(make("line", { x1: left, x2: right, y1: y + 3, y2: y + 3, stroke: ink.colour, "stroke-width": 2 }));
    }
  }
  return parts;
}

/** The texts, the key and the predictions that are shown, whole, as one SVG. */
function viewAsSvg() {
  const main = document.querySelector("main");
  main.classList.add("saving");
  const sections = [...document.querySelectorAll("section.text, section.detail")];
  const parts = sections.flatMap(drawn);
  const boxes = sections.flatMap((section) => [section, ...section.querySelectorAll("table, .pane, figure")])
    .filter((element) => element.getClientRects().length).map((element) => element.getBoundingClientRect());
  main.classList.remove("saving");
  const edge = 12;
  const left = Math.min(...boxes.map((box) => box.left)) - edge, top = Math.min(...boxes.map((box) => box.top)) - edge;
  const width = Math.ceil(Math.max(...boxes.map((box) => box.right)) + edge - left);
  const height = Math.ceil(Math.max(...boxes.map((box) => box.bottom)) + edge - top);
  const paper = plainColour(getComputedStyle(document.body).backgroundColor).colour;
  const svg = make("svg", { viewBox: `${left} ${top} ${width} ${height}`, width, height },
    make("title", {}, `${document.title}, ${location.hash.slice(1)}`),
    make("rect", { x: left, y: top, width, height, fill: paper }), ...parts);
  return { text: new XMLSerializer().serializeToString(svg), width, height };
}

/** Download what is shown as an image. */
async function save(kind) {
  if (state.missing) return;
  const { text, width, height } = viewAsSvg();
  let content = new Blob([text], { type: "image/svg+xml" });
  if (kind === "png") {
    const image = new Image(), canvas = make("canvas", { width: 2 * width, height: 2 * height });
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    content = await new Promise((done) => canvas.toBlob(done, "image/png"));
  }
  const name = `${state.run}-${run.samples[state.sample].id}-${state.position}`.replace(/[^\w.-]+/g, "_");
  const link = make("a", { href: URL.createObjectURL(content), download: `${name}.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

recall();
listen();
namePlay();
show();
