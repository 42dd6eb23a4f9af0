//! blkdebug's rule engine: which events arm which faults, which requests then fail, and which are held back
//! (`block/blkdebug.c`).
//!
//! The engine knows nothing of the requests it stops: a request is an opaque number to it, and running a request
//! again after `resume` is the caller's business.

use std::sync::Arc;

use crate::base::Errno;
use crate::base::units::SECTOR;
use crate::block::event::BlkdebugEvent;

/// The kind of a request that reaches a blkdebug node (`BlkdebugIOType`, qapi/block-core.json), in QEMU's enum order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IoType {
    /// `read`
    Read,
    /// `write`
    Write,
    /// `write-zeroes`
    WriteZeroes,
    /// `discard`
    Discard,
    /// `flush`
    Flush,
    /// `block-status`
    BlockStatus,
}

impl IoType {
    /// All kinds with their names, in enum order.
    pub const ALL: [(IoType, &'static str); 6] = [
        (IoType::Read, "read"),
        (IoType::Write, "write"),
        (IoType::WriteZeroes, "write-zeroes"),
        (IoType::Discard, "discard"),
        (IoType::Flush, "flush"),
        (IoType::BlockStatus, "block-status"),
    ];

    /// The name that rules use.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<IoType> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(t, _)| *t)
    }
}

/// A set of request kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoTypeMask(u8);

impl IoTypeMask {
    /// What a rule without `iotype` applies to: everything but block-status.
    pub const DEFAULT: IoTypeMask = IoTypeMask(0b1_1111);

    /// The set of one kind, which is all that a rule with `iotype` can name.
    #[must_use]
    pub const fn only(iotype: IoType) -> IoTypeMask {
        IoTypeMask(1 << iotype as u8)
    }

    /// Whether the set has that kind.
    #[must_use]
    pub const fn has(self, iotype: IoType) -> bool {
        self.0 & (1 << iotype as u8) != 0
    }
}

/// What an `inject-error` rule does to requests once it is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InjectError {
    /// The errno that requests fail with; 0 lets them through *and* hides the rules behind this one.
    pub errno: Errno,
    /// Which kinds of requests it hits.
    pub iotype: IoTypeMask,
    /// The sector (512 bytes, in the file below) that a request has to touch; none for any request.
    pub sector: Option<u64>,
    /// Whether the rule is gone for good after its first hit.
    pub once: bool,
    /// Whether the request fails without going back to the main loop first.
    pub immediately: bool,
}

impl Default for InjectError {
    fn default() -> InjectError {
        InjectError { errno: Errno::EIO, iotype: IoTypeMask::DEFAULT, sector: None, once: false, immediately: false }
    }
}

impl InjectError {
    /// The `errno` option as blkdebug stores it: cut down to 32 bits.
    ///
    /// A number whose bit 31 is set is negative in QEMU, so that the request is dropped and still succeeds; this
    /// simulator fails it with the number as it stands.
    #[must_use]
    pub const fn errno_option(n: i64) -> Errno {
        Errno(n as u32)
    }

    /// The `sector` option as blkdebug reads it: -1 means any sector.
    #[must_use]
    pub const fn sector_option(n: i64) -> Option<u64> {
        if n == -1 { None } else { Some(n as u64) }
    }

    fn hits(&self, iotype: IoType, offset: u64, bytes: u64) -> bool {
        let in_range = match self.sector {
            None => true,
            Some(sector) => {
                let at = sector.wrapping_mul(SECTOR);
                bytes > 0 && at >= offset && at < offset.saturating_add(bytes)
            }
        };
        in_range && self.iotype.has(iotype)
    }
}

/// What a configured rule does when its event fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `inject-error`: becomes active.
    InjectError(InjectError),
    /// `set-state`: sets the state variable once all rules of the event were looked at.
    SetState {
        /// The value it gets.
        new_state: i32,
    },
}

/// A rule from the options or the config file of a blkdebug node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The event it listens to.
    pub event: BlkdebugEvent,
    /// The state in which it listens; 0 for any.
    pub state: i32,
    /// What it does.
    pub action: Action,
}

impl Rule {
    fn listens(&self, event: BlkdebugEvent, state: i32) -> bool {
        self.event == event && (self.state == 0 || self.state == state)
    }
}

/// A rule's place in the order of registration: all inject-error rules as listed, then all set-state rules; within
/// each kind those of the config file come before those of the options. See [`Blkdebug::rule`].
pub type RuleIndex = u32;

/// A request that fails at the blkdebug node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The rule that did it; none if the request was too small for the node's limits.
    pub rule: Option<RuleIndex>,
    /// What the request fails with.
    pub errno: Errno,
    /// Whether it fails at once; otherwise the caller lets the main loop run first.
    pub immediately: bool,
}

