//! `conform`: random programs on a real QEMU and on the model, and what differs.
//!
//! A program is carried out on both. Where the traces differ, [`validate`](crate::validate) looks for a schedule in which the model
//! gives the real one; if there is one, its outputs and images are compared instead of the calm run's. What then still differs is
//! shrunk, on both, and told. QEMU is the measure: what differs is the model's fault, unless QEMU breaks one of its own [`contract`]s.
#![expect(clippy::disallowed_methods, reason = "the shell makes directories and catches panics")]

pub mod allowed;
mod commands;
pub mod compare;
pub mod contract;
mod drives;
pub mod found;
pub mod model;
pub mod program;
mod reports;
pub mod shrink;
mod small_jobs;
mod targets;

use super::carry::{Carried, ClientPace, carry};
use super::qemu::{Ending, Qemu, Started, printed};
use super::scratch::Guard;
use super::{Trouble, trouble};
use crate::base::{counted, part_of};
use crate::choice::{Calm, ChoiceLog, Chooser, Replay, ReplayMode};
use crate::invariant::{Broken, Invariant};
use crate::scenario::plan::{Plan, StepKind};
use crate::sim;
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::canonical;
use crate::trace::compare::{ClientLine, first_difference};
use crate::validate::target::Target;
use crate::validate::{self, Answer, Effort};
use compare::Differs;
use model::Modelled;
use program::ProgramKind;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What came of a program.
#[derive(Debug)]
pub enum Verdict {
    /// Both runs are the same, the model's in its calm schedule.
    Agrees,
    /// They are the same in the schedule that `validate` found.
    AgreesInTime(ChoiceLog),
    /// They differ as the list of [`allowed`] differences says.
    Allowed(&'static str),
    /// They differ.
    Differs {
        /// What was carried out, to be saved and made small.
        plan: Plan,
        /// In what.
        differences: Vec<Differs>,
    },
}

/// A program that is carried out on both.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is called.
    pub name: String,
    /// Where it came from, if it was drawn.
    pub seed: Option<u64>,
    /// Its images, arguments and steps.
    pub plan: Plan,
    /// When its client sends.
    pub pace: ClientPace,
}

/// How many schedules are tried where images differ and the trace does not.
const OTHER_SCHEDULES: u64 = 40;

/// What came of a program, and QEMU's side of it.
#[derive(Debug)]
pub struct Judged {
    /// What came of it.
    pub verdict: Verdict,
    /// What QEMU did.
    pub real: Carried,
    /// The contract that QEMU broke, whether the model foresaw it or not.
    pub broken: Option<Broken>,
}

/// The two programs that are compared, and where they do it.
#[derive(Debug)]
pub struct Bench {
    /// QEMU's command line.
    pub command: Vec<String>,
    /// For images; what stands there is removed.
    pub dir: PathBuf,
    /// How long `validate` may look.
    pub effort: Effort,
    /// Under what QEMU runs.
    pub guard: Guard,
}

/// Removes a directory with all that is in it.
pub fn clear(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
}

/// Makes a directory anew.
///
/// # Errors
/// What the host says.
pub fn fresh(dir: &Path) -> Result<(), Trouble> {
    clear(dir);
    fs::create_dir_all(dir).map_err(|error| trouble(&dir.display().to_string(), &error))
}

impl Bench {
    /// Whether QEMU starts at all, without a program: where it does not, nothing can be said of the model.
    ///
    /// # Errors
    /// What it says instead.
    pub fn starts(&self) -> Result<(), Trouble> {
        let dir = self.dir.join("qemu");
        fresh(&dir)?;
        match Qemu::start(&self.command, &dir, &[], &self.guard)? {
            Started::Runs(_) => Ok(()),
            Started::Not(_) => {
                let (_, stderr) = printed(&dir);
                Err(Trouble(format!("QEMU does not start: {}", stderr.trim())))
            }
        }
    }

    /// Runs the program on both.
    ///
    /// # Errors
    /// If QEMU cannot be run.
    pub fn one(&self, plan: &Plan, pace: ClientPace) -> Result<Judged, Trouble> {
        let (real_dir, our_dir) = (self.dir.join("qemu"), self.dir.join("model"));
        fresh(&real_dir)?;
        fresh(&our_dir)?;
        let real = carry(&self.command, plan, &real_dir, pace, &self.guard)?;
        keep(&self.dir, "qemu.jsonl", &real.lines);
        let verdict = self.compared(plan, &real, &real_dir, &our_dir)?;
        let broken = match (contract::broken(&real), &verdict) {
            // A racing client does not know what was in flight when the backup began.
            (None, Verdict::Differs { .. }) if pace == ClientPace::Calm => {
                self.wrong_target(plan, &real, &real_dir, &our_dir)?
            }
            (broken, _) => broken,
        };
        Ok(Judged { verdict, real, broken })
    }

