//! Steps of clients of the NBD server: what they do, and what they expect to be answered; and of servers elsewhere, which nodes are clients of.

use super::error::{Fault, Read};
use super::fields::Fields;
use super::form::{Member, ValueKind, ValueType, opt};
use super::kinds::pattern_byte;
use super::tree::{Node, Value};
use super::yaml::Yaml;
use crate::base::errno::Errno;
use crate::host::network::{NbdServer, ServerState};
use std::sync::Arc;

/// A step of an NBD client, or of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NbdStep {
    /// Its name in the scenario; where a server listens.
    pub client: Arc<str>,
    /// What it does or expects.
    pub action: NbdAction,
}

/// How a client wants to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replies {
    /// Simple replies.
    Simple,
    /// Structured replies.
    #[default]
    Structured,
    /// Extended headers.
    Extended,
}

const REPLIES: &[(&str, Replies)] =
    &[("simple", Replies::Simple), ("structured", Replies::Structured), ("extended", Replies::Extended)];

/// Requests, with their numbers on the wire.
const REQUESTS: &[(&str, u16)] =
    &[("read", 0), ("write", 1), ("flush", 3), ("trim", 4), ("cache", 5), ("zero", 6), ("status", 7)];

/// Flags of requests, with their bits on the wire.
const FLAGS: &[(&str, u16)] = &[("fua", 1), ("no-hole", 2), ("df", 4), ("req-one", 8), ("fast-zero", 16)];

/// In the place of a text: it does not matter whether the server refuses the client.
pub const MAY_BE_REFUSED: &str = "any";

/// What an NBD client does or expects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NbdAction {
    /// Connects, negotiates, and waits until it may send requests.
    Connect {
        /// The name that it asks for; may be empty.
        export: Arc<str>,
        /// How it wants to be answered.
        replies: Replies,
        /// The contexts that it asks for.
        contexts: Vec<Arc<str>>,
        /// The text with which the server must refuse it; [`MAY_BE_REFUSED`]: it may do so or not, and what the client does then goes nowhere.
        refused: Option<Arc<str>>,
        /// It only connects, and says nothing until it connects again.
        silent: bool,
    },
    /// Sends a request and does not wait.
    Ask {
        /// Its number on the wire.
        kind: u16,
        /// First byte.
        offset: u64,
        /// In bytes; it need not be within the export.
        length: u64,
        /// What a write puts there.
        pattern: u8,
        /// Flags on the wire.
        flags: u16,
    },
    /// Waits for the next answer.
    Answer(NbdAnswer),
    /// Says that it leaves, and leaves.
    Disconnect,
    /// Is gone from one moment to the next.
    Gone,
    /// Reads no more of what the server sends, or reads on.
    Stall(bool),
    /// A server starts on the host, outside of the process.
    Serve(NbdServer),
    /// It stalls, goes on, or is gone.
    Server(ServerState),
}

