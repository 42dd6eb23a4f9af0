//! What was found, kept as files: the program as a failure file, what QEMU's client saw, and for a crash or a hang a script.
#![expect(clippy::disallowed_methods, reason = "the shell writes files")]

use super::super::carry::{Carried, ClientPace};
use super::super::qemu::Ending;
use super::super::{Trouble, shell, trouble};
use super::{Judged, Program, Verdict as Outcome};
use crate::base::{Json, sha256};
use crate::choice::ChoiceLog;
use crate::failure::{Failure, MODEL, TOOL, Verdict};
use crate::trace::canonical;
use crate::trace::compare::ClientLine;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many lines of the trace a failure file keeps.
const TAIL: usize = 30;

/// How QEMU failed, if it did: a signal ended it, or it hangs.
fn end(real: &Carried) -> Option<String> {
    match &real.ending {
        Some(Ending::Killed(signal)) => Some(format!("QEMU was ended by {signal}: {}", real.stderr.trim())),
        Some(Ending::Hung) => {
            let what = real.stuck.as_ref().map_or("it does not end".to_owned(), |(_, what)| what.clone());
            Some(format!("QEMU hangs: {what}"))
        }
        _ => None,
    }
}

/// Writes a program that differs, or in which QEMU breaks a contract, to `dir`. The files: `NAME.yaml`, a failure file that `replay` shows on the model;
/// `NAME.qemu.jsonl`, the trace for `validate`; and where QEMU crashed or hangs `NAME.sh`, which needs nothing of ours.
///
/// # Errors
/// What the host says.
pub fn keep(dir: &Path, program: &Program, judged: &Judged) -> Result<Vec<PathBuf>, Trouble> {
    fs::create_dir_all(dir).map_err(|error| trouble("a directory", &error))?;
    let (Program { name, seed, pace, .. }, Judged { real, broken, .. }) = (program, judged);
    let (plan, differences) = match &judged.verdict {
        Outcome::Differs { plan, differences } => (plan, &differences[..]),
        _ => (&program.plan, &[][..]),
    };
    let end = end(real);
    let mut reasons: Vec<String> = broken.iter().map(ToString::to_string).collect();
    reasons.extend(differences.iter().map(|differs| format!("{}: {}", differs.what, differs.how)));
    let lines: Vec<String> = real.lines.iter().map(ClientLine::to_string).collect();
    let outcome = match &real.ending {
        Some(Ending::Killed(_)) => "qemu-crash",
        Some(Ending::Hung) => "qemu-hang",
        _ if broken.is_some() => "qemu-breaks-a-contract",
        _ => "qemu-differs",
    };
    let failure = Failure {
        tool: TOOL.into(),
        model: MODEL,
        name: name.as_str().into(),
        plan: plan.clone().without_places(),
        strategy: if *pace == ClientPace::Calm { "conform".into() } else { "conform, racing".into() },
        seed: *seed,
        choices: Arc::new(ChoiceLog::default()),
        verdict: Verdict {
            outcome: outcome.into(),
            invariant: broken.as_ref().map(|broken| broken.invariant.name().into()),
            subject: broken.as_ref().map(|broken| broken.subject.as_str().into()),
            reason: reasons.join("\n").into(),
        },
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
    files.extend(end.map(|end| ("sh", shell::script(plan, *pace, &format!("QEMU {}: {end}", real.version)))));
    let mut paths = Vec::new();
    for (ending, text) in files {
        let path = dir.join(format!("{name}.{ending}"));
        fs::write(&path, text).map_err(|error| trouble(&path.display().to_string(), &error))?;
        paths.push(path);
    }
    Ok(paths)
}
