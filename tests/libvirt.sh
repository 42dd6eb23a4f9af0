#!/bin/bash
# libvirt drives the simulator, unmodified: tests/libvirt.sh PROGRAM [DIR]
#
# A libvirtd of its own (a session's, with its own directories) starts a domain with two disks whose emulator is PROGRAM, and takes it
# through what backup software asks of libvirt. It does so up to three times:
#   disk    requests take time as on a slow disk (--sim-pace disk:…), so that libvirt meets jobs while they run
#   seeded  under a seed, with the invariants watched and the run recorded; then the recording is run again by itself
#   real    under a real QEMU, where one is installed (REAL_QEMU names it; empty: none)
#   fetch   virtnbdbackup, where it is installed, fetches backups of all its levels over NBD, and they are restored
# and compares disk and real, reply by reply and event by event (not between operations, where it depends on the machine what comes first).
# It ends by itself, prints what failed, and at the end a line for each group of operations, of which tests/table.py makes the table in
# docs/clients.md (tests/libvirt.sh PROGRAM | tests/table.py docs/clients.md libvirt). Where libvirt or qemu-img is missing it says so and is skipped. With KEEP=1 the directory
# stays: SESSION/domain.log is libvirtd's log, with all of QMP in it, SESSION/conversation is what is compared.
#
# VERSION=7.2 tests/libvirt.sh PROGRAM: the same with PROGRAM under the name of that version, and without a real one unless REAL_QEMU names it.
set -u
program=$(readlink -f "$1")
version=${VERSION-}
top=${2:-$(mktemp -d)}
here=$(dirname "$(readlink -f "$0")")
real=${REAL_QEMU-$([ "$version" ] || command -v qemu-system-x86_64)}
all="life looks limits push abort checkpoints chains plugging pull compared recording virtnbdbackup"
for tool in libvirtd virsh qemu-img qemu-io setpriv python3; do
    command -v $tool >/dev/null || { for group in $all; do echo "$group  skipped: no $tool"; done; exit 0; }
done
failed=0 done=0 daemon= groups= broken=
as=""
# As root, a session's daemon is started as nobody: root's would be the system's.
[ "$(id -u)" = 0 ] && as="setpriv --reuid=65534 --regid=65534 --clear-groups"

v() { timeout 120 $as virsh -q -c qemu:///session "$@"; }
# The group that a step belongs to.
group() {
    case $session/$name in
        fetch-*) echo virtnbdbackup;;
        */compared) echo compared;;
        */replay*) echo recording;;
        */blkiotune*|*/block-threshold|*/iothread-*) echo limits;;
        */domblkinfo-resized|*/domblklist-attached|*/blockresize|*/attach-disk|*/detach-disk|*/change-media|*/eject-media) echo plugging;;
        */domblklist*|*/snapshot*|*/blockcommit*|*/blockpull|*/blockcopy*|*/write-above*|*/no-errors) echo chains;;
        */dom[bms][lte]*|*/vcpucount|*/ttyconsole|*/setmem) echo looks;;
        */backup-abort) echo abort;;
        */backup-*|*/write*|*/restore*) echo push;;
        */checkpoint-*) echo checkpoints;;
        */pull-*) echo pull;;
        *) echo life;;
    esac
}
fail() { echo "FAILED  $session/$name: $(tr '\n' ' ' <out | cut -c1-300)"; failed=$((failed + 1)); broken="$broken $(group)"; }
# step NAME COMMAND...: what libvirt is asked for has to succeed.
step() {
    name=$1; shift
    done=$((done + 1)) groups="$groups $(group)"
    echo "== $name" >>"$dir/steps"; date +%s.%N >>"$dir/steps"
    if "$@" >out 2>&1; then echo "ok      $session/$name"; else fail; fi
}
has() { grep -q "$1" out || { echo "no $1 in: $(cat out)" >out; fail; }; }

