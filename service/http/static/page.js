// The page: a picture in, an answer out, and the steps between. It wires the map to the panel.

import {BeamMap, percent} from "./map.js";
import {complain, markStep, placeName, say, showAnswer, showPreview, showSamples} from "./panel.js";

const $ = id => document.getElementById(id);
const STEP_MS = 1500;
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const wide = window.matchMedia("(min-width: 820px)");

const map = new BeamMap($("map"), headers);
let asking = null;  // AbortController of the request in flight
let answer = null, truth = null, step = 0, timer = null;
let indexed = null;  // the index that the map and the samples are of

function headers() {
  const key = $("key").value.trim();
  return key ? {Authorization: `Bearer ${key}`} : {};
}

// ---- asking

async function ask(blob, name, where = null) {
  asking?.abort();
  const mine = asking = new AbortController();
  stop();
  complain(null);
  const form = new FormData();
  form.append("image", blob, name);
  const params = new URLSearchParams({k: $("k").value, alternatives: 3, trace: true});
  const view = $("inview").checked ? map.view() : null;
  if (view) params.set("bbox", view);
  showPreview(blob);
  say("Looking…");
  document.body.classList.add("busy");
  try {
    const response = await fetch(`/locate?${params}`, {method: "POST", body: form, headers: headers(), signal: mine.signal});
    const found = await response.json();
    if (response.ok) show(found, where);
    else refuse(found);
  } catch (error) {
    if (mine.signal.aborted) return;
    refuse({detail: `The service did not answer (${error.message}). Is it still running?`});
  } finally {
    if (asking === mine) document.body.classList.remove("busy");
  }
}

function refuse(problem) {
  if (problem.status === 401) {
    $("options").open = true;
    $("keyrow").hidden = false;
    $("key").focus();
  }
  answer = null;
  $("answer").hidden = true;
  $("legend").hidden = true;
  map.clear();
  say("");
  complain(problem.detail ?? "The service refused this picture.");
}

function show(found, where) {
  if (indexed !== found.index.id) begin();  // another one may have been loaded since the page was
  indexed = found.index.id;
  answer = found;
  truth = where;
  $("legend").hidden = false;
  showAnswer(answer, truth, chosen => { stop(); go(chosen); }, other => { stop(); map.goTo(other, answer.lon); });
  if (!wide.matches) $("map").scrollIntoView({behavior: still.matches ? "auto" : "smooth"});
  if (still.matches) go(answer.trace.length);
  else play();
}

// ---- the steps: one for each zoom, and the answer

function go(to) {
  if (!answer) return;
  const count = answer.trace.length;
  step = Math.max(0, Math.min(count, to));
  const moving = !still.matches && !document.hidden, path = answer.levels.map(level => level.tile);
  room();
  if (step === count) {
    map.answer(answer, path, truth, moving);
    say(`${placeName(answer)}, ${percent(answer.confidence)} for its tile of zoom ${answer.zoom}.`);
  } else {
    const {zoom, kept} = answer.trace[step], own = answer.levels[step];
    map.level(zoom, kept, own?.tile, path.slice(0, step), answer.lon, moving);
    const onTheWay = own ? `${percent(own.confidence)} on the way to the answer` : "deeper than the answer goes";
    say(`Zoom ${zoom}: ${kept.length} tiles kept, ${onTheWay}.`);
  }
  markStep(step, count, timer !== null);
}

function play() {
  stop();
  step = -1;
  const tick = () => {
    timer = step + 1 < answer.trace.length ? setTimeout(tick, STEP_MS) : null;
    go(step + 1);
  };
  tick();
}

function stop() {
  clearTimeout(timer);
  timer = null;
  if (answer) markStep(step, answer.trace.length, false);
}

// The panel covers the map's left where there is room for both, and lies beneath it where there is not.
function room() {
  map.padding(wide.matches ? $("panel").getBoundingClientRect().right : 0, 0);
}

$("back").onclick = () => { stop(); go(step - 1); };
$("on").onclick = () => { stop(); go(step + 1); };
$("play").onclick = () => (timer === null ? play() : stop());

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, summary")) return;
  const onMap = event.target.closest("#map"), onButton = event.target.closest("button, a");
  const keys = {
    ArrowLeft: !onMap && (() => { stop(); go(step - 1); }),
    ArrowRight: !onMap && (() => { stop(); go(step + 1); }),
    Home: () => { stop(); go(0); },
    End: () => { stop(); go(Infinity); },
    " ": !onButton && (() => (timer === null ? play() : stop())),
    o: () => $("file").click(),
  };
  const act = keys[event.key];
  if (!act || (!answer && event.key !== "o")) return;
  event.preventDefault();
  act();
});

// ---- pictures in: chosen, dropped, pasted, or a sample

$("ask").addEventListener("submit", event => event.preventDefault());
$("file").addEventListener("change", event => {
  const [file] = event.target.files;
  if (file) ask(file, file.name);
  event.target.value = "";
});

function take(transfer) {
  const file = [...transfer.files].find(f => f.type.startsWith("image/")) ?? transfer.files[0];
  if (file) ask(file, file.name);
  else complain("That was no file. Drop a picture from your computer.");
}

let inside = 0;
const over = on => { $("over").hidden = !on; };
window.addEventListener("dragenter", event => { event.preventDefault(); inside++; over(true); });
window.addEventListener("dragleave", () => { if (--inside <= 0) { inside = 0; over(false); } });
window.addEventListener("dragover", event => event.preventDefault());
window.addEventListener("drop", event => { event.preventDefault(); inside = 0; over(false); take(event.dataTransfer); });
window.addEventListener("paste", event => { if (event.clipboardData.files.length) take(event.clipboardData); });

async function sample({file, lat, lon}) {
  const response = await fetch(`/static/samples/${file}`);
  if (response.ok) await ask(await response.blob(), file, {lat, lon});
  else complain(`The sample ${file} is not there.`);
}

// ---- light and dark

function dress(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark";
  const theme = dark ? "light" : "dark";
  localStorage.setItem("theme", theme);
  dress(theme);
};
dress(localStorage.getItem("theme"));

// ---- the beginning

async function begin() {
  room();
  const [about, samples] = await Promise.all(["/tiles", "/static/samples/samples.json"].map(
    path => fetch(path, {headers: headers()}).then(r => (r.ok ? r.json() : null)).catch(() => null)));
  map.imagery(about);
  showSamples(samples ?? [], sample);
  document.body.dataset.ready = "yes";
}
$("key").addEventListener("change", begin);
begin();
