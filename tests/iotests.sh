#!/usr/bin/env bash
# Runs QEMU's own iotests, unmodified and through their own `check`, with blockjob-sim in the place of QEMU and the real qemu-img,
# qemu-io and qemu-nbd. Nothing of QEMU's is needed but a source tree of it, and these tools.
#
#   tests/iotests.sh [OPTION]... TREE [TEST]...
#
# TREE   a source tree of QEMU; only tests/qemu-iotests and python are used
# TEST   a number, or tests/NAME; without any: the tests that docs/iotests.md lists as passed
#   --qemu PROG    the program that is tested (default: target/release/blockjob-sim)
#   --qemu-version V  the version that it stands for; the tree should be of that version
#   --real PROG    a real QEMU instead; if it was built without the qtest accelerator it is given another
#   --format FMT   qcow2 (default) or raw
#   --protocol P   file (default) or nbd: images are served by qemu-nbd
#   --times        say what share of the time qemu-img, qemu-io, qemu-nbd and the tested program took
#   --limit N      seconds a test may take (default: 600)
#   --keep DIR     keep images, logs and outputs that differ in this directory
# Ends with 0 if all tests passed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$here/target/release/blockjob-sim
real= version= format=qcow2 protocol=file times= keep= limit=600
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit "$1"; }
while [[ ${1-} == -* ]]; do
    case $1 in
    --qemu) program=$(realpath "$2"); shift 2 ;;
    --qemu-version) version=$2; shift 2 ;;
    --real) real=$(command -v "$2"); shift 2 ;;
    --format) format=$2; shift 2 ;;
    --protocol) protocol=$2; shift 2 ;;
    --limit) limit=$2; shift 2 ;;
    --times) times=yes; shift ;;
    --keep) keep=$(mkdir -p "$2" && realpath "$2"); shift 2 ;;
    --help) usage 0 ;;
    *) echo "iotests.sh: unknown option $1" >&2; exit 2 ;;
    esac
