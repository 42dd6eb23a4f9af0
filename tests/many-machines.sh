#!/usr/bin/env bash
# The recipes of docs/many-machines.md, each on this one machine: a campaign in many parts, a worker killed in the middle, and what `merge`
# tells and writes held against one big run, byte for byte.
#   tests/many-machines.sh [--install] [PROGRAM] [hyperqueue|slurm|kubernetes]...
# What cannot be had is skipped, by name. --install gets it: Python packages into a directory that goes away, Slurm by apt (as root).
set -euo pipefail
cd "$(dirname "$0")/.."
install=
if [ "${1:-}" = --install ]; then install=yes; shift; fi
program=$(realpath "${1:-target/release/blockjob-sim}")
[ -x "$program" ] || { echo "there is no $program: cargo build --release" >&2; exit 2; }
shift || true
engines=("${@:-}")
[ -n "${engines[0]}" ] || engines=(hyperqueue slurm kubernetes)
here=$PWD/examples/many-machines
dir=$(mktemp -d)
passed=0 failed=0 skipped=0
slurm_up=
stop_slurm() {
    [ -z "$slurm_up" ] || for name in slurmd slurmctld munged; do
        [ ! -s "$dir/slurm/$name.pid" ] || kill "$(cat "$dir/slurm/$name.pid")" 2>/dev/null || true
    done
    slurm_up=
}
trap 'stop_slurm; pkill -KILL -f "$dir/" 2>/dev/null || true; sleep 0.2; rm -rf "$dir"' EXIT

# Some thousand different scenarios with a defect in the model that many of them meet.
export BLOCKJOB_SIM=$program PARTS=10 CAMPAIGN="--generate --runs 5000 --keep-going --quirk txn-abort-fifo"
mkdir "$dir/one"
# shellcheck disable=SC2086
"$program" fuzz $CAMPAIGN --quiet --failures "$dir/one/failures" > "$dir/one/told" || [ $? = 1 ]
grep -q "^FAILED: " "$dir/one/told" || { echo "the big run found nothing: there is nothing to compare" >&2; exit 1; }

result() {
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "ok      $1"; else failed=$((failed + 1)); echo "FAILED  $1"; fi
}
said() {
    if grep -q "$2" "$3"; then result "$1" 0; else tail -5 "$3"; result "$1" 1; fi
}
skip() { skipped=$((skipped + 1)); echo "skipped $1: $2"; }
# Holds what a recipe told and wrote against the one big run; $OUT/told is what it printed last.
same() {
    local rc=0
    sed "s|$OUT|$dir/one|" "$OUT/told" | diff "$dir/one/told" - || rc=1
    diff -r "$dir/one/failures" "$OUT/failures" || rc=1
    [ -s "$OUT/report/index.html" ] || { echo "there is no page"; rc=1; }
    result "$1" "$rc"
}
# Waits until a part is at work, and sends SIGKILL to its process.
kill_one() {
    for _ in $(seq 600); do
        for file in "$OUT"/part-*/campaign.jsonl; do
            if [ -s "$file" ] && ! grep -q '"done":true' "$file"; then
                part=$(basename "$(dirname "$file")")
                # The program itself: its argument is the directory of its part.
                if pid=$(pgrep -f -- "--shard ${part#part-}/$PARTS --resume --state $OUT/$part\$") && kill -KILL "${pid%%$'\n'*}" 2>/dev/null; then
                    echo "        killed: $part"
                    return 0
                fi
            fi
        done
        sleep 0.02
    done
    return 1
}
python_with() {
    if [ -n "$install" ] && [ ! -d "$dir/venv" ]; then python3 -m venv "$dir/venv" >/dev/null 2>&1 || return 1; fi
    [ -z "$install" ] || "$dir/venv/bin/pip" install -q "$1" >/dev/null 2>&1 || return 1
    python=$([ -d "$dir/venv" ] && echo "$dir/venv/bin/python" || command -v python3)
    "$python" -c "import $2" 2>/dev/null
}

