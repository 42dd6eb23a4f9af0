//! Schedules as lists of deviations, each addressed by the progress of whom it is about.
//!
//! A [`ChoiceLog`](super::ChoiceLog) counts all choices of a run, so that leaving one out shifts the meaning of those behind it. A
//! [`Deviation`] counts only how often its own subject was offered at its kind of choice point: a list of them means the same
//! after one was taken out, and can be read. What the list does not name is calm.
//!
//! ```text
//! complete-next read s.qcow2@65536 #2    when this request is offered for the second time, it is done before the others
//! work-next timer j0 #1                  likewise, in the middle of other work
//! latency write t.qcow2@0 #1 =6          its first occurrence takes the seventh latency
//! client-send step 7 #3                  the command of step 7 is sent when that is possible for the third time
//! client-send step 7 #1 =2               likewise, so soon that the dispatcher finds it when it has written the last reply
//! client-read step 7 #1 =2               two records are left unread then
//! ```

use super::{AddresseeOf, ChoicePoint, Choose, Divergence, ReplayMode, Tasks};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Whom an alternative is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Addressee {
    /// Nobody that could be named.
    Nobody,
    /// A request to the host or to a null device.
    Request {
        /// What is done, as in `read`.
        op: &'static str,
        /// Name of the file, or of the node where there is none.
        file: Arc<str>,
        /// First byte.
        offset: u64,
    },
    /// A timer: the job that sleeps, or `coroutine`.
    Timer(Arc<str>),
    /// A step of the scenario, from 0; its text form counts from 1.
    Step(u32),
}

/// What a request may do, in the words of [`Addressee::Request`].
pub const REQUESTS: &[&str] = &["read", "write", "zero", "discard", "flush", "truncate", "nothing"];

impl fmt::Display for Addressee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addressee::Nobody => f.write_str("nobody"),
            Addressee::Request { op, file, offset } => write!(f, "{op} {}@{offset}", escape(file)),
            Addressee::Timer(job) => write!(f, "timer {}", escape(job)),
            Addressee::Step(step) => write!(f, "step {}", u64::from(*step) + 1),
        }
    }
}

impl Addressee {
    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Addressee> {
        if text == "nobody" {
            return Some(Addressee::Nobody);
        }
        let (word, rest) = text.split_once(' ')?;
        match word {
            "timer" => Some(Addressee::Timer(unescape(rest)?.into())),
            "step" => Some(Addressee::Step(rest.parse::<u32>().ok()?.checked_sub(1)?)),
            _ => {
                let op = REQUESTS.iter().find(|op| **op == word)?;
                let (file, offset) = rest.rsplit_once('@')?;
                Some(Addressee::Request { op, file: unescape(file)?.into(), offset: offset.parse().ok()? })
            }
        }
    }
}

/// Characters with a meaning in lists, and whatever no one can see.
fn escape(text: &str) -> String {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '#' | '%' | '=');
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:x};", u32::from(c)) }).collect()
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut parts = text.split('%');
    out.push_str(parts.next()?);
    for part in parts {
        let (code, rest) = part.split_once(';')?;
        out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        out.push_str(rest);
    }
    Some(out)
}

/// A choice other than the calm one, and when it is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deviation {
    /// The kind of choice point, without its number of a node.
    pub point: &'static str,
    /// Whom it is about.
    pub subject: Addressee,
    /// How often the subject was offered at this kind of point, this time included; from 1.
    pub nth: u32,
    /// Which alternative is taken where the subject has several; 1 otherwise.
    pub pick: u32,
}

impl Deviation {
    /// Whether it is about one alternative among others, and not about how much of something.
    #[must_use]
    pub fn names_an_alternative(&self) -> bool {
        names_alternatives(self.point)
    }
}

/// At these points each alternative but the calm one has a subject of its own.
fn names_alternatives(point: &str) -> bool {
    matches!(point, "complete-next" | "work-next")
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} #{}", self.point, self.subject, self.nth)?;
        if self.pick == 1 { Ok(()) } else { write!(f, " ={}", self.pick) }
    }
}

