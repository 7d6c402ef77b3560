"use strict";
// A study's pictures, as `experiments/studies/charts.py` describes them. They are drawn when they come into sight.

const TINTS = [[0, [42, 120, 214]], [0.5, [160, 107, 184]], [1, [224, 102, 44]]]; // the best, ..., the worst
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
function axisOf({ title, log, categories }, values, vertical, narrow) {
  if (!categories.length) {
    // Not `Math.max(...values)`: of so many values some browsers make no call.
    const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, 0]);
    const decades = log ? Math.log10(high / low) : 0;
    // Plotly's ticks within a decade are single digits, which among few powers of ten say little.
    const ticks = decades > 1.5 ? { dtick: 1 } : {};
    return axis(title, { type: log ? "log" : "linear", automargin: true, exponentformat: "power", zerolinecolor: styleOf("--muted"), ...ticks });
  }
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
        line: { color: colour, width: one.line === "thin" ? 0.7 : faint ? 1.2 : 2, dash: one.line === "dash" ? "dash" : "solid", shape: one.line === "steps" ? "hv" : "linear" },
        marker: {
          color: colour, opacity: faint ? 0.75 : 0.9, line: { width: 0 },
          ...(one.size.length ? { size: one.size, sizemode: "area", sizeref: (2 * largest) / 56 ** 2 } : { size: one.spread.length ? 10 : 7 }),
        },
        ...(one.spread.some((side) => side !== null) ? { [y.categories.length ? "error_x" : "error_y"]: error } : {}),
      };
    }),
    layout: {
      hovermode: "closest",
      barmode: "group",
      showlegend: legend,
      xaxis: axisOf(x, series.flatMap((one) => one.x), false, div.clientWidth < NARROW),
      yaxis: axisOf(y, series.flatMap((one) => one.y), true, div.clientWidth < NARROW),
      margin: { l: 64, r: 40, t: legend ? 56 : 16, b: 48 },
    },
  }), chart.title);
}

/** Parallel coordinates as lines of an ordinary chart, which needs no WebGL and says a trial's name. */
function drawParallel(div, chart) {
  const { dimensions } = chart;
  const scales = dimensions.map(({ values, ticks }) => {
    const all = [...values, ...ticks.map(([at]) => at)];
    const low = Math.min(...all);
    const span = Math.max(...all) - low;
    return (at) => (span ? (at - low) / span : 0.5);
  });
  return drawChart(div, () => {
    const small = { size: 11, color: styleOf("--text") };
    const told = dimensions.flatMap(({ ticks }, x) => ticks.map(([at, text]) => ({
      x, y: scales[x](at), text: plain(text), font: small, showarrow: false, xanchor: "left", xshift: 4, bgcolor: styleOf("--panel"), borderpad: 1, opacity: 0.85,
    })));
    const titles = dimensions.map(({ title }, x) => ({ x, y: 1, yshift: 20, text: plain(title), showarrow: false, xanchor: "left", xshift: -8 }));
    return {
      data: chart.tint.map((tint, i) => ({
        type: "scatter",
        mode: "lines+markers",
        x: dimensions.map((_, x) => x),
        y: dimensions.map(({ values }, x) => scales[x](values[i])),
        line: { color: tinted(tint), width: 1.5 },
        marker: { size: 4 },
        opacity: 0.75,
        hoverinfo: "text",
        text: plain(chart.names[i]),
      })),
      layout: {
        hovermode: "closest",
        showlegend: false,
        margin: { l: 20, r: 64, t: 48, b: 16 },
        xaxis: { visible: false, range: [-0.08, dimensions.length - 0.6] },
        yaxis: { visible: false, range: [-0.04, 1.04] },
        shapes: dimensions.map((_, x) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, line: { color: styleOf("--muted"), width: 1 } })),
        annotations: [...told, ...titles],
      },
    };
  }, chart.title);
}

for (const div of document.querySelectorAll("[data-chart]")) {
  const chart = REPORT.charts[Number(div.dataset.chart)];
  whenSeen(div, () => (chart.kind === "parallel" ? drawParallel : drawPoints)(div, chart));
}
