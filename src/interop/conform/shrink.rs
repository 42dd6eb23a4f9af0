//! Making a program that differs smaller, on both sides.

use super::super::carry::{Carried, Pace};
use super::compare::Differs;
use super::{Bench, Judged, Verdict};
use crate::scenario::plan::Plan;

/// Runs that shrinking may cost.
const RUNS: u32 = 120;

/// Takes away steps, files and arguments while the program still differs in the same thing.
pub fn shrink(bench: &Bench, plan: Plan, differences: Vec<Differs>, real: Carried, pace: Pace) -> Judged {
    let what = differences.first().map(|differs| differs.what.clone()).unwrap_or_default();
    let mut shrinking = Shrinking { bench, pace, what, runs: 0, best: (plan, differences, real) };
    // What one part no longer needs, another one can go without.
    let size = |s: &Shrinking<'_>| Part::ALL.map(|part| part.len(&s.best.0));
    loop {
        let before = size(&shrinking);
        for part in Part::ALL {
            shrinking.shrink(part);
        }
        if size(&shrinking) == before {
            break;
        }
    }
    let (plan, differences, real) = shrinking.best;
    Judged { verdict: Verdict::Differs { plan, differences }, real }
}

struct Shrinking<'a> {
    bench: &'a Bench,
    pace: Pace,
    /// In what the two differ.
    what: String,
    runs: u32,
    /// The smallest that does.
    best: (Plan, Vec<Differs>, Carried),
}

impl Shrinking<'_> {
    /// Takes away halves, quarters and so on, down to single things.
    fn shrink(&mut self, part: Part) {
        let mut size = part.len(&self.best.0).div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < part.len(&self.best.0) && self.runs < RUNS {
                if !self.goes(&part.without(&self.best.0, at, size)) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Whether a smaller program still differs in the same thing; then it is the best one.
    fn goes(&mut self, smaller: &Plan) -> bool {
        self.runs += 1;
        // A program that cannot be started any more is no smaller one.
        let Ok(Judged { verdict: Verdict::Differs { plan, differences }, real }) = self.bench.one(smaller, self.pace)
        else {
            return false;
        };
        let same = differences.first().is_some_and(|differs| differs.what == self.what);
        if same {
            self.best = (plan, differences, real);
        }
        same
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