/// A schedule: these deviations, and calm otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Deviations {
    /// In the order in which they were made.
    pub list: Vec<Deviation>,
}

impl fmt::Display for Deviations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().try_for_each(|deviation| writeln!(f, "{deviation}"))
    }
}

/// What is wrong with the text of a list of deviations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {problem}")]
pub struct DeviationError {
    /// The entry at fault.
    pub text: String,
    /// What was expected.
    pub problem: &'static str,
}

impl FromStr for Deviations {
    type Err = DeviationError;

    fn from_str(text: &str) -> Result<Self, DeviationError> {
        let entries = text.split(['\n', ',']).map(str::trim).filter(|entry| !entry.is_empty());
        let read = |entry: &str| deviation(entry).map_err(|problem| DeviationError { text: entry.to_owned(), problem });
        entries.map(read).collect::<Result<Vec<_>, _>>().map(|list| Deviations { list })
    }
}

/// Reads `point subject #nth` or `point subject #nth =pick`.
fn deviation(text: &str) -> Result<Deviation, &'static str> {
    let (point, rest) = text.split_once(' ').ok_or("expected `point subject #nth`")?;
    let point = super::kinds().find(|(name, _)| *name == point).ok_or("no such choice point")?.0;
    let (subject, count) = rest.rsplit_once(" #").ok_or("expected `#nth` behind the subject")?;
    let (nth, pick) = match count.split_once(" =") {
        Some((nth, pick)) => (nth, pick.parse().ok()),
        None => (count, Some(1)),
    };
    let nth = nth.parse().ok().filter(|nth| *nth > 0).ok_or("expected a number from 1 behind `#`")?;
    let pick = pick.filter(|pick| *pick > 0).ok_or("expected a number from 1 behind `=`")?;
    let subject = Addressee::parse(subject.trim()).ok_or("no such subject")?;
    Ok(Deviation { point, subject, nth, pick })
}

/// Makes the choices of a list of deviations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deviate {
    list: Arc<Deviations>,
    mode: ReplayMode,
    /// How often the subject of each entry was offered, by the entry's place.
    seen: Vec<u32>,
    /// Which entries were carried out.
    met: Vec<bool>,
    /// Choices made so far.
    index: u32,
    divergence: Option<Divergence>,
}

impl Deviate {
    /// The schedule of `list`, from its start.
    #[must_use]
    pub fn new(list: Arc<Deviations>, mode: ReplayMode) -> Deviate {
        let entries = list.list.len();
        Deviate { list, mode, seen: vec![0; entries], met: vec![false; entries], index: 0, divergence: None }
    }

    /// What happens where the list does not fit.
    #[must_use]
    pub fn mode(&self) -> ReplayMode {
        self.mode
    }

    /// Deviations that were carried out.
    pub fn met(&self) -> impl Iterator<Item = &Deviation> {
        self.list.list.iter().zip(&self.met).filter(|(_, met)| **met).map(|(deviation, _)| deviation)
    }

    /// To be called when the run has ended: a deviation that could not be carried out is a divergence.
    pub fn finish(&mut self) {
        if let Some(at) = self.met.iter().position(|met| !met) {
            let missed = Some(self.list.list[at].to_string().into());
            let divergence = Divergence { index: self.index, expected: None, offered: None, missed };
            self.divergence.get_or_insert(divergence);
        }
    }

    /// The first place that did not fit, in either mode.
    #[must_use]
    pub fn first_difference(&self) -> Option<&Divergence> {
        self.divergence.as_ref()
    }

    /// Counts `subject` at `point`; the pick of the entry whose turn has come.
    fn offer(&mut self, point: &str, subject: &Addressee) -> Option<u32> {
        let mut pick = None;
        for (i, entry) in self.list.list.iter().enumerate() {
            if entry.point == point && entry.subject == *subject {
                self.seen[i] += 1;
                if self.seen[i] == entry.nth && pick.is_none() {
                    self.met[i] = true;
                    pick = Some(entry.pick);
                }
            }
        }
        pick
    }
}

