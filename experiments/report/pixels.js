"use strict";
// Depth maps and pictures out of the page's text; `pixels.py` puts them in. Nothing here draws.

/** The codes of a map, Uint16Array: 0 is unknown, c > 0 the value offset + (c - 1) * step. */
async function decodeCodes(layer) {
  const { width, height } = layer;
  const planes = await decompress(blobText(layer.blob), "deflate");
  const size = width * height;
  const codes = new Uint16Array(size);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const left = x ? codes[i - 1] : 0;
      const above = y ? codes[i - width] : 0;
      const corner = x && y ? codes[i - width - 1] : 0;
      const low = left < above ? left : above;
      const high = left < above ? above : left;
      const plane = left + above - corner;
      const expected = plane < low ? low : plane > high ? high : plane;
      const folded = planes[i] | (planes[size + i] << 8);
      codes[i] = expected + ((folded >>> 1) ^ -(folded & 1)); // modulo 2^16
    }
  }
  return codes;
}

const UNKNOWN = 0xff808080; // grey, as ABGR

/** A palette as 256 ABGR words. */
const packPalette = (palette) => Uint32Array.from(palette, ([r, g, b]) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0);
const DEPTH_COLOURS = packPalette(REPORT.palettes.depth);
const ERROR_COLOURS = packPalette(REPORT.palettes.error);

/** A canvas of that size whose pixels `fill` writes, ABGR words. */
function painted(width, height, fill) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  fill(new Uint32Array(image.data.buffer));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const colourIndex = (part) => Math.max(0, Math.min(255, Math.round(255 * part)));

/** A map in colours, from the truth's smallest value to its largest. */
function depthPicture(image, layer, codes) {
  const scale = 1 / Math.max(image.high - image.low, 1e-12);
  const table = new Uint32Array(65536);
  for (let code = 1; code < 65536; code++) {
    table[code] = DEPTH_COLOURS[colourIndex((layer.offset + (code - 1) * layer.step - image.low) * scale)];
  }
  table[0] = UNKNOWN;
  return painted(layer.width, layer.height, (pixels) => {
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[codes[i]];
  });
}

/** The absolute difference of two maps in colours, `largest` or more at their end. */
function errorPicture(image, layer, codes, truth, largest) {
  const scale = (255 * image.step) / largest;
  return painted(layer.width, layer.height, (pixels) => {
    for (let i = 0; i < pixels.length; i++) {
      const off = Math.abs(codes[i] - truth[i]) * scale;
      pixels[i] = codes[i] && truth[i] ? ERROR_COLOURS[off > 255 ? 255 : (off + 0.5) | 0] : UNKNOWN;
    }
  });
}

/** The guide, as a canvas whose pixels can be read. */
async function guidePicture(image) {
  const picture = new Image();
  picture.src = blobText(image.guide);
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(picture, 0, 0);
  return canvas;
}

/** A number of a map: as many digits as the step deserves. */
function valueText(value, step) {
  return Number.isFinite(value) ? value.toFixed(step >= 1 ? 0 : Math.min(6, Math.ceil(-Math.log10(step)))) : "unknown";
}
