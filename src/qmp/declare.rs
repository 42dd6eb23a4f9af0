//! QAPI's structs, enums and commands as declarations, from which the reading follows.
//!
//! QEMU makes its visitors out of the schema; these macros do the same. A struct has its members once, in schema order, as fields: the name is
//! the field's, with `-` for `_`, as QEMU's generator makes C names, or the one behind `as`; the type says how the value is read and what the
//! error says if it is another ([`Value`]); an `Option` may be absent. Unions, of which one member decides what others there are, are read by
//! hand: the base, then the branch.

use super::visit::{QapiEnum, ValueAt, Visit, Visitor};
use crate::base::Json;
use std::sync::Arc;

/// What a type reads out of a value.
pub trait Value: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What QEMU says about the value.
    fn value(at: ValueAt<'_>) -> Visit<Self>;
}

/// A type of members: a value that must be there, or an `Option`.
pub trait Member: Sized {
    /// Whether it may be absent.
    const OPTIONAL: bool;

    /// Reads the member of that name.
    ///
    /// # Errors
    /// What QEMU says about the member.
    fn member(v: &mut Visitor<'_>, name: &'static str) -> Visit<Self>;
}

impl<T: Value> Member for T {
    const OPTIONAL: bool = false;

    fn member(v: &mut Visitor<'_>, name: &'static str) -> Visit<T> {
        v.with(name, T::value)
    }
}

impl<T: Value> Member for Option<T> {
    const OPTIONAL: bool = true;

    fn member(v: &mut Visitor<'_>, name: &'static str) -> Visit<Option<T>> {
        v.opt_with(name, T::value)
    }
}

