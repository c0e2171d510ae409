"use strict";
// The posts of assets/posts.js: chosen, sorted and drawn a page at a time. Everything in them was written by strangers,
// so text is only ever set as text; no HTML is made from it. reporting/gallery.py says what the records are.

(() => {
  const data = sightreadPosts;
  const SVG = "http://www.w3.org/2000/svg";
  const CROSS = data.conditions.findIndex((condition) => condition.key === "cross_modal");
  const TEXT = data.conditions.findIndex((condition) => condition.key === "text_only");
  const DEFAULTS = { q: "", show: "all", by: data.conditions[0].key, type: "", picture: "", split: "", sort: "",
    scorer: "strict", size: "20", page: "1", attention: "", ...Object.fromEntries(data.kinds.map((kind) => [kind.key, ""])) };
  const state = { ...DEFAULTS };
  const form = document.getElementById("filters");
  const OF_PICTURES = data.kinds.filter((kind) => kind.about === "picture");
  const OF_POSTS = data.kinds.filter((kind) => kind.about === "post");

  // Small helpers

  const el = (name, properties = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "class") node.className = value;
      else if (key === "text") node.textContent = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const svg = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const number = (value) => value.toLocaleString("en");
  const plural = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;
  const pictures = (post) => post.pictures.map((index) => data.pictures[index]);

  // Which predictions are right, by the scorer and type that are chosen

  const key = (entity) => `${entity[0]}:${entity[1]}:${entity[2]}`;
  const counted = (entities, orphan) => entities.filter((entity) =>
    (state.scorer === "conlleval" || !entity[orphan]) && (state.type === "" || entity[2] === Number(state.type)));

  // {right, wrong, missed} of one condition, or null where there is no gold or no prediction
  const judge = (post, condition) => {
    const predicted = post.predicted[condition];
    if (post.gold === null || !predicted) return null;
    const gold = counted(post.gold, 3);
    const found = counted(predicted, 4);
    const wanted = new Set(gold.map(key));
    const named = new Set(found.map(key));
    return {
      right: found.filter((entity) => wanted.has(key(entity))),
      wrong: found.filter((entity) => !wanted.has(key(entity))),
      missed: gold.filter((entity) => !named.has(key(entity))),
    };
  };
  const errors = (verdict) => (verdict ? verdict.wrong.length + verdict.missed.length : null);

  let verdicts = [];
  let judgedFor = "";
  const judgeAll = () => {
    const wanted = `${state.scorer}|${state.type}`;
    if (wanted === judgedFor) return;
    verdicts = data.posts.map((post) => data.conditions.map((_, condition) => judge(post, condition)));
    judgedFor = wanted;
  };
  const both = (index) => [errors(verdicts[index][CROSS] ?? null), errors(verdicts[index][TEXT] ?? null)];
  const effect = (index) => {
    const [cross, text] = both(index);
    if (cross === null || text === null) return "";
    if (cross === 0 && text > 0) return "helped";
    if (cross > 0 && text === 0) return "hurt";
    return "";
  };

  // Whether other entities are found with the picture than without it, which needs no gold
  const changed = (post) => {
    const [cross, text] = [post.predicted[CROSS], post.predicted[TEXT]];
    return Boolean(cross && text) && counted(cross, 4).map(key).join() !== counted(text, 4).map(key).join();
  };

  // Search: every word of the query somewhere in the post, its context or what its picture gave

  const fold = (text) => text.normalize("NFKC").toLowerCase();
  let haystacks = null;
  const haystack = (index) => {
    if (haystacks === null) {
      haystacks = data.posts.map((post) => {
        const words = (kinds, found) => kinds.flatMap((kind) => found[kind.key].map((item) => item[0]));
        const parts = [post.id, post.tokens.join(" "), post.context, ...words(OF_POSTS, post.found)];
        for (const shown of pictures(post)) parts.push(shown.name, ...words(OF_PICTURES, shown.found));
        return fold(parts.join("\n"));
      });
    }
    return haystacks[index];
  };

  // Choosing and sorting

  // Of several pictures, what is wrong with the first that something is wrong with
  const pictureStatus = (post) => {
    const statuses = pictures(post).map((shown) => shown.status);
    return statuses.find((status) => status !== "ok") ?? statuses[0] ?? "none";
  };

  const choose = () => {
    judgeAll();
    const words = fold(state.q).split(/\s+/).filter(Boolean);
    const by = Math.max(0, data.conditions.findIndex((condition) => condition.key === state.by));
    const type = state.type === "" ? null : Number(state.type);
    const has = (entities) => entities !== null && entities.some((entity) => entity[2] === type);
    const found = [];
    data.posts.forEach((post, index) => {
      if (state.split && post.split !== state.split) return;
      const status = pictureStatus(post);
      if (state.picture === "broken" ? status === "ok" || status === "none" : state.picture && state.picture !== status) return;
      if (type !== null && !has(post.gold) && !post.predicted.some(has)) return;
      const count = errors(verdicts[index][by]);
      if (state.show === "errors" && !(count > 0)) return;
      if (state.show === "right" && count !== 0) return;
      if ((state.show === "helped" || state.show === "hurt") && effect(index) !== state.show) return;
      if (state.show === "changed" && !changed(post)) return;
      if (state.show === "related" && !(post.relation !== null && post.relation >= 0.5)) return;
      if (state.show === "unrelated" && !(post.relation !== null && post.relation < 0.5)) return;
      if (words.length && !words.every((word) => haystack(index).includes(word))) return;
      found.push(index);
    });
    const rank = ranking(by);
    if (rank) {
      const ranks = new Map(found.map((index) => [index, rank(index)]));
      found.sort((one, other) => ranks.get(other) - ranks.get(one) || one - other);
    }
    return found;
  };

  // A number by which to sort, the greatest first; posts it does not apply to come last
  const ranking = (by) => {
    const last = -Infinity;
    const predictions = (index) => counted(data.posts[index].predicted[by] || [], 4);
    const difference = (index) => {
      const [cross, text] = both(index);
      return cross === null || text === null ? null : text - cross;
    };
    return {
      errors: (index) => errors(verdicts[index][by]) ?? last,
      unsure: (index) => Math.max(last, ...predictions(index).map((entity) => -entity[3])),
      "surely-wrong": (index) => Math.max(last, ...(verdicts[index][by]?.wrong ?? []).map((entity) => entity[3])),
      gain: (index) => difference(index) ?? last,
      loss: (index) => { const value = difference(index); return value === null ? last : -value; },
      context: (index) => data.posts[index].context.length,
      related: (index) => data.posts[index].relation ?? last,
      "": (index) => ["", "hurt", "helped"].indexOf(effect(index)) - 3 * data.splits.indexOf(data.posts[index].split),
      unrelated: (index) => { const value = data.posts[index].relation; return value === null ? last : -value; },
    }[state.sort];
  };

  // Drawing a post

  const typeName = (entity) => data.types[entity[2]];
  const typeClass = (entity) => `t${entity[2] % 8}`;

  // The tweet with entities marked; `verdictOf` gives "right", "wrong" or "" (gold)
  const line = (tokens, entities, verdictOf) => {
    const text = el("p", { class: "text", dir: "auto" });
    let position = 0;
    for (const entity of [...entities].sort((one, other) => one[0] - other[0])) {
      if (entity[0] < position) continue; // entities of one labelling never overlap
      if (entity[0] > position) text.append(tokens.slice(position, entity[0]).join(" "), " ");
      const verdict = verdictOf(entity);
      const mark = el("mark", { class: `entity ${typeClass(entity)} ${verdict}` },
        el("span", { class: "words", text: tokens.slice(entity[0], entity[1]).join(" ") }), " ",
        el("span", { class: "type", text: typeName(entity) }));
      if (verdict) {
        mark.append(" ", el("span", { class: "sure", text: entity[3].toFixed(2) }), " ",
          el("span", { class: "verdict", "aria-hidden": "true", text: verdict === "right" ? "✓" : verdict === "wrong" ? "✗" : "" }),
          el("span", { class: "unseen", text: verdict === "unjudged" ? "" : verdict }));
      }
      text.append(mark, " ");
      position = entity[1];
    }
    text.append(tokens.slice(position).join(" "));
    return text;
  };

  const inScheme = (entities, orphan) => entities.filter((entity) => state.scorer === "conlleval" || !entity[orphan]);

  const labelled = (name, ...content) => [el("dt", { text: name }), el("dd", {}, ...content)];

  const readings = (post, index) => {
    const list = el("dl", { class: "readings" });
    const gold = post.gold === null ? el("p", { class: "absent", text: "no labels" })
      : line(post.tokens, inScheme(post.gold, 3), () => "");
    if (post.gold === null) list.append(...labelled("tweet", line(post.tokens, [], () => ""), gold));
    else list.append(...labelled("gold", gold));
    data.conditions.forEach((condition, place) => {
      const predicted = post.predicted[place];
      if (!predicted) {
        list.append(...labelled(condition.name, el("p", { class: "absent", text: "no predictions" })));
        return;
      }
      const verdict = verdicts[index][place];
      const wanted = post.gold === null ? null : new Set(inScheme(post.gold, 3).map(key));
      const text = line(post.tokens, inScheme(predicted, 4), (entity) =>
        (wanted === null ? "unjudged" : wanted.has(key(entity)) ? "right" : "wrong"));
      const more = [];
      if (verdict && verdict.missed.length) {
        const missed = el("p", { class: "missed" }, "missed: ");
        for (const entity of verdict.missed) {
          missed.append(el("span", { class: `entity absent-entity ${typeClass(entity)}` },
            el("span", { class: "words", dir: "auto", text: post.tokens.slice(entity[0], entity[1]).join(" ") }), " ",
            el("span", { class: "type", text: typeName(entity) })), " ");
        }
        more.push(missed);
      }
      if (["shuffled", "noised"].includes(condition.key) && post.used[place]) {
        more.push(el("p", { class: "other-context" }, "read: ", el("span", { dir: "auto", text: post.used[place] })));
      }
      list.append(...labelled(condition.name, text, ...more));
    });
    return list;
  };

  // The context string, the part that no window had room for struck out
  const contextOf = (post) => {
    if (!post.context) return el("p", { class: "absent", text: "none: the tagger reads the tweet alone" });
    const used = CROSS < 0 || !post.predicted[CROSS] ? null : post.used[CROSS];
    if (used === null || !post.context.startsWith(used)) return el("p", { class: "context", dir: "auto", text: post.context });
    const cut = post.context.slice(used.length);
    return el("div", {}, el("p", { class: "context", dir: "auto" }, used, el("del", { class: "cut", text: cut })),
      el("p", { class: "hint", text: `cut: the last ${plural(cut.length, "character")} did not fit (train.max_context)` }));
  };

  const score = (value) => (value === null ? [] : [" ", el("span", { class: "sure", text: value.toFixed(2) })]);

  const shape = (kind, item, scale, height) => {
    const [text, , geometry] = item;
    if (!geometry) return null;
    const group = svg("g", { class: `shape ${kind}` });
    const isBox = !Array.isArray(geometry[0]);
    const points = isBox
      ? [[geometry[0], geometry[1]], [geometry[2], geometry[1]], [geometry[2], geometry[3]], [geometry[0], geometry[3]]]
      : geometry;
    group.append(svg("polygon", { points: points.map((point) => point.join(",")).join(" "), class: "under" }));
    group.append(svg("polygon", { points: points.map((point) => point.join(",")).join(" ") }));
    // The words of a box stand above it, those of a polygon below it, so that they keep out of each other's way.
    const left = Math.min(...points.map((point) => point[0]));
    const top = Math.min(...points.map((point) => point[1]));
    const bottom = Math.max(...points.map((point) => point[1]));
    const below = !isBox ? bottom + 16 * scale <= height : top < 14 * scale;
    const y = !isBox ? (below ? bottom + 13 * scale : top - 4 * scale) : (below ? top + 13 * scale : top - 4 * scale);
    group.append(svg("text", { x: Math.max(2 * scale, left + (isBox && below ? 4 : 0) * scale), y,
      "font-size": 12 * scale, "stroke-width": 3.5 * scale }, text.length > 40 ? `${text.slice(0, 39)}…` : text));
    return group;
  };

  // A button that draws a group of the overlay and takes it away; drawn at first if the form says so
  const toggle = (group, on, ...content) => {
    const button = el("button", { type: "button", title: "draw it over the picture" }, ...content);
    const set = (shown) => {
      button.setAttribute("aria-pressed", String(shown));
      group.classList.toggle("shown", shown);
    };
    button.addEventListener("click", () => set(button.getAttribute("aria-pressed") !== "true"));
    set(on);
    return button;
  };

  // The cells of a picture's grid, the fuller the more is attended to them; `most` is the weight of the fullest
  const grid = (weights, most, shown) => {
    const cells = Math.sqrt(weights.length);
    const short = Math.min(shown.width, shown.height);
    const [width, height] = data.resize === "crop" ? [short, short] : [shown.width, shown.height];
    const [left, top] = [(shown.width - width) / 2, (shown.height - height) / 2];
    const group = svg("g", { class: "shape attention" });
    weights.forEach((weight, place) => {
      group.append(svg("rect", { x: left + (place % cells) * width / cells, y: top + Math.floor(place / cells) * height / cells,
        width: width / cells, height: height / cells, "fill-opacity": most ? (0.8 * weight / most).toFixed(3) : 0 }));
    });
    return group;
  };

  // Items of one kind, of a picture or a post, as buttons that draw their shape, if they have one
  const items = (kind, shown, overlay, scale) => {
    if (shown.failed[kind]) return el("p", { class: "absent", text: shown.failed[kind] });
    if (!shown.found[kind].length) return el("p", { class: "absent", text: "nothing found" });
    const list = el("ul", { class: "items" });
    for (const item of shown.found[kind]) {
      const drawn = overlay ? shape(kind, item, scale, shown.height) : null;
      const text = el("span", { class: "words", dir: "auto", text: item[0] });
      if (!drawn) {
        const source = item[3] ? [" ", el("span", { class: "hint", text: item[3] })] : [];
        list.append(el("li", {}, text, ...score(item[1]), ...source));
        continue;
      }
      overlay.append(drawn);
      list.append(el("li", {}, toggle(drawn, Boolean(state[kind]), text, ...score(item[1]))));
    }
    if (shown.more[kind]) list.append(el("li", { class: "hint", text: `and ${number(shown.more[kind])} more` }));
    return list;
  };

  const STATUS = { missing: "missing", unsafe_name: "unsafe name", too_large: "too large", too_slow: "too slow",
    truncated: "truncated", unreadable: "unreadable" };

  // A picture, or what became of it, and the layer that outlines are drawn on
  const figureOf = (shown) => {
    const figure = el("figure");
    let overlay = null;
    // As wide as its column, but no tall picture a screen high and no small one blown up.
    const width = shown && shown.width ? Math.min(300, 400 * shown.width / shown.height, Math.max(shown.width, 160)) : 0;
    const scale = width ? shown.width / width : 1; // of the picture's pixels to the screen's
    if (shown && shown.thumbnail) {
      const first = shown.found.captions?.[0];
      overlay = svg("svg", { viewBox: `0 0 ${shown.width} ${shown.height}`, class: "overlay", "aria-hidden": "true" });
      const image = el("img", { src: `assets/thumbnails/${shown.thumbnail}`, alt: first ? `Picture; caption: ${first[0]}` : "Picture of the post",
        width: shown.width, height: shown.height, loading: "lazy", decoding: "async" });
      const frame = el("div", { class: "frame" }, image, overlay);
      frame.style.maxWidth = `${Math.round(width)}px`;
      figure.append(frame);
    } else {
      const what = shown === null ? "no picture" : shown.status === "ok" ? "picture not readable any more" : `picture ${STATUS[shown.status] ?? shown.status}`;
      figure.append(el("div", { class: "frame hole" }, el("p", {}, el("strong", { text: what })),
        ...(shown && shown.error ? [el("p", { class: "hint", text: shown.error })] : [])));
    }
    if (shown) figure.append(el("figcaption", {}, el("code", { text: shown.name }), shown.width ? ` ${shown.width} × ${shown.height}` : ""));
    return { figure, overlay, scale };
  };

  const card = (index) => {
    const post = data.posts[index];
    const all = pictures(post);
    const side = el("div", { class: "pictures" });
    const title = el("h3", { id: `post-${index}` }, el("span", { class: "id", text: post.id }));
    title.append(" ", el("span", { class: "badge", text: post.split }));
    const found = effect(index);
    if (found === "helped") title.append(" ", el("span", { class: "badge helped", text: "▲ picture helped" }));
    if (found === "hurt") title.append(" ", el("span", { class: "badge hurt", text: "▼ picture hurt" }));
    if (!found && changed(post)) title.append(" ", el("span", { class: "badge", text: "changed by the picture" }));
    if (post.relation !== null) title.append(" ", el("span", { class: "badge", text: `relation ${post.relation.toFixed(3)}`,
      title: "how likely the picture adds to the meaning, by the tagger's own relation of text and image" }));

    const body = el("div", { class: "body" }, title, readings(post, index));
    const facts = el("dl", { class: "facts" });
    facts.append(...labelled("context", contextOf(post)));
    const unused = (kind) => kind.used ? "" : " (not in the context)";
    for (const kind of OF_POSTS) facts.append(...labelled(kind.name + unused(kind), items(kind.key, post, null, 1)));
    const most = Math.max(0, ...(post.attention ?? []).flatMap((weights) => weights ?? []));
    (all.length ? all : [null]).forEach((shown, place) => {
      const { figure, overlay, scale } = figureOf(shown);
      side.append(figure);
      const which = all.length > 1 ? ` of picture ${place + 1}` : "";
      const weights = post.attention?.[place];
      if (overlay && weights) {
        const drawn = grid(weights, most, shown);
        overlay.prepend(drawn);
        const part = score(weights.reduce((sum, weight) => sum + weight, 0));
        facts.append(...labelled(`attention${which}`, el("ul", { class: "items" },
          el("li", {}, toggle(drawn, Boolean(state.attention), el("span", { class: "words", text: "on the grid" }), ...part)))));
      }
      if (!shown || !(shown.thumbnail || OF_PICTURES.some((kind) => shown.found[kind.key].length))) return;
      for (const kind of OF_PICTURES) {
        if (kind.off) continue;
        facts.append(...labelled(kind.name + which + unused(kind), items(kind.key, shown, overlay, scale)));
      }
    });
    body.append(facts);
    return el("article", { class: "card", "aria-labelledby": `post-${index}` }, side, body);
  };

  // Pages

  const count = document.getElementById("count");
  const cards = document.getElementById("cards");
  const navigations = document.querySelectorAll("nav.pages");
  let found = [];

  const pages = () => Math.max(1, Math.ceil(found.length / Number(state.size)));

  const turn = (page, focus) => {
    state.page = String(Math.min(Math.max(1, page), pages()));
    show();
    remember();
    if (focus) {
      document.querySelector(".results").scrollIntoView({ block: "start" });
      cards.querySelector("h3")?.setAttribute("tabindex", "-1");
      cards.querySelector("h3")?.focus({ preventScroll: true });
    }
  };

  const pager = (navigation) => {
    const page = Number(state.page);
    const button = (text, label, target, disabled) => {
      const node = el("button", { type: "button", text, "aria-label": label });
      node.disabled = disabled;
      node.addEventListener("click", () => turn(target, true));
      return node;
    };
    const input = el("input", { type: "number", min: "1", max: String(pages()), value: String(page), "aria-label": "Page" });
    input.addEventListener("change", () => turn(Math.round(Number(input.value)) || 1, false));
    navigation.replaceChildren(
      button("«", "First page", 1, page === 1), button("‹", "Previous page", page - 1, page === 1),
      el("span", {}, "page ", input, ` of ${number(pages())}`),
      button("›", "Next page", page + 1, page === pages()), button("»", "Last page", pages(), page === pages()));
    navigation.hidden = pages() === 1;
  };

  const show = () => {
    const size = Number(state.size);
    const start = (Number(state.page) - 1) * size;
    const some = found.slice(start, start + size);
    cards.replaceChildren(...some.map(card));
    if (!found.length) cards.append(el("p", { class: "absent", text: "No post is like that. Choose less, or press Reset." }));
    const range = found.length > size ? `, ${number(start + 1)} to ${number(start + some.length)} shown` : "";
    count.textContent = `${number(found.length)} of ${plural(data.posts.length, "post")}${range}`;
    navigations.forEach(pager);
  };

  const update = () => {
    found = choose();
    state.page = String(Math.min(Math.max(1, Math.round(Number(state.page)) || 1), pages()));
    show();
  };

  // The state is in the address, so that a choice can be kept and passed on

  const remember = () => {
    const changed = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
    const address = changed.length ? `#posts?${new URLSearchParams(changed)}` : "#posts";
    history.replaceState(null, "", address);
  };

  const recall = () => {
    const [place, query] = location.hash.split("?");
    if (place !== "#posts" || query === undefined) return false;
    const given = new URLSearchParams(query);
    for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
    return true;
  };

  const toForm = () => {
    for (const [name, value] of Object.entries(state)) {
      const field = form.elements[name];
      if (!field) continue;
      if (field.type === "checkbox") field.checked = Boolean(value);
      else {
        field.value = value;
        // An address may name what this run does not have.
        if (field.value !== value) field.value = state[name] = DEFAULTS[name];
      }
    }
  };

  const fromForm = () => {
    for (const field of form.elements) {
      if (!(field.name in DEFAULTS)) continue;
      state[field.name] = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
    }
    state.page = "1";
    update();
    remember();
  };

  // What there is to choose among

  const option = (value, text) => el("option", { value, text });
  data.types.forEach((name, index) => {
    document.getElementById("f-type").append(option(String(index), name));
    document.getElementById("types").append(el("li", {}, el("mark", { class: `entity t${index % 8}` }, el("span", { class: "type", text: name }))));
  });
  data.conditions.forEach((condition) => document.getElementById("f-by").append(option(condition.key, condition.name)));
  data.splits.forEach((split) => document.getElementById("f-split").append(option(split, split)));
  const statuses = new Map();
  for (const post of data.posts) statuses.set(pictureStatus(post), (statuses.get(pictureStatus(post)) ?? 0) + 1);
  const broken = [...statuses.keys()].filter((status) => status !== "ok" && status !== "none").sort();
  const choices = [["ok", "readable"], ...(broken.length ? [["broken", "broken, of any kind"]] : []),
    ...broken.map((status) => [status, STATUS[status] ?? status]), ["none", "none named"]];
  for (const [value, text] of choices) {
    const total = value === "broken" ? broken.reduce((sum, status) => sum + statuses.get(status), 0) : statuses.get(value) ?? 0;
    if (total) document.getElementById("f-picture").append(option(value, `${text} (${number(total)})`));
  }
  if (CROSS < 0 || TEXT < 0) {
    for (const node of form.querySelectorAll('option[value="helped"], option[value="hurt"], option[value="gain"], option[value="loss"]')) node.disabled = true;
  }

  const related = data.posts.some((post) => post.relation !== null);
  for (const node of form.querySelectorAll('option[value="related"], option[value="unrelated"]')) node.hidden = node.disabled = !related;

  let waiting = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    // Typing settles first; anything else answers at once.
    if (event.target.name === "q") waiting = setTimeout(fromForm, 120);
    else fromForm();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    Object.assign(state, DEFAULTS);
    toForm();
    update();
    remember();
  });
  addEventListener("hashchange", () => {
    if (recall()) {
      toForm();
      update();
    }
  });

  const given = recall();
  toForm();
  document.getElementById("gallery").hidden = false;
  update();
  if (given) document.getElementById("posts").scrollIntoView();
})();