    /// Where no images differ but targets of backups that succeeded, and the model's calm run, which until they had begun was as QEMU's,
    /// breaks no invariant: what QEMU wrote there is not what it backed up.
    fn wrong_target(
        &self,
        plan: &Plan,
        real: &Carried,
        real_dir: &Path,
        our_dir: &Path,
    ) -> Result<Option<Broken>, Trouble> {
        let options = RunOptions { check: true, ..RunOptions::default() };
        let holds = || sim::run(plan, Chooser::Calm, &options).outcome == Outcome::Passed;
        let Ok((true, model)) = caught(|| (holds(), model::run(plan, &mut Calm))) else { return Ok(None) };
        if compare::ending(real, &model).is_some() {
            return Ok(None);
        }
        let alike = first_difference(&real.lines, &model.lines).map_or(real.lines.len(), |difference| difference.index);
        let written = targets::written(plan, &real.lines, alike);
        fresh(our_dir)?;
        let differences = compare::images(real, real_dir, &model, our_dir)?;
        let mut contents = differences.iter().filter_map(|d| Some((d.what.strip_prefix("content of ")?, &d.how)));
        let Some((file, how)) = contents.next() else { return Ok(None) };
        let targets = written.contains_key(file) && contents.all(|(file, _)| written.contains_key(file));
        let reason = || format!("it succeeded, and its target {file} does not have what it copied: {how}");
        Ok(targets.then(|| Broken::new(Invariant::BackupContent, format!("job {}", written[file]), reason())))
    }

    fn compared(&self, plan: &Plan, real: &Carried, real_dir: &Path, our_dir: &Path) -> Result<Verdict, Trouble> {
        let differs = |differences| Verdict::Differs { plan: plan.clone(), differences };
        if let Some(name) = allowed::crash(real).or_else(|| allowed::hang(real)) {
            return Ok(Verdict::Allowed(name));
        }
        let calm = caught(|| model::run(plan, &mut Calm));
        // Where the model's process dies in its calm schedule, it may live in another.
        let dies = |crash: &Differs| Broken::from_panic(&crash.how).is_some();
        let mut differences = match calm {
            Ok(model) => {
                keep(&self.dir, "model.jsonl", &model.lines);
                let differences = first_look(real, &model);
                if differences.is_empty() {
                    let differences = compare::images(real, real_dir, &model, our_dir)?;
                    return Ok(match differences.is_empty() {
                        true => Verdict::Agrees,
                        false => self.in_other_schedules(plan, real, real_dir, our_dir, differences)?,
                    });
                }
                differences
            }
            Err(crash) if dies(&crash) => vec![crash],
            Err(crash) => return Ok(differs(vec![crash])),
        };
        let timed = match caught(|| self.in_time(plan, real, 0)) {
            Ok(timed) => timed,
            Err(crash) => return Ok(differs(vec![crash])),
        };
        match timed {
            // Here as there the process sleeps on; only that the client gives QEMU up.
            Timed::Fits(log, model)
                if (real.ending == Some(Ending::Hung) || real.sleeps) && model.outcome == Outcome::Passed =>
            {
                Ok(Verdict::AgreesInTime(log))
            }
            Timed::Fits(log, model) => {
                let mut differences = first_look(real, &model);
                differences.extend(compare::images(real, real_dir, &model, our_dir)?);
                Ok(match differences.is_empty() {
                    true => Verdict::AgreesInTime(log),
                    false => self.in_other_schedules(plan, real, real_dir, our_dir, differences)?,
                })
            }
            Timed::Dies(broken) => Ok(Verdict::Allowed(allowed::foretold(&broken))),
            Timed::Freed => Ok(Verdict::Allowed(allowed::FREED)),
            Timed::Not(fits, refusal) => {
                if let Some(name) = allowed::freed(plan, &real.lines[..fits]) {
                    return Ok(Verdict::Allowed(name));
                }
                differences.push(refusal);
                Ok(self.judge(plan, differences))
            }
        }
    }

    /// Images can depend on an order that the trace does not show: other schedules that give the trace are tried.
    fn in_other_schedules(
        &self,
        plan: &Plan,
        real: &Carried,
        real_dir: &Path,
        our_dir: &Path,
        differences: Vec<Differs>,
    ) -> Result<Verdict, Trouble> {
        for seed in 1..=OTHER_SCHEDULES {
            let Ok(Timed::Fits(log, model)) = caught(|| self.in_time(plan, real, seed)) else { continue };
            if first_look(real, &model).is_empty() {
                fresh(our_dir)?;
                if compare::images(real, real_dir, &model, our_dir)?.is_empty() {
                    return Ok(Verdict::AgreesInTime(log));
                }
            }
        }
        Ok(self.judge(plan, differences))
    }

