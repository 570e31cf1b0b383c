// Maps over images, and curves.
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]; // Okabe and Ito
const DASHES = ["", "7 3", "2 2", "8 2 2 2"];
const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const signed = (text) => new Int8Array(bytes(text).buffer);
const shorts = (text) => { const view = new DataView(bytes(text).buffer); return Array.from({ length: view.byteLength / 2 }, (_, at) => view.getUint16(2 * at, true) / 65535); };
const line = (place) => [COLOURS[place % 6], DASHES[(place + Math.floor(place / 6)) % 4]]; // neighbours differ by more than colour
const inflate = async (text) => JSON.parse(await new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))).text());
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// A map in [-1, 1] at (row, col) of a picture of rows x cols, as PIL's bilinear resizing has it
function sampler(map, rows, cols) {
  const axis = (size, coarse) => Array.from({ length: size }, (_, at) => {
    const where = Math.min(coarse - 1, Math.max(0, ((at + 0.5) * coarse) / size - 0.5));
    const low = Math.floor(where);
    return [low, Math.min(coarse - 1, low + 1), where - low];
  });
  const [down, across] = [axis(rows, map.rows), axis(cols, map.cols)];
  return (row, col) => {
    const [[top, bottom, v], [left, right, h]] = [down[row], across[col]];
    const of = (r) => map.values[r * map.cols + left] * (1 - h) + map.values[r * map.cols + right] * h;
    return of(top) * (1 - v) + of(bottom) * v;
  };
}

// The image in grey under the map: inferno for positive values, blue for negative ones, opaque by magnitude
function paint(canvas, picture, map, { opacity, threshold, inferno, negative }) {
  const { width, height, data } = picture;
  Object.assign(canvas, { width, height });
  const out = new ImageData(new Uint8ClampedArray(data), width, height);
  if (map) {
    const value = sampler(map, height, width);
    for (let row = 0, at = 0; row < height; row++)
      for (let col = 0; col < width; col++, at += 4) {
        const v = value(row, col);
        const size = Math.min(1, Math.abs(v));
        const alpha = size < threshold ? 0 : opacity * size;
        const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
        const shade = 3 * Math.round(255 * size);
        for (let k = 0; k < 3; k++) out.data[at + k] = alpha * (v > 0 ? inferno[shade + k] : negative[k]) + (1 - alpha) * grey;
      }
  }
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(out, 0, 0);
}

// The right map to the right of `share` of the width, the left one elsewhere
function wipe(canvas, picture, [left, right], share, how) {
  const over = document.createElement("canvas");
  paint(over, picture, right, how);
  paint(canvas, picture, left, how);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const at = Math.round(share * canvas.width);
  if (at < canvas.width) pen.drawImage(over, at, 0, canvas.width - at, canvas.height, at, 0, canvas.width - at, canvas.height);
  for (const [width, fillStyle] of [[4, "#000000"], [2, "#ffffff"]]) { pen.fillStyle = fillStyle; pen.fillRect(at - width / 2, 0, width, canvas.height); }
}

// Lines from places of one canvas to places of another, over the element that holds both
function join(holder, canvases, matches) {
  holder.querySelector(".joins")?.remove();
  if (!matches.length) return;
  const outer = holder.getBoundingClientRect();
  const place = (side, down, across) => {
    const box = canvases[side].getBoundingClientRect();
    return [box.left - outer.left + across * box.width, box.top - outer.top + down * box.height];
  };
  const top = Math.abs(matches[0][4]);
  holder.append(svg("svg", { class: "joins", viewBox: `0 0 ${outer.width} ${outer.height}`, "aria-hidden": "true" }, ...matches.flatMap(([down, across, otherDown, otherAcross, value]) => {
    const [[x1, y1], [x2, y2]] = [place(0, down, across), place(1, otherDown, otherAcross)];
    const width = 1 + 3 * Math.abs(value / top);
    return [["#000000", width + 2, ""], [value > 0 ? "#ffd54a" : "#56B4E9", width, value > 0 ? "" : "6 4"]].map(([stroke, wide, dash]) => svg("line", { x1, y1, x2, y2, stroke, "stroke-width": wide, "stroke-dasharray": dash, "stroke-linecap": "round" }));
  })));
}

function ring(canvas, [rows, cols], [row, col]) {
  const [high, wide] = [canvas.height / rows, canvas.width / cols];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  for (const [width, colour] of [[4, "#000000"], [2, "#ffffff"]]) {
    Object.assign(pen, { lineWidth: width, strokeStyle: colour });
    pen.strokeRect(col * wide + 1, row * high + 1, wide - 2, high - 2);
  }
}

function svg(name, fields, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [field, value] of Object.entries(fields)) element.setAttribute(field, value);
  element.append(...children);
  return element;
}

// One chart of several curves { name, place, x, y }; the values at the pointer stand in a tip
function chart(title, restored, curves) {
  const [width, height, left, right, top, bottom] = [340, 190, 44, 8, 8, 34];
  const all = curves.flatMap((one) => one.y);
  const [low, high] = [Math.min(0, ...all), Math.max(...all)];
  const px = (x) => left + x * (width - left - right);
  const py = (y) => height - bottom - ((y - low) / (high - low || 1)) * (height - top - bottom);
  const label = (x, y, text, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, text);
  const ends = curves.map((one) => `${one.name} from ${one.y[0].toFixed(2)} to ${one.y.at(-1).toFixed(2)}`).join("; ");
  const at = svg("line", { class: "at", y1: top, y2: height - bottom, visibility: "hidden" });
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: score by share of pixels ${restored}. ${ends}` },
    svg("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
    ...[0, 0.5, 1].map((x) => label(px(x), height - bottom + 14, String(x))),
    ...[low, (low + high) / 2, high].map((y) => label(left - 5, py(y) + 4, y.toFixed(2), "end")),
    label((left + width) / 2, height - 5, `share of pixels ${restored}`),
    svg("text", { x: -(top + height - bottom) / 2, y: 10, "text-anchor": "middle", transform: "rotate(-90)" }, "similarity"),
    ...curves.map((one) => {
      const [stroke, dash] = line(one.place);
      const points = one.x.map((x, i) => `${px(x).toFixed(1)},${py(one.y[i]).toFixed(1)}`).join(" ");
      return svg("polyline", { points, fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash, "data-method": one.name });
    }), at);
  const tip = make("div", { className: "tip", hidden: true });
  const figure = make("div", { className: "chart" }, make("h4", { textContent: title }), drawn, tip);
  drawn.addEventListener("pointermove", (event) => {
    const box = drawn.getBoundingClientRect();
    const x = Math.min(1, Math.max(0, (((event.clientX - box.left) / box.width) * width - left) / (width - left - right)));
    const near = (one) => one.x.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(one.x[best] - x) ? i : best), 0);
    const lines = curves.map((one) => `${one.y[near(one)].toFixed(3)}  ${one.name}`);
    const shown = curves[0].x[near(curves[0])];
    Object.assign(tip, { hidden: false, textContent: [`at ${(100 * shown).toFixed(0)} %`, ...lines].join("\n") });
    tip.style.left = x < 0.5 ? "55%" : "14%";
    for (const end of ["x1", "x2"]) at.setAttribute(end, px(shown));
    at.setAttribute("visibility", "visible");
  });
  drawn.addEventListener("pointerleave", () => { tip.hidden = true; at.setAttribute("visibility", "hidden"); });
  return figure;
}
