// One pair at a time, decoded when it is shown.
const SIDES = ["query", "reference"];
const FACTS = [[/^s_headless$/u, "without the head"], [/^s_base_(.*)$/u, "query replaced by $1"]];
const JOINED = 12; // lines at most
function explore() {
  const { runs, inferno, negative, flags } = block("explorer-index");
  const colours = { inferno: bytes(inferno), negative: rgb(negative) };
  const pictures = new Map();
  let [run, listed, pair, known, shown, turn, thumbs, beside] = [null, [], null, null, [], 0, [], null];
  const number = (name, otherwise) => { const value = Number(state[name]); return state[name] !== undefined && value >= 0 && value <= 100 ? value : otherwise; };
  const inWords = (reason) => flags[reason] ?? String(reason).replaceAll("_", " ");
  const same = (one) => one.query_id === state.query && one.reference_id === state.reference;

  async function picture(name) {
    if (!pictures.has(name)) {
      const image = new Image();
      image.src = block(name);
      await image.decode();
      const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      pictures.set(name, pen.getImageData(0, 0, canvas.width, canvas.height));
    }
    return pictures.get(name);
  }

  function choose() { // everything that hangs on the address
    run = runs.find((one) => one.anchor === state.run) ?? runs[0];
    $("run").value = run.anchor;
    const kinds = [...new Set(run.pairs.map((one) => one.kind))];
    $("kind").replaceChildren(make("option", { value: "", textContent: "all" }), ...kinds.map((value) => make("option", { value, textContent: value })));
    $("kind").value = kinds.includes(state.kind) ? state.kind : "";
    $("class").value = state.class ?? "";
    $("opacity").value = number("opacity", 80);
    $("threshold").value = number("threshold", 0);
    const there = (state.method ?? []).filter((one) => run.methods.includes(one));
    const seeing = run.methods.filter((one) => !run.blind.includes(one));
    const marked = new Set(there.length || state.method ? there : [...seeing.slice(0, 3), ...run.blind.slice(0, 1)]);
    $("methods").replaceChildren(...run.methods.map((value, place) => {
      const box = make("input", { type: "checkbox", value, checked: marked.has(value) });
      return make("label", { className: run.blind.includes(value) ? "blind" : "" }, box, " ", swatch(place), value);
    }));
    list();
    const left = run.pictured - run.pairs.length;
    const failed = run.pairs.filter((one) => one.failed.length).length;
    $("count").textContent = `Images are stored for ${run.pictured} of ${run.of} pairs${left ? `; the last ${left} are omitted to limit the size of the page` : ""}. ${run.failures ? `Shown here: ${failed} of ${run.failures} failures.` : "No pair is a failure."}`;
  }

  function swatch(place) { // the line of a method in the charts
    const [stroke, dash] = line(place);
    return svg("svg", { class: "swatch", viewBox: "0 0 32 12", "aria-hidden": "true" }, svg("path", { d: "M0 6H32", stroke, "stroke-width": 3, "stroke-dasharray": dash }));
  }

  function list() {
    const text = $("class").value.trim().toLowerCase();
    listed = run.pairs.filter((one) => (!$("kind").value || one.kind === $("kind").value) && (!text || `${one.query_class}\n${one.reference_class}`.toLowerCase().includes(text)));
    const groups = [["Failures", (one) => one.failed.length], ["Flagged", (one) => !one.failed.length && one.flagged.length], ["Others, worst first", (one) => !one.failed.length && !one.flagged.length]];
    seen.disconnect();
    thumbs = [];
    $("pair").replaceChildren(...groups.flatMap(([label, fits]) => {
      const options = listed.map((one, at) => [one, at]).filter(([one]) => fits(one)).map(([one, at]) => (thumbs[at] = thumbnail(one, at)));
      const group = make("div", { role: "group", ariaLabel: `${label} (${options.length})` }, make("p", { textContent: `${label} (${options.length})`, ariaHidden: "true" }), ...options);
      return options.length ? [group] : [];
    }));
    $("matches").textContent = `${listed.length} of ${run.pairs.length} pairs match`;
    const at = listed.findIndex(same);
    show(at < 0 ? 0 : at);
  }

  // Two small images, read when they come into view
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting) { target.src = block(target.dataset.block); seen.unobserve(target); }
  }, { root: $("pair"), rootMargin: "100px" });
  function thumbnail(one, at) {
    const images = one.images.map((name) => { const image = make("img", { alt: "" }); image.dataset.block = name; seen.observe(image); return image; });
    const made = make("div", { role: "option", id: `pair-${at}`, title: named(one), ariaLabel: named(one), ariaSelected: "false" }, ...images);
    made.addEventListener("click", () => show(at));
    return made;
  }

  const named = (one) => `${[...new Set([one.query_class, one.reference_class])].join(" / ")} · ${one.query_id} → ${one.reference_id}`;

  async function show(at) {
    const mine = ++turn;
    pair = listed[at] ?? null;
    $("stage").hidden = !pair;
    $("pair-title").textContent = pair ? named(pair) : "No pair matches";
    $("flags").replaceChildren();
    for (const [place, one] of thumbs.entries()) one.ariaSelected = String(place === at);
    if (!pair) { $("facts").textContent = ""; $("pair").removeAttribute("aria-activedescendant"); return; }
    $("pair").setAttribute("aria-activedescendant", thumbs[at].id);
    const [list, box] = [$("pair"), thumbs[at]]; // without moving the page, as scrollIntoView would
    list.scrollTop = Math.min(box.offsetTop - 4, Math.max(list.scrollTop, box.offsetTop + box.offsetHeight + 4 - list.clientHeight));
    if (!same(pair)) { keep({ query: pair.query_id, reference: pair.reference_id, point: "" }); }
    const others = runs.filter((one) => one !== run).map((one) => [one, one.pairs.find(({ query_id, reference_id, images }) => query_id === pair.query_id && reference_id === pair.reference_id && String(images) === String(pair.images))]).filter(([, same]) => same);
    const [next, two, also] = await Promise.all([inflate(block(pair.block)), Promise.all(pair.images.map(picture)), Promise.all(others.map(async ([one, same]) => [one, await inflate(block(same.block))]))]);
    if (mine !== turn) return; // another pair was asked for meanwhile
    known = { ...next, two };
    offer([[run, next], ...also]);
    const kept = [...(known.points ? [["points", "the exact decomposition"]] : []), ...Object.keys(known.matches).map((name) => [name, name])];
    $("lines").replaceChildren(make("option", { value: "", textContent: "none" }), ...kept.map(([value, textContent]) => make("option", { value, textContent })));
    $("lines").value = kept.some(([value]) => value === state.lines) ? state.lines : "";
    for (const text of [...pair.failed, ...pair.flagged]) $("flags").append(make("li", { textContent: text }));
    const score = pair.score === null ? [] : [`similarity ${pair.score.toFixed(3)}`];
    const facts = Object.entries(known.facts).filter(([name]) => FACTS.some(([pattern]) => pattern.test(name)));
    $("facts").textContent = [pair.kind, ...score, ...facts.map(([name, value]) => `${FACTS.reduce((text, [pattern, words]) => text.replace(pattern, words), name).replaceAll("_", " ")} ${inWords(value)}`)].join(" · ");
    layOut();
  }

  const methods = () => [...$("methods").querySelectorAll("input:checked")].map((box) => box.value);
  const settings = () => ({ opacity: $("opacity").value / 100, threshold: $("threshold").value / 100, ...colours });
  const decoded = (map) => map && { rows: map.rows, cols: map.cols, values: Float32Array.from(signed(map.data), (value) => value / 127) };

  function panel(title, name, maps, words, whole) {
    const sides = SIDES.map((side, at) => {
      const canvas = make("canvas", { className: side });
      Object.assign(canvas.dataset, { method: name, side });
      canvas.addEventListener("click", (event) => pointAt(at, event));
      if (whole) { canvas.tabIndex = 0; canvas.addEventListener("keydown", (event) => step(at, event)); }
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${side}, ${name ? `map of ${name}` : "as given to the model"}${maps[at] || !name || !words ? "" : `: ${words}`}`);
      return make("div", {}, canvas, make("p", { textContent: side + (words && name && !maps[at] ? `: ${words}` : "") }));
    });
    const holder = make("div", { className: "sides" }, ...sides);
    shown.push({ canvases: sides.map((side) => side.firstChild), maps, name, holder });
    return make("figure", { className: whole ? "panel whole" : "panel" }, make("figcaption", {}, ...(run.methods.includes(name) ? [swatch(run.methods.indexOf(name))] : []), title), holder);
  }

  // Two maps of this pair with a border to move between them: of two methods, or of two models
  function offer(found) {
    const choices = found.flatMap(([one, packed]) => one.methods.filter((method) => packed.maps[method]).map((method) => ({ value: `${one.anchor}/${method}`, textContent: one === run ? method : `${method} (${one.title})`, maps: packed.maps[method] })));
    beside = new Map(choices.map((one) => [one.value, one]));
    for (const side of ["left", "right"]) {
      $(side).replaceChildren(make("option", { value: "", textContent: "none" }), ...choices.map(({ value, textContent }) => make("option", { value, textContent })));
      const kept = beside.has(state[side]) ? state[side] : `${run.anchor}/${String(state[side]).split("/").pop()}`;
      $(side).value = beside.has(kept) ? kept : "";
    }
  }

  function comparison() {
    const two = ["left", "right"].map((side) => beside.get($(side).value));
    if (!two.every(Boolean)) return [];
    const made = panel(`${two[0].textContent} | ${two[1].textContent}`, two.map((one) => one.textContent).join(" | "), [null, null], "", true);
    Object.assign(shown.at(-1), { compared: SIDES.map((_, at) => two.map((one) => decoded(one.maps[at]))) });
    const slider = make("input", { type: "range", id: "wipe", min: 0, max: 100, value: number("wipe", 50), ariaLabel: "Border between the two maps" });
    slider.addEventListener("input", () => { keep({ wipe: slider.value }); cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); });
    made.append(slider, make("p", { className: "note", textContent: `Left of the border: ${two[0].textContent}; right of it: ${two[1].textContent}.` }));
    return [made];
  }

  // The pairs of cells that contribute most together, of one cell where a point is chosen: places as shares, and the value
  function matches(spot) {
    const [rows, cols, otherRows, otherCols] = known.points.grid;
    known.roots ??= signed(known.points.data);
    const [all, others] = [known.roots, otherRows * otherCols];
    const there = ([row, col], wide) => row * wide + col;
    let places = Array.from(all.keys());
    if (spot) places = places.filter((at) => (spot.side === 0 ? Math.floor(at / others) === there(spot.at, cols) : at % others === there(spot.at, otherCols)));
    return places.filter((at) => all[at]).sort((one, two) => Math.abs(all[two]) - Math.abs(all[one])).slice(0, spot ? 3 : JOINED).map((at) => {
      const [mine, theirs] = [Math.floor(at / others), at % others];
      const centre = (place, high, wide) => [(Math.floor(place / wide) + 0.5) / high, ((place % wide) + 0.5) / wide];
      return [...centre(mine, rows, cols), ...centre(theirs, otherRows, otherCols), Math.sign(all[at]) * all[at] * all[at]];
    });
  }

  function layOut() {
    shown = [];
    const chosen = methods();
    const why = (name) => known.maps[name] ? "no map, or a constant map" : "no map is stored";
    $("panels").replaceChildren(panel("The pair", "", [null, null], "", true), ...comparison(), ...chosen.map((name) => panel(name, name, (known.maps[name] ?? [null, null]).map(decoded), why(name), false)));
    const walks = Map.groupBy(known.curves.filter((one) => chosen.includes(one.method)), (one) => one.words);
    $("curves").replaceChildren(...[...walks].map(([words, curves]) => chart(`${words}: ${curves[0].curve.startsWith("insertion") ? "a fast rise is better" : "a fast fall is better"}`, curves[0].curve.startsWith("insertion") ? "restored" : "removed",
      curves.map((one) => ({ name: one.method, place: run.methods.indexOf(one.method), x: shorts(one.x), y: shorts(one.y).map((y) => one.low + y * (one.high - one.low)) })))));
    if (!walks.size) $("curves").append(make("p", { className: "note", textContent: "No curves are stored for these methods." }));
    fillValues(chosen);
    draw();
  }

  function fillValues(chosen) {
    const hidden = new Set(state.hide ?? []);
    const head = make("tr", {}, ...["metric", ...chosen].map((textContent) => make("th", { scope: "col", textContent })));
    const rows = Object.entries(run.metrics).filter(([name, [label]]) => known.values[name] && !hidden.has(bare(label))).map(([name, [label]]) =>
      make("tr", {}, make("th", { scope: "row", textContent: label }), ...chosen.map((method) => {
        const value = known.values[name][run.methods.indexOf(method)];
        return typeof value === "string" ? make("td", { className: "why", textContent: inWords(value) }) : make("td", { textContent: value ?? "--" });
      })));
    $("values").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function draw() {
    if (!known) return;
    const how = settings();
    $("opacity-value").textContent = `${$("opacity").value} %`;
    $("threshold-value").textContent = `${$("threshold").value} %`;
    const spot = point();
    for (const { canvases, maps, name, compared } of shown)
      canvases.forEach((canvas, at) => {
        const joint = !name && spot && at !== spot.side ? spotMap(spot) : null;
        if (compared) wipe(canvas, known.two[at], compared[at], $("wipe").value / 100, how);
        else paint(canvas, known.two[at], maps[at] ?? joint, how);
        if (spot && at === spot.side) ring(canvas, spot.grid, spot.at);
      });
    drawLines(spot);
    say(spot);
  }

  function drawLines(spot) {
    const { holder, canvases } = shown[0];
    const of = $("lines").value;
    join(holder, canvases, of === "points" ? matches(spot) : known.matches[of] ?? []);
  }

  // Points: "side.row.col" in the address
  function point() {
    const [side, row, col] = (state.point ?? "").split(".").map(Number);
    if (!known.points || ![0, 1].includes(side)) return null;
    const grid = known.points.grid.slice(2 * side, 2 * side + 2);
    return row >= 0 && row < grid[0] && col >= 0 && col < grid[1] ? { side, at: [row, col], grid } : null;
  }

  function spotMap({ side, at, grid }) {
    const [rows, cols, otherRows, otherCols] = known.points.grid;
    known.roots ??= signed(known.points.data);
    const [place, others] = [at[0] * grid[1] + at[1], otherRows * otherCols];
    const values = side === 0 ? Array.from(known.roots.subarray(place * others, (place + 1) * others)) : Array.from({ length: rows * cols }, (_, i) => known.roots[i * others + place]);
    const whole = values.map((root) => Math.sign(root) * root * root);
    const top = Math.max(...whole.map(Math.abs)) || 1;
    return { rows: side === 0 ? otherRows : rows, cols: side === 0 ? otherCols : cols, values: whole.map((value) => value / top) };
  }

  function say(spot) {
    const other = spot && SIDES[1 - spot.side];
    $("point").textContent = !known.points ? "This run has no point-to-point maps: maps.save=true stores them for the similarity target and at most 256 positions in each image."
      : !spot ? `${matchMedia("(pointer: coarse)").matches ? "Tap a point of either image" : "Click a point of either image, or focus it and press an arrow key,"} to see the matching points of the other.`
      : `Row ${spot.at[0] + 1}, column ${spot.at[1] + 1} of the ${SIDES[spot.side]} contributes ${known.points.sums[spot.side][spot.at[0] * spot.grid[1] + spot.at[1]]} of ${known.points.total}; matching regions of the ${other} are highlighted. Escape clears the point.`;
  }

  function setPoint(side, row, col) {
    if (!known?.points) return;
    const grid = known.points.grid.slice(2 * side, 2 * side + 2);
    const within = (value, size) => Math.min(size - 1, Math.max(0, value));
    keep({ point: [side, within(row, grid[0]), within(col, grid[1])].join(".") });
    draw();
  }

  function pointAt(side, event) {
    if (!known?.points) return;
    const box = event.currentTarget.getBoundingClientRect();
    const [rows, cols] = known.points.grid.slice(2 * side, 2 * side + 2);
    setPoint(side, Math.floor(((event.clientY - box.top) / box.height) * rows), Math.floor(((event.clientX - box.left) / box.width) * cols));
  }

  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  function step(side, event) {
    const move = MOVES[event.key];
    if (!move || !known?.points) return;
    event.preventDefault();
    event.stopPropagation();
    const spot = point();
    if (spot?.side === side) setPoint(side, spot.at[0] + move[0], spot.at[1] + move[1]);
    else setPoint(side, ...known.points.grid.slice(2 * side, 2 * side + 2).map((size) => Math.floor(size / 2)));
  }

  function go(by) {
    if (!listed.length) return;
    show(Math.min(listed.length - 1, Math.max(0, listed.indexOf(pair) + by)));
  }

  const scale = Array.from({ length: 255 }, (_, at) => (at - 127) / 127);
  const grey = new ImageData(new Uint8ClampedArray(255 * 4).fill(150).map((value, at) => (at % 4 === 3 ? 255 : value)), 255, 1);
  paint($("scale"), grey, { rows: 1, cols: 255, values: scale }, { opacity: 1, threshold: 0, ...colours });
  $("run").replaceChildren(...runs.map((one) => make("option", { value: one.anchor, textContent: one.title })));
  $("run").addEventListener("change", () => { keep({ run: $("run").value, kind: "", class: "", query: "", reference: "", point: "", method: undefined }); choose(); });
  $("kind").addEventListener("change", () => { keep({ kind: $("kind").value }); list(); });
  $("class").addEventListener("input", () => { keep({ class: $("class").value }); list(); });
  $("pair").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, Home: -listed.length, End: listed.length }[event.key];
    if (by) { event.preventDefault(); go(by); }
  });
  for (const side of ["left", "right"]) $(side).addEventListener("change", () => { keep({ [side]: $(side).value }); layOut(); });
  $("lines").addEventListener("change", () => { keep({ lines: $("lines").value }); draw(); });
  addEventListener("resize", () => { if (known) drawLines(point()); });
  $("methods").addEventListener("change", () => { keep({ method: methods().length ? methods() : ["none"] }); layOut(); });
  let frame = 0;
  for (const name of ["opacity", "threshold"])
    $(name).addEventListener("input", () => { keep({ [name]: $(name).value }); cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); });
  $("previous").addEventListener("click", () => go(-1));
  $("next").addEventListener("click", () => go(1));
  document.addEventListener("restored", choose);
  document.addEventListener("filtered", () => { if (known) fillValues(methods()); });
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches('input[type="search"], select')) return;
    if (key === "Escape" && state.point) { keep({ point: "" }); draw(); return; }
    const arrows = !target.matches("input, .scroll, .values, canvas");
    const by = { j: 1, k: -1, ...(arrows ? { ArrowRight: 1, ArrowLeft: -1 } : {}) }[key];
    if (by) { event.preventDefault(); go(by); }
  });
}
