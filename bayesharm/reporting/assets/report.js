"use strict";
// The script of a report: charts, the choice of scanner and feature, tables that sort, and the theme. It loads nothing.
(() => {
  const one = (query, root = document) => root.querySelector(query);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const themes = JSON.parse(one("#themes").textContent);
  const data = unpack(JSON.parse(one("#features").textContent));
  const chosen = { scanner: "", feature: 0 };
  const PAGE = 15; // rows of a table that are shown at first
  const NARROW = 560; // pixels below which charts beside each other are stacked

  // ---------------------------------------------------------------- numbers

  function half(code) {
    const exponent = (code >> 10) & 31, fraction = code & 1023, sign = code >> 15 ? -1 : 1;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  }

  function halves(text) {
    return Float32Array.from(new Uint16Array(bytes(text)), half);
  }

  function unpack(packed) {
    const n = packed.names.length, k = packed.scanners.length;
    const [mean, sd] = [halves(packed.mean), halves(packed.sd)];
    const [before, after, largest] = [new Float32Array(n), new Float32Array(n), new Int32Array(n)];
    for (let f = 0; f < n; f++) {
      let bias = 0, error = 0;
      for (let s = 0; s < k; s++) {
        bias += mean[f * k + s] ** 2;
        error += sd[f * k + s] ** 2;
        if (Math.abs(mean[f * k + s]) > Math.abs(mean[f * k + largest[f]])) largest[f] = s;
      }
      before[f] = Math.sqrt((bias + error) / k);
      after[f] = Math.sqrt(error / k);
    }
    const people = packed.people && { ...packed.people, values: halves(packed.people.values) };
    return {
      ...packed, mean, sd, before, after, largest, people, unsure: new Set(packed.unsure),
      scale: new Float32Array(bytes(packed.scale)), center: new Float32Array(bytes(packed.center)),
      lower: packed.names.map((name) => name.toLowerCase()),
    };
  }

  const plusMinus = (value, sd) => {
    if (!Number.isFinite(value) || !Number.isFinite(sd)) return "";
    const places = sd > 0 ? Math.max(0, 1 - Math.floor(Math.log10(sd))) : 3;
    return `${value.toFixed(places)} ± ${sd.toFixed(places)}`;
  };
  const digits = (value) => (Number.isFinite(value) ? Number(value.toPrecision(3)).toString() : "");
  const share = (f) => 1 - (data.after[f] / data.before[f]) ** 2;

  // ---------------------------------------------------------------- charts

  const views = new Map(); // figure -> its view
  const theme = () => document.documentElement.dataset.theme;

  function fitted(spec, width) {
    if (!spec.hconcat) return { ...spec, width };
    const { hconcat, ...rest } = spec;
    if (width < NARROW) return { ...rest, vconcat: hconcat.map((part) => ({ ...part, width: width - 75 })) };
    return { ...rest, hconcat: hconcat.map((part) => ({ ...part, width: (width - 140) / hconcat.length })) };
  }

  async function draw(figure) {
    const plot = one(".plot", figure);
    delete figure.dataset.drawn;
    if (!plot.clientWidth) return; // in a section that is closed: drawn when it opens
    const spec = fitted(JSON.parse(one("script.spec", figure).textContent), plot.clientWidth - 40);
    const config = structuredClone(themes[theme()]);
    if (plot.clientWidth < NARROW) Object.assign(config.legend, { columns: 1 });
    if (plot.clientWidth < NARROW) Object.assign(config.axis, { labelLimit: 110 });
    const options = {
      mode: "vega-lite", renderer: "svg", config, tooltip: { theme: theme() },
      actions: { export: true, source: false, compiled: false, editor: false },
    };
    const { view } = await vegaEmbed(plot, spec, options);
    views.set(figure, view);
    view.addEventListener("click", (_, item) => item?.datum?.scanner && chooseScanner(item.datum.scanner));
    view.signal("chosen", chosen.scanner).run();
    refresh(figure);
    figure.dataset.drawn = "yes";
  }

  function drawAll() {
    return Promise.all(all("figure.chart").map((figure) => draw(figure).catch((error) => console.error(error))));
  }

  const rowsOf = {
    bias(f) {
      const k = data.scanners.length;
      return data.scanners.map((scanner, s) => {
        const [value, error] = [data.mean[f * k + s], 1.6448536 * data.sd[f * k + s]];
        const told = `${digits(value)} (${digits(value - error)} to ${digits(value + error)})`;
        return { scanner, value, low: value - error, high: value + error, prior: data.prior[s], told };
      });
    },
    people(f) {
      const people = data.people, n = people ? people.person.length : 0, k = data.scanners.length;
      if (!people || f >= people.n_features) return [];
      const position = new Map(data.scanners.map((name, s) => [name, s]));
      const bias = (scanner) => data.mean[f * k + position.get(people.scanners[scanner])];
      const ranks = people.scanners.map((_, s) => s).sort((a, b) => bias(a) - bias(b));
      return people.person.map((person, c) => {
        const [value, scanner] = [people.values[f * n + c], people.scanner[c]];
        return {
          person: people.names[person], scanner: people.scanners[scanner], scans: people.n_scans[c], order: ranks.indexOf(scanner),
          before: data.scale[f] * value + data.center[f], after: data.scale[f] * (value - bias(scanner)) + data.center[f],
        };
      }).filter((row) => Number.isFinite(row.before)).sort((a, b) => a.order - b.order);
    },
  };
  const behind = {
    bias: (row) => [row.scanner, [row.value, row.low, row.high]],
    people: (row) => [row.person, row.scanner, [row.scans], [row.before], [row.after]],
  };

  function refresh(figure) {
    const live = figure.dataset.live, view = views.get(figure);
    if (!live || !view) return;
    const rows = rowsOf[live](chosen.feature);
    all(".feature", figure).forEach((element) => (element.textContent = data.names[chosen.feature]));
    one(".missing", figure).textContent = rows.length
      ? ""
      : "The report keeps the scans of the features with the largest biases only; this one is not among them.";
    const name = live === "people" ? "people" : "rows";
    view.data(name, rows).runAsync();
    const body = one("details.behind tbody", figure);
    if (body) body.replaceChildren(...rows.map((row) => line(behind[live](row))));
  }

  function line(cells) {
    return make("tr", {}, ...cells.map((cell) => {
      const isText = typeof cell === "string";
      const [value, low, high] = isText ? [cell] : cell;
      const text = isText ? value : digits(value) + (low === undefined ? "" : ` (${digits(low)} to ${digits(high)})`);
      const element = make("td", { textContent: text, className: isText ? "text" : "" });
      element.dataset.v = isText ? value : cell.join("|");
      return element;
    }));
  }

  // ---------------------------------------------------------------- choices

  function chooseScanner(name) {
    chosen.scanner = name === chosen.scanner ? "" : name;
    one("#scanner").value = chosen.scanner;
    for (const view of views.values()) view.signal("chosen", chosen.scanner).run();
    for (const row of all("table.sortable tbody tr")) {
      row.classList.toggle("chosen", chosen.scanner !== "" && row.cells[0]?.dataset.v === chosen.scanner);
    }
    listFeatures();
  }

  function chooseFeature(f) {
    chosen.feature = f;
    all(".feature").forEach((element) => (element.textContent = data.names[f]));
    all("figure.chart").forEach(refresh);
    listFeatures();
  }

  function matches(text, most = Infinity) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean), found = [];
    for (let f = 0; f < data.names.length && found.length < most; f++) {
      if (words.every((word) => data.lower[f].includes(word))) found.push(f);
    }
    return found;
  }

  function setUpChoices() {
    const [select, search, list] = [one("#scanner"), one("#search"), one("#found")];
    select.append(...data.scanners.map((name) => new Option(name, name)));
    select.addEventListener("change", () => {
      chosen.scanner = "";
      chooseScanner(select.value);
    });
    let found = [], at = -1;
    const show = (isOpen) => {
      list.hidden = !isOpen;
      search.setAttribute("aria-expanded", isOpen);
    };
    const take = (f) => {
      search.value = data.names[f];
      show(false);
      chooseFeature(f);
    };
    const mark = () => [...list.children].forEach((item, k) => {
      item.setAttribute("aria-selected", k === at);
      if (k === at) {
        item.scrollIntoView({ block: "nearest" });
        search.setAttribute("aria-activedescendant", item.id);
      }
    });
    search.addEventListener("input", () => {
      found = search.value ? matches(search.value, 20) : [];
      at = -1;
      list.replaceChildren(...found.map((f, k) => {
        const item = make("li", { textContent: data.names[f], id: `found-${k}` });
        item.setAttribute("role", "option");
        item.addEventListener("mousedown", (event) => event.preventDefault());
        item.addEventListener("click", () => take(f));
        return item;
      }));
      if (search.value && !found.length) list.append(make("li", { textContent: "no such feature" }));
      show(Boolean(search.value));
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        at = Math.max(0, Math.min(found.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)));
        mark();
        event.preventDefault();
      } else if (event.key === "Enter" && found.length) take(found[Math.max(at, 0)]);
      else if (event.key === "Escape") show(false);
    });
    search.addEventListener("blur", () => show(false));
    one("#choices").hidden = false;
  }

  // ---------------------------------------------------------------- the table of all features

  const listing = { by: "before", down: true, text: "", shown: PAGE };

  function listFeatures() {
    const place = one("#live-features");
    if (!place) return;
    const k = data.scanners.length, scanner = data.scanners.indexOf(chosen.scanner);
    const of = (f) => (scanner < 0 ? data.largest[f] : scanner);
    const bias = (f) => data.mean[f * k + of(f)];
    const keys = {
      name: (f) => data.lower[f], bias: (f) => Math.abs(bias(f)), before: (f) => data.before[f], after: (f) => data.after[f],
      share,
    };
    const titles = {
      name: "feature", bias: scanner < 0 ? "largest bias ± sd" : `bias of ${chosen.scanner} ± sd`, before: "spread before",
      after: "spread after", share: "removed",
    };
    const key = keys[listing.by], sign = listing.down ? -1 : 1;
    const found = matches(listing.text);
    found.sort((a, b) => sign * (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) || a - b);
    const head = Object.entries(titles).map(([by, title]) => {
      const button = make("button", { type: "button", textContent: title });
      button.addEventListener("click", () => {
        Object.assign(listing, { by, down: listing.by === by ? !listing.down : by !== "name" });
        listFeatures();
        one(`#live-features th[data-by="${by}"] button`).focus();
      });
      const cell = make("th", { scope: "col", className: by === "name" ? "text" : "" }, button);
      cell.dataset.by = by;
      cell.setAttribute("aria-sort", listing.by !== by ? "none" : listing.down ? "descending" : "ascending");
      return cell;
    });
    const rows = found.slice(0, listing.shown).map((f) => {
      const button = make("button", { type: "button", textContent: data.names[f] });
      button.addEventListener("click", () => chooseFeature(f));
      const who = scanner < 0 ? `, ${data.scanners[of(f)]}` : "";
      const cells = [
        `${plusMinus(bias(f), data.sd[f * k + of(f)])}${who}`, digits(data.before[f]), digits(data.after[f]),
        Number.isFinite(share(f)) ? `${Math.round(100 * share(f))}%` : "",
      ];
      const name = make("th", { scope: "row" }, button, data.unsure.has(f) ? " (not converged)" : "");
      const isFaded = data.prior[of(f)] ? " prior" : "";
      const className = (f === chosen.feature ? "chosen" : "") + isFaded;
      return make("tr", { className }, name, ...cells.map((text) => make("td", { textContent: text })));
    });
    const table = make("table", { className: "features" },
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
    let tools = one(".tools", place);
    if (!tools) {
      const filter = make("input", { type: "search", placeholder: "search, for example a region" });
      filter.setAttribute("aria-label", "Search in the table of features");
      filter.addEventListener("input", () => {
        Object.assign(listing, { text: filter.value, shown: PAGE });
        listFeatures();
      });
      const more = make("button", { type: "button", className: "more", textContent: `${PAGE} more` });
      more.addEventListener("click", () => {
        listing.shown += PAGE;
        listFeatures();
      });
      const save = make("button", { type: "button", textContent: "CSV" });
      save.addEventListener("click", saveFeatures);
      tools = make("p", { className: "tools" }, filter, " ", save, " ", more, " ", make("span", { className: "count" }));
      place.append(tools, make("div", { className: "scroll" }));
    }
    one(".count", tools).textContent = `${Math.min(listing.shown, found.length)} of ${found.length.toLocaleString("en")} features`;
    one(".more", tools).hidden = listing.shown >= found.length;
    one(".scroll", place).replaceChildren(table);
  }

  function saveFeatures() {
    const k = data.scanners.length;
    const head = ["feature", "spread_before", "spread_after", ...data.scanners.flatMap((s) => [`bias_${s}`, `sd_${s}`])];
    const rows = matches(listing.text).map((f) => [
      data.names[f], data.before[f], data.after[f],
      ...data.scanners.flatMap((_, s) => [data.mean[f * k + s], data.sd[f * k + s]]),
    ]);
    save("features.csv", [head, ...rows]);
  }

  // ---------------------------------------------------------------- tables

  const compared = new Intl.Collator("en", { numeric: true });

  function keyOf(cell) {
    const text = (cell.dataset.v ?? cell.textContent).split("|")[0];
    return text === "" ? null : Number.isFinite(Number(text)) ? Number(text) : text;
  }

  function sort(table, column, header) {
    const isDown = header.getAttribute("aria-sort") === "descending";
    all("th", table.tHead).forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", isDown ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // empty cells stay last
      const order = typeof a === "number" && typeof b === "number" ? a - b : compared.compare(String(a), String(b));
      return isDown ? order : -order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function setUpTable(table, k) {
    all("thead th", table).forEach((header, column) => {
      const button = make("button", { type: "button", textContent: header.textContent });
      button.addEventListener("click", () => sort(table, column, header));
      header.replaceChildren(button);
    });
    const saveIt = make("button", { type: "button", textContent: "CSV" });
    saveIt.addEventListener("click", () => {
      const head = all("thead th", table).flatMap((header) => header.dataset.n.split("|"));
      const widths = all("thead th", table).map((header) => header.dataset.n.split("|").length);
      const rows = [...table.tBodies[0].rows].map((row) =>
        [...row.cells].flatMap((cell, c) => (widths[c] > 1 ? cell.dataset.v.split("|") : [cell.dataset.v])));
      save(`table${k + 1}.csv`, [head, ...rows]);
    });
    const tools = make("p", { className: "tools" }, saveIt);
    if (table.tBodies[0].rows.length > PAGE) {
      table.classList.add("long");
      const more = make("button", { type: "button", textContent: `all ${table.tBodies[0].rows.length} rows` });
      more.addEventListener("click", () => {
        table.classList.remove("long");
        more.remove();
      });
      tools.append(" ", more);
    }
    table.parentElement.after(tools);
  }

  function save(name, rows) {
    const quoted = (value) => {
      const text = typeof value === "number" ? (Number.isFinite(value) ? String(Number(value.toPrecision(5))) : "") : String(value);
      const plain = /^[=+@\t\r]|^-(?![\d.])/.test(text) ? `'${text}` : text; // a spreadsheet would run it as a formula
      return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
    };
    const text = "\ufeff" + rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // ---------------------------------------------------------------- the page

  async function openScene(details) {
    const frame = make("iframe", { title: one("summary", details).textContent });
    frame.setAttribute("sandbox", "allow-scripts"); // a page without rights; the policy of this one holds there too
    details.append(frame);
    const packed = new Blob([bytes(one("script", details).textContent)]).stream();
    frame.srcdoc = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  }

  function setUpPage() {
    const root = document.documentElement, button = one("#theme");
    root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      drawAll();
    });
    for (const code of all("div.code")) {
      const copy = make("button", { type: "button", className: "copy", textContent: "copy" });
      copy.addEventListener("click", async () => {
        await navigator.clipboard.writeText(one("pre", code).textContent);
        copy.textContent = "copied";
      });
      code.append(copy);
    }
    for (const folded of all("details.folded")) {
      folded.addEventListener("toggle", () => folded.open && all("figure.chart:not([data-drawn])", folded).forEach(draw));
    }
    for (const scene of all("details.scene")) {
      scene.addEventListener("toggle", () => scene.open && !one("iframe", scene) && openScene(scene));
    }
    for (const link of all("aside nav a")) {
      link.addEventListener("click", () => {
        const folded = one(`${link.getAttribute("href")} > details`);
        if (folded) folded.open = true;
      });
    }
    addEventListener("beforeprint", () => all("details.folded").forEach((folded) => (folded.open = true)));
    let wait, width = innerWidth;
    addEventListener("resize", () => {
      clearTimeout(wait);
      if (innerWidth !== width) wait = setTimeout(() => ((width = innerWidth), drawAll()), 250);
    });
    const seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const link = one(`aside a[href="#${target.id}"]`);
        if (isIntersecting) {
          all("aside a[aria-current]").forEach((other) => other.removeAttribute("aria-current"));
          link?.setAttribute("aria-current", "true");
        }
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    all("main section").forEach((section) => seen.observe(section));
  }

  setUpPage();
  setUpChoices();
  all("table.sortable").forEach(setUpTable);
  chooseFeature(0);
  drawAll().then(() => (document.documentElement.dataset.ready = "yes"));
})();
