"use strict";
// What DADA does to an image, frame by frame: it plays while it is in sight, and stands still for who asks for less motion.

const FRAME = 220; // ms
const HOLD = 1500; // ms, of the first and the last
const lessMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** A picture of a data URL, decoded. */
async function decoded(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  return picture;
}

class Player {
  /** `root`: the stage of the page; `spec`: its entry among REPORT.diffusions. */
  constructor(root, spec) {
    this.root = root;
    this.spec = spec;
    this.part = (name) => root.querySelector(`[data-part="${name}"]`);
    this.timer = 0;
    this.inSight = false;
    this.wanted = false; // whether it plays whenever it is in sight
    this.maps = ["depth", "error"].filter((name) => this.part(name));
    this.frames = [];
    this.drawn = this.draw();
  }

  /** Draws what there is without playing: the last frame. */
  async draw() {
    const last = this.spec.frames.length - 1;
    this.frames[last] = await this.decode(this.spec.frames[last]);
    this.show(last);
  }

  /** Decodes all frames, which takes memory, and begins. */
  async start() {
    await this.drawn;
    this.frames = await Promise.all(this.spec.frames.map((frame) => this.decode(frame)));
    this.part("play").addEventListener("click", () => this.want(!this.wanted));
    this.part("frame").addEventListener("input", () => {
      this.want(false);
      this.show(Number(this.part("frame").value));
    });
    lessMotion.addEventListener("change", () => this.want(!lessMotion.matches));
    new IntersectionObserver((entries) => {
      this.inSight = entries.at(-1).isIntersecting;
      this.schedule();
    }).observe(this.part("depth"));
    this.want(!lessMotion.matches);
    this.root.dataset.complete = "true";
  }

  /** A frame with its pictures. */
  async decode(frame) {
    return { text: frame.text, pictures: await Promise.all(this.maps.map((name) => decoded(frame[name]))) };
  }

  /** Shows a frame. */
  show(index) {
    this.index = index;
    const { text, pictures } = this.frames[index];
    for (const [i, name] of this.maps.entries()) {
      const canvas = this.part(name);
      [canvas.width, canvas.height] = [pictures[i].naturalWidth, pictures[i].naturalHeight];
      canvas.getContext("2d").drawImage(pictures[i], 0, 0);
    }
    this.part("told").textContent = text;
    this.part("frame").value = String(index);
    this.part("frame").setAttribute("aria-valuetext", text);
  }

  /** Begins to play, or pauses. */
  want(wanted) {
    this.wanted = wanted;
    this.part("play").textContent = wanted ? "Pause" : "Play";
    this.schedule();
  }

  /** The next frame in a while, if it plays and is in sight. */
  schedule() {
    clearTimeout(this.timer);
    if (!this.wanted || !this.inSight) return;
    const last = this.frames.length - 1;
    this.timer = setTimeout(() => {
      this.show(this.index === last ? 0 : this.index + 1);
      this.schedule();
    }, this.index === 0 || this.index === last ? HOLD : FRAME);
  }
}
