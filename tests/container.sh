#!/bin/bash
# Carries out examples/libvirt/Containerfile word for word in a Debian root made by mmdebstrap: tests/container.sh PROGRAM
#
# The program must run there (be built on this Debian or an older one). Needs root, mmdebstrap and a Debian mirror; says so and is skipped without.
set -eu
program=$(readlink -f "$1")
cd "$(dirname "$0")/../examples/libvirt"
for tool in mmdebstrap unshare; do command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 0; }; done
[ "$(id -u)" = 0 ] || { echo "skipped: only root may enter another root"; exit 0; }
work=$(mktemp -d); root=$work/root
trap 'rm -rf "$work"' EXIT
suite=$(sed -n 's/^FROM debian:\(.*\)/\1/p' Containerfile)
echo "== FROM debian:$suite"
mmdebstrap --quiet --variant=minbase --include=ca-certificates "$suite" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
for cert in /usr/local/share/ca-certificates/*.crt; do
    [ ! -f "$cert" ] || cp "$cert" "$root/usr/local/share/ca-certificates/"
done
export root program
unshare --mount --pid --fork --propagation private bash -eu -c '
    mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; mount --rbind /sys "$root/sys"; mount -t tmpfs tmpfs "$root/run"
    enter() { chroot "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -ec "$1" </dev/null; }
    enter update-ca-certificates >/dev/null 2>&1 || true
    at=/
    while read -r word rest; do
        case $word in
        RUN) echo "== RUN $rest"; enter "$rest" >"$root/root/run.log" 2>&1 || { tail -20 "$root/root/run.log"; exit 1; } ;;
        COPY)
            echo "== COPY $rest"; to=${rest##* }
            for file in ${rest% *}; do
                [ "$file" = blockjob-sim ] && from=$program || from=$file
                mkdir -p "$root$to"; cp "$from" "$root$to$file"; chmod +x "$root$to$file"
            done ;;
        USER) user=$rest ;;
        WORKDIR) at=$rest ;;
        CMD) echo "== CMD $rest"; enter "cd $at && exec setpriv --reuid=$user --regid=$user --clear-groups env HOME=$at $rest" ;;
        esac
    done <Containerfile'
