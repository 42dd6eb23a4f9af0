//! Where QEMU dies, and the model with it: what ends a run there, in one form, so that `conform` and campaigns know it again.

use crate::invariant::{Broken, Invariant};
use crate::world::World;

impl World {
    /// Where QEMU fails an assertion.
    pub(in crate::world) fn qemu_aborts(subject: String, reason: &str) -> ! {
        panic!("{}", Broken::new(Invariant::NoAbort, subject, reason))
    }

    /// Where QEMU follows a pointer to nothing.
    pub(in crate::world) fn qemu_segfaults(subject: String, reason: &str) -> ! {
        panic!("{}", Broken::bad_pointer(subject, reason))
    }

    /// Where QEMU fails an assertion, and a page of `docs/findings` describes it.
    pub(in crate::world) fn qemu_is_known_to_abort(page: &'static str, subject: String, reason: &str) -> ! {
        panic!("{}", Broken::new(Invariant::NoAbort, subject, reason).known(page))
    }

    /// Where QEMU follows a pointer to nothing, and a page of `docs/findings` describes it.
    pub(in crate::world) fn qemu_is_known_to_segfault(page: &'static str, subject: String, reason: &str) -> ! {
        panic!("{}", Broken::bad_pointer(subject, reason).known(page))
    }

    /// Where QEMU uses memory that it has freed, and a page of `docs/findings` describes it.
    pub(in crate::world) fn qemu_is_known_to_use_freed(page: &'static str, subject: String, reason: &str) -> ! {
        panic!("{}", Broken::new(Invariant::UsedAfterFree, subject, reason).known(page))
    }
}
