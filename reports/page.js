// A click on a column name sorts its table; a second click turns the order around.
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
  const order = (a, b) => direction * (a - b || String(a).localeCompare(String(b)));
  const rows = [...body.rows].sort((a, b) => order(key(a), key(b)));
  head.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  body.append(...rows);
}));

// A link to a folded part opens it and what it lies in, and moves the keyboard there.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
  target.querySelector("summary")?.focus({ preventScroll: true });
}
document.querySelectorAll('td a[href^="#"]').forEach((link) => link.addEventListener("click", () => setTimeout(unfold)));
addEventListener("hashchange", unfold);
unfold();

// Paper has no clicks: everything is open in print.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
