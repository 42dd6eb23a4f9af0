#!/bin/sh
# libvirt drives the simulator, unmodified: tests/libvirt.sh PROGRAM [DIR]
#
# A libvirtd of its own (a session's, with its own directories) starts a domain with two disks whose emulator is PROGRAM, and takes it
# through what backup software asks of libvirt. It ends by itself and prints what failed. Where libvirt or qemu-img is missing it says so
# and is skipped. With KEEP=1 the directory stays: domain.log is libvirtd's log, with all of QMP in it.
set -u
program=$(readlink -f "$1")
dir=${2:-$(mktemp -d)}
for tool in libvirtd virsh qemu-img setpriv; do
    command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 0; }
done
mkdir -p "$dir/run" "$dir/config/libvirt" "$dir/cache" "$dir/data" "$dir/bin"
cp "$program" "$dir/bin/qemu-system-x86_64"
cd "$dir" || exit 1
qemu-img create -q -f qcow2 a.qcow2 64M
qemu-img create -q -f qcow2 b.qcow2 32M
printf 'security_driver = "none"\nnamespaces = []\nstdio_handler = "file"\n' >config/libvirt/qemu.conf
# As root, a session's daemon is started as nobody: root's would be the system's.
as=""
if [ "$(id -u)" = 0 ]; then
    chown -R 65534 "$dir"; chmod 755 "$dir"
    as="setpriv --reuid=65534 --regid=65534 --clear-groups"
fi
export HOME="$dir" XDG_RUNTIME_DIR="$dir/run" XDG_CONFIG_HOME="$dir/config" XDG_CACHE_HOME="$dir/cache" XDG_DATA_HOME="$dir/data"
export LIBVIRT_LOG_FILTERS="${FILTERS:-1:qemu_monitor}" LIBVIRT_LOG_OUTPUTS="1:file:$dir/domain.log" LIBVIRT_AUTOSTART=0
$as libvirtd --timeout 120 >libvirtd.out 2>&1 &
daemon=$!
v() { timeout 60 $as virsh -q -c qemu:///session "$@"; }
clean() {
    v destroy guest >/dev/null 2>&1
    kill $daemon 2>/dev/null
    wait $daemon 2>/dev/null
    [ "${KEEP:-}" ] && echo "kept: $dir" || rm -rf "$dir"
}
trap clean EXIT
for _ in $(seq 100); do v version >/dev/null 2>&1 && break; sleep 0.1; done

failed=0 done=0
# step NAME COMMAND...: what libvirt is asked for has to succeed.
step() {
    name=$1; shift
    done=$((done + 1))
    if "$@" >out 2>&1; then echo "ok      $name"; else failed=$((failed + 1)); echo "FAILED  $name: $(tr '\n' ' ' <out | cut -c1-300)"; fi
}
has() { grep -q "$1" out || { echo "FAILED  $name: no $1 in $(tr '\n' ' ' <out | cut -c1-300)"; failed=$((failed + 1)); }; }

cat >guest.xml <<X
<domain type='qemu'>
  <name>guest</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='${MACHINE:-pc}'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>$dir/bin/qemu-system-x86_64</emulator>
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
</domain>
X
backup() { # NAME CHECKPOINT INCREMENTAL
    { echo "<domainbackup>"; [ "$3" ] && echo "<incremental>$3</incremental>"
      echo "<disks><disk name='vda' type='file'><target file='$dir/$1.a'/><driver type='qcow2'/></disk>"
      echo "<disk name='vdb' type='file'><target file='$dir/$1.b'/><driver type='qcow2'/></disk></disks></domainbackup>"; } >backup.xml
    echo "<domaincheckpoint><name>$2</name></domaincheckpoint>" >checkpoint.xml
    v backup-begin guest backup.xml checkpoint.xml || return 1
    for _ in $(seq 100); do v domjobinfo guest | grep -q 'Job type: *None' && break; sleep 0.1; done
    v domjobinfo guest --completed
}
write() { v qemu-monitor-command guest --hmp "qemu-io -d $1/virtio-backend \"write -P $2 $3\""; }

step capabilities v domcapabilities --virttype qemu --emulatorbin "$dir/bin/qemu-system-x86_64" --machine pc
step define v define guest.xml
step start v start guest --paused
step resume v resume guest
step domstate v domstate guest; has running
step domblkinfo v domblkinfo guest vda; has 67108864
step domblkstat v domblkstat guest vda
step domstats v domstats guest
step vcpucount v vcpucount guest
step dommemstat v dommemstat guest
step ttyconsole v ttyconsole guest; has /dev/pts
step blkiotune v blkdeviotune guest vda --total-bytes-sec 10000000
step blkiotune-get v blkdeviotune guest vda; has 10000000
step blkiotune-off v blkdeviotune guest vda --total-bytes-sec 0
step write write /machine/peripheral/virtio-disk0 7 "1M 128k"
step backup-full backup full c1 ""; has 'Completed'
step write-more write /machine/peripheral/virtio-disk0 9 "2M 64k"
step backup-incremental backup inc c2 c1; has 'Completed'
step checkpoint-list v checkpoint-list guest; has c2
step checkpoint-size v checkpoint-dumpxml guest c1 --size; has size
step checkpoint-delete v checkpoint-delete guest c1
step checkpoint-delete-2 v checkpoint-delete guest c2
step snapshot v snapshot-create-as guest s1 --disk-only --diskspec vda,file="$dir/s1.qcow2" --diskspec vdb,snapshot=no
step domblklist v domblklist guest; has s1.qcow2
step blockresize v blockresize guest vdb 48M
step domblkinfo-resized v domblkinfo guest vdb; has 50331648
$as qemu-img create -q -f qcow2 c.qcow2 16M
step attach-disk v attach-disk guest "$dir/c.qcow2" sda --targetbus scsi --subdriver qcow2
step domblklist-attached v domblklist guest; has c.qcow2
step detach-disk v detach-disk guest sda
step change-media v change-media guest hdc "$dir/c.qcow2" --insert --force
step eject-media v change-media guest hdc --eject --force
step setmem v setmem guest 32M --live
step suspend v suspend guest
step reset v reset guest
step resume-again v resume guest
step shutdown v shutdown guest
step destroy v destroy guest
step restore qemu-img rebase -u -b full.a -F qcow2 inc.a
step restored qemu-img compare inc.a a.qcow2
echo "$done steps, $failed failed"
[ $failed = 0 ]
