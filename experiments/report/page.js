"use strict";
// Theme, tables that sort, and the start: the first viewer at once, all else when it comes into sight; charts, of which a
// printed page has no other, at the latest when there is nothing else to do.

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

// The scales of colours beside pictures, which a study's page has none of, nor what makes them.
const ramps = {
  depth: () => gradient(DEPTH_COLOURS),
  error: () => gradient(ERROR_COLOURS),
  coefficient: () => "linear-gradient(to right, #000, #fff)",
};
for (const bar of document.querySelectorAll("[data-ramp]")) bar.style.background = ramps[bar.dataset.ramp]();

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
const players = [...document.querySelectorAll(".diffusion")].map((root, i) => new Player(root, REPORT.diffusions[i]));
for (const player of players) whenSeen(player.root, () => player.start());

const curves = [...document.querySelectorAll("[data-curves]")].map((div) => [div, REPORT.curves[Number(div.dataset.curves)]]);
curves.push(...players.filter(({ spec }) => spec.curve).map((player) => [player.part("curve"), player.spec.curve]));
const drawOnce = ([div, curve]) => charts.has(div) || drawCurves(div, curve);
for (const chart of curves) whenSeen(chart[0], () => drawOnce(chart));

/** Waits until there is nothing else to do; where a browser cannot tell, a while. */
const idle = () => new Promise((done) => (window.requestIdleCallback ? requestIdleCallback(done) : setTimeout(done, 500)));

async function start() {
  if (viewers.length) await viewers[0].show(0);
  for (const viewer of viewers.slice(1)) whenSeen(viewer.root, () => viewer.show(0));
  await Promise.all(players.map((player) => player.drawn));
  await new Promise(requestAnimationFrame);
  performance.mark("data-ready");
  document.documentElement.dataset.ready = "true";
  for (const chart of curves) {
    await idle();
    await drawOnce(chart);
  }
}
showTheme();
start();
