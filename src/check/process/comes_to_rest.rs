//! Every job that was started comes to rest once faults and clients stop; if not, it is said who waits for whom.

use super::nothing_left::suspended;
use crate::invariant::{Broken, Invariant};
use crate::job::status::JobStatus;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::JobId;

/// Looks at a process in which nothing happens any more.
///
/// A job may wait for its user: paused, pending, or concluded; for the rest of its group; or, with sync=none, to be cancelled. One that
/// waits for a request that a breakpoint of blkdebug holds waits for its user too, and one that sleeps will wake up.
pub(in crate::check) fn look(world: &World) -> Result<(), Broken> {
    let broken = |subject: String, reason: &str| {
        let mut reason = reason.to_owned();
        for line in world.waiting() {
            reason.push_str("\n  ");
            reason.push_str(&line);
        }
        Err(Broken::new(Invariant::ComesToRest, subject, reason))
    };
    if suspended(world) || world.quitting {
        return Ok(());
    }
    if world.aio.starved {
        let reason = "it goes round without a pause, as each error is ignored and what failed is tried again";
        let starved = Broken::new(Invariant::ComesToRest, "the main thread", reason);
        return Err(starved.known("ignored-errors-starve-the-monitor"));
    }
    if !world.in_main_loop() && world.next_deadline().is_none() {
        return broken("the main thread".into(), "it waits for what will not happen:");
    }
    if !world.at_rest() || world.next_deadline().is_some() {
        return Ok(());
    }
    for job in &world.jobs.list {
        if let Some(why) = stuck(world, *job) {
            let j = &world.jobs[*job];
            return broken(format!("job {}", j.id), &format!("it is '{}' for ever, {why}:", j.status));
        }
    }
    let waits = world.cos.iter().find(|(_, co)| {
        matches!(co.wait, Some(Wait::Queue(_) | Wait::Device(_) | Wait::Bh(_) | Wait::TaskPool | Wait::Reschedule))
    });
    match waits {
        Some((co, _)) => broken(format!("request {co:?}"), "it will not end:"),
        None => Ok(()),
    }
}

fn stuck(world: &World, job: JobId) -> Option<&'static str> {
    let j = &world.jobs[job];
    match j.status {
        JobStatus::Undefined | JobStatus::Concluded | JobStatus::Null | JobStatus::Ready | JobStatus::Standby => None,
        JobStatus::Created => Some("and was never started"),
        JobStatus::Paused if j.user_paused => None,
        JobStatus::Paused => Some("and nobody paused it"),
        JobStatus::Running => {
            let may_rest = j.driver.hooks().and_then(|hooks| hooks.watch.may_rest);
            (!may_rest.is_some_and(|may_rest| may_rest(j))).then_some("and does nothing")
        }
        JobStatus::Waiting => {
            let peers = j.txn.and_then(|txn| world.jobs.txns.get(txn)).map(|group| group.jobs.clone());
            let other = peers
                .unwrap_or_default()
                .into_iter()
                .any(|peer| world.jobs.get(peer).is_some_and(|peer| !peer.status.is_completed()));
            (!other).then_some("though all of its group are done")
        }
        JobStatus::Pending => {
            let peers = j.txn.and_then(|txn| world.jobs.txns.get(txn)).map(|group| group.jobs.clone());
            let manual = peers
                .unwrap_or_default()
                .into_iter()
                .any(|peer| world.jobs.get(peer).is_some_and(|peer| !peer.auto_finalize));
            (!manual).then_some("though it finalises itself")
        }
        JobStatus::Aborting => Some("and does not conclude"),
    }
}
