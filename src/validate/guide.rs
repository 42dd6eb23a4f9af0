//! Who answers the choices of an attempt of the search: the trace where it says, a hint, or chance.

use crate::choice::{Choice, ChoiceLog, ChoicePoint, Choose, MODE_ORDER, STREAMS, Stream};

/// A knob of [`Guide`]: no answer is the calm one.
pub(super) const NEVER_CALM: u32 = u32::MAX;

/// Answers the choices of an attempt.
pub(super) struct Guide<'a> {
    /// Choices to begin with: those of a run whose trace is the same for a while.
    pub(super) hint: Option<&'a ChoiceLog>,
    pub(super) log: &'a mut ChoiceLog,
    pub(super) stream: &'a mut Stream,
    /// By stream number: one answer in so many is drawn; 0: all are calm; [`NEVER_CALM`]: none is.
    pub(super) knobs: [u32; STREAMS],
    /// The answer at [`ChoicePoint::ClientSend`]: false if it is too early.
    pub(super) may_send: bool,
    /// The answer at [`ChoicePoint::ClientRead`].
    pub(super) left: u32,
    /// Whether the trace has more outputs before the next command, or before its end.
    pub(super) more: bool,
    /// Orders are open instead of times.
    pub(super) order: bool,
    /// Requests may be found done between bottom halves.
    pub(super) bh_order: bool,
    /// The trace cannot go on from here.
    pub(super) dead: bool,
}

impl Choose for Guide<'_> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        let pick = match point {
            ChoicePoint::Mode => MODE_ORDER,
            ChoicePoint::BhOrder if self.log.len() <= 1 => 1,
            ChoicePoint::ClientSend if !self.may_send => 0,
            // What the trace has before the next command is still to come, and only a timer can bring it.
            ChoicePoint::ClientWait if self.more => 1,
            ChoicePoint::ClientRead => {
                if self.left >= among {
                    self.dead = true;
                }
                self.left.min(among - 1)
            }
            point => match self.hinted(point, among) {
                Some(pick) => pick,
                None => self.drawn(point, among),
            },
        };
        self.log.push(Choice { point, among, pick });
        pick
    }

    fn wants_mode(&self) -> bool {
        self.order
    }

    fn wants_bh_order(&self) -> bool {
        self.bh_order
    }
}

impl Guide<'_> {
    /// What the hint has for this choice.
    fn hinted(&self, point: ChoicePoint, among: u32) -> Option<u32> {
        let at = self.log.len();
        let hinted = self.hint?.entries().get(at)?.choice;
        (hinted.point == point && hinted.among == among).then_some(hinted.pick)
    }

    fn drawn(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match self.knobs[usize::from(point.stream())] {
            0 => 0,
            NEVER_CALM if among > 1 => 1 + self.stream.below(among - 1),
            1 => self.stream.below(among),
            n if self.stream.below(n) == 0 => self.stream.below(among),
            _ => 0,
        }
    }
}
