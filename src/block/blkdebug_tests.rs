//! Tests of the rule engine: the documented traps one by one, and random runs against a naive model.

use super::*;
use proptest::prelude::*;

fn inject(event: BlkdebugEvent, state: i32, errno: Errno) -> Rule {
    Rule { event, state, action: Action::InjectError(InjectError { errno, ..InjectError::default() }) }
}

fn set_state(event: BlkdebugEvent, state: i32, new_state: i32) -> Rule {
    Rule { event, state, action: Action::SetState { new_state } }
}

fn node(rules: &[Rule]) -> Blkdebug {
    Blkdebug::new(rules, Limits::default())
}

const EV: BlkdebugEvent = BlkdebugEvent::FlushToDisk;
const OTHER: BlkdebugEvent = BlkdebugEvent::WriteAio;

fn errno(f: Option<Failure>) -> Option<Errno> {
    f.map(|f| f.errno)
}

#[test]
fn the_first_listed_set_state_wins() {
    let mut n = node(&[set_state(EV, 0, 2), set_state(EV, 0, 3)]);
    let change = n.event(EV, 0).state.unwrap();
    assert_eq!((change.rule, change.from, change.to), (0, 1, 2));
    assert_eq!(n.state(), 2);
}

#[test]
fn a_chain_of_states_advances_one_step_per_event() {
    let mut n = node(&[set_state(EV, 1, 2), set_state(EV, 2, 3), inject(EV, 2, Errno::EIO)]);
    assert!(!n.event(EV, 0).armed, "the state before the event counts");
    assert_eq!(n.state(), 2);
    assert!(n.event(EV, 0).armed);
    assert_eq!(n.state(), 3);
    assert!(!n.event(EV, 0).armed);
    assert_eq!(n.active(), [0], "an event without matching inject rules leaves the active list");
}

#[test]
fn active_rules_hit_all_later_requests_until_replaced() {
    let heal = Rule {
        event: OTHER,
        state: 0,
        action: Action::InjectError(InjectError {
            iotype: IoTypeMask::only(IoType::BlockStatus),
            ..InjectError::default()
        }),
    };
    let mut n = node(&[inject(EV, 0, Errno::ENOSPC), heal]);
    assert_eq!(n.check(IoType::Read, 0, 512), None);
    n.event(EV, 0);
    for t in [IoType::Read, IoType::Write, IoType::WriteZeroes, IoType::Discard, IoType::Flush] {
        assert_eq!(errno(n.check(t, 0, 512)), Some(Errno::ENOSPC), "{}", t.name());
    }
    assert_eq!(n.check(IoType::BlockStatus, 0, 512), None);
    n.event(OTHER, 0);
    assert_eq!(n.check(IoType::Read, 0, 512), None);
    assert_eq!(n.check(IoType::BlockStatus, 0, 512).unwrap().rule, Some(1));
}

#[test]
fn the_sector_lies_in_the_file_and_a_flush_never_touches_one() {
    let rule = Rule {
        event: EV,
        state: 0,
        action: Action::InjectError(InjectError { sector: Some(3), ..InjectError::default() }),
    };
    let mut n = node(&[rule]);
    n.event(EV, 0);
    assert_eq!(n.check(IoType::Read, 0, 1536), None);
    assert!(n.check(IoType::Read, 0, 1537).is_some());
    assert!(n.check(IoType::Read, 1536, 1).is_some());
    assert_eq!(n.check(IoType::Read, 1537, 4096), None);
    assert_eq!(n.check(IoType::Flush, 0, 0), None);
    assert!(n.check(IoType::Read, u64::MAX, u64::MAX).is_none());
}

#[test]
fn errno_zero_hides_the_rules_behind_it_and_is_not_consumed() {
    let zero = Rule {
        event: EV,
        state: 0,
        action: Action::InjectError(InjectError {
            errno: Errno(0),
            once: true,
            iotype: IoTypeMask::only(IoType::Read),
            ..InjectError::default()
        }),
    };
    let mut n = node(&[zero, inject(EV, 0, Errno::EIO)]);
    n.event(EV, 0);
    for _ in 0..3 {
        assert_eq!(n.check(IoType::Read, 0, 512), None);
    }
    assert!(n.check(IoType::Write, 0, 512).is_some());
}

