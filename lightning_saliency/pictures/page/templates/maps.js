"use strict";
// From the small maps of a frame to pixels. All of it works on arrays; nothing here touches the page.

const LEVELS = 63;
const SIDE = 192;          // the longer side of a drawn tile, in its own pixels
const LOW = 0.02, HIGH = 0.99;   // quantiles between which an overlay is stretched

function bytes(base64) {
  const text = atob(base64);
  const array = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
  return array;
}

async function inflate(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The maps of a frame: for each image an array of {h, w, values}, and the mean maps.
async function unpack(frame) {
  const data = await inflate(frame.data);
  let at = 0;
  const next = ([h, w]) => ({h, w, values: data.subarray(at, at += h * w)});
  const images = [];  // by their places in the film, of which a frame may lack some
  for (const image of frame.listed) images[image.slot] = image.grids.map(next);
  return {
    images,
    means: frame.means.map(mean => next(mean.grid)),
  };
}

const axes = new Map();
// Bilinear interpolation along one axis, pixel centres aligned as torch does: two sources and a share for each pixel.
function axis(from, to) {
  const key = from * 4096 + to;
  if (!axes.has(key)) {
    const low = new Int32Array(to), high = new Int32Array(to), share = new Float32Array(to);
    for (let i = 0; i < to; i++) {
      const place = Math.max(0, (i + 0.5) * from / to - 0.5);
      low[i] = Math.min(from - 1, Math.floor(place));
      high[i] = Math.min(from - 1, low[i] + 1);
      share[i] = place - low[i];
    }
    axes.set(key, {low, high, share});
  }
  return axes.get(key);
}

function enlarge(map, height, width) {
  const out = new Float32Array(height * width);
  const rows = axis(map.h, height), columns = axis(map.w, width);
  const line = new Float32Array(map.w);
  for (let y = 0; y < height; y++) {
    const above = rows.low[y] * map.w, below = rows.high[y] * map.w, share = rows.share[y];
    for (let x = 0; x < map.w; x++) {
      line[x] = (map.values[above + x] * (1 - share) + map.values[below + x] * share) / LEVELS;
    }
    for (let x = 0, at = y * width; x < width; x++, at++) {
      out[at] = line[columns.low[x]] * (1 - columns.share[x]) + line[columns.high[x]] * columns.share[x];
    }
  }
  return out;
}

// The weighted mean of maps (SMOE paper, Eq. 3).
function weighted(maps, weights) {
  const out = new Float32Array(maps[0].length);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  maps.forEach((map, k) => {
    const share = weights[k] / total;
    if (share) for (let i = 0; i < out.length; i++) out[i] += share * map[i];
  });
  return out;
}

// The deeper half of the scales that can say where, which tell a trained network from an untrained one.
function deep(grids) {
  const fine = grids.map((_, k) => k).filter(k => Math.min(...grids[k]) >= 4);
  const telling = fine.length ? fine : grids.map((_, k) => k);
  const chosen = telling.slice(-Math.max(1, Math.floor(telling.length / 2)));
  return grids.map((_, k) => chosen.includes(k) ? 1 : 0);
}

// A map from its own low to its own high quantile.
function stretched(map) {
  const counts = new Uint32Array(257);
  for (const value of map) counts[Math.min(256, Math.max(0, Math.round(value * 256)))]++;
  const at = share => {
    let seen = 0, bin = 0;
    while (bin < 256 && (seen += counts[bin]) < share * map.length) bin++;
    return bin / 256;
  };
  const low = at(LOW), span = Math.max(at(HIGH) - low, 1 / 256);
  return map.map(value => Math.min(1, Math.max(0, (value - low) / span)));
}

// Colours of a map, `table` of 256 RGB triples, as RGBA; `opacity` (value -> [0, 1]) says how much of it covers.
function colored(map, table, opacity) {
  const out = new Uint8ClampedArray(map.length * 4);
  for (let i = 0; i < map.length; i++) {
    const color = Math.min(255, Math.max(0, Math.floor(map[i] * 256))) * 3;
    out[4 * i] = table[color];
    out[4 * i + 1] = table[color + 1];
    out[4 * i + 2] = table[color + 2];
    out[4 * i + 3] = opacity ? 255 * opacity(map[i]) : 255;
  }
  return out;
}

// LOVI (SMOE paper, Eq. 4-7): colour says at which depth, white at every depth, dark nowhere.
function lovi(maps, table) {
  const count = maps.length, size = maps[0].length, nu = 1 / count;
  const out = new Uint8ClampedArray(size * 4);
  for (let i = 0; i < size; i++) {
    let top = 0, sum = 0, place = 0;
    for (let k = 0; k < count; k++) {
      const value = maps[k][i];
      if (value > top) top = value;
      sum += value;
      place += value * (count > 1 ? 1 - k / (count - 1) : 0);
    }
    const saturation = sum && count > 1 ? Math.min(1, Math.max(0, 1 - (sum / (count * top) - nu) / (1 - nu))) : 0;
    const color = sum ? Math.round(255 * place / sum) * 3 : 0;
    for (let c = 0; c < 3; c++) out[4 * i + c] = 255 * top * (1 - saturation * (1 - table[color + c] / 255));
    out[4 * i + 3] = 255;
  }
  return out;
}

// 1 - the correlation of two maps of the same grid, in [0, 2].
function distance(left, right) {
  if (left.h !== right.h || left.w !== right.w) return NaN;
  const n = left.values.length;
  let a = 0, b = 0, aa = 0, bb = 0, ab = 0;
  for (let i = 0; i < n; i++) {
    const x = left.values[i], y = right.values[i];
    a += x; b += y; aa += x * x; bb += y * y; ab += x * y;
  }
  const spread = Math.sqrt((aa - a * a / n) * (bb - b * b / n));
  return spread > 0 ? 1 - (ab - a * b / n) / spread : NaN;
}
