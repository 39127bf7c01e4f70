"use strict";
// Sorting, the filter by class, and what stands behind a figure. The page says all it has to say without any of it.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const by = (id) => document.getElementById(id);

// A click on a column's heading sorts by it, a second one the other way round.
for (const table of all("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ||
        (!head.hasAttribute("aria-sort") && head.classList.contains("right"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.sort;
      const empty = (row) => row.cells[column].textContent === "–";
      const order = (a, b) => {
        const one = Number(key(a)), other = Number(key(b));
        return Number.isNaN(one) || Number.isNaN(other) ? key(a).localeCompare(key(b), "en", { numeric: true }) : one - other;
      };
      const rows = [...body.rows].sort((a, b) => empty(a) - empty(b) || (down ? order(b, a) : order(a, b)));
      body.append(...rows);
    });
  });
}

// The filter hides rows and pictures of other classes.
const filter = by("filter");
if (filter) {
  const things = all("[data-class]"), input = by("class"), status = by("filtered");
  filter.hidden = false;
  filter.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const thing of things) {
      thing.hidden = !thing.dataset.class.toLowerCase().includes(wanted);
      shown += !thing.hidden;
    }
    if (wanted) all(".folded").forEach((folded) => { folded.open = true; });
    status.textContent = wanted ? `${shown} of ${things.length} rows and pictures` : "";
  });
}

// A figure shows its value in full, where it stands, and the command that gave it.
const box = by("cited");
const reveal = (target) => {
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
};
if (box.showPopover) {
  let from = null;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.n");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const target = by(link.hash.slice(1)), record = target.closest(".record");
    event.preventDefault();
    const path = target.dataset.path ? JSON.parse(target.dataset.path).join(" › ") : `worked out from: ${link.dataset.from}`;
    by("cited-value").textContent = target.dataset.path ? target.textContent : link.textContent;
    by("cited-path").textContent = `${record.dataset.key}: ${path}`;
    by("cited-command").hidden = !record.dataset.command;
    by("cited-command").firstElementChild.textContent = record.dataset.command;
    by("cited-link").href = link.hash;
    from = link;
    box.showPopover();
    const place = link.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(place.left, innerWidth - box.offsetWidth - 16)) + scrollX}px`;
    box.style.top = `${place.bottom + scrollY + 6}px`;
    by("cited-link").focus({ preventScroll: true });
  });
  box.addEventListener("toggle", (event) => {
    if (event.newState === "closed" && from && box.contains(document.activeElement)) from.focus();
  });
  by("cited-link").addEventListener("click", () => { from = null; box.hidePopover(); reveal(by(by("cited-link").hash.slice(1))); });
  by("copy").addEventListener("click", () => navigator.clipboard?.writeText(by("cited-command").firstElementChild.textContent));
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.run");
  if (link) reveal(by(link.hash.slice(1)));
});

// Tab stops at a table, not at each of its figures; arrow keys go among these.
for (const region of all(".wide")) {
  all("a.n", region).forEach((link) => { link.tabIndex = -1; });
  region.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    const rows = all("tbody tr:not([hidden])", region).map((row) => all("a.n", row)).filter((links) => links.length);
    const at = rows.findIndex((links) => links.includes(document.activeElement));
    const column = at < 0 ? 0 : rows[at].indexOf(document.activeElement) + step[1];
    const row = rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + step[0]))];
    if (!row) return;
    event.preventDefault();
    row[Math.max(0, Math.min(row.length - 1, column))].focus();
  });
}