#[test]
fn once_deletes_the_rule_for_good() {
    let rule = Rule {
        event: EV,
        state: 0,
        action: Action::InjectError(InjectError { once: true, immediately: true, ..InjectError::default() }),
    };
    let mut n = node(&[rule]);
    n.event(EV, 0);
    let hit = n.check(IoType::Read, 0, 512).unwrap();
    assert_eq!(hit, Failure { rule: Some(0), errno: Errno::EIO, immediately: true });
    assert_eq!(n.check(IoType::Read, 0, 512), None);
    assert!(!n.event(EV, 0).armed);
}

#[test]
fn two_breakpoints_on_one_event_take_two_resumes() {
    let mut n = node(&[]);
    assert_eq!(n.set_break("nonsense", "A"), Err(Errno::ENOENT));
    n.set_break("flush_to_disk", "A").unwrap();
    n.set_break("flush_to_disk", "B").unwrap();
    let tags = n.event(EV, 7).suspended;
    assert_eq!(tags.iter().map(|t| &**t).collect::<Vec<_>>(), ["B", "A"], "newest first");
    assert!(n.event(EV, 8).suspended.is_empty(), "a breakpoint is used up");
    assert_eq!(n.resume("B"), Ok(Resumed { request: 7, runs: false }));
    assert_eq!(n.resume("B"), Err(Errno::ENOENT));
    assert!(n.is_suspended("A"));
    assert_eq!(n.resume("A"), Ok(Resumed { request: 7, runs: true }));
}

