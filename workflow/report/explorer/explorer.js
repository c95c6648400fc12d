"use strict";

// The numbers that can colour a token: what they are called, and what stands at the dark end of the scale.
const NUMBERS = {
  kl: { name: "KL divergence", unit: " nats" },
  js: { name: "JS divergence", unit: " nats", highest: Math.LN2 },
  top1_agreement: { name: "Top-1 agreement", unit: "", highest: 1 },
  top5_agreement: { name: "Top-5 agreement", unit: "", highest: 1 },
  confidence: { name: "Confidence", unit: "", highest: 1 },
  entropy: { name: "Entropy", unit: " nats" },
  final_token_probability: { name: "P(committed token)", unit: "", highest: 1 },
  surprisal: { name: "Surprisal of the committed token", unit: " nats" },
  final_token_rank: { name: "Rank of the committed token", unit: "" },
};
const COLOURS = Object.keys(NUMBERS).filter((number) => number !== "final_token_rank");

const $ = (id) => document.getElementById(id);
const readJson = (id) => JSON.parse($(id).textContent);
const runs = readJson("runs");
const state = { run: null, sample: 0, position: 0, number: "kl", horizon: null, task: "", score: "all", sort: "order",
  timestep: null }; // the one that is played, whose forward pass is shown before it commits; null is the whole text
let run = null; // the data of the chosen run
let most = 1; // what stands at the dark end of the scale of colours
let timer = null; // of the sample that plays
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const MASK = "▢"; // hatched, so that it is taken for no token
let listed = []; // the numbers of the samples in the list, in its order

