// The map: background tiles, the beam's tiles, the answer's circles and the picture itself. Knows nothing of the panel.

import {PictureOverlay} from "./overlay.js";
import {near} from "./warp.js";

const L = window.L;
const RADIUS_KM = 6371.0088;
// Colours from least to most likely: dark violet to light yellow. They differ on sea and sand, and also in grey.
const RAMP = [[74, 38, 140], [150, 44, 140], [216, 72, 104], [245, 140, 70], [253, 208, 80], [255, 250, 190]];

export function colourOf(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), i = Math.min(Math.floor(at), RAMP.length - 2);
  return `rgb(${RAMP[i].map((from, c) => Math.round(from + (RAMP[i + 1][c] - from) * (at - i))).join(" ")})`;
}

export function boundsOf({z, x, y}) {
  const n = 2 ** z, lat = row => Math.atan(Math.sinh(Math.PI * (1 - 2 * row / n))) * 180 / Math.PI;
  return {west: x / n * 360 - 180, east: (x + 1) / n * 360 - 180, north: lat(y), south: lat(y + 1)};
}

function boxOf(tile, centre) {
  const b = boundsOf(tile), shift = near((b.west + b.east) / 2, centre) - (b.west + b.east) / 2;
  return L.latLngBounds([b.south, b.west + shift], [b.north, b.east + shift]);
}

export function distanceKm(a, b) {
  const rad = Math.PI / 180, h = Math.sin((b.lat - a.lat) * rad / 2) ** 2
    + Math.cos(a.lat * rad) * Math.cos(b.lat * rad) * Math.sin((b.lon - a.lon) * rad / 2) ** 2;
  return 2 * RADIUS_KM * Math.asin(Math.sqrt(Math.min(1, h)));
}

// A circle on the globe, as map points. Leaflet's own circle is planar, which is far off at 1,000 km.
export function ring({lat, lon}, km) {
  const rad = Math.PI / 180, d = km / RADIUS_KM, points = [];
  for (let i = 0; i < 128; i++) {
    const a = i / 128 * 2 * Math.PI, p = lat * rad;
    const q = Math.asin(Math.sin(p) * Math.cos(d) + Math.cos(p) * Math.sin(d) * Math.cos(a));
    const l = Math.atan2(Math.sin(a) * Math.sin(d) * Math.cos(p), Math.cos(d) - Math.sin(p) * Math.sin(q));
    points.push([q / rad, lon + l / rad]);
  }
  if (km / RADIUS_KM < (90 - Math.abs(lat)) * rad) return points;
  const pole = Math.sign(lat || 1) * 90;  // the pole is inside: a band from edge to edge
  points.sort((a, b) => a[1] - b[1]);
  return [[pole, lon - 180], [points[0][0], lon - 180], ...points, [points.at(-1)[0], lon + 180], [pole, lon + 180]];
}

// Loads tiles with fetch, so that the API key can be sent. Tiles that leave the view are aborted.
const FetchedTiles = L.GridLayer.extend({
  createTile({x, y, z}, done) {
    const image = document.createElement("img"), stop = new AbortController();
    image.alt = "";
    image.stop = stop;
    fetch(L.Util.template(this.options.address, {z, x, y}), {headers: this.options.headers(), signal: stop.signal})
      .then(response => response.ok ? response.blob() : Promise.reject(new Error(response.statusText)))
      .then(blob => {
        image.onload = () => { URL.revokeObjectURL(image.src); done(null, image); };
        image.onerror = () => done(new Error("not an image"), image);
        image.src = URL.createObjectURL(blob);
      })
      .catch(error => done(error, image));
    return image;
  },
});

export class BeamMap {
  constructor(element, headers) {
    this.element = element;
    this.headers = headers;
    this.map = L.map(element, {
      zoomControl: false, minZoom: 1, maxZoom: 19, zoomSnap: 0.25, worldCopyJump: false, keyboard: true,
      maxBounds: [[-85.06, -Infinity], [85.06, Infinity]], maxBoundsViscosity: 1, renderer: L.svg({padding: 0.6}),
    });
    L.control.zoom({position: "topright"}).addTo(this.map);
    this.map.attributionControl.setPrefix(false);
    this.beam = L.layerGroup().addTo(this.map);
    this.pins = L.layerGroup().addTo(this.map);
    this.overlay = new PictureOverlay(this.map);
    this.deepest = 11;
    this.home();
  }

