//! Kinds of what the feed tells, so that whoever listens hears only what he asked for.

use super::feed::Seen;

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// A kind of [`Seen`], named as its variant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is explained at the variant of `Seen`")]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];
        }

        impl Seen {
            /// Its kind.
            #[inline]
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self {
                    $(Seen::$kind { .. } => Kind::$kind,)*
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

const _: () = assert!(Kind::ALL.len() <= 64);

/// Kinds that somebody listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u64);

impl Kinds {
    /// These.
    #[must_use]
    pub const fn of(kinds: &[Kind]) -> Kinds {
        let mut bits = 0;
        let mut at = 0;
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u64;
            at += 1;
        }
        Kinds(bits)
    }

    /// Whether a kind is among them.
    #[inline]
    #[must_use]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u64) != 0
    }
}
