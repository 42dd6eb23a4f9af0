//! The two ends against each other, and bytes that nobody should send.

use super::*;
use std::sync::Arc;

fn offer() -> Offer {
    Offer {
        id: 3,
        name: "sda".into(),
        description: Some("a disk".into()),
        size: 1 << 20,
        flags: 0x50f,
        alignment: 1,
        max_transfer: 32 << 20,
        allocation_depth: true,
        bitmaps: vec!["b0".into(), "b1".into()],
    }
}

/// Lets a client negotiate; gives both ends.
fn negotiate(wants: Greeting) -> (Talk, Handshake, HandshakeStep) {
    let (mut talk, mut shake) = (Talk::new(wants), Handshake::default());
    talk.receive(&Handshake::greeting());
    let mut input = talk.take_out();
    loop {
        let mut out = Vec::new();
        let step = shake.step(&input, &[offer()], &mut out);
        talk.receive(&out);
        match step {
            HandshakeStep::Went(n) => drop(input.drain(..n)),
            HandshakeStep::More if talk.failure.is_some() => return (talk, shake, HandshakeStep::More),
            HandshakeStep::More => {}
            step => return (talk, shake, step),
        }
        input.extend(talk.take_out());
    }
}

fn wants(export: &str, mode: NbdMode, contexts: &[&str]) -> Greeting {
    Greeting { export: export.into(), mode, contexts: contexts.iter().map(|name| Arc::from(*name)).collect() }
}

#[test]
fn a_client_gets_what_it_asks_for() {
    let asked = ["qemu:dirty-bitmap:b1", "base:allocation", "base:", "nothing:here"];
    let (talk, shake, step) = negotiate(wants("sda", NbdMode::Extended, &asked));
    assert!(matches!(step, HandshakeStep::Chosen(_, 0)), "{step:?}");
    assert!(talk.is_ready());
    assert_eq!((talk.size, talk.flags), (1 << 20, 0x158f));
    let names: Vec<(u32, &str)> = talk.contexts.iter().map(|(id, name)| (*id, &**name)).collect();
    assert_eq!(names, [(0, "base:allocation"), (3, "qemu:dirty-bitmap:b1")]);
    assert_eq!((shake.mode, shake.contexts.count), (NbdMode::Extended, 2));
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let (talk, _, step) = negotiate(wants("nope", NbdMode::Structured, &[]));
    assert_eq!(step, HandshakeStep::More);
    assert_eq!(talk.failure.as_deref(), Some("export 'nope' not present"));
}

#[test]
fn wrong_client_flags_end_the_connection() {
    let mut shake = Handshake::default();
    let step = shake.step(&[0, 0, 0, 0x10], &[], &mut Vec::new());
    assert_eq!(
        step,
        HandshakeStep::Ends(Some("option negotiation failed: Unknown client flags 0x10 received".to_owned()))
    );
}

#[test]
fn what_stands_behind_the_queries_is_the_next_option() {
    let mut shake = Handshake::default();
    assert_eq!(shake.step(&[0, 0, 0, 3], &[], &mut Vec::new()), HandshakeStep::Went(4));
    let mut option = magic::OPTS.to_be_bytes().to_vec();
    option.extend(opt::LIST_META_CONTEXT.to_be_bytes());
    option.extend(13_u32.to_be_bytes());
    option.extend([0, 0, 0, 3, b's', b'd', b'a', 0, 0, 0, 0, 9, 9]);
    assert_eq!(shake.step(&option, &[offer()], &mut Vec::new()), HandshakeStep::Went(16 + 11));
}

#[test]
fn a_request_is_checked_in_the_order_of_qemu() {
    let limits = Limits { mode: NbdMode::Structured, flags: flag::READ_ONLY, size: 1 << 20 };
    let check = |kind, flags, from, len| {
        let mut request = Request { kind, flags, from, len, cookie: 1 };
        let checked = what_comes(&mut request, limits, 0);
        (checked.payload, checked.wrong.unwrap_or_default())
    };
    assert_eq!(check(cmd::READ, 4, 0, 512), (Payload::None, String::new()));
    assert_eq!(check(cmd::READ, 0, 1 << 20, 0), (Payload::None, String::new()));
    let long = "len (33554433) is larger than max len (33554432)".to_owned();
    assert_eq!(check(cmd::READ, 0, 0, (32 << 20) + 1), (Payload::None, long.clone()));
    assert_eq!(check(cmd::WRITE, 0, 0, (32 << 20) + 1), (Payload::Unread, long));
    assert_eq!(check(cmd::WRITE, 64, 2 << 20, 7), (Payload::Data(7), "Export is read-only".to_owned()));
    let past = "operation past EOF; From: 2097152, Len: 7, Size: 1048576".to_owned();
    assert_eq!(check(cmd::CACHE, 64, 2 << 20, 7), (Payload::None, past));
    let flags = "unsupported flags for command flush (got 0x2)".to_owned();
    assert_eq!(check(cmd::FLUSH, 2, 0, 0), (Payload::None, flags));
}

#[test]
fn neighbours_with_the_same_flags_are_one_extent() {
    let mut extents = Extents::new(false, NbdMode::Structured);
    assert!(extents.add(u64::from(u32::MAX) - 1, 3) && extents.add(1, 3) && extents.add(1, 3) && extents.add(0, 0));
    assert_eq!(extents.list(), [(u64::from(u32::MAX), 3), (1, 3)]);
    let mut one = Extents::new(true, NbdMode::Extended);
    assert!(one.add(1 << 40, 0) && one.add(5, 0) && !one.add(5, 1) && !one.add(5, 0));
    assert_eq!(one.list(), [((1 << 40) + 5, 0)]);
}

#[test]
fn no_bytes_make_either_end_panic() {
    // A generator of its own: what it gives is always the same.
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).expect("eight bits")
    };
    for round in 0..20_000_u32 {
        let len = usize::from(next() % 64);
        let mut bytes: Vec<u8> = (0..len).map(|_| next()).collect();
        if round % 2 == 0 {
            let mut head = magic::OPTS.to_be_bytes().to_vec();
            head.extend(u32::from(next() % 13).to_be_bytes());
            head.extend(u32::try_from(len).expect("short").to_be_bytes());
            // Names and counts are often small.
            bytes.iter_mut().for_each(|byte| *byte &= 7);
            bytes = [head, bytes].concat();
        }
        let mut shake = Handshake::default();
        let _ = shake.step(&[0, 0, 0, 3], &[], &mut Vec::new());
        shake.mode = [NbdMode::Simple, NbdMode::Structured, NbdMode::Extended][round as usize % 3];
        if let HandshakeStep::Went(n) | HandshakeStep::Chosen(n, _) = shake.step(&bytes, &[offer()], &mut Vec::new()) {
            assert!(n <= bytes.len());
        }
        let mut talk = Talk::new(wants("sda", NbdMode::Structured, &[]));
        talk.receive(&Handshake::greeting());
        talk.receive(&bytes);
    }
}
