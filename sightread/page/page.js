"use strict";
// Sends a tweet and pictures to /tag/form and draws what comes back. Texts are a stranger's, a model's or a picture's,
// so they are only ever set as text; no HTML is made of them.

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  let files = [];
  let urls = [];

  const el = (name, text, ...children) => {
    const node = document.createElement(name);
    if (text !== null) node.textContent = text;
    node.append(...children);
    return node;
  };
  const svg = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const choose = (list) => {
    files = [...list].filter((file) => file.type.startsWith("image/"));
    byId("chosen").replaceChildren(...files.map((file) => el("li", file.name)));
  };

  // Offsets count code points; JavaScript's strings count halves of some of them
  const line = (place, text, entities) => {
    const points = [...text];
    const parts = [];
    let from = 0;
    for (const entity of entities) {
      parts.push(points.slice(from, entity.start_char).join(""));
      const sure = `${entity.type} ${entity.confidence.toFixed(2)}`;
      parts.push(el("mark", points.slice(entity.start_char, entity.end_char).join(""), el("small", sure)));
      from = entity.end_char;
    }
    parts.push(points.slice(from).join(""));
    place.replaceChildren(...parts);
  };

  const scored = (text, score) => (score === null || score === undefined ? text : `${text} (${score.toFixed(2)})`);

  const drawn = (found, url) => {
    const { width, height } = found;
    const size = Math.max(width, height) / 32;
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "the picture, and what was found in it" });
    drawing.append(svg("image", { href: url, width, height }));
    for (const item of found.objects || []) {
      if (item.box === null) continue;
      const [left, top, right, bottom] = item.box;
      drawing.append(svg("rect", { x: left, y: top, width: right - left, height: bottom - top }));
      drawing.append(svg("text", { x: left + size / 4, y: top + size, "font-size": size }, item.label));
    }
    for (const item of found.ocr || []) {
      if (item.polygon !== null) drawing.append(svg("polygon", { points: item.polygon.flat().join(" ") }));
    }
    return drawing;
  };

  const described = (found) => {
    const list = el("dl", null);
    const say = (name, texts) => { if (texts.length) list.append(el("dt", name), el("dd", texts.join(" · "))); };
    const named = (item) => scored(item.attribute ? `${item.attribute} ${item.label}` : item.label, item.score);
    say("objects", (found.objects || []).map(named));
    say("captions", (found.captions || []).map((item) => scored(item.text, item.score)));
    say("words", (found.ocr || []).map((item) => scored(item.text, item.score)));
    say("failed", Object.entries(found.failed || {}).map(([kind, error]) => `${kind}: ${error}`));
    if (found.status !== "ok") say("picture", [`${found.status}: ${found.error}`]);
    return list;
  };

  const show = (post) => {
    line(byId("with"), post.text, post.entities);
    line(byId("without"), post.text, post.text_only.entities);
    byId("changed").textContent = post.changed ? "The pictures change what is found." : "The pictures change nothing.";
    byId("context").textContent = post.context_used || "nothing";
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = files.map((file) => URL.createObjectURL(file));
    byId("pictures").replaceChildren(...post.pictures.map((found, place) => {
      const figure = el("figure", null);
      if (found.status === "ok") figure.append(drawn(found, urls[place]));
      figure.append(described(found));
      return figure;
    }));
    byId("result").hidden = false;
  };

  const send = async () => {
    const body = new FormData();
    body.append("text", byId("text").value);
    files.forEach((file) => body.append("images", file));
    const response = await fetch("tag/form", { method: "POST", body });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail);
    show(answer.posts[0]);
  };

  const say = (text, wrong = false) => {
    byId("state").textContent = text;
    byId("state").className = wrong ? "error" : "";
  };

  byId("images").addEventListener("change", (event) => choose(event.target.files));
  const drop = byId("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") choose(event.dataTransfer.files);
    });
  }
  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    byId("send").disabled = true;
    say("reading …");
    try {
      await send();
      say("");
    } catch (error) {
      say(String(error.message || error), true);
    }
    byId("send").disabled = false;
  });
})();
