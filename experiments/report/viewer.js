"use strict";
// A viewer of a comparison's images: two maps with a divide between them, and the error maps, all in step.

const ZOOM_MOST = 64;
const CLOUD_DELAY = 300; // ms: 50,000 points are not drawn for every step of the wheel
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** A new element with its text; nothing of the page's data is ever read as HTML. */
function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Colours, ABGR words, from left to right. */
function gradient(words) {
  const stops = words.filter((_, i) => i % 15 === 0);
  const colours = Array.from(stops, (c) => `rgb(${c & 255} ${(c >> 8) & 255} ${(c >> 16) & 255})`);
  return `linear-gradient(to right, ${colours.join(", ")})`;
}

class Viewer {
  /** `root`: the section of the page; `spec`: its entry among REPORT.viewers. */
  constructor(root, spec) {
    this.root = root;
    this.spec = spec;
    this.part = (name) => root.querySelector(`[data-part="${name}"]`);
    this.largest = spec.largest; // the error at the end of the colours
    this.divide = 0.5; // of the pane's width
    this.sides = ["floor", "m0"]; // what is left and right of the divide, by key
    this.pointers = new Map();
    this.chosen = new Set(); // the choices of a map that the user made, which follow the right side no longer
    this.shows = 0; // counts the calls of `show`, so that one that was overtaken stops
    this.compare = { canvas: this.part("compare"), draw: (place) => this.drawCompare(place) };
    this.listen();
  }

  // What is shown.

  /** Shows an image; resolves when it is painted. Its maps are decoded now, and those of the last are let go. */
  async show(index) {
    const turn = ++this.shows;
    const image = this.spec.images[index];
    this.image = image;
    this.pending = new Map();
    this.codes = new Map();
    this.pictures = new Map();
    this.errors = new Map();
    this.line = this.hover = this.box = null;
    this.depths = image.layers;
    this.estimates = image.layers.filter((layer) => layer.kind === "floor" || layer.kind === "method");
    this.choices = [...this.depths, ...(image.guide ? [{ key: "guide", name: "guide" }] : [])];
    const keys = this.choices.map(({ key }) => key);
    if (!keys.includes(this.sides[0])) this.sides[0] = "floor";
    if (!keys.includes(this.sides[1])) this.sides[1] = keys.includes("m0") ? "m0" : "truth";
    this.root.style.setProperty("--aspect", image.width / image.height);
    for (const [i, button] of [...this.part("images").children].entries()) {
      button.setAttribute("aria-pressed", String(i === index));
    }
    this.fillChoices();
    this.fillReadout();
    this.fillErrors();
    this.fillRegions();
    this.showDepthLegend();
    for (const name of ["profile", "cloud"]) this.part(name).hidden = true;
    this.look(1, image.width / 2, image.height / 2);
    await Promise.all(this.sides.map((key) => this.loadPicture(key)));
    if (turn !== this.shows) return;
    this.paintNow();
    this.root.dataset.image = image.name;
    this.loadRest(turn);
  }

  /** After the first painting: the other maps, for the values under the cursor, and the error maps. */
  async loadRest(turn) {
    for (const layer of this.depths) {
      await this.loadCodes(layer.key);
      if (turn !== this.shows) return;
    }
    for (const layer of this.estimates) {
      await new Promise(requestAnimationFrame); // so that the page answers in between
      if (turn !== this.shows) return;
      this.paintError(layer);
      this.paint();
    }
    this.root.dataset.complete = this.image.name;
  }

  layer(key) {
    return this.depths.find((layer) => layer.key === key);
  }

  /** What `make` resolves to, which is called once for a name; it is dropped if another image came in between. */
  once(name, make) {
    if (!this.pending.has(name)) this.pending.set(name, make());
    return this.pending.get(name);
  }

  loadCodes(key) {
    const codes = this.codes;
    return this.once(`codes ${key}`, async () => {
      codes.set(key, await decodeCodes(this.layer(key)));
      return codes.get(key);
    });
  }

