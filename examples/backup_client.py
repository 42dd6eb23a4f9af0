#!/usr/bin/env python3
"""Tests a backup client on the simulated QEMU: the same client under many seeds, with real image files.

    cargo build --release && python3 examples/backup_client.py [SEEDS]

The client below makes a full backup over QMP and waits for it. Replace it by yours: it only sees a socket.
"""
import json, os, socket, subprocess, sys, tempfile

PROGRAM = os.environ.get("BLOCKJOB_SIM", os.path.abspath("target/release/blockjob-sim"))


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


def main():
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
                [PROGRAM, "qemu", "-nodefaults", *nodes, "-qmp", "unix:qmp.sock,server=on,wait=off"]
                + ["--sim-pace", "asap", "--sim-seed", str(seed), "--sim-record", "run.yaml"],
                cwd=work,
            )
            try:
                while not os.path.exists(f"{work}/qmp.sock"):
                    assert qemu.poll() is None, "the simulated QEMU did not start"
                client(Qmp(f"{work}/qmp.sock"))
            except BaseException:
                print(f"seed {seed} fails", file=sys.stderr)
                raise
            finally:
                qemu.terminate()
                qemu.wait()
    print("all seeds pass")


if __name__ == "__main__":
    main()
