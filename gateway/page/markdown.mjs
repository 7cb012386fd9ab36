// Markdown as models write it, to a tree, and the tree to nodes. No HTML of a text is ever taken as HTML: whatever is not understood is shown as it is.
//
// A tree is a list of strings and {tag, children, href?, start?}. Work grows with the text's length (spans are bounded).

const SPAN_MAX = 2000;  // characters that emphasis, code or a link may span
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_LINE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

const SPANS = [
  { start: "\\", form: /\\([!-/:-@[-`{-~])/y, make: (found) => found[1] },
  { start: "`", form: new RegExp(`(\`+)(?!\`)([^]{1,${SPAN_MAX}}?)(?<!\`)\\1(?!\`)`, "y"), make: (found) => ({ tag: "code", children: [found[2].replace(/^ (.*\S.*) $/, "$1")] }) },
  { start: "[", form: /\[([^\][\n]{1,500})\]\(([^\s()]{1,2000})\)/y, make: (found) => linkOrText(found) },
  { start: "h", form: /https?:\/\/[^\s<>()"']{1,2000}[^\s<>()"'.,;:!?]/y, make: (found) => ({ tag: "a", href: found[0], children: [found[0]] }) },
  { start: "*", form: new RegExp(`\\*\\*(?=\\S)([^]{1,${SPAN_MAX}}?)(?<=\\S)\\*\\*(?!\\*)`, "y"), make: (found) => ({ tag: "strong", children: inline(found[1]) }) },
  { start: "*", form: new RegExp(`\\*(?=[^\\s*])([^]{1,${SPAN_MAX}}?)(?<=[^\\s*])\\*(?!\\*)`, "y"), make: (found) => ({ tag: "em", children: inline(found[1]) }) },
  { start: "_", form: new RegExp(`__(?=\\S)([^]{1,${SPAN_MAX}}?)(?<=\\S)__(?!\\w)`, "y"), word: true, make: (found) => ({ tag: "strong", children: inline(found[1]) }) },
  { start: "_", form: new RegExp(`_(?=[^\\s_])([^]{1,${SPAN_MAX}}?)(?<=[^\\s_])_(?!\\w)`, "y"), word: true, make: (found) => ({ tag: "em", children: inline(found[1]) }) },
  { start: "~", form: new RegExp(`~~(?=\\S)([^]{1,${SPAN_MAX}}?)(?<=\\S)~~`, "y"), make: (found) => ({ tag: "del", children: inline(found[1]) }) },
];

function linkOrText([whole, text, href]) {
  return /^(https?:\/\/|mailto:)/i.test(href) ? { tag: "a", href, children: inline(text) } : whole;
}

/** What stands within a block. @param {string} text */
export function inline(text) {
  const parts = [];
  let plain = "";
  for (let at = 0; at < text.length;) {
    let found = null;
    for (const span of SPANS) {
      if (text[at] !== span.start || (span.word && /\w/.test(text[at - 1] ?? ""))) { continue; }
      span.form.lastIndex = at;
      const match = span.form.exec(text);
      if (match) {
        found = { part: span.make(match), length: match[0].length };
        break;
      }
    }
    if (!found || typeof found.part === "string") {
      plain += found ? found.part : text[at];
      at += found ? found.length : 1;
      continue;
    }
    if (plain) { parts.push(plain); }
    plain = "";
    parts.push(found.part);
    at += found.length;
  }
  if (plain) { parts.push(plain); }
  return parts;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => inline(cell.trim().replaceAll("\\|", "|")));
}

function row(tag, line) {
  return { tag: "tr", children: cells(line).map((children) => ({ tag, children })) };
}

/** The lines of a list from `at`, as items with what is indented below them; [list, next line]. */
function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const indent = first[1].length;
  const isOrdered = /\d/.test(first[2]);
  const items = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length !== indent || /\d/.test(item[2]) !== isOrdered) { break; }
    const inner = [item[3]];
    const column = lines[at].length - item[3].length;
    for (at += 1; at < lines.length; at += 1) {
      const isBlank = lines[at].trim() === "";
      const next = isBlank ? (lines[at + 1] ?? "") : lines[at];
      if (!/^\s/.test(next) || next.search(/\S/) <= indent) { break; }
      inner.push(lines[at].slice(Math.min(column, Math.max(0, lines[at].search(/\S/)))));
    }
    const isTight = inner.length === 1;
    items.push({ tag: "li", children: isTight ? inline(inner[0]) : blocks(inner, depth + 1) });
    if ((lines[at] ?? "").trim() === "" && ITEM.exec(lines[at + 1] ?? "")?.[1].length === indent) { at += 1; }
  }
  const made = { tag: isOrdered ? "ol" : "ul", children: items };
  if (isOrdered && parseInt(first[2], 10) !== 1) { made.start = parseInt(first[2], 10); }
  return [made, at];
}

const DEPTH_MAX = 12;  // of lists and quotations in each other; deeper ones are text

function startsBlock(lines, at, depth) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEPTH_MAX && (/^ {0,3}>/.test(line) || ITEM.test(line)));
}

