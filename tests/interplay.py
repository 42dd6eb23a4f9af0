#!/usr/bin/env python3
"""Records which commands a real QEMU refuses while a job runs: each pair of tests/data/interplay/commands.json, each in a process of its own.

    tests/interplay.py [QEMU] > tests/data/interplay/replies.jsonl

Needs QEMU, qemu-img and qemu-io. A line says what was running, what was sent, and the reply, or the signal that ended QEMU, or that it hangs.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 20


def make(entry):
    """An image, as the scenarios' `files` have it."""
    (kind, args), = entry.items()
    if kind == "create":
        line = ["qemu-img", "create", "-q", "-f", args["format"]]
        if "backing" in args:
            line += ["-b", args["backing"]["file"], "-F", args["backing"]["format"]]
        line += [args["file"], str(args["size"])]
    else:
        line = ["qemu-io", "-f", args["format"], "-c", f"write -P {args['pattern']} {args['offset']} {args['length']}", args["file"]]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


class Ended(Exception):
    """QEMU has closed its monitor."""


def send(file, command):
    """Sends a command and reads on until its reply."""
    try:
        file.write(json.dumps(command) + "\n")
        file.flush()
        while True:
            line = file.readline()
            if not line:
                raise Ended
            message = json.loads(line)
            if "return" in message or "error" in message:
                return message
    except (BrokenPipeError, ConnectionResetError):
        raise Ended from None


def run(qemu, plan, images, first, second):
    """One pair."""
    work = tempfile.mkdtemp()
    for name in os.listdir(images):
        shutil.copy(os.path.join(images, name), work)
    line = [qemu, "-accel", "tcg", "-S", "-nodefaults", "-display", "none", "-qmp", "unix:qmp,server=on,wait=off", *plan["args"]]
    process = subprocess.Popen(line, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monitor = socket.socket(socket.AF_UNIX)
    monitor.settimeout(PATIENCE)
    here = os.getcwd()
    os.chdir(work)  # Names of sockets must be short.
    try:
        while True:
            try:
                monitor.connect("qmp")
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    raise SystemExit("QEMU does not start") from None
        file = monitor.makefile("rw")
        file.readline()
        send(file, {"execute": "qmp_capabilities"})
        for command in plan["before"] + first:
            reply = send(file, command)
            if "error" in reply:
                raise SystemExit(f"{command}: {reply}")
        try:
            reply = send(file, second)
            send(file, {"execute": "query-status"})
            return reply
        except Ended:
            return {"killed": signal.Signals(-process.wait()).name}
        except TimeoutError:
            return {"hangs": True}
    finally:
        os.chdir(here)
        process.kill()
        process.wait()
        shutil.rmtree(work)


def main():
    """All pairs."""
    qemu = sys.argv[1] if len(sys.argv) > 1 else "qemu-system-x86_64"
    with open(os.path.join(HERE, "data/interplay/commands.json"), encoding="utf-8") as file:
        plan = json.load(file)
    with tempfile.TemporaryDirectory() as images:
        here = os.getcwd()
        os.chdir(images)
        for entry in plan["files"]:
            make(entry)
        os.chdir(here)
        for running, first in plan["first"].items():
            for sent, second in plan["second"].items():
                reply = run(qemu, plan, images, first, second)
                print(json.dumps({"running": running, "sent": sent, **reply}), flush=True)


main()