done
[[ $# -ge 1 ]] || usage 2
iotests=$(realpath "$1")/tests/qemu-iotests
shift
[[ -x $iotests/check ]] || { echo "iotests.sh: no QEMU source tree: $iotests/check is missing" >&2; exit 2; }
if [[ $# -eq 0 ]]; then
    # shellcheck disable=SC2046
    set -- $(sed -n 's/^| `\([^`]*\)` | passes .*/\1/p' "$here/docs/iotests.md")
fi
for tool in qemu-img qemu-io qemu-nbd python3; do
    command -v "$tool" >/dev/null || { echo "iotests.sh: $tool is not installed" >&2; exit 2; }
done

work=${keep:-$(mktemp -d)}
[[ -n $keep ]] || trap 'rm -rf "$work"' EXIT
# As in a build of QEMU outside of its source tree: what `check` notes down stays out of that.
build=$work/build/tests/qemu-iotests
mkdir -p "$work/bin" "$work/scratch" "$build"
ln -sfn "$iotests/check" "$build/check"
sockets=$(mktemp -d) # Names of sockets must be short.
trap 'rm -rf "$sockets"; [[ -n $keep ]] || rm -rf "$work"' EXIT

# A program of QEMU's, or of ours, under the name that `check` is told. With --times it is put on a list how long it ran.
program() {
    local name=$1 path=$2 prelude=${3-}
    local start='exec "$path" "$@"'
    if [[ -n $times ]]; then
        start='TIMEFORMAT="'$name' %R %U %S"
exec 8>&2
{ time "$path" "$@" 2>&8; } 2>>'"$work"'/times'
    fi
    printf '#!/bin/bash\npath=%q\n%s\n%s\n' "$path" "$prelude" "$start" >"$work/bin/$name"
    chmod +x "$work/bin/$name"
}
for tool in qemu-img qemu-io qemu-nbd; do program "$tool" "$(command -v "$tool")"; done
program qemu-storage-daemon "$(command -v qemu-storage-daemon || command -v false)"
qemu=qemu-system-x86_64
if [[ -n $real ]]; then
    if "$real" -accel help 2>/dev/null | grep -qx qtest; then
        program $qemu "$real"
    else
        # The qtest accelerator runs no guest, nor does a guest that is stopped. The socket of qtest stays open and silent.
        program $qemu "$real" 'args=()
while [[ $# -gt 0 ]]; do
    case "$1 ${2-}" in
    "-accel qtest") args+=(-accel tcg -S); shift ;;
    "-qtest "*) shift ;;
    "-qtest-log "*) shift ;;
    *) args+=("$1") ;;
    esac
    shift
done
set -- "${args[@]}"'
    fi
else
    [[ -x $program ]] || { echo "iotests.sh: $program is missing: cargo build --release" >&2; exit 2; }
    # Under the name of a QEMU it is one; the name also stands in front of its messages.
    mkdir -p "$work/tested"
    ln -sfn "$program" "$work/tested/$qemu"
    program $qemu "$work/tested/$qemu" "${version:+set -- --qemu-version $version \"\$@\"}"
fi

export QEMU_PROG=$work/bin/$qemu QEMU_IMG_PROG=$work/bin/qemu-img QEMU_IO_PROG=$work/bin/qemu-io
export QEMU_NBD_PROG=$work/bin/qemu-nbd QSD_PROG=$work/bin/qemu-storage-daemon
export TEST_DIR=$work/scratch SOCK_DIR=$sockets PYTHONDONTWRITEBYTECODE=1
cd "$build"

# Cases that the expected output counts; a test without cases is one.
cases_of() {
    local out=$iotests/$1.out
    [[ -f $out.$format ]] && out=$out.$format
    sed -n 's/^Ran \([0-9]*\) tests\?.*/\1/p' "$out" 2>/dev/null | tail -1 || true
}

# Each case with its result. That of one with a description stands on the line below its name, and that of one that prints something on a
# line of its own behind it.
results() {
    awk '
        function end(result) { print name ": " result; name = "" }
        /^test[^ ]* \(/ { name = $1 }
        name == "" { next }
        / \.\.\. / { rest = $0; sub(/.* \.\.\. /, "", rest) }
        !/ \.\.\. / { rest = $0 }
        rest ~ /^(ok|FAIL|ERROR|skipped .*)$/ { end(rest) }' "$1"
}

failed=0 passed_cases=0 all_cases=0
for test in "$@"; do
    if [[ ! -f $iotests/$test ]]; then
        failed=$((failed + 1))
        echo "$test: there is no such test in this tree"
        continue
    fi
    : >"$work/times"
    began=$EPOCHREALTIME
    log=$work/${test//\//-}.log
    verdict=failed
    if timeout "$limit" ./check "-$format" "-$protocol" "${test#tests/}" >"$log" 2>&1; then verdict=passed; fi
    ended=$EPOCHREALTIME
    grep -q '^Not run: ' "$log" && verdict='not run'
    of=$(cases_of "$test")
    passed=${of:-1}
    if [[ $verdict == failed ]]; then
        failed=$((failed + 1)) passed=0
        if [[ -n $of ]]; then
            # Once more, with each case by its name.
            cp "$work/times" "$work/times.once"
            timeout "$limit" ./check "-$format" "-$protocol" -- "$iotests/$test" -v >"$log.cases" 2>&1 || true
            mv "$work/times.once" "$work/times"
            results "$log.cases" >"$log.results"
            passed=$(grep -cE ': (ok|skipped.*)$' "$log.results" || true)
        fi
    elif [[ $verdict == 'not run' ]]; then
        passed=0
    fi
    all_cases=$((all_cases + ${of:-1})) passed_cases=$((passed_cases + passed))
    seconds=$(awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.1f", b - a }')
    echo "$test: $verdict, $passed of ${of:-1} cases, $seconds s"
    [[ $verdict == failed && -n $of ]] && sed 's/^/    /' "$log.results"
    [[ $verdict == 'not run' ]] && sed -n 's/^.* not run  *\[[^]]*\] *\[[^]]*\] *[^ ]* *\(.*\)/    \1/p' "$log" || true
    if [[ -n $times ]]; then
        # The tested program runs beside Python, which waits for it: its processor time tells what it took.
        awk -v all="$seconds" -v tested="$qemu" '
            { n[$1]++; wall[$1] += $2; cpu[$1] += $3 + $4 }
            END {
                for (name in n) {
                    printf "    %-20s %4d runs, %6.2f s, %6.2f s of processor time\n", name, n[name], wall[name], cpu[name]
                    if (name != tested) tools += wall[name]
                }
                printf "    %-20s %18.2f s\n", "all without the tools", all - tools
            }' "$work/times" | sort
    fi
done
echo "$(($# - failed)) of $# tests passed, $passed_cases of $all_cases cases"
[[ $failed -eq 0 ]]