impl NbdAction {
    /// Whether it is one of a server outside of the process.
    #[must_use]
    pub fn is_servers(&self) -> bool {
        matches!(self, NbdAction::Serve(_) | NbdAction::Server(_))
    }
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NbdAnswer {
    /// Any at all.
    Any,
    /// Success.
    Ok,
    /// The connection has ended.
    Closed,
    /// Success, and all bytes that were read are this one.
    Pattern(u8),
    /// The request fails, and the server sends this errno.
    Error(Errno),
    /// What the first context tells: lengths and flags.
    Extents(Vec<(u64, u64)>),
}

/// The members for the JSON Schema. Which go together depends on the action, so that they are read and written by hand below.
const MEMBERS: &[Member] = &[
    opt("client", ValueType::Text, "the client's name"),
    opt("connect", ValueType::Text, "it connects and negotiates: the export"),
    opt("replies", ValueType::Word(&["simple", "structured", "extended"]), "how it wants to be answered"),
    opt("contexts", ValueType::Texts, "the contexts that it asks for"),
    opt("refused", ValueType::Text, "the text with which it must be refused; any: it may be"),
    opt("silent", ValueType::Bool, "it says nothing until it connects once more"),
    opt("read", ValueType::Size, "it reads: the first byte"),
    opt("write", ValueType::Size, "it writes: the first byte"),
    opt("zero", ValueType::Size, "it writes zeroes: the first byte"),
    opt("trim", ValueType::Size, "it discards: the first byte"),
    opt("cache", ValueType::Size, "it has data read ahead: the first byte"),
    opt("status", ValueType::Size, "it asks for block status: the first byte"),
    opt("flush", ValueType::True, "it flushes"),
    opt("length", ValueType::Size, "of how many bytes"),
    opt("pattern", ValueType::Uint, "what a write puts there"),
    opt("flags", ValueType::Texts, "flags of the request: fua, no-hole, df, req-one, fast-zero"),
    opt(
        "answer",
        ValueType::Or(&[
            ValueType::Word(&["any", "ok", "closed"]),
            ValueType::Map(&[
                opt("pattern", ValueType::Uint, "success, and all bytes are this one"),
                opt("error", ValueType::Text, "this error"),
                opt("extents", ValueType::Ranges, "what the first context tells: lengths and flags"),
            ]),
        ]),
        "it waits for an answer",
    ),
    opt("leave", ValueType::Word(&["disconnect", "gone"]), "it leaves"),
    opt("stall", ValueType::Bool, "it reads nothing from now on, or reads on"),
    opt("server", ValueType::Text, "where a server outside of the process listens"),
    opt("file", ValueType::Text, "it starts and serves this raw file"),
    opt("export", ValueType::Text, "under this name"),
    opt("read-only", ValueType::Bool, "and nobody may write"),
    opt("unmap", ValueType::Bool, "discards make holes"),
    opt("exact", ValueType::Bool, "it tells its length to the byte, and no block sizes"),
    opt("state", ValueType::Word(&["up", "stalled", "killed", "ended"]), "how things stand with it from now on"),
];

/// What stands behind `nbd`. Its members depend on each other, so it is read and written by hand, side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nbd;

impl ValueKind for Nbd {
    type Of = NbdStep;
    const TYPE: ValueType = ValueType::Map(MEMBERS);

    fn read(node: &Node) -> Read<NbdStep> {
        let mut fields = Fields::of("nbd", node)?;
        if let Some(server) = fields.opt("server") {
            let (client, action) = (server.text()?, server_action(&mut fields)?);
            fields.end()?;
            return Ok(NbdStep { client, action });
        }
        let client = fields.req("client")?.text()?;
        let action = action(node, &mut fields)?;
        fields.end()?;
        Ok(NbdStep { client, action })
    }

