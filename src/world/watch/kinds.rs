//! Kinds of what the feed tells, so that whoever listens hears only what he asked for.

use super::feed::Seen;

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// Which variant of [`Seen`] something is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is explained at the variant of `Seen`")]
        pub enum SeenKind {
            $($kind,)*
        }

        impl SeenKind {
            /// All kinds.
            pub const ALL: &[SeenKind] = &[$(SeenKind::$kind,)*];
        }

        impl Seen {
            /// Which kind of thing it tells of.
            #[inline]
            #[must_use]
            pub fn kind(&self) -> SeenKind {
                match self {
                    $(Seen::$kind { .. } => SeenKind::$kind,)*
                }
            }
        }
    };
}

kinds! {
    JobStatus Verb JobEnd Progress BackupBegins Settled Cleaned JobFreed Copies TranBegin TranEnd TranFailed Drained DrainEnds Undrained
    RequestInDrain Unrecorded BitmapFresh BitmapStale GuestBegin GuestEnd Changed Opened PaddingLost ReadUndone Discards DiscardSwallowed
    ChainBegins ChainEnds Pivot Synced Excuse Ready FlushSkipped Flushed Fault
}

const _: () = assert!(SeenKind::ALL.len() <= 64);

/// Kinds that somebody listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenKinds(u64);

impl SeenKinds {
    /// These.
    #[must_use]
    pub const fn of(kinds: &[SeenKind]) -> SeenKinds {
        let mut bits = 0;
        let mut at = 0;
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u64;
            at += 1;
        }
        SeenKinds(bits)
    }

    /// Whether a kind is among them.
    #[inline]
    #[must_use]
    pub const fn has(self, kind: SeenKind) -> bool {
        self.0 & (1 << kind as u64) != 0
    }
}
