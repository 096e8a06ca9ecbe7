"use strict";
// The page: what is shown, and what happens on a key or a click.

(async function () {
  const $ = id => document.getElementById(id);
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in made) made[name] = value; else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const notice = text => { $("notice").textContent = text; $("notice").hidden = false; };
  if (typeof DecompressionStream === "undefined") {
    notice("This browser is too old to unpack the maps. Any browser since 2023 can.");
    return;
  }

  const data = JSON.parse($("data").textContent);
  $("data").remove();
  const runs = data.runs;
  // Each image at its place in the film: a frame may lack some that others have.
  for (const run of runs) for (const frame of run.frames) {
    frame.listed = frame.images;
    frame.images = [];
    frame.listed.forEach((image, number) => { image.slot ??= number; frame.images[image.slot] = image; });
  }
  const tables = Object.fromEntries(Object.entries(data.colors).map(([name, text]) => [name, bytes(text)]));
  const two = runs.length > 1;

  // One axis for all: epochs where each frame has one of its own, steps otherwise.
  const byEpoch = runs.every(run => new Set(run.frames.map(frame => frame.epoch)).size === run.frames.length);
  const placeOf = frame => byEpoch ? frame.epoch : frame.step;
  const stops = [...new Set(runs.flatMap(run => run.frames.map(placeOf)))].sort((a, b) => a - b);
  const named = stop => byEpoch ? (stop < 0 ? "start" : `epoch ${stop}`) : (stop === 0 && runs[0].frames[0].epoch < 0 ? "start" : `step ${stop}`);
  // Of each run, the frame that belongs to a stop: its latest up to there.
  const frameAt = (run, index) => {
    let found = 0;
    run.frames.forEach((frame, number) => { if (placeOf(frame) <= stops[index]) found = number; });
    return found;
  };
  // Where a step lies between the stops, from 0 to stops.length - 1.
  const axisOf = run => {
    const known = run.frames.map(frame => [frame.step, stops.indexOf(placeOf(frame))]);
    return step => {
      const after = known.findIndex(([at]) => at >= step);
      if (after === 0) return known[0][1];
      if (after < 0) return known[known.length - 1][1];
      const [left, right] = [known[after - 1], known[after]];
      return left[1] + (right[1] - left[1]) * (step - left[0]) / (right[0] - left[0]);
    };
  };

  // A run's name with its dot, where there are two.
  const called = (run, number, tag = "span") => element(tag, {className: "run", textContent: run.name, style: `--c: var(--${number ? "second" : "first"})`});

  const scaleName = (run, k) => run.frames[run.frames.length - 1].scales[k] || "output";
  const classViews = [...new Set(runs.flatMap(run => run.frames.flatMap(frame => frame.views)))];
  const scaleCount = Math.max(...runs.map(run => run.frames[run.frames.length - 1].scales.length));
  const views = [
    {id: "photo", title: "Photo"}, {id: "overlay", title: "Overlay"}, {id: "lovi", title: "LOVI"},
    {id: "combined", title: "Combined"},
    ...classViews.map(name => ({id: `view:${name}`, title: name, name})),
    ...Array.from({length: scaleCount}, (_, k) => ({id: `scale:${k}`, title: `Scale ${k + 1}`, scale: k, hint: scaleName(runs[0], k)})),
  ];
  const state = {at: stops.length - 1, shown: new Set(["photo", "overlay", "lovi"]), opacity: 0.8, filter: "all", order: "own", safe: false, timer: null};

  // ------------------------------------------------------------------ frames
  const unpacked = new Map();
  function mapsOf(run, number) {
    const key = `${runs.indexOf(run)}/${number}`;
    if (!unpacked.has(key)) {
      if (unpacked.size > 64) unpacked.delete(unpacked.keys().next().value);
      unpacked.set(key, unpack(run.frames[number]));
    }
    return unpacked.get(key);
  }
  const photos = new Map();
  function photoOf(run, name) {
    const source = run.photos[name];
    if (!source) return null;
    if (!photos.has(source)) {
      const image = new Image();
      photos.set(source, new Promise(done => { image.onload = () => done(image); image.onerror = () => done(null); image.src = source; }));
    }
    return photos.get(source);
  }

  // ------------------------------------------------------------------ rows
  const classOf = (frame, index) => index === null || index < 0 ? null : frame.classes[index] ?? String(index);
  const verdict = image => image.label === null || image.label < 0 || image.prediction === null ? null : image.label === image.prediction;
  const count = Math.max(...runs.flatMap(run => run.frames.map(frame => frame.images.length)));
  // The images of a second run belong to those of the first that are the same, wherever they stand.
  const latest = (run, slot) => run.frames.findLast(frame => frame.images[slot])?.images[slot];
  const partner = runs.map((run, number) => {
    const [first, own] = [runs[0], run].map(one => Array.from({length: count}, (_, slot) => latest(one, slot)));
    if (!number) return Array.from({length: count}, (_, slot) => slot);
    const same = first.map(image => image ? own.findIndex(other => other && other.photo === image.photo) : -1);
    return same.some(slot => slot >= 0) ? Array.from({length: count}, (_, slot) => slot < same.length ? same[slot] : -1) : Array.from({length: count}, (_, slot) => slot);
  });
  const rows = Array.from({length: count}, (_, slot) => {
    const sides = runs.map((run, number) => {
      const who = element("div", {className: "who"});
      const tiles = element("div", {className: "tiles"});
      return {run, slot: partner[number][slot], who, tiles, canvases: new Map(), box: element("div", {className: "side"}, who, tiles)};
    });
    const box = element("article", {className: "row"}, element("div", {className: "sides"}, ...sides.map(side => side.box)));
    box.dataset.slot = slot;
    $("rows").append(box);
    return {slot, sides, box, near: false};
  });

  function buildTiles() {
    const shown = views.filter(view => state.shown.has(view.id));
    document.documentElement.style.setProperty("--n", Math.max(1, shown.length));
    for (const row of rows) for (const side of row.sides) {
      side.canvases.clear();
      side.tiles.replaceChildren(...shown.map(view => {
        const canvas = element("canvas", {width: 4, height: 4, role: "img"});
        side.canvases.set(view.id, canvas);
        return element("figure", {className: "tile"}, canvas, element("figcaption", {textContent: view.title, title: view.hint || view.title}));
      }));
    }
  }

  // A run that ended earlier, or has fewer frames, shows its latest one.
  const still = frame => placeOf(frame) === stops[state.at] ? [] : [element("span", {className: "gone", textContent: `still ${named(placeOf(frame))}`})];

  function describe(row, number) {
    const side = row.sides[number], frame = side.run.frames[frameAt(side.run, state.at)], image = frame.images[side.slot];
    const parts = [];
    if (two) parts.push(called(side.run, number));
    parts.push(...still(frame));
    parts.push(element("span", {className: "number", textContent: `#${row.slot + 1}`}));
    if (!image) {
      parts.push(element("span", {className: "gone", textContent: latest(side.run, side.slot) ? "not in this frame" : "not in this run"}));
      side.tiles.hidden = true;
    } else {
      side.tiles.hidden = false;
      const [label, guess, right] = [classOf(frame, image.label), classOf(frame, image.prediction), verdict(image)];
      if (label !== null) parts.push(element("b", {textContent: label}));
      if (guess !== null) {
        const text = right === true ? "✓" : right === false ? `✗ taken for ${guess}` : `predicted ${guess}`;
        parts.push(element("span", {className: right === null ? "" : right ? "right" : "wrong", textContent: text, title: right ? "predicted right" : ""}));
      }
    }
    side.who.replaceChildren(...parts);
    return image;
  }

  async function drawSide(row, number) {
    const side = row.sides[number], index = frameAt(side.run, state.at), frame = side.run.frames[index], image = frame.images[side.slot];
    if (!image) return;
    const [maps, photo] = await Promise.all([mapsOf(side.run, index), photoOf(side.run, image.photo)]);
    if (frameAt(side.run, state.at) !== index) return;   // meanwhile the slider has moved on
    const own = maps.images[side.slot], first = own[0], count = frame.scales.length;
    const ratio = photo ? photo.naturalHeight / photo.naturalWidth : first.h / first.w;
    const width = Math.max(1, Math.round(ratio > 1 ? SIDE / ratio : SIDE)), height = Math.max(1, Math.round(ratio > 1 ? SIDE : SIDE * ratio));
    const large = new Map();
    const scale = k => { if (!large.has(k)) large.set(k, enlarge(own[k], height, width)); return large.get(k); };
    const scales = () => Array.from({length: count}, (_, k) => scale(k));
    const label = `${classOf(frame, image.label) ?? `image ${row.slot + 1}`}, ${named(stops[state.at])}`;
    for (const [id, canvas] of side.canvases) {
      const view = views.find(one => one.id === id);
      const name = view.name, k = name === undefined ? view.scale : frame.views.indexOf(name) < 0 ? undefined : count + frame.views.indexOf(name);
      canvas.width = width; canvas.height = height;
      canvas.setAttribute("aria-label", `${view.title} of ${label}${two ? `, ${side.run.name}` : ""}`);
      const context = canvas.getContext("2d");
      const under = () => {
        if (!photo) return;
        context.imageSmoothingEnabled = photo.naturalWidth >= 96;
        context.imageSmoothingQuality = "high";
        context.drawImage(photo, 0, 0, width, height);
      };
      const put = pixels => context.putImageData(new ImageData(pixels, width, height), 0, 0);
      const over = map => {
        under();
        const layer = element("canvas", {width, height});
        const strength = state.opacity;
        layer.getContext("2d").putImageData(new ImageData(colored(map, tables.heat, value => strength * Math.min(1, Math.max(0, (value - 0.3) / 0.55))), width, height), 0, 0);
        context.drawImage(layer, 0, 0);
      };
      if (id === "photo") under();
      else if (id === "overlay") over(stretched(weighted(scales(), deep(frame.grids))));
      else if (id === "lovi") put(lovi(scales(), state.safe ? tables.safe : tables.hue));
      else if (id === "combined") put(colored(weighted(scales(), frame.weights), tables.heat));
      else if (k === undefined || !own[k]) context.clearRect(0, 0, width, height);
      else if (name !== undefined) over(stretched(scale(k)));
      else put(colored(scale(k), tables.heat));
    }
  }

  // How much a row's overlay differs from the first frame's.
  async function change(row) {
    let most = 0;
    for (const side of row.sides) {
      const index = frameAt(side.run, state.at), frame = side.run.frames[index];
      if (!frame.images[side.slot] || !side.run.frames[0].images[side.slot]) continue;
      const [now, then] = await Promise.all([mapsOf(side.run, index), mapsOf(side.run, 0)]);
      deep(frame.grids).forEach((weight, k) => {
        const value = distance(now.images[side.slot][k], then.images[side.slot][k] ?? {});
        if (weight && value > most) most = value;
      });
    }
    return most;
  }

  function passes(row) {
    if (state.filter === "all") return true;
    return row.sides.some(side => {
      const index = frameAt(side.run, state.at), image = side.run.frames[index].images[side.slot];
      if (!image) return false;
      if (state.filter === "changed") {
        const before = index ? side.run.frames[index - 1].images[side.slot] : null;
        return before !== null && before !== undefined && before.prediction !== image.prediction;
      }
      return verdict(image) === (state.filter === "right");
    });
  }

  const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) {
      const row = rows[Number(entry.target.dataset.slot)];
      row.near = entry.isIntersecting;
      if (row.near) row.sides.forEach((_, number) => drawSide(row, number));
    }
  }, {rootMargin: "300px"});
  rows.forEach(row => watcher.observe(row.box));

  // ------------------------------------------------------------------ curves
  const curves = [];
  // A narrow page leaves out the monitor's name, with which the names of its curves begin.
  const prefix = runs.every(run => run.monitor === runs[0].monitor) ? `${runs[0].monitor}/` : "/";
  function legend(name) {
    const parts = name.startsWith(prefix) ? [element("span", {className: "prefix", textContent: prefix}), name.slice(prefix.length)] : [name];
    return element("span", {title: name}, ...parts);
  }
  function buildCurves() {
    const names = [...new Set(runs.flatMap(run => run.values.flatMap(row => Object.keys(row.values))))];
    for (const name of names) {
      const lines = runs.map(run => {
        const place = axisOf(run);
        return run.values.filter(row => name in row.values).map(row => ({x: place(row.step), value: row.values[name]}));
      });
      const all = lines.flat().map(point => point.value);
      const [low, high] = [Math.min(...all), Math.max(...all)], span = high - low || 1, wide = Math.max(1, stops.length - 1);
      const value = element("span");
      const mark = element("div", {className: "mark"});
      const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      drawing.setAttribute("viewBox", "0 0 100 100");
      drawing.setAttribute("preserveAspectRatio", "none");
      drawing.setAttribute("role", "img");
      drawing.setAttribute("aria-label", `${name}: from ${short(lines[0][0]?.value)} to ${short(lines[0][lines[0].length - 1]?.value)}, between ${short(low)} and ${short(high)}`);
      lines.forEach((line, number) => {
        if (!line.length) return;
        const points = line.length === 1 ? [line[0], {...line[0], x: line[0].x + 0.02 * wide}] : line;
        const curve = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
        curve.setAttribute("points", points.map(point => `${100 * point.x / wide},${high === low ? 50 : 100 - 100 * (point.value - low) / span}`).join(" "));
        if (number) curve.setAttribute("class", "second");
        drawing.append(curve);
      });
      const plot = element("div", {className: "plot"}, drawing, mark, element("span", {className: "range top", textContent: short(high)}), ...(high > low ? [element("span", {className: "range low", textContent: short(low)})] : []));
      plot.addEventListener("click", event => {
        const box = drawing.getBoundingClientRect();
        go(Math.round((event.clientX - box.left) / box.width * (stops.length - 1)));
      });
      $("curves").append(element("div", {className: "curve"}, element("header", {}, legend(name), value), plot));
      curves.push({lines, value, mark, wide});
    }
    $("curves-part").hidden = !names.length;
  }
  const short = value => value === undefined ? "–" : Math.abs(value) >= 1000 || (value && Math.abs(value) < 0.001) ? value.toExponential(1) : String(Number(value.toPrecision(Math.abs(value) < 0.01 ? 2 : 3)));
  function markCurves() {
    for (const curve of curves) {
      curve.mark.style.left = `calc(8px + (100% - 56px) * ${state.at / curve.wide})`;
      curve.value.replaceChildren(...curve.lines.flatMap((line, number) => {
        const point = line.filter(one => one.x <= state.at + 1e-6).pop();
        const text = element("span", {textContent: short(point?.value), className: number ? "two-line" : "one-line"});
        return number ? [" · ", text] : [text];
      }));
    }
  }

  // ------------------------------------------------------------------ tables and mean maps
  async function fillScales() {
    const lines = [];
    for (const [number, run] of runs.entries()) {
      const index = frameAt(run, state.at), frame = run.frames[index];
      const [now, then] = await Promise.all([mapsOf(run, index), mapsOf(run, 0)]);
      const total = frame.weights.reduce((sum, weight) => sum + weight, 0);
      frame.scales.forEach((name, k) => {
        const changes = frame.images.map((_, slot) => then.images[slot] ? distance(now.images[slot][k], then.images[slot][k] ?? {}) : NaN).filter(Number.isFinite);
        const mean = changes.length ? changes.reduce((sum, value) => sum + value, 0) / changes.length : NaN;
        lines.push(element("tr", {}, ...(two ? [element("th", {textContent: k ? "" : run.name, scope: "row"})] : []),
          element("th", {textContent: `${k + 1}`, scope: "row"}), element("td", {textContent: name || "output", style: "text-align: left"}),
          element("td", {textContent: frame.grids[k].join(" × ")}), element("td", {textContent: `${Math.round(100 * frame.weights[k] / total)} %`}),
          element("td", {textContent: short(frame.levels[k] ?? undefined)}), element("td", {textContent: Number.isFinite(mean) ? mean.toFixed(2) : "–"})));
      });
      if (frameAt(run, state.at) !== index) return;
    }
    const heads = [...(two ? ["run"] : []), "scale", "module", "grid", "weight", "mean statistic", "changed since the first frame"];
    $("scales").replaceChildren(element("thead", {}, element("tr", {}, ...heads.map((text, column) => element("th", {textContent: text, scope: "col", style: text === "module" ? "text-align: left" : ""})))), element("tbody", {}, ...lines));
  }
  async function drawMeans() {
    const blocks = [];
    for (const [number, run] of runs.entries()) {
      const index = frameAt(run, state.at), frame = run.frames[index];
      if (!frame.means.length) continue;
      const maps = await mapsOf(run, index);
      if (frameAt(run, state.at) !== index) return;
      const tiles = frame.means.map((mean, row) => {
        const map = maps.means[row], side = 120, height = Math.round(side * map.h / map.w);
        const canvas = element("canvas", {width: side, height, role: "img", "aria-label": `Mean map of ${mean.title}${two ? `, ${run.name}` : ""}, ${named(placeOf(frame))}`});
        canvas.getContext("2d").putImageData(new ImageData(colored(enlarge(map, height, side), tables.heat), side, height), 0, 0);
        const most = Math.round(100 * map.values.reduce((a, b) => Math.max(a, b), 0) / LEVELS);
        return element("figure", {className: "tile"}, canvas, element("figcaption", {textContent: `${mean.title} (${mean.count}): up to ${most} %`, title: mean.title}));
      });
      if (two) blocks.push(called(run, number, "h3"), ...still(frame));
      blocks.push(element("div", {className: "of-run"}, ...tiles));
    }
    $("means").replaceChildren(...blocks);
    $("means-part").hidden = !blocks.length;
  }

  // ------------------------------------------------------------------ all of it
  let turn = 0;
  async function show() {
    const own = ++turn;
    $("slider").value = state.at;
    $("slider").setAttribute("aria-valuetext", named(stops[state.at]));
    const frame = runs[0].frames[frameAt(runs[0], state.at)];
    $("epoch").replaceChildren(named(stops[state.at]), element("small", {textContent: `step ${frame.step.toLocaleString("en")}`}));
    markCurves();
    let seen = 0;
    for (const row of rows) {
      row.box.hidden = !passes(row);
      row.sides.forEach((_, number) => describe(row, number));
      if (!row.box.hidden) seen++;
    }
    $("empty").hidden = seen > 0;
    $("empty").textContent = state.filter === "changed" ? "No image has another prediction than in the frame before." : `No image is ${state.filter} here.`;
    if (state.order === "change") {
      const changes = new Map(await Promise.all(rows.map(async row => [row, await change(row)])));
      if (own !== turn) return;
      $("rows").append(...[...rows].sort((a, b) => changes.get(b) - changes.get(a)).map(row => row.box));
    } else $("rows").append(...rows.map(row => row.box));
    await Promise.all(rows.filter(row => row.near && !row.box.hidden).flatMap(row => row.sides.map((_, number) => drawSide(row, number))));
    await Promise.all([fillScales(), drawMeans()]);
    if (own === turn) document.documentElement.dataset.shown = `${state.at}`;
  }
  function go(index) {
    state.at = Math.min(stops.length - 1, Math.max(0, index));
    return show();
  }
  function stop() {
    clearInterval(state.timer);
    state.timer = null;
    $("play").setAttribute("aria-label", "Play");
    $("play-icon").setAttribute("d", "M8 5v14l11-7z");
  }
  function play() {
    if (state.timer) return stop();
    if (state.at === stops.length - 1) go(0);
    state.timer = setInterval(() => { if (state.at >= stops.length - 1) stop(); else go(state.at + 1); }, Math.min(700, Math.max(100, 14000 / stops.length)));
    $("play").setAttribute("aria-label", "Pause");
    $("play-icon").setAttribute("d", "M7 5h4v14H7zM13 5h4v14h-4z");
  }

  for (const view of views) {
    const chip = element("button", {type: "button", className: "chip", textContent: view.title, title: view.hint || view.title});
    chip.dataset.view = view.id;
    chip.setAttribute("aria-pressed", state.shown.has(view.id));
    chip.addEventListener("click", () => {
      if (state.shown.has(view.id)) { if (state.shown.size > 1) state.shown.delete(view.id); } else state.shown.add(view.id);
      chip.setAttribute("aria-pressed", state.shown.has(view.id));
      buildTiles();
      show();
    });
    $("views").append(chip);
  }
  $("slider").max = stops.length - 1;
  $("slider").disabled = stops.length < 2;
  $("play").disabled = stops.length < 2;
  $("slider").addEventListener("input", event => { stop(); go(Number(event.target.value)); });
  $("play").addEventListener("click", play);
  $("opacity").addEventListener("input", event => { state.opacity = Number(event.target.value) / 100; show(); });
  $("filter").addEventListener("change", event => { state.filter = event.target.value; show(); });
  $("order").addEventListener("change", event => { state.order = event.target.value; show(); });
  $("safe").addEventListener("change", event => { state.safe = event.target.checked; paintKeys(); show(); });
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input:not([type=range])")) return;
    if (event.target.id === "opacity" && event.key.startsWith("Arrow")) return;
    const moves = {ArrowLeft: state.at - 1, ArrowRight: state.at + 1, Home: 0, End: stops.length - 1};
    if (event.key in moves) { event.preventDefault(); stop(); go(moves[event.key]); }
    else if (event.key === " " && !event.target.closest("button")) { event.preventDefault(); play(); }
  });

  function paintKeys() {
    for (const [id, table, backwards] of [["key-heat", tables.heat, false], ["key-lovi", state.safe ? tables.safe : tables.hue, true]]) {
      const pixels = new Uint8ClampedArray(1024);
      for (let i = 0; i < 256; i++) {
        const color = 3 * (backwards ? 255 - i : i);
        pixels.set([table[color], table[color + 1], table[color + 2], 255], 4 * i);
      }
      $(id).getContext("2d").putImageData(new ImageData(pixels, 256, 1), 0, 0);
    }
  }

  const frames = runs.map(run => run.frames.length);
  $("about").textContent = runs.map(run => {
    const left = run.left_out ? `, ${run.left_out} left out to keep the file small` : "";
    const [one, all] = [run.frames[0], run.frames.length], images = new Set(run.frames.flatMap(frame => frame.listed.map(image => image.slot))).size;
    return `${run.name}: ${all} ${all === 1 ? "frame" : "frames"}${left}, ${images} images, ${one.scales.length} scales`;
  }).join(" · ");
  // As many labels as there is room for.
  function layTicks() {
    const width = $("ticks").clientWidth, wide = stops.length - 1, ticks = [];
    const step = Math.max(1, Math.ceil(stops.length / Math.max(2, Math.min(9, width / 48))));
    for (let index = 0; index <= wide; index += step) {
      const at = wide ? width * index / wide : 0;
      const text = stops[index] < 0 ? "start" : String(stops[index]);
      const room = index === 0 || (at > (stops[0] < 0 ? 42 : 30) && (index === wide || width - at > 30));
      if (room) ticks.push([index, text]);
    }
    if (wide && ticks[ticks.length - 1][0] !== wide) ticks.push([wide, String(stops[wide])]);
    $("ticks").replaceChildren(...ticks.map(([index, text]) => element("span", {textContent: text, style: `left: ${wide ? 100 * index / wide : 0}%`})));
  }
  new ResizeObserver(layTicks).observe($("ticks"));
  paintKeys();
  buildTiles();
  buildCurves();
  await show();
  document.documentElement.dataset.ready = "yes";
})();
