//! Steps by which a client talks to QEMU: commands, the human monitor, events.

use super::Step;
use crate::base::Json;
use crate::scenario::error::{Fault, Read};
use crate::scenario::fields::Fields;
use crate::scenario::form::{EachName, Form, Member, ValueKind, ValueType, Written, form, opt};
use crate::scenario::kinds::{ClassName, EventName, Hex, Object, Text, Texts};
use crate::scenario::plan::{EventPattern, Expect, Fails, StepKind};
use crate::scenario::tree::{Node, Value};
use crate::scenario::yaml::{Yaml, json};
use std::sync::Arc;

/// The members of a command that is to succeed.
const COMMAND: &[Member] = &[
    opt("execute", ValueType::Text, "the command"),
    opt("exec-oob", ValueType::Text, "the command, out of band"),
    opt("arguments", ValueType::Object, "its arguments"),
    opt("id", ValueType::Any, "comes back with the reply"),
];

form! {
    /// What an error must be.
    WantedError: (Option<Arc<str>>, Option<Arc<str>>) = "error" ((class, desc));
    class: opt ClassName, "its class";
    desc: opt Text, "its text";
}

pub(super) const QMP: Step = Step {
    name: "qmp",
    about: "sends a command and reads its reply, which must be a return value",
    help: "  qmp: {execute, arguments, id}     sends a command and reads its reply, which must be a return value
    returns: PATTERN                  that matches
    error: {class, desc}              or an error; also `error: any`
    reply: any                        instead of both: any reply
",
    of: ValueType::Or(&[ValueType::Map(COMMAND), ValueType::Object]),
    beside: &[
        opt("returns", ValueType::Any, "what the return value must match"),
        opt(
            "error",
            ValueType::Or(&[ValueType::Word(&["any"]), ValueType::Map(WantedError::MEMBERS)]),
            "the reply must be an error",
        ),
        opt("reply", ValueType::Word(&["any"]), "the reply may be anything"),
    ],
    read: Some(qmp),
    write: |kind| match kind {
        StepKind::Qmp { command, expect } => Some(written_qmp(command, expect)),
        _ => None,
    },
    ..Step::EMPTY
};

/// A command that is to succeed has to be well formed; one that is to fail is sent as it stands, to see what QEMU says of it.
fn qmp(node: &Node, beside: &mut Fields<'_>) -> Read<StepKind> {
    let returns = beside.opt("returns");
    if let Some(reply) = beside.opt("reply") {
        if reply.text().is_ok_and(|word| &*word == "any") && returns.is_none() && beside.opt("error").is_none() {
            return Ok(StepKind::Qmp { command: node.object()?, expect: Expect::Any });
        }
        return Err(Fault::new(
            reply.span,
            "this is no expectation",
            "expected `reply: any`, without `error` or `returns`",
        ));
    }
    let expect = match beside.opt("error") {
        Some(error) if returns.is_some() => {
            let expected = "expected `error` or `returns`, not both";
            return Err(Fault::new(error.span, "a reply is an error or has a return value", expected));
        }
        Some(error) => expected_error(error)?,
        None => {
            let mut fields = Fields::of("qmp", node)?;
            let (out_of_band, command) = (fields.opt("exec-oob"), fields.opt("execute"));
            if let (Some(_), Some(command)) = (out_of_band, command) {
                let expected = "expected `execute` or `exec-oob`, not both";
                return Err(Fault::new(command.span, "a command is sent in one way", expected));
            }
            out_of_band.or(command).map_or_else(|| fields.req("execute"), Ok)?.text()?;
            fields.opt("arguments").map(Node::object).transpose()?;
            fields.opt("id");
            fields.end()?;
            Expect::Return(returns.map(Node::json))
        }
    };
    Ok(StepKind::Qmp { command: node.object()?, expect })
}

fn expected_error(node: &Node) -> Read<Expect> {
    if let Value::Str(word) = &node.value {
        if &**word == "any" {
            return Ok(Expect::Error { class: None, desc: None });
        }
        let fault = Fault::new(node.span, "`error` needs a mapping", "expected `{class: …, desc: …}` or `any`");
        return Err(fault);
    }
    let (class, desc) = WantedError::read(node)?;
    Ok(Expect::Error { class, desc })
}

fn written_qmp(command: &Json, expect: &Expect) -> (Yaml, Written) {
    let beside = match expect {
        Expect::Any => Some(("reply", Yaml::plain("any"))),
        Expect::Return(pattern) => pattern.as_ref().map(|pattern| ("returns", json(pattern))),
        Expect::Error { class: None, desc: None } => Some(("error", Yaml::plain("any"))),
        Expect::Error { class, desc } => {
            WantedError::write(&(class.clone(), desc.clone())).map(|wanted| ("error", wanted))
        }
    };
    (json(command), beside.into_iter().collect())
}

/// Whether a command of the human monitor fails: `true`, `false` or `any`.
#[derive(Clone, Copy, Debug)]
struct MayFail;

impl ValueKind for MayFail {
    type Of = Fails;
    const TYPE: ValueType = ValueType::Or(&[ValueType::Bool, ValueType::Word(&["any"])]);

    fn read(node: &Node) -> Read<Fails> {
        match &node.value {
            Value::Bool(true) => Ok(Fails::Yes),
            Value::Bool(false) => Ok(Fails::No),
            Value::Str(word) if &**word == "any" => Ok(Fails::Any),
            _ => {
                let expected = format!("expected `true`, `false` or `any`, found {}", node.describe());
                Err(Fault::new(node.span, "`fails` says whether the command fails", expected))
            }
        }
    }

    fn write(of: &Fails) -> Option<Yaml> {
        Some(Yaml::plain(match of {
            Fails::No => "false",
            Fails::Yes => "true",
            Fails::Any => "any",
        }))
    }
}

