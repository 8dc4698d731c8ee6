// The page: sends a picture, shows the answer and the steps of the beam. Connects the map and the panel.

import {BeamMap, percent} from "./map.js";
import {
  markStep, placeName, showAnswer, showFit, showKnown, showOpacity, showPreview, showProblem, showSamples, showStatus,
} from "./panel.js";

const $ = id => document.getElementById(id);
const STEP_MS = 1500;
const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)");
const wideScreen = window.matchMedia("(min-width: 820px)");

const map = new BeamMap($("map"), headers);
let pending = null;  // AbortController of the request in flight
let answer = null, truth = null, step = 0, timer = null;
let shownIndex = null;  // id of the index that the map and the samples belong to
let known = null;  // what kind of picture the index knows, as in GET /index

function headers() {
  const key = $("key").value.trim();
  return key ? {Authorization: `Bearer ${key}`} : {};
}

// ---- sending a picture

// `truePlace`: where a sample was taken.
async function locate(blob, name, truePlace = null) {
  pending?.abort();
  const current = pending = new AbortController();
  stop();
  showProblem(null);
  const form = new FormData();
  form.append("image", blob, name);
  const params = new URLSearchParams({k: $("k").value, alternatives: 3, trace: true});
  const view = $("inview").checked ? map.visibleBbox() : null;
  if (view) params.set("bbox", view);
  showPreview(blob);
  showStatus("Searching…");
  document.body.classList.add("busy");
  try {
    const response = await fetch(`locate?${params}`, {method: "POST", body: form, headers: headers(), signal: current.signal});
    const body = await response.json();
    if (response.ok) show(body, truePlace, blob);
    else showRefusal(body);
  } catch (error) {
    if (current.signal.aborted) return;
    showRefusal({detail: `The service did not answer (${error.message}). Is it still running?`});
  } finally {
    if (pending === current) document.body.classList.remove("busy");
  }
}

function showRefusal(problem) {
  if (problem.status === 401) {
    $("options").open = true;
    $("keyrow").hidden = false;
    $("key").focus();
  }
  answer = null;
  $("answer").hidden = true;
  $("legend").hidden = true;
  map.clear();
  showStatus("");
  showProblem(problem.detail ?? "The service refused this picture.");
}

function show(newAnswer, truePlace, blob) {
  if (shownIndex !== newAnswer.index.id) loadMapAndSamples();  // the service may have loaded another index
  shownIndex = newAnswer.index.id;
  answer = newAnswer;
  truth = truePlace;
  const registration = answer.registration?.accepted ? answer.registration : null;
  map.overlay.load(blob, registration, isLaidOver => showFit(answer.registration, isLaidOver));
  showFit(answer.registration, true, known?.pictures === "above" ? answer.registration_reason : null);
  showAnswer(answer, truth, known, chosen => { stop(); goToStep(chosen); }, other => { stop(); map.panTo(other, answer.lon); });
  if (!wideScreen.matches) $("map").scrollIntoView({behavior: reducedMotion.matches ? "auto" : "smooth"});
  if (reducedMotion.matches || answer.outcome === "elsewhere") goToStep(answer.trace.length);
  else play();
}

// ---- steps: one per zoom, then the answer

function goToStep(to) {
  if (!answer) return;
  const count = answer.trace.length;
  step = Math.max(0, Math.min(count, to));
  const animate = !reducedMotion.matches && !document.hidden, path = answer.levels.map(level => level.tile);
  updatePadding();
  $("legend").hidden = step === count;
  if (step === count) {
    map.showAnswer(answer, path, truth, animate);
    showStatus(answer.outcome === "elsewhere" ? "Not located."
      : `${placeName(answer)}, ${percent(answer.confidence)} for its tile of zoom ${answer.zoom}.`);
  } else {
    const {zoom, kept} = answer.trace[step], own = answer.levels[step];
    map.showLevel(zoom, kept, own?.tile, path.slice(0, step), answer.lon, animate);
    const ownShare = own ? `${percent(own.confidence)} for the answer's tile` : "deeper than the answer goes";
    showStatus(`Zoom ${zoom}: ${kept.length} tiles kept, ${ownShare}.`);
  }
  markStep(step, count, timer !== null);
}

