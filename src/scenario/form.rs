//! Forms: how a value stands in a scenario file, declared once.
//!
//! A [`Form`] is a mapping with its members: of each its name, its kind, whether it may be left out, and a sentence for readers. A [`ValueKind`] is
//! what may stand behind a key. Both say how a value is read, how it is written back, what the JSON Schema says of it, and which names in it
//! `check` looks up. [`form!`] makes a form of a declaration that has each member once.

use super::error::Read;
use super::fields::Fields;
use super::tree::Node;
use super::yaml::Yaml;

/// What may stand behind a key, as the JSON Schema says it.
#[derive(Clone, Copy, Debug)]
pub(super) enum ValueType {
    /// Any value.
    Any,
    /// `"type": "string"`
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
    /// One of these words; none at all stands for `null`.
    Word(&'static [&'static str]),
    /// One of these types.
    Or(&'static [ValueType]),
    /// A mapping with these members.
    Map(&'static [Member]),
    /// A list of these.
    List(&'static ValueType),
    /// A list of steps.
    Steps,
}

/// A member of a mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub name: &'static str,
    pub of: ValueType,
    pub required: bool,
    pub about: &'static str,
}

/// A member that may be left out.
pub(super) const fn opt(name: &'static str, of: ValueType, about: &'static str) -> Member {
    Member { name, of, required: false, about }
}

/// A name in a step that `check` looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameOf {
    /// An event of QEMU.
    Event,
    /// A file that the step makes.
    NewFile,
    /// A file that must be there.
    File,
}

/// Gets the names in a value, one after the other.
pub(super) type EachName<'n, 'a> = &'n mut dyn FnMut(NameOf, &'a str);

/// Members as they are written, in order.
pub(super) type Written = Vec<(&'static str, Yaml)>;

/// What may stand behind a key.
pub(super) trait ValueKind {
    /// What it is read as.
    type Of;
    const TYPE: ValueType;
    fn read(node: &Node) -> Read<Self::Of>;
    /// The value as it is written; `None` if it is one of another form.
    fn write(of: &Self::Of) -> Option<Yaml>;
    fn names<'a>(_of: &'a Self::Of, _each: EachName<'_, 'a>) {}
}

/// A mapping of certain members.
pub(super) trait Form {
    /// What it is read as.
    type Of;
    /// What it describes, for messages.
    const NAME: &'static str;
    const MEMBERS: &'static [Member];
    /// Takes the members out of a mapping.
    fn take(fields: &mut Fields<'_>) -> Read<Self::Of>;
    /// Looks at what the members say together; `node` has their places.
    fn check(of: &Self::Of, node: &Node) -> Read;
    /// The members as they are written; `None` if the value is one of another form.
    fn members(of: &Self::Of) -> Option<Written>;
    fn names<'a>(of: &'a Self::Of, each: EachName<'_, 'a>);
}

impl<F: Form> ValueKind for F {
    type Of = F::Of;
    const TYPE: ValueType = ValueType::Map(F::MEMBERS);

    fn read(node: &Node) -> Read<F::Of> {
        let mut fields = Fields::of(F::NAME, node)?;
        let of = F::take(&mut fields)?;
        fields.end()?;
        F::check(&of, node)?;
        Ok(of)
    }

    fn write(of: &F::Of) -> Option<Yaml> {
        F::members(of).map(Yaml::members)
    }

    fn names<'a>(of: &'a F::Of, each: EachName<'_, 'a>) {
        <F as Form>::names(of, each);
    }
}

/// A form. `form! { Name: Value = "what" (Value { a, b }); a: req Text, "…"; b as "b-c": opt Size, "…"; }` stands for a mapping with the
/// members `a`, which must be there, and `b-c`, which may be left out and is an `Option`. `def Count = 0` may be left out too, and is then
/// what stands behind `=`. The value in parentheses is both how it is put together and how it is taken apart, so that the compiler asks for a
/// member of each field. `=> check` names a function that looks at the whole, `=> order` one that changes the order in which it is written.
macro_rules! form {
    (
        $(#[$doc:meta])*
        $form:ident: $of:ty = $name:literal ($($shape:tt)+);
        $($field:ident $(as $key:literal)?: $mode:ident $kind:ty $(= $default:expr)?, $about:literal;)*
        $(=> check $check:path;)?
        $(=> order $order:path;)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(in crate::scenario) struct $form;

        #[allow(unused_parens, unreachable_patterns, irrefutable_let_patterns, unused_variables, reason = "a value may be of one form only, and have no names")]
        impl $crate::scenario::form::Form for $form {
            type Of = $of;
            const NAME: &'static str = $name;
            const MEMBERS: &'static [$crate::scenario::form::Member] = &[$($crate::scenario::form::Member {
                name: form!(@key $field $($key)?),
                of: <$kind as $crate::scenario::form::ValueKind>::TYPE,
                required: form!(@required $mode),
                about: $about,
            },)*];

            fn take(fields: &mut $crate::scenario::fields::Fields<'_>) -> $crate::scenario::error::Read<$of> {
                $(let $field = form!(@take $mode $kind, fields, form!(@key $field $($key)?) $(, $default)?);)*
                Ok($($shape)+)
            }

            fn check(of: &$of, node: &$crate::scenario::tree::Node) -> $crate::scenario::error::Read {
                $($check(of, node)?;)?
                Ok(())
            }

            fn members(of: &$of) -> Option<$crate::scenario::form::Written> {
                match of {
                    $($shape)+ => {
                        let mut written: $crate::scenario::form::Written = Vec::new();
                        $(if let Some(value) = form!(@write $mode $kind, $field $(, $default)?) {
                            written.push((form!(@key $field $($key)?), value));
                        })*
                        $($order(&mut written);)?
                        Some(written)
                    }
                    _ => None,
                }
            }

            fn names<'a>(of: &'a $of, each: $crate::scenario::form::EachName<'_, 'a>) {
                if let $($shape)+ = of {
                    $(form!(@names $mode $kind, $field, each);)*
                }
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@required req) => { true };
    (@required $mode:ident) => { false };
    (@take req $kind:ty, $fields:ident, $key:expr) => { <$kind as $crate::scenario::form::ValueKind>::read($fields.req($key)?)? };
    (@take opt $kind:ty, $fields:ident, $key:expr) => { $fields.opt($key).map(<$kind as $crate::scenario::form::ValueKind>::read).transpose()? };
    (@take def $kind:ty, $fields:ident, $key:expr, $default:expr) => {
        match $fields.opt($key) {
            Some(node) => <$kind as $crate::scenario::form::ValueKind>::read(node)?,
            None => $default,
        }
    };
    (@write req $kind:ty, $field:ident) => { <$kind as $crate::scenario::form::ValueKind>::write($field) };
    (@write opt $kind:ty, $field:ident) => { $field.as_ref().and_then(<$kind as $crate::scenario::form::ValueKind>::write) };
    (@write def $kind:ty, $field:ident, $default:expr) => {
        if *$field == $default { None } else { <$kind as $crate::scenario::form::ValueKind>::write($field) }
    };
    (@names opt $kind:ty, $field:ident, $each:ident) => {
        if let Some(value) = $field { <$kind as $crate::scenario::form::ValueKind>::names(value, $each); }
    };
    (@names $mode:ident $kind:ty, $field:ident, $each:ident) => { <$kind as $crate::scenario::form::ValueKind>::names($field, $each) };
}
pub(super) use form;