  loadPicture(key) {
    const { image, pictures } = this;
    return this.once(`picture ${key}`, async () => {
      if (key === "guide") pictures.set(key, await guidePicture(image));
      else pictures.set(key, depthPicture(image, this.layer(key), await this.loadCodes(key)));
      return pictures.get(key);
    });
  }

  paintError(layer) {
    const truth = this.codes.get("truth");
    this.errors.set(layer.key, errorPicture(this.image, layer, this.codes.get(layer.key), truth, this.largest));
  }

  /** The value of a map at a pixel of the image, NaN where it is unknown or not decoded yet. */
  value(layer, x, y) {
    const codes = this.codes.get(layer.key);
    if (!codes) return NaN;
    const column = Math.floor((x * layer.width) / this.image.width);
    const row = Math.floor((y * layer.height) / this.image.height);
    const code = codes[row * layer.width + column];
    return code ? layer.offset + (code - 1) * layer.step : NaN;
  }

  // The parts around the panes.

  fillChoices() {
    for (const [side, part] of [[0, "left"], [1, "right"]]) {
      const choice = this.part(part);
      choice.replaceChildren();
      for (const { key, name } of this.choices) choice.add(new Option(name, key));
      choice.value = this.sides[side];
    }
    for (const [part, layers] of [
      ["cloud-of", this.depths.filter(({ kind }) => kind !== "lr")],
      ["regions-of", this.estimates],
    ]) {
      const choice = this.part(part);
      const last = choice.value;
      choice.replaceChildren();
      for (const { key, name } of layers) choice.add(new Option(name, key));
      choice.value = layers.some(({ key }) => key === last) ? last : this.layer("m0") ? "m0" : "floor";
    }
    this.followRight();
    this.nameSides();
  }

  /** Shows the regions and the relief of the estimate on the right, where the user has not chosen another. */
  followRight() {
    const key = this.sides[1];
    if (!this.estimates.some((layer) => layer.key === key)) return;
    for (const part of ["cloud-of", "regions-of"]) if (!this.chosen.has(part)) this.part(part).value = key;
    this.fillRegions();
    this.refreshCloud();
  }

  nameSides() {
    const names = this.sides.map((key) => this.layer(key)?.name ?? "guide");
    this.part("left-name").textContent = names[0];
    this.part("right-name").textContent = names[1];
    const slider = this.part("slider");
    slider.setAttribute("aria-label", `Divide between ${names[0]} (left) and ${names[1]} (right)`);
    this.compare.canvas.setAttribute("aria-label", `${this.image.name}: ${names[0]} beside ${names[1]}`);
  }

  fillReadout() {
    const body = this.part("values");
    body.replaceChildren();
    this.readout = this.depths.map((layer) => {
      const row = element("tr");
      const cells = [element("th", layer.name), element("td"), element("td")];
      cells[0].scope = "row";
      row.append(...cells);
      body.append(row);
      return { layer, value: cells[1], off: cells[2] };
    });
    this.showValues();
  }

  showValues() {
    const point = this.hover;
    this.part("place").textContent = point ? `x ${Math.floor(point.x)}, y ${Math.floor(point.y)}` : "the cursor";
    const truth = point ? this.value(this.layer("truth"), point.x, point.y) : NaN;
    for (const { layer, value, off } of this.readout) {
      const depth = point ? this.value(layer, point.x, point.y) : NaN;
      value.textContent = point ? valueText(depth, layer.step) : "";
      const error = this.estimates.includes(layer) ? depth - truth : NaN;
      const sign = error < 0 ? "\u2212" : error > 0 ? "+" : "";
      off.textContent = Number.isFinite(error) ? sign + valueText(Math.abs(error), layer.step) : "";
    }
  }