    fn write(of: &NbdStep) -> Option<Yaml> {
        Some(write(of))
    }
}

fn action(node: &Node, fields: &mut Fields<'_>) -> Read<NbdAction> {
    if let Some(export) = fields.opt("connect") {
        return Ok(NbdAction::Connect {
            export: export.text()?,
            replies: fields.opt("replies").map_or(Ok(Replies::default()), |node| node.word(REPLIES))?,
            contexts: fields.opt("contexts").map_or(Ok(Vec::new()), Node::texts)?,
            refused: fields.opt("refused").map(Node::text).transpose()?,
            silent: fields.opt("silent").map_or(Ok(false), Node::boolean)?,
        });
    }
    if let Some(expected) = fields.opt("answer") {
        return answer(expected).map(NbdAction::Answer);
    }
    if let Some(how) = fields.opt("leave") {
        return how.word(&[("disconnect", NbdLeave::Disconnect), ("gone", NbdLeave::Gone)]).map(|how| match how {
            NbdLeave::Disconnect => NbdAction::Disconnect,
            NbdLeave::Gone => NbdAction::Gone,
        });
    }
    if let Some(stall) = fields.opt("stall") {
        return stall.boolean().map(NbdAction::Stall);
    }
    for (name, kind) in REQUESTS {
        let Some(offset) = fields.opt(name) else { continue };
        let offset = if *name == "flush" { offset.only_true().map(|()| 0)? } else { offset.size()? };
        let length = fields.opt("length").map_or(Ok(0), Node::size)?;
        let pattern = fields.opt("pattern").map_or(Ok(0), pattern_byte)?;
        let mut flags = 0;
        if let Some(list) = fields.opt("flags") {
            for flag in list.list()? {
                flags |= flag.word(FLAGS)?;
            }
        }
        if *kind == 1 && length > 32 << 20 {
            return Err(Fault::new(node.span, "a client writes at most 32 MiB at once", "expected a shorter `length`"));
        }
        return Ok(NbdAction::Ask { kind: *kind, offset, length, pattern, flags });
    }
    let expected = "expected `connect`, a request (`read`, `write`, `flush`, `trim`, `cache`, `zero`, `status`), `answer`, \
                    `leave` or `stall`";
    Err(Fault::new(node.span, "this is nothing that an NBD client does", expected))
}

const STATES: &[(&str, ServerState)] = &[
    ("up", ServerState::Up),
    ("stalled", ServerState::Stalled),
    ("killed", ServerState::Killed),
    ("ended", ServerState::Ended),
];

/// What a server does.
fn server_action(fields: &mut Fields<'_>) -> Read<NbdAction> {
    if let Some(state) = fields.opt("state") {
        return state.word(STATES).map(NbdAction::Server);
    }
    let flag = |node: Option<&Node>| node.map_or(Ok(false), Node::boolean);
    Ok(NbdAction::Serve(NbdServer {
        file: fields.req("file")?.text()?,
        export: fields.opt("export").map_or(Ok("".into()), Node::text)?,
        read_only: flag(fields.opt("read-only"))?,
        unmaps: flag(fields.opt("unmap"))?,
        exact: flag(fields.opt("exact"))?,
        state: ServerState::Up,
    }))
}

#[derive(Clone, Copy)]
enum NbdLeave {
    Disconnect,
    Gone,
}

fn answer(node: &Node) -> Read<NbdAnswer> {
    if let Value::Str(_) = &node.value {
        return node.word(&[("any", 0), ("ok", 1), ("closed", 2)]).map(|word| match word {
            0 => NbdAnswer::Any,
            1 => NbdAnswer::Ok,
            _ => NbdAnswer::Closed,
        });
    }
    let mut fields = Fields::of("answer", node)?;
    let (pattern, error, extents) = (fields.opt("pattern"), fields.opt("error"), fields.opt("extents"));
    fields.end()?;
    match (pattern, error, extents) {
        (Some(pattern), None, None) => pattern_byte(pattern).map(NbdAnswer::Pattern),
        (None, Some(error), None) => {
            let name = error.text()?;
            let wrong = || {
                Fault::new(
                    error.span,
                    "this is no errno of Linux",
                    format!("expected a name such as `EIO`, found `{name}`"),
                )
            };
            Errno::by_name(&name).map(NbdAnswer::Error).ok_or_else(wrong)
        }
        (None, None, Some(extents)) => {
            let pair = |node: &Node| match node.list()? {
                [length, flags] => Ok((length.size()?, flags.uint()?)),
                _ => Err(Fault::new(node.span, "an extent is a length and flags", "expected `[LENGTH, FLAGS]`")),
            };
            extents.list()?.iter().map(pair).collect::<Read<_>>().map(NbdAnswer::Extents)
        }
        _ => {
            let expected = "expected `any`, `ok`, `closed`, or one of `pattern`, `error` and `extents`";
            Err(Fault::new(node.span, "this is no expectation", expected))
        }
    }
}

/// The step as it is written.
fn write(step: &NbdStep) -> Yaml {
    let text = |text: &str| Some(Yaml::filled(text));
    let named = |table: &[(&str, u16)], number: u16| {
        table.iter().find(|(_, n)| *n == number).map_or_else(String::new, |(name, _)| (*name).to_owned())
    };
    let size = |n: u64| Some(Yaml::size(n));
    let who = if matches!(step.action, NbdAction::Serve(_) | NbdAction::Server(_)) { "server" } else { "client" };
    let mut members: Vec<(String, Option<Yaml>)> = vec![(who.into(), text(&step.client))];
    match &step.action {
        NbdAction::Connect { export, replies, contexts, refused, silent } => {
            let name = REPLIES.iter().find(|(_, r)| r == replies).map_or("", |(name, _)| name);
            let contexts = (!contexts.is_empty())
                .then(|| Yaml::List(contexts.iter().map(|context| Yaml::filled(context)).collect()));
            members.extend([
                ("connect".into(), text(export)),
                ("replies".into(), (*replies != Replies::default()).then(|| Yaml::plain(name))),
                ("contexts".into(), contexts),
                ("refused".into(), refused.as_ref().map(|why| Yaml::filled(why))),
                ("silent".into(), silent.then(|| Yaml::bool(true))),
            ]);
        }
        NbdAction::Ask { kind, offset, length, pattern, flags } => {
            let offset = if *kind == 3 { Some(Yaml::bool(true)) } else { size(*offset) };
            let bits = FLAGS.iter().filter(|(_, bit)| flags & bit != 0);
            let flags = (*flags != 0).then(|| Yaml::List(bits.map(|(name, _)| Yaml::plain(*name)).collect()));
            members.extend([
                (named(REQUESTS, *kind), offset),
                ("length".into(), (*length > 0).then(|| Yaml::size(*length))),
                ("pattern".into(), (*pattern > 0).then(|| Yaml::plain(pattern.to_string()))),
                ("flags".into(), flags),
            ]);
        }
        NbdAction::Answer(expected) => members.push(("answer".into(), Some(write_answer(expected)))),
        NbdAction::Disconnect => members.push(("leave".into(), Some(Yaml::plain("disconnect")))),
        NbdAction::Gone => members.push(("leave".into(), Some(Yaml::plain("gone")))),
        NbdAction::Stall(on) => members.push(("stall".into(), Some(Yaml::bool(*on)))),
        NbdAction::Serve(server) => members.extend([
            ("file".into(), text(&server.file)),
            ("export".into(), (!server.export.is_empty()).then(|| Yaml::filled(&server.export))),
            ("read-only".into(), server.read_only.then(|| Yaml::bool(true))),
            ("unmap".into(), server.unmaps.then(|| Yaml::bool(true))),
            ("exact".into(), server.exact.then(|| Yaml::bool(true))),
        ]),
        NbdAction::Server(state) => {
            let name = STATES.iter().find(|(_, known)| known == state).map_or("", |(name, _)| name);
            members.push(("state".into(), Some(Yaml::plain(name))));
        }
    }
    let members = members.iter().map(|(name, value)| (name.as_str(), value.clone()));
    Yaml::map(members)
}

fn write_answer(expected: &NbdAnswer) -> Yaml {
    match expected {
        NbdAnswer::Any => Yaml::plain("any"),
        NbdAnswer::Ok => Yaml::plain("ok"),
        NbdAnswer::Closed => Yaml::plain("closed"),
        NbdAnswer::Pattern(byte) => Yaml::map([("pattern", Some(Yaml::plain(byte.to_string())))]),
        NbdAnswer::Error(errno) => Yaml::map([("error", Some(Yaml::plain(errno.name().unwrap_or("EIO"))))]),
        NbdAnswer::Extents(extents) => {
            let pair = |(length, flags): &(u64, u64)| {
                Yaml::List(vec![Yaml::plain(length.to_string()), Yaml::plain(flags.to_string())])
            };
            Yaml::map([("extents", Some(Yaml::List(extents.iter().map(pair).collect())))])
        }
    }
}
