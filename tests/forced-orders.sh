#!/usr/bin/env bash
# Forces each order of a recording on a real QEMU: `validate` finds a schedule for each of its traces, `export` makes a script of that,
# and the script has the order or has it not.
#
#   tests/forced-orders.sh [OPTION]... [CASE]
#
# CASE           a scenario with a recording in tests/data/qemu (default: iotest-124/transaction-failure, which has six orders)
#   --sim PROG     blockjob-sim (default: target/release/blockjob-sim)
#   --qemu PROG    the real QEMU (default: qemu-system-x86_64)
# Prints a line for each order, and ends with 0 if all were had.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
sim=$here/target/release/blockjob-sim qemu=qemu-system-x86_64
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit "$1"; }
while [[ ${1-} == -* ]]; do
    case $1 in
    --sim) sim=$(realpath "$2"); shift 2 ;;
    --qemu) qemu=$2; shift 2 ;;
    --help) usage 0 ;;
    *) echo "forced-orders.sh: unknown option $1" >&2; exit 2 ;;
    esac
done
case=${1:-iotest-124/transaction-failure}
scenario=$here/sim-scenarios/$case.yaml recording=$here/tests/data/qemu/$case.jsonl
[[ -x $sim ]] || { echo "forced-orders.sh: $sim is missing: cargo build --release" >&2; exit 2; }
qemu=$(command -v "$qemu") || { echo "forced-orders.sh: no real QEMU: $qemu" >&2; exit 2; }
for file in "$scenario" "$recording"; do
    [[ -f $file ]] || { echo "forced-orders.sh: $file is missing" >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One file a trace: each begins with a line that says which QEMU it is of.
awk -v dir="$work" '/"qemu": /{n++} {print > (dir "/" n ".jsonl")}' "$recording"
failed=0
for trace in $(find "$work" -name '*.jsonl' | sort -V); do
    order=${trace%.jsonl}
    "$sim" validate "$trace" --scenario "$scenario" >"$order.said"
    # The choices stand a line each behind the first one, as `run --replay` takes them.
    tail -n +2 "$order.said" >"$order.choices"
    "$sim" export "$scenario" --replay "$order.choices" >"$order.py" 2>"$order.cannot"
    code=0
    (cd "$work" && python3 "$order.py" "$qemu") >"$order.out" 2>&1 || code=$?
    echo "order $(basename "$order"): $( ((code == 0)) && echo had || echo "not had (exit code $code)"): $(tail -n 1 "$order.out")"
    ((code == 0)) || failed=1
done
exit "$failed"
