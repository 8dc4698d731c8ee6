// The panel beside the map: the answer in words, the confidence chart, other places, timing. Knows nothing of the map.

import {distanceKm, percent} from "./map.js";

const $ = id => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function placeName({lat, lon}) {
  return `${Math.abs(lat).toFixed(2)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(2)}° ${lon < 0 ? "W" : "E"}`;
}

function km(value) {
  return value < 10 ? `${value.toFixed(1)} km` : `${Math.round(value).toLocaleString("en")} km`;
}

// What is said of a picture that is nowhere in the covered area. `known`: the kind of picture of the index, or null.
function unplaced(known, registration) {
  if (registration?.probability > 0.5) return `None of the indexed tiles shows this place: ${registration.reason}.`;
  if (known?.pictures !== "above") return "This picture looks like no place that this index covers; the index cannot place it.";
  return `This does not look like a picture of the Earth from above; ${known.isBuiltIn ? "the built-in" : "this"} index cannot place it.`;
}

// `choose(step)` is called when a bar is clicked, `visit(place)` for one of the other places.
export function showAnswer(answer, truth, known, choose, visit) {
  const isElsewhere = answer.outcome === "elsewhere";
  $("answer").hidden = false;
  $("answer").dataset.outcome = answer.outcome ?? "unknown";
  $("place").replaceChildren(...(isElsewhere ? [unplaced(known, answer.registration)] : heading(answer)));
  $("within").textContent = isElsewhere ? `None of the covered tiles: ${percent(answer.elsewhere)}.` : within(answer) + (truth ? ` The sample is ${km(distanceKm(truth, answer))} away, at ✓.` : "");
  $("chart").replaceChildren(...answer.trace.map(({zoom}, i) => bar(
    answer.levels[i] ?? {zoom, lat: answer.lat, confidence: null}, () => choose(i))), elsewhereBar(answer));
  $("others").hidden = isElsewhere || !answer.alternatives.length;
  $("alternatives").replaceChildren(...answer.alternatives.map(other => element("li", {},
    element("button", {type: "button", onclick: () => visit(other)}, placeName(other),
      element("span", {className: "share"}, percent(other.confidence))))));
  $("timing").textContent = timing(answer);
  $("save").replaceChildren("Save as ", saver("JSON", "tilebeam.json", JSON.stringify(answer, null, 2)));
  $("attribution").textContent = answer.attribution ? `Map: ${answer.attribution}` : "";
}

function heading(answer) {
  const name = placeName(answer);
  const copy = element("button", {type: "button", className: "quiet", title: "Copy the coordinates"}, "copy");
  copy.onclick = async () => {
    await navigator.clipboard?.writeText(`${answer.lat.toFixed(5)}, ${answer.lon.toFixed(5)}`);
    copy.textContent = "copied";
  };
  const doubt = answer.outcome === "uncertain" ? [element("em", {}, "not certain")] : [];
  return [element("span", {}, name), ...doubt, copy];
}

function within({radius_km: radius, elsewhere, calibrated}) {
  const caveat = calibrated ? "" : " These figures are not calibrated.";
  if (radius["90"] === null) return `Probably shows no place in the covered area (${percent(elsewhere)}). The best place inside it is shown.${caveat}`;
  const radius50 = radius["50"] === null ? "" : `, 50% within ${km(radius["50"])}`;
  return `90% within ${km(radius["90"])}${radius50}.${caveat}`;
}

function bar(level, onclick) {
  const row = meter(`zoom ${level.zoom}`, level.confidence, `tiles ${km(tileKm(level))} wide`);
  row.button.onclick = onclick;
  const value = level.confidence === null ? "deeper than the answer goes" : percent(level.confidence);
  row.button.setAttribute("aria-label", `Zoom ${level.zoom}: ${value}, show this step`);
  return row.item;
}

function elsewhereBar({elsewhere}) {
  const row = meter("elsewhere", elsewhere, "none of the covered tiles");
  row.item.classList.add("elsewhere");
  row.button.disabled = true;
  return row.item;
}

function meter(name, share, note) {
  const fill = element("i");
  fill.style.width = share === null ? "0" : `${Math.max(100 * share, 0.5)}%`;
  const button = element("button", {type: "button", title: note}, element("span", {className: "name"}, name),
    element("span", {className: "track"}, fill), element("span", {className: "share"}, share === null ? "–" : percent(share)));
  return {button, item: element("li", {}, button)};
}

