"""qmp-shell -H of qemu.qmp: shell.py QMP_SHELL SOCKET; prints a line for each answer of the human monitor that it shows."""
import json
import re
import subprocess
import sys

# What HMP tells that does not depend on the build, on time or on the file system.
LINES = [
    "info status",
    "info block",
    "info block-jobs",
    "info jobs",
    "info block hd0",
    "qemu-io hd0 \"write -P 5 0 64k\"",
    "qemu-io hd0 \"read -P 6 0 64k\"",
    "block_resize hd0 16M",
    "drive_backup hd0 none/such.qcow2",
    "nonsense 1 2",
    "info nonsense",
    "system_reset",
    "cont",
    "stop",
    "quit",
]
shell = subprocess.run([sys.argv[1], "-H", sys.argv[2]], input="\n".join(LINES) + "\n", capture_output=True, text=True, timeout=60)
said = shell.stdout.replace("\r", "")
if "Connected to QEMU" not in said:
    sys.exit(said + shell.stderr)
# Times and rates of qemu-io.
said = re.sub(r"[0-9.]+ [KMG]iB/sec|[0-9.]+ ops/sec|[0-9:.]+ sec|0x[0-9a-f]{6,}", "N", said)
for line in said.splitlines():
    if "Connected to QEMU" not in line and "Welcome to" not in line and line.strip(" (QEMU)"):
        print(json.dumps(line))
