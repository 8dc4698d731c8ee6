// The map: tiles beneath, the beam's kept tiles above, the answer's circles. Knows nothing of the panel.

const L = window.L;
const RADIUS_KM = 6371.0088;
// From hardly likely to likeliest: dark violet to light yellow, told apart on sea and sand, and in greys too.
const RAMP = [[74, 38, 140], [150, 44, 140], [216, 72, 104], [245, 140, 70], [253, 208, 80], [255, 250, 190]];

export function colourOf(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), i = Math.min(Math.floor(at), RAMP.length - 2);
  return `rgb(${RAMP[i].map((from, c) => Math.round(from + (RAMP[i + 1][c] - from) * (at - i))).join(" ")})`;
}

export function boundsOf({z, x, y}) {
  const n = 2 ** z, lat = row => Math.atan(Math.sinh(Math.PI * (1 - 2 * row / n))) * 180 / Math.PI;
  return {west: x / n * 360 - 180, east: (x + 1) / n * 360 - 180, north: lat(y), south: lat(y + 1)};
}

// The copy of a longitude that lies nearest to another, so that nothing is torn apart at the date line.
function near(lon, centre) {
  return lon + 360 * Math.round((centre - lon) / 360);
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

// A circle on the globe as the map has it: Leaflet's own is one of the plane, wrong by far at 1,000 km.
export function ring({lat, lon}, km) {
  const rad = Math.PI / 180, d = km / RADIUS_KM, points = [];
  for (let i = 0; i < 128; i++) {
    const a = i / 128 * 2 * Math.PI, p = lat * rad;
    const q = Math.asin(Math.sin(p) * Math.cos(d) + Math.cos(p) * Math.sin(d) * Math.cos(a));
    const l = Math.atan2(Math.sin(a) * Math.sin(d) * Math.cos(p), Math.cos(d) - Math.sin(p) * Math.sin(q));
    points.push([q / rad, lon + l / rad]);
  }
  if (km / RADIUS_KM < (90 - Math.abs(lat)) * rad) return points;
  const pole = Math.sign(lat || 1) * 90;  // the pole lies inside: a band from edge to edge
  points.sort((a, b) => a[1] - b[1]);
  return [[pole, lon - 180], [points[0][0], lon - 180], ...points, [points.at(-1)[0], lon + 180], [pole, lon + 180]];
}

// Tiles through fetch, so that a key can travel with them; what left the view is not loaded to its end.
const Fetched = L.GridLayer.extend({
  createTile({x, y, z}, done) {
    const image = document.createElement("img"), stop = new AbortController();
    image.alt = "";
    image.stop = stop;
    fetch(L.Util.template(this.options.address, {z, x, y}), {headers: this.options.headers(), signal: stop.signal})
      .then(answer => answer.ok ? answer.blob() : Promise.reject(new Error(answer.statusText)))
      .then(blob => {
        image.onload = () => { URL.revokeObjectURL(image.src); done(null, image); };
        image.onerror = () => done(new Error("no picture"), image);
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
    this.home();
  }

  home() {
    this.map.setView([22, 8], this.map.getSize().x > 900 ? 2.75 : 1.25, {animate: false});
  }

  // `about`: the service's TileJSON, null where it has no map. Its addresses tell one source from another.
  imagery(about) {
    if (this.base?.options.address === about?.tiles[0]) return;
    this.base?.remove();
    this.base = null;
    if (!about) return;
    this.base = new Fetched({
      address: about.tiles[0],
      headers: this.headers, minNativeZoom: about.minzoom, maxNativeZoom: about.maxzoom, maxZoom: 24,
      attribution: escapeText(about.attribution), keepBuffer: 3, updateWhenZooming: false,
    });
    this.base.on("tileunload", event => event.tile.stop.abort());
    this.base.addTo(this.map);
  }

  // What covers the map and must not cover the answer: pixels at the left and at the bottom.
  padding(left, bottom) {
    this.room = {paddingTopLeft: [left + 24, 24], paddingBottomRight: [24, bottom + 24]};
  }

  clear() {
    this.beam.clearLayers();
    this.pins.clearLayers();
    this.element.dataset.level = "none";
    this.element.dataset.tiles = 0;
  }

  // One level of the beam: `kept` tiles, likeliest first, `own` the one on the answer's path, `above` those of earlier zooms.
  level(zoom, kept, own, above, centre, moving) {
    this.clear();
    const most = Math.max(...kept.map(tile => tile.confidence), 1e-9);
    for (const tile of above) this.box(tile, centre, {className: "above", fill: false, weight: 1, color: "#fff", opacity: 0.55});
    for (const {tile, confidence} of [...kept].reverse()) {
      const share = Math.sqrt(confidence / most);
      this.box(tile, centre, {
        className: "kept", fillColor: colourOf(share), fillOpacity: 0.2 + 0.5 * share, color: colourOf(share), weight: 1, opacity: 0.75,
      }).bindTooltip(`zoom ${tile.z} · ${percent(confidence)}`, {sticky: true});
    }
    if (own) this.box(own, centre, {className: "own", fill: false, weight: 2.5, color: "#fff"});
    this.look(this.weighty(kept, centre, above.at(-1)), moving);
    this.element.dataset.level = zoom;
    this.element.dataset.tiles = kept.length;
  }

  // What to look at: all of the first level; then what holds nine tenths of the mass, and the parent of the answer's tile.
  weighty(kept, centre, parent) {
    if (!parent) return kept.reduce((box, {tile}) => box.extend(boxOf(tile, centre)), L.latLngBounds([]));
    const all = kept.reduce((sum, tile) => sum + tile.confidence, 0);
    const box = L.latLngBounds([]);
    let sum = 0;
    for (const {tile, confidence} of kept) {
      box.extend(boxOf(tile, centre));
      if ((sum += confidence) > 0.9 * all) break;
    }
    return box.extend(boxOf(parent, centre));
  }

  answer(answer, path, truth, moving) {
    this.clear();
    const {lat, lon} = answer, box = L.latLngBounds([[lat, lon]]);
    for (const tile of path) this.box(tile, lon, {className: "above", fill: false, weight: 1, color: "#fff", opacity: 0.55});
    for (const share of ["90", "50"]) {
      const km = answer.radius_km[share];
      if (km === null) continue;
      const circle = L.polygon(ring(answer, km), {
        className: `circle within-${share}`, color: "#ffd34d", weight: share === "50" ? 2.5 : 1.5,
        dashArray: share === "50" ? null : "6 5", fillColor: "#ffd34d", fillOpacity: share === "50" ? 0.2 : 0.1, smoothFactor: 0,
      }).bindTooltip(`${share} % within ${km.toFixed(0)} km`, {sticky: true}).addTo(this.beam);
      box.extend(circle.getBounds());
    }
    box.extend(boxOf(path.at(-1), lon));
    answer.alternatives.forEach((other, i) => this.pin(other.lat, near(other.lon, lon), "other", i + 1));
    if (truth) this.pin(truth.lat, near(truth.lon, lon), "truth", "✓");
    this.pin(lat, lon, "found", "");
    if (truth && distanceKm(truth, answer) < 3000) box.extend([truth.lat, near(truth.lon, lon)]);
    this.look(box, moving);
    this.element.dataset.level = "answer";
    this.element.dataset.tiles = path.length;
  }

  box(tile, centre, style) {
    return L.rectangle(boxOf(tile, centre), {...style, interactive: style.fill !== false}).addTo(this.beam);
  }

  pin(lat, lon, kind, text) {
    const icon = L.divIcon({className: `pin ${kind}`, html: `<b>${text}</b>`, iconSize: [22, 22]});
    L.marker([lat, lon], {icon, keyboard: false, interactive: false, zIndexOffset: kind === "found" ? 1000 : 0}).addTo(this.pins);
  }

  look(box, moving) {
    if (!box.isValid()) return;
    const how = {...this.room, maxZoom: 11};
    if (moving) this.map.flyToBounds(box, {...how, duration: 0.9, easeLinearity: 0.4});
    else this.map.fitBounds(box, {...how, animate: false});
  }

  goTo({lat, lon}, centre) {
    this.map.panTo([lat, near(lon, centre)]);
  }

  // west,south,east,north in degrees; null where the whole Earth is in view.
  view() {
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
