"use strict";

// Repeats a figure that stands further up, so that the file holds its data once.
for (const place of document.querySelectorAll("[data-same]")) {
  const original = document.getElementById(place.dataset.same);
  if (!original) continue;
  const copy = original.cloneNode(true);
  copy.removeAttribute("id");
  for (const part of copy.querySelectorAll(":scope > [id]")) part.removeAttribute("id");
  place.replaceChildren(...copy.childNodes);
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
  const several = new Set(rows.map((entry) => entry.kind)).size > 1;
  let last = null;
  for (const { row, kind } of rows) {
    if (several && kind !== last) {
      const heading = body.insertRow();
      heading.className = "group";
      const cell = document.createElement("th");
      cell.colSpan = table.tHead.rows[0].cells.length;
      cell.textContent = names[kind];
      heading.append(cell);
    }
    last = kind;
    body.append(row);
  }
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
}

// Enlarges a picture by whole factors.
const dialog = document.querySelector("dialog");
document.addEventListener("click", (event) => {
  const image = event.target.closest(".shot img, .face img");
  if (!image) return;
  const copy = new Image();
  copy.src = image.src;
  copy.alt = image.alt;
  const ratio = window.devicePixelRatio || 1;
  const factor = Math.ceil((1.6 * image.clientWidth * ratio) / image.naturalWidth);
  copy.width = (image.naturalWidth * factor) / ratio;
  dialog.replaceChildren(copy);
  dialog.showModal();
});
dialog.addEventListener("click", () => dialog.close());

// Paper has no clicks.
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