  fillErrors() {
    const grid = this.part("errors");
    grid.replaceChildren();
    this.panes = [this.compare];
    for (const layer of this.estimates) {
      const figure = element("figure");
      const canvas = element("canvas", "", "pane");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Error of ${layer.name} on ${this.image.name}`);
      const caption = element("figcaption");
      caption.append(element("b", layer.name), element("span", layer.score ? ` ${this.spec.metric} ${layer.score}` : ""));
      figure.append(canvas, caption);
      grid.append(figure);
      const pane = { canvas, draw: (place) => place(this.errors.get(layer.key)) };
      this.listenPane(pane);
      this.panes.push(pane);
    }
    this.showLegend();
  }

  showDepthLegend() {
    const { low, high, step } = this.image;
    this.part("depth-bar").style.background = gradient(DEPTH_COLOURS);
    this.part("depth-low").textContent = `\u2264 ${valueText(low, step)}`;
    this.part("depth-high").textContent = `\u2265 ${valueText(high, step)} ${this.spec.unit}`;
  }

  showLegend() {
    this.part("legend-bar").style.background = gradient(ERROR_COLOURS);
    this.part("legend-half").textContent = String(Number((this.largest / 2).toPrecision(3)));
    this.part("legend-end").textContent = `\u2265 ${this.largest} ${this.spec.unit}`;
  }

  /** Makes the error at the end of the colours the next larger (1) or smaller (-1) of 1, 2, 5, 10, ... */
  rescale(direction) {
    const power = 10 ** Math.floor(Math.log10(this.largest) + 1e-9);
    const steps = [0.5, 1, 2, 5, 10].map((step) => Number((step * power).toPrecision(3)));
    this.largest = steps[steps.indexOf(this.largest) + direction] ?? this.largest;
    for (const layer of this.estimates) if (this.errors.has(layer.key)) this.paintError(layer);
    this.showLegend();
    this.paint();
  }

  fillRegions() {
    const list = this.part("regions");
    list.replaceChildren();
    const regions = this.layer(this.part("regions-of").value).regions;
    for (const [x, y, side, error] of regions) {
      const item = element("li");
      const button = element("button", "", "region");
      button.type = "button";
      button.append(element("b", `${Number(error.toPrecision(3))} ${this.spec.unit}`), element("span", ` at ${x}, ${y}`));
      button.addEventListener("click", () => {
        this.box = { x, y, side };
        this.look(Math.min(this.image.width, this.image.height) / (3 * side), x + side / 2, y + side / 2);
        this.root.scrollIntoView({ block: "nearest" });
      });
      item.append(button);
      list.append(item);
    }
    this.part("no-regions").hidden = regions.length > 0;
  }

  // Zoom, pan and painting.

  /** Looks at a point of the image with a zoom, 1 being the whole image. */
  look(zoom, x, y) {
    const { width, height } = this.image;
    zoom = clamp(zoom, 1, ZOOM_MOST);
    const halfWidth = width / zoom / 2;
    const halfHeight = height / zoom / 2;
    this.view = {
      zoom,
      x: clamp(x, halfWidth, width - halfWidth),
      y: clamp(y, halfHeight, height - halfHeight),
    };
    this.part("zoom").textContent = `${Math.round(zoom * 100)} %`;
    this.root.classList.toggle("zoomed", zoom > 1);
    this.paint();
    this.refreshCloud();
  }

  /** Zooms by a factor; the point stays where it is. */
  zoomBy(factor, at = this.view) {
    const { zoom, x, y } = this.view;
    const next = clamp(zoom * factor, 1, ZOOM_MOST);
    this.look(next, at.x + ((x - at.x) * zoom) / next, at.y + ((y - at.y) * zoom) / next);
  }

  /** Pans by parts of what is in view. */
  pan(right, down) {
    const { zoom, x, y } = this.view;
    this.look(zoom, x + (right * this.image.width) / zoom, y + (down * this.image.height) / zoom);
  }

  moveDivide(part) {
    this.divide = clamp(part, 0, 1);
    this.paint();
  }

  paint() {
    this.frame ??= requestAnimationFrame(() => this.paintNow());
  }

  paintNow() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    const slider = this.part("slider");
    const percent = Math.round(this.divide * 100);
    slider.style.left = `${this.divide * 100}%`;
    slider.setAttribute("aria-valuenow", percent);
    slider.setAttribute("aria-valuetext", `${percent} % ${this.part("left-name").textContent}`);
    for (const pane of this.panes) this.paintPane(pane);
  }

  paintPane({ canvas, draw }) {
    const { image, view } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const scale = (width / image.width) * view.zoom;
    const left = width / 2 - view.x * scale;
    const top = height / 2 - view.y * scale;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    draw((picture, from = 0, to = 1) => {
      if (!picture) return;
      context.save();
      context.beginPath();
      context.rect(from * width, 0, (to - from) * width, height);
      context.clip();
      const across = (scale * image.width) / picture.width;
      const down = (scale * image.height) / picture.height;
      context.setTransform(across, 0, 0, down, left, top);
      context.imageSmoothingEnabled = across < 1; // seen from near, a pixel is a square
      context.imageSmoothingQuality = "medium";
      context.drawImage(picture, 0, 0);
      context.restore();
    });
    context.setTransform(scale, 0, 0, scale, left, top);
    this.drawMarks(context, ratio / scale);
    canvas.dataset.view = [view.zoom, view.x, view.y].map((v) => v.toFixed(3)).join(" ");
  }

  drawCompare(place) {
    const [left, right] = this.sides.map((key) => this.pictures.get(key));
    place(left, 0, this.divide);
    place(right, this.divide, 1);
  }

  /** The line, the region and the cursor, in the image's pixels; `pixel` is the size of one of the screen's. */
  drawMarks(context, pixel) {
    const stroke = (path) => {
      for (const [width, colour] of [[4, "rgb(0 0 0 / 60%)"], [1.75, "#fff"]]) {
        context.lineWidth = width * pixel;
        context.strokeStyle = colour;
        context.stroke(path);
      }
    };
    if (this.box) {
      const path = new Path2D();
      path.rect(this.box.x, this.box.y, this.box.side, this.box.side);
      stroke(path);
    }
    if (this.line) {
      const path = new Path2D();
      path.moveTo(this.line[0], this.line[1]);
      path.lineTo(this.line[2], this.line[3]);
      stroke(path);
      const end = new Path2D();
      end.arc(this.line[0], this.line[1], 3 * pixel, 0, 7);
      stroke(end);
    }
    if (this.hover) {
      const { x, y } = this.hover;
      const path = new Path2D();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        path.moveTo(x + 4 * dx * pixel, y + 4 * dy * pixel);
        path.lineTo(x + 11 * dx * pixel, y + 11 * dy * pixel);
      }
      stroke(path);
    }
  }

  // What the user does.

  listen() {
    for (const [i, button] of [...this.part("images").children].entries()) {
      button.addEventListener("click", () => this.show(i));
    }
    for (const [side, part] of [[0, "left"], [1, "right"]]) {
      this.part(part).addEventListener("change", (event) => this.choose(side, event.target.value));
    }
    const on = (part, act, kind = "click") => this.part(part).addEventListener(kind, act);
    on("swap", () => this.swap());
    on("zoom-in", () => this.zoomBy(1.5));
    on("zoom-out", () => this.zoomBy(1 / 1.5));
    on("reset", () => this.reset());
    on("draw", () => this.setDrawing(!this.drawing));
    on("across", () => this.profileAcross());
    on("show-cloud", () => this.showCloud());
    for (const [part, act] of [["cloud-of", () => this.showCloud()], ["regions-of", () => this.fillRegions()]]) {
      on(part, () => {
        this.chosen.add(part);
        act();
      }, "change");
    }
    on("error-less", () => this.rescale(-1));
    on("error-more", () => this.rescale(1));
    this.listenPane(this.compare);
    this.listenSlider();
    this.part("stage").addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.image && this.paint()).observe(this.part("stage"));
  }

  async choose(side, key) {
    this.sides[side] = key;
    this.followRight();
    this.nameSides();
    await this.loadPicture(key);
    this.paint();
  }

  swap() {
    this.sides.reverse();
    this.part("left").value = this.sides[0];
    this.part("right").value = this.sides[1];
    this.followRight();
    this.nameSides();
    this.paint();
  }

  reset() {
    this.box = null;
    this.look(1, this.image.width / 2, this.image.height / 2);
  }

  setDrawing(drawing) {
    this.drawing = drawing;
    this.part("draw").setAttribute("aria-pressed", String(drawing));
    this.root.classList.toggle("drawing", drawing);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input")) return;
    const step = event.shiftKey ? null : 0.02;
    const slide = (by) => (step ? this.moveDivide(this.divide + by * step) : this.pan(by * 0.1, 0));
    const acts = {
      ArrowLeft: () => slide(-1),
      ArrowRight: () => slide(1),
      ArrowUp: () => (step ? this.moveDivide(this.divide + step) : this.pan(0, -0.1)),
      ArrowDown: () => (step ? this.moveDivide(this.divide - step) : this.pan(0, 0.1)),
      Home: () => this.moveDivide(0),
      End: () => this.moveDivide(1),
      h: () => this.pan(-0.1, 0),
      l: () => this.pan(0.1, 0),
      k: () => this.pan(0, -0.1),
      j: () => this.pan(0, 0.1),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      0: () => this.reset(),
      x: () => this.swap(),
      p: () => this.profileAcross(),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
  }

  /** The point of the image under the pointer. */
  at(canvas, event) {
    const box = canvas.getBoundingClientRect();
    const scale = (box.width / this.image.width) * this.view.zoom;
    return {
      x: clamp(this.view.x + (event.clientX - box.left - box.width / 2) / scale, 0, this.image.width - 0.01),
      y: clamp(this.view.y + (event.clientY - box.top - box.height / 2) / scale, 0, this.image.height - 0.01),
      scale,
    };
  }

  listenSlider() {
    const slider = this.part("slider");
    slider.addEventListener("pointerdown", (event) => {
      slider.setPointerCapture(event.pointerId);
      slider.focus({ preventScroll: true });
      event.preventDefault();
    });
    slider.addEventListener("pointermove", (event) => {
      if (!slider.hasPointerCapture(event.pointerId)) {
        if (this.image) this.point(this.at(this.compare.canvas, event)); // the slider covers a part of the picture
        return;
      }
      const box = this.compare.canvas.getBoundingClientRect();
      this.moveDivide((event.clientX - box.left) / box.width);
    });
  }

  /** Marks a point in all panes and shows the values there; null where the pointer is elsewhere. */
  point(at) {
    this.hover = at;
    this.showValues();
    this.paint();
  }

  /** Dragging pans or draws the line, two fingers or the wheel zoom, a double click too. */
  listenPane({ canvas }) {
    const on = (kind, act, options) => canvas.addEventListener(kind, (event) => this.image && act(event), options);
    on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.part("slider").focus({ preventScroll: true });
      this.pointers.set(event.pointerId, event);
      const point = this.at(canvas, event);
      this.hover = point;
      if (this.drawing) this.line = [point.x, point.y, point.x, point.y];
    });
    on("pointermove", (event) => {
      const last = this.pointers.get(event.pointerId);
      const point = this.at(canvas, event);
      if (last) this.drag(canvas, last, event, point);
      this.point(last && !this.drawing ? this.hover : point);
    });
    on("mousedown", (event) => event.preventDefault()); // or the focus would leave the slider again
    const end = (event) => {
      if (!this.pointers.delete(event.pointerId) || !this.drawing || !this.line) return;
      const [x0, y0, x1, y1] = this.line;
      if (Math.hypot(x1 - x0, y1 - y0) < 2) this.line = null;
      else this.showProfile();
      this.setDrawing(false);
    };
    on("pointerup", end);
    on("pointercancel", end);
    on("pointerleave", () => this.point(null));
    on("wheel", (event) => {
      // Only after a click into the viewer, or with Ctrl: the wheel is the page's too.
      if (!event.ctrlKey && !this.part("stage").contains(document.activeElement)) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-clamp(event.deltaY, -200, 200) / 250), this.at(canvas, event));
    }, { passive: false });
    on("dblclick", (event) => this.zoomBy(2, this.at(canvas, event)));
  }

  drag(canvas, last, event, point) {
    this.pointers.set(event.pointerId, event);
    if (this.drawing) {
      if (this.line) this.line = [this.line[0], this.line[1], point.x, point.y];
      return;
    }
    const { zoom, x, y } = this.view;
    if (this.pointers.size === 2) {
      const other = [...this.pointers.values()].find((p) => p.pointerId !== event.pointerId);
      const distance = (p) => Math.max(Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY), 1);
      this.zoomBy(distance(event) / distance(last), this.at(canvas, other));
    } else {
      this.look(zoom, x - (event.clientX - last.clientX) / point.scale, y - (event.clientY - last.clientY) / point.scale);
    }
  }

  // Charts.

  profileAcross() {
    const { zoom, x, y } = this.view;
    const half = this.image.width / zoom / 2;
    this.line = [x - half, y, Math.min(x + half, this.image.width - 0.01), y];
    this.paint();
    return this.showProfile();
  }

  /** Every map along the line, one sample a pixel, nearest pixels. */
  async showProfile() {
    const turn = this.shows;
    const [x0, y0, x1, y1] = this.line;
    await Promise.all(this.depths.map((layer) => this.loadCodes(layer.key)));
    if (turn !== this.shows) return;
    const count = Math.max(Math.ceil(Math.hypot(x1 - x0, y1 - y0)), 1);
    const points = Array.from({ length: count + 1 }, (_, i) => ({
      x: x0 + ((x1 - x0) * i) / count,
      y: y0 + ((y1 - y0) * i) / count,
    }));
    const lines = this.depths.map((layer) => ({ layer, values: points.map(({ x, y }) => this.value(layer, x, y)) }));
    this.part("profile").hidden = false;
    const ends = [x0, y0, x1, y1].map(Math.floor);
    this.part("profile-title").textContent = `Profile from ${ends[0]}, ${ends[1]} to ${ends[2]}, ${ends[3]}`;
    await drawProfile(this.part("profile-chart"), lines, Math.hypot(x1 - x0, y1 - y0) / count, this.spec.unit, (i) => {
      if (turn === this.shows) this.point(i === null ? null : points[i]);
    });
  }

  /** Draws the relief anew, if there is one, once the view rests. */
  refreshCloud() {
    clearTimeout(this.cloudTimer);
    if (this.part("cloud").hidden) return;
    this.cloudTimer = setTimeout(() => this.part("cloud").hidden || this.showCloud(), CLOUD_DELAY);
  }

  /** The part of the image that is in view as relief. */
  async showCloud() {
    const turn = this.shows;
    this.part("cloud").hidden = false;
    const layer = this.layer(this.part("cloud-of").value);
    const colours = this.image.guide ? "guide" : layer.key;
    await Promise.all([this.loadCodes(layer.key), this.loadPicture(colours)]);
    if (turn !== this.shows || layer.key !== this.part("cloud-of").value) return;
    const { zoom, x, y } = this.view;
    const [halfWidth, halfHeight] = [this.image.width / zoom / 2, this.image.height / zoom / 2];
    const area = {
      left: Math.max(Math.floor(x - halfWidth), 0),
      top: Math.max(Math.floor(y - halfHeight), 0),
      right: Math.min(Math.ceil(x + halfWidth), this.image.width),
      bottom: Math.min(Math.ceil(y + halfHeight), this.image.height),
    };
    const ends = `x ${area.left}\u2013${area.right - 1}, y ${area.top}\u2013${area.bottom - 1}`;
    const way = this.spec.nearer === "large" ? "towards" : "away from";
    this.part("cloud-title").textContent = `In view, as relief (${ends}; ${this.spec.unit} ${way} the eye)`;
    await drawCloud(this.part("cloud-chart"), this, layer, colours, area);
  }
}