/** An element; text goes in as text, whatever it looks like. */
function make(tag, attributes = {}, ...children) {
  const space = ["svg", "path", "circle", "line", "text", "title"].includes(tag);
  const element = space ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A token as text that can be seen and is no other token's. */
function visible(token) {
  return run.shown[token] ?? run.tokens[token];
}

/** What a number is called; where only a part of the logits was kept, some are bounds. */
function nameOf(number) {
  return NUMBERS[number].name + (run.bounded.includes(number) ? ", lower bound" : "");
}

function format(value) {
  if (value === undefined || Number.isNaN(value)) return "–";
  if (value === Infinity) return "∞";
  if (Number.isInteger(value)) return String(value);
  return value < 0.0001 ? "< 0.0001" : value.toPrecision(value < 1 ? 2 : 3);
}

/** A number of one entry. An infinite one is null in the data, which JSON can't say otherwise. */
function numberOf(sample, entry, number) {
  if (number === "confidence") return sample.probabilities[entry * run.candidates] / run.probability_scale;
  if (number === "final_token_probability") return sample[number][entry] / run.probability_scale;
  return sample[number][entry] ?? Infinity;
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

/** All values of the chosen number at the chosen horizon in a sample. */
function valuesOf(sample) {
  return sample.horizon.flatMap((horizon, entry) =>
    horizon === state.horizon ? [numberOf(sample, entry, state.number)] : []);
}

function meanOf(sample) {
  const values = valuesOf(sample);
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The dark end of the scale: of numbers without a bound, the 95th percentile of the run at this horizon. */
function highest() {
  if (NUMBERS[state.number].highest) return NUMBERS[state.number].highest;
  const values = run.samples.flatMap(valuesOf).filter(Number.isFinite).sort((a, b) => a - b);
  return values[Math.floor(0.95 * (values.length - 1))] || 1;
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  select.value = chosen;
}

function openRun(number) {
  run = readJson(`run-${number}`);
  state.run = number;
  if (!run.horizons.includes(state.horizon)) state.horizon = run.horizons[1] ?? run.horizons[0];
  const before = state.task === "" ? null : $("task").selectedOptions[0].text; // another run numbers its tasks anew
  state.task = before !== null && run.tasks.includes(before) ? String(run.tasks.indexOf(before)) : "";
  fill($("run"), runs.map(({ number, label }) => [number, `${number}: ${label}`]), number);
  fill($("horizon"), run.horizons.map((horizon) => [horizon, horizon]), state.horizon);
  fill($("number"), COLOURS.map((number) => [number, nameOf(number)]), state.number);
  fill($("task"), [["", "all"], ...run.tasks.map((name, task) => [String(task), name])], state.task);
  $("about").textContent = JSON.stringify(run.about, null, 2);
}

function showList() {
  const kept = (sample) =>
    (state.task === "" || sample.task === Number(state.task)) &&
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
      make("span", { class: "mean" }, format(means[number])));
  }));
  if (!listed.length) $("list").append(make("li", { class: "empty" }, "No sample is like this."));
  if (listed.length && !listed.includes(state.sample)) {
    stop();
    Object.assign(state, { sample: listed[0], position: 0, timestep: null });
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

function showText() {
  const sample = run.samples[state.sample];
  const verdict = sample.score === null ? "" : sample.score >= 1 ? " (right)" : ` (wrong; label: ${sample.label})`;
  $("text-title").textContent = sample.name + verdict;
  const parts = sample.prompt.map(([role, content]) =>
    make("div", { dir: "auto" }, ...(role ? [make("b", {}, role)] : []), content));
  $("prompt").replaceChildren(...parts);
  most = highest();
  const elements = sample.output.flatMap((token, position) => {
    const button = make("button", { type: "button", class: "token", "data-position": position, dir: "auto" });
    return /[\r\n]/.test(run.tokens[token]) ? [button, make("span", { class: "break" })] : [button];
  });
  $("tokens").replaceChildren(...elements);
  $("timestep").max = timestepsOf(sample);
  if (state.timestep !== null) state.timestep = Math.min(state.timestep, timestepsOf(sample) - 1);
  showTimestep();
  $("low").textContent = "0";
  $("high").textContent = (NUMBERS[state.number].highest ? "" : "≥ ") + format(most) + NUMBERS[state.number].unit;
  const unit = sample.commit ? " (timesteps up to the commit)" : "";
  $("meaning").textContent = `${nameOf(state.number)} at horizon ${state.horizon}${unit}; underlined: its most ` +
    "probable token is not the final prediction's; dashed: no prediction";
  $("beyond").textContent = sample.beyond ? `${sample.beyond} positions after the end of the text are left out.` : "";
  choosePosition(Math.min(state.position, sample.output.length - 1), false);
}

/** A token as it was committed, coloured by the chosen number at the chosen horizon. */
function showCommitted(button, sample, position) {
  button.textContent = visible(sample.output[position]);
  button.className = "token";
  button.style.setProperty("--share", "");
  const entry = entriesAt(sample, position).find((each) => sample.horizon[each] === state.horizon);
  if (entry === undefined) {
    button.classList.add("none");
    button.title = `no prediction at horizon ${state.horizon}`;
    return;
  }
  const value = numberOf(sample, entry, state.number);
  button.style.setProperty("--share", `${100 * Math.min(1, value / most)}%`);
  button.title = `${nameOf(state.number)} ${format(value)}${NUMBERS[state.number].unit}`;
  if (!sample.top1_agreement[entry]) button.classList.add("differs");
}

/** A position that is still masked: what is predicted for it, where that was recorded. */
function showMasked(button, sample, position) {
  const entry = entriesAt(sample, position).find((each) => timestepOf(sample, each) === state.timestep);
  button.style.setProperty("--share", "");
  button.className = entry === undefined ? "token masked" : "token guessed";
  const guess = entry === undefined ? null : sample.candidates[entry * run.candidates];
  button.textContent = guess === null ? MASK : visible(guess);
  button.title = guess === null ? "masked; no prediction was recorded" :
    `masked; predicted at horizon ${sample.horizon[entry]}: ${visible(guess)} ${format(numberOf(sample, entry, "confidence"))}`;
  if (guess !== null && guess !== sample.output[position]) button.classList.add("differs");
}

/** The text as it is at the chosen timestep: before its commits, with what its forward pass predicts. */
function showTimestep() {
  const sample = run.samples[state.sample], buttons = [...$("tokens").querySelectorAll("button")];
  const count = timestepsOf(sample), timestep = state.timestep ?? count;
  buttons.forEach((button, position) => {
    Object.assign(button.style, { width: "", height: "" });
    showCommitted(button, sample, position);
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
  const moment = `${timestep} of ${count} timesteps, ${within} of ${buttons.length} tokens` +
    (beyond ? `, ${beyond} after the end` : "");
  $("timestep").value = timestep;
  $("timestep").setAttribute("aria-valuetext", moment);
  $("moment").textContent = moment;
  $("playing").hidden = state.timestep === null;
  markPosition();
}

/** Step to a timestep; after the last the whole text is shown. */
function goTo(timestep) {
  const count = timestepsOf(run.samples[state.sample]);
  state.timestep = timestep >= count ? null : Math.max(0, timestep);
  showTimestep();
  remember();
}

function stepBy(steps) {
  goTo((state.timestep ?? timestepsOf(run.samples[state.sample])) + steps);
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
  const pause = Math.max(150, Math.min(700, 8000 / timestepsOf(run.samples[state.sample])));
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

function choosePosition(position, focus = true) {
  state.position = position;
  markPosition(focus);
  showDetail();
  remember();
}

function markPosition(focus = false) {
  for (const button of $("tokens").querySelectorAll("button")) {
    const chosen = Number(button.dataset.position) === state.position;
    button.setAttribute("aria-pressed", chosen);
    button.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) button.focus();
  }
}

function showDetail() {
  const sample = run.samples[state.sample];
  const token = sample.output[state.position];
  const entries = entriesAt(sample, state.position);
  $("detail-title").textContent = `Position ${state.position}: “${visible(token)}”`;
  $("detail").replaceChildren(
    make("figure", {}, chart(sample, entries), make("figcaption", { class: "quiet" },
      "How the prediction came about. Solid: the committed token; dashed: the most probable one (confidence).")),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predictions by horizon" },
      tableOf(sample, entries)));
}

/** One column for each prediction of the position, in the order of time. */
function tableOf(sample, entries) {
  const heads = entries.map((entry) => make("th", { scope: "col" }, `Horizon ${sample.horizon[entry]}`));
  const row = (name, cell) => make("tr", {}, make("th", { scope: "row" }, name), ...entries.map(cell));
  const timesteps = row("Timestep", (entry) => make("td", {}, String(timestepOf(sample, entry))));
  const revealed = row("Last revealed", (entry) => {
    const last = lastRevealed(sample, timestepOf(sample, entry));
    if (last < 0) return make("td", {}, "prompt");
    if (last >= sample.output.length) return make("td", {}, `after the end, at ${last}`);
    const where = sample.commit ? [` at ${last}`] : [];
    return make("td", {}, make("span", { class: "guess" }, visible(sample.output[last])), ...where);
  });
  const candidates = Array.from({ length: run.candidates }, (_, place) => row(`Candidate ${place + 1}`, (entry) => {
    const at = entry * run.candidates + place;
    const text = visible(sample.candidates[at]);
    const probability = sample.probabilities[at] / run.probability_scale;
    const committed = sample.candidates[at] === sample.output[state.position];
    return make("td", committed ? { class: "committed" } : {},
      make("span", { class: "guess", title: text, dir: "auto" }, text), ` ${format(probability)}`,
      bar(probability));
  }));
  const numbers = Object.entries(NUMBERS).map(([number, { unit }]) =>
    row(nameOf(number) + (unit && ` (${unit.trim()})`), (entry) => make("td", {}, format(numberOf(sample, entry, number)))));
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
      { cx: x(times[at]), cy: y(value), r: 3.5, class: number }, make("title", {}, `${nameOf(number)} ${format(value)}`)));
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
  const { run: number, sample, position, number: colour, horizon, timestep } = state;
  const shown = { run: number, sample, position, number: colour, horizon, ...(timestep === null ? {} : { timestep }) };
  if (timer === null) history.replaceState(null, "", `#${new URLSearchParams(shown)}`);
}

