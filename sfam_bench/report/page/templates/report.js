// What the address holds, the theme, and tables that can be sorted and filtered.
const $ = (id) => document.getElementById(id);
const block = (id) => JSON.parse($(id).textContent);
const make = (name, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(name), fields);
  element.append(...children);
  return element;
};
const LISTS = new Set(["method", "hide", "sort"]);
const state = {};
let saving = 0;

function readAddress() {
  const text = location.hash.slice(1);
  for (const name of Object.keys(state)) delete state[name];
  if (!text.includes("=")) return;
  for (const [name, value] of new URLSearchParams(text))
    if (LISTS.has(name)) (state[name] ??= []).push(value);
    else state[name] = value;
}

function keep(changes) {
  Object.assign(state, changes);
  clearTimeout(saving);
  saving = setTimeout(() => { // browsers allow some 200 changes in half a minute
    const params = new URLSearchParams();
    for (const [name, value] of Object.entries(state))
      for (const one of [value].flat()) if (one !== undefined && one !== "") params.append(name, one);
    history.replaceState(null, "", "#" + params);
  }, 120);
}

const system = matchMedia("(prefers-color-scheme: dark)");
function applyTheme() {
  $("theme").value = ["light", "dark"].includes(state.theme) ? state.theme : "";
  document.documentElement.dataset.theme = $("theme").value || (system.matches ? "dark" : "light");
}

// Tables
const bare = (text) => text.replace(/\s*[↑↓]\s*$/u, "").trim();
const tables = [...document.querySelectorAll("figure.table")].map((figure, number) => {
  const heads = [...figure.querySelectorAll("thead th")];
  const rows = [...figure.querySelectorAll("tbody tr")];
  const titles = heads.map((head) => head.firstChild.textContent.trim());
  return { figure, number, heads, rows, titles, labels: titles.map(bare), body: figure.querySelector("tbody"), sorted: null };
});

function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.textContent.trim();
  if (column === 0) return text;
  if (text === "--" || text === "–" || text === "flagged") return null;
  const number = /^[+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?/iu.exec(text);
  return number ? Number(number[0].replaceAll(",", "")) : text;
}

function compare(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null); // what is missing stays last
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return sign * (typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true }));
}

function sortTable(table, column, direction) {
  const sign = direction === "descending" ? -1 : 1;
  const keyed = table.rows.map((row, place) => [column === null ? null : sortKey(row, column), place, row]);
  keyed.sort((a, b) => compare(a[0], b[0], sign) || a[1] - b[1]);
  table.body.append(...keyed.map((one) => one[2]));
  table.heads.forEach((head, at) => at === column ? head.setAttribute("aria-sort", direction) : head.removeAttribute("aria-sort"));
  table.sorted = column === null ? null : [column, direction];
}

function turn(table, column) {
  const [at, direction] = table.sorted ?? [null, ""];
  const best = /↑\s*$/u.test(table.titles[column]) ? "descending" : "ascending"; // the best first
  const other = best === "ascending" ? "descending" : "ascending";
  if (at !== column) sortTable(table, column, best);
  else if (direction === best) sortTable(table, column, other);
  else sortTable(table, null, "");
  keep({ sort: tables.filter((one) => one.sorted).map((one) => [one.number, ...one.sorted].join(".")) });
}

function filterTables() {
  const hidden = new Set(state.hide ?? []);
  const wanted = (state.rows ?? "").toLowerCase().split(",").map((one) => one.trim()).filter(Boolean);
  for (const { figure, rows, labels, heads } of tables) {
    const gone = labels.map((label, at) => at > 0 && hidden.has(label));
    heads.forEach((head, at) => { head.hidden = gone[at]; });
    let shown = 0;
    for (const row of rows) {
      const name = row.cells[0].textContent;
      const fits = !wanted.length || wanted.some((one) => name.toLowerCase().includes(one));
      row.hidden = !fits || hidden.has(bare(name)) || (state.blind === "0" && row.classList.contains("blind"));
      shown += !row.hidden;
      [...row.cells].forEach((cell, at) => { cell.hidden = gone[at]; });
    }
    figure.hidden = labels.length > 1 && gone.slice(1).every(Boolean);
    figure.querySelector(".none").hidden = shown > 0;
  }
}

