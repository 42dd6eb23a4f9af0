#!/usr/bin/env python3
"""Tests a backup client on the simulated QEMU: the same client under many seeds, with real image files.

    python3 examples/backup_client.py [SEEDS]

It takes the installed `blockjob-sim`, or the one that BLOCKJOB_SIM names. The client below makes a full backup over QMP and waits for it.
Replace it by yours: it only sees a socket. The run of a seed that fails is kept as `seed-N.yaml` in the current directory, a scenario that
`blockjob-sim run` reproduces without the client.
"""
import json, os, shutil, socket, subprocess, sys, tempfile

NAME = os.environ.get("BLOCKJOB_SIM", "blockjob-sim")
PROGRAM = shutil.which(NAME)


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except ConnectionRefusedError:
                pass  # It is there already, and listens in a moment.
        # One for reading alone: what was read ahead must not be thrown away by a write.
        self.file = self.socket.makefile("r")
        self.events = []
        self.read()
        self.command("qmp_capabilities")

    def read(self):
        return json.loads(self.file.readline())

    def command(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while True:
            message = self.read()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(message["error"]["desc"])
            else:
                return message["return"]

    def wait(self, name):
        while True:
            message = self.events.pop(0) if self.events else self.read()
            if message["event"] == name:
                return message["data"]


def client(qmp):
    """The client that is tested."""
    qmp.command("blockdev-backup", **{"job-id": "job0", "device": "disk", "target": "target", "sync": "full"})
    done = qmp.wait("BLOCK_JOB_COMPLETED")
    assert "error" not in done, done


def end(qemu, qmp):
    """Ends the simulated QEMU, so that its recording is whole."""
    try:
        qmp.command("quit")
        qemu.wait(10)
    except Exception:
        qemu.terminate()
        qemu.wait()


def main():
    if PROGRAM is None:
        sys.exit(f"no program {NAME}: install it (cargo install --path . --locked), or set BLOCKJOB_SIM to its path")
    if shutil.which("qemu-img") is None:
        sys.exit("no program qemu-img: install it (Debian: apt-get install qemu-utils)")
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        with tempfile.TemporaryDirectory() as work:
            for name in ("disk", "target"):
                subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{work}/{name}.qcow2", "64M"], check=True)
            nodes = [
                word
                for name in ("disk", "target")
                for word in ("-blockdev", f"driver=qcow2,node-name={name},file.driver=file,file.filename={name}.qcow2")
            ]
            qemu = subprocess.Popen(
                [os.path.abspath(PROGRAM), "qemu", "-nodefaults", *nodes, "-qmp", "unix:qmp.sock,server=on,wait=off"]
                + ["--sim-pace", "asap", "--sim-seed", str(seed), "--sim-record", "run.yaml"],
                cwd=work,
            )
            qmp = None
            try:
                while not os.path.exists(f"{work}/qmp.sock"):
                    assert qemu.poll() is None, "the simulated QEMU did not start"
                qmp = Qmp(f"{work}/qmp.sock")
                client(qmp)
            except BaseException as failure:
                end(qemu, qmp)
                kept = f"seed-{seed}.yaml"
                if os.path.exists(f"{work}/run.yaml"):
                    shutil.copy(f"{work}/run.yaml", kept)
                    print(f"seed {seed} fails; again: blockjob-sim run {kept} --level io", file=sys.stderr)
                if isinstance(failure, Exception):
                    sys.exit(f"{type(failure).__name__}: {failure}")
                raise
            end(qemu, qmp)
    print("all seeds pass")


if __name__ == "__main__":
    main()
