//! Kinds of values that stand behind the keys of a scenario: texts, numbers, sizes, words.

use super::error::{Fault, Read};
use super::form::{EachName, NameOf, ValueKind, ValueType};
use super::plan::{ImageFormat, Signal};
use super::tree::{Node, Value};
use super::yaml::{Yaml, duration, json};
use crate::base::Json;
use crate::base::time::{Instant, Span};
use crate::base::units::BDRV_MAX_LENGTH;
use crate::qmp::ErrorClass;
use std::sync::Arc;

/// Kinds: what the schema says, what is read, how it is read, how it is written, and what `check` looks up.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $type:expr, $of:ty, $read:expr, $write:expr $(, $name:expr)?;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(in crate::scenario) struct $kind;

        impl ValueKind for $kind {
            type Of = $of;
            const TYPE: ValueType = $type;

            fn read(node: &Node) -> Read<$of> {
                ($read)(node)
            }

            fn write(of: &$of) -> Option<Yaml> {
                Some(($write)(of))
            }

            $(fn names<'a>(of: &'a $of, each: EachName<'_, 'a>) {
                of.each_name($name, each);
            })?
        }
    )* };
}
kinds! {
    /// A mapping of any members.
    Object: ValueType::Object, Json, Node::object, json;
    /// A string, which may be empty.
    Text: ValueType::Text, Arc<str>, Node::text, |of: &Arc<str>| Yaml::filled(of);
    /// What QEMU calls it, in capitals.
    EventName: ValueType::Text, Arc<str>, Node::text, |of: &Arc<str>| Yaml::filled(of), NameOf::Event;
    /// The name of a file that the step makes.
    NewFile: ValueType::Text, Arc<str>, Node::text, |of: &Arc<str>| Yaml::filled(of), NameOf::NewFile;
    /// The name of a file that must be there.
    OldFile: ValueType::Text, Arc<str>, Node::text, |of: &Arc<str>| Yaml::filled(of), NameOf::File;
    /// A list of texts.
    Texts: ValueType::Texts, Vec<Arc<str>>, Node::texts, |of: &Vec<Arc<str>>| Yaml::texts(of);
    /// A list of events.
    EventNames: ValueType::Texts, Vec<Arc<str>>, Node::texts, |of: &Vec<Arc<str>>| Yaml::texts(of), NameOf::Event;
    /// A list of files that must be there.
    OldFiles: ValueType::Texts, Vec<Arc<str>>, Node::texts, |of: &Vec<Arc<str>>| Yaml::texts(of), NameOf::File;
    /// `true` or `false`.
    Bool: ValueType::Bool, bool, Node::boolean, |of: &bool| Yaml::bool(*of);
    /// Nothing but `true`.
    True: ValueType::True, (), Node::only_true, |(): &()| Yaml::bool(true);
    /// A number that is not negative.
    Count: ValueType::Uint, u64, Node::uint, |of: &u64| Yaml::plain(of.to_string());
    /// A number of bytes, written in the largest unit that leaves no rest.
    Size: ValueType::Size, u64, Node::size, |of: &u64| Yaml::size(*of);
    /// A number of bytes, written in digits.
    Bytes: ValueType::Size, u64, Node::size, |of: &u64| Yaml::plain(of.to_string());
    /// A size that `qemu-img create` takes.
    ImageSize: ValueType::Size, u64, image_size, |of: &u64| Yaml::size(*of);
    /// In bytes, less than 2^63.
    FileLength: ValueType::Size, u64, file_length, |of: &u64| Yaml::size(*of);
    /// What qcow2 takes as `cluster_size`.
    ClusterSize: ValueType::Size, u64, qcow2_cluster_size, |of: &u64| Yaml::size(*of);
    /// A byte that is written everywhere.
    PatternByte: ValueType::Size, u8, pattern_byte, |of: &u8| Yaml::plain(format!("{of:#04x}"));
    /// Bytes in hexadecimal digits.
    Hex: ValueType::Text, Vec<u8>, |node: &Node| hex(node, "expected pairs of hexadecimal digits"), hex_text;
    /// The same, where one byte may stand for many.
    HexPattern: ValueType::Text, Vec<u8>, |node: &Node| hex(node, HEX_PATTERN), hex_text;
    /// A span of virtual time.
    Duration: ValueType::Duration, Span, Node::duration, |of: &Span| Yaml::plain(duration(*of));
    /// Virtual time since the start.
    Moment: ValueType::Duration, Instant, |node: &Node| Ok(Instant::START + node.duration()?), |of: &Instant| Yaml::plain(duration(*of - Instant::START));
    /// Pairs of offset and length in bytes.
    Ranges: ValueType::Ranges, Vec<(u64, u64)>, ranges, |of: &Vec<(u64, u64)>| Yaml::List(of.iter().map(range).collect());
    /// `raw` or `qcow2`.
    Format: ValueType::Format, ImageFormat, |node: &Node| node.word(FORMATS), |of: &ImageFormat| Yaml::plain(name(FORMATS, of));
    /// The version of qcow2: whether it is 3.
    Compat: ValueType::Word(&words::<4, _>(COMPAT)), bool, |node: &Node| node.word(COMPAT), |of: &bool| Yaml::text(name(COMPAT, of));
    /// A signal that asks a process to end.
    SignalName: ValueType::Word(&words::<3, _>(Signal::NAMES)), Signal, |node: &Node| node.word(Signal::NAMES), |of: &Signal| Yaml::text(of.name());
    /// The class of an error; `check` says which there are.
    ClassName: ValueType::Word(&ErrorClass::NAMES), Arc<str>, Node::text, |of: &Arc<str>| Yaml::filled(of);
}

