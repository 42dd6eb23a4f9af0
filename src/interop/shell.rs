//! A program as a shell script that needs nothing of ours: `qemu-img`, `qemu-io`, lines of QMP and a QEMU.
//!
//! It is what stands beside a crash or a hang that `conform` found: QEMU is started with a pair of pipes for its monitor, the commands
//! are sent one after the other, each behind the reply to the one before, and in the end the script says how QEMU ended.

use super::carry::ClientPace;
use super::carry::ONE_PROCESS;
use super::export::{RAW_BYTES, Tool, tools};
use super::quote::{file_name, grep, shell as word};
use crate::base::Json;
use crate::scenario::plan::{EventPattern, FileOp, Plan, StepKind};
use crate::trace::canonical;

/// How often a program is tried whose end hangs on the moment.
const TRIES: u32 = 50;

/// The part of the script that is always the same.
const DRIVER: &str = r#"
pid=
clean() { # whatever ends this, QEMU and its directory go
    trap '' HUP INT TERM
    { kill -9 $(jobs -p); wait; } 2>/dev/null
    cd / && rm -rf "$dir"
}
count() { grep -c -e "$1" out 2>/dev/null || true; }
over() { # QEMU is gone, or does not answer
    if kill -0 "$pid" 2>/dev/null && [ "$1" = hangs ]; then
        echo "QEMU hangs: no $2 within 10 s"; exit 1
    fi
    wait "$pid"; code=$?; pid=
    if [ "$code" -gt 128 ]; then
        echo "QEMU ended by signal $((code - 128)) in try $try"; cat err; exit 1
    fi
}
await() { # PATTERN COUNT WHAT
    turns=0
    until [ "$(count "$1")" -ge "$2" ]; do
        kill -0 "$pid" 2>/dev/null || { over ended; return 1; }
        turns=$((turns + 1)); [ "$turns" -lt 1000 ] || over hangs "$3"
        sleep 0.01
    done
}
replies=1
send() {
    printf '> %s\n' "$1"
    printf '%s\n' "$1" >&3
    replies=$((replies + 1))
    await '^{"\(return\|error\)"' "$replies" "reply"
}
start() {
    rm -f qmp.in qmp.out out; mkfifo qmp.in qmp.out
    "$QEMU" -accel tcg -S -nodefaults -display none -chardev pipe,id=qmp,path=qmp -mon chardev=qmp,mode=control "$@" >console 2>err 3>&- &
    pid=$!
    exec 3<>qmp.in
    cat qmp.out >out 3>&- &
    replies=0
    send '{"execute": "qmp_capabilities"}'
}
"#;

fn line(words: &[String]) -> String {
    words.iter().map(|w| word(w)).collect::<Vec<_>>().join(" ") + "\n"
}

/// What is done to a file from outside.
fn file(op: &FileOp) -> String {
    match tools(op) {
        Tool::Run(words) if words[0] == "qemu-io" => format!("{} >/dev/null\n", line(&words).trim_end()),
        Tool::Run(words) => within(op) + &line(&words),
        Tool::Text { file, content } => {
            format!("{}printf '%s' {} >{}\n", within(op), word(content), word(&file_name(file)))
        }
        Tool::Content { file, size, data } => {
            let named = word(&file_name(file));
            let mut out = within(op) + &format!("rm -f {named}; truncate -s {size} {named}\n");
            for extent in data {
                let octal: String = extent.bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
                let source = match extent.bytes.len() {
                    1 => format!("head -c {} /dev/zero | tr '\\000' '{octal}'", extent.times),
                    _ => format!("printf '{octal}'"),
                };
                let to = format!("dd of={named} seek={} oflag=seek_bytes conv=notrunc status=none", extent.at);
                out.push_str(&format!("{source} | {to}\n"));
            }
            out
        }
    }
}

/// The directory that a new file is in.
fn within(op: &FileOp) -> String {
    let (FileOp::Create { file, .. } | FileOp::Content { file, .. } | FileOp::Text { file, .. }) = op else {
        return String::new();
    };
    file.rsplit_once('/').map_or_else(String::new, |(dir, _)| format!("mkdir -p {}\n", word(&file_name(dir))))
}

