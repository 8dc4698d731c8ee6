// A picture laid over the map where it was registered, and its footprint. Knows nothing of panels and beams.
//
// A Web Mercator map has the same shape at every zoom. So the picture is warped once for a zoom into a canvas that
// covers its footprint; Leaflet moves and scales the canvas. The picture does not leave the browser for this.

import {drawWarped, extent, gridOf, near, toLatLon} from "./warp.js";

const L = window.L;
const MAX_SIDE = 4096;  // pixels; browsers refuse much larger canvases

export class PictureOverlay {
  constructor(map) {
    this.map = map;
    this.opacity = 0.8;
    this.outline = L.layerGroup();
    map.createPane("picture").style.zIndex = 350;  // above the tiles, below lines and pins
    map.on("zoomend", () => this.draw());
  }

  // Prepare the picture of an accepted registration; forget it with null. `changed(shown)` is called once it is known
  // whether this browser can lay the picture over the map.
  async load(blob, registration, changed) {
    this.hide();
    this.image?.close();
    this.registration = registration;
    this.image = this.grid = this.layer = null;
    this.outline.clearLayers();
    if (!registration) return;
    this.outline.addLayer(footprintOf(registration));
    const grid = gridOf(registration.gcps, registration.lon);
    const image = grid && await imageOf(blob, grid);
    if (this.registration !== registration) return void image?.close();  // another picture has come meanwhile
    [this.grid, this.image] = image ? [grid, image] : [null, null];
    if (this.map.hasLayer(this.outline)) this.show();
    changed(Boolean(image));
  }

  bounds() {
    const box = L.latLngBounds([]);
    this.outline.eachLayer(group => box.extend(group.getBounds()));
    return box;
  }

  show() {
    if (!this.registration) return;
    this.outline.addTo(this.map);
    if (!this.image) return;
    this.layer ??= this.newLayer();
    this.layer.addTo(this.map);
    this.draw();
  }

  hide() {
    this.outline.remove();
    this.layer?.remove();
  }

  newLayer() {
    const {west, north, east, south} = this.area = extent(this.grid);
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "Your picture, laid over the map");
    this.scale = 0;
    return L.svgOverlay(this.canvas, [toLatLon([west, south]), toLatLon([east, north])], {
      pane: "picture", opacity: this.opacity, className: "overlay", interactive: false,
    });
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.layer?.setOpacity(opacity);
  }

  // Warp the picture for the map's zoom: a canvas pixel for each of the screen's, but no more than the picture has.
  draw() {
    if (!this.layer || !this.map.hasLayer(this.layer)) return;
    const width = this.area.east - this.area.west, height = this.area.south - this.area.north;
    const finest = 1.5 * Math.sqrt(this.image.width * this.image.height / (width * height));
    const screen = 256 * 2 ** this.map.getZoom() * window.devicePixelRatio;
    const scale = Math.min(screen, finest, MAX_SIDE / width, MAX_SIDE / height);
    if (Math.abs(scale / this.scale - 1) < 0.01) return;
    this.scale = scale;
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    drawWarped(this.canvas.getContext("2d"), this.image, this.grid, this.area, scale);
    this.canvas.dataset.drawn = this.map.getZoom();
  }
}

// The upright picture, at most MAX_SIDE wide and high. Null if this browser cannot decode the file, or not to the shape
// that the service saw.
async function imageOf(blob, {width, height, isTurned}) {
  try {
    if (isTurned && !await isJpeg(blob)) return null;  // EXIF's turn in WebP and PNG is not heeded by all browsers
    const whole = await createImageBitmap(blob);
    if (Math.abs(whole.width - width) > 1 || Math.abs(whole.height - height) > 1) return null;
    const share = MAX_SIDE / Math.max(width, height);
    if (share >= 1) return whole;
    const [resizeWidth, resizeHeight] = [width, height].map(side => Math.max(1, Math.round(side * share)));
    const smaller = await createImageBitmap(whole, {resizeWidth, resizeHeight, resizeQuality: "high"});
    whole.close();
    return smaller;
  } catch {
    return null;
  }
}

async function isJpeg(blob) {
  const [a, b] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  return a === 0xff && b === 0xd8;
}

// The footprint as one shape around the registered place. A footprint that is cut at the date line gets no line there.
function footprintOf({footprint, lon: centre}) {
  const polygons = footprint.type === "Polygon" ? [footprint.coordinates] : footprint.coordinates;
  const shape = L.featureGroup();
  for (const rings of polygons) {
    const middle = rings[0].reduce((sum, [lon]) => sum + lon, 0) / rings[0].length;
    const shift = near(middle, centre) - middle, moved = rings.map(ring => ring.map(([lon, lat]) => [lat, lon + shift]));
    L.polygon(moved, {className: "footprint", stroke: false, fillOpacity: 0, interactive: false}).addTo(shape);
    for (const ring of rings) {
      const sides = ring.slice(1).map((end, i) => [ring[i], end]).filter(side => !isCut(side));
      const lines = sides.map(side => side.map(([lon, lat]) => [lat, lon + shift]));
      for (const [color, weight] of [["#0b1828", 5], ["#fff", 2.5]]) {  // white alone is lost on snow
        L.polyline(lines, {className: "footprint-edge", color, weight, opacity: weight > 3 ? 0.45 : 1, interactive: false, smoothFactor: 0}).addTo(shape);
      }
    }
  }
  return shape;
}

// Whether a side of a footprint lies on the date line or at a pole, where GeoJSON ends and the picture does not.
function isCut([[lonA, latA], [lonB, latB]]) {
  return (Math.abs(lonA) === 180 && lonA === lonB) || (Math.abs(latA) === 90 && latA === latB);
}
