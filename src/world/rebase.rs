//! A world's clock set to another time, with all that refers to it: worlds which differ only in what time it is become equal.
//!
//! What there is to move, each type says itself ([`Rebase`]), and the compiler sees to it that none forgets anything.

use super::World;
use crate::base::time::{Instant, Rebase, Shift};

impl World {
    /// Sets the clock to `base`, and all that refers to it, so that worlds which differ only in what time it is become equal. Does
    /// nothing while something that cannot be moved is under way (a `qemu-io` command that measures its time). `base` must leave room
    /// for what began some time ago: a slice of a rate limit.
    pub fn set_clock(&mut self, base: Instant) {
        let mut frames = self.frames().chain(self.cos.iter().flat_map(|(_, co)| &co.frames));
        if self.now != base && !frames.any(Rebase::has_instants) {
            drop(frames);
            self.rebase(Shift { from: self.now, to: base });
        }
    }
}