/// A regular expression for the line of an event: its name, the job's, and the status.
fn event(pattern: &EventPattern) -> String {
    let whole = pattern.data.as_ref().map(|data| data.get("exact").unwrap_or(data));
    let member = |key: &str| {
        let text = whole?.get(key)?.as_str()?;
        Some(format!(r#".*"{key}": {}"#, grep(&canonical::to_string(&Json::str(text)))))
    };
    let told = ["device", "id"].iter().find_map(|key| member(key));
    let told = match (told, member("status")) {
        // QEMU puts a job's status before its name.
        (Some(name), Some(status)) => Some(status + &name),
        (name, status) => name.or(status),
    };
    let name = grep(&canonical::to_string(&Json::str(&pattern.name)));
    format!(r#""event": {name}{}"#, told.unwrap_or_default())
}

/// The script. `end` says what was seen of QEMU, for the head of it.
#[must_use]
pub fn script(plan: &Plan, pace: ClientPace, end: &str) -> String {
    let mut out = String::from("#!/bin/bash\n");
    // What people read is a literal too: `:` does nothing with it.
    for text in std::iter::once(&*plan.about).chain(end.lines()) {
        out.push_str(&format!(": {}\n", word(text)));
    }
    out.push_str("# It needs qemu-img, qemu-io and a QEMU: bash FILE [QEMU]. Exit code 1: QEMU was ended by a signal, or hangs.\n");
    out.push_str("QEMU=${1:-qemu-system-x86_64}\ncase $QEMU in */*) QEMU=$(realpath -- \"$QEMU\");; esac\n");
    out.push_str(DRIVER);
    let tries = if pace == ClientPace::Calm { 1 } else { TRIES };
    out.push_str(&format!(
        "\ntrap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM; trap clean EXIT\ndir=$(mktemp -d) || exit 2\n\
         for try in $(seq {tries}); do\nrm -rf \"$dir/run\"; mkdir \"$dir/run\"; cd \"$dir/run\" || exit 2\n"
    ));
    for planned in &plan.files {
        out.push_str(&file(&planned.op));
    }
    let args: Vec<String> = plan.args.iter().map(|arg| word(arg)).collect();
    out.push_str(&format!("start {} || continue\n", args.join(" \\\n    ")));
    let mut gaps = match pace {
        ClientPace::Calm => None,
        ClientPace::Racing { seed, gap } => Some(super::carry::Gaps::new(seed, gap)),
    };
    let mut awaited: Vec<String> = Vec::new();
    for step in plan.steps.iter() {
        out.push_str(&one(&step.kind, &mut gaps, &mut awaited));
    }
    out.push_str("sleep 0.5\nif kill -0 \"$pid\" 2>/dev/null; then kill \"$pid\"; wait \"$pid\"; pid=; else over ended; fi\ndone\necho \"QEMU ended well\"\n");
    out
}

fn one(kind: &StepKind, gaps: &mut Option<super::carry::Gaps>, awaited: &mut Vec<String>) -> String {
    let mut send = |command: &Json| {
        let pause = match gaps {
            None => "sleep 0.2\n".to_owned(),
            Some(gaps) => match gaps.next() {
                0 => String::new(),
                micros => format!("sleep 0.{micros:06}\n"),
            },
        };
        format!("{pause}send {} || continue\n", word(&canonical::to_string(command)))
    };
    match kind {
        StepKind::Qmp { command, .. } => send(command),
        StepKind::Hmp { line, .. } => send(&super::carry::hmp(line)),
        StepKind::Event(pattern) => {
            let regex = event(pattern);
            let nth = awaited.iter().filter(|known| **known == regex).count() + 1;
            let text = format!("await {} {nth} event || continue\n", word(&regex));
            awaited.push(regex);
            text
        }
        StepKind::Sleep(span) => {
            format!("sleep {}.{:09}\n", span.as_nanos() / 1_000_000_000, span.as_nanos() % 1_000_000_000)
        }
        StepKind::Send { .. } => format!("echo '{RAW_BYTES}' >&2; exit 1\n"),
        StepKind::File(op) => file(op),
        StepKind::Process(_) => format!("echo '{ONE_PROCESS}' >&2; exit 1\n"),
        StepKind::Mark(_) | StepKind::Nbd(_) | StepKind::At { .. } | StepKind::Same(_) => String::new(),
        StepKind::Idle | StepKind::NoJobs | StepKind::NoEvents { .. } | StepKind::Bitmap(_) => "sleep 0.3\n".to_owned(),
    }
}
