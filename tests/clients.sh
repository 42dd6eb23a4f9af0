#!/usr/bin/env bash
# Clients that others wrote, unmodified, each with the same conversation (tests/clients/conversation.json): with PROGRAM as QEMU, and, where
# it is installed, with the real one; what a client says that it was told has to be the same.
#   tests/clients.sh [--install] PROGRAM [CLIENT]...
# CLIENT: node (npm's qemu-qmp), go (go-qemu), ganeti, pve (PVE::QMPClient), rust (the crate qapi), shell (qmp-shell -H of qemu.qmp). What
# cannot be had is skipped, by name. --install gets what registries have into a directory that goes away; of Debian's packages it wants golang-go and golang-github-digitalocean-go-qemu-dev,
# libio-multiplex-perl and libjson-perl, python3-bitarray, python3-pyparsing and python3-simplejson to be there. No registry has
# PVE::QMPClient: PVE_QMP_CLIENT names its file, src/PVE/QMPClient.pm in Proxmox's repository qemu-server.
set -euo pipefail
here=$(cd "$(dirname "$0")/clients" && pwd)
install=
if [ "${1:-}" = --install ]; then install=yes; shift; fi
program=$(realpath "$1"); shift
clients=("$@")
[ "${#clients[@]}" -gt 0 ] || clients=(node go ganeti pve rust shell)
real=${REAL_QEMU-$(command -v qemu-system-x86_64 || true)}
top=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$top"' EXIT
passed=0 failed=0 skipped=0

# Each `have_CLIENT` makes the client ready or says what is missing; each `run_CLIENT SOCKET` carries the conversation out.
have_node() {
    command -v node >/dev/null || { echo "there is no node"; return 1; }
    [ -z "$install" ] || npm install --silent --prefix "$top/npm" qemu-qmp@0.5 >/dev/null 2>&1 || true
    NODE_PATH=${NODE_PATH:-$top/npm/node_modules} node -e 'require("qemu-qmp")' 2>/dev/null || { echo "npm's package qemu-qmp is not here"; return 1; }
}
run_node() { NODE_PATH=${NODE_PATH:-$top/npm/node_modules} node "$here/node.js" "$1" "$here/conversation.json"; }
have_go() {
    command -v go >/dev/null || { echo "there is no go"; return 1; }
    GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=${GOCACHE:-$top/gocache} go build -o "$top/go-client" "$here/go.go" >&2 || { echo "Debian's go-qemu is not here"; return 1; }
}
run_go() { "$top/go-client" "$1" "$here/conversation.json"; }
have_ganeti() {
    if [ -n "$install" ] && [ ! -d "$top/ganeti" ]; then
        (cd "$top" && apt-get download -q ganeti-3.0 >/dev/null 2>&1 && dpkg-deb -x ganeti-3.0_*.deb ganeti) || true
    fi
    export GANETI=${GANETI:-$top/ganeti/usr/share/ganeti/3.0}
    PYTHONPATH=$GANETI /usr/bin/python3 -c 'import ganeti.hypervisor.hv_kvm.monitor' 2>"$top/ganeti.err" || { echo "Ganeti is not here: $(tail -1 "$top/ganeti.err")"; return 1; }
}
run_ganeti() { PYTHONPATH=$GANETI /usr/bin/python3 "$here/ganeti_client.py" "$1" "$here/conversation.json"; }
have_pve() {
    [ -n "${PVE_QMP_CLIENT:-}" ] || { echo "PVE_QMP_CLIENT does not name QMPClient.pm"; return 1; }
    mkdir -p "$top/pve/PVE" && cp "$PVE_QMP_CLIENT" "$top/pve/PVE/QMPClient.pm"
    perl -I "$top/pve" -I "$here/pve" -e 'use PVE::QMPClient' 2>"$top/pve.err" || { echo "$(head -1 "$top/pve.err")"; return 1; }
}
run_pve() { perl -I "$top/pve" "$here/pve.pl" "$1" "$here/conversation.json"; }