  home(animate = false) {
    const zoom = this.map.getSize().x > 900 ? 2.75 : 1.25;
    if (animate) this.map.flyTo([22, 8], zoom, {duration: 0.9});
    else this.map.setView([22, 8], zoom, {animate: false});
  }

  // `tileJson`: from the service; null if it has no map. The tile address identifies the source.
  setBackground(tileJson) {
    if (this.base?.options.address === tileJson?.tiles[0]) return;
    this.base?.remove();
    this.base = null;
    if (!tileJson) return;
    this.base = new FetchedTiles({
      address: tileJson.tiles[0],
      // A map that begins at a deep zoom is not drawn far above it: a view of the world would need thousands of its tiles.
      minZoom: Math.max(0, tileJson.minzoom - 2),
      headers: this.headers, minNativeZoom: tileJson.minzoom, maxNativeZoom: tileJson.maxzoom, maxZoom: 24,
      attribution: escapeText(tileJson.attribution), keepBuffer: 3, updateWhenZooming: false,
    });
    this.base.on("tileunload", event => event.tile.stop.abort());
    this.base.addTo(this.map);
    this.deepest = Math.min(11, Math.max(9, tileJson.maxzoom + 3));  // a view is no blurred square of one tile
  }

  // Keep the answer clear of what covers the map: `left` and `bottom` in pixels.
  setPadding(left, bottom) {
    this.padding = {paddingTopLeft: [left + 24, 24], paddingBottomRight: [24, bottom + 24]};
  }

  clear() {
    this.beam.clearLayers();
    this.pins.clearLayers();
    this.overlay.hide();
    this.element.dataset.level = "none";
    this.element.dataset.tiles = 0;
  }

  // Show one level of the beam. `kept`: its tiles, most likely first; `own`: the tile on the answer's path;
  // `above`: the path's tiles at coarser zooms; `centre`: longitude to draw around.
  showLevel(zoom, kept, own, above, centre, animate) {
    this.clear();
    const maximum = Math.max(...kept.map(tile => tile.confidence), 1e-9);
    for (const tile of above) this.box(tile, centre, {className: "above", fill: false, weight: 1, color: "#fff", opacity: 0.55});
    for (const {tile, confidence} of [...kept].reverse()) {
      const share = Math.sqrt(confidence / maximum), style = {
        fillColor: colourOf(share), fillOpacity: 0.2 + 0.5 * share, color: colourOf(share), weight: 1, opacity: 0.75,
      };
      // The map repeats the world, and so do the tiles: else they lie on one of two Americas that are in view.
      for (const turn of [-360, 360]) this.box(tile, centre + turn, {...style, className: "repeated", interactive: false});
      this.box(tile, centre, {...style, className: "kept"}).bindTooltip(`zoom ${tile.z} · ${percent(confidence)}`, {sticky: true});
    }
    if (own) this.box(own, centre, {className: "own", fill: false, weight: 2.5, color: "#fff"});
    this.lookAt(this.mainArea(kept, centre, above.at(-1)), animate);
    this.element.dataset.level = zoom;
    this.element.dataset.tiles = kept.length;
  }

  // The area to show: all tiles of the first level; below it the tiles with 90 % of the confidence, and the parent tile.
  mainArea(kept, centre, parent) {
    if (!parent) return kept.reduce((box, {tile}) => box.extend(boxOf(tile, centre)), L.latLngBounds([]));
    const total = kept.reduce((sum, tile) => sum + tile.confidence, 0);
    const box = L.latLngBounds([]);
    let sum = 0;
    for (const {tile, confidence} of kept) {
      box.extend(boxOf(tile, centre));
      if ((sum += confidence) > 0.9 * total) break;
    }
    return box.extend(boxOf(parent, centre));
  }