function tileKm({zoom, lat}) {
  return 40075 * Math.cos(lat * Math.PI / 180) / 2 ** zoom;
}

function timing({timing_ms: ms, levels, index}) {
  const parts = Object.entries(ms).map(([stage, value]) => `${stage} ${value.toFixed(value < 10 ? 1 : 0)} ms`);
  return `${parts.join(" · ")} · ${levels.length} of ${index.zooms.length} zooms · index ${index.id.slice(0, 8)}`;
}

function saver(label, name, text) {
  const link = element("a", {href: "#", download: name}, label);
  link.onclick = () => {
    link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  return link;
}

// The registration in words, with the slider of the overlay. `isLaidOver`: whether this browser can show the picture.
// `reason`: why it was not tried, where that is worth a word.
export function showFit(registration, isLaidOver, reason) {
  $("fit").hidden = registration ? registration.margin === undefined : !reason;
  $("slider").hidden = true;
  if ($("fit").hidden) return;
  if (!registration) {
    $("fit-words").textContent = `Its exact position was not searched: ${reason}.`;
    return;
  }
  const {accepted, width_km: width, heading_deg: heading} = registration;
  const lies = `${km(width)} wide, its top points ${compass(heading)}.`;
  const cannot = isLaidOver ? "" : " This browser cannot lay it over the map; the frame shows where it lies.";
  $("fit-words").textContent = accepted ? `The picture fits here ${fitWords(registration)}: ${lies}${cannot}`
    : `Its exact position was not found: the picture fits ${fitWords(registration)}.`;
  $("slider").hidden = !accepted || !isLaidOver;
  showOpacity();
}

const CLEAR_MARGIN = 0.1;  // in the fit's score, which is at most 1

function fitWords({accepted, margin}) {
  if (!accepted) return "almost as well elsewhere";
  return margin >= CLEAR_MARGIN ? "clearly better than anywhere else" : "better than anywhere else";
}

function compass(degrees) {
  const names = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"];
  const turn = (degrees % 360 + 360) % 360;
  return `${names[Math.round(turn / 45) % 8]} (${Math.round(turn) % 360}°)`;
}

// Shows the slider's value, and returns it as a share.
export function showOpacity() {
  const text = `${$("opacity").value} %`;
  $("opacity").setAttribute("aria-valuetext", text);
  $("opacity-value").textContent = text;
  return $("opacity").value / 100;
}

// What the index knows, before the first picture. `trySample`: locates a bundled sample; null if there is none.
export function showKnown(known, trySample) {
  const words = {
    above: `This index knows pictures of the Earth from above${known?.isBuiltIn ? ", some 200 to 1,000 km wide" : ""}.`,
    ground: "This index knows photos taken on the ground.",
  }[known?.pictures];
  const sample = element("button", {type: "button", className: "link", onclick: trySample}, "Try a sample");
  $("known").hidden = !words && !trySample;
  $("known").replaceChildren(...(words ? [words, " "] : []), ...(trySample ? [sample] : []));
}

// Mark the shown step: 0 is the coarsest zoom, `count` is the answer.
export function markStep(step, count, playing) {
  [...$("chart").children].forEach((row, i) => {
    const now = i === step || (step === count && i === count - 1);
    row.classList.toggle("now", now && i < count);
    row.classList.toggle("ahead", i > step && i < count);
    row.firstChild.setAttribute("aria-current", now && i < count ? "step" : "false");
  });
  $("back").disabled = step <= 0;
  $("on").disabled = step >= count;
  $("play").textContent = playing ? "Pause" : "Replay";
}

export function showStatus(text) {
  $("status").textContent = text;
}

export function showProblem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text ?? "";
}

export function showPreview(blob) {
  const image = $("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = false;
  image.onerror = () => { image.hidden = true; };  // this browser cannot show the format; the service may still read it
  image.src = URL.createObjectURL(blob);
  $("drop").classList.add("has-picture");
}

export function showSamples(samples, choose) {
  $("samples").hidden = !samples.length;
  $("samples").replaceChildren(...samples.map((sample, i) => {
    const image = element("img", {src: `static/samples/${sample.file}`, alt: "", loading: "lazy", width: 64, height: 64});
    const button = element("button", {type: "button", title: `Sample ${i + 1}`, onclick: () => choose(sample)}, image);
    button.setAttribute("aria-label", `Sample ${i + 1}`);
    return button;
  }));
}
