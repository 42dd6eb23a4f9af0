#!/usr/bin/env python3
"""A table of a page, made of what a script says that it tried: table.py [--check] PAGE NAME < OUTPUT

OUTPUT has a line for each thing: `WHAT  ok`, `WHAT  skipped: WHY`, `WHAT  FAILED`, or `ok WHAT: HOW`, `skipped WHAT: WHY`, `FAILED WHAT: HOW`. In the
page, the table stands between `<!-- table NAME -->` and `<!-- end -->`; its first cell is WHAT, or names it in a comment, its last one what came
of it. What was skipped keeps its row. With --check nothing is written, and the exit code is 1 if the table is another one.
"""
import re
import sys

SAID = re.compile(r"^(?P<what>\S.*?) {2,}(?P<how>ok|FAILED|skipped:.*)$")
TOLD = re.compile(r"^(?P<how>ok|FAILED|skipped) +(?P<what>[^:]+): ")


def results(lines):
    for line in lines:
        found = SAID.match(line.rstrip("\n")) or TOLD.match(line)
        if found:
            yield found["what"].strip(), found["how"].split(":")[0]


def main():
    check = "--check" in sys.argv
    page, name = [arg for arg in sys.argv[1:] if arg != "--check"]
    said = dict(results(sys.stdin))
    if not said:
        sys.exit("nothing was tried: the standard input has no results")
    with open(page, encoding="utf-8") as file:
        text = file.read()
    begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
    if begin not in text:
        sys.exit(f"{page} has no table {name}")
    before, rest = text.split(begin, 1)
    table, after = rest.split(end, 1)
    head, rows = table.splitlines()[:2], table.splitlines()[2:]
    known = set()
    for at, row in enumerate(rows):
        cells = row.strip("|").split("|")
        hidden = re.search(r"<!-- (.+?) -->", cells[0])
        what = hidden[1] if hidden else cells[0].strip().strip("`")
        known.add(what)
        how = said.get(what, "skipped")
        if how != "skipped":
            last = cells[-1].strip()
            # What is known of one that works stands behind `ok`.
            if not (how == "ok" and (last == "ok" or last.startswith("ok, "))):
                rows[at] = "|" + "|".join(cells[:-1]) + f"| {how} |"
    rows += [f"| `{what}` | {how} |" for what, how in said.items() if what not in known and how != "skipped"]
    made = before + begin + "\n".join(head + rows) + "\n" + end + after
    missing = sorted(known - set(said))
    if missing:
        print(f"{page}: nothing tries {', '.join(missing)}", file=sys.stderr)
    if check:
        if made != text:
            sys.exit(f"{page}: the table {name} is another one: {', '.join(w for w, h in said.items() if h == 'FAILED' or w not in known)}")
        sys.exit(1 if missing else 0)
    with open(page, "w", encoding="utf-8") as file:
        file.write(made)


main()