have_rust() {
    command -v cargo >/dev/null || { echo "there is no cargo"; return 1; }
    export QAPI_CLIENT=${QAPI_CLIENT:-$top/qapi/debug/qapi-client}
    [ -x "$QAPI_CLIENT" ] && return
    [ -n "$install" ] || { echo "the crate qapi is built with --install only"; return 1; }
    cp -r "$here/qapi" "$top/qapi-source"
    (cd "$top/qapi-source" && CARGO_TARGET_DIR=$top/qapi cargo build -q >&2) || { echo "cargo cannot build the crate qapi"; return 1; }
}
run_rust() { "$QAPI_CLIENT" "$1" "$here/conversation.json"; }
have_shell() {
    if [ -n "$install" ] && [ ! -d "$top/venv" ]; then
        { python3 -m venv "$top/venv" && "$top/venv/bin/pip" install -q qemu.qmp; } >/dev/null 2>&1 || true
    fi
    export QMP_SHELL=${QMP_SHELL:-$top/venv/bin/qmp-shell}
    [ -x "$QMP_SHELL" ] || { echo "qmp-shell of the package qemu.qmp is not here"; return 1; }
}
args_shell=(-drive if=none,id=hd0,file=disk.qcow2,format=qcow2)
run_shell() { python3 "$here/shell.py" "$QMP_SHELL" "$1"; }

# What differs from run to run: threads, directories, what the file system takes for a file, the order of events that came while others were read; and which build it is.
plain() {
    python3 -c '
import json, re, sys
def plain(value):
    if isinstance(value, dict):
        return {k: 0 if k in ("thread-id", "CPU", "pid", "timestamp", "actual-size") else plain(v) for k, v in value.items() if k != "props"}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return re.sub(r"#block\d+", "#block", value.replace(sys.argv[1], "DIR")) if isinstance(value, str) else value
for line in sys.stdin:
    said = plain(json.loads(line))
    if "events" in said:
        # SHUTDOWN may come when the client has left.
        said["events"] = sorted(name for name in said["events"] if name != "SHUTDOWN")
    print(json.dumps(said, sort_keys=True))' "$1"
}

# converse CLIENT NAME QEMU...: the conversation, into NAME.
converse() {
    local client=$1 name=$2; shift 2
    local dir=$top/$client-$name rc=0
    mkdir "$dir"
    qemu-img create -q -f qcow2 "$dir/disk.qcow2" 8M
    truncate -s 8M "$dir/copy.raw"
    local args=()
    [ "$client" != shell ] || args=("${args_shell[@]}")
    (cd "$dir" && exec "$@" "${args[@]}" -S -nodefaults -display none -qmp "unix:$dir/qmp,server=on,wait=off" >"$dir/qemu" 2>&1) & local qemu=$!
    for _ in $(seq 100); do [ -S "$dir/qmp" ] && break; sleep 0.05; done
    "run_$client" "$dir/qmp" >"$dir/said" 2>"$dir/errors" || rc=$?
    kill "$qemu" 2>/dev/null || true
    wait "$qemu" 2>/dev/null || true
    if [ "$rc" != 0 ] || ! plain "$dir" <"$dir/said" >"$top/$client-$name.said"; then
        echo "FAILED  $client, $name: $(tail -q -n 2 "$dir/errors" "$dir/qemu" | tr '\n' ' ')"
        failed=$((failed + 1))
        return 1
    fi
}

for client in "${clients[@]}"; do
    if ! why=$("have_$client" 2>&1); then
        echo "skipped $client: ${why##*$'\n'}"
        skipped=$((skipped + 1))
        continue
    fi
    "have_$client" >/dev/null 2>&1
    converse "$client" simulated "$program" qemu || continue
    lines=$(wc -l <"$top/$client-simulated.said")
    if [ -z "$real" ]; then
        echo "ok      $client: $lines answers (there is no real QEMU to compare with)"
    else
        converse "$client" real "$real" -accel tcg || continue
        if diff "$top/$client-real.said" "$top/$client-simulated.said" >"$top/$client.diff"; then
            echo "ok      $client: $lines answers, the same as the real one's"
        else
            echo "FAILED  $client: other answers than the real one's"
            cut -c1-400 "$top/$client.diff"
            failed=$((failed + 1))
            continue
        fi
    fi
    passed=$((passed + 1))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
