"""What libvirt and QEMU said to each other, from libvirtd's log: `libvirt-conversation.py DIR` prints it without what differs from run to run.

Operation by operation (DIR/steps says when each began) it prints commands with their replies, in order, and then the events, in order.
"""

import json
import re
import sys

directory = sys.argv[1]
steps = [line.strip() for line in open(f"{directory}/steps")]
begins = [(float(steps[i + 1]), steps[i][3:]) for i in range(0, len(steps), 2)]
ASKED = re.compile(r"QEMU_MONITOR_IO_WRITE: mon=\S+ buf=(.*)")
CAME = re.compile(r"QEMU_MONITOR_RECV_(REPLY|EVENT): mon=\S+ (?:reply|event)=(.*)")
# What the machine, the time and the build say.
ANY = {"timestamp", "actual-size", "thread-id", "package", "microseconds", "seconds", "allocation-depth"}
# What a guest does by itself: the real machine has a BIOS, which sets up its disks, reads from them, and resets.
GUEST = {"writeback", "stats"}
# Constants of a build, and the state of a machine that does run.
PROBES = re.compile(
    r"query-(qmp-schema|commands|machines|cpu|hotpluggable|command-line|migrate|tpm|sev|sgx|kvm|version|target|chardev|dirty-rate|stats)"
    r"|qom-|device-list|balloon|query-memory|query-pci|query-vnc|query-display")


def plain(value):
    if isinstance(value, dict):
        return {k: 0 if k in ANY or k in GUEST or k.endswith("_ns") else plain(v) for k, v in sorted(value.items()) if k != "id" or not str(v).startswith("libvirt-")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"#block\d+", "#block", value.replace(directory, "DIR"))
    return value


def time_of(line):
    day, clock = line.split(" ", 2)[:2]
    import datetime

    return datetime.datetime.strptime(f"{day} {clock.rstrip(':')}", "%Y-%m-%d %H:%M:%S.%f%z").timestamp()


told, asked, guest_reset = {}, {}, 0.0
for line in open(f"{directory}/domain.log", errors="replace"):
    match = ASKED.search(line)
    if match:
        for text in match.group(1).split("\\r\\n"):
            try:
                command = json.loads(text)
            except ValueError:
                continue
            asked[command.get("id")] = command
        continue
    match = CAME.search(line)
    if not match:
        continue
    try:
        came = json.loads(match.group(2))
    except ValueError:
        continue
    now = time_of(line)
    step = max((i for i, (begin, _) in enumerate(begins) if begin <= now), default=0)
    commands, events = told.setdefault(step, ([], []))
    if match.group(1) == "EVENT":
        if came["event"] == "RESET" and came["data"]["guest"]:
            guest_reset = now
        elif came["event"] not in ("RTC_CHANGE", "NIC_RX_FILTER_CHANGED", "VSERPORT_CHANGE"):
            events.append(plain(came))
        continue
    command = asked.pop(came.get("id"), None)
    if command is None or PROBES.match(command["execute"]):
        continue
    if command["execute"] == "query-block-jobs":
        # How far a job is, and whether it is at work just then.
        for job in came.get("return", []):
            job["offset"] = job["busy"] = 0
    if command["execute"] == "query-block" and now - guest_reset < 1:
        continue
    commands.append((plain(command), plain(came)))
for step, (commands, events) in sorted(told.items()):
    print("==", begins[step][1])
    # Of two backups at once, the disk says which ends first.
    if begins[step][1] in ("backup-full", "backup-incremental"):
        commands.sort(key=json.dumps)
        events.sort(key=json.dumps)
    for command, reply in commands:
        # How often libvirt asks for progress depends on the time.
        if command["execute"] in ("query-jobs", "query-block-jobs"):
            continue
        print(">", json.dumps(command))
        print("<", json.dumps(reply))
    for event in events:
        print("!", json.dumps(event))