hyperqueue() {
    if ! python_with hyperqueue hyperqueue; then skip hyperqueue "there is no Python package hyperqueue"; return; fi
    export OUT=$dir/hyperqueue
    # A part's process is killed: its task fails, and is submitted again.
    "$python" "$here/hyperqueue_campaign.py" > "$OUT.told" 2> "$OUT.err" & recipe=$!
    kill_one || result "hyperqueue: a part was at work when it was killed" 1
    wait "$recipe" || true
    # Its first lines are the server's.
    sed -n '/ runs, /,$p' "$OUT.told" > "$OUT/told"
    same "hyperqueue: a part is killed"
    # All is killed, server and workers; begun again, it goes on.
    export OUT=$dir/hyperqueue-2
    "$python" "$here/hyperqueue_campaign.py" > "$OUT.told" 2>&1 & recipe=$!
    kill_one || result "hyperqueue: a part was at work when all was killed" 1
    kill -KILL "$recipe" 2>/dev/null || true
    wait "$recipe" 2>/dev/null || true
    pkill -KILL -f "$OUT/part-" || true
    "$program" merge "$OUT"/part-* > /dev/null 2> "$OUT.err" || true
    said "hyperqueue: merge says what is missing when all was killed" "parts are not here yet; " "$OUT.err"
    "$python" "$here/hyperqueue_campaign.py" > "$OUT.told" 2> "$OUT.err" || true
    sed -n '/ runs, /,$p' "$OUT.told" > "$OUT/told"
    same "hyperqueue: all is killed"
    # With the program `hq`, workers are processes of their own.
    if ! command -v hq >/dev/null; then skip "hyperqueue: hq" "there is no program hq"; return; fi
    export OUT=$dir/hq HQ_SERVER_DIR=$dir/hq-server
    mkdir -p "$OUT"
    hq server start > "$dir/hq-server.log" 2>&1 & server=$!
    until hq server info >/dev/null 2>&1; do sleep 0.1; done
    hq worker start --cpus 1 > "$dir/hq-worker-1.log" 2>&1 & first=$!
    hq worker start --cpus 1 > "$dir/hq-worker-2.log" 2>&1 & second=$!
    "$here/hq.sh" > "$OUT.told" 2> "$OUT.err" & recipe=$!
    until grep -qs '"part":1' "$OUT"/part-1/campaign.jsonl; do sleep 0.02; done
    kill -KILL "$first"
    wait "$recipe" || true
    sed -n '/ runs, /,$p' "$OUT.told" > "$OUT/told"
    same "hyperqueue: hq, a worker is killed"
    hq server stop >/dev/null 2>&1 || true
    wait "$server" "$second" 2>/dev/null || true
}

