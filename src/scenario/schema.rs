//! The form of scenario files as a table, and as a JSON Schema, by which editors complete and check them.
//!
//! The readers of steps ([`super::steps`]) decide; a test holds this table to them, member by member.

use crate::base::Json;
use std::sync::Arc;

/// What may stand behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// Any value.
    Any,
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A mapping of any members.
    Object,
    /// `true` or `false`.
    Bool,
    /// Nothing but `true`.
    True,
    /// A number that is not negative.
    Uint,
    /// A number of bytes, or a text such as `64K`.
    Size,
    /// A text such as `300ms`.
    Duration,
    /// `raw` or `qcow2`.
    Format,
    /// Pairs of offset and length.
    Ranges,
    /// One of these words.
    Word(&'static [&'static str]),
    /// One of these types.
    Or(&'static [Type]),
    /// A mapping with these members.
    Map(&'static [Member]),
    /// A list of these.
    List(&'static Type),
    /// A list of steps.
    Steps,
}

/// A member of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    name: &'static str,
    of: Type,
    required: bool,
    about: &'static str,
}

const fn req(name: &'static str, of: Type, about: &'static str) -> Member {
    Member { name, of, required: true, about }
}

const fn opt(name: &'static str, of: Type, about: &'static str) -> Member {
    Member { name, of, required: false, about }
}

/// A kind of step: what stands behind its key, and what may stand beside it.
struct Step {
    name: &'static str,
    about: &'static str,
    of: Type,
    beside: &'static [Member],
}

const fn step(name: &'static str, about: &'static str, of: Type) -> Step {
    Step { name, about, of, beside: &[] }
}

const BACKING: Type = Type::Map(&[req("file", Type::Text, "its name"), req("format", Type::Format, "its format")]);

const QMP: &[Member] = &[
    opt("execute", Type::Text, "the command"),
    opt("exec-oob", Type::Text, "the command, out of band"),
    opt("arguments", Type::Object, "its arguments"),
    opt("id", Type::Any, "comes back with the reply"),
];

const RANGE: &[Member] = &[
    req("file", Type::Text, "the image"),
    req("format", Type::Format, "the format it is opened with"),
    req("offset", Type::Size, "the first byte"),
    req("length", Type::Size, "how many bytes"),
];

const WRITE: &[Member] =
    &[RANGE[0], RANGE[1], RANGE[2], RANGE[3], req("pattern", Type::Size, "the byte that is written")];

/// Members of `nbd`; not all go together.
const NBD: &[Member] = &[
    opt("client", Type::Text, "the client's name"),
    opt("connect", Type::Text, "it connects and negotiates: the export"),
    opt("replies", Type::Word(&["simple", "structured", "extended"]), "how it wants to be answered"),
    opt("contexts", Type::Texts, "the contexts that it asks for"),
    opt("refused", Type::Text, "the text with which it must be refused"),
    opt("silent", Type::Bool, "it says nothing until it connects once more"),
    opt("read", Type::Size, "it reads: the first byte"),
    opt("write", Type::Size, "it writes: the first byte"),
    opt("zero", Type::Size, "it writes zeroes: the first byte"),
    opt("trim", Type::Size, "it discards: the first byte"),
    opt("cache", Type::Size, "it has data read ahead: the first byte"),
    opt("status", Type::Size, "it asks for block status: the first byte"),
    opt("flush", Type::True, "it flushes"),
    opt("length", Type::Size, "of how many bytes"),
    opt("pattern", Type::Uint, "what a write puts there"),
    opt("flags", Type::Texts, "flags of the request: fua, no-hole, df, req-one, fast-zero"),
    opt(
        "answer",
        Type::Or(&[
            Type::Word(&["any", "ok", "closed"]),
            Type::Map(&[
                opt("pattern", Type::Uint, "success, and all bytes are this one"),
                opt("error", Type::Text, "this error"),
                opt("extents", Type::Ranges, "what the first context tells: lengths and flags"),
            ]),
        ]),
        "it waits for an answer",
    ),
    opt("leave", Type::Word(&["disconnect", "gone"]), "it leaves"),
    opt("stall", Type::Bool, "it reads nothing from now on, or reads on"),
    opt("server", Type::Text, "where a server outside of the process listens"),
    opt("file", Type::Text, "it starts and serves this raw file"),
    opt("export", Type::Text, "under this name"),
    opt("read-only", Type::Bool, "and nobody may write"),
    opt("unmap", Type::Bool, "discards make holes"),
    opt("state", Type::Word(&["up", "stalled", "killed", "ended"]), "how things stand with it from now on"),
];

const STEPS: &[Step] = &[
    Step {
        name: "qmp",
        about: "sends a command and reads its reply, which must be a return value",
        of: Type::Or(&[Type::Map(QMP), Type::Object]),
        beside: &[
            opt("returns", Type::Any, "what the return value must match"),
            opt(
                "error",
                Type::Or(&[
                    Type::Word(&["any"]),
                    Type::Map(&[
                        opt(
                            "class",
                            Type::Word(&[
                                "GenericError",
                                "CommandNotFound",
                                "DeviceNotActive",
                                "DeviceNotFound",
                                "KVMMissingCap",
                            ]),
                            "its class",
                        ),
                        opt("desc", Type::Text, "its text"),
                    ]),
                ]),
                "the reply must be an error",
            ),
            opt("reply", Type::Word(&["any"]), "the reply may be anything"),
        ],
    },
    Step {
        name: "hmp",
        about: "sends human-monitor-command, which must succeed, also in the eyes of qemu-io",
        of: Type::Text,
        beside: &[
            opt("output", Type::Text, "a part of what must be printed"),
            opt("returns", Type::Text, "the whole reply"),
            opt("fails", Type::Or(&[Type::Bool, Type::Word(&["any"])]), "it must fail, or may"),
        ],
    },
    step(
        "event",
        "waits for the oldest queued event that fits",
        Type::Or(&[
            Type::Text,
            Type::Map(&[
                req("event", Type::Text, "its name"),
                opt("data", Type::Object, "what its data must match"),
                opt("without", Type::Texts, "members that its data may not have"),
            ]),
        ]),
    ),
    Step {
        name: "wait",
        about: "waits until the block job of this ID has completed and is gone, or is ready",
        of: Type::Text,
        beside: &[
            opt("error", Type::Text, "it must complete with this error"),
            opt("until", Type::Word(&["ready", "concluded", "null"]), "the status to wait for"),
        ],
    },
    step("sleep", "lets virtual time pass", Type::Duration),
    step(
        "at",
        "waits until the process is where it was in a recorded run",
        Type::Map(&[
            req("frames", Type::Uint, "dispatches since the last reply"),
            req("time", Type::Duration, "virtual time since the start"),
        ]),
    ),
    step("idle", "waits until QEMU is at rest and all is read", Type::True),
    step(
        "bitmap",
        "looks at a dirty bitmap from outside",
        Type::Map(&[
            req("node", Type::Text, "the node that has it"),
            req("name", Type::Text, "its name"),
            opt("absent", Type::Bool, "there is none"),
            opt("ranges", Type::Ranges, "all dirty areas"),
            opt("count", Type::Size, "dirty bytes"),
            opt("granularity", Type::Size, "bytes a bit stands for"),
            opt("busy", Type::Bool, "a job uses it"),
            opt("recording", Type::Bool, "it notes new writes"),
            opt("persistent", Type::Bool, "it is to be stored in the image"),
            opt("inconsistent", Type::Bool, "it was found inconsistent"),
        ]),
    ),
    step("same", "images read the same through their backing chains", Type::Texts),
    step(
        "create",
        "qemu-img create",
        Type::Map(&[
            req("file", Type::Text, "the new file"),
            req("format", Type::Format, "its format"),
            opt("size", Type::Size, "its virtual size; without, that of the backing file"),
            opt("backing", BACKING, "the backing file"),
            opt("cluster-size", Type::Size, "cluster_size"),
            opt("compat", Type::Word(&["1.1", "v3", "0.10", "v2"]), "the version of the format"),
            opt("lazy-refcounts", Type::Bool, "lazy_refcounts"),
        ]),
    ),
    step("write", "qemu-io write", Type::Map(WRITE)),
    step("zero", "qemu-io write -z", Type::Map(RANGE)),
    step("discard", "qemu-io discard", Type::Map(RANGE)),
    step(
        "rebase",
        "qemu-img rebase -u",
        Type::Map(&[
            req("file", Type::Text, "the image"),
            req("backing", Type::Or(&[BACKING, Type::Word(&[])]), "the new backing file; null for none"),
        ]),
    ),
    step(
        "content",
        "a file as a recording found it",
        Type::Map(&[
            req("file", Type::Text, "the file"),
            req("size", Type::Size, "its length"),
            req(
                "data",
                Type::List(&Type::Map(&[
                    req("at", Type::Size, "the first byte"),
                    req("hex", Type::Text, "the bytes"),
                    opt("times", Type::Size, "how often"),
                ])),
                "what stands in it",
            ),
        ]),
    ),
    step(
        "text",
        "a text file",
        Type::Map(&[req("file", Type::Text, "the file"), req("content", Type::Text, "all it holds")]),
    ),
    step(
        "host",
        "what the host refuses, and how fast its disk is: a full disk, a limit of a file, requests that fail",
        Type::Object,
    ),
    step(
        "nbd",
        "what a client of the NBD server does or expects; a server that `nbd` nodes are clients of",
        Type::Map(NBD),
    ),
    step("no-jobs", "no job is left", Type::True),
    step(
        "no-events",
        "no event is queued",
        Type::Or(&[Type::True, Type::Map(&[req("except", Type::Texts, "but for events of these names")])]),
    ),
    step(
        "bytes",
        "bytes of a file are changed",
        Type::Map(&[
            req("file", Type::Text, "the file"),
            req("at", Type::Size, "the first byte"),
            req("hex", Type::Text, "the bytes"),
        ]),
    ),
    step(
        "resize",
        "qemu-img resize",
        Type::Map(&[req("file", Type::Text, "the image"), req("size", Type::Size, "its size from then on")]),
    ),
    step(
        "check",
        "qemu-img check, and what it finds",
        Type::Map(&[
            req("file", Type::Text, "the image"),
            opt("leaks", Type::Uint, "clusters that leaked; without: none"),
            opt("corruptions", Type::Uint, "errors; without: none"),
        ]),
    ),
    Step {
        name: "start",
        about: "another process starts when the one before has ended",
        of: Type::Texts,
        beside: &[opt("error", Type::Text, "it does not start, and this stands in its message")],
    },
    step("kill", "SIGKILL: what is not written is lost", Type::True),
    step("signal", "a signal that asks the process to end", Type::Word(&["TERM", "INT", "HUP"])),
    step("mark", "a named place; exploring starts at `start`", Type::Text),
    step("call", "the steps of a procedure", Type::Or(&[Type::Text, Type::Object])),
];

const TOP: &[Member] = &[
    opt("about", Type::Text, "one sentence that says what is shown"),
    opt("include", Type::Texts, "files with procedures, relative to this one"),
    opt("define", Type::Object, "procedures: name: {params: […], steps: […]}"),
    opt("files", Type::Steps, "images and other files that are made before QEMU starts"),
    opt("args", Type::Texts, "QEMU's arguments"),
    opt("steps", Type::Steps, "what happens"),
    opt(
        "limits",
        Type::Map(&[
            opt("steps", Type::Uint, "dispatches of the main loop"),
            opt("time", Type::Duration, "virtual time"),
            opt("trace", Type::Uint, "records of the trace"),
        ]),
        "when a run is given up",
    ),
    opt("quirks", Type::Texts, "bugs of older QEMUs that are switched on (`blockjob-sim quirks`)"),
    opt("expect-violation", Type::Text, "the invariant that it breaks on purpose (`quirks --invariants`)"),
    opt(
        "schedule",
        Type::Or(&[
            Type::Text,
            Type::Map(&[opt("choices", Type::Any, "a list"), opt("preemptions", Type::Any, "a list")]),
        ]),
        "the only schedule in which it holds: `calm`, `seed N`, or a list",
    ),
];

fn dict(members: Vec<(&str, Json)>) -> Json {
    Json::Dict(Arc::new(members.into_iter().map(|(key, value)| (key.into(), value)).collect()))
}

fn texts(texts: &[&str]) -> Json {
    Json::list(texts.iter().map(|text| Json::str(text)).collect())
}

/// A parameter may stand in place of any value within procedures.
fn or_parameter(schema: Json) -> Json {
    let parameter = dict(vec![("type", Json::str("string")), ("pattern", Json::str("^\\$"))]);
    dict(vec![("anyOf", Json::list(vec![schema, parameter]))])
}

fn of_type(of: Type) -> Json {
    let plain = |name: &str| dict(vec![("type", Json::str(name))]);
    let list = |of: Json| dict(vec![("type", Json::str("array")), ("items", of)]);
    match of {
        Type::Any => dict(Vec::new()),
        Type::Text => plain("string"),
        Type::Object => plain("object"),
        Type::Texts => or_parameter(list(plain("string"))),
        Type::Bool => or_parameter(plain("boolean")),
        Type::True => dict(vec![("const", Json::Bool(true))]),
        Type::Uint => dict(vec![("type", Json::str("integer")), ("minimum", Json::Int(0))]),
        Type::Size => {
            let text = dict(vec![
                ("type", Json::str("string")),
                ("pattern", Json::str("^(\\$.*|0x[0-9a-fA-F]+|[0-9]+[kKMGTPE]?)$")),
            ]);
            dict(vec![("anyOf", Json::list(vec![of_type(Type::Uint), text]))])
        }
        Type::Duration => {
            dict(vec![("type", Json::str("string")), ("pattern", Json::str("^(\\$.*|[0-9]+ *(ns|us|µs|ms|s|m|h))$"))])
        }
        Type::Format => or_parameter(dict(vec![("enum", texts(&["raw", "qcow2"]))])),
        Type::Ranges => {
            let pair = [("minItems", Json::Int(2)), ("maxItems", Json::Int(2))];
            let members = [("type", Json::str("array")), ("items", of_type(Type::Size))].into_iter().chain(pair);
            list(dict(members.collect()))
        }
        Type::Word([]) => plain("null"),
        Type::Word(words) => or_parameter(dict(vec![("enum", texts(words))])),
        Type::Or(types) => dict(vec![("anyOf", Json::list(types.iter().map(|of| of_type(*of)).collect()))]),
        Type::Map(members) => mapping(members, &[]),
        Type::List(of) => list(of_type(*of)),
        Type::Steps => list(dict(vec![("$ref", Json::str("#/$defs/step"))])),
    }
}

/// A mapping with these members and no others; of `first` all must be there.
fn mapping(members: &[Member], first: &[&str]) -> Json {
    let properties = members.iter().map(|member| {
        let Json::Dict(schema) = of_type(member.of) else { unreachable!("a schema is an object") };
        let mut schema = schema.to_vec();
        schema.push(("description".into(), Json::str(member.about)));
        (Arc::from(member.name), Json::Dict(Arc::new(schema)))
    });
    let required: Vec<&str> = first
        .iter()
        .copied()
        .chain(members.iter().filter(|member| member.required).map(|member| member.name))
        .collect();
    let mut schema = vec![
        ("type", Json::str("object")),
        ("additionalProperties", Json::Bool(false)),
        ("properties", Json::Dict(Arc::new(properties.collect()))),
    ];
    if !required.is_empty() {
        schema.push(("required", texts(&required)));
    }
    dict(schema)
}

/// The JSON Schema (draft 2020-12) of scenario files.
#[must_use]
pub fn json_schema() -> Json {
    let steps = STEPS.iter().map(|step| {
        let own = Member { name: step.name, of: step.of, required: true, about: step.about };
        let members: Vec<Member> = std::iter::once(own).chain(step.beside.iter().copied()).collect();
        mapping(&members, &[])
    });
    let step = dict(vec![("anyOf", Json::list(steps.collect()))]);
    let Json::Dict(top) = mapping(TOP, &[]) else { unreachable!("a schema is an object") };
    let mut schema: Vec<(Arc<str>, Json)> = vec![
        ("$schema".into(), Json::str("https://json-schema.org/draft/2020-12/schema")),
        ("title".into(), Json::str("A scenario of blockjob-sim")),
    ];
    schema.extend(top.iter().cloned());
    schema.push(("$defs".into(), dict(vec![("step", step)])));
    Json::Dict(Arc::new(schema))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A value that the readers take.
    fn sample(of: Type) -> String {
        match of {
            Type::Any | Type::Text => "x".to_owned(),
            Type::Texts => "[x, y]".to_owned(),
            Type::Object => "{}".to_owned(),
            Type::Bool | Type::True => "true".to_owned(),
            Type::Uint => "1".to_owned(),
            Type::Size => "64".to_owned(),
            Type::Duration => "1s".to_owned(),
            Type::Format => "qcow2".to_owned(),
            Type::Ranges => "[[0, 64]]".to_owned(),
            Type::Word(words) => format!("'{}'", words[0]),
            // The mapping, where there is one.
            Type::Or(types) => sample(*types.iter().find(|of| matches!(of, Type::Map(_))).unwrap_or(&types[0])),
            Type::Map(members) => {
                // A command is sent in one of two ways.
                let members = members.iter().filter(|member| member.name != "exec-oob");
                let members: Vec<String> = members.map(|m| format!("{}: {}", m.name, value(m))).collect();
                format!("{{{}}}", members.join(", "))
            }
            Type::List(of) => format!("[{}]", sample(*of)),
            Type::Steps => "[]".to_owned(),
        }
    }

    /// What a member holds, where its type alone does not say it.
    fn value(member: &Member) -> String {
        match member.name {
            "at" => "0".to_owned(),
            "cluster-size" => "64K".to_owned(),
            "hex" => "'00'".to_owned(),
            "times" => "1".to_owned(),
            _ => sample(member.of),
        }
    }

    /// The names that a reader asks for, as it lists them when it meets one that it does not know.
    fn known(step: &str) -> BTreeSet<String> {
        let text = format!("about: x\nsteps:\n  - {step}\n");
        let error = crate::scenario::load_str("x", &text).expect_err("there is no member zzz");
        let help = error.help.clone().unwrap_or_default();
        assert!(error.message.contains("zzz"), "{text}{error}");
        help.trim_start_matches("known are: ").split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn the_table_has_all_that_the_readers_take() {
        // A procedure has members of its own, and of those of `host` and `nbd` not all go together.
        for step in STEPS.iter().filter(|step| !matches!(step.name, "call" | "host" | "nbd")) {
            let beside: BTreeSet<String> =
                step.beside.iter().map(|m| m.name.to_owned()).chain([step.name.to_owned()]).collect();
            assert_eq!(
                known(&format!("{{{}: {}, zzz: 1}}", step.name, sample(step.of))),
                beside,
                "beside {}",
                step.name
            );
            let types = if let Type::Or(types) = step.of { types } else { &[step.of][..] };
            for of in types {
                let Type::Map(members) = of else { continue };
                let inner = sample(*of);
                let inner = inner.strip_suffix('}').expect("a mapping");
                let names: BTreeSet<String> = members.iter().map(|m| m.name.to_owned()).collect();
                assert_eq!(known(&format!("{}: {inner}, zzz: 1}}", step.name)), names, "in {}", step.name);
            }
        }
    }

    #[test]
    fn the_table_has_all_steps() {
        let error = crate::scenario::load_str("x", "about: x\nsteps: [{zzz: 1}]\n").expect_err("there is no step zzz");
        let help = error.help.clone().unwrap_or_default();
        let known: BTreeSet<&str> = help.trim_start_matches("known are: ").split(", ").collect();
        assert_eq!(known, STEPS.iter().map(|step| step.name).collect());
        let error =
            crate::scenario::load_str("x", "about: x\nsteps: []\nzzz: 1\n").expect_err("there is no member zzz");
        let help = error.help.clone().unwrap_or_default();
        let known: BTreeSet<&str> = help.trim_start_matches("known are: ").split(", ").collect();
        assert_eq!(known, TOP.iter().map(|member| member.name).collect());
    }
}
