//! Making a program that differs smaller, on both sides.

use super::super::Trouble;
use super::super::carry::{Carried, Pace};
use super::compare::Differs;
use super::{Bench, Judged, Verdict};
use crate::scenario::plan::Plan;

/// Runs that shrinking may cost.
const RUNS: u32 = 120;

/// Takes away steps, files and arguments while the program still differs in the same thing.
///
/// # Errors
/// If QEMU cannot be run.
pub fn shrink(
    bench: &Bench,
    plan: Plan,
    differences: Vec<Differs>,
    real: Carried,
    pace: Pace,
) -> Result<Judged, Trouble> {
    let what = differences.first().map(|differs| differs.what.clone()).unwrap_or_default();
    let mut best = (plan, differences, real);
    let mut runs = 0;
    for part in [Part::Steps, Part::Args, Part::Files, Part::Steps] {
        let mut size = part.len(&best.0).div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < part.len(&best.0) && runs < RUNS {
                let smaller = part.without(&best.0, at, size);
                runs += 1;
                // A program that cannot be started any more is no smaller one.
                match bench.one(&smaller, pace) {
                    Ok(Judged { verdict: Verdict::Differs { plan, differences }, real })
                        if differences.first().is_some_and(|differs| differs.what == what) =>
                    {
                        best = (plan, differences, real);
                    }
                    Ok(_) | Err(_) => at += size,
                }
            }
            size /= 2;
        }
    }
    let (plan, differences, real) = best;
    Ok(Judged { verdict: Verdict::Differs { plan, differences }, real })
}

#[derive(Clone, Copy)]
enum Part {
    Steps,
    Args,
    Files,
}

impl Part {
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
