// The numbers of a table as it is shown, as CSV and as LaTeX.
const BLOCKED = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "≈": "$\\approx$" };
const toTex = (text) => text.replace(/[\\~^&%$#_{}↑↓≈]/gu, (sign) => BLOCKED[sign] ?? `\\${sign}`);
const toCsv = (text) => (/[",\n]/u.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

// Each shown cell: its value, the ends of its interval, and whether it is best ("best", "tied" or "")
function readCells(table) {
  const columns = table.heads.map((_, at) => at).filter((at) => at && !table.heads[at].hidden);
  const rows = [...table.body.rows].filter((row) => !row.hidden).map((row) => ({
    name: row.cells[0].textContent.trim(),
    cells: columns.map((at) => {
      const cell = row.cells[at];
      const interval = cell.querySelector("small")?.textContent ?? "";
      const ends = /^\[(.+), (.+)\]$/u.exec(interval)?.slice(1) ?? [];
      const mark = cell.querySelector("abbr") ? "tied" : cell.querySelector("b") ? "best" : "";
      return { text: (cell.querySelector("b") ?? cell.firstChild)?.textContent.trim() ?? "", interval, ends, mark };
    }),
  }));
  return { columns, rows };
}

function writeCsv(table) {
  const { columns, rows } = readCells(table);
  const whole = columns.map((_, place) => rows.some((row) => row.cells[place].ends.length));
  const head = columns.flatMap((at, place) => [table.titles[at], ...(whole[place] ? ["low", "high", "mark"].map((end) => `${table.labels[at]} ${end}`) : [])]);
  const lines = rows.map((row) => [row.name, ...row.cells.flatMap(({ text, ends, mark }, place) => [text, ...(whole[place] ? [ends[0] ?? "", ends[1] ?? "", mark] : [])])]);
  return [[table.titles[0], ...head], ...lines].map((cells) => cells.map(toCsv).join(",")).join("\n") + "\n";
}

function writeTex(table) {
  const { columns, rows } = readCells(table);
  const cell = ({ text, interval, mark }) => [mark ? `\\textbf{${toTex(text)}}` : toTex(text), ...(interval ? [`{\\scriptsize ${toTex(interval)}}`] : []), ...(mark === "tied" ? ["$\\approx$"] : [])].join(" ");
  const lines = [[table.titles[0], ...columns.map((at) => table.titles[at])].map(toTex), null, ...rows.map((row) => [toTex(row.name), ...row.cells.map(cell)])];
  return ["% \\usepackage{booktabs}", `\\begin{tabular}{l${"l".repeat(columns.length)}}`, "\\toprule", ...lines.map((cells) => cells ? `${cells.join(" & ")} \\\\` : "\\midrule"), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

function offerFiles(table, scroll) {
  const title = table.figure.querySelector("figcaption").textContent.trim();
  const name = title.toLowerCase().replace(/[^a-z0-9]+/gu, "-").replace(/^-|-$/gu, "");
  const button = (kind, ending, write) => {
    const made = make("button", { type: "button", textContent: kind });
    made.setAttribute("aria-label", `${kind} of ${title}`);
    made.addEventListener("click", () => {
      const href = URL.createObjectURL(new Blob([write(table)], { type: "text/plain" }));
      make("a", { href, download: `${name}.${ending}` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 10_000);
    });
    return made;
  };
  scroll.before(make("p", { className: "files" }, "Download this table: ", button("CSV", "csv", writeCsv), " ", button("LaTeX", "tex", writeTex)));
}
