//! Fewest deviations.

use super::{Candidate, Seen, Tester, sends};
use crate::choice::{Addressee, Deviation};

/// Kinds of deviations that are tried alone, the ones that are easiest to understand first.
const KINDS: [&[&str]; 5] = [
    &["client-send"],
    &["client-send", "client-read"],
    &["complete-next"],
    &["complete-next", "work-next"],
    &["client-send", "complete-next", "work-next"],
];

/// Runs that the search for a single early command may take.
const SWEEP: usize = 12;

/// Makes the schedule small; the scenario stays.
pub(super) fn minimise(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    take(candidate, seen, tester, Vec::new());
    for kinds in KINDS {
        let some: Vec<Deviation> =
            candidate.list.iter().filter(|p| is_mode(p) || kinds.contains(&p.point)).cloned().collect();
        if some.len() < candidate.list.len() && !some.is_empty() && take(candidate, seen, tester, some) {
            break;
        }
    }
    if candidate.list.len() > 1 {
        let needed = bisect(candidate, tester);
        take(candidate, seen, tester, needed);
    }
    leave_out(candidate, seen, tester);
    if candidate.list.len() > 1 {
        single(candidate, seen, tester);
    }
    simplify(candidate, seen, tester);
}

/// Takes a list if the candidate still fails with it. Deviations that were not carried out go without a run.
fn take(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester, list: Vec<Deviation>) -> bool {
    if list == candidate.list || tester.spent() {
        return false;
    }
    match tester.twice(&candidate.plan, &list) {
        Some(now) => {
            candidate.list.clone_from(&now.met);
            *seen = now;
            true
        }
        None => false,
    }
}

/// Finds, one after the other from the last, the deviations that are needed: each by halving what stands before it.
fn bisect(candidate: &Candidate, tester: &mut Tester) -> Vec<Deviation> {
    let all = candidate.list.iter().cloned();
    let (mut needed, mut open): (Vec<Deviation>, Vec<Deviation>) = all.partition(is_mode);
    let with = |open: &[Deviation], needed: &[Deviation]| [open, needed].concat();
    loop {
        // Without any of those that are open it does not fail, with all of them it does.
        let (mut without, mut enough) = (0, open.len());
        while enough - without > 1 && !tester.spent() {
            let middle = without.midpoint(enough);
            match tester.once(&candidate.plan, &with(&open[..middle], &needed)) {
                Some(_) => enough = middle,
                None => without = middle,
            }
        }
        open.truncate(enough);
        let Some(last) = open.pop() else { return needed };
        needed.insert(0, last);
        if tester.spent() || open.is_empty() || tester.once(&candidate.plan, &needed).is_some() {
            return if tester.spent() { with(&open, &needed) } else { needed };
        }
    }
}

/// What is open at all is no deviation itself, but what the others are counted in.
pub(super) fn is_mode(deviation: &Deviation) -> bool {
    deviation.point == "mode"
}

/// Each left out in turn.
fn leave_out(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    let mut at = 0;
    while candidate.list.len() > 1 && at < candidate.list.len() {
        let mut list = candidate.list.clone();
        list.remove(at);
        at += usize::from(!take(candidate, seen, tester, list));
    }
}

/// A single command that is sent early, in place of several deviations. The last ones before the failure come first.
fn single(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    let steps = candidate.plan.steps.clone();
    let last = seen.step.map_or(steps.len(), |step| step + 1).min(steps.len());
    let sending = (0..last).rev().filter(|step| sends(&steps[*step].kind));
    for step in sending.take(SWEEP) {
        let subject = Addressee::Step(u32::try_from(step).unwrap_or(u32::MAX));
        let early = Deviation { point: "client-send", subject, nth: 1, pick: 1 };
        if take(candidate, seen, tester, vec![early]) {
            return;
        }
    }
}

/// The first time instead of a later one, the first alternative instead of another.
fn simplify(candidate: &mut Candidate, seen: &mut Seen, tester: &mut Tester) {
    for at in 0..candidate.list.len() {
        for change in [|p: &mut Deviation| p.nth = 1, |p: &mut Deviation| p.pick = 1] {
            let mut list = candidate.list.clone();
            if let Some(deviation) = list.get_mut(at) {
                change(deviation);
                take(candidate, seen, tester, list);
            }
        }
    }
}

/// A deviation after some steps were taken out; `None` if its own step is among them.
pub(super) fn moved(deviation: &Deviation, keep: &[bool]) -> Option<Deviation> {
    let Addressee::Step(step) = deviation.subject else { return Some(deviation.clone()) };
    if !*keep.get(step as usize)? {
        return None;
    }
    let before = keep[..step as usize].iter().filter(|keep| **keep).count();
    let subject = Addressee::Step(u32::try_from(before).unwrap_or(u32::MAX));
    Some(Deviation { subject, ..deviation.clone() })
}
