//! The form of scenario files as a JSON Schema, by which editors complete and check them.
//!
//! It follows from what is declared of steps ([`super::steps`]) and of the top (`scenario::top`). Where they are read by hand, a test holds what
//! is declared to what is read, member by member.

use super::form::{Member, ValueType};
use super::steps::{STEPS, Step};
use super::top::TOP;
use crate::base::Json;
use std::sync::Arc;

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

fn of_type(of: ValueType) -> Json {
    let plain = |name: &str| dict(vec![("type", Json::str(name))]);
    let list = |of: Json| dict(vec![("type", Json::str("array")), ("items", of)]);
    match of {
        ValueType::Any => dict(Vec::new()),
        ValueType::Text => plain("string"),
        ValueType::Object => plain("object"),
        ValueType::Texts => or_parameter(list(plain("string"))),
        ValueType::Bool => or_parameter(plain("boolean")),
        ValueType::True => dict(vec![("const", Json::Bool(true))]),
        ValueType::Uint => dict(vec![("type", Json::str("integer")), ("minimum", Json::Int(0))]),
        ValueType::Size => {
            let text = dict(vec![
                ("type", Json::str("string")),
                ("pattern", Json::str("^(\\$.*|0x[0-9a-fA-F]+|[0-9]+[kKMGTPE]?)$")),
            ]);
            dict(vec![("anyOf", Json::list(vec![of_type(ValueType::Uint), text]))])
        }
        ValueType::Duration => {
            dict(vec![("type", Json::str("string")), ("pattern", Json::str("^(\\$.*|[0-9]+ *(ns|us|µs|ms|s|m|h))$"))])
        }
        ValueType::Format => or_parameter(dict(vec![("enum", texts(&["raw", "qcow2"]))])),
        ValueType::Ranges => {
            let pair = [("minItems", Json::Int(2)), ("maxItems", Json::Int(2))];
            let members = [("type", Json::str("array")), ("items", of_type(ValueType::Size))].into_iter().chain(pair);
            list(dict(members.collect()))
        }
        ValueType::Word([]) => plain("null"),
        ValueType::Word(words) => or_parameter(dict(vec![("enum", texts(words))])),
        ValueType::Or(types) => dict(vec![("anyOf", Json::list(types.iter().map(|of| of_type(*of)).collect()))]),
        ValueType::Map(members) => mapping(members, &[]),
        ValueType::List(of) => list(of_type(*of)),
        ValueType::Steps => list(dict(vec![("$ref", Json::str("#/$defs/step"))])),
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
    let mut steps: Vec<&Step> = STEPS.iter().collect();
    steps.sort_by_key(|step| step.marker);
    let steps = steps.iter().map(|step| {
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
    fn sample(of: ValueType) -> String {
        match of {
            ValueType::Any | ValueType::Text => "x".to_owned(),
            ValueType::Texts => "[x, y]".to_owned(),
            ValueType::Object => "{}".to_owned(),
            ValueType::Bool | ValueType::True => "true".to_owned(),
            ValueType::Uint => "1".to_owned(),
            ValueType::Size => "64".to_owned(),
            ValueType::Duration => "1s".to_owned(),
            ValueType::Format => "qcow2".to_owned(),
            ValueType::Ranges => "[[0, 64]]".to_owned(),
            ValueType::Word(words) => format!("'{}'", words[0]),
            // The mapping, where there is one.
            ValueType::Or(types) => {
                sample(*types.iter().find(|of| matches!(of, ValueType::Map(_))).unwrap_or(&types[0]))
            }
            ValueType::Map(members) => {
                // A command is sent in one of two ways.
                let members = members.iter().filter(|member| member.name != "exec-oob");
                let members: Vec<String> = members.map(|m| format!("{}: {}", m.name, value(m))).collect();
                format!("{{{}}}", members.join(", "))
            }
            ValueType::List(of) => format!("[{}]", sample(*of)),
            ValueType::Steps => "[]".to_owned(),
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
            let of = if step.name == "qemu-img" { "resize disk.img 1M".to_owned() } else { sample(step.of) };
            assert_eq!(known(&format!("{{{}: {of}, zzz: 1}}", step.name)), beside, "beside {}", step.name);
            let types = if let ValueType::Or(types) = step.of { types } else { &[step.of][..] };
            for of in types {
                let ValueType::Map(members) = of else { continue };
                let inner = sample(*of);
                let inner = inner.strip_suffix('}').expect("a mapping");
                let names: BTreeSet<String> = members.iter().map(|m| m.name.to_owned()).collect();
                assert_eq!(known(&format!("{}: {inner}, zzz: 1}}", step.name)), names, "in {}", step.name);
            }
        }
    }

    /// All members of a mapping, and of the mappings in it.
    fn names_in(of: ValueType, found: &mut Vec<&'static str>) {
        match of {
            ValueType::Or(types) => types.iter().for_each(|of| names_in(*of, found)),
            ValueType::List(of) => names_in(*of, found),
            ValueType::Map(members) => members.iter().for_each(|member| {
                found.push(member.name);
                names_in(member.of, found);
            }),
            _ => {}
        }
    }

    #[test]
    fn help_names_all_members() {
        for step in STEPS {
            let mut names = vec![step.name];
            names_in(step.of, &mut names);
            for member in step.beside {
                names.push(member.name);
                names_in(member.of, &mut names);
            }
            // What is sent out of band is for tests of the monitor; `help` is long enough.
            for name in names.into_iter().filter(|name| *name != "exec-oob") {
                let words = step.help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                assert!(words.into_iter().any(|word| word == name), "help on `{}` lacks `{name}`", step.name);
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
