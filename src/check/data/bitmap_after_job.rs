//! What a job leaves of its bitmap.

use crate::bitmap::HBitmap;
use crate::check::Watch;
use crate::invariant::{Broken, Invariant};
use crate::qmp::types::BitmapSyncMode;
use crate::world::World;
use crate::world::watch::feed::{BitmapEnd, Seen};
use crate::world::watch::kinds::{SeenKind, SeenKinds};

/// [`Invariant::BitmapAfterJob`]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BitmapAfterJob;

impl Watch for BitmapAfterJob {
    const INVARIANT: Invariant = Invariant::BitmapAfterJob;
    const HEARS: SeenKinds = SeenKinds::of(&[SeenKind::Settled]);

    fn see(&mut self, seen: &Seen, _world: &World) -> Result<(), Broken> {
        match seen {
            Seen::Settled(settled) => settled.bitmap.as_ref().map_or(Ok(()), |end| look(end, settled.failed)),
            _ => Ok(()),
        }
    }
}

fn look(end: &BitmapEnd, failed: bool) -> Result<(), Broken> {
    let subject = || format!("bitmap {} of {}", end.name, end.node_name);
    let Some(after) = &end.after else {
        return BitmapAfterJob::broken(subject(), "it is gone after the job that used it".into());
    };
    if after.busy() || after.successor().is_some() {
        return BitmapAfterJob::broken(subject(), "it is still in use after the job that used it".into());
    }
    let result = if failed { "failed" } else { "succeeded" };
    let (kept, what) = match (end.mode, failed) {
        (BitmapSyncMode::OnSuccess | BitmapSyncMode::Always, false) => (None, "what was written since the job began"),
        (BitmapSyncMode::Always, true) => {
            (Some(&end.uncopied), "what was not copied, and what was written since the job began")
        }
        _ => (Some(&end.before), "what it held, and what was written since the job began"),
    };
    let mut wanted = end.since.clone();
    if let Some(kept) = kept {
        wanted.merge_from(kept);
    }
    let wrong = |byte: u64, is: &str| {
        let reason = format!(
            "the job {result} (bitmap-mode {}); it should hold {what}, but byte {byte} is {is}",
            end.mode.name()
        );
        BitmapAfterJob::broken(subject(), reason)
    };
    let bits: &HBitmap = after.bitmap();
    if let Some(byte) = wanted.first_not_in(bits) {
        return wrong(byte, "clean");
    }
    if let Some(byte) = bits.first_not_in(&wanted) {
        return wrong(byte, "dirty");
    }
    Ok(())
}
