//! Text of a scenario as literals of other languages.
//!
//! A scenario is data, and comes from anywhere: what of it stands in a script stands there as a literal, never as a comment, a
//! here-document or a word as it is. What is not printable ASCII is written as escapes, so that what a reader sees is what runs.

use std::fmt::Write as _;

/// A string of Python 3, in one line of printable ASCII.
#[must_use]
pub fn python(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            ' '..='~' => write!(out, "{c}"),
            '\0'..='\u{ff}' => write!(out, "\\x{:02x}", u32::from(c)),
            '\0'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c)),
            _ => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out + "\""
}

/// A word of Bash, in one line of printable ASCII. No word can have a NUL, neither here nor for a program: it is left out.
#[must_use]
pub fn shell(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_./:,+".contains(c);
    if !text.is_empty() && text.chars().all(bare) {
        return text.to_owned();
    }
    if text.chars().all(|c| matches!(c, ' '..='~')) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut out = String::from("$'");
    for byte in text.bytes().filter(|byte| *byte != 0) {
        _ = match byte {
            b'\'' | b'\\' => write!(out, "\\{}", char::from(byte)),
            b' '..=b'~' => write!(out, "{}", char::from(byte)),
            _ => write!(out, "\\{byte:03o}"),
        };
    }
    out + "'"
}

/// A basic regular expression of `grep` that matches just this text.
#[must_use]
pub fn grep(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if r"\.[]*^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The name of a file as QEMU's tools read it: one that begins with a hyphen is no option, and one with a colon no protocol.
#[must_use]
pub fn file_name(name: &str) -> String {
    let colon = name.split('/').next().is_some_and(|first| first.contains(':'));
    if name.starts_with('-') || colon { format!("./{name}") } else { name.to_owned() }
}

#[cfg(test)]
#[expect(clippy::disallowed_types, clippy::disallowed_macros, reason = "tests run programs")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// What each language could trip over, and anything else.
    fn hostile() -> Vec<String> {
        let piece = prop_oneof![
            Just("'".to_owned()),
            Just("\"".to_owned()),
            Just("\\".to_owned()),
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just("\u{2028}".to_owned()),
            Just("\u{85}".to_owned()),
            Just("\u{202e}".to_owned()),
            Just("\u{1f600}".to_owned()),
            Just("\u{10ffff}".to_owned()),
            Just("$(id)".to_owned()),
            Just("`id`".to_owned()),
            Just("${x}".to_owned()),
            Just("{x}%s".to_owned()),
            Just("!!".to_owned()),
            Just("\"\"\"".to_owned()),
            Just("EOF\n".to_owned()),
            Just("-".to_owned()),
            "\\PC{1,4}",
            any::<char>().prop_map(String::from),
        ];
        let texts = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
        let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        (0..500).map(|_| texts.new_tree(&mut runner).expect("a text").current()).collect()
    }

    fn output(program: &str, args: &[&str], input: &str) -> Option<Vec<u8>> {
        let child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            println!("skipped: no {program}");
            return None;
        };
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}");
        Some(output.stdout)
    }

    fn printable(literal: &str) -> bool {
        literal.chars().all(|c| matches!(c, ' '..='~'))
    }

    #[test]
    fn python_reads_what_was_written() {
        let texts = hostile();
        let lines: String = texts.iter().map(|text| format!("{}\n", python(text))).collect();
        assert!(lines.lines().all(printable) && lines.lines().count() == texts.len());
        let program = "import ast, sys\nfor line in sys.stdin:\n    sys.stdout.buffer.write(ast.literal_eval(line).encode() + b'\\0')";
        let Some(read) = output("python3", &["-c", program], &lines) else { return };
        let wanted: String = texts.iter().map(|text| format!("{text}\0")).collect();
        assert_eq!(String::from_utf8(read).unwrap(), wanted);
    }

    #[test]
    fn bash_reads_what_was_written() {
        let texts = hostile();
        assert!(texts.iter().all(|text| printable(&shell(text))));
        let lines: String = texts.iter().map(|text| format!("printf '%s\\0' {}\n", shell(text))).collect();
        let Some(read) = output("bash", &[], &lines) else { return };
        let wanted: String = texts.iter().map(|text| format!("{}\0", text.replace('\0', ""))).collect();
        assert_eq!(String::from_utf8(read).unwrap(), wanted);
    }

    #[test]
    fn grep_matches_the_text_alone() {
        for text in ["a.b", "[x]*", "^a$", r"a\b", "a*"] {
            let lines = format!("{text}\nab\naxb\nx\naa\n");
            let Some(read) = output("grep", &["-e", &format!("^{}$", grep(text))], &lines) else { return };
            assert_eq!(String::from_utf8(read).unwrap(), format!("{text}\n"));
        }
    }

    #[test]
    fn names_are_no_options_and_no_protocols() {
        assert_eq!(file_name("-o"), "./-o");
        assert_eq!(file_name("--help"), "./--help");
        assert_eq!(file_name("nbd:unix:x"), "./nbd:unix:x");
        assert_eq!(file_name("a/b:c"), "a/b:c");
        assert_eq!(file_name("a.qcow2"), "a.qcow2");
    }

    #[test]
    fn literals() {
        assert_eq!(python("a\r\n\u{e9}\u{2028}\u{1f600}\"\\"), r#""a\x0d\n\xe9\u2028\U0001f600\"\\""#);
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(shell("a\r'b"), r"$'a\015\'b'");
        assert_eq!(shell(""), "''");
    }
}
