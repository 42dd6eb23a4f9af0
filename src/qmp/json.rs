//! QEMU's JSON dialect as a stream (qobject/json-streamer.c, qobject/json-parser.c).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::QmpError;
use super::lexer::{Lexer, TokenKind};
use super::print::is_noncharacter;
use crate::base::Json;

/// Bytes of tokens a value may have (`MAX_TOKEN_SIZE`).
const MAX_TOKEN_SIZE: usize = 64 << 20;
/// Tokens a value may have (`MAX_TOKEN_COUNT`).
const MAX_TOKEN_COUNT: usize = 2 << 20;
/// How deep a value may be nested (`MAX_NESTING`).
const MAX_NESTING: i64 = 1 << 10;
/// Members of an object up to which duplicates are looked for one by one.
const FEW: usize = 16;

/// A complete value, or what was wrong with the input.
pub type Parsed = Result<Json, QmpError>;

/// Reads a stream of JSON values. Nothing needs to stand between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parser {
    lexer: Lexer,
    tokens: Tokens,
}

/// The tokens of the value that is being read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Tokens {
    /// TokenKind of each token and where in `text` it ends.
    list: Vec<(TokenKind, usize)>,
    /// The tokens' bytes.
    text: Vec<u8>,
    /// `{` minus `}`.
    braces: i64,
    /// `[` minus `]`.
    brackets: i64,
}

impl Parser {
    /// A parser at the beginning of its input.
    #[must_use]
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Whether nothing of a value was begun.
    #[must_use]
    pub fn is_between_values(&self) -> bool {
        self.tokens.list.is_empty() && self.lexer.pending() == 0
    }

    /// Takes more input; gives the values and errors that are complete with it, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Parsed> {
        let mut out = Vec::new();
        for byte in bytes {
            let tokens = &mut self.tokens;
            self.lexer.feed(*byte, |kind, text| out.extend(tokens.add(kind, text)));
            if self.lexer.pending() > MAX_TOKEN_SIZE {
                self.lexer.reset();
                out.push(self.tokens.give_up("JSON token size limit exceeded"));
            }
        }
        out
    }

    /// The end of the input; gives what is still owed.
    pub fn flush(&mut self) -> Vec<Parsed> {
        let mut out = Vec::new();
        let tokens = &mut self.tokens;
        self.lexer.flush(|kind, text| out.extend(tokens.add(kind, text)));
        if !tokens.list.is_empty() {
            out.push(tokens.parse());
        }
        out
    }
}

/// Parses a text that must be one value (qobject/qjson.c:qobject_from_json).
///
/// # Errors
/// Syntax errors, nothing at all, or more than one value.
pub fn parse_one(text: &str) -> Parsed {
    let mut parser = Parser::new();
    // A C string ends at its first NUL.
    let text = text.split('\0').next().unwrap_or_default();
    let mut found = parser.feed(text.as_bytes());
    found.extend(parser.flush());
    let mut result: Option<Parsed> = None;
    for next in found {
        result = Some(match result {
            None => next,
            Some(Ok(_)) => Err(QmpError::generic("Expecting at most one JSON value")),
            Some(Err(first)) => Err(first),
        });
    }
    result.unwrap_or_else(|| Err(QmpError::generic("Expecting a JSON value")))
}

/// `parse_error`: QEMU has room for 1023 bytes.
fn parse_error(text: &str) -> QmpError {
    let end = text.floor_char_boundary(1023);
    QmpError::generic(format!("JSON parse error, {}", &text[..end]))
}

impl Tokens {
    /// `json_message_process_token`: one more token; gives a result if that ends the value.
    fn add(&mut self, kind: TokenKind, text: &[u8]) -> Option<Parsed> {
        match kind {
            TokenKind::LCurly => self.braces += 1,
            TokenKind::RCurly => self.braces -= 1,
            TokenKind::LSquare => self.brackets += 1,
            TokenKind::RSquare => self.brackets -= 1,
            TokenKind::Error => {
                let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
                let error = QmpError::generic(format!("JSON parse error, stray '{}'", lossy(&text[..end])));
                self.clear();
                return Some(Err(error));
            }
            _ => {}
        }
        if self.text.len() + text.len() + 1 > MAX_TOKEN_SIZE {
            return Some(self.give_up("JSON token size limit exceeded"));
        }
        if self.list.len() + 1 > MAX_TOKEN_COUNT {
            return Some(self.give_up("JSON token count limit exceeded"));
        }
        if self.brackets + self.braces > MAX_NESTING {
            return Some(self.give_up("JSON nesting depth limit exceeded"));
        }
        self.text.extend_from_slice(text);
        self.list.push((kind, self.text.len()));
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 { None } else { Some(self.parse()) }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.text.clear();
        (self.braces, self.brackets) = (0, 0);
    }