/// A set-state rule that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateChange {
    /// The rule that did it.
    pub rule: RuleIndex,
    /// The state before the event.
    pub from: i32,
    /// The state after it; may be the same.
    pub to: i32,
}

/// What an event did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects {
    /// Whether inject-error rules matched, so that they are now the active ones (see [`Blkdebug::active`]).
    pub armed: bool,
    /// The state change, if a set-state rule matched.
    pub state: Option<StateChange>,
    /// The tags under which the request is now suspended, in the order in which QEMU prints
    /// [`suspended_text`]. If there is any, the request must wait until as many resumes have reached it.
    pub suspended: Vec<Arc<str>>,
}

/// A request that a resume reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resumed {
    /// The request, as it was handed to [`Blkdebug::event`].
    pub request: u32,
    /// Whether it runs on; false if it is still suspended under another tag (or once more under the same).
    pub runs: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Breakpoint {
    event: BlkdebugEvent,
    tag: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Suspended {
    tag: Arc<str>,
    request: u32,
}

/// Overrides of the node's request limits, in bytes; 0 stands for "not given".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// `align`: request alignment of the node.
    pub align: u64,
    /// `max-transfer`: longest read or write.
    pub max_transfer: u64,
    /// `opt-write-zero`: alignment of write-zeroes requests.
    pub opt_write_zero: u64,
    /// `max-write-zero`: longest write-zeroes request.
    pub max_write_zero: u64,
    /// `opt-discard`: preferred alignment of discards.
    pub opt_discard: u64,
    /// `max-discard`: longest discard.
    pub max_discard: u64,
}

impl Limits {
    /// Checks the options against each other and the request alignment of the node below (bytes), in QEMU's order
    /// (`blkdebug_open`).
    ///
    /// # Errors
    /// QEMU's text for the first option that is out of line.
    pub fn check(&self, child_alignment: u64) -> Result<(), String> {
        const INT_MAX: u64 = i32::MAX as u64;
        let refuse = |name: &str, value: u64| Err(format!("Cannot meet constraints with {name} {value}"));
        if self.align != 0 && (self.align >= INT_MAX || !self.align.is_power_of_two()) {
            return refuse("align", self.align);
        }
        let align = self.align.max(child_alignment);
        for (name, value, unit) in [
            ("max-transfer", self.max_transfer, align),
            ("opt-write-zero", self.opt_write_zero, align),
            ("max-write-zero", self.max_write_zero, align.max(self.opt_write_zero)),
            ("opt-discard", self.opt_discard, align),
            ("max-discard", self.max_discard, align.max(self.opt_discard)),
        ] {
            if value != 0 && (value >= INT_MAX || !value.is_multiple_of(unit.max(1))) {
                return refuse(name, value);
            }
        }
        Ok(())
    }

    /// The node's request alignment in bytes (`blkdebug_refresh_limits`).
    #[must_use]
    pub fn request_alignment(&self) -> u64 {
        self.align.max(1)
    }

    /// Whether a request is below the size the node accepts, so that it answers ENOTSUP before any rule is looked at
    /// (`blkdebug_co_pwrite_zeroes`, `blkdebug_co_pdiscard`). Lengths in bytes.
    #[must_use]
    pub fn too_small(&self, iotype: IoType, bytes: u64) -> bool {
        match iotype {
            IoType::WriteZeroes => bytes < self.request_alignment().max(self.opt_write_zero),
            IoType::Discard => bytes < self.request_alignment(),
            IoType::Read | IoType::Write | IoType::Flush | IoType::BlockStatus => false,
        }
    }
}

/// The state of one blkdebug node (`BDRVBlkdebugState`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blkdebug {
    state: i32,
    rules: Arc<[Rule]>,
    /// Bit n: some rule or breakpoint may listen to the event of discriminant n. Most events of most runs end here.
    listened: u64,
    /// The inject rules in force, first listed first. Always indices of inject-error rules.
    active: Vec<RuleIndex>,
    /// `once` rules that have fired, and so are deleted; sorted.
    spent: Vec<RuleIndex>,
    /// Newest first, as they stand before all configured rules in QEMU's lists.
    breakpoints: Vec<Breakpoint>,
    /// Newest first.
    suspended: Vec<Suspended>,
    limits: Limits,
    /// How many requests each inject rule is yet to let through that it would hit, by rule. Unlike QEMU, where it is always none.
    spare: Option<Vec<u32>>,
}

const _: () = assert!(BlkdebugEvent::ALL.len() <= 64, "events do not fit the bit mask");

