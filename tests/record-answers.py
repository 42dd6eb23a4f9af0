#!/usr/bin/env python3
"""Records what a real QEMU 10.0.2 says of itself: src/qmp/recorded/*.z; and of 7.2 and 11.1 the schemas and what they answer otherwise.

    tests/record-answers.py [QEMU]          makes the files anew
    tests/record-answers.py --check [QEMU]  says which of them would differ

Each file is a text, deflated: lines of a key, a tab and JSON. src/qmp/recorded/mod.rs reads them and says what each holds. Members of
objects stand in the reverse of the order in which QEMU printed them: put into a dictionary in that order, QEMU's hash prints
them as recorded. `python3 -c 'import sys,zlib;print(zlib.decompress(sys.stdin.buffer.read(),-15).decode())' <FILE` shows one.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib

CHECK = "--check" in sys.argv
ARGS = [arg for arg in sys.argv[1:] if not arg.startswith("--")]
QEMU = ARGS[0] if ARGS else "qemu-system-x86_64"
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "qmp", "recorded")

# Asked without arguments, of a q35 machine without devices; those that depend on the machine are not among them.
CONSTANT = """
qom-list-types query-acpi-ospm-status query-audiodevs query-chardev-backends query-colo-status query-command-line-options
query-cpu-definitions query-cryptodev query-dirty-rate query-dump query-dump-guest-memory-capability query-hv-balloon-status-report
query-machines query-mice query-migrate query-migrate-capabilities query-migrate-parameters query-migrationthreads query-replay
query-sev query-sev-capabilities query-sev-launch-measure query-sgx query-sgx-capabilities query-stats-schemas
query-tpm query-tpm-models query-tpm-types query-vcpu-dirty-limit query-vm-generation-id query-vnc-servers
query-xen-replication-status x-query-virtio
""".split()
# qom-list-properties of these ends the process.
DEADLY = ["colo-compare", "memory-region-portio-list", "x-remote-object"]
# Versions of which the schema is recorded, and those answers that differ from 10.0's, each by a QEMU of its own.
OTHERS = {(7, 2): "7.2", (11, 1): "11.1"}
# Devices of which `query-pci` is recorded: those that a client is likely to have on the first bus.
PCI_DEVICES = """
VGA am53c974 bochs-display cirrus-vga e1000 e1000e i6300esb i82801b11-bridge ich9-ahci ich9-intel-hda ich9-usb-ehci1 ich9-usb-uhci1
ich9-usb-uhci2 ich9-usb-uhci3 intel-hda lsi53c895a megasas mptsas1068 nec-usb-xhci nvme pcie-pci-bridge pcie-root-port piix3-ide
piix3-usb-uhci pvpanic-pci pvscsi qemu-xhci qxl qxl-vga rtl8139 sdhci-pci usb-ehci virtio-balloon-pci virtio-blk-pci virtio-gpu-pci
virtio-keyboard-pci virtio-mouse-pci virtio-net-pci virtio-rng-pci virtio-scsi-pci virtio-serial-pci virtio-tablet-pci virtio-vga
""".split()
# Whose objects are recorded, and under which name.
MACHINES = [("none", "none"), ("pc", "pc"), ("q35", "q35")]


class Qemu:
    def __init__(self, *args):
        self.dir = tempfile.TemporaryDirectory()
        path = self.dir.name + "/qmp"
        common = ["-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-qmp", f"unix:{path},server=on,wait=off"]
        self.process = subprocess.Popen([QEMU, *common, *args])
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                return {"error": reply["error"]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.dir.cleanup()


def reverse(value):
    if isinstance(value, dict):
        return {key: reverse(value[key]) for key in reversed(value)}
    return [reverse(item) for item in value] if isinstance(value, list) else value


def text(value):
    return json.dumps(reverse(value), separators=(",", ":"))


def write(name, lines):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = "".join(line + "\n" for line in lines).encode()
    data = packer.compress(plain) + packer.flush()
    path = os.path.join(HERE, name)
    old = open(path, "rb").read() if os.path.exists(path) else b""
    same = old and zlib.decompress(old, -15) == plain
    print(f"{name}: {len(plain)} bytes, {len(data)} deflated{'' if same else ', differs'}")
    if not CHECK:
        with open(path, "wb") as file:
            file.write(data)
    return same


def properties():
    """First the different descriptions of a property, then which a type has: `device-list-properties`, `qom-list-properties`."""
    infos, lines = {}, []
    q = Qemu("-machine", "q35")
    types = sorted(entry["name"] for entry in q.ask("qom-list-types", abstract=True))
    for letter, command in [("d", "device-list-properties"), ("q", "qom-list-properties")]:
        for name in types:
            if letter == "q" and name in DEADLY:
                continue
            try:
                answer = q.ask(command, typename=name)
            except (OSError, ValueError):
                # Some types leave things behind on which QEMU stumbles later: this one answers a new process.
                q.__exit__()
                q = Qemu("-machine", "q35")
                answer = q.ask(command, typename=name)
            # Types that are no devices have none.
            if isinstance(answer, list):
                numbers = [infos.setdefault(text(info), len(infos)) for info in answer]
                lines.append(f"{letter} {name}\t{','.join(map(str, numbers))}")
    q.__exit__()
    return [f"#{number}\t{info}" for info, number in infos.items()] + lines


def interfaces(q):
    """Which types implement an interface; of other types the parents tell."""
    names = [entry["name"] for entry in q.ask("qom-list-types", abstract=True) if entry.get("parent") == "interface"]
    implement = lambda name: [entry["name"] for entry in q.ask("qom-list-types", implements=name, abstract=True)]
    return [f"implements {name}\t{text(implement(name))}" for name in sorted(names)]


def tree(q, path, lines, name):
    """An object: name, type and, but for children, value of each of its properties."""
    rows, children = [], []
    for entry in q.ask("qom-list", path=path):
        row = [entry["name"], entry["type"]]
        if entry["type"].startswith("child<"):
            children.append(entry["name"])
        elif entry["type"] == "struct tm":
            # The clock of a recorded machine stands still.
            row.append({"tm_year": 125, "tm_mon": 0, "tm_mday": 1, "tm_hour": 0, "tm_min": 0, "tm_sec": 0})
        else:
            row.append(q.ask("qom-get", path=path, property=entry["name"]))
        rows.append(row)
    lines.append(f"{name} {path}\t{text(rows)}")
    for child in children:
        if (path, child) not in [("/", "chardevs"), ("/", "objects")]:
            tree(q, path.rstrip("/") + "/" + child, lines, name)


def cpus(q):
    """What `query-cpu-model-expansion` makes of each model: full, as what differs from `base`; and whether static has each property."""
    names = [entry["name"] for entry in q.ask("query-cpu-definitions")]
    full = lambda name: q.ask("query-cpu-model-expansion", type="full", model={"name": name})
    static = lambda name: q.ask("query-cpu-model-expansion", type="static", model={"name": name})
    base = full("base")["model"]["props"]
    members = static("base")["model"]["props"]
    lines = [f"base\t{text(base)}", f"static\t{text(list(members))}"]
    for name in names:
        answer = full(name)
        if "error" in answer:
            lines.append(f"-{name}\t{text(answer)}")
            continue
        # Null stands for a property that is not there.
        delta = lambda of, than: {key: of.get(key) for key in [*of, *(than.keys() - of)] if of.get(key) != than.get(key)}
        props, own = answer["model"]["props"], static(name)["model"]["props"]
        lines.append(f"-{name}\t{text([delta(props, base), delta(own, {key: props[key] for key in members if key in props})])}")
    return lines


def answers(q):
    """What is asked without arguments, and of the human monitor, and of interfaces."""
    return ([f"{name}\t{text(q.ask(name))}" for name in CONSTANT]
            + ["hmp help\t" + text(q.ask("human-monitor-command", **{"command-line": "help"})),
               "query-machines compat-props\t" + text(q.ask("query-machines", **{"compat-props": True})),
               "qom-list-types abstract\t" + text(q.ask("qom-list-types", abstract=True)),
               "hmp info\t" + text(q.ask("human-monitor-command", **{"command-line": "info"}))]
            + interfaces(q))


def printed(option):
    """What `-machine help` and the like print."""
    return subprocess.run([QEMU, f"-{option}", "help"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def others(q):
    """Those of another version that are not as recorded of 10.0; of a command that it does not have there is none."""
    known = set(zlib.decompress(open(os.path.join(HERE, "answers.z"), "rb").read(), -15).decode().splitlines())
    helps = [f"{option} help\t{text(printed(option))}" for option in ["machine", "device"]]
    return helps + [line for line in answers(q) if line not in known and '"CommandNotFound"' not in line and '"GenericError"' not in line]


def pci():
    """What `query-pci` says of a device that is alone in a machine, before any firmware has given it addresses."""
    lines = []
    for name in PCI_DEVICES:
        needs = {"virtio-blk-pci": ",drive=disk", "nvme": ",serial=s"}.get(name, "")
        args = ["-blockdev", "null-co,node-name=disk", "-device", f"{name},id=it{needs}"]
        with Qemu("-machine", "pc", *args) as q:
            devices = q.ask("query-pci")[0]["devices"]
            lines += [f"{name}\t{text(device)}" for device in devices if device["qdev_id"] == "it"]
    return lines


def main():
    same = []
    with Qemu("-machine", "q35") as q:
        version = q.ask("query-version")["qemu"]
        release = (version["major"], version["minor"])
        if release in OTHERS:
            schema = "query-qmp-schema\t" + text(q.ask("query-qmp-schema"))
            kept = [write(f"schema-{OTHERS[release]}.z", [schema]), write(f"answers-{OTHERS[release]}.z", others(q))]
            sys.exit(0 if all(kept) or not CHECK else 1)
        assert (*release, version["micro"]) == (10, 0, 2), version
        same.append(write("schema.z", ["query-qmp-schema\t" + text(q.ask("query-qmp-schema"))]))
        same.append(write("answers.z", answers(q)))
        same.append(write("properties.z", properties()))
        same.append(write("cpus.z", cpus(q)))
    same.append(write("pci.z", pci()))
    lines = []
    for machine, name in MACHINES:
        with Qemu("-machine", machine) as q:
            lines.append(f"{name} query-pci\t{text(q.ask('query-pci'))}")
            tree(q, "/", lines, name)
    same.append(write("machines.z", lines))
    sys.exit(0 if all(same) or not CHECK else 1)


main()
