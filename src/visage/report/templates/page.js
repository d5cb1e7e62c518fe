"use strict";

// Repeats a figure from further up, so that the file holds its data once.
for (const place of document.querySelectorAll("[data-same]")) {
  const original = document.getElementById(place.dataset.same);
  if (!original) continue;
  const copy = original.cloneNode(true);
  copy.removeAttribute("id");
  for (const part of copy.querySelectorAll(":scope > [id]")) part.removeAttribute("id");
  place.replaceChildren(...copy.childNodes);
}

function element(tag, text, className) {
  const created = document.createElement(tag);
  if (text !== undefined) created.textContent = text;
  if (className) created.className = className;
  return created;
}

// Sorts a table by a column. Kinds stay apart (exact, bounds, estimates): ranking across them would mean nothing.
function sortBy(table, index, direction) {
  const body = table.tBodies[0];
  body.querySelectorAll("tr.group").forEach((row) => row.remove());
  const rows = [...body.rows].map((row) => {
    const cell = row.cells[index];
    const value = cell.dataset.value === "" ? null : Number(cell.dataset.value);
    return { row, value, kind: Number(cell.dataset.kind), place: Number(row.dataset.place) };
  });
  rows.sort((a, b) => a.kind - b.kind
    || (a.value === null) - (b.value === null)
    || (a.value === null ? 0 : direction * (a.value - b.value))
    || a.place - b.place);
  const names = JSON.parse(table.dataset.kinds);
  const several = new Set(rows.map((row) => row.kind)).size > 1;
  let last = null;
  for (const { row, kind } of rows) {
    if (several && kind !== last) {
      const heading = body.insertRow();
      heading.className = "group";
      heading.append(element("th", names[kind]));
    }
    last = kind;
    body.append(row);
  }
  span(table);
}

// Lets the headings of kinds reach over the columns that are shown.
function span(table) {
  const shown = [...table.tHead.rows[0].cells].filter((cell) => !cell.hidden).length;
  for (const cell of table.querySelectorAll("tr.group th")) cell.colSpan = shown;
}

for (const table of document.querySelectorAll("table.compare")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    const button = head.querySelector("button");
    button.addEventListener("click", () => {
      const first = head.dataset.better === "higher" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sortBy(table, index, order === "ascending" ? 1 : -1);
    });
  });

  // Shows the columns of one group, and the footnotes that they need.
  const board = table.closest(".board");
  const buttons = [...board.querySelectorAll("[data-view]")];
  function view(name) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === name));
    for (const cell of table.querySelectorAll("[data-views]")) cell.hidden = !cell.dataset.views.split(" ").includes(name);
    const needed = new Set([...table.querySelectorAll("td:not([hidden]) [data-note]")].map((dash) => dash.dataset.note));
    for (const note of board.querySelectorAll(".notes li")) note.hidden = !needed.has(note.id);
    span(table);
  }
  for (const button of buttons) button.addEventListener("click", () => view(button.dataset.view));
  view("headline");
}

// A number's protocol: what it is, what is behind it, and the command that computes it again.
const provenance = JSON.parse(document.getElementById("provenance").textContent);
const protocol = document.getElementById("protocol");

function explain(label, key) {
  const seeds = provenance.figures[label][key];
  const [title, meaning] = provenance.about[key];
  protocol.querySelector("h2").textContent = `${label}: ${title}`;
  protocol.querySelector("p").textContent = meaning;
  const rows = protocol.querySelector(".rows");
  rows.replaceChildren();
  const values = seeds.map((seed) => seed[1]).filter((value) => value !== null);
  const list = (pairs) => {
    const terms = element("dl");
    for (const [term, text] of pairs) if (text !== "" && text !== null) terms.append(element("dt", term), element("dd", text));
    rows.append(terms);
  };
  if (values.length > 1) {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    list([["Mean", String(mean)], ["Seeds", `${values.length}, from ${Math.min(...values)} to ${Math.max(...values)}`]]);
  }
  const verdict = (provenance.verdicts[key] || {})[label];
  if (verdict) list([["Beside others", verdict]]);
  for (const [run, value, low, high, n, ...places] of seeds) {
    const [kind, unit, note, data, model] = places.map((place) => provenance.texts[place]);
    const [seed, command, tracked] = provenance.runs[run];
    if (seeds.length > 1) rows.append(element("h3", `Seed ${seed}`));
    list([
      ["Value", value === null ? "–" : String(value)], ["Unit", unit], ["Kind", kind],
      ["95 % interval", low === null ? "" : `${low} to ${high}`],
      ["n", n ? `${n}${n < 1000 ? " (indicative: fewer than 1000)" : ""}` : ""],
      [value === null ? "Why" : "Note", note], ["Data hash", data], ["Model hash", model],
      ["DVC", command], ["MLflow run", tracked],
    ]);
  }
  protocol.showModal();
  protocol.scrollTop = 0;
}

// Enlarges a picture by whole factors, one face of a strip by three.
const enlarged = document.getElementById("enlarged");

function enlarge(image) {
  const copy = new Image();
  copy.src = image.src;
  copy.alt = image.alt;
  if (image.matches(".cut")) {
    copy.className = "cut";
    copy.style.cssText = image.style.cssText + image.closest(".faces").style.cssText;
    copy.style.setProperty("--side", `${3 * image.clientWidth}px`);
  } else {
    const ratio = window.devicePixelRatio || 1;
    const factor = Math.ceil((1.6 * image.clientWidth * ratio) / image.naturalWidth);
    copy.width = (image.naturalWidth * factor) / ratio;
  }
  enlarged.replaceChildren(copy);
  enlarged.showModal();
}

// A picture that is not beside the page says so.
document.addEventListener("error", (event) => {
  if (!(event.target instanceof HTMLImageElement)) return;
  const file = event.target.getAttribute("src");
  event.target.replaceWith(element("div", `${event.target.alt}: ${file} is not beside this page`, "absent"));
}, true);

document.addEventListener("click", (event) => {
  const number = event.target.closest("[data-number]");
  if (number) explain(...number.dataset.number.split("|"));
  const image = event.target.closest(".shot img, .face img");
  if (image) enlarge(image);
});
enlarged.addEventListener("click", () => enlarged.close());
protocol.addEventListener("click", (event) => { if (event.target === protocol) protocol.close(); });

// A link to a run opens it.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
unfold();

// Paper has no clicks, and does not scroll.
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  for (const image of document.images) image.loading = "eager";
});
