"""How the pages look, and the script that sorts a table of them."""

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --text: #1f2328; --quiet: #59606a; --line: #d9dce0;
  --code: #f3f4f5; --link: #0b5cad; --good: #1a6b34; --bad: #b3261e; --some: #855400; --bar: #5b7fa6; --flag: #fff6e0; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --card: #1c2026; --text: #e4e7eb; --quiet: #a3abb5;
  --line: #363c44; --code: #262b32; --link: #82b7f0; --good: #6fcf8b; --bad: #ff8f86; --some: #e8b55b; --bar: #7396bd;
  --flag: #33290f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: .75rem 0 0; }
p { margin: .25rem 0 .5rem; }
a { color: var(--link); }
.quiet { color: var(--quiet); }
.score { font-size: 1.35rem; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .some { color: var(--some); }
.card, .flag, .error { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .5rem 1rem .75rem; margin: .75rem 0; }
.card h2 { margin: .25rem 0 .25rem; display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
.flag { background: var(--flag); border-color: var(--some); }
.error { border: 2px solid var(--bad); }
.flag p, .error p { margin: .25rem 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
thead th { white-space: nowrap; border-bottom-width: 2px; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { overflow-wrap: normal; }
tbody th { font-weight: 600; min-width: 7rem; }
.causes td:last-child { min-width: 9rem; }
td.number { white-space: nowrap; }
.names { font-size: .9rem; } .names th, .names td { padding: .3rem .5rem; }
.names th:first-child { min-width: 12rem; position: sticky; left: 0; background: var(--card); overflow-wrap: anywhere; }
.name { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: left;
  text-decoration: underline dotted; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
ul { margin: .25rem 0; padding-left: 1.25rem; }
li, .error p, .flag p { white-space: pre-wrap; }
pre { font: .85rem/1.45 ui-monospace, monospace; background: var(--code); border-radius: 6px; padding: .5rem .6rem;
  margin: .25rem 0; white-space: pre-wrap; max-height: 20rem; overflow: auto; }
details { white-space: normal; }
summary { cursor: pointer; color: var(--link); }
.bar { display: flex; align-items: center; gap: .5rem; min-width: 9rem; }
.bar span { white-space: nowrap; }
.bar span:first-child { flex: 0 1 10rem; height: .7rem; background: var(--code); border-radius: 4px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); }
svg { display: block; width: 100%; max-width: 28rem; height: auto; }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; text-anchor: middle; }
svg rect { fill: var(--bar); } svg line { stroke: var(--quiet); }
@media (max-width: 30rem) { main { padding: .5rem; } .bar { flex-wrap: wrap; gap: 0 .5rem; min-width: 5rem; }
  .bar span:first-child { flex-basis: 5rem; } .fit { font-size: .82rem; } .fit th, .fit td { padding: .3rem .25rem; }
  .fit thead th { font-size: .75rem; } .fit tbody th { min-width: 5.7rem; } .names th:first-child { min-width: 8rem; } }
@media print { :root { --page: #fff; --flag: #fff; } body { font-size: 11pt; } pre { max-height: none; }
  .card { break-inside: avoid; } .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; height: auto; } }
"""

SORT = """
for (const head of document.querySelectorAll("table.sorted thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const row = head.parentNode, body = head.closest("table").tBodies[0], at = head.cellIndex;
    const first = head.dataset.first || "descending";
    const order = !head.ariaSort ? first : head.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of row.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const value = (r) => r.cells[at].dataset.value ?? r.cells[at].textContent;
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)));
    body.append(...(order === "descending" ? rows.reverse() : rows));
  });
}
"""
