"use strict";

// Nothing leaves this page but the file that its Save button makes.
const study = JSON.parse(document.getElementById("data").textContent);
const NONE = "none";
const single = study.samples.every((sample) => sample.clips.length === 1);
const QUESTIONS = {
  appearance: {
    ask: single ? "Is the appearance consistent?" : "Which have the best appearance consistency? Tick one or more.",
    hints: [
      "Objects look as they do in the input image.",
      "They keep their looks from frame to frame: nothing changes, appears or vanishes all at once.",
    ],
  },
  motion: {
    ask: single ? "Is the motion consistent?" : "Which have the best motion consistency? Tick one or more.",
    hints: ["The motion follows the prompt.", "It looks natural.", "It is smooth and goes on without breaks."],
  },
};
const $ = (name) => document.getElementById(name);

// What is kept in the browser, where it lets us: the last code, and each code's answers.
const memory = {
  key: (name) => `rating:${study.study}:${name}`,
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(this.key(name)));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(this.key(name), JSON.stringify(value));
    } catch {
      $("forgetful").hidden = false;
    }
  },
};

// Chance that is the same for the same words: FNV-1a makes a seed of them, a Weyl sequence is mixed (splitmix32).
function chance(words) {
  let state = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(words)) state = Math.imul(state ^ byte, 0x01000193);
  return (below) => {
    state = (state + 0x9e3779b9) | 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return Math.floor((((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32) * below);
  };
}

function shuffled(list, words) {
  const [drawn, result] = [chance(words), [...list]];
  for (let last = result.length - 1; last > 0; last--) {
    const other = drawn(last + 1);
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

let rater, order, answers, at;

function enter(code) {
  rater = code;
  order = shuffled(study.samples, `${study.study} ${code}`).map((sample) => ({
    ...sample,
    clips: shuffled(sample.clips, `${study.study} ${code} ${sample.name}`),
  }));
  const kept = memory.get(`answers:${code}`);
  answers = kept?.answers ?? {};
  at = Math.min(kept?.at ?? 0, order.length - 1);
  memory.set("code", code);
  show();
}

function keep() {
  memory.set(`answers:${rater}`, { at, answers });
}

const ticks = (sample, question) => answers[sample.name]?.[question] ?? [];
const isDone = (sample) => study.questions.every((question) => ticks(sample, question).length > 0);

function open(name) {
  for (const screen of ["start", "rate", "end"]) $(screen).hidden = screen !== name;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// All videos of a sample begin together, and begin again together when the last of them has ended.
let playing = true;
const videos = () => [...document.querySelectorAll("video")];
const alive = () => videos().filter((video) => !video.error);

function restart() {
  for (const video of alive()) video.currentTime = 0;
  if (playing) for (const video of alive()) video.play().catch(() => {});
}

function ended() {
  if (alive().every((video) => video.ended)) restart();
}

function pause(still) {
  playing = !still;
  $("play").textContent = playing ? "Pause" : "Play";
  if (playing && alive().every((video) => video.ended)) return restart();
  for (const video of alive()) playing ? video.play().catch(() => {}) : video.pause();
}

function film(clip, number, count) {
  const attributes = { src: `${clip}.mp4`, width: study.width, height: study.height, preload: "auto", playsinline: "" };
  const video = element("video", { ...attributes, "aria-label": count === 1 ? "Video" : `Video ${number}` });
  video.muted = true;
  const figure = element("figure", {}, element("figcaption", {}, count === 1 ? "Video" : `Video ${number}`), video);
  video.addEventListener("ended", ended);
  video.addEventListener("click", () => pause(playing));
  video.addEventListener("error", () => figure.append(element("p", { class: "broken" }, "This video does not play here.")));
  return figure;
}

function showVideos(sample) {
  const films = sample.clips.map((clip, number) => film(clip, number + 1, sample.clips.length));
  if (sample.picture) {
    const size = { width: study.width, height: study.height };
    const picture = element("img", { src: sample.picture, ...size, alt: "Input image" });
    films.unshift(element("figure", {}, element("figcaption", { class: "input" }, "Input image"), picture));
  }
  const rows = Math.ceil(films.length / 6);
  $("videos").style.setProperty("--columns", Math.max(2, Math.ceil(films.length / rows)));
  $("videos").replaceChildren(...films);
  const waiting = videos().map(
    (video) => new Promise((resolve) => ["canplaythrough", "error"].forEach((kind) => video.addEventListener(kind, resolve))),
  );
  const first = videos()[0];
  Promise.all(waiting).then(() => first?.isConnected && restart());
}

function tick(sample, question, value, isTicked) {
  const others = ticks(sample, question).filter((entry) => entry !== value);
  const one = single || value === NONE; // which excludes the others
  const chosen = isTicked ? [...(one ? [] : others.filter((entry) => entry !== NONE)), value] : others;
  answers[sample.name] = { ...answers[sample.name], [question]: chosen };
  keep();
  for (const box of document.querySelectorAll(`input[name="${question}"]`)) box.checked = chosen.includes(box.value);
  showProgress();
}

function choices(sample, question) {
  const options = single
    ? [[sample.clips[0], "Yes"], [NONE, "No"]]
    : [...sample.clips.map((clip, number) => [clip, `Video ${number + 1}`]), [NONE, "None of the above"]];
  return options.map(([value, label]) => {
    const box = element("input", { type: "checkbox", name: question, value });
    box.checked = ticks(sample, question).includes(value);
    box.addEventListener("change", () => tick(sample, question, value, box.checked));
    return element("label", {}, box, label);
  });
}

function fieldset(sample, question) {
  const { ask, hints } = QUESTIONS[question];
  const list = element("ul", {}, ...hints.map((hint) => element("li", {}, hint)));
  const boxes = element("div", { class: "choices" }, ...choices(sample, question));
  return element("fieldset", {}, element("legend", {}, ask), list, boxes);
}

function showProgress() {
  const done = order.filter(isDone).length;
  $("progress").max = order.length;
  $("progress").value = done;
  $("answered").textContent = `${done} answered`;
}

function show() {
  const sample = order[at];
  open("rate");
  playing = true;
  $("play").textContent = "Pause";
  $("index").textContent = `Index ${at + 1} / ${order.length}`;
  $("prompt").hidden = !sample.prompt;
  $("prompt").replaceChildren(element("b", {}, "Prompt"), sample.prompt);
  showVideos(sample);
  $("questions").replaceChildren(...study.questions.map((question) => fieldset(sample, question)));
  $("previous").disabled = at === 0;
  $("next").textContent = at === order.length - 1 ? "Finish" : "Next";
  showProgress();
  keep();
  scrollTo(0, 0);
  $("index").focus({ preventScroll: true });
}

function go(to) {
  if (to < 0) return;
  if (to >= order.length) return showEnd();
  at = to;
  show();
}

function showEnd() {
  const left = order.filter((sample) => !isDone(sample)).length;
  pause(true);
  open("end");
  $("end-text").textContent = left ? `${left} of ${order.length} are still open.` : `All ${order.length} are answered. Thank you.`;
  $("open-next").hidden = !left;
  $("end-title").focus();
}

function save() {
  const { schema, kind } = study;
  const known = order.map((sample) => sample.name).sort();
  const given = (name) => Object.entries(answers[name] ?? {}).filter(([, ticked]) => ticked.length);
  const told = known.map((name) => [name, Object.fromEntries(given(name))]).filter(([, one]) => Object.keys(one).length);
  const saved = { schema, kind, study: study.study, rater, answers: Object.fromEntries(told) };
  const url = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 1)], { type: "application/json" }));
  const link = element("a", { href: url, download: `ratings-${rater}.json` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  $("said").textContent = `Saved as ratings-${rater}.json.`;
}

function press(question, number) {
  const boxes = document.querySelectorAll(`input[name="${question}"]`);
  (number === 0 ? boxes[boxes.length - 1] : [...boxes].slice(0, -1)[number - 1])?.click();
}

document.addEventListener("keydown", (event) => {
  if ($("rate").hidden || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code); // the key's place: with Shift it types something else
  if (digit) press(study.questions[event.shiftKey ? 1 : 0], Number(digit[1]));
  else if (event.key === "ArrowLeft") go(at - 1);
  else if (event.key === "ArrowRight") go(at + 1);
  else if (event.key === " " && !event.target.closest("button, input, summary")) pause(playing);
  else return;
  event.preventDefault();
});

const each = single ? "yes" : "videos 1 to 9";
const none = single ? "no" : "none of the above";
const KEYS = [
  [single ? "1, 0" : "1 to 9, 0", `Appearance: ${each}, ${none}`],
  [single ? "Shift 1, 0" : "Shift 1 to 9, 0", `Motion: ${each}, ${none}`],
  ["\u2190 \u2192", "Previous, next"],
  ["Space", "Pause and play"],
];
$("key-list").append(...KEYS.flatMap(([key, does]) => [element("dt", {}, key), element("dd", {}, does)]));
$("previous").addEventListener("click", () => go(at - 1));
$("next").addEventListener("click", () => go(at + 1));
$("play").addEventListener("click", () => pause(playing));
$("back").addEventListener("click", show);
$("open-next").addEventListener("click", () => go(order.findIndex((sample) => !isDone(sample))));
$("leave").addEventListener("click", () => {
  memory.set("code", null);
  $("code").value = "";
  open("start");
  $("code").focus();
});
for (const button of document.querySelectorAll(".save")) button.addEventListener("click", save);
$("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  enter($("code").value.trim());
});
$("task").textContent = single
  ? `There are ${study.samples.length} videos, each made from an image and a prompt. Of each, two questions.`
  : `There are ${study.samples.length} sets of videos, each made from one image and one prompt. Of each set, two questions.`;
const last = memory.get("code");
if (last) enter(last);
else open("start");
