// One pair at a time, decoded when it is shown.
const SIDES = ["query", "reference"];
function explore() {
  const { runs, inferno, negative, flags } = block("explorer-index");
  const colours = { inferno: bytes(inferno), negative: rgb(negative) };
  const pictures = new Map();
  let [run, listed, pair, known, shown, turn] = [null, [], null, null, [], 0];
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
      const [stroke, dash] = line(place);
      const swatch = svg("svg", { class: "swatch", viewBox: "0 0 32 12", "aria-hidden": "true" }, svg("path", { d: "M0 6H32", stroke, "stroke-width": 3, "stroke-dasharray": dash }));
      return make("label", { className: run.blind.includes(value) ? "blind" : "" }, box, " ", swatch, value);
    }));
    list();
    const left = run.pictured - run.pairs.length;
    const failed = run.pairs.filter((one) => one.failed.length).length;
    $("count").textContent = `Images are stored for ${run.pictured} of ${run.of} pairs${left ? `; the last ${left} are omitted to limit the size of the page` : ""}. Shown here: ${failed} of ${run.failures} failures.`;
  }

  function list() {
    const text = $("class").value.trim().toLowerCase();
    listed = run.pairs.filter((one) => (!$("kind").value || one.kind === $("kind").value) && (!text || `${one.query_class}\n${one.reference_class}`.toLowerCase().includes(text)));
    const groups = [["Failures", (one) => one.failed.length], ["Flagged", (one) => !one.failed.length && one.flagged.length], ["Others, worst first", (one) => !one.failed.length && !one.flagged.length]];
    $("pair").replaceChildren(...groups.flatMap(([label, fits]) => {
      const options = listed.map((one, value) => [one, value]).filter(([one]) => fits(one)).map(([one, value]) => make("option", { value, textContent: named(one) }));
      return options.length ? [make("optgroup", { label: `${label} (${options.length})` }, ...options)] : [];
    }));
    $("matches").textContent = `${listed.length} of ${run.pairs.length} pairs match`;
    const at = listed.findIndex(same);
    show(at < 0 ? 0 : at);
  }

  const named = (one) => `${[...new Set([one.query_class, one.reference_class])].join(" / ")} · ${one.query_id} → ${one.reference_id}`;

  async function show(at) {
    const mine = ++turn;
    pair = listed[at] ?? null;
    $("stage").hidden = !pair;
    $("pair-title").textContent = pair ? named(pair) : "No pair matches";
    $("flags").replaceChildren();
    if (!pair) { $("facts").textContent = ""; return; }
    if (!same(pair)) { keep({ query: pair.query_id, reference: pair.reference_id, point: "" }); }
    $("pair").value = at;
    const next = block(pair.block);
    const two = await Promise.all(next.images.map(picture));
    if (mine !== turn) return; // another pair was asked for meanwhile
    known = { ...next, two };
    for (const text of [...pair.failed, ...pair.flagged]) $("flags").append(make("li", { textContent: text }));
    const score = pair.score === null ? [] : [`score ${pair.score.toFixed(3)}`];
    $("facts").textContent = [pair.kind, ...score, ...Object.entries(known.facts).filter(([name]) => /^s_/u.test(name)).map(([name, value]) => `${name} ${inWords(value)}`)].join(" · ");
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
      canvas.setAttribute("aria-label", `${side}, ${name ? `map of ${name}` : "as given to the model"}${maps[at] || !name ? "" : `: ${words}`}`);
      return make("div", {}, canvas, make("p", { textContent: side + (name && !maps[at] ? `: ${words}` : "") }));
    });
    shown.push({ canvases: sides.map((side) => side.firstChild), maps, name });
    return make("figure", { className: whole ? "panel whole" : "panel" }, make("figcaption", { textContent: title }), make("div", { className: "sides" }, ...sides));
  }

  function layOut() {
    shown = [];
    const chosen = methods();
    const why = (name) => known.maps[name] ? "no map, or a constant map" : "no map is stored";
    $("panels").replaceChildren(panel("The pair", "", [null, null], "", true), ...chosen.map((name) => panel(name, name, (known.maps[name] ?? [null, null]).map(decoded), why(name), false)));
    const walks = Map.groupBy(known.curves.filter((one) => chosen.includes(one.method)), (one) => one.words);
    $("curves").replaceChildren(...[...walks].map(([words, curves]) => chart(words, curves[0].curve.startsWith("insertion") ? "restored" : "removed",
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
    for (const { canvases, maps, name } of shown)
      canvases.forEach((canvas, at) => {
        const joint = !name && spot && at !== spot.side ? spotMap(spot) : null;
        paint(canvas, known.two[at], maps[at] ?? joint, how);
        if (spot && at === spot.side) ring(canvas, spot.grid, spot.at);
      });
    say(spot);
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
      : !spot ? "Click a point of either image, or focus it and press an arrow key, to see the matching points of the other."
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

  $("run").replaceChildren(...runs.map((one) => make("option", { value: one.anchor, textContent: one.title })));
  $("run").addEventListener("change", () => { keep({ run: $("run").value, kind: "", class: "", query: "", reference: "", point: "", method: undefined }); choose(); });
  $("kind").addEventListener("change", () => { keep({ kind: $("kind").value }); list(); });
  $("class").addEventListener("input", () => { keep({ class: $("class").value }); list(); });
  $("pair").addEventListener("change", () => show(Number($("pair").value)));
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