    fn give_up(&mut self, why: &str) -> Parsed {
        self.clear();
        Err(QmpError::generic(why))
    }

    fn parse(&mut self) -> Parsed {
        let result = Grammar { tokens: self, next: 0, start: 0 }.value();
        self.clear();
        result
    }
}

/// The grammar over the tokens of one value. It keeps a stack of its own, so that the deepest
/// input needs no more of the thread's stack than any other.
struct Grammar<'t> {
    tokens: &'t Tokens,
    /// Index of the next token.
    next: usize,
    /// Where its text starts.
    start: usize,
}

/// A container that is being read.
enum Open {
    Dict(OpenDict),
    List(Vec<Json>),
}

/// An object that is being read.
#[derive(Default)]
struct OpenDict {
    members: Vec<(Arc<str>, Json)>,
    /// The keys, once there are many.
    keys: BTreeSet<Arc<str>>,
    /// The key of the value that comes next.
    key: Option<Arc<str>>,
}

impl<'t> Grammar<'t> {
    fn peek(&self) -> Result<TokenKind, QmpError> {
        self.tokens.list.get(self.next).map(|(kind, _)| *kind).ok_or_else(|| parse_error("premature EOI"))
    }

    fn pop(&mut self) -> Result<(TokenKind, &'t [u8]), QmpError> {
        let kind = self.peek()?;
        let end = self.tokens.list[self.next].1;
        let text = &self.tokens.text[self.start..end];
        self.next += 1;
        self.start = end;
        Ok((kind, text))
    }

    /// Reads the value that the tokens are.
    fn value(&mut self) -> Parsed {
        let mut stack: Vec<Open> = Vec::new();
        loop {
            let Some(mut value) = self.begin(&mut stack)? else { continue };
            // A value is complete: it goes into the innermost open container, which may complete that.
            loop {
                let (end, otherwise) = match stack.last_mut() {
                    None => return Ok(value),
                    Some(Open::List(items)) => {
                        items.push(value);
                        (TokenKind::RSquare, "expected separator in list")
                    }
                    Some(Open::Dict(dict)) => {
                        let Some(key) = dict.key.take() else {
                            self.key(dict, value)?;
                            break;
                        };
                        dict.put(key, value)?;
                        (TokenKind::RCurly, "expected separator in dict")
                    }
                };
                match self.pop()?.0 {
                    TokenKind::Comma => break,
                    kind if kind == end => {}
                    _ => return Err(parse_error(otherwise)),
                }
                value = match stack.pop() {
                    Some(Open::List(items)) => Json::list(items),
                    Some(Open::Dict(dict)) => Json::Dict(Arc::new(dict.members)),
                    None => Json::Null,
                };
            }
        }
    }

    /// Reads a scalar or an empty container, or opens a container.
    fn begin(&mut self, stack: &mut Vec<Open>) -> Result<Option<Json>, QmpError> {
        Ok(Some(match self.peek()? {
            open @ (TokenKind::LCurly | TokenKind::LSquare) => {
                self.pop()?;
                let (end, empty, opened) = match open {
                    TokenKind::LCurly => (TokenKind::RCurly, Json::empty(), Open::Dict(OpenDict::default())),
                    _ => (TokenKind::RSquare, Json::list(Vec::new()), Open::List(Vec::new())),
                };
                if self.peek()? != end {
                    stack.push(opened);
                    return Ok(None);
                }
                self.pop()?;
                empty
            }
            TokenKind::Integer => integer(&ascii(self.pop()?.1)),
            TokenKind::Float => Json::Number(print_double(&ascii(self.pop()?.1)).into()),
            TokenKind::String => Json::Str(string(self.pop()?.1)?.into()),
            TokenKind::Keyword => match self.pop()?.1 {
                b"true" => Json::Bool(true),
                b"false" => Json::Bool(false),
                b"null" => Json::Null,
                word => return Err(parse_error(&format!("invalid keyword '{}'", ascii(word)))),
            },
            _ => return Err(parse_error("expecting value")),
        }))
    }

    /// Takes a value as the key of the next member.
    fn key(&mut self, dict: &mut OpenDict, value: Json) -> Result<(), QmpError> {
        let Json::Str(key) = value else {
            return Err(parse_error("key is not a string in object"));
        };
        if self.pop()?.0 != TokenKind::Colon {
            return Err(parse_error("missing : in object pair"));
        }
        dict.key = Some(key);
        Ok(())
    }
}

