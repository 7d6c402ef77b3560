"use strict";
// Plotly's charts. Plotly itself is text until the first of them is asked for: it takes seconds to come alive.

const SERIES = ["#2a78d6", "#e0662c", "#1f9e78", "#b14fc4", "#c79a06", "#d6456b", "#5f6fe0", "#5f9e1f"];
const CLOUD_POINTS = 50000;
/** Text that Plotly shows as it is: it reads tags in titles and names. */
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

let plotly = null;

/** Plotly, made alive by the first call. */
function loadPlotly() {
  plotly ??= decompress(blobText("plotly"), "gzip").then((bytes) => {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(bytes);
    document.head.append(script);
    return window.Plotly;
  });
  return plotly;
}

const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const charts = new Map(); // the element of each chart, and what draws it again in other colours

/** Draws a chart, and again whenever the theme changes. `make` gives its data and layout in the colours of now. */
async function drawChart(div, make, label) {
  const draw = async () => {
    const Plotly = await loadPlotly();
    const { data, layout } = make();
    await Plotly.react(div, data, { ...baseLayout(), ...layout }, CONFIG);
  };
  charts.set(div, draw);
  div.setAttribute("role", "img");
  div.setAttribute("aria-label", label);
  div.classList.add("waiting");
  await draw();
  div.classList.remove("waiting");
  div.dataset.drawn = "true";
}

const redrawCharts = () => Promise.all([...charts.values()].map((draw) => draw()));

function axis(title, more = {}) {
  const colours = { gridcolor: styleOf("--line"), zerolinecolor: styleOf("--line"), linecolor: styleOf("--line") };
  return { title: { text: plain(title), standoff: 8 }, ...colours, ...more };
}

function baseLayout() {
  return {
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: styleOf("--text") },
    margin: { l: 64, r: 40, t: 40, b: 48 },
    modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: styleOf("--muted"), activecolor: styleOf("--accent") },
    hovermode: "x unified",
    hoverlabel: { bgcolor: styleOf("--panel"), bordercolor: styleOf("--line"), font: { color: styleOf("--text") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  };
}

/** Curves of runs that share a unit, as loss, or the validation's error beside interpolation's; over steps, or what `across` says. */
function drawCurves(div, curves) {
  return drawChart(div, () => ({
    data: curves.series.map(({ name, run, floor, x, y }) => ({
      type: "scatter",
      mode: floor || x.length > 60 ? "lines" : "lines+markers",
      name: plain(name), x, y,
      line: { color: SERIES[run % SERIES.length], width: floor ? 1.5 : 2, dash: floor ? "dash" : "solid" },
    })),
    layout: {
      xaxis: axis(curves.across ?? "step", curves.logarithmic ? { type: "log", tickformat: ",", dtick: 1 } : {}),
      yaxis: axis(curves.axis, curves.log ? { type: "log" } : { rangemode: "tozero" }),
      showlegend: true,
    },
  }), curves.title);
}

/** Depth along a line; `hovered` is told the sample under the pointer, or null. */
async function drawProfile(div, lines, step, unit, hovered) {
  const look = ({ kind }, i) => ({
    truth: { color: styleOf("--text"), width: 2.5 },
    lr: { color: styleOf("--muted"), width: 1, dash: "dot", shape: "hvh" },
    floor: { color: styleOf("--muted"), width: 1.5, dash: "dash" },
    method: { color: SERIES[Math.max(i - 2, 0) % SERIES.length], width: 2 },
  })[kind];
  await drawChart(div, () => ({
    data: lines.map(({ layer, values }, i) => ({
      type: "scatter",
      mode: "lines",
      name: plain(layer.name),
      x: values.map((_, j) => j * step),
      y: values.map((value) => (Number.isFinite(value) ? value : null)),
      line: look(layer, i),
    })),
    layout: { xaxis: axis("pixels along the line"), yaxis: axis(unit), showlegend: true },
  }), `Depth along the line: ${lines.map(({ layer }) => layer.name).join(", ")}`);
  div.removeAllListeners("plotly_hover");
  div.removeAllListeners("plotly_unhover");
  div.on("plotly_hover", ({ points }) => hovered(points[0].pointIndex));
  div.on("plotly_unhover", () => hovered(null));
}

/** A map as relief: its columns and rows across and down, its values as distance, in the colours of a picture; as many as a browser turns smoothly. */
function drawCloud(div, viewer, layer, colours, { left, top, right, bottom }) {
  const { image, spec } = viewer;
  const pixels = viewer.pictures.get(colours).getContext("2d").getImageData(0, 0, image.width, image.height).data;
  const stride = Math.max(Math.ceil(Math.sqrt(((right - left) * (bottom - top)) / CLOUD_POINTS)), 1);
  const [x, y, z, colour] = [[], [], [], []];
  for (let row = top; row < bottom; row += stride) {
    for (let column = left; column < right; column += stride) {
      const value = viewer.value(layer, column, row);
      if (!Number.isFinite(value)) continue;
      const i = 4 * (row * image.width + column);
      x.push(column);
      y.push(row);
      z.push(value);
      colour.push(`rgb(${pixels[i]},${pixels[i + 1]},${pixels[i + 2]})`);
    }
  }
  const widest = Math.max(right - left, bottom - top);
  return drawChart(div, () => ({
    data: [{
      type: "scatter3d",
      mode: "markers",
      // The scene's axes: across, away from the eye, up. Depth grows away from it, disparity towards it.
      x, y: z, z: y,
      marker: { size: 2.2, color: colour, opacity: 1 },
      hovertemplate: `x %{x}, y %{z}: %{y} ${plain(spec.unit)}<extra></extra>`,
    }],
    layout: {
      margin: { l: 0, r: 0, t: 0, b: 0 },
      hovermode: "closest",
      uirevision: "kept", // another map is seen from where the last one was
      scene: {
        xaxis: { visible: false },
        yaxis: axis(spec.unit, { autorange: spec.nearer === "large" ? "reversed" : true, showspikes: false }),
        zaxis: { visible: false, autorange: "reversed" },
        aspectmode: "manual",
        aspectratio: { x: (right - left) / widest, y: 0.7, z: (bottom - top) / widest },
        camera: { eye: { x: 0.24, y: -1.15, z: 0.18 }, center: { x: 0.02, y: 0, z: -0.04 } },
      },
    },
  }), `${layer.name} as relief, in the colours of ${colours === "guide" ? "the guide" : "its depth"}`);
}