function play() {
  stop();
  step = -1;
  const tick = () => {
    timer = step + 1 < answer.trace.length ? setTimeout(tick, STEP_MS) : null;
    goToStep(step + 1);
  };
  tick();
}

function stop() {
  clearTimeout(timer);
  timer = null;
  if (answer) markStep(step, answer.trace.length, false);
}

// On a wide screen the panel covers the left of the map; on a narrow one it is below.
function updatePadding() {
  map.setPadding(wideScreen.matches ? $("panel").getBoundingClientRect().right : 0, 0);
}

$("back").onclick = () => { stop(); goToStep(step - 1); };
$("on").onclick = () => { stop(); goToStep(step + 1); };
$("play").onclick = () => (timer === null ? play() : stop());
$("opacity").oninput = () => map.overlay.setOpacity(showOpacity());

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, summary")) return;
  const onMap = event.target.closest("#map"), onButton = event.target.closest("button, a");
  const keys = {
    ArrowLeft: !onMap && (() => { stop(); goToStep(step - 1); }),
    ArrowRight: !onMap && (() => { stop(); goToStep(step + 1); }),
    Home: () => { stop(); goToStep(0); },
    End: () => { stop(); goToStep(Infinity); },
    " ": !onButton && (() => (timer === null ? play() : stop())),
    o: () => $("file").click(),
  };
  const act = keys[event.key];
  if (!act || (!answer && event.key !== "o")) return;
  event.preventDefault();
  act();
});

// ---- input: a chosen, dropped or pasted file, or a sample

$("form").addEventListener("submit", event => event.preventDefault());
$("file").addEventListener("change", event => {
  const [file] = event.target.files;
  if (file) locate(file, file.name);
  event.target.value = "";
});

function locateFirstFile(transfer) {
  const file = [...transfer.files].find(f => f.type.startsWith("image/")) ?? transfer.files[0];
  if (file) locate(file, file.name);
  else showProblem("That was not a file. Drop a picture from your computer.");
}

let dragDepth = 0;
const showDropHint = on => { $("over").hidden = !on; };
window.addEventListener("dragenter", event => { event.preventDefault(); dragDepth++; showDropHint(true); });
window.addEventListener("dragleave", () => { if (--dragDepth <= 0) { dragDepth = 0; showDropHint(false); } });
window.addEventListener("dragover", event => event.preventDefault());
window.addEventListener("drop", event => { event.preventDefault(); dragDepth = 0; showDropHint(false); locateFirstFile(event.dataTransfer); });
window.addEventListener("paste", event => { if (event.clipboardData.files.length) locateFirstFile(event.clipboardData); });

async function locateSample({file, lat, lon}) {
  const response = await fetch(`static/samples/${file}`);
  if (response.ok) await locate(await response.blob(), file, {lat, lon});
  else showProblem(`The sample ${file} does not exist.`);
}

// ---- light and dark theme

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
$("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark";
  const theme = dark ? "light" : "dark";
  localStorage.setItem("theme", theme);
  setTheme(theme);
};
setTheme(localStorage.getItem("theme"));

// ---- start

// `pictures`: "above", "ground" or null. An index that does not have this fact was built before it existed; of these,
// the built-in Earth's show pictures from above.
function kindOf({pictures, encoders}) {
  const isBuiltIn = encoders?.photo?.name === "tilebeam-builtin";
  return {pictures: pictures ?? (isBuiltIn ? "above" : null), isBuiltIn};
}

async function loadMapAndSamples() {
  updatePadding();
  const [tileJson, samples, index] = await Promise.all(["tiles", "static/samples/samples.json", "index"].map(
    path => fetch(path, {headers: headers()}).then(r => (r.ok ? r.json() : null)).catch(() => null)));
  map.setBackground(tileJson);
  showSamples(samples ?? [], locateSample);
  known = index && kindOf(index);
  showKnown(known, samples?.length ? () => locateSample(samples[0]) : null);
  document.body.dataset.ready = "yes";
}
$("key").addEventListener("change", loadMapAndSamples);
loadMapAndSamples();
