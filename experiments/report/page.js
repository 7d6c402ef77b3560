"use strict";
// Theme, tables that sort, and the start: the first viewer at once, all else when it comes into sight.

const darkBySystem = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme ?? (darkBySystem.matches ? "dark" : "light")) === "dark";

function showTheme() {
  themeButton.setAttribute("aria-pressed", String(isDark()));
  redrawCharts();
}
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
darkBySystem.addEventListener("change", showTheme);

/** Sorts a table by a column, by numbers where cells have them; empty cells last. A second click turns it round. */
function sortBy(button) {
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const column = head.cellIndex;
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const rows = [...body.rows].sort((a, b) => {
    const [one, two] = [key(a), key(b)];
    if (!one || !two) return (one ? 0 : 1) - (two ? 0 : 1);
    const difference = Number(one) - Number(two);
    return direction * (Number.isNaN(difference) ? one.localeCompare(two) : difference);
  });
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  body.append(...rows);
}
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sortBy(button));

/** Calls `act` once, when the element comes near the window. */
function whenSeen(target, act) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    act();
  }, { rootMargin: "200px" });
  observer.observe(target);
}

const viewers = [...document.querySelectorAll(".viewer")].map((root, i) => new Viewer(root, REPORT.viewers[i]));
for (const div of document.querySelectorAll("[data-curves]")) {
  whenSeen(div, () => drawCurves(div, REPORT.curves[Number(div.dataset.curves)]));
}

for (const [i, root] of [...document.querySelectorAll(".diffusion")].entries()) {
  whenSeen(root, () => new Player(root, REPORT.diffusions[i]).start());
}

async function start() {
  if (viewers.length) await viewers[0].show(0);
  for (const viewer of viewers.slice(1)) whenSeen(viewer.root, () => viewer.show(0));
  await new Promise(requestAnimationFrame);
  performance.mark("data-ready");
  document.documentElement.dataset.ready = "true";
}
showTheme();
start();