function fillChooser() {
  for (const [title, labels] of Object.entries(block("metric-groups"))) {
    const there = labels.filter((label) => tables.some((table) => table.labels.includes(label) || table.rows.some((row) => bare(row.cells[0].textContent) === label)));
    if (!there.length) continue;
    const whole = make("input", { type: "checkbox", className: "group" });
    const boxes = there.map((label) => make("input", { type: "checkbox", value: label }));
    whole.addEventListener("change", () => { for (const box of boxes) box.checked = whole.checked; chosen(); });
    for (const box of boxes) box.addEventListener("change", chosen);
    const legend = make("legend", {}, make("label", {}, whole, " " + title));
    $("metrics").append(make("fieldset", {}, legend, ...boxes.map((box) => make("label", {}, box, " " + box.value))));
  }
}

function chosen() {
  keep({ hide: [...$("metrics").querySelectorAll("input:not(.group):not(:checked)")].map((box) => box.value) });
  applyFilters();
}

function applyFilters() {
  $("rows").value = state.rows ?? "";
  $("blind").checked = state.blind === "0";
  const hidden = new Set(state.hide ?? []);
  for (const set of $("metrics").querySelectorAll("fieldset")) {
    const boxes = [...set.querySelectorAll("input:not(.group)")];
    for (const box of boxes) box.checked = !hidden.has(box.value);
    const [whole, on] = [set.querySelector(".group"), boxes.filter((box) => box.checked).length];
    whole.checked = on > 0;
    whole.indeterminate = on > 0 && on < boxes.length;
  }
  filterTables();
  document.dispatchEvent(new Event("filtered"));
}

function readyTables() {
  for (const table of tables) {
    table.heads.forEach((head, column) => {
      const button = make("button", { type: "button" });
      button.append(...[...head.childNodes].filter((node) => node.nodeName !== "SMALL"));
      head.prepend(button);
      head.addEventListener("click", () => turn(table, column));
    });
    const scroll = table.figure.querySelector(".scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `table ${table.number + 1}: ${table.figure.querySelector("figcaption").textContent}`);
    scroll.after(make("p", { className: "note none", hidden: true, textContent: "No row matches the filter." }));
    offerFiles(table, scroll);
    const details = make("p", { className: "note", role: "status" });
    scroll.after(details);
    table.body.addEventListener("click", ({ target }) => { // what a pointer shows by hovering
      const cell = target.closest("[title]");
      if (cell) details.textContent = `${cell.closest("tr").cells[0].textContent}: ${cell.title}`;
    });
  }
  fillChooser();
  const menu = document.querySelector(".bar details");
  menu.addEventListener("toggle", () => { if (menu.open) menu.parentElement.scrollIntoView(); });
  document.addEventListener("click", ({ target }) => { if (!menu.contains(target)) menu.open = false; });
  menu.addEventListener("keydown", ({ key }) => { if (key === "Escape") { menu.open = false; menu.firstElementChild.focus(); } });
  $("rows").addEventListener("input", () => { keep({ rows: $("rows").value }); filterTables(); });
  $("blind").addEventListener("change", () => { keep({ blind: $("blind").checked ? "0" : "" }); filterTables(); });
  $("theme").addEventListener("change", () => { keep({ theme: $("theme").value }); applyTheme(); document.dispatchEvent(new Event("filtered")); });
  system.addEventListener("change", applyTheme);
  for (const link of document.querySelectorAll('a[href^="#"]'))
    link.addEventListener("click", (event) => { // the address keeps the state
      event.preventDefault();
      const goal = $(link.hash.slice(1));
      goal.tabIndex = -1;
      goal.focus({ preventScroll: true });
      goal.scrollIntoView();
      keep({ at: goal.id });
    });
}

function restore() {
  readAddress();
  applyTheme();
  for (const table of tables) sortTable(table, null, "");
  for (const one of state.sort ?? []) {
    const [number, column, direction] = one.split(".");
    const table = tables[number];
    if (table?.heads[column] && ["ascending", "descending"].includes(direction)) sortTable(table, Number(column), direction);
  }
  applyFilters();
  document.dispatchEvent(new Event("restored"));
  if (state.at) $(state.at)?.scrollIntoView();
}