start_slurm() {
    mkdir -p "$dir/slurm/state" "$dir/slurm/spool"
    head -c 1024 /dev/urandom > "$dir/slurm/munge.key"
    chmod 400 "$dir/slurm/munge.key"; chmod 755 "$dir" "$dir/slurm"
    slurm_up=yes
    munged --force --key-file="$dir/slurm/munge.key" --socket="$dir/slurm/munge.socket" --pid-file="$dir/slurm/munged.pid" \
        --log-file="$dir/slurm/munged.log" --seed-file="$dir/slurm/munged.seed" || return 1
    sed -e "s|@DIR@|$dir/slurm|; s|@HOST@|$(hostname)|; s|@NODE@|$(slurmd -C | head -1)|" > "$dir/slurm/slurm.conf" <<'CONF'
ClusterName=one
SlurmctldHost=@HOST@(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=@DIR@/munge.socket
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=@DIR@/state
SlurmdSpoolDir=@DIR@/spool
SlurmctldPidFile=@DIR@/slurmctld.pid
SlurmdPidFile=@DIR@/slurmd.pid
SlurmctldLogFile=@DIR@/slurmctld.log
SlurmdLogFile=@DIR@/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
@NODE@ NodeAddr=127.0.0.1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF=$dir/slurm/slurm.conf
    slurmctld && slurmd || return 1
    for _ in $(seq 100); do
        ! sinfo -h -o %t 2>/dev/null | grep -q idle || return 0
        sleep 0.2
    done
    return 1
}

slurm() {
    if [ -n "$install" ] && ! command -v slurmctld >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null 2>&1 || true
    fi
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then skip slurm "slurm-wlm is not installed"; return; fi
    if [ "$(id -u)" != 0 ]; then skip slurm "its daemons need root here"; return; fi
    if ! start_slurm; then tail -3 "$dir"/slurm/*.log 2>/dev/null || true; skip slurm "its daemons do not start on this machine"; return; fi
    export OUT=$dir/slurm-1
    "$here/slurm.sh" > "$OUT.told" 2> "$OUT.err" & recipe=$!
    kill_one || result "slurm: a part was at work when it was killed" 1
    wait "$recipe" || true
    cp "$OUT.told" "$OUT/told"
    same "slurm: a part is killed"
    # The node fails: Slurm itself puts what ran there back into the queue.
    export OUT=$dir/slurm-2
    "$here/slurm.sh" > "$OUT.told" 2> "$OUT.err" & recipe=$!
    node=$(sinfo -h -o %n)
    # A part may end just before: once is not always enough.
    while ! grep -qi requeu "$dir/slurm/slurmctld.log" && kill -0 "$recipe" 2>/dev/null; do
        if ! pgrep -f -- "--state $OUT/part-" >/dev/null; then sleep 0.02; continue; fi
        scontrol update "nodename=$node" state=down reason=test
        sleep 0.5
        # It may have come back by itself.
        scontrol update "nodename=$node" state=resume 2>/dev/null || true
    done
    wait "$recipe" || true
    cp "$OUT.told" "$OUT/told"
    said "slurm: what ran on a node that failed is put back into the queue" "[Rr][Ee][Qq][Uu][Ee][Uu]" "$dir/slurm/slurmctld.log"
    same "slurm: a node fails"
    stop_slurm
}

kubernetes() {
    if ! python_with kubernetes-validate kubernetes_validate; then skip kubernetes "there is no Python package kubernetes-validate"; return; fi
    local rc=0
    "$python" -m kubernetes_validate --strict --quiet "$here"/kubernetes*.yaml || rc=1
    result "kubernetes: the manifests follow the schema of the API" "$rc"
    # What the schema would not find: the commands of the containers are carried out here.
    export OUT=$dir/kubernetes
    mkdir "$OUT" "$OUT.bin"
    ln -s "$program" "$OUT.bin/blockjob-sim"
    command_of() {
        "$python" -c 'import sys, yaml
job = next(d for d in yaml.safe_load_all(open(sys.argv[1])) if d["kind"] == "Job")
(c,) = job["spec"]["template"]["spec"]["containers"]
assert c["command"] == ["sh", "-c"], c["command"]
if "completions" in job["spec"]:
    parts, = [e["value"] for e in c["env"] if e["name"] == "PARTS"]
    assert int(parts) == job["spec"]["completions"], parts
print(c["args"][0].replace("/out", sys.argv[2]))' "$1" "$OUT"
    }
    part=$(command_of "$here/kubernetes.yaml"); merge=$(command_of "$here/kubernetes-merge.yaml")
    for index in $(seq 0 $((PARTS - 1))); do
        JOB_COMPLETION_INDEX=$index PATH=$OUT.bin:$PATH sh -c "$part" > "$OUT/log-$index" || { rc=1; cat "$OUT/log-$index"; }
    done
    PATH=$OUT.bin:$PATH sh -c "$merge" > "$OUT/told" || [ $? = 1 ]
    same "kubernetes: the containers' commands"
}

for engine in "${engines[@]}"; do
    case $engine in
        hyperqueue | slurm | kubernetes) "$engine" ;;
        *) echo "\`$engine\` is no engine: hyperqueue, slurm, kubernetes" >&2; exit 2 ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