    fn judge(&self, plan: &Plan, differences: Vec<Differs>) -> Verdict {
        match allowed::difference(plan, &differences) {
            Some(name) => Verdict::Allowed(name),
            None => Verdict::Differs { plan: plan.clone(), differences },
        }
    }

    /// A schedule that gives the real trace, and what the model left then; or how many of its lines fit, and what came instead.
    fn in_time(&self, plan: &Plan, real: &Carried, seed: u64) -> Timed {
        let killed = match &real.ending {
            Some(Ending::Killed(signal)) => Some(signal.clone()),
            _ => None,
        };
        let target = Target {
            // What a process that is killed has in its buffers for a file is lost.
            console: killed.is_none().then(|| validate::target::timeless(&real.stdout)),
            hangs: matches!(real.ending, Some(Ending::Hung)),
            killed,
            ..Target::new(&real.lines)
        };
        let effort = Effort { seed, ..self.effort };
        let bare = validate::bare(plan, &real.lines);
        let mut answer = (validate::search(&bare, &target, &real.lines, None, effort), bare);
        if let Answer::Refused(_) = answer.0 {
            // On a busy machine the client may have taken QEMU for idle while it waited for the disk.
            let hurried = without_rests(&answer.1);
            let found = validate::search(&hurried, &target, &real.lines, None, effort);
            if found.is_found() {
                answer = (found, hurried);
            }
        }
        let (answer, bare) = answer;
        match answer {
            Answer::Possible(log) => {
                let mut replay = Chooser::Replay(Replay::new(Arc::new(log.clone()), ReplayMode::Lenient));
                let model = model::run(&bare, &mut replay);
                Timed::Fits(log, Box::new(model))
            }
            Answer::Dies(_, broken) => Timed::Dies(broken),
            Answer::Refused(refusal) if refusal.freed.is_some() => Timed::Freed,
            Answer::Refused(refusal) => {
                let came = refusal.came.as_ref().map_or("(the end)".to_owned(), ToString::to_string);
                let allowed: Vec<String> =
                    refusal.allowed.iter().map(|l| l.to_string().chars().take(300).collect()).collect();
                let reason = refusal.reason.map(|r| format!("\n({r})")).unwrap_or_default();
                let come: String = came.chars().take(300).collect();
                let how = format!(
                    "{} fit after {}; QEMU gave\n  {come}\nthe model could give\n  {}{reason}",
                    part_of(refusal.matched as u64, real.lines.len() as u64, "line"),
                    counted(u64::from(refusal.tries), "attempt"),
                    allowed.join("\n  ")
                );
                Timed::Not(refusal.matched, Differs { what: "order".to_owned(), how })
            }
        }
    }
}

/// What `validate` makes of a real trace.
enum Timed {
    /// A schedule gives it, and then the model leaves this.
    Fits(ChoiceLog, Box<Modelled>),
    /// It fits up to its end, where a signal ended QEMU, and the model says what of.
    Dies(Broken),
    /// It fits up to where the model uses freed memory, and no further.
    Freed,
    /// So many lines of it fit, and then comes something else.
    Not(usize, Differs),
}

/// The plan with a client that never waits for the process to come to rest.
fn without_rests(plan: &Plan) -> Plan {
    let steps = plan.steps.iter().filter(|step| !matches!(step.kind, StepKind::Idle)).cloned().collect();
    Plan { steps, ..plan.clone() }
}

/// Leaves a trace beside the images, for whoever looks.
fn keep(dir: &Path, name: &str, lines: &[ClientLine]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let _ = fs::write(dir.join(name), text);
}

fn first_look(real: &Carried, model: &Modelled) -> Vec<Differs> {
    let mut differences = Vec::new();
    differences.extend(compare::ending(real, model));
    differences.extend(compare::trace(real, model));
    differences.extend(compare::console(real, model));
    differences.extend(compare::answers(real, model));
    differences
}

/// What `run` gives, or the text of its panic as a difference.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Differs> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Differs { what: "crash of the model".to_owned(), how: text }
    })
}

/// The pace at which programs of a kind are carried out.
#[must_use]
pub fn pace(kind: ProgramKind, seed: u64) -> ClientPace {
    if kind == ProgramKind::Racing { ClientPace::Racing { seed, gap: 2_000 } } else { ClientPace::Calm }
}

/// A program as text, for people.
#[must_use]
pub fn told(plan: &Plan) -> String {
    let mut text = String::new();
    for file in &plan.files {
        text.push_str(&format!("    {:?}\n", file.op));
    }
    for arg in &plan.args {
        text.push_str(&format!("    {arg}\n"));
    }
    for step in plan.steps.iter() {
        match &step.kind {
            StepKind::Qmp { command, .. } => text.push_str(&format!("    {}\n", canonical::to_string(command))),
            other => text.push_str(&format!("    {other:?}\n")),
        }
    }
    text
}
