// What tests/browser asks of a page. Every check is true, or says what it found instead.
const checks = {}, page = document.documentElement;
const check = (name, ask) => {
  try { checks[name] = ask(); } catch (error) { checks[name] = String(error); }
};
const texts = (rows, place) => rows.map(row => row.cells[place].textContent);
for (const table of document.querySelectorAll("table")) {
  const title = table.closest("section").querySelector("h2").textContent;
  const body = table.tBodies[0], all = [...body.rows];
  if (all.length < 2) continue;
  check(`${title}: numbers sort from the largest, then from the smallest`, () => {
    const heads = [...table.tHead.rows[0].cells];
    const place = heads.findIndex((head, at) => head.classList.contains("n") &&
      new Set(all.map(row => row.cells[at].dataset.order)).size > 1);
    if (place < 0) return true;
    const values = () => [...body.rows].map(row => parseFloat(row.cells[place].dataset.order))
      .filter(value => !isNaN(value));
    const button = heads[place].querySelector("button");
    button.click();
    const down = values(), said = heads[place].getAttribute("aria-sort");
    button.click();
    const up = values(), again = heads[place].getAttribute("aria-sort");
    const ordered = list => list.every((value, at) => !at || list[at - 1] <= value);
    return ordered(down.toReversed()) && ordered(up) && said === "descending" &&
      again === "ascending" && down.length === up.length || JSON.stringify({ down, up, said });
  });
  check(`${title}: as CSV it has the rows and columns that are shown`, () => {
    const lines = csv(table).trim().split("\n");
    const columns = lines[0].split(",").length, rows = all.filter(row => !row.hidden).length;
    const first = all.find(row => !row.hidden).cells[0], name = first.innerText.replaceAll("\n", " ").trim();
    const named = first.closest("table").tHead.querySelector("th:first-child.n") ||
      csv(table).includes(`\n${name.includes(",") ? `"${name}"` : name},`);
    return lines.length === rows + 1 && columns >= table.tHead.rows[0].cells.length && Boolean(named) ||
      lines.join("; ");
  });
  check(`${title}: words sort from A`, () => {
    table.tHead.querySelector("th:not(.n) button").click();
    const place = [...table.tHead.rows[0].cells].findIndex(head => !head.classList.contains("n"));
    const found = texts([...body.rows], place);
    const sorted = found.toSorted((a, b) => a.localeCompare(b));
    return JSON.stringify(found) === JSON.stringify(sorted) || found.join();
  });
  check(`${title}: rows are filtered by words, and come back`, () => {
    const input = table.closest("section").querySelector("input");
    if (!input) return all.length <= 3 || "no filter";
    const word = all[1].cells[0].textContent.toLowerCase().split(/\s+/)[0];
    const type = text => {
      input.value = text;
      input.dispatchEvent(new Event("input"));
      return all.filter(row => !row.hidden);
    };
    const with_it = type(word), without = type(`-${word}`), count = input.nextElementSibling.textContent;
    const has = row => [...row.cells].some(cell => cell.textContent.toLowerCase().includes(word));
    return with_it.length > 0 && with_it.every(has) && !without.some(has) &&
      with_it.length + without.length === all.length && count.includes(" of ") &&
      type("").length === all.length || count;
  });
}
for (const drawing of document.querySelectorAll(".panel svg:has(.marks)")) {
  const name = drawing.getAttribute("aria-label"), says = document.getElementById("says");
  check(`${name}: its parts say what they are, by pointer and by keyboard`, () => {
    const mark = drawing.querySelector(".marks rect");
    mark.dispatchEvent(new PointerEvent("pointermove", { clientX: 50, clientY: 50 }));
    const pointed = !says.hidden && says.textContent === mark.dataset.says && says.textContent.length > 3;
    mark.dispatchEvent(new PointerEvent("pointerleave"));
    const gone = says.hidden;
    drawing.focus();
    for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft"]) {
      drawing.dispatchEvent(new KeyboardEvent("keydown", { key }));
    }
    const keyed = document.activeElement === drawing && says.textContent === mark.dataset.says;
    // Where the window itself has no focus, as one without a screen sometimes has none, elements
    // are told nothing of theirs: then this tells it.
    drawing.blur();
    if (!document.hasFocus()) drawing.dispatchEvent(new FocusEvent("blur"));
    return pointed && gone && keyed && says.hidden ||
      JSON.stringify({ pointed, gone, keyed, left: says.hidden, windowed: document.hasFocus() });
  });
}
for (const figure of document.querySelectorAll("figure")) {
  const caption = figure.querySelector("figcaption").textContent;
  check(`${caption}: its data can be had`, () => {
    const link = figure.querySelector("a[download]");
    const lines = decodeURIComponent(link.href.split(",").slice(1).join(",")).trim().split("\n");
    return link.download.endsWith(".csv") && lines.length > 1 || link.href;
  });
  check(`${caption}: its words are text`, () => figure.querySelectorAll("svg text").length > 3);
}
check("the button turns light into dark and back", () => {
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const before = ground();
  document.getElementById("theme").click();
  const other = ground();
  document.getElementById("theme").click();
  return before !== other && ground() === before || `${before} ${other}`;
});
check("nothing is wider than the window", () =>
  page.scrollWidth <= innerWidth || `${page.scrollWidth} > ${innerWidth}`);
check("everything that can be pressed has a name and can be focused", () => {
  const named = one => (one.getAttribute("aria-label") || one.textContent).trim();
  const bad = [...document.querySelectorAll("a, button, input")].filter(one => !named(one) || one.tabIndex < 0);
  return !bad.length || bad.map(one => one.outerHTML).join();
});
check("the parts that are listed are there", () => {
  const lost = [...document.querySelectorAll("nav a")].filter(a => !document.querySelector(a.getAttribute("href")));
  return !lost.length || lost.map(a => a.href).join();
});
const answers = document.createElement("pre");
answers.id = "answers";
answers.textContent = JSON.stringify({ faults, ready: page.dataset.ready, checks });
document.body.append(answers);