begin() { # SESSION EMULATOR OPTIONS...
    session=$1 dir=$top/$1
    emulator=$2; shift 2
    rm -rf "$dir"; mkdir -p "$dir/run" "$dir/config/libvirt" "$dir/cache" "$dir/data" "$dir/bin"
    # By this name the simulator is of that version.
    binary=$dir/bin/qemu-system-x86_64${version:+-$version}
    cp "$emulator" "$binary"
    cd "$dir" || exit 1
    qemu-img create -q -f qcow2 a.qcow2 64M
    qemu-io -f qcow2 -c 'write -P 5 0 12M' a.qcow2 >/dev/null
    qemu-img create -q -f qcow2 b.qcow2 32M
    qemu-img create -q -f qcow2 c.qcow2 16M
    printf 'security_driver = "none"\nnamespaces = []\nstdio_handler = "file"\n' >config/libvirt/qemu.conf
    [ "$as" ] && { chown -R 65534 "$dir"; chmod 755 "$top" "$dir"; }
    export HOME="$dir" XDG_RUNTIME_DIR="$dir/run" XDG_CONFIG_HOME="$dir/config" XDG_CACHE_HOME="$dir/cache" XDG_DATA_HOME="$dir/data"
    export LIBVIRT_LOG_FILTERS="1:qemu_monitor" LIBVIRT_LOG_OUTPUTS="1:file:$dir/domain.log" LIBVIRT_AUTOSTART=0
    $as libvirtd --timeout 120 >libvirtd.out 2>&1 &
    daemon=$!
    for _ in $(seq 200); do v version >/dev/null 2>&1 && break; sleep 0.1; done
    options=
    for option; do options="$options<qemu:arg value='$option'/>"; done
    [ "$options" ] && options="<qemu:commandline>$options</qemu:commandline>"
    cat >guest.xml <<X
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>guest</name><uuid>5b2f4a08-3f11-4f8b-9a53-0a8d6c0a1b2c</uuid><memory unit='MiB'>64</memory><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='${MACHINE:-pc}'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>$binary</emulator>
    <controller type='scsi' model='virtio-scsi'/>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$dir/a.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$dir/b.qcow2'/><target dev='vdb' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='hdc' bus='${CDBUS:-ide}'/></disk>
    <serial type='pty'/><console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='5999' autoport='no' listen='127.0.0.1'/>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/>
  </devices>
  $options
</domain>
X
}
end() {
    [ "$daemon" ] || return 0
    v destroy guest >/dev/null 2>&1
    kill "$daemon" 2>/dev/null
    wait "$daemon" 2>/dev/null
    daemon=
    python3 "$here/libvirt-conversation.py" "$dir" >conversation
}
clean() {
    end
    if [ "${KEEP:-}" ]; then echo "kept: $top"; else cd /; rm -rf "$top"; fi
}
trap clean EXIT

