// From control points to triangles: where each pixel of a picture lies on a Web Mercator map. Knows no map and no page.
//
// World coordinates run from 0 to 1, west to east and north to south; x runs on beyond them across the date line.

export const MAX_LAT = 85.05;
const MOST_CELLS = 40, CELL_PX = 24;

export function toWorld(lat, lon) {
  return [lon / 360 + 0.5, 0.5 - Math.log(Math.tan(Math.PI / 4 + lat * Math.PI / 360)) / (2 * Math.PI)];
}

export function toLatLon([x, y]) {
  return [Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180 / Math.PI, (x - 0.5) * 360];
}

// Shift `lon` by full turns to be nearest to `centre`, so that shapes are not torn apart at the date line.
export function near(lon, centre) {
  return lon + 360 * Math.round((centre - lon) / 360);
}

// Control points as a square grid: `width` and `height` of the upright picture in pixels, and by row and column the world
// coordinates. `gcps`: [{x, y, lon, lat}], row by row of the upright picture, in pixels of the file as it is stored.
// Browsers decode pictures upright, so x and y only say how long their edges are and whether the file is turned. Null if the points are no grid, or
// if a pole or the map's end lies among them.
export function gridOf(gcps, lon) {
  const n = Math.sqrt(gcps.length);
  if (!Number.isInteger(n) || n < 2 || gcps.some(p => !(Math.abs(p.lat) < MAX_LAT))) return null;
  const rows = Array.from({length: n}, (_, i) => gcps.slice(i * n, i * n + n).map(p => ({...p})));
  rows.forEach((row, i) => row.forEach((p, j) => {
    p.lon = near(p.lon, j ? row[j - 1].lon : i ? rows[i - 1][0].lon : lon);
  }));
  if (rows.some((row, i) => i && row.some((p, j) => Math.abs(p.lon - rows[i - 1][j].lon) > 180))) return null;
  const length = (a, b) => Math.hypot(a.x - b.x, a.y - b.y), [first, last] = [rows[0], rows[n - 1]];
  return {
    n, isTurned: rows[0][0].x > 0 || rows[0][0].y > 0 || rows[0][n - 1].y > 0, width: length(first[0], first[n - 1]), height: length(first[0], last[0]),
    world: rows.map(row => row.map(p => toWorld(p.lat, p.lon))),
  };
}

// Lagrange's weights of n nodes at 0, 1, ... for the position t.
function weights(n, t) {
  return Array.from({length: n}, (_, k) => {
    let weight = 1;
    for (let j = 0; j < n; j++) if (j !== k) weight *= (t - j) / (k - j);
    return weight;
  });
}

// World coordinates of the share (u, v) of the picture's width and height: the polynomial through all control points.
export function place({n, world}, u, v) {
  const across = weights(n, u * (n - 1)), down = weights(n, v * (n - 1)), sum = [0, 0];
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) for (const c of [0, 1]) sum[c] += down[i] * across[j] * world[i][j][c];
  }
  return sum;
}

// West, north, east, south of the picture in world coordinates.
export function extent(grid) {
  const edge = Array.from({length: 33}, (_, i) => i / 32);
  const points = edge.flatMap(t => [[t, 0], [t, 1], [0, t], [1, t]]).map(([u, v]) => place(grid, u, v));
  const [xs, ys] = [0, 1].map(c => points.map(p => p[c]));
  return {west: Math.min(...xs), north: Math.min(...ys), east: Math.max(...xs), south: Math.max(...ys)};
}

// Draw `image`, whose pixels may be fewer than the file's, into a canvas that covers `area` with `scale` pixels a world.
export function drawWarped(context, image, grid, area, scale) {
  const side = Math.max(context.canvas.width, context.canvas.height);
  const cells = Math.min(MOST_CELLS, Math.max(8, Math.ceil(side / CELL_PX)));
  const nodes = Array.from({length: cells + 1}, (_, i) => Array.from({length: cells + 1}, (_, j) => {
    const [x, y] = place(grid, j / cells, i / cells);
    return [(x - area.west) * scale, (y - area.north) * scale];
  }));
  const w = image.width / cells, h = image.height / cells;
  context.imageSmoothingQuality = "high";
  for (let i = 0; i < cells; i++) {
    for (let j = 0; j < cells; j++) {
      const [a, b, c, d] = [nodes[i][j], nodes[i][j + 1], nodes[i + 1][j + 1], nodes[i + 1][j]];
      const from = [j * w, i * h, w, h];
      drawTriangle(context, image, from, [a, b, d], [a, b, d]);
      drawTriangle(context, image, from, [c, d, b], [minus(b, minus(c, d)), b, d]);
    }
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
}

// Draw the part of `image` inside the triangle `clip`. `corners`: where the upper left, upper right and lower left
// corner of the cell `from` (x, y, width, height in the image) come to lie by the triangle's affine map.
function drawTriangle(context, image, [x, y, w, h], clip, [a, b, d]) {
  const p = [(b[0] - a[0]) / w, (b[1] - a[1]) / w], q = [(d[0] - a[0]) / h, (d[1] - a[1]) / h];
  context.save();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.beginPath();
  for (const corner of grown(clip)) context.lineTo(...corner);
  context.clip();
  context.setTransform(p[0], p[1], q[0], q[1], a[0] - p[0] * x - q[0] * y, a[1] - p[1] * x - q[1] * y);
  const mx = margin(p), my = margin(q);  // what the grown triangle shows of the neighbouring cells
  const left = Math.max(0, x - mx), top = Math.max(0, y - my);
  const right = Math.min(image.width, x + w + mx), bottom = Math.min(image.height, y + h + my);
  context.drawImage(image, left, top, right - left, bottom - top, left, top, right - left, bottom - top);
  context.restore();
}

function margin(step) {
  return Math.ceil(2 / Math.max(Math.hypot(...step), 1e-6)) + 1;
}

// A triangle whose sides are moved outwards by a pixel: sides that only meet leave visible seams.
function grown([a, b, c]) {
  const sides = [minus(b, c), minus(c, a), minus(a, b)].map(side => Math.hypot(...side)), around = sides[0] + sides[1] + sides[2];
  const middle = [0, 1].map(k => (sides[0] * a[k] + sides[1] * b[k] + sides[2] * c[k]) / around);  // equally far from all sides
  const area = Math.abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) / 2;
  const factor = 1 + around / Math.max(2 * area, 1e-6);
  return [a, b, c].map(p => [0, 1].map(k => middle[k] + factor * (p[k] - middle[k])));
}

function minus(a, b) {
  return [a[0] - b[0], a[1] - b[1]];
}
