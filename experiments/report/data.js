"use strict";
// What the page holds beside its text. Nothing here draws.

const REPORT = JSON.parse(document.getElementById("report-data").textContent);

/** The text of a blob; its element stays, as another viewer may ask for it again. */
const blobText = (id) => document.getElementById(id).textContent.trim();

/** The bytes of base64 text, decompressed ("deflate" or "gzip"). */
async function decompress(text, format) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
