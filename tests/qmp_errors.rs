//! The QMP parser against replies recorded from a real QEMU, and against hostile input.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use blockjob_sim::base::Json;
use blockjob_sim::qmp::drive::{DriveOptions, json_filename};
use blockjob_sim::qmp::json::{Parsed, Parser, parse_one};
use blockjob_sim::qmp::print::{MemberOrder, to_text};
use blockjob_sim::qmp::request::{parse_request, reply};
use blockjob_sim::qmp::types::BlockdevOptions;
use blockjob_sim::version::Version;
use proptest::prelude::*;

const RECORDED: &str = include_str!("data/qmp-errors.jsonl");

const OPTIONS: &str = include_str!("data/blockdev-options.jsonl");

/// What a negotiated monitor answers, as far as parsing decides that.
fn answer(parsed: Parsed) -> String {
    let (outcome, id) = match parsed {
        Err(error) => (Err(error), None),
        Ok(value) => match parse_request(&value, false) {
            Err((error, id)) => (Err(error), id),
            Ok(request) => match request.typed(true, Version::default()) {
                Ok(_) => return "accepted".into(),
                Err(error) => (Err(error), request.id),
            },
        },
    };
    to_text(&reply(outcome, id), MemberOrder::Wire)
}

fn answers(input: &[u8]) -> Vec<String> {
    Parser::new().feed(input).into_iter().map(answer).collect()
}

fn bytes_of(case: &Json) -> Vec<u8> {
    if let Some(text) = case.get("request").and_then(Json::as_str) {
        return text.as_bytes().to_vec();
    }
    let hex = case.get("hex").and_then(Json::as_str).expect("request or hex");
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn errors_are_those_of_qemu() {
    let mut differ = Vec::new();
    let mut cases = 0;
    for line in RECORDED.lines().skip(1) {
        let case = parse_one(line).expect("a recorded line");
        let input = bytes_of(&case);
        let replies = case.get("replies").and_then(Json::as_list).expect("replies");
        let recorded: Vec<String> = replies.iter().filter_map(Json::as_str).map(String::from).collect();
        let ours = answers(&input);
        cases += 1;
        if ours != recorded {
            differ.push(format!("{}\n  QEMU {recorded:?}\n  ours {ours:?}", String::from_utf8_lossy(&input)));
        }
    }
    assert!(cases > 500, "only {cases} recorded cases");
    assert!(differ.is_empty(), "{} of {cases} differ:\n{}", differ.len(), differ.join("\n"));
}

#[test]
fn input_may_come_in_any_pieces() {
    for line in RECORDED.lines().skip(1).step_by(7) {
        let input = bytes_of(&parse_one(line).expect("a recorded line"));
        let mut parser = Parser::new();
        let split: Vec<String> = input.iter().flat_map(|b| parser.feed(&[*b])).map(answer).collect();
        assert_eq!(split, answers(&input));
    }
}

#[test]
fn option_errors_are_those_of_qemu() {
    for line in OPTIONS.lines().skip(1) {
        let case = parse_one(line).expect("a recorded line");
        let member = |key| case.get(key).and_then(Json::as_str).expect("a string");
        let error = BlockdevOptions::from_option(member("option"), Version::default()).err();
        let ours = error.map_or("OK".to_string(), |e| e.desc.to_string());
        assert_eq!(ours, member("error"), "-blockdev {}", member("option"));
    }
}

#[test]
fn the_deepest_arguments_do_not_exhaust_the_stack() {
    for driver in ["raw", "qcow2", "blkdebug"] {
        let child = if driver == "blkdebug" { "image" } else { "file" };
        for (depth, accepted) in [(100, true), (1022, false)] {
            let open = format!(r#"{{"driver": "{driver}", "{child}": "#).repeat(depth);
            let close = "}".repeat(depth);
            let request = format!(r#"{{"execute": "blockdev-add", "arguments": {open} "x" {close}}}"#);
            assert_eq!(answers(request.as_bytes()) == ["accepted"], accepted);
        }
    }
    for fragments in [200, 1000] {
        let key = "file.".repeat(fragments);
        assert!(BlockdevOptions::from_option(&format!("raw,{key}file=x"), Version::default()).is_err());
    }
}

/// Pieces of which hostile input is made.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\"",
        b"'",
        b"\\",
        b"\\u",
        b"d83d",
        b"0",
        b"-",
        b".",
        b"e",
        b"+",
        b"9",
        b" ",
        b"\n",
        b"\xff",
        b"\xc3",
        b"\x00",
        b"true",
        b"null",
        b"\"execute\":",
        b"\"transaction\"",
        b"\"arguments\":",
        b"\"actions\":",
        b"\"id\":",
        b"18446744073709551616",
    ];
    prop_oneof![proptest::sample::select(words).prop_map(<[u8]>::to_vec), proptest::collection::vec(any::<u8>(), 0..4)]
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(pieces in proptest::collection::vec(piece(), 0..60)) {
        let input = pieces.concat();
        let mut parser = Parser::new();
        let mut found = parser.feed(&input);
        found.extend(parser.flush());
        for parsed in found {
            let text = answer(parsed.clone());
            prop_assert!(text == "accepted" || parse_one(&text).is_ok() || text.contains("inf"));
            if let Ok(value) = parsed {
                let _ = json_filename(&to_text(&value, MemberOrder::Insertion));
                for order in [MemberOrder::Wire, MemberOrder::Sorted, MemberOrder::Insertion] {
                    prop_assert!(!to_text(&value, order).is_empty());
                }
            }
        }
    }

    #[test]
    fn mutated_commands_never_panic(
        line in 1..RECORDED.lines().count(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), piece()), 1..5),
    ) {
        let case = RECORDED.lines().nth(line).map(parse_one).expect("in range").expect("a recorded line");
        let mut input = bytes_of(&case);
        for (at, with) in changes {
            if !input.is_empty() {
                let at = at.index(input.len());
                let end = (at + with.len()).min(input.len());
                input.splice(at..end, with);
            }
        }
        answers(&input);
    }

    #[test]
    fn hostile_options_never_panic(
        text in "(driver=)?(raw|null-co|file)?(,|\\.|=|[a-z0-9_-]{1,4}|file|size|\\PC){0,20}",
    ) {
        let _ = BlockdevOptions::from_option(&text, Version::default());
        let _ = DriveOptions::parse(&text);
    }

    #[test]
    fn printed_json_reads_back(text in "\\PC*", n in any::<i64>()) {
        let value = Json::dict(vec![("text", Json::str(&text)), (&text, Json::from(n))]);
        let back = parse_one(&to_text(&value, MemberOrder::Insertion));
        let noncharacter = text.chars().any(blockjob_sim::qmp::print::is_noncharacter);
        prop_assert!(noncharacter || text == "text" || back == Ok(value));
    }
}