# Holds two sessions against each other: images, and what was said.
same() {
    name=compared session=$1 groups="$groups $(group)"
    cmp "$top/$1/images" "$top/$2/images" >out || fail
    diff "$top/$1/conversation" "$top/$2/conversation" >"$top/differences" || { grep -c '^[<>]' "$top/differences" >out; echo "lines differ" >>out; fail; }
}
checkpoint() { echo "<domaincheckpoint><name>$1</name></domaincheckpoint>" >checkpoint.xml; }
# backup_xml NAME INCREMENTAL FORMAT DISK...
backup_xml() {
    echo "<domainbackup>"; [ "$2" ] && echo "<incremental>$2</incremental>"
    echo "<disks>"
    for disk in vda vdb; do
        case " $4 " in
            *" $disk "*) echo "<disk name='$disk' type='file'><target file='$dir/$1.$disk'/><driver type='$3'/></disk>";;
            *) echo "<disk name='$disk' backup='no'/>";;
        esac
    done
    echo "</disks></domainbackup>"
}
finished() { for _ in $(seq 300); do v domjobinfo guest | grep -q 'Job type: *None' && break; sleep 0.1; done; v domjobinfo guest --completed; }
# backup NAME CHECKPOINT INCREMENTAL [FORMAT] [DISKS]
backup() {
    backup_xml "$1" "$3" "${4:-qcow2}" "${5:-vda vdb}" >backup.xml
    if [ "$2" ]; then checkpoint "$2"; v backup-begin guest backup.xml checkpoint.xml; else v backup-begin guest backup.xml; fi || return 1
    finished
}
aborted() {
    backup_xml aborted "" qcow2 vda >backup.xml
    v backup-begin guest backup.xml && v domjobinfo guest && v domjobinfo guest | grep -q 'Job type: *\(Unb\|B\)ounded' &&
        v domjobabort guest && finished
}
# pull CHECKPOINT INCREMENTAL: a backup that a client fetches over NBD.
pull() {
    {
        echo "<domainbackup mode='pull'>"; [ "$2" ] && echo "<incremental>$2</incremental>"
        echo "<server transport='unix' socket='$dir/pull.sock'/><disks>"
        for disk in vda vdb; do
            bitmap=; [ "$2" ] && bitmap="exportbitmap='changed-$disk'"
            echo "<disk name='$disk' backup='yes' type='file' exportname='$disk' $bitmap><scratch file='$dir/scratch.$disk'/></disk>"
        done
        echo "</disks></domainbackup>"
    } >backup.xml
    checkpoint "$1"; v backup-begin guest backup.xml checkpoint.xml
}
pulled() { v domjobabort guest && finished; }
nbd() { echo "nbd+unix:///${1:-}?socket=$dir/pull.sock"; }
map() { nbdinfo --map="qemu:dirty-bitmap:changed-$1" "$(nbd "$1")" && nbdinfo --map "$(nbd "$1")"; }
listed() { nbdinfo --list "$(nbd)" | sed '/^\turi:/d; /^\tis_/d'; }
write() { v qemu-monitor-command guest --hmp "qemu-io -d $1/virtio-backend \"write -P $2 $3\""; }
snapshot() { v snapshot-create-as guest "$1" --disk-only --no-metadata --diskspec "vda,file=$dir/$1.qcow2" --diskspec vdb,snapshot=no; }
copy_aborted() {
    v blockcopy guest vda "$dir/early.qcow2" --transient-job --format qcow2 --bandwidth 1048576 --bytes &&
        v blockjob guest vda --bandwidth 2097152 --bytes && v blockjob guest vda --info 2>&1 | grep 'Block Copy' &&
        v blockjob guest vda --abort
}

# libvirt answers the event with a question, which is to belong to this step.
reset() {
    v reset guest || return 1
    for _ in $(seq 100); do grep -q 'host-qmp-system-reset' "$dir/domain.log" && break; sleep 0.1; done
    sleep 0.5
}

