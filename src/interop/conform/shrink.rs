//! Making a program that differs smaller, on both sides.

use super::super::carry::ClientPace;
use super::{Bench, Judged, Verdict};
use crate::invariant::Invariant;
use crate::scenario::plan::Plan;

/// Runs that shrinking may cost.
const RUNS: u32 = 120;

/// Takes away steps, files and arguments while the program still differs in the same thing, and QEMU breaks the same contract, if it
/// breaks one. What does not differ stays as it is.
#[must_use]
pub fn shrink(bench: &Bench, judged: Judged, pace: ClientPace) -> Judged {
    let mut shrinking = Shrinking { bench, pace, kind: kind(&judged), runs: 0, best: judged };
    // What one part no longer needs, another one can go without.
    let size = |s: &Shrinking<'_>| s.plan().map(|plan| Part::ALL.map(|part| part.len(plan)));
    loop {
        let before = size(&shrinking);
        for part in Part::ALL {
            shrinking.shrink(part);
        }
        if size(&shrinking) == before {
            return shrinking.best;
        }
    }
}

/// In what the two differ first, and the contract that QEMU breaks.
type FirstDifference = Option<(String, Option<Invariant>)>;

fn kind(judged: &Judged) -> FirstDifference {
    let Verdict::Differs { differences, .. } = &judged.verdict else { return None };
    let invariant = judged.broken.as_ref().map(|broken| broken.invariant);
    differences.first().map(|differs| (differs.what.clone(), invariant))
}

struct Shrinking<'a> {
    bench: &'a Bench,
    pace: ClientPace,
    kind: FirstDifference,
    runs: u32,
    /// The smallest of that kind.
    best: Judged,
}

impl Shrinking<'_> {
    fn plan(&self) -> Option<&Plan> {
        match &self.best.verdict {
            Verdict::Differs { plan, .. } => Some(plan),
            _ => None,
        }
    }

    /// Takes away halves, quarters and so on, down to single things.
    fn shrink(&mut self, part: Part) {
        let mut size = self.plan().map_or(0, |plan| part.len(plan).div_ceil(2));
        while size > 0 {
            let mut at = 0;
            while let Some(plan) = self.plan().filter(|plan| at < part.len(plan) && self.runs < RUNS) {
                let smaller = part.without(plan, at, size);
                self.runs += 1;
                // A program that cannot be started any more is no smaller one.
                match self.bench.one(&smaller, self.pace) {
                    Ok(judged) if kind(&judged) == self.kind => self.best = judged,
                    _ => at += size,
                }
            }
            size /= 2;
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Steps,
    Args,
    Files,
}

impl Part {
    const ALL: [Self; 3] = [Self::Steps, Self::Args, Self::Files];

    fn len(self, plan: &Plan) -> usize {
        match self {
            Part::Steps => plan.steps.len(),
            // An option and its value go together.
            Part::Args => plan.args.len() / 2,
            Part::Files => plan.files.len(),
        }
    }

    fn without(self, plan: &Plan, at: usize, size: usize) -> Plan {
        let mut smaller = plan.clone();
        match self {
            Part::Steps => {
                let mut steps = plan.steps.to_vec();
                steps.drain(at..(at + size).min(steps.len()));
                smaller.steps = steps.into();
            }
            Part::Args => {
                let end = ((at + size) * 2).min(smaller.args.len());
                smaller.args.drain(at * 2..end);
            }
            Part::Files => {
                let end = (at + size).min(smaller.files.len());
                smaller.files.drain(at..end);
            }
        }
        smaller
    }
}