  // The answer: its circles and pins, or its picture laid over the map, or the whole world where nothing is located.
  showAnswer(answer, path, truth, animate) {
    this.clear();
    this.element.dataset.level = "answer";
    this.element.dataset.tiles = path.length;
    if (answer.outcome === "elsewhere") return this.home(animate);
    const isRegistered = Boolean(answer.registration?.accepted), circles = this.circles(answer);
    if (!isRegistered) for (const tile of path) this.box(tile, answer.lon, {className: "above", fill: false, weight: 1, color: "#fff", opacity: 0.55});
    this.places(answer, truth);
    if (isRegistered) {
      this.overlay.show();
      return this.lookAt(this.overlay.bounds(), animate);
    }
    if (!circles.isValid()) return this.home(animate);
    if (answer.outcome !== "uncertain") circles.extend(boxOf(path.at(-1), answer.lon));
    if (truth && distanceKm(truth, answer) < 3000) circles.extend([truth.lat, near(truth.lon, answer.lon)]);
    this.lookAt(circles, animate);
  }

  // Draw the circles that hold the place with 50 and 90 %; returns the area that they cover.
  circles(answer) {
    const box = L.latLngBounds([]);
    for (const share of ["90", "50"]) {
      const km = answer.radius_km[share];
      if (km === null) continue;
      const circle = L.polygon(ring(answer, km), {
        className: `circle within-${share}`, color: "#ffd34d", weight: share === "50" ? 2.5 : 1.5,
        dashArray: share === "50" ? null : "6 5", fillColor: "#ffd34d", fillOpacity: share === "50" ? 0.2 : 0.1, smoothFactor: 0,
      }).bindTooltip(`${share} % within ${km.toFixed(0)} km`, {sticky: true}).addTo(this.beam);
      box.extend(circle.getBounds());
    }
    return box;
  }

  places({lat, lon, alternatives}, truth) {
    alternatives.forEach((other, i) => this.pin(other.lat, near(other.lon, lon), "other", i + 1));
    if (truth) this.pin(truth.lat, near(truth.lon, lon), "truth", "✓");
    this.pin(lat, lon, "best", "");
  }

  box(tile, centre, style) {
    return L.rectangle(boxOf(tile, centre), {interactive: style.fill !== false, ...style}).addTo(this.beam);
  }

  pin(lat, lon, kind, text) {
    const icon = L.divIcon({className: `pin ${kind}`, html: `<b>${text}</b>`, iconSize: [22, 22]});
    L.marker([lat, lon], {icon, keyboard: false, interactive: false, zIndexOffset: kind === "best" ? 1000 : 0}).addTo(this.pins);
  }

  lookAt(box, animate) {
    if (!box.isValid()) return;
    const options = {...this.padding, maxZoom: this.deepest};
    if (animate) this.map.flyToBounds(box, {...options, duration: 0.9, easeLinearity: 0.4});
    else this.map.fitBounds(box, {...options, animate: false});
  }

  panTo({lat, lon}, centre) {
    this.map.panTo([lat, near(lon, centre)]);
  }

  // The visible area as `west,south,east,north` in degrees; null if the whole Earth is visible.
  visibleBbox() {
    const b = this.map.getBounds(), wrap = lon => ((lon + 180) % 360 + 360) % 360 - 180, latOf = v => Math.max(-90, Math.min(90, v));
    if (b.getEast() - b.getWest() >= 360) return null;
    return [wrap(b.getWest()), latOf(b.getSouth()), wrap(b.getEast()), latOf(b.getNorth())].map(v => v.toFixed(4)).join(",");
  }
}

export function percent(share) {
  const value = 100 * share;
  return value > 99.5 && value < 100 ? "> 99 %" : value < 0.5 && value > 0 ? "< 1 %" : `${value.toFixed(0)} %`;
}

function escapeText(text) {
  const holder = document.createElement("i");
  holder.textContent = text;
  return holder.innerHTML;
}