/// What is said of the reply beside a line of the human monitor.
type HmpReply = (Option<Arc<str>>, Option<Arc<str>>, Option<Fails>);

form! {
    /// What stands beside a line of the human monitor.
    BesideHmp: HmpReply = "hmp" ((output, returns, fails));
    output: opt Text, "a part of what must be printed";
    returns: opt Text, "the whole reply";
    fails: opt MayFail, "it must fail, or may";
}

pub(super) const HMP: Step = Step {
    name: "hmp",
    about: "sends human-monitor-command, which must succeed, also in the eyes of qemu-io",
    help: "  hmp: LINE                         sends human-monitor-command, which must succeed, also in the eyes of qemu-io
    output: TEXT                      which prints this, among other things
    returns: TEXT                     or replies exactly this
    fails: true                       it must fail; `fails: any`: it may (so it may with `output` or `returns: TEXT`)
                                    a guest's write: `qemu-io DRIVE \"write …\"`, DRIVE being the id of a -drive, or
                                    `qemu-io -d ID/virtio-backend \"write …\"` for -device virtio-blk,id=ID
",
    of: ValueType::Text,
    beside: BesideHmp::MEMBERS,
    read: Some(|node, beside| {
        let (output, returns, fails) = BesideHmp::take(beside)?;
        let fails = fails.unwrap_or_else(|| Fails::unsaid(output.as_deref(), returns.as_deref()));
        Ok(StepKind::Hmp { line: node.text()?, output, returns, fails })
    }),
    write: |kind| {
        let StepKind::Hmp { line, output, returns, fails } = kind else { return None };
        let said = (*fails != Fails::unsaid(output.as_deref(), returns.as_deref())).then_some(*fails);
        let beside = BesideHmp::members(&(output.clone(), returns.clone(), said));
        Some((Yaml::filled(line), beside.unwrap_or_default()))
    },
    ..Step::EMPTY
};

/// Bytes: a text, or hexadecimal digits for what is none.
#[derive(Clone, Copy, Debug)]
struct RawBytes;

form! {
    /// Bytes that are no text.
    HexBytes: Vec<u8> = "send" (hex);
    hex: req Hex, "the bytes in hexadecimal digits";
}

impl ValueKind for RawBytes {
    type Of = Arc<[u8]>;
    const TYPE: ValueType = ValueType::Or(&[ValueType::Text, ValueType::Map(HexBytes::MEMBERS)]);

    fn read(node: &Node) -> Read<Arc<[u8]>> {
        match &node.value {
            Value::Map(_) => HexBytes::read(node).map(Arc::from),
            _ => Ok(node.text()?.as_bytes().into()),
        }
    }

    fn write(of: &Arc<[u8]>) -> Option<Yaml> {
        match std::str::from_utf8(of) {
            Ok(text) => Some(Yaml::filled(text)),
            Err(_) => HexBytes::write(&of.to_vec()),
        }
    }
}

/// A list of patterns.
#[derive(Clone, Copy, Debug)]
struct Patterns;

impl ValueKind for Patterns {
    type Of = Vec<Json>;
    const TYPE: ValueType = ValueType::List(&ValueType::Any);

    fn read(node: &Node) -> Read<Vec<Json>> {
        Ok(node.list()?.iter().map(Node::json).collect())
    }

    fn write(of: &Vec<Json>) -> Option<Yaml> {
        Some(Yaml::List(of.iter().map(json).collect()))
    }
}

/// The member beside `send`.
type Replies = Option<Vec<Json>>;

form! {
    /// What stands beside bytes that are sent.
    BesideSend: Replies = "send" ((replies));
    replies: opt Patterns, "what the replies must match, one after the other; an empty list: none comes";
}

pub(super) const SEND: Step = Step {
    name: "send",
    about: "sends bytes to the monitor as they are, and reads the replies to all values that end among them",
    help: "  send: TEXT                        sends bytes to the monitor as they are, and reads a reply to each value that ends among
                                    them, and to each mistake; also `send: {hex: DIGITS}`
    replies: [PATTERN, ...]           which match, in order
",
    of: RawBytes::TYPE,
    beside: BesideSend::MEMBERS,
    read: Some(|node, beside| Ok(StepKind::Send { bytes: RawBytes::read(node)?, replies: BesideSend::take(beside)? })),
    write: |kind| match kind {
        StepKind::Send { bytes, replies } => {
            Some((RawBytes::write(bytes)?, BesideSend::members(replies).unwrap_or_default()))
        }
        _ => None,
    },
    ..Step::EMPTY
};

form! {
    /// Which event is meant.
    EventMembers: EventPattern = "event" (EventPattern { name, data, without });
    name as "event": req EventName, "its name";
    data: opt Object, "what its data must match";
    without: def Texts = Vec::new(), "members that its data may not have";
}

/// An event: its name, or what it must be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event;

impl ValueKind for Event {
    type Of = EventPattern;
    const TYPE: ValueType = ValueType::Or(&[ValueType::Text, ValueType::Map(EventMembers::MEMBERS)]);

    fn read(node: &Node) -> Read<EventPattern> {
        match &node.value {
            Value::Str(name) => Ok(EventPattern { name: name.clone(), data: None, without: Vec::new() }),
            _ => EventMembers::read(node),
        }
    }

    fn write(of: &EventPattern) -> Option<Yaml> {
        if of.data.is_none() && of.without.is_empty() {
            return Some(Yaml::filled(&of.name));
        }
        EventMembers::write(of)
    }

    fn names<'a>(of: &'a EventPattern, each: EachName<'_, 'a>) {
        <EventMembers as Form>::names(of, each);
    }
}
