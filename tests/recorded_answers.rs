//! What the simulator knows by itself agrees with what QEMU says of itself: commands and their arguments, events, drivers, device
//! models, properties. `tests/record-answers.py` made the record.

use blockjob_sim::base::Json;
use blockjob_sim::qmp::device_properties::{DISK_MODELS, DISK_PROPERTIES};
use blockjob_sim::qmp::names::{COMMANDS, COROUTINE_COMMANDS, OOB_COMMANDS, is_device_model};
use blockjob_sim::qmp::recorded::{self, ANSWERED, DEADLY_TYPES, Expansion, PropertiesOf};
use blockjob_sim::qmp::types::machine::CAPABILITIES;
use blockjob_sim::qmp::types::{Driver, ObjectType};
use blockjob_sim::qmp::visit::QapiEnum;
use blockjob_sim::qmp::{Command, parse_command};
use blockjob_sim::version::Version;
use std::collections::BTreeSet;

/// The schema, and its entries of one kind.
fn entries(schema: &Json, kind: &str) -> Vec<Json> {
    let is = |entry: &&Json| entry.get("meta-type").and_then(Json::as_str) == Some(kind);
    schema.as_list().expect("a list").iter().filter(is).cloned().collect()
}

fn text<'a>(entry: &'a Json, key: &str) -> &'a str {
    entry.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn by_name<'a>(schema: &'a Json, name: &str) -> &'a Json {
    schema.as_list().expect("a list").iter().find(|entry| text(entry, "name") == name).expect("it refers to it")
}

/// A value of a type, as plain as can be: what is optional is left out.
fn plain(schema: &Json, name: &str, depth: u32) -> Json {
    let entry = by_name(schema, name);
    match text(entry, "meta-type") {
        "builtin" => match text(entry, "json-type") {
            "int" => Json::Int(1),
            "boolean" => true.into(),
            "number" => Json::Int(1),
            _ => "x".into(),
        },
        "enum" => {
            let members = entry.get("members").and_then(Json::as_list).expect("members");
            Json::str(text(&members[0], "name"))
        }
        "array" => Json::list(Vec::new()),
        "alternate" => {
            let members = entry.get("members").and_then(Json::as_list).expect("members");
            let of = members.iter().map(|member| text(member, "type"));
            let scalar = of.clone().find(|of| text(by_name(schema, of), "meta-type") != "object");
            plain(schema, scalar.or(of.clone().next()).expect("a branch"), depth + 1)
        }
        _ => {
            let members = entry.get("members").and_then(Json::as_list).expect("members");
            let wanted = members.iter().filter(|member| member.get("default").is_none());
            let mut all: Vec<(&str, Json)> =
                wanted.map(|member| (text(member, "name"), plain(schema, text(member, "type"), depth + 1))).collect();
            if let Some(variants) = entry.get("variants").and_then(Json::as_list) {
                let tag = text(entry, "tag");
                // The first branch, with what it needs.
                if let Some(variant) = variants.first() {
                    all.retain(|(key, _)| *key != tag);
                    all.push((tag, Json::str(text(variant, "case"))));
                    if depth < 6
                        && let Some(more) = plain(schema, text(variant, "type"), depth + 1).as_dict()
                    {
                        for (key, value) in more {
                            let key: &str = Box::leak(key.to_string().into_boxed_str());
                            all.push((key, value.clone()));
                        }
                    }
                }
            }
            Json::dict(all)
        }
    }
}

#[test]
fn commands_are_those_of_the_schema() {
    let schema = recorded::schema(Version::default());
    let names: BTreeSet<String> =
        entries(&schema, "command").iter().map(|entry| text(entry, "name").to_owned()).collect();
    assert_eq!(names, COMMANDS.iter().map(|name| (*name).to_owned()).collect());
    let oob = |entry: &&Json| entry.get("allow-oob").and_then(Json::as_bool) == Some(true);
    let all = entries(&schema, "command");
    let found: BTreeSet<&str> = all.iter().filter(oob).map(|entry| text(entry, "name")).collect();
    assert_eq!(found, OOB_COMMANDS.iter().copied().collect());
    assert!(COROUTINE_COMMANDS.iter().all(|name| names.contains(*name)));
}

