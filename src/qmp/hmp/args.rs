//! Arguments of a command of the human monitor (`monitor/hmp.c:monitor_parse_arguments`).

use super::{Refusal, is_space, lossy, skip_space, word};
use crate::block::cvtnum::strtosz;

/// As the type in `args_type` has it: a flag that was given, a string, a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    On,
    Text(String),
    Int(i64),
}

/// What was given, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HmpArgs(Vec<(&'static str, Value)>);

impl HmpArgs {
    /// `qdict_get_try_str`
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// `qdict_get_try_int`
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// An option without a value: whether it was given.
    #[must_use]
    pub fn on(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::On)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Reads the arguments behind `at`. `spec` is QEMU's `args_type`.
    ///
    /// # Errors
    /// What QEMU says, without the line about help.
    pub(super) fn read(name: &str, spec: &'static str, line: &[u8], at: usize) -> Result<HmpArgs, Refusal> {
        let mut reader = Reader { name, line, at, args: HmpArgs::default() };
        let mut rest = spec;
        while !rest.is_empty() {
            let (argument, after) = rest.split_once(',').unwrap_or((rest, ""));
            let (key, kind) = argument.split_once(':').unwrap_or((argument, "s"));
            reader.argument(key, kind, after)?;
            rest = after;
        }
        if skip_space(line, reader.at) < line.len() {
            return Err(reader.refuse("extraneous characters at the end of line\r\n"));
        }
        Ok(reader.args)
    }
}

struct Reader<'a> {
    name: &'a str,
    line: &'a [u8],
    at: usize,
    args: HmpArgs,
}

impl Reader<'_> {
    fn refuse(&self, text: &str) -> Refusal {
        Refusal { reply: format!("{}: {text}", self.name), stdout: String::new() }
    }

    fn take(&mut self, key: &'static str, value: Value) {
        self.args.0.push((key, value));
    }

    fn argument(&mut self, key: &'static str, kind: &str, after: &str) -> Result<(), Refusal> {
        let start = skip_space(self.line, self.at);
        let rest = &self.line[start..];
        if let Some(letter) = kind.strip_prefix('-') {
            return self.option(key, letter.as_bytes()[0], after);
        }
        if rest.is_empty() && kind.ends_with(['?', 'O']) {
            self.at = start;
            return Ok(());
        }
        match kind.as_bytes()[0] {
            b'S' if rest.is_empty() => return Err(self.refuse("string expected\r\n")),
            b'S' => {
                self.take(key, Value::Text(lossy(rest)));
                self.at = self.line.len();
            }
            b'l' => {
                let (number, len) = integer(rest)?;
                self.take(key, Value::Int(number));
                self.at = start + len;
            }
            b'o' => {
                let (bytes, len) = size(rest)?;
                self.take(key, Value::Int(bytes));
                self.at = start + len;
            }
            kind => {
                let expected = match kind {
                    b'F' => "filename expected\r\n",
                    b'B' => "block device name expected\r\n",
                    _ => "string expected\r\n",
                };
                let (text, at) =
                    word(self.line, self.at).map_err(|stdout| Refusal { stdout, ..self.refuse(expected) })?;
                self.take(key, Value::Text(text));
                self.at = at;
            }
        }
        Ok(())
    }

    /// An option of one letter. One that belongs to an argument further on is left for that.
    fn option(&mut self, key: &'static str, letter: u8, after: &str) -> Result<(), Refusal> {
        let start = skip_space(self.line, self.at);
        if self.line.get(start) != Some(&b'-') {
            return Ok(());
        }
        match self.line.get(start + 1) {
            Some(given) if *given == letter => {
                self.take(key, Value::On);
                self.at = start + 2;
                Ok(())
            }
            Some(given) if after.contains(&format!("-{}", *given as char)) => Ok(()),
            // QEMU prints the end of the string here, and with it loses the line end.
            None => Err(self.refuse("unsupported option -")),
            Some(_) => {
                let option = lossy(&self.line[start + 1..start + 2]);
                Err(self.refuse(&format!("unsupported option -{option}\r\n")))
            }
        }
    }
}

fn plain(text: String) -> Refusal {
    Refusal { reply: text, stdout: String::new() }
}

/// A number and its length, as `strtoull` reads it. Unlike QEMU (`get_expr`), this is all there is of expressions.
fn integer(text: &[u8]) -> Result<(i64, usize), Refusal> {
    let negative = text.first() == Some(&b'-');
    let signed = usize::from(negative || text.first() == Some(&b'+'));
    let (base, prefix) = match &text[signed..] {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (16, 2),
        [b'0', ..] => (8, 0),
        _ => (10, 0),
    };
    let digits = &text[signed + prefix..];
    let len = digits.iter().take_while(|b| (**b as char).is_digit(base)).count();
    if len == 0 {
        return Err(match text.get(signed) {
            None => plain("unexpected end of expression\r\n".to_owned()),
            Some(byte) => plain(format!("invalid char '{}' in expression\r\n", *byte as char)),
        });
    }
    let Ok(value) = i64::from_str_radix(&lossy(&digits[..len]), base) else {
        return Err(plain("number too large\r\n".to_owned()));
    };
    Ok((if negative { -value } else { value }, signed + prefix + len))
}

/// A size and its length (`qemu_strtosz_MiB`): without a suffix it is in MiB.
fn size(text: &[u8]) -> Result<(i64, usize), Refusal> {
    let word = text.iter().take_while(|b| !is_space(**b)).count();
    let found = (1..=word).rev().find_map(|len| {
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let bare = text.ends_with(|c: char| c.is_ascii_digit() || c == '.') && !text.starts_with("0x");
        let bytes = if bare { strtosz(&format!("{text}M")) } else { strtosz(text) };
        Some((i64::try_from(bytes.ok()?).ok()?, len))
    });
    found.ok_or_else(|| plain("invalid size\r\n".to_owned()))
}