/** What the address asks for, as far as there is such a thing. */
function recall() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = runs.some((each) => each.number === asked.get("run")) ? asked.get("run") :
    runs.find((each) => each.opening).number;
  if (COLOURS.includes(asked.get("number"))) state.number = asked.get("number");
  openRun(number);
  const within = (name, end) => Math.max(0, Math.min(Number.parseInt(asked.get(name) ?? 0, 10) || 0, end - 1));
  state.sample = asked.has("sample") ? within("sample", run.samples.length) : run.opening;
  state.position = within("position", run.samples[state.sample].output.length);
  state.timestep = asked.has("timestep") ? within("timestep", timestepsOf(run.samples[state.sample])) : null;
  if (run.horizons.includes(Number(asked.get("horizon")))) state.horizon = Number(asked.get("horizon"));
  $("horizon").value = state.horizon;
  $("number").value = state.number;
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
  Object.assign(state, { sample: number, position: 0, timestep: null });
  markSample();
  showText();
}

function listen() {
  $("run").addEventListener("change", ({ target }) => {
    stop();
    openRun(target.value);
    Object.assign(state, { sample: run.opening, position: 0, timestep: null });
    show();
  });
  for (const name of ["number", "horizon", "task", "score", "sort"]) {
    $(name).addEventListener("change", ({ target }) => {
      state[name] = name === "horizon" ? Number(target.value) : target.value;
      if (name === "sort") state.sample = -1; // the first of the new order
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
  $("tokens").addEventListener("click", ({ target }) => {
    const button = target.closest("[data-position]");
    if (button) choosePosition(Number(button.dataset.position));
  });
  $("tokens").addEventListener("keydown", (event) => {
    const count = run.samples[state.sample].output.length;
    const to = keyTarget(event.key, state.position, count, "ArrowLeft", "ArrowRight");
    if (to === null) return;
    event.preventDefault();
    choosePosition(to);
  });
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

recall();
listen();
namePlay();
show();
