#!/usr/bin/env python3
"""Asks a real QEMU 10.0.2 again what tests compare with, and writes the files anew.

usage: tests/record-requests.py errors | options | wire | machines [--qemu PROGRAM] [--check]

  errors   tests/data/qmp-errors.jsonl: the requests of the file, each sent to a process of its own
  options  tests/data/blockdev-options.jsonl: the values of the file, each behind `-blockdev`
  wire     tests/data/wire: the conversations, sent line by line
  machines tests/data/machines.jsonl: command lines, and what the machine of each answers to the commands below it

A new case is a line with what is sent and anything as an answer. With --check nothing is written; what differs is printed, and the
exit code says whether anything does. `tests/remake.sh` calls this.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
BARE = ["-accel", "tcg", "-S", "-nodefaults", "-display", "none"]

# What QEMU says before a command runs: of the text, the request, the members of its arguments.
OF_ARGUMENTS = re.compile(
    r"QMP input|JSON parse error|Invalid parameter type for|has not been found"
    r"|Parameter '[^']*' (is missing|is unexpected|does not accept value|expects )|Parameters '.*' are unexpected"
)


class Qemu:
    """A process with a QMP socket, after its greeting."""

    def __init__(self, program, args):
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "qmp")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(20)
        self.process = subprocess.Popen(
            [program, *args, "-qmp", f"unix:{path}"], cwd=self.folder.name,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.socket, _ = listener.accept()
        self.socket.settimeout(5)
        listener.close()
        self.rest = b""

    def line(self):
        """The next line; None at the end of the connection, or if nothing comes."""
        while b"\n" not in self.rest:
            try:
                more = self.socket.recv(65536)
            except (TimeoutError, ConnectionError):
                return None
            if not more:
                return None
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode().rstrip("\r")

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionError):
            pass

    def end(self):
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self.folder.cleanup()


def replies(program, data):
    """What a negotiated monitor answers to these bytes."""
    qemu = Qemu(program, [*BARE, "-machine", "none"])
    try:
        qemu.line()
        qemu.send(b'{"execute": "qmp_capabilities"}\n')
        qemu.line()
        qemu.send(data + b'{"execute": "query-name", "id": "END"}\n')
        found = []
        while True:
            line = qemu.line()
            if line is None:
                return found
            if line.endswith('"id": "END"}'):
                return found
            if line.startswith('{"timestamp"'):
                continue
            # Not all replies are JSON: QEMU gives an `id` back as the number that it read, also an infinite one.
            error = re.search(r'"desc": "(.*)"', line) if '"error": {' in line else None
            said = error and error[1].replace("\\'", "'")
            found.append(line if said and OF_ARGUMENTS.search(said) else "accepted")
    finally:
        qemu.end()


def text(value):
    return json.dumps(value)


def each_line(name, answer):
    """The lines of a file, with the answers of now."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        lines = file.read().splitlines()
    return "\n".join([lines[0], *(text(answer(json.loads(line))) for line in lines[1:])]) + "\n"


def errors(program):
    def answer(case):
        data = bytes.fromhex(case["hex"]) if "hex" in case else case["request"].encode()
        return {**case, "replies": replies(program, data)}

    return {"qmp-errors.jsonl": each_line("qmp-errors.jsonl", answer)}


def options(program):
    def answer(case):
        # All of these options are read before the first node is opened: the last one ends that with an error.
        args = [program, *BARE, "-machine", "none", "-blockdev", case["option"], "-blockdev", "driver=none-such"]
        said = subprocess.run(args, capture_output=True, text=True, timeout=20, check=False).stderr
        before = f": -blockdev {case['option']}: "
        line = next((line for line in said.splitlines() if before in line), "")
        return {**case, "error": line.split(before, 1)[1] if line else "OK"}

    return {"blockdev-options.jsonl": each_line("blockdev-options.jsonl", answer)}


def shown(line):
    """A line of the monitor without what differs from run to run."""
    line = re.sub(r'"package": "[^"]*"', '"package": "PACKAGE"', line)
    return re.sub(r'"timestamp": \{[^}]*\}', '"timestamp": TIME', line)


def wire(program):
    made = {}
    for name in sorted(os.listdir(os.path.join(HERE, "wire"))):
        with open(os.path.join(HERE, "wire", name), encoding="utf-8") as file:
            lines = file.read().splitlines()
        args = json.loads(lines[0].split(": ", 1)[1])
        qemu = Qemu(program, [*BARE, *args])
        try:
            out = [lines[0], "< " + shown(qemu.line())]
            # What was a line of an answer is one again.
            for line in lines[2:]:
                if line.startswith("> "):
                    out.append(line)
                    # Each character is a byte.
                    qemu.send(json.loads(line[2:]).encode("latin-1"))
                else:
                    got = qemu.line()
                    out.append("< <EOF>" if got is None else "< " + shown(got))
            made[f"wire/{name}"] = "\n".join(out) + "\n"
        finally:
            qemu.end()
    return made


def machines(program):
    """A line with `args` starts a machine; each line below it is a command, or a line of the human monitor, and the reply."""
    with open(os.path.join(HERE, "machines.jsonl"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    out, qemu = [], None
    for line in lines:
        case = json.loads(line)
        if "args" in case:
            if qemu:
                qemu.end()
            qemu = Qemu(program, [*BARE, *case["args"]])
            qemu.line()
            qemu.send(b'{"execute": "qmp_capabilities"}\n')
            qemu.line()
            out.append(text(case))
            continue
        request = {"execute": "human-monitor-command", "arguments": {"command-line": case["hmp"]}} if "hmp" in case else case["qmp"]
        qemu.send(json.dumps(request).encode() + b"\n")
        said = json.loads(qemu.line())
        while "event" in said:
            said = json.loads(qemu.line())
        # The monitor that asks is not a part of the machine; threads have other numbers each time.
        shown = re.sub(r"thread_id=\d+", "thread_id=0", re.sub(r'"thread-id": \d{2,}', '"thread-id": 0', text(said)))
        shown = re.sub(r'compat_monitor0: filename=[^"\\]*\\r\\n', "", shown)
        shown = json.loads(shown)
        if request["execute"] == "query-chardev":
            shown["return"] = [info for info in shown["return"] if info["label"] != "compat_monitor0"]
        key = "hmp" if "hmp" in case else "qmp"
        out.append(text({key: case[key], **shown}))
    qemu.end()
    return {"machines.jsonl": "\n".join(out) + "\n"}


def main():
    args = sys.argv[1:]
    check = "--check" in args
    program = args[args.index("--qemu") + 1] if "--qemu" in args else os.environ.get("QEMU", "qemu-system-x86_64")
    made = {"errors": errors, "options": options, "wire": wire, "machines": machines}.get(args[0] if args else "")
    if made is None:
        sys.exit(__doc__)
    differs = False
    for name, new in made(program).items():
        path = os.path.join(HERE, name)
        with open(path, encoding="utf-8") as file:
            old = file.read()
        if old == new:
            continue
        differs = True
        if check:
            for before, now in zip(old.splitlines(), new.splitlines()):
                if before != now:
                    print(f"{name}\n- {before}\n+ {now}")
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(new)
    sys.exit(1 if check and differs else 0)


if __name__ == "__main__":
    main()