/// A struct whose members can stand among those of another object.
pub trait Members: Sized {
    /// Reads the members.
    ///
    /// # Errors
    /// What QEMU says about them.
    fn members(v: &mut Visitor<'_>) -> Visit<Self>;

    /// Their names in a version, and whether they are optional; `None` for a struct that is read by hand.
    #[cfg(test)]
    fn names(version: crate::version::Version) -> Option<Vec<(&'static str, bool)>>;
}

impl<T: Members> Members for Box<T> {
    fn members(v: &mut Visitor<'_>) -> Visit<Box<T>> {
        T::members(v).map(Box::new)
    }

    #[cfg(test)]
    fn names(version: crate::version::Version) -> Option<Vec<(&'static str, bool)>> {
        T::names(version)
    }
}

macro_rules! scalars {
    ($($type:ty: $read:ident, $qapi:literal;)*) => { $(
        #[doc = $qapi]
        impl Value for $type {
            fn value(at: ValueAt<'_>) -> Visit<$type> {
                at.$read()
            }
        }
    )* };
}

scalars! {
    Arc<str>: string, "`str`";
    bool: boolean, "`bool`";
    i64: int, "`int`";
    i32: int32, "`int32`";
    u32: uint32, "`uint32`";
    u64: size, "`size`, in bytes; the rare `uint64` says so where it is declared";
}

impl<E: QapiEnum> Value for E {
    fn value(at: ValueAt<'_>) -> Visit<E> {
        at.enumeration()
    }
}

impl<T: Value> Value for Vec<T> {
    fn value(at: ValueAt<'_>) -> Visit<Vec<T>> {
        at.list(T::value)
    }
}

/// `any`
impl Value for Json {
    fn value(at: ValueAt<'_>) -> Visit<Json> {
        Ok(at.any().clone())
    }
}

/// A field's name as QAPI has it, in bytes.
pub const fn qapi_name<const N: usize>(field: &str) -> [u8; N] {
    let (bytes, mut name, mut i) = (field.as_bytes(), [0; N], 0);
    while i < N {
        name[i] = if bytes[i] == b'_' { b'-' } else { bytes[i] };
        i += 1;
    }
    name
}

/// The name of a member: that of its field, or another one.
macro_rules! member_name {
    ($field:ident) => {{
        const BYTES: [u8; stringify!($field).len()] = $crate::qmp::declare::qapi_name(stringify!($field));
        const NAME: &str = match std::str::from_utf8(&BYTES) {
            Ok(name) => name,
            Err(_) => panic!("names are ASCII"),
        };
        NAME
    }};
    ($field:ident $name:literal) => {
        $name
    };
}
pub(super) use member_name;

/// QAPI's structs. Behind a type may stand `[flat]`: the members of another struct (`base`); `[with f]` and
/// `[opt_with f]`: a member that `f` reads;
/// `[since Change]`: one that may be left out, and that versions before the change do not know;
/// `[init value]`: no member, but what whoever reads it fills in.
macro_rules! members {
    ($(
        $(#[$attr:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* $field:ident $(as $key:literal)?: $type:ty $([$($how:tt)+])?,)+
        }
    )+) => { $(
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl $name {
            /// Reads the members.
            ///
            /// # Errors
            /// What QEMU says about the arguments.
            pub fn visit(v: &mut $crate::qmp::visit::Visitor<'_>) -> $crate::qmp::visit::Visit<$name> {
                Ok($name {
                    $($field: members!(@read v, $type, $crate::qmp::declare::member_name!($field $($key)?) $(, $($how)+)?),)+
                })
            }
        }

        impl $crate::qmp::declare::Members for $name {
            fn members(v: &mut $crate::qmp::visit::Visitor<'_>) -> $crate::qmp::visit::Visit<$name> {
                $name::visit(v)
            }

            #[cfg(test)]
            #[allow(unused_variables, reason = "where all versions have all members")]
            fn names(version: $crate::version::Version) -> Option<Vec<(&'static str, bool)>> {
                let mut found = Vec::new();
                $($crate::qmp::declare::members!(
                    @name found version, $type, $crate::qmp::declare::member_name!($field $($key)?) $(, $($how)+)?
                );)+
                Some(found)
            }
        }

        impl $crate::qmp::declare::Value for $name {
            fn value(at: $crate::qmp::visit::ValueAt<'_>) -> $crate::qmp::visit::Visit<$name> {
                let mut v = at.object()?;
                let read = $name::visit(&mut v)?;
                v.finish()?;
                Ok(read)
            }
        }
    )+ };
    (@name $found:ident $at:ident, $type:ty, $key:expr) => { $found.push(($key, <$type as $crate::qmp::declare::Member>::OPTIONAL)) };
    (@name $found:ident $at:ident, $type:ty, $key:expr, since $change:ident) => { if $at.has($crate::version::changes::Change::$change) { $found.push(($key, true)) } };
    (@name $found:ident $at:ident, $type:ty, $key:expr, flat) => { $found.extend(<$type as $crate::qmp::declare::Members>::names($at)?) };
    (@name $found:ident $at:ident, $type:ty, $key:expr, with $read:expr) => { $found.push(($key, false)) };
    (@name $found:ident $at:ident, $type:ty, $key:expr, opt_with $read:expr) => { $found.push(($key, true)) };
    (@name $found:ident $at:ident, $type:ty, $key:expr, init $value:expr) => {};
    (@read $v:ident, $type:ty, $key:expr) => { <$type as $crate::qmp::declare::Member>::member($v, $key)? };
    (@read $v:ident, $type:ty, $key:expr, since $change:ident) => {
        match $v.since($crate::version::changes::Change::$change) {
            true => <$type as $crate::qmp::declare::Member>::member($v, $key)?,
            // What nobody asks for is unexpected.
            false => None,
        }
    };
    (@read $v:ident, $type:ty, $key:expr, flat) => { <$type>::visit($v)? };
    (@read $v:ident, $type:ty, $key:expr, with $read:expr) => { $v.with($key, $read)? };
    (@read $v:ident, $type:ty, $key:expr, opt_with $read:expr) => { $v.opt_with($key, $read)? };
    (@read $v:ident, $type:ty, $key:expr, init $value:expr) => { $value };
}
pub(super) use members;

/// Commands, whose arguments are members of one object: the name in QMP, the variant, and its arguments, one by one as in [`members!`] or as a
/// struct. Behind `by hand` stand variants that are not read in this way. `declared` reads the members of a command by its name.
macro_rules! commands {
    (
        $(#[$attr:meta])*
        pub enum $commands:ident {
            $($(#[$doc:meta])* $name:literal => $variant:ident
                $({ $($field:ident $(as $key:literal)?: $type:ty $([$($how:tt)+])?),+ $(,)? })? $(($data:ty))?,)+
            by hand: $($hand:tt)+
        }
    ) => {
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $commands {
            $($(#[$doc])* $variant $({ $($field: $type),+ })? $(($data))?,)+
            $($hand)+
        }

        /// Reads the members of the command `name`; `None` if it is not one of these.
        fn declared(name: &str, v: &mut $crate::qmp::visit::Visitor<'_>) -> $crate::qmp::visit::Visit<Option<$commands>> {
            Ok(Some(match name {
                $($name => $commands::$variant
                    $({ $($field: $crate::qmp::declare::members!(
                        @read v, $type, $crate::qmp::declare::member_name!($field $($key)?) $(, $($how)+)?
                    )),+ })?
                    $((<$data as $crate::qmp::declare::Members>::members(v)?))?,)+
                _ => return Ok(None),
            }))
        }

        #[cfg(test)]
        impl $commands {
            /// The commands with the names of their members, and whether those are optional.
            pub(in crate::qmp) fn all_declared(version: $crate::version::Version) -> Vec<(&'static str, Option<Vec<(&'static str, bool)>>)> {
                vec![$(($name, $crate::qmp::declare::commands!(@names version $({ $($field $(as $key)?: $type $([$($how)+])?),+ })? $(($data))?)),)+]
            }
        }
    };
    (@names $at:ident) => { Some(Vec::new()) };
    (@names $at:ident ($data:ty)) => { <$data as $crate::qmp::declare::Members>::names($at) };
    (@names $at:ident { $($field:ident $(as $key:literal)?: $type:ty $([$($how:tt)+])?),+ }) => {
        {
            #[allow(unused_variables, reason = "where all versions have all members")]
            fn names(version: $crate::version::Version) -> Option<Vec<(&'static str, bool)>> {
            let mut found: Vec<(&'static str, bool)> = Vec::new();
            $($crate::qmp::declare::members!(
                @name found version, $type, $crate::qmp::declare::member_name!($field $($key)?) $(, $($how)+)?
            );)+
            Some(found)
            }
            names($at)
        }
    };
}
pub(super) use commands;

/// QAPI's enums: the values with their names, in schema order.
macro_rules! enums {
    ($($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $(#[doc = concat!("`", $text, "`")] $(#[$vdoc])* $variant,)+ }

        impl $crate::qmp::visit::QapiEnum for $name {
            const TABLE: &'static [($name, &'static str)] = &[$(($name::$variant, $text),)+];
        }

        #[allow(dead_code, reason = "not every enum is written")]
        impl $name {
            /// The values with their names, in schema order.
            $vis const TABLE: &'static [($name, &'static str)] = <$name as $crate::qmp::visit::QapiEnum>::TABLE;

            /// The name in QMP.
            #[must_use]
            $vis fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    )+ };
}
pub(super) use enums;

/// Types whose `visit` reads members by hand.
macro_rules! members_by_hand {
    ($($name:ident),+) => { $(
        impl $crate::qmp::declare::Members for $name {
            fn members(v: &mut $crate::qmp::visit::Visitor<'_>) -> $crate::qmp::visit::Visit<$name> {
                $name::visit(v)
            }

            #[cfg(test)]
            fn names(_version: $crate::version::Version) -> Option<Vec<(&'static str, bool)>> {
                None
            }
        }
    )+ };
}
pub(super) use members_by_hand;

/// Types whose `visit` reads a value by hand.
macro_rules! values {
    ($($name:ident),+) => { $(
        impl $crate::qmp::declare::Value for $name {
            fn value(at: $crate::qmp::visit::ValueAt<'_>) -> $crate::qmp::visit::Visit<$name> {
                $name::visit(at)
            }
        }
    )+ };
}
pub(super) use values;

#[cfg(test)]
mod tests {
    use super::Members;
    use crate::base::Json;
    use crate::qmp::command::Command;
    use crate::qmp::names::find_command;
    use crate::qmp::recorded;
    use crate::qmp::types::{
        BlkdebugOptions, BlkverifyOptions, BlockExportBase, BlockExportNbd, CbwOptions, CorOptions, CreateFile,
        CreateQcow2, FileOptions, MachineCommand, NullOptions, PreallocateOptions, Qcow2Options, QuorumOptions,
        RawOptions, ThrottleOptions,
    };
    use crate::version::Version;

    /// Of which there are recorded schemas.
    const MEASURED: [Version; 3] = [Version::V7_2, Version::V10_0, Version::V11_1];

    /// Members that came with a version and are not simulated.
    const NOT_DECLARED: &[(&str, &str, Version)] = &[];

    fn without(members: &Known, version: Version, of: &str) -> Known {
        let left_out = |name: &str| NOT_DECLARED.contains(&(of, name, version));
        members.iter().filter(|(name, _)| !left_out(name)).cloned().collect()
    }

    /// What is known of members: their names, and whether they are optional.
    type Known = Vec<(String, bool)>;

    fn text(json: &Json, key: &str) -> String {
        json.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
    }

    /// What QEMU says of itself (`query-qmp-schema`).
    struct Schema(Vec<Json>);

    impl Schema {
        fn recorded(version: Version) -> Schema {
            let schema = recorded::schema(version);
            Schema(schema.as_list().expect("a list").to_vec())
        }

        fn entry(&self, kind: &str, name: &str) -> &Json {
            let found = self.0.iter().find(|entry| text(entry, "meta-type") == kind && text(entry, "name") == name);
            found.unwrap_or_else(|| panic!("QEMU has no {kind} {name}"))
        }

        /// The members of an object, in order; those of a branch not among them.
        fn members(&self, object: &str) -> Known {
            let members = self.entry("object", object).get("members").and_then(Json::as_list).expect("members");
            members.iter().map(|member| (text(member, "name"), member.get("default").is_some())).collect()
        }

        /// The name of the type of a member.
        fn member_type(&self, object: &str, name: &str) -> String {
            let members = self.entry("object", object).get("members").and_then(Json::as_list).expect("members");
            text(members.iter().find(|member| text(member, "name") == name).expect("a member"), "type")
        }

        /// The name of the type of a command's arguments.
        fn arguments(&self, command: &str) -> String {
            text(self.entry("command", command), "arg-type")
        }

        /// The members of a branch of a union.
        fn branch(&self, union: &str, case: &str) -> Known {
            let variants = self.entry("object", union).get("variants").and_then(Json::as_list).expect("branches");
            let found = variants.iter().find(|variant| text(variant, "case") == case).expect("a branch");
            self.members(&text(found, "type"))
        }
    }

    fn known(declared: Option<Vec<(&'static str, bool)>>) -> Known {
        declared.expect("it is declared").into_iter().map(|(name, opt)| (name.to_owned(), opt)).collect()
    }

    #[test]
    fn what_is_declared_is_what_qemu_has() {
        for version in MEASURED {
            let schema = Schema::recorded(version);
            let mut compared = 0;
            let machine = match version {
                // What is no command of the block layer is declared as 10.0 has it.
                Version::V10_0 => MachineCommand::all_declared(version),
                _ => Vec::new(),
            };
            for (command, declared) in Command::all_declared(version).into_iter().chain(machine) {
                if declared.is_some() && find_command(command, version).is_some() {
                    let of_qemu = schema.members(&schema.arguments(command));
                    let (mut declared, mut of_qemu) = (known(declared), without(&of_qemu, version, command));
                    if version != Version::V10_0 {
                        // The order of members is that of 10.0: it says which of several mistakes is told.
                        declared.sort();
                        of_qemu.sort();
                    }
                    assert_eq!(declared, of_qemu, "{command} of {version}");
                    compared += 1;
                }
            }
            assert!(compared > 50, "only {compared}");
        }
    }

    #[test]
    fn branches_are_what_qemu_has() {
        for version in MEASURED {
            branches(version);
        }
    }

    fn branches(version: Version) {
        let schema = Schema::recorded(version);
        let node = schema.arguments("blockdev-add");
        for (driver, declared) in [
            ("file", FileOptions::names(version)),
            ("null-co", NullOptions::names(version)),
            ("null-aio", NullOptions::names(version)),
            ("raw", RawOptions::names(version)),
            ("qcow2", Qcow2Options::names(version)),
            ("blkdebug", BlkdebugOptions::names(version)),
            ("copy-before-write", CbwOptions::names(version)),
            ("copy-on-read", CorOptions::names(version)),
            ("throttle", ThrottleOptions::names(version)),
            ("preallocate", PreallocateOptions::names(version)),
            ("quorum", QuorumOptions::names(version)),
            ("blkverify", BlkverifyOptions::names(version)),
        ] {
            assert_eq!(
                known(declared),
                without(&schema.branch(&node, driver), version, driver),
                "{driver} of {version}"
            );
        }
        let create = schema.member_type(&schema.arguments("blockdev-create"), "options");
        assert_eq!(known(CreateFile::names(version)), schema.branch(&create, "file"), "blockdev-create of file");
        assert_eq!(known(CreateQcow2::names(version)), schema.branch(&create, "qcow2"), "blockdev-create of qcow2");
        let export = schema.arguments("block-export-add");
        assert_eq!(
            known(BlockExportBase::names(version)),
            without(&schema.members(&export), version, "block-export-add"),
            "block-export-add"
        );
        assert_eq!(known(BlockExportNbd::names(version)), schema.branch(&export, "nbd"), "block-export-add of NBD");
    }
}
