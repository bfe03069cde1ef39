"use strict";
// A click on a column's head sorts by it, a second click turns the order round; cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells].filter(head => head.ariaSort);
  const body = table.tBodies[0];
  const key = (row, column) => row.cells[column] ? row.cells[column].dataset.sort : "";
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const compare = (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (!x || !y) return x ? -1 : y ? 1 : 0;
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
      return up ? order : -order;
    };
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare));
  }));
}
// A long table shows its first rows, or its larger ones, until it is asked for all.
for (const table of document.querySelectorAll("table.foldable")) {
  const rows = table.tBodies[0].rows.length;
  const hidden = table.dataset.fold ? rows - table.dataset.fold : table.querySelectorAll(".minor").length;
  if (hidden <= 0) continue;
  table.classList.add("folded");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "unfold";
  const say = () => {
    const folded = table.classList.contains("folded");
    button.textContent = folded ? `Show all ${rows}` : "Show fewer";
    button.setAttribute("aria-expanded", !folded);
  };
  button.addEventListener("click", () => { table.classList.toggle("folded"); say(); });
  say();
  table.parentElement.after(button);
}
