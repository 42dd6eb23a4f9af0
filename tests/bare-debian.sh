#!/usr/bin/env bash
# Follows README.md and docs word for word on a machine that has nothing: a bare Debian root, made by mmdebstrap, with only the packages that
# README names. Each command of a `console` block is run there, and what it prints is compared with what the document shows; commands of `sh`
# blocks that need nothing else have to end well, and the others are listed with what they need. Prints a line for each command; exit code 1
# if one of them differs or fails. README's `cargo test --release` takes longest by far, and comes last.
#
#   tests/bare-debian.sh [--root DIR] [--target DIR] [--quick]
#
#   --root DIR    the Debian root, made there unless it exists; without, one that is removed afterwards
#   --target DIR  a directory that takes cargo's output, so that a second run does not build anew
#   --quick       builds without optimisation, and leaves out README's `cargo test --release`
#
# Needs root, mmdebstrap, python3, git, a Rust toolchain, and a Debian mirror. Two things are not as a stranger would have them: the
# toolchain of this machine is mounted in place of rustup's, and the clone is made from this repository as it is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

root= target= quick= suite=bookworm
while [ $# -gt 0 ]; do
    case $1 in
    --root) root=$2; shift 2 ;;
    --target) target=$2; shift 2 ;;
    --quick) quick=1; shift ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
