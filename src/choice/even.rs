//! The uniform random schedule: wherever orders are open, each alternative is as likely as any other.

use super::stream::Stream;
use super::{ChoicePoint, Choose, MODE_ORDER};

/// Draws each answer evenly from all alternatives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Even {
    stream: Stream,
    mode: u32,
}

impl Even {
    /// The number of the random stream that strategies over orders draw from; kinds of choice points have the lower ones.
    pub(super) const STREAM: u64 = 64;

    /// The schedule of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Even {
        Even { stream: Stream::new(seed, Even::STREAM), mode: MODE_ORDER }
    }

    /// The same with this answer to [`ChoicePoint::Mode`].
    #[must_use]
    pub fn with_mode(mut self, mode: u32) -> Even {
        self.mode = mode;
        self
    }
}

impl Choose for Even {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match point {
            ChoicePoint::Mode => self.mode,
            ChoicePoint::Latency(_) => 0,
            _ => self.stream.below(among),
        }
    }

    fn wants_mode(&self) -> bool {
        true
    }
}
