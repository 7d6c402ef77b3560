"use strict";
// A study's pictures, as `experiments/studies/charts.py` describes them. They are drawn when they come into sight.

const TINTS = [[0, [42, 120, 214]], [0.5, [160, 107, 184]], [1, [224, 102, 44]]]; // the best, ..., the worst
const TINT_SCALE = TINTS.map(([at, rgb]) => [at, `rgb(${rgb})`]);
const GREY = "rgb(138,145,153)";
const NARROW = 520; // pixels, below which names of categories are cut short
const LEGEND = 12; // entries, at most

/** The colour of a place between the best, 0, and the worst, 1. */
function tinted(at) {
  const next = Math.max(TINTS.findIndex(([end]) => end >= at), 1);
  const [[a, from], [b, to]] = [TINTS[next - 1], TINTS[next]];
  return `rgb(${from.map((value, i) => Math.round(value + ((to[i] - value) * (at - a)) / (b - a)))})`;
}

function colourOf({ group, tint }) {
  if (group !== null) return SERIES[group % SERIES.length];
  return typeof tint === "number" ? tinted(tint) : GREY;
}

/** An axis; one of categories goes down the page, and cuts long names where there is little room. */
function axisOf({ title, log, categories }, vertical, narrow) {
  if (!categories.length) return axis(title, { type: log ? "log" : "linear", automargin: true });
  const most = narrow ? 14 : 40;
  const cut = (name) => plain(name.length > most ? `${name.slice(0, most - 1)}…` : name);
  return axis(title, {
    type: "category", categoryorder: "array", categoryarray: categories.map(plain), automargin: true,
    tickvals: categories.map(plain), ticktext: categories.map(cut),
    range: vertical ? [categories.length - 0.5, -0.5] : [-0.5, categories.length - 0.5],
  });
}

/** Positions along an axis: numbers, or categories as Plotly shall write them. */
const along = (values, { categories }) => (categories.length ? values.map(plain) : values);

function drawPoints(div, chart) {
  const { x, y, series, kind } = chart;
  const names = [...new Set(series.map(({ name }) => name))];
  const legend = names.length > 1 && names.length <= LEGEND;
  const largest = Math.max(...series.flatMap(({ size }) => size), 0);
  const told = (axis_, letter) => (axis_.title ? `<br>${plain(axis_.title)}: %{${letter}}` : "");
  return drawChart(div, () => ({
    data: series.map((one, i) => {
      const colour = colourOf(one);
      const common = {
        name: plain(one.name), legendgroup: one.name, x: along(one.x, x), y: along(one.y, y),
        showlegend: series.findIndex(({ name }) => name === one.name) === i,
        text: one.names.map(plain),
        hovertemplate: `%{text}${told(x, "x")}${told(y, "y")}<extra></extra>`,
      };
      if (kind === "bars") return { ...common, type: "bar", orientation: "h", textposition: "none", marker: { color: colour } };
      const error = { type: "data", array: one.spread, color: colour, thickness: 2, width: 5 };
      const faint = one.group === null && one.tint === null;
      return {
        ...common,
        type: "scatter",
        mode: [one.line && "lines", one.marks && "markers"].filter(Boolean).join("+"),
        line: { color: colour, width: faint ? 1.2 : 2, dash: one.line === "dash" ? "dash" : "solid", shape: one.line === "steps" ? "hv" : "linear" },
        marker: {
          color: colour, opacity: faint ? 0.75 : 0.9, line: { width: 0 },
          ...(one.size.length ? { size: one.size, sizemode: "area", sizeref: (2 * largest) / 56 ** 2 } : { size: one.spread.length ? 10 : 7 }),
        },
        ...(one.spread.length ? { [y.categories.length ? "error_x" : "error_y"]: error } : {}),
      };
    }),
    layout: {
      hovermode: "closest",
      barmode: "group",
      showlegend: legend,
      xaxis: axisOf(x, false, div.clientWidth < NARROW),
      yaxis: axisOf(y, true, div.clientWidth < NARROW),
      margin: { l: 64, r: 40, t: legend ? 56 : 16, b: 48 },
    },
  }), chart.title);
}

function drawParallel(div, chart) {
  return drawChart(div, () => {
    const text = styleOf("--text");
    return {
      data: [{
        type: "parcoords",
        line: { color: chart.tint, colorscale: TINT_SCALE, cmin: 0, cmax: 1 },
        unselected: { line: { color: styleOf("--line"), opacity: 0.4 } },
        labelfont: { color: text, size: 12 },
        tickfont: { color: text, size: 11 },
        rangefont: { color: "rgba(0,0,0,0)", size: 1 },
        dimensions: chart.dimensions.map(({ title, values, ticks }) => {
          const all = [...values, ...ticks.map(([at]) => at)];
          const [low, high] = [Math.min(...all), Math.max(...all)];
          return {
            label: plain(title), values, range: low === high ? [low - 1, high + 1] : [low, high],
            tickvals: ticks.map(([at]) => at), ticktext: ticks.map(([, name]) => plain(name)),
          };
        }),
      }],
      layout: { margin: { l: 70, r: 70, t: 56, b: 24 } },
    };
  }, chart.title);
}

for (const div of document.querySelectorAll("[data-chart]")) {
  const chart = REPORT.charts[Number(div.dataset.chart)];
  whenSeen(div, () => (chart.kind === "parallel" ? drawParallel : drawPoints)(div, chart));
}