vda=/machine/peripheral/virtio-disk0
disks() {
    step capabilities v domcapabilities --virttype qemu --emulatorbin "$binary" --machine pc
    step define v define guest.xml
    step start v start guest --paused
    step resume v resume guest
    step domstate v domstate guest; has running
    step domblkinfo v domblkinfo guest vda; has 67108864
    step domblkstat v domblkstat guest vda
    step domblkerror v domblkerror guest
    step domstats v domstats guest
    step vcpucount v vcpucount guest
    step dommemstat v dommemstat guest
    step ttyconsole v ttyconsole guest; has /dev/pts
    step blkiotune v blkdeviotune guest vda --total-bytes-sec 10000000
    step blkiotune-get v blkdeviotune guest vda; has 10000000
    step blkiotune-off v blkdeviotune guest vda --total-bytes-sec 0
    step block-threshold v domblkthreshold guest vda 1000000
    step iothread-add v iothreadadd guest 1 --live
    step iothread-info v iothreadinfo guest; has '^ *1 '
    step iothread-del v iothreaddel guest 1 --live
    step write write $vda 7 "1M 128k"
    step backup-full backup full c1 ""; has 'Completed'
    step write-more write $vda 9 "2M 64k"
    step backup-incremental backup inc c2 c1; has 'Completed'
    step backup-raw backup plain "" "" raw vda; has 'Completed'
    checkpoint c3
    step checkpoint-create v checkpoint-create guest checkpoint.xml
    step checkpoint-list v checkpoint-list guest; has c3
    step checkpoint-size v checkpoint-dumpxml guest c1 --size; has size
    step checkpoint-delete v checkpoint-delete guest c2
    # What the guest writes meanwhile is no part of a backup that is pulled.
    if [ "$session" = seeded ]; then
        # A recording does not hold what NBD clients did, and this one has to replay.
        :
    elif command -v nbdinfo >/dev/null && command -v nbdcopy >/dev/null; then
        step pull-full pull c4 ""
        step pull-list listed; has 'export="vdb"'; cat out >>images
        step pull-write write $vda 13 "5M 64k"
        step pull-copy nbdcopy "$(nbd vda)" pulled.vda
        step pull-end pulled
        step pull-write-2 write $vda 14 "6M 192k"
        step pull-incremental pull c5 c4
        step pull-write-3 write $vda 15 "6M 64k"
        step pull-map map vda; cat out >>images
        step pull-map-2 map vdb; cat out >>images
        step pull-copy-2 nbdcopy "$(nbd vda)" pulled-2.vda
        step pull-jobinfo v domjobinfo guest
        step pull-end-2 pulled
    else
        echo "skipped $session: backups that are pulled (no nbdinfo, nbdcopy: libnbd-bin)"
    fi
    step snapshot snapshot s1
    step domblklist v domblklist guest; has s1.qcow2
    step write-above write $vda 11 "3M 64k"
    step snapshot-2 snapshot s2
    step write-above-2 write $vda 12 "4M 64k"
    step blockcommit-intermediate v blockcommit guest vda --base "$dir/a.qcow2" --top "$dir/s1.qcow2" --wait
    step domblklist-committed v domblklist guest; has s2.qcow2
    step blockcommit-active v blockcommit guest vda --active --pivot --wait
    step domblklist-pivoted v domblklist guest; has a.qcow2
    step snapshot-3 snapshot s3
    step blockpull v blockpull guest vda --wait
    step domblklist-pulled v domblklist guest; has s3.qcow2
    step blockcopy-abort copy_aborted
    step blockcopy v blockcopy guest vda "$dir/copy.qcow2" --transient-job --format qcow2 --wait --pivot
    step domblklist-copied v domblklist guest; has copy.qcow2
    for target in vda vdb; do
        step domblkinfo-copied v domblkinfo guest $target; has Capacity
        step domblkstat-copied v domblkstat guest $target
        step domstats-copied v domstats guest --block
    done
    step blockresize v blockresize guest vdb 48M
    step domblkinfo-resized v domblkinfo guest vdb; has 50331648
    step attach-disk v attach-disk guest "$dir/c.qcow2" sda --targetbus scsi --subdriver qcow2
    step domblklist-attached v domblklist guest; has c.qcow2
    step detach-disk v detach-disk guest sda
    step change-media v change-media guest hdc "$dir/c.qcow2" --insert --force
    step eject-media v change-media guest hdc --eject --force
    step setmem v setmem guest 32M --live
    step suspend v suspend guest
    step reset reset
    step resume-again v resume guest
    step shutdown v shutdown guest
    step destroy v destroy guest
    # The next process begins a recording of its own.
    [ ! -f run.yaml ] || mv run.yaml first.yaml
    # Bitmaps are in the image: b's checkpoints outlive the process.
    step start-again v start guest --paused
    step backup-after-restart backup after "" c1 qcow2 vdb; has 'Completed'
    # A real disk may be too fast.
    if [ "$session" = disk ]; then step backup-abort aborted; has Cancelled; fi
    step destroy-again v destroy guest
    step restore qemu-img rebase -u -b full.vda -F qcow2 inc.vda
    step restored qemu-img compare inc.vda plain.vda
    step no-errors qemu-img check -q copy.qcow2
    sha256sum pulled.vda pulled-2.vda >>images 2>/dev/null
    for image in full.vda full.vdb plain.vda copy.qcow2 after.vdb; do
        echo "$image $(qemu-img convert -U -O raw $image .out 2>/dev/null && sha256sum <.out)" >>images; rm -f .out
    done
}