function blocks(lines, depth) {
  const made = [];
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    if (line.trim() === "") {
      at += 1;
      continue;
    }
    const fence = FENCE.exec(line);
    if (fence) {
      const code = [];
      for (at += 1; at < lines.length && !(lines[at].trim().startsWith(fence[1]) && /^(`+|~+)$/.test(lines[at].trim())); at += 1) { code.push(lines[at]); }
      at += 1;
      made.push({ tag: "pre", children: [{ tag: "code", children: [code.join("\n")] }] });
      continue;
    }
    const heading = HEADING.exec(line);
    if (heading) {
      made.push({ tag: `h${Math.min(6, heading[1].length + 1)}`, children: inline(heading[2]) });
      at += 1;
      continue;
    }
    if (RULE.test(line)) {
      made.push({ tag: "hr", children: [] });
      at += 1;
      continue;
    }
    if (depth < DEPTH_MAX && /^ {0,3}>/.test(line)) {
      const inner = [];
      for (; at < lines.length && /^ {0,3}>/.test(lines[at]); at += 1) { inner.push(lines[at].replace(/^ {0,3}> ?/, "")); }
      made.push({ tag: "blockquote", children: blocks(inner, depth + 1) });
      continue;
    }
    if (depth < DEPTH_MAX && ITEM.test(line)) {
      const [found, next] = list(lines, at, depth);
      made.push(found);
      at = next;
      continue;
    }
    if (line.includes("|") && TABLE_LINE.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("-")) {
      const body = [];
      const head = row("th", line);
      for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) { body.push(row("td", lines[at])); }
      made.push({ tag: "table", children: [{ tag: "thead", children: [head] }, { tag: "tbody", children: body }] });
      continue;
    }
    const paragraph = [line];
    for (at += 1; at < lines.length && lines[at].trim() !== "" && !startsBlock(lines, at, depth); at += 1) { paragraph.push(lines[at]); }
    made.push({ tag: "p", children: inline(paragraph.join("\n")) });
  }
  return made;
}

/** @param {string} text  @returns the tree of it */
export function parse(text) {
  return blocks(text.split(/\r?\n/), 0);
}

/** The tree as nodes of `document`. */
export function nodesOf(tree, document) {
  return tree.map((part) => {
    if (typeof part === "string") { return document.createTextNode(part); }
    const node = document.createElement(part.tag);
    if (part.href) {
      node.setAttribute("href", part.href);
      node.setAttribute("target", "_blank");
      node.setAttribute("rel", "noopener noreferrer");
    }
    if (part.start !== undefined) { node.setAttribute("start", String(part.start)); }
    node.append(...nodesOf(part.children, document));
    return node;
  });
}
