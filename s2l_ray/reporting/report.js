"use strict";
// Everything works without this file: it adds tooltips, filters, sorting, the theme and the other examples.
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  // Tooltips: the text is in the marks.
  const tip = $("tip");
  const show = (event) => {
    const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("data-tip");
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 12, innerWidth - box.width - 8);
    const y = event.clientY + 14 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 14;
    // The policy forbids style attributes; the object model may set single properties.
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  };
  addEventListener("pointermove", show, { passive: true });
  addEventListener("pointerdown", show, { passive: true });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Theme: follows the system until the button says otherwise; stored nowhere.
  const root = document.documentElement;
  const theme = $("theme");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  theme.hidden = false;
  name();

  const copy = $("copy");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("markdown").textContent);
      $("copied").textContent = "copied";
    } catch {
      $("markdown").hidden = false;
      $("copied").textContent = "the browser forbids copying; the text is below";
    }
  });

  // The other examples: text only, never markup.
  const rows = $("rows");
  const paragraph = (parent, role, text) => {
    const line = make("p");
    line.dir = "auto";
    line.append(make("span", role, "role"), ` ${text}`);
    parent.append(line);
  };
  const drawn = (points) => {
    const namespace = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(namespace, "svg");
    const line = document.createElementNS(namespace, "polyline");
    for (const [key, value] of [["class", "line"], ["viewBox", "0 0 60 18"], ["width", "60"], ["height", "18"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
    line.setAttribute("points", points);
    svg.append(line);
    return svg;
  };
  const row = (e) => {
    const line = make("tr");
    line.id = `x-${e.id}`;
    Object.assign(line.dataset, { cluster: e.cluster, choice: e.chosen ? 1 : 0, source: e.source });
    const why = make("td", e.why);
    why.append(make("br"), make("b", e.chosen ? "chosen" : "left out"));
    const topic = make("td", e.topic);
    topic.dir = "auto";
    if (e.topic !== e.source) topic.append(make("br"), make("span", e.source, "muted"));
    const text = make("td", undefined, "text");
    for (const [role, said] of e.turns) paragraph(text, role, said);
    if (e.cut) text.append(make("p", `… ${e.cut.toLocaleString("en")} more characters`, "muted"));
    const link = make("a", e.id, "id");
    link.href = `#x-${e.id}`;
    text.append(link);
    const loss = make("td", undefined, "n");
    loss.append(drawn(e.line), make("br"), `${e.first} → ${e.last}`);
    line.append(make("td", String(e.cluster), "n"), why, topic, text, make("td", e.tokens, "n"), loss);
    return line;
  };

  if (rows) {
    const few = 60;
    for (const e of JSON.parse($("more").textContent)) rows.append(row(e));
    if ($("first-only")) $("first-only").hidden = true;
    const all = [...rows.children];
    for (const line of all) line.searched = line.textContent.toLowerCase();
    const fields = { q: $("q"), cluster: $("by-cluster"), choice: $("by-choice"), source: $("by-source") };
    const filter = () => {
      const words = fields.q.value.toLowerCase().trim();
      const wanted = Object.entries(fields).filter(([key, field]) => key !== "q" && field.value !== "");
      let found = 0;
      for (const line of all) {
        const fits = wanted.every(([key, field]) => line.dataset[key] === field.value) && line.searched.includes(words);
        found += fits;
        line.hidden = !fits || (found > few && !words && !wanted.length);
      }
      const shown = all.filter((line) => !line.hidden).length;
      $("count").textContent = shown < found ? `${shown} of ${found} examples shown; filter to see others` : `${found} examples`;
      for (const card of document.querySelectorAll(".card")) card.setAttribute("aria-pressed", String(card.dataset.cluster === fields.cluster.value));
    };
    for (const field of Object.values(fields)) field.addEventListener("input", filter);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("filters").hidden = false;
    const clear = () => { for (const field of Object.values(fields)) field.value = ""; filter(); };
    addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
    for (const card of document.querySelectorAll(".card")) {
      card.addEventListener("click", () => {
        fields.cluster.value = fields.cluster.value === card.dataset.cluster ? "" : card.dataset.cluster;
        filter();
        if (fields.cluster.value) document.getElementById("examples").scrollIntoView();
      });
    }
    filter();
  }

  // Tables that sort by their headers.
  const number = (cell) => Number.parseFloat(cell.textContent.replace(/,/g, "").replace("−", "-"));
  for (const table of document.querySelectorAll(".sortable table")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      const button = make("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const order = (a, b) => {
          const [x, y] = [number(a.cells[i]), number(b.cells[i])];
          const by = Number.isNaN(x) || Number.isNaN(y) ? a.cells[i].textContent.localeCompare(b.cells[i].textContent) : x - y;
          return up ? by : -by;
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  // Printed, everything is open.
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
})();