impl Blkdebug {
    /// A node with these rules, in state 1, before its own `none` event (which the caller fires when it has opened
    /// the node below). Rules of the config file are to stand before those of the options; inject-error and
    /// set-state rules may be mixed, they are sorted here (`blkdebug.c:read_config`).
    #[must_use]
    pub fn new(rules: &[Rule], limits: Limits) -> Blkdebug {
        let is_inject = |r: &&Rule| matches!(r.action, Action::InjectError(_));
        let ordered: Arc<[Rule]> =
            rules.iter().filter(is_inject).chain(rules.iter().filter(|r| !is_inject(r))).copied().collect();
        let listened = ordered.iter().fold(0, |bits, r| bits | 1 << r.event as u64);
        Blkdebug {
            state: 1,
            rules: ordered,
            listened,
            active: Vec::new(),
            spent: Vec::new(),
            breakpoints: Vec::new(),
            suspended: Vec::new(),
            limits,
            spare: None,
        }
    }

    /// How many inject rules are yet to be told where they strike ([`Blkdebug::set_spare`]).
    #[must_use]
    pub fn unspared(&self) -> u32 {
        let inject = |r: &&Rule| matches!(r.action, Action::InjectError(_));
        if self.spare.is_some() {
            0
        } else {
            u32::try_from(self.rules.iter().filter(inject).count()).unwrap_or(u32::MAX)
        }
    }

    /// Says of each inject rule how many requests it lets through that it would hit.
    pub fn set_spare(&mut self, spare: Vec<u32>) {
        self.spare = Some(spare);
    }

    /// Whether a rule or breakpoint waits for this event: if not, it need not be reported.
    #[must_use]
    pub fn listens(&self, event: BlkdebugEvent) -> bool {
        self.listened & (1 << event as u64) != 0
    }

    /// `state`: rules with another number do not fire.
    #[must_use]
    pub fn state(&self) -> i32 {
        self.state
    }

    /// The limits the node was opened with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The rule of that index, also after it was spent.
    #[must_use]
    pub fn rule(&self, index: RuleIndex) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    /// The inject-error rules in force, in the order in which requests are held against them.
    #[must_use]
    pub fn active(&self) -> &[RuleIndex] {
        &self.active
    }

    /// Fires an event on behalf of a request (`blkdebug.c:blkdebug_co_debug_event`).
    ///
    /// All rules are held against the state before the event. Matching inject rules replace the active list; of
    /// several set-state rules the first listed wins, because QEMU visits it last.
    pub fn event(&mut self, event: BlkdebugEvent, request: u32) -> Effects {
        let mut effects = Effects::default();
        if self.listened & (1 << event as u64) == 0 {
            return effects;
        }
        let from = self.state;
        for (rule, index) in self.rules.iter().zip(0..) {
            if !rule.listens(event, from) || self.spent.binary_search(&index).is_ok() {
                continue;
            }
            match rule.action {
                Action::InjectError(_) => {
                    if !effects.armed {
                        self.active.clear();
                        effects.armed = true;
                    }
                    self.active.push(index);
                }
                Action::SetState { new_state } => {
                    if effects.state.is_none() {
                        effects.state = Some(StateChange { rule: index, from, to: new_state });
                    }
                }
            }
        }
        if let Some(change) = effects.state {
            self.state = change.to;
        }
        self.suspend(event, request, &mut effects.suspended);
        effects
    }

    fn suspend(&mut self, event: BlkdebugEvent, request: u32, tags: &mut Vec<Arc<str>>) {
        if self.breakpoints.is_empty() {
            return;
        }
        let suspended = &mut self.suspended;
        self.breakpoints.retain(|b| {
            if b.event == event {
                suspended.insert(0, Suspended { tag: b.tag.clone(), request });
                tags.push(b.tag.clone());
            }
            b.event != event
        });
    }

    /// Holds a request against the limits and the active rules before it may go to the node below; consumes a `once`
    /// rule that hits. Offset and length in bytes of the file below; a flush has length 0
    /// (`blkdebug.c:rule_check` and its callers).
    pub fn check(&mut self, iotype: IoType, offset: u64, bytes: u64) -> Option<Failure> {
        if self.limits.too_small(iotype, bytes) {
            return Some(Failure { rule: None, errno: Errno::ENOTSUP, immediately: true });
        }
        let (place, inject) =
            self.active.iter().enumerate().find_map(|(place, index)| match self.rules[*index as usize].action {
                Action::InjectError(inject) if inject.hits(iotype, offset, bytes) => Some((place, inject)),
                _ => None,
            })?;
        if inject.errno == Errno(0) {
            return None;
        }
        let index = self.active[place];
        if let Some(left) = self.spare.as_mut().and_then(|spare| spare.get_mut(index as usize))
            && *left > 0
        {
            *left -= 1;
            return None;
        }
        if inject.once {
            self.active.remove(place);
            if let Err(at) = self.spent.binary_search(&index) {
                self.spent.insert(at, index);
            }
        }
        Some(Failure { rule: Some(index), errno: inject.errno, immediately: inject.immediately })
    }