/// Arguments that the schema has are read; one that it has not is refused; and those it wants are wanted here.
#[test]
fn arguments_are_those_of_the_schema() {
    let schema = recorded::schema(Version::default());
    for command in entries(&schema, "command") {
        let name = text(&command, "name");
        // Their arguments are properties, options or whatever an action has.
        if ["device_add", "object-add", "blockdev-add", "migrate-set-parameters"].contains(&name) {
            continue;
        }
        let least = plain(&schema, text(&command, "arg-type"), 0);
        let read = parse_command(name, &least, Version::default());
        if matches!(read, Ok(Command::NotSimulated(_))) {
            continue;
        }
        assert!(read.is_ok(), "{name} {least:?}: {read:?}");
        let members = least.as_dict().expect("an object").to_vec();
        for (key, _) in &members {
            let less = members.iter().filter(|(other, _)| other != key).map(|(key, value)| (&**key, value.clone()));
            let without = parse_command(name, &Json::dict(less.collect()), Version::default());
            assert!(without.is_err(), "{name}: {key} is mandatory in the schema");
        }
        let more = members.iter().map(|(key, value)| (&**key, value.clone()));
        let more = Json::dict(more.chain([("no-such-argument", true.into())]).collect());
        assert!(parse_command(name, &more, Version::default()).is_err(), "{name} takes any argument");
        // Each optional one by itself.
        let of = by_name(&schema, text(&command, "arg-type")).clone();
        for member in of.get("members").and_then(Json::as_list).unwrap_or_default() {
            if member.get("default").is_none() {
                continue;
            }
            let key = text(member, "name");
            let value = plain(&schema, text(member, "type"), 0);
            let with = members.iter().map(|(key, value)| (&**key, value.clone())).chain([(key, value)]);
            let read = parse_command(name, &Json::dict(with.collect()), Version::default());
            assert!(read.is_ok(), "{name} with {key}: {read:?}");
        }
    }
}

#[test]
fn enums_are_those_of_the_schema() {
    let schema = recorded::schema(Version::default());
    let values = |entry: &Json| -> BTreeSet<String> {
        let members = entry.get("members").and_then(Json::as_list).unwrap_or_default();
        members.iter().map(|member| text(member, "name").to_owned()).collect()
    };
    let enums: Vec<BTreeSet<String>> = entries(&schema, "enum").iter().map(values).collect();
    let ours = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
    assert!(enums.contains(&ours(Driver::TABLE.iter().map(|(_, name)| *name).collect())), "BlockdevDriver");
    let objects = ours(ObjectType::TABLE.iter().map(|(_, name)| *name).collect());
    assert!(enums.iter().any(|names| names.is_subset(&objects) && names.contains("iothread")), "ObjectType");
    assert!(enums.contains(&ours(CAPABILITIES.to_vec())), "MigrationCapability");
}

#[test]
fn disks_have_the_properties_that_are_not_looked_up() {
    for model in DISK_MODELS {
        let all = recorded::properties(PropertiesOf::Device, model).expect("it is a device");
        for (name, kind) in DISK_PROPERTIES {
            // Boot order is set by the instance: it is in the list of all properties.
            let objects = recorded::properties(PropertiesOf::Object, model).expect("it is a type");
            let found = all.iter().chain(&objects).find(|info| text(info, "name") == name);
            assert_eq!(found.map(|info| text(info, "type")), Some(kind), "{model}.{name}");
        }
    }
}

#[test]
fn device_models_are_types() {
    let types = recorded::answer(Version::default(), "qom-list-types").expect("recorded").expect("an answer");
    let names: BTreeSet<&str> = types.as_list().expect("a list").iter().map(|info| text(info, "name")).collect();
    for name in names.iter().filter(|name| is_device_model(name)) {
        assert!(recorded::properties(PropertiesOf::Device, name).is_some(), "{name} has properties");
    }
    for name in &names {
        let listed = recorded::properties(PropertiesOf::Object, name).is_some();
        assert_eq!(listed, !DEADLY_TYPES.contains(name), "{name}");
    }
}

#[test]
fn every_recorded_answer_can_be_read() {
    for command in ANSWERED {
        assert!(recorded::answer(Version::default(), command).is_some(), "{command}");
        assert!(COMMANDS.contains(&command), "{command}");
    }
    let models = recorded::answer(Version::default(), "query-cpu-definitions").expect("recorded").expect("an answer");
    for model in models.as_list().expect("a list") {
        for expansion in [Expansion::Static, Expansion::Full] {
            assert!(recorded::cpu_properties(text(model, "name"), expansion).is_some(), "{model:?}");
        }
    }
    for machine in ["none", "pc", "q35"] {
        assert!(recorded::object(machine, "/machine/peripheral").is_some(), "{machine}");
    }
}
