#!/bin/bash
# qmpbackup drives the simulator, unmodified: tests/qmpbackup.sh PROGRAM SOURCE...
#
# Each SOURCE is a source tree of qmpbackup (github.com/abbbi/qmpbackup), whose Python packages (qemu.qmp, colorlog) are installed. It makes
# a full backup, incremental ones, a copy, a compressed one, one that is aborted, and restores; once with PROGRAM as QEMU, and where a real
# QEMU is installed (REAL_QEMU names it; empty: none) once more with that, and compares logs and images. KEEP=1 keeps the directory.
set -u
program=$(readlink -f "$1"); shift
real=${REAL_QEMU-$(command -v qemu-system-x86_64)}
for tool in qemu-img qemu-io python3; do command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 0; }; done
python3 -c 'import qemu.qmp, colorlog' 2>/dev/null || { echo "skipped: no qemu.qmp or colorlog for python3"; exit 0; }
[ $# -gt 0 ] || { echo "skipped: no source tree of qmpbackup given"; exit 0; }
top=$(mktemp -d) failed=0 done=0 qemu=
clean() { [ "$qemu" ] && kill "$qemu" 2>/dev/null; cd /; if [ "${KEEP:-}" ]; then echo "kept: $top"; else rm -rf "$top"; fi; }
trap clean EXIT

# step NAME COMMAND...: it must succeed.
step() {
    name=$1; shift
    done=$((done + 1))
    echo "== $name" >>log
    if "$@" >out 2>&1; then echo "ok      $run/$name"; else failed=$((failed + 1)); echo "FAILED  $run/$name: $(tail -3 out | tr '\n' ' ' | cut -c1-300)"; fi
    cat out >>log
}
start() { # EXECUTABLE OPTIONS...
    ln -sf "$1" qemu-system-x86_64; shift
    ./qemu-system-x86_64 -name vm -nodefaults -display none -S "$@" \
        -drive node-name=disk1,file=disk1.qcow2,format=qcow2,if=none,id=d1 -device virtio-blk-pci,drive=d1,id=v1 \
        -drive node-name=disk2,file=disk2.qcow2,format=qcow2,if=none,id=d2 -device virtio-blk-pci,drive=d2,id=v2 \
        -qmp unix:socket,server=on,wait=off -monitor unix:hmp,server=on,wait=off >>qemu.out 2>&1 &
    qemu=$!
    for _ in $(seq 200); do [ -S hmp ] && break; sleep 0.05; done
}
stop() { kill "$qemu"; wait "$qemu" 2>/dev/null; qemu=; }
hmp() { python3 - "$@" <<'P'
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("hmp")
s.settimeout(20)
def prompt():
    text = b""
    while not text.endswith(b"(qemu) "):
        text += s.recv(4096)
    if b"Error" in text:
        raise SystemExit(text.decode())
prompt()
for line in sys.argv[1:]:
    s.sendall(line.encode() + b"\n"); prompt()
P
}
backup() { timeout 120 python3 "$source/qmpbackup" --socket socket backup "$@"; }
# It is interrupted as soon as it reports progress; the job is gone then.
abort() {
    timeout -s INT 1.5 python3 "$source/qmpbackup" --socket socket backup --level copy --target aborted --speed-limit 1 || true
    timeout 60 python3 - <<'P'
import json, socket, time
s = socket.socket(socket.AF_UNIX); s.connect("socket"); f = s.makefile("rw"); f.readline()
def ask(command):
    f.write(json.dumps({"execute": command})); f.flush()
    while True:
        reply = json.loads(f.readline())
        if "event" not in reply:
            return reply["return"]
ask("qmp_capabilities")
for _ in range(200):
    if not ask("query-block-jobs"):
        break
    time.sleep(0.1)
else:
    raise SystemExit("the job is still there")
P
}
# Rebases the incremental backups onto each other and merges them: what comes out must be the disk.
restore() {
    # By the node's name, or in older versions the drive's.
    python3 "$source/qmprestore" merge --dir "$(dirname "$PWD"/backup/*/FULL-*-"$1")" --targetfile "$PWD/restored/$1" && qemu-img compare "restored/$1" "$1"
}
plain() { sed -E -e 's/\[?[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:,.]+\]?//g; s/(FULL|INC|COPY|PARTIAL)-[0-9]+/\1-N/g; s/[0-9]{9,}/N/g; s/(Qemu version: .*) \[.*/\1/; s/Block job .*finished/Block job finished/; s/#block[0-9]+/#block/g' \
    -e 's/\x1b\[[0-9;]*m//g; /[Pp]rogress|%|seconds|uration|speed|bytes\]|Wrote Offset/d' -e "s#$PWD#DIR#g" -e 's/[0-9a-f]{8}-[0-9a-f-]{27}/UUID/g' "$1"; }
session() { # RUN EXECUTABLE OPTIONS...
    run=$1; shift
    mkdir -p "$top/$run/restored"; cd "$top/$run" || exit 1
    for disk in disk1 disk2; do qemu-img create -q -f qcow2 $disk.qcow2 16M; qemu-io -f qcow2 -c 'write -P 1 0 8M' $disk.qcow2 >/dev/null; done
    start "$@"
    step full backup --level full --target backup
    step write hmp 'qemu-io -d /machine/peripheral/v1/virtio-backend "write -P 2 1M 64k"' 'qemu-io -d /machine/peripheral/v2/virtio-backend "write -P 3 0 128k"'
    # Names of increments have seconds in them.
    sleep 1.1
    step incremental backup --level inc --target backup
    step write-again hmp 'qemu-io -d /machine/peripheral/v1/virtio-backend "write -P 4 2M 64k"'
    sleep 1.1
    step incremental-again backup --level inc --target backup
    step copy backup --level copy --target copied
    step compressed backup --level copy --target packed --compress
    step abort abort
    step info timeout 60 python3 "$source/qmpbackup" --socket socket info --show blockdev
    step cleanup timeout 60 python3 "$source/qmpbackup" --socket socket cleanup --remove-bitmap
    stop
    for disk in disk1.qcow2 disk2.qcow2; do step "restore-$disk" restore $disk; done
    for image in copied/*/* packed/*/* restored/*; do
        [ -f "$image" ] && echo "$(echo "$image" | sed -E 's/-[0-9]+//') $(qemu-img convert -O raw "$image" .out 2>/dev/null && sha256sum <.out)" >>images
        rm -f .out
    done
    plain log >plain
}
for source; do
    version=$(sed -n 's/.*VERSION *= *"\(.*\)".*/\1/p' "$source"/libqmpbackup/version.py 2>/dev/null); version=${version:-$(basename "$source")}
    source=$(readlink -f "$source")
    session "$version-simulated" "$program"
    if [ "$real" ]; then
        session "$version-real" "$real" -accel tcg
        for what in images plain; do
            name=same-$what; done=$((done + 1))
            if diff "$top/$version-simulated/$what" "$top/$version-real/$what" >"$top/$version-$what.diff"; then echo "ok      $version/$name"
            else failed=$((failed + 1)); echo "FAILED  $version/$name: $(grep -c '^[<>]' "$top/$version-$what.diff") lines differ"; fi
        done
    fi
done
echo "$done steps, $failed failed"
[ $failed = 0 ]
