#!/usr/bin/env bash
# Measures blockjob-sim beside the real QEMU, both in one run and in turns, so that a machine that is busy otherwise slows both:
#
#   * from the start of the process to QMP's greeting
#   * a command there and back (query-status)
#   * iotest 124 through QEMU's own `check`, with the share of qemu-img, qemu-io and Python told apart
#
#   tests/side-by-side.sh [OPTION]... [TREE]
#
# TREE   a source tree of QEMU, for iotest 124; without, that part is left out
#   --qemu PROG    the program that is measured (default: target/release/blockjob-sim)
#   --real PROG    the real QEMU (default: qemu-system-x86_64)
#   --rounds N     how often each is started (default: 20)
#   --commands N   commands in a row (default: 2000)
#   --tests N      how often 124 runs through check (default: 3)
# Prints medians, and ends with 0 if all three targets are met: a fifth of QEMU's time to the greeting, a command no slower, 124 faster.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$here/target/release/blockjob-sim real=qemu-system-x86_64 rounds=20 commands=2000 tests=3
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit "$1"; }
while [[ ${1-} == -* ]]; do
    case $1 in
    --qemu) program=$(realpath "$2"); shift 2 ;;
    --real) real=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --commands) commands=$2; shift 2 ;;
    --tests) tests=$2; shift 2 ;;
    --help) usage 0 ;;
    *) echo "side-by-side.sh: unknown option $1" >&2; exit 2 ;;
    esac
done
tree=${1-}
[[ -x $program ]] || { echo "side-by-side.sh: $program is missing: cargo build --release" >&2; exit 2; }
real=$(command -v "$real") || { echo "side-by-side.sh: no real QEMU: $real" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$program" "$work/qemu-system-blockjob-sim"
failed=0

python3 - "$work" "$real" "$rounds" "$commands" <<'PYTHON' || failed=1
import json, os, socket, subprocess, sys, time

work, real, rounds, commands = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
programs = {"QEMU": real, "blockjob-sim": os.path.join(work, "qemu-system-blockjob-sim")}


def median(values):
    values = sorted(values)
    return values[len(values) // 2]


def start(program):
    ours, theirs = socket.socketpair()
    began = time.perf_counter()
    args = [program, "-nodefaults", "-display", "none", "-machine", "none", "-S"]
    args += ["-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"]
    child = subprocess.Popen(args, pass_fds=[theirs.fileno()], cwd=work)
    theirs.close()
    file = ours.makefile("rwb")
    assert b"QMP" in file.readline()
    return time.perf_counter() - began, child, file


def ask(file, command):
    file.write(json.dumps({"execute": command}).encode())
    file.flush()
    while True:
        reply = json.loads(file.readline())
        if "return" in reply:
            return


def end(child, file):
    ask(file, "quit")
    child.wait()


greeting, command = {name: [] for name in programs}, {name: [] for name in programs}
for name, program in programs.items():
    end_of = start(program)
    ask(end_of[2], "qmp_capabilities")
    end(*end_of[1:])
for _ in range(rounds):
    for name, program in programs.items():
        took, child, file = start(program)
        greeting[name].append(took)
        ask(file, "qmp_capabilities")
        began = time.perf_counter()
        for _ in range(commands // rounds):
            ask(file, "query-status")
        command[name].append((time.perf_counter() - began) / (commands // rounds))
        end(child, file)

print(f"{'':32} {'QEMU':>12} {'blockjob-sim':>12}")
met = True
for what, values, factor in [("start to greeting", greeting, 5), ("a command there and back", command, 1)]:
    qemu, sim = median(values["QEMU"]), median(values["blockjob-sim"])
    met &= sim * factor <= qemu
    print(f"{what:32} {qemu * 1e3:9.3f} ms {sim * 1e3:9.3f} ms   {sim / qemu:.2f} of QEMU's")
sys.exit(0 if met else 1)
PYTHON

if [[ -n $tree ]]; then
    for ((i = 0; i < tests; i++)); do
        "$here/tests/iotests.sh" --times --real "$real" "$tree" 124 >>"$work/QEMU"
        "$here/tests/iotests.sh" --times --qemu "$program" "$tree" 124 >>"$work/blockjob-sim"
    done
    # The medians of each line that says a time.
    awk '
        function median(key,   n, i, j, t, v) {
            n = count[key]
            for (i = 1; i <= n; i++) v[i] = value[key, i]
            for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (v[j] < v[i]) { t = v[i]; v[i] = v[j]; v[j] = t }
            return v[int((n + 1) / 2)]
        }
        function note(who, what, seconds) {
            if (!(what in seen)) { seen[what] = 1; order[++lines] = what }
            value[who SUBSEP what, ++count[who SUBSEP what]] = seconds
        }
        { who = FILENAME; sub(/.*\//, "", who) }
        /^124: / { if ($2 != "passed,") bad = 1; note(who, "124 through check", $(NF - 1)) }
        /^ +qemu-(img|io|nbd) / { note(who, "  of that " $2 " runs of " $1, $4) }
        /^ +qemu-system/ { note(who, "  processor time of the program", $6) }
        /^ +all without the tools/ { note(who, "  without the tools (Python)", $5) }
        END {
            for (i = 1; i <= lines; i++) {
                what = order[i]
                q = median("QEMU" SUBSEP what); s = median("blockjob-sim" SUBSEP what)
                printf "%-32s %10.2f s %10.2f s   %s\n", what, q, s, (q > 0 ? sprintf("%.2f of QEMU'"'"'s", s / q) : "")
            }
            exit bad || median("blockjob-sim" SUBSEP "124 through check") >= median("QEMU" SUBSEP "124 through check")
        }' "$work/QEMU" "$work/blockjob-sim" || failed=1
fi
exit "$failed"