    /// Whether it may still make a request fail or wait.
    #[must_use]
    pub fn can_strike(&self) -> bool {
        let injects = |(index, rule): (RuleIndex, &Rule)| {
            matches!(rule.action, Action::InjectError(_)) && !self.spent.contains(&index)
        };
        (0..).zip(self.rules.iter()).any(injects) || !self.breakpoints.is_empty() || !self.suspended.is_empty()
    }

    /// Whether a rule says `once`.
    #[must_use]
    pub fn fires_once(&self, rule: RuleIndex) -> bool {
        matches!(self.rules.get(rule as usize).map(|rule| &rule.action), Some(Action::InjectError(inject)) if inject.once)
    }

    /// What a `once` rule that fired did before QEMU 2.3: the active rules were dropped, all of them, and the rule itself stayed.
    pub fn rearm(&mut self, rule: RuleIndex) {
        self.active.clear();
        self.spent.retain(|spent| *spent != rule);
    }

    /// `break EVENT TAG`: the next request that fires the event is suspended, whatever the state
    /// (`blkdebug.c:blkdebug_debug_breakpoint`).
    ///
    /// # Errors
    /// ENOENT if there is no event of that name.
    pub fn set_break(&mut self, event: &str, tag: &str) -> Result<(), Errno> {
        let event = BlkdebugEvent::from_name(event).ok_or(Errno::ENOENT)?;
        self.breakpoints.insert(0, Breakpoint { event, tag: tag.into() });
        self.listened |= 1 << event as u64;
        Ok(())
    }

    /// `resume TAG`: resumes the most recently suspended request with that tag
    /// (`blkdebug.c:blkdebug_debug_resume`). QEMU prints [`resuming_text`].
    ///
    /// # Errors
    /// ENOENT if none is suspended under the tag.
    pub fn resume(&mut self, tag: &str) -> Result<Resumed, Errno> {
        let place = self.suspended.iter().position(|s| &*s.tag == tag).ok_or(Errno::ENOENT)?;
        let request = self.suspended.remove(place).request;
        let runs = self.suspended.iter().all(|s| s.request != request);
        Ok(Resumed { request, runs })
    }

    /// `remove_break TAG`: removes all breakpoints with the tag and resumes all requests suspended under it, most
    /// recently suspended first (`blkdebug.c:blkdebug_debug_remove_breakpoint`). QEMU prints [`resuming_text`] for
    /// each and runs each up to its next yield before it goes on to the next.
    ///
    /// The second value is the command's result: ENOENT unless a *breakpoint* was removed; requests that were
    /// resumed do not count, as QEMU's resume-all loop ends with its "not found".
    pub fn remove_break(&mut self, tag: &str) -> (Vec<Resumed>, Result<(), Errno>) {
        let before = self.breakpoints.len();
        self.breakpoints.retain(|b| &*b.tag != tag);
        let result = if self.breakpoints.len() < before { Ok(()) } else { Err(Errno::ENOENT) };
        let mut resumed = Vec::new();
        while let Ok(one) = self.resume(tag) {
            resumed.push(one);
        }
        (resumed, result)
    }

    /// What `wait_break TAG` waits for: a request suspended under the tag (`blkdebug.c:blkdebug_debug_is_suspended`).
    #[must_use]
    pub fn is_suspended(&self, tag: &str) -> bool {
        self.suspended.iter().any(|s| &*s.tag == tag)
    }

    /// The suspended requests and their tags, most recently suspended first.
    pub fn suspended(&self) -> impl Iterator<Item = (u32, &str)> {
        self.suspended.iter().map(|s| (s.request, &*s.tag))
    }
}

/// The line on standard output when a request is suspended, without its line end.
#[must_use]
pub fn suspended_text(tag: &str) -> String {
    format!("blkdebug: Suspended request '{tag}'")
}

/// The line on standard output when a request is resumed, without its line end.
#[must_use]
pub fn resuming_text(tag: &str) -> String {
    format!("blkdebug: Resuming request '{tag}'")
}

/// Splits a pseudo file name `blkdebug:CONFIG:IMAGE` or `blkdebug::IMAGE` into config file (if any) and image
/// (`blkdebug.c:blkdebug_parse_filename`). A name without the prefix is the image.
///
/// # Errors
/// QEMU's text if the second colon is missing.
pub fn parse_filename(name: &str) -> Result<(Option<&str>, &str), String> {
    let Some(rest) = name.strip_prefix("blkdebug:") else {
        return Ok((None, name));
    };
    match rest.split_once(':') {
        Some(("", image)) => Ok((None, image)),
        Some((config, image)) => Ok((Some(config), image)),
        None => Err("blkdebug requires both config file and image path".to_owned()),
    }
}

#[cfg(test)]
#[path = "blkdebug_tests.rs"]
mod tests;