for tool in mmdebstrap python3 git rustc unshare; do
    command -v "$tool" >/dev/null || { echo "skipped: there is no $tool" >&2; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: only root may enter another root" >&2; exit 0; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=${root:-$work/root}
target=${target:-$work/target}
# What README names, from its install line.
packages=$(sed -n "s/^cargo install.*(rustup), *\([^;]*\).*/\1/p" README.md | tr -d ,)
[ -n "$packages" ] || { echo "README.md names no packages behind \`cargo install\`" >&2; exit 1; }
if [ ! -e "$root/etc/debian_version" ]; then
    echo "== a bare Debian $suite in $root"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates "$suite" "$root"
fi
mkdir -p "$root/opt/rust" "$root/root/.cargo/registry" "$root/root/clone" "$target"
cp /etc/resolv.conf "$root/etc/resolv.conf"
rm -rf "$root/root/clone" && git clone -q . "$root/root/clone" && mkdir -p "$root/root/clone/target" "$root/root/clone/out"

# From here on in a namespace of mounts of its own: they go when the script ends.
export root target quick packages sysroot registry
sysroot=$(rustc --print sysroot)
registry=${CARGO_HOME:-$HOME/.cargo}/registry
unshare --mount --propagation private bash -euo pipefail -c '
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$sysroot" "$root/opt/rust"
    mount --bind "$target" "$root/root/clone/target"
    [ ! -d "$registry" ] || mount --bind "$registry" "$root/root/.cargo/registry"
    echo "== apt-get install $packages"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c "apt-get -qq update && apt-get -qq install --no-install-recommends -y $packages" </dev/null >"$root/root/apt.log" 2>&1 ||
        { cat "$root/root/apt.log"; exit 1; }
    # A network that looks into connections has an authority of its own, which this machine knows.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    python3 - "$root"
' <<'PYTHON'
import os, re, subprocess, sys, time

root = sys.argv[1]
clone = root + "/root/clone"
environment = {"PATH": "/root/.cargo/bin:/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
if os.environ.get("quick"):
    environment.update(CARGO_PROFILE_RELEASE_OPT_LEVEL="0", CARGO_PROFILE_RELEASE_DEBUG="0", CARGO_PROFILE_RELEASE_INCREMENTAL="false")


def blocks(path):
    """Language, name of the file that it is, and lines of each block."""
    opened = name = None
    for line in open(path, encoding="utf-8").read().splitlines():
        if line.startswith("```"):
            if opened is None:
                opened, lines = line[3:], []
            else:
                yield opened, name, lines
                opened = name = None
        elif opened is not None:
            lines.append(line)
        elif match := re.fullmatch(r"<!-- file: (.*) -->", line):
            name = match[1]


def differs(expected, got):
    """Why the lines are not those shown; `…` stands for what is left out, as in tests/documents.rs."""
    at, anywhere = 0, False
    for wanted in expected:
        if wanted.strip() == "…":
            anywhere = True
            continue
        fits = (lambda line: line.rstrip().startswith(wanted[:-1].rstrip())) if wanted.endswith("…") else (lambda line: line.rstrip() == wanted.rstrip())
        found = [i for i in range(at, len(got) if anywhere else min(at + 1, len(got))) if fits(got[i])]
        if not found:
            return f"expected `{wanted}`, got `{got[at] if at < len(got) else 'the end'}`"
        at, anywhere = found[0] + 1, False
    return None if anywhere or at == len(got) else f"expected the end, got `{got[at]}`"


def steps(language, lines):
    """Commands of a block, each with the lines that it is said to print, or `None` where the document does not say."""
    found = []
    for line in lines:
        if language == "console" and line.startswith("$ "):
            found.append([line[2:], []])
        elif language == "sh" and not (found and found[-1][0].endswith("\\")):
            found.append([line, None])
        elif found and found[-1][0].endswith("\\") and not found[-1][1]:
            found[-1][0] += "\n" + line
        elif language == "console":
            found[-1][1].append(line)
    return [(command, shown or None) for command, shown in found if command.strip()]


def left_out(document, command):
    """Why a command of a `sh` block is not run here."""
    if os.environ.get("quick") and command.startswith("cargo test"):
        return "takes long"
    if os.environ.get("quick") and "--seeds 0..1000" in command:
        return "takes long"
    if document == "README.md":
        return None
    if not command.startswith("blockjob-sim "):
        return "needs more than README names"
    verb = command.split()[1]
    if verb in ("record", "validate", "conform", "export"):
        return "needs a real QEMU"
    if re.search(r"\b(FILE|DIR|NAME|PROGRAM)\b", command):
        return "stands for many: a name has to be put in"
    if verb == "debug":
        return "needs a terminal"
    if verb == "museum" or (verb == "fuzz" and "--" not in command):
        return "takes long"
    return None


bad = 0
last = []


def carry_out(document, command, shown):
    """Runs a command in the root, in the clone, and says how it went."""
    global bad
    began = time.monotonic()
    done = subprocess.run(
        ["chroot", root, "sh", "-c", f"cd /root/clone && {{ {command}\n}} 2>&1"],
        env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    got = done.stdout.decode(errors="replace").splitlines()
    problem = None
    # A run that fails ends with 1, and some blocks show one.
    if done.returncode > (1 if shown or command.startswith("blockjob-sim") else 0):
        problem = f"ended with {done.returncode}"
    elif shown:
        problem = differs(shown, got)
    print(f"{'FAIL' if problem else 'ok':4}  {document}: {command.splitlines()[0]} ({time.monotonic() - began:.1f} s)", flush=True)
    if problem:
        bad += 1
        print(f"      {problem}\n" + "\n".join("      | " + line for line in got[-20:]), flush=True)
        if command.startswith("cargo install"):
            sys.exit("nothing else can be tried")


documents = ["README.md"] + sorted("docs/" + name for name in os.listdir(clone + "/docs") if name.endswith(".md"))
for document in documents:
    for language, name, lines in blocks(f"{clone}/{document}"):
        if name:
            with open(f"{clone}/{name}", "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        for command, shown in steps(language, lines) if language in ("sh", "console") else []:
            why = left_out(document, command) if language == "sh" else None
            if why:
                print(f"-     {document}: {command.splitlines()[0]} ({why})")
            elif command.startswith("cargo test"):
                last.append((document, command, shown))
            else:
                carry_out(document, command, shown)
for document, command, shown in last:
    carry_out(document, command, shown)
print(f"{bad} commands differ from what is written" if bad else "all as it is written")
sys.exit(bad > 0)
PYTHON
