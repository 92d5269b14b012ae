"use strict";

// Tables sort by the headers of their columns: what is missing stays last, and equals keep their order.
const said = document.getElementById("said");

function compare(one, other) {
  const numbers = [one, other].map(Number);
  return numbers.some(Number.isNaN) ? one.localeCompare(other, undefined, { numeric: true }) : numbers[0] - numbers[1];
}

function sort(table, head, column, direction) {
  const body = table.querySelector("tbody.clips");
  const value = (row) => row.cells[column]?.dataset.value ?? "";
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return direction === "ascending" ? compare(a, b) : compare(b, a);
  });
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  said.textContent = `Sorted by ${head.dataset.label}, ${direction}.`;
}

for (const table of document.querySelectorAll("table.sorts")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.dataset.first) return; // which direction comes first
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const opposite = { ascending: "descending", descending: "ascending" };
      sort(table, head, column, opposite[head.getAttribute("aria-sort")] ?? head.dataset.first);
    });
  });
}

// Explanations appear at once, and at the keyboard too, where without script they are the browser's own.
const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("role", "tooltip");
tip.hidden = true;
document.body.append(tip);

let owner = null;

function show(element) {
  owner = element;
  tip.textContent = element.dataset.tip;
  tip.hidden = false;
  const [at, own] = [element.getBoundingClientRect(), tip.getBoundingClientRect()];
  const below = at.bottom + 6 + own.height < innerHeight;
  tip.style.top = `${Math.max(4, below ? at.bottom + 6 : at.top - own.height - 6)}px`;
  tip.style.left = `${Math.max(4, Math.min(at.left, innerWidth - own.width - 8))}px`;
}

for (const element of document.querySelectorAll("[title]")) {
  element.dataset.tip = element.title;
  element.removeAttribute("title");
  (element.querySelector("button") ?? element).setAttribute("aria-description", element.dataset.tip);
}
const explained = (event) => event.target.closest?.("[data-tip]");
for (const kind of ["mouseover", "focusin"]) {
  document.addEventListener(kind, (event) => (explained(event) ? show(explained(event)) : (tip.hidden = true)));
}
document.addEventListener("focusout", () => (tip.hidden = true));
document.addEventListener("scroll", () => {
  if (!tip.hidden && owner.contains(document.activeElement)) show(owner); // scrolled to by the keyboard
  else tip.hidden = true;
}, true);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hidden = true;
});