# What virtnbdbackup fetches, in four levels, and what it makes of it.
fetch() { level=$1; shift; $as virtnbdbackup -U qemu:///session -d guest -l $level -o "$dir/$1" -f "$dir/nbd.sock" --scratchdir "$dir" --noprogress && finished; }
unfetch() { $as virtnbdrestore -U qemu:///session -i "$dir/$1" -o "$dir/$2" --noprogress; }
fetched() {
    step define v define guest.xml
    step start v start guest --paused
    step write write $vda 7 "1M 128k"
    step fetch-copy fetch copy copy
    step fetch-full fetch full chain
    step write-2 write $vda 9 "2M 64k"
    step fetch-incremental fetch inc chain
    step write-3 write $vda 11 "3M 64k"
    step fetch-differential fetch diff chain
    step write-4 write $vda 13 "2M 32k"
    step fetch-incremental-2 fetch inc chain
    step destroy v destroy guest
    step restore unfetch chain restored
    step restore-copy unfetch copy restored-copy
    step restored qemu-img compare -U a.qcow2 restored/a.qcow2
    step fetched-again qemu-img compare -U b.qcow2 restored/b.qcow2
    ls chain | sed 's/[0-9]\{10,\}/TIME/' >>images
    for image in restored/a.qcow2 restored/b.qcow2 restored-copy/a.qcow2; do
        echo "$image $(qemu-img convert -U -O raw $image .out 2>/dev/null && sha256sum <.out)" >>images; rm -f .out
    done
}

begin disk "$program" --sim-pace disk:bytes=6M,requests=20000
disks
end
begin seeded "$program" --sim-seed "${SEED:-1}" --sim-record "$dir/../seeded/run.yaml" --sim-check
disks
end
step replay "$program" run --check first.yaml --quiet
step replay-after-restart "$program" run --check run.yaml --quiet
steps=$(sed -n '/^steps:/,$p' first.yaml | grep -c '^  - ')
# An older one is asked less.
[ "$version" ] || step replay-of-a-thousand-steps [ "$steps" -ge 1000 ]
echo "replayed: a recording of $steps steps"
if [ "$real" ]; then
    begin real "$real"
    disks
    end
    sed -i '/^== backup-abort/,/^== destroy-again/{/^== destroy-again/!d}' "$top/disk/conversation"
    same disk real
else
    echo "skipped: the comparison (no qemu-system-x86_64)"
fi
if command -v virtnbdbackup >/dev/null; then
    begin fetch-disk "$program" --sim-pace disk:bytes=6M,requests=20000
    fetched
    end
    if [ "$real" ]; then
        begin fetch-real "$real"
        fetched
        end
        # Its scratch files have random names.
        sed -i 's/backup\.[A-Z0-9]\{5\}\.vd/backup.NAME.vd/g' "$top"/fetch-*/conversation
        same fetch-disk fetch-real
    fi
else
    echo "skipped: virtnbdbackup (it is not installed)"
fi
for group in $all; do
    case " $groups " in
        *" $group "*) case " $broken " in *" $group "*) echo "$group  FAILED";; *) echo "$group  ok";; esac;;
        *) echo "$group  skipped: nothing of it was tried";;
    esac
done
echo "$done steps, $failed failed"
[ $failed = 0 ]