impl OpenDict {
    fn put(&mut self, key: Arc<str>, value: Json) -> Result<(), QmpError> {
        let known = if self.members.len() < FEW {
            self.members.iter().any(|(k, _)| *k == key)
        } else {
            if self.keys.is_empty() {
                self.keys.extend(self.members.iter().map(|(k, _)| k.clone()));
            }
            !self.keys.insert(key.clone())
        };
        if known {
            return Err(parse_error("duplicate key"));
        }
        self.members.push((key, value));
        Ok(())
    }
}

/// Tokens other than strings and errors are ASCII.
fn ascii(text: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text)
}

fn integer(text: &str) -> Json {
    if let Ok(n) = text.parse::<i64>() {
        return Json::Int(n);
    }
    match text.parse::<u64>() {
        Ok(n) => Json::Uint(n),
        Err(_) => Json::Number(print_double(text).into()),
    }
}

/// What QEMU prints for a number it holds as a double (`%.17g`). Reading and printing are exact,
/// so the text is the same everywhere.
fn print_double(text: &str) -> String {
    let value: f64 = text.parse().unwrap_or(0.0);
    if value.is_infinite() {
        return if value < 0.0 { "-inf".into() } else { "inf".into() };
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => s.to_string(),
    };
    if (-4..17).contains(&exponent) {
        let decimals = usize::try_from(16 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.unsigned_abs())
}

/// `parse_string`: the content of a string token.
fn string(token: &[u8]) -> Result<String, QmpError> {
    let body = &token[1..token.len() - 1];
    let mut rest = body;
    let mut out = String::with_capacity(body.len());
    while let Some(first) = rest.first() {
        if *first != b'\\' {
            let (c, len) = code_point(rest);
            out.push(c.ok_or_else(|| parse_error("invalid UTF-8 sequence in string"))?);
            rest = &rest[len..];
            continue;
        }
        let simple = match rest.get(1) {
            Some(c @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(*c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let from = token.len() - 1 - rest.len();
                let (c, len) = unicode_escape(&token[from..])?;
                out.push(c);
                rest = &rest[len..];
                continue;
            }
            _ => return Err(parse_error("invalid escape sequence in string")),
        };
        out.push(simple);
        rest = &rest[2..];
    }
    Ok(out)
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |n, b| char::from(*b).to_digit(16).map(|d| n << 4 | d))
}

/// A `\u` escape, two if they make a surrogate pair: the character and the bytes it takes.
/// `text` goes on to the end of the token.
fn unicode_escape(text: &[u8]) -> Result<(char, usize), QmpError> {
    let mut code = hex4(&text[2..]);
    let mut len = 6;
    if let Some(high @ 0xD800..=0xDBFF) = code
        && text[6..].starts_with(b"\\u")
    {
        code = match hex4(&text[8..]) {
            Some(low @ 0xDC00..=0xDFFF) => {
                len = 12;
                Some(0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF))
            }
            _ => None,
        };
    }
    match code.and_then(char::from_u32).filter(|c| !is_noncharacter(*c)) {
        Some(c) => Ok((c, len)),
        None => {
            let shown = lossy(&text[..len.min(text.len())]);
            Err(parse_error(&format!("{shown} is not a valid Unicode character")))
        }
    }
}

/// `mod_utf8_codepoint` (util/unicode.c): the character at the start of `bytes` (`None` if it is invalid)
/// and how many bytes it takes. U+0000 is `C0 80`.
fn code_point(bytes: &[u8]) -> (Option<char>, usize) {
    let first = bytes[0];
    if first < 0x80 {
        return (Some(char::from(first)), 1);
    }
    if first >= 0xFE || first & 0x40 == 0 {
        return (None, 1);
    }
    let len = first.leading_ones() as usize;
    let mut code = u32::from(first) & (0x7F >> len);
    for i in 1..len {
        match bytes.get(i) {
            Some(b) if b & 0xC0 == 0x80 => code = code << 6 | u32::from(b & 0x3F),
            _ => return (None, i),
        }
    }
    const LEAST: [u32; 5] = [0x80, 0x800, 0x1_0000, 0x20_0000, 0x400_0000];
    let overlong = code < LEAST[len - 2] && !(code == 0 && len == 2);
    (char::from_u32(code).filter(|c| !overlong && !is_noncharacter(*c)), len)
}

/// Bytes as QEMU prints them in an error: what is invalid becomes U+FFFD.
fn lossy(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (c, len) = code_point(rest);
        out.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = &rest[len..];
    }
    out
}