impl Choose for Deviate {
    fn wants_mode(&self) -> bool {
        self.list.list.iter().any(|entry| entry.point == ChoicePoint::Mode.name())
    }

    fn wants_bh_order(&self) -> bool {
        self.list.list.iter().any(|entry| entry.point == ChoicePoint::BhOrder.name())
    }

    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        self.choose_about(point, among, &mut |_| Addressee::Nobody)
    }

    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: &mut dyn FnMut(u32) -> Addressee) -> u32 {
        self.index += 1;
        let name = point.name();
        if !self.list.list.iter().any(|entry| entry.point == name) {
            return 0;
        }
        if !names_alternatives(name) {
            let subject = about(1);
            return self.offer(name, &subject).map_or(0, |pick| pick.min(among - 1));
        }
        let mut taken = 0;
        for alternative in 1..among {
            let subject = about(alternative);
            if self.offer(name, &subject).is_some() && taken == 0 {
                taken = alternative;
            }
        }
        taken
    }
}

/// Writes down the choices of somebody else as deviations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviationRecorder<C> {
    /// Who decides.
    pub inner: C,
    /// What was not calm so far.
    pub list: Deviations,
    seen: BTreeMap<(&'static str, Addressee), u32>,
}

impl<C: Choose> DeviationRecorder<C> {
    /// A recorder with an empty list.
    pub fn new(inner: C) -> Self {
        DeviationRecorder { inner, list: Deviations::default(), seen: BTreeMap::new() }
    }

    fn offer(&mut self, point: &'static str, subject: Addressee) -> u32 {
        let seen = self.seen.entry((point, subject)).or_default();
        *seen += 1;
        *seen
    }
}

impl<C: Choose> Choose for DeviationRecorder<C> {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        self.choose_about(point, among, &mut |_| Addressee::Nobody)
    }

    fn choose_about(&mut self, point: ChoicePoint, among: u32, about: &mut dyn FnMut(u32) -> Addressee) -> u32 {
        let pick = self.inner.choose_about(point, among, about);
        self.note(point, among, pick, about)
    }

    fn choose_of(&mut self, point: ChoicePoint, among: u32, of: Tasks<'_>, about: AddresseeOf<'_>) -> u32 {
        let pick = self.inner.choose_of(point, among, of, about);
        self.note(point, among, pick, about)
    }

    fn wants_mode(&self) -> bool {
        self.inner.wants_mode()
    }

    fn wants_bh_order(&self) -> bool {
        self.inner.wants_bh_order()
    }

    fn diverged(&self) -> Option<&Divergence> {
        self.inner.diverged()
    }
}

impl<C: Choose> DeviationRecorder<C> {
    /// Counts what was offered, and keeps what was not calm.
    fn note(&mut self, point: ChoicePoint, among: u32, pick: u32, about: AddresseeOf<'_>) -> u32 {
        let point = point.name();
        if names_alternatives(point) {
            for alternative in 1..among {
                let subject = about(alternative);
                let nth = self.offer(point, subject.clone());
                if alternative == pick {
                    self.list.list.push(Deviation { point, subject, nth, pick: 1 });
                }
            }
        } else {
            let subject = about(1);
            let nth = self.offer(point, subject.clone());
            if pick > 0 {
                self.list.list.push(Deviation { point, subject, nth, pick });
            }
        }
        pick
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChoiceLog, Replay, Walk};
    use super::*;
    use proptest::prelude::*;

    /// A run that asks about three requests, over and over; what it did.
    fn run(choose: &mut dyn Choose) -> Vec<u32> {
        let request = |n: u32| Addressee::Request { op: "read", file: format!("f{n}").into(), offset: 512 };
        let mut picks = Vec::new();
        for round in 0..20 {
            let among = 2 + round % 3;
            picks.push(choose.choose_about(ChoicePoint::CompleteNext, among, &mut |n| request(n + round % 2)));
            picks.push(choose.choose_about(ChoicePoint::Latency(round), 8, &mut |_| request(round % 2)));
            picks.push(choose.choose_about(ChoicePoint::ClientSend, 2, &mut |_| Addressee::Step(round / 4)));
        }
        picks
    }

