//! What was found, kept as files: the program as a failure file, what QEMU's client saw, and for a crash or a hang a script.
#![expect(clippy::disallowed_methods, reason = "the shell writes files")]

use super::super::carry::{Carried, Pace};
use super::super::qemu::Ending;
use super::super::{Trouble, shell, trouble};
use super::compare::Differs;
use crate::base::{Json, sha256};
use crate::choice::ChoiceLog;
use crate::failure::{Failure, MODEL, TOOL, Verdict};
use crate::scenario::plan::Plan;
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many lines of the trace a failure file keeps.
const TAIL: usize = 30;

/// How QEMU failed, if it did: a signal ended it, or it hangs.
#[must_use]
pub fn end(real: &Carried) -> Option<String> {
    match &real.ending {
        Some(Ending::Killed(signal)) => Some(format!("QEMU was ended by {signal}: {}", real.stderr.trim())),
        Some(Ending::Hung) => {
            let what = real.stuck.as_ref().map_or("it does not end".to_owned(), |(_, what)| what.clone());
            Some(format!("QEMU hangs: {what}"))
        }
        _ => None,
    }
}

/// Writes a program that differs, or that ends QEMU, to `dir`. The files: `NAME.yaml`, a failure file that `replay` shows on the model;
/// `NAME.qemu.jsonl`, the trace for `validate`; and where QEMU crashed or hangs `NAME.sh`, which needs nothing of ours.
///
/// # Errors
/// What the host says.
pub fn keep(
    dir: &Path,
    name: &str,
    seed: Option<u64>,
    plan: &Plan,
    real: &Carried,
    pace: Pace,
    differences: &[Differs],
) -> Result<Vec<PathBuf>, Trouble> {
    fs::create_dir_all(dir).map_err(|error| trouble("a directory", &error))?;
    let end = end(real);
    let mut reasons: Vec<String> = end.iter().cloned().collect();
    reasons.extend(differences.iter().map(|differs| format!("{}: {}", differs.what, differs.how)));
    let lines: Vec<String> = real.lines.iter().map(ClientLine::to_string).collect();
    let outcome = match &real.ending {
        Some(Ending::Killed(_)) => "qemu-crash",
        Some(Ending::Hung) => "qemu-hang",
        _ => "qemu-differs",
    };
    let failure = Failure {
        tool: TOOL.into(),
        model: MODEL,
        name: name.into(),
        plan: plan.clone().without_places(),
        strategy: if pace == Pace::Calm { "conform".into() } else { "conform, racing".into() },
        seed,
        choices: Arc::new(ChoiceLog::default()),
        verdict: Verdict { outcome: outcome.into(), invariant: None, subject: None, reason: reasons.join("\n").into() },
        digest: sha256::of_text(&lines.join("\n")).into(),
        tail: lines.iter().skip(lines.len().saturating_sub(TAIL)).map(|line| line.as_str().into()).collect(),
    };
    let header = Json::dict(vec![
        ("case", Json::str(name)),
        ("of", Json::uint(1)),
        ("qemu", Json::str(&real.version)),
        ("seen", Json::uint(1)),
    ]);
    let mut files = vec![
        ("yaml", failure.to_text()),
        ("qemu.jsonl", format!("{}\n{}\n", canonical::to_string(&header), lines.join("\n"))),
    ];
    files.extend(end.map(|end| ("sh", shell::script(plan, pace, &format!("QEMU {}: {end}", real.version)))));
    let mut paths = Vec::new();
    for (ending, text) in files {
        let path = dir.join(format!("{name}.{ending}"));
        fs::write(&path, text).map_err(|error| trouble(&path.display().to_string(), &error))?;
        paths.push(path);
    }
    Ok(paths)
}