#[test]
fn resume_takes_the_latest_and_remove_break_takes_all() {
    let mut n = node(&[]);
    for request in 1..=3 {
        n.set_break("flush_to_disk", "A").unwrap();
        n.event(EV, request);
    }
    assert_eq!(n.resume("A").unwrap().request, 3);
    let (resumed, result) = n.remove_break("A");
    assert_eq!(resumed.iter().map(|r| r.request).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(result, Err(Errno::ENOENT), "only a breakpoint counts as found");
    n.set_break("flush_to_disk", "A").unwrap();
    assert_eq!(n.remove_break("A"), (vec![], Ok(())));
    assert_eq!(n.remove_break("A"), (vec![], Err(Errno::ENOENT)));
    assert!(n.event(EV, 4).suspended.is_empty());
}

#[test]
fn limits_are_checked_in_qemu_order() {
    let check = |l: Limits| l.check(1).unwrap_err();
    let base = Limits::default();
    assert_eq!(base.check(512), Ok(()));
    assert_eq!(check(Limits { align: 3, ..base }), "Cannot meet constraints with align 3");
    assert_eq!(check(Limits { align: 1 << 31, ..base }), "Cannot meet constraints with align 2147483648");
    let l = Limits { align: 4096, max_transfer: 512, ..base };
    assert_eq!(check(l), "Cannot meet constraints with max-transfer 512");
    let l = Limits { opt_write_zero: 65536, max_write_zero: 4096, ..base };
    assert_eq!(check(l), "Cannot meet constraints with max-write-zero 4096");
    let l = Limits { opt_discard: 3, max_discard: 4, ..base };
    assert_eq!(check(l), "Cannot meet constraints with max-discard 4");
    assert_eq!(
        Limits { opt_discard: 100, ..base }.check(512).unwrap_err(),
        "Cannot meet constraints with opt-discard 100"
    );
}

#[test]
fn requests_below_the_limits_are_not_supported() {
    let limits = Limits { align: 512, opt_write_zero: 4096, ..Limits::default() };
    let mut n = Blkdebug::new(&[inject(EV, 0, Errno::EIO)], limits);
    n.event(EV, 0);
    assert_eq!(n.check(IoType::WriteZeroes, 0, 2048).unwrap().errno, Errno::ENOTSUP);
    assert_eq!(n.check(IoType::WriteZeroes, 0, 4096).unwrap().errno, Errno::EIO);
    assert_eq!(n.check(IoType::Discard, 0, 100).unwrap().rule, None);
}

#[test]
fn file_names_split_at_the_second_colon() {
    assert_eq!(parse_filename("blkdebug:a.conf:b:c"), Ok((Some("a.conf"), "b:c")));
    assert_eq!(parse_filename("blkdebug::b"), Ok((None, "b")));
    assert_eq!(parse_filename("b"), Ok((None, "b")));
    assert_eq!(parse_filename("blkdebug:b").unwrap_err(), "blkdebug requires both config file and image path");
}

/// blkdebug as QEMU has it: intrusive lists with the newest rule at the head, walked and edited in place.
#[derive(Default)]
struct Naive {
    state: i32,
    list: Vec<(RuleIndex, Rule)>,
    active: Vec<(RuleIndex, InjectError)>,
}

impl Naive {
    fn new(rules: &[Rule]) -> Naive {
        let mut naive = Naive { state: 1, ..Naive::default() };
        let mut index = 0;
        for want_inject in [true, false] {
            for rule in rules {
                if matches!(rule.action, Action::InjectError(_)) == want_inject {
                    naive.list.insert(0, (index, *rule));
                    index += 1;
                }
            }
        }
        naive
    }

    fn event(&mut self, event: BlkdebugEvent) {
        let mut new_state = self.state;
        let mut injected = 0;
        for (index, rule) in &self.list {
            if rule.event != event || (rule.state != 0 && rule.state != self.state) {
                continue;
            }
            match rule.action {
                Action::InjectError(inject) => {
                    injected += 1;
                    if injected == 1 {
                        self.active = vec![];
                    }
                    self.active.insert(0, (*index, inject));
                }
                Action::SetState { new_state: n } => new_state = n,
            }
        }
        self.state = new_state;
    }

    fn check(&mut self, iotype: IoType, offset: u64, bytes: u64) -> Option<(RuleIndex, Errno)> {
        for (place, (index, inject)) in self.active.iter().enumerate() {
            let touched = inject.sector.is_none_or(|s| (offset..offset + bytes).contains(&(s * 512)));
            if touched && inject.iotype.has(iotype) {
                let (index, errno, once) = (*index, inject.errno, inject.once);
                if errno.0 == 0 {
                    return None;
                }
                if once {
                    self.active.remove(place);
                    self.list.retain(|(i, _)| *i != index);
                }
                return Some((index, errno));
            }
        }
        None
    }
}

const EVENTS: [BlkdebugEvent; 3] = [BlkdebugEvent::L1Update, OTHER, EV];

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![
        2 => (0u32..4, 0usize..8, prop::option::of(0u64..6), any::<bool>()).prop_map(|(errno, t, sector, once)| {
            let iotype = IoType::ALL.get(t).map_or(IoTypeMask::DEFAULT, |(t, _)| IoTypeMask::only(*t));
            Action::InjectError(InjectError { errno: Errno(errno), iotype, sector, once, immediately: false })
        }),
        1 => (0i32..4).prop_map(|new_state| Action::SetState { new_state }),
    ];
    let rule = (prop::sample::select(&EVENTS[..]), 0i32..4, action).prop_map(|(event, state, action)| Rule {
        event,
        state,
        action,
    });
    prop::collection::vec(rule, 0..8)
}

#[derive(Clone, Debug)]
enum Step {
    Event(BlkdebugEvent),
    Check(IoType, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::sample::select(&EVENTS[..]).prop_map(Step::Event),
        (0usize..6, 0u64..3000, 0u64..2000).prop_map(|(t, o, b)| Step::Check(IoType::ALL[t].0, o, b)),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_naive_lists(rules in rules(), steps in prop::collection::vec(step(), 0..40)) {
        let mut engine = node(&rules);
        let mut naive = Naive::new(&rules);
        for s in steps {
            match s {
                Step::Event(e) => {
                    engine.event(e, 0);
                    naive.event(e);
                }
                // Zero-sized zero-writes and discards never get as far as the rules.
                Step::Check(t, o, b) => {
                    let b = if matches!(t, IoType::WriteZeroes | IoType::Discard) { b.max(1) } else { b };
                    let got = engine.check(t, o, b).and_then(|f| f.rule.map(|r| (r, f.errno)));
                    prop_assert_eq!(got, naive.check(t, o, b));
                }
            }
            prop_assert_eq!(engine.state(), naive.state);
            let active: Vec<_> = naive.active.iter().map(|(i, _)| *i).collect();
            prop_assert_eq!(engine.active(), &active[..]);
        }
    }
}