    #[test]
    fn a_recorded_list_gives_the_same_run() {
        for seed in 0..50 {
            let mut recorder = DeviationRecorder::new(Walk::new(seed));
            let picks = run(&mut recorder);
            let list: Deviations = recorder.list.to_string().parse().expect("its own text");
            assert_eq!(list, recorder.list);
            let mut preempt = Deviate::new(Arc::new(list), ReplayMode::Strict);
            assert_eq!(run(&mut preempt), picks, "seed {seed}");
            preempt.finish();
            assert_eq!(preempt.first_difference(), None);
        }
    }

    /// `validate` finds schedules in which that was asked: as a list they are carried out, too.
    #[test]
    fn a_list_wants_asked_what_it_answers() {
        let log: ChoiceLog = "@0 mode 1/4, @1 bh-order 1/2".parse().expect("a list of choices");
        let mut recorder = DeviationRecorder::new(Replay::new(Arc::new(log), ReplayMode::Strict));
        assert!(recorder.wants_mode() && !recorder.wants_bh_order());
        assert_eq!(recorder.choose(ChoicePoint::Mode, 4), 1);
        assert!(recorder.wants_bh_order());
        assert_eq!(recorder.choose(ChoicePoint::BhOrder, 2), 1);
        let preempt = Deviate::new(Arc::new(recorder.list), ReplayMode::Strict);
        assert!(preempt.wants_mode() && preempt.wants_bh_order());
        assert!(!Deviate::new(Arc::new(Deviations::default()), ReplayMode::Strict).wants_bh_order());
    }

    #[test]
    fn leaving_one_out_does_not_shift_the_others() {
        let mut recorder = DeviationRecorder::new(Walk::even(3));
        let picks = run(&mut recorder);
        for gone in 0..recorder.list.list.len() {
            let mut list = recorder.list.clone();
            list.list.remove(gone);
            let again = run(&mut Deviate::new(Arc::new(list), ReplayMode::Strict));
            let differ = again.iter().zip(&picks).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 1, "without {}", recorder.list.list[gone]);
        }
    }

    #[test]
    fn what_cannot_be_carried_out_is_named() {
        let list: Deviations = "client-send step 99 #1, latency read f0@512 #1 =9".parse().expect("a list");
        let mut preempt = Deviate::new(Arc::new(list), ReplayMode::Strict);
        assert_eq!(run(&mut preempt)[1], 7, "clamped");
        preempt.finish();
        let said = preempt.first_difference().map(ToString::to_string);
        assert_eq!(said.as_deref(), Some("after 60 choices: `client-send step 99 #1` could not be carried out"));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str| text.parse::<Deviations>().unwrap_err().to_string();
        assert_eq!(wrong("nothing step 1 #1"), "`nothing step 1 #1`: no such choice point");
        assert_eq!(wrong("client-send step 0 #1"), "`client-send step 0 #1`: no such subject");
        assert_eq!(wrong("client-send step 1"), "`client-send step 1`: expected `#nth` behind the subject");
        assert_eq!(wrong("latency read a@0 #0"), "`latency read a@0 #0`: expected a number from 1 behind `#`");
    }

    proptest! {
        #[test]
        fn names_come_back(file in ".{0,12}", offset: u64, nth in 1u32..9, pick in 1u32..9) {
            let subject = Addressee::Request { op: "zero", file: file.as_str().into(), offset };
            let list = Deviations { list: vec![Deviation { point: "latency", subject, nth, pick }] };
            prop_assert_eq!(list.to_string().parse::<Deviations>(), Ok(list));
        }

        #[test]
        fn hostile_text_never_panics(text in "[-a-z #@%;=0-9,]{0,40}") {
            let _ = text.parse::<Deviations>();
        }
    }
}