/// Names that `check` looks up.
trait Named {
    fn each_name<'a>(&'a self, of: NameOf, each: EachName<'_, 'a>);
}

impl Named for Arc<str> {
    fn each_name<'a>(&'a self, of: NameOf, each: EachName<'_, 'a>) {
        each(of, self);
    }
}

impl Named for Vec<Arc<str>> {
    fn each_name<'a>(&'a self, of: NameOf, each: EachName<'_, 'a>) {
        self.iter().for_each(|name| each(of, name));
    }
}

const FORMATS: &[(&str, ImageFormat)] = &[("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)];
/// The name that is written comes first.
const COMPAT: &[(&str, bool)] = &[("1.1", true), ("v3", true), ("0.10", false), ("v2", false)];
/// What is said where bytes are expected that may be repeated.
pub(super) const HEX_PATTERN: &str = "expected pairs of hexadecimal digits; one pair where `times` is given";

/// The names of a table.
const fn words<const N: usize, T: Copy>(table: &'static [(&'static str, T)]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut i = 0;
    while i < N {
        names[i] = table[i].0;
        i += 1;
    }
    names
}

/// The first name of a value in a table.
fn name<T: PartialEq>(table: &[(&'static str, T)], of: &T) -> &'static str {
    table.iter().find(|(_, value)| value == of).map_or("", |(name, _)| name)
}

fn image_size(node: &Node) -> Read<u64> {
    let size = node.size()?;
    if size <= BDRV_MAX_LENGTH {
        return Ok(size);
    }
    Err(Fault::new(node.span, "no image is that large", format!("expected at most {BDRV_MAX_LENGTH} bytes")))
}

fn file_length(node: &Node) -> Read<u64> {
    let size = node.size()?;
    if size > i64::MAX as u64 {
        return Err(Fault::new(node.span, "no file is that long", "expected less than 2^63"));
    }
    Ok(size)
}

fn qcow2_cluster_size(node: &Node) -> Read<u64> {
    let size = node.size()?;
    if size.is_power_of_two() && (512..=2 << 20).contains(&size) {
        return Ok(size);
    }
    Err(Fault::new(node.span, "qcow2 has no such cluster size", "expected a power of two from 512 to 2M"))
}

pub(super) fn pattern_byte(node: &Node) -> Read<u8> {
    let wrong =
        || Fault::new(node.span, "a pattern is one byte", format!("expected 0 to 0xff, found {}", node.describe()));
    node.size().ok().and_then(|n| u8::try_from(n).ok()).ok_or_else(wrong)
}

/// Pairs of hexadecimal digits, at least one.
fn hex(node: &Node, expected: &str) -> Read<Vec<u8>> {
    let text = node.text()?;
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    digits
        .filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2))
        .map(|digits| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        .ok_or_else(|| Fault::new(node.span, "these are no bytes", expected))
}

fn hex_text(bytes: &[u8]) -> Yaml {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Yaml::plain(format!("\"{digits}\""))
}

fn ranges(node: &Node) -> Read<Vec<(u64, u64)>> {
    let pair = |node: &Node| match node.list()? {
        [offset, length] => Ok((offset.size()?, length.size()?)),
        _ => Err(Fault::new(node.span, "this is no range", "expected `[offset, length]`")),
    };
    node.list()?.iter().map(pair).collect()
}

fn range((offset, length): &(u64, u64)) -> Yaml {
    Yaml::List(vec![Yaml::size(*offset), Yaml::size(*length)])
}

/// The word `none`, where a bound, a fault or a disk is taken away.
pub(super) fn is_none(node: &Node) -> bool {
    matches!(&node.value, Value::Str(word) if &**word == "none")
}
