//! Reading typed values out of JSON with QEMU's order of checks and its error texts
//! (qapi/qobject-input-visitor.c, qapi/qapi-visit-core.c).
//!
//! [`ValueAt`] is one value together with the place it was found at; [`Visitor`] reads the members of one object.
//! Members are asked for in schema order, [`Visitor::finish`] then complains about those nobody asked for.

use std::fmt::Write as _;
use std::sync::Arc;

use super::error::QmpError;
use super::hash_order::GlibTable;
use super::keyval::{parse_bool, parse_i64, parse_strosz, parse_u64};
use crate::base::Json;
use crate::version::Version;
use crate::version::changes::Change;

/// What a visit gives: a value or the error the command answers.
pub type Visit<T> = Result<T, QmpError>;

/// A QAPI enum: its values with their names.
pub trait QapiEnum: Copy + 'static {
    /// The values in schema order.
    const TABLE: &'static [(Self, &'static str)];

    /// The value of that name.
    #[must_use]
    fn from_name(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(_, n)| *n == name).map(|(v, _)| *v)
    }
}

/// The way from the root to a value, innermost step first.
#[derive(Clone, Copy, Debug)]
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'static str),
    Index(&'a Path<'a>, usize),
}

/// Room for the members one object's visit can consume; no QAPI type read here has as many.
const MAX_MEMBERS: usize = 40;

/// Where scalars come from: JSON values, or the strings of `key=value` options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputVisitor {
    /// JSON as the monitor reads it (`qobject_input_visitor_new_qmp`).
    Json,
    /// Strings from [`super::keyval::parse_keyval`] (`qobject_input_visitor_new_keyval`).
    Keyval,
}

impl Path<'_> {
    /// The last step's name, as messages that know only that print it.
    fn last(&self) -> &'static str {
        match self {
            Path::Member(_, name) => name,
            Path::Root | Path::Index(..) => "null",
        }
    }

    /// `full_name`: all steps, e.g. `actions[0].data`.
    fn full(&self, mode: InputVisitor) -> String {
        let mut text = String::new();
        self.write(mode, &mut text);
        if text.is_empty() { "<anonymous>".into() } else { text }
    }

    fn write(&self, mode: InputVisitor, out: &mut String) {
        match self {
            Path::Root => {}
            Path::Member(parent, name) => {
                parent.write(mode, out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Path::Index(parent, index) => {
                parent.write(mode, out);
                // Writing to a String cannot fail.
                let _ = match mode {
                    InputVisitor::Json => write!(out, "[{index}]"),
                    InputVisitor::Keyval => write!(out, "{}{index}", if out.is_empty() { "" } else { "." }),
                };
            }
        }
    }
}

/// One JSON value and its place in the arguments.
#[derive(Clone, Copy, Debug)]
pub struct ValueAt<'a> {
    value: &'a Json,
    path: Path<'a>,
    mode: InputVisitor,
    version: Version,
}

impl<'a> ValueAt<'a> {
    /// The root of a visit, as this version of QEMU makes it.
    #[must_use]
    pub fn root(value: &'a Json, mode: InputVisitor, version: Version) -> ValueAt<'a> {
        ValueAt { value, path: Path::Root, mode, version }
    }

    /// The version of QEMU.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether numbers and booleans are texts.
    #[must_use]
    pub fn texts(&self) -> bool {
        self.mode == InputVisitor::Keyval
    }

    /// The value itself (`visit_type_any`).
    #[must_use]
    pub fn any(&self) -> &'a Json {
        self.value
    }

    /// Steps from the root to this value.
    #[must_use]
    pub fn depth(&self) -> usize {
        let (mut depth, mut path) = (0, &self.path);
        while let Path::Member(parent, _) | Path::Index(parent, _) = path {
            (depth, path) = (depth + 1, parent);
        }
        depth
    }

    fn wrong_type(&self, expected: &str) -> QmpError {
        QmpError::generic(format!("Invalid parameter type for '{}', expected: {expected}", self.path.full(self.mode)))
    }

    fn expects(&self, what: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{}' expects {what}", self.path.full(self.mode)))
    }

    /// The error of an alternate that has no branch for this JSON type; unlike others it names the last step only.
    #[must_use]
    pub fn no_branch(&self, expected: &str) -> QmpError {
        QmpError::generic(format!("Invalid parameter type for '{}', expected: {expected}", self.path.last()))
    }

    /// `qobject_input_get_keyval`: the string of an option.
    fn keyval(&self) -> Visit<&'a Arc<str>> {
        match self.value {
            Json::Str(s) => Ok(s),
            Json::Dict(_) | Json::List(_) => {
                Err(QmpError::generic(format!("Parameters '{}.*' are unexpected", self.path.full(self.mode))))
            }
            _ => Err(QmpError::generic(format!("Internal error: parameter {} invalid", self.path.full(self.mode)))),
        }
    }

    /// `visit_type_str`.
    ///
    /// # Errors
    /// Not a string.
    pub fn string(&self) -> Visit<Arc<str>> {
        self.str_ref().cloned()
    }

    fn str_ref(&self) -> Visit<&'a Arc<str>> {
        match (self.mode, self.value) {
            (InputVisitor::Keyval, _) => self.keyval(),
            (InputVisitor::Json, Json::Str(s)) => Ok(s),
            (InputVisitor::Json, _) => Err(self.wrong_type("string")),
        }
    }

    /// `visit_type_bool`.
    ///
    /// # Errors
    /// Not a boolean.
    pub fn boolean(&self) -> Visit<bool> {
        match (self.mode, self.value) {
            (InputVisitor::Keyval, _) => parse_bool(self.keyval()?).ok_or_else(|| self.expects("'on' or 'off'")),
            (InputVisitor::Json, Json::Bool(b)) => Ok(*b),
            (InputVisitor::Json, _) => Err(self.wrong_type("boolean")),
        }
    }

    /// `visit_type_int` and `visit_type_int64`.
    ///
    /// # Errors
    /// Not an integer, or outside `i64`.
    pub fn int(&self) -> Visit<i64> {
        match (self.mode, self.value) {
            (InputVisitor::Keyval, _) => parse_i64(self.keyval()?).ok_or_else(|| self.expects("integer")),
            (InputVisitor::Json, Json::Int(n)) => Ok(*n),
            (InputVisitor::Json, _) => Err(self.wrong_type("integer")),
        }
    }

    /// `visit_type_uint64`. Negative numbers wrap, as they do in QEMU.
    ///
    /// # Errors
    /// Not an integer, or outside `u64`.
    pub fn uint(&self) -> Visit<u64> {
        match (self.mode, self.value) {
            (InputVisitor::Keyval, _) => parse_u64(self.keyval()?).ok_or_else(|| self.expects("integer")),
            (InputVisitor::Json, Json::Int(n)) => Ok(n.cast_unsigned()),
            (InputVisitor::Json, Json::Uint(n)) => Ok(*n),
            (InputVisitor::Json, _) => Err(self.expects("uint64")),
        }
    }

    /// `visit_type_size`: like [`ValueAt::uint`]; as an option it takes suffixes (`64k`).
    ///
    /// # Errors
    /// Not a size.
    pub fn size(&self) -> Visit<u64> {
        match self.mode {
            InputVisitor::Json => self.uint(),
            InputVisitor::Keyval => parse_strosz(self.keyval()?).ok_or_else(|| self.expects("size")),
        }
    }

    /// `visit_type_uint32`.
    ///
    /// # Errors
    /// Not an integer, or out of range.
    pub fn uint32(&self) -> Visit<u32> {
        let value = self.uint()?;
        u32::try_from(value).map_err(|_| self.out_of_range("uint32_t"))
    }

    /// `visit_type_uint16`.
    ///
    /// # Errors
    /// Not an integer, or out of range.
    pub fn uint16(&self) -> Visit<u16> {
        let value = self.uint()?;
        u16::try_from(value).map_err(|_| self.out_of_range("uint16_t"))
    }

    /// `visit_type_int32`.
    ///
    /// # Errors
    /// Not an integer, or out of range.
    pub fn int32(&self) -> Visit<i32> {
        let value = self.int()?;
        i32::try_from(value).map_err(|_| self.out_of_range("int32_t"))
    }

    fn out_of_range(&self, ctype: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{}' expects {ctype}", self.path.last()))
    }

    /// `visit_type_enum`.
    ///
    /// # Errors
    /// Not a string, or not one of the names; the latter names the last step only.
    pub fn enumeration<E: QapiEnum>(&self) -> Visit<E> {
        let name = self.str_ref()?;
        E::from_name(name).ok_or_else(|| self.bad_name(name))
    }

    /// The error for a name an enum does not have.
    #[must_use]
    pub fn bad_name(&self, name: &str) -> QmpError {
        QmpError::generic(format!("Parameter '{}' does not accept value '{name}'", self.path.last()))
    }

    /// `visit_start_struct`: goes into an object.
    ///
    /// # Errors
    /// Not an object.
    pub fn object(self) -> Visit<Visitor<'a>> {
        match self.value {
            Json::Dict(members) => {
                let Self { path, mode, version, .. } = self;
                Ok(Visitor { members, path, mode, version, seen: [0; MAX_MEMBERS], seen_len: 0 })
            }
            _ => Err(self.wrong_type("object")),
        }
    }

    /// `visit_start_list` and what follows: visits each element.
    ///
    /// # Errors
    /// Not an array, or what `each` says.
    pub fn list<T>(&self, mut each: impl FnMut(ValueAt<'_>) -> Visit<T>) -> Visit<Vec<T>> {
        let Json::List(items) = self.value else {
            return Err(self.wrong_type("array"));
        };
        let visit = |(i, value)| each(ValueAt { value, path: Path::Index(&self.path, i), ..*self });
        items.iter().enumerate().map(visit).collect()
    }
}

/// A visit of one object's members.
#[derive(Clone, Debug)]
pub struct Visitor<'a> {
    members: &'a [(Arc<str>, Json)],
    path: Path<'a>,
    mode: InputVisitor,
    version: Version,
    /// Indices of the members visited so far, in the order of the visits.
    seen: [u32; MAX_MEMBERS],
    seen_len: usize,
}

impl Visitor<'_> {
    /// Whether this version of QEMU has what came with a change.
    #[must_use]
    pub fn since(&self, change: Change) -> bool {
        self.version.has(change)
    }

    /// An optional member (`visit_optional` and the visit of the value).
    pub fn opt_at(&mut self, name: &'static str) -> Option<ValueAt<'_>> {
        let index = self.members.iter().position(|(key, _)| &**key == name)?;
        assert!(self.seen_len < MAX_MEMBERS, "a QAPI type with more members than MAX_MEMBERS");
        self.seen[self.seen_len] = u32::try_from(index).unwrap_or(u32::MAX);
        self.seen_len += 1;
        let (value, path) = (&self.members[index].1, Path::Member(&self.path, name));
        Some(ValueAt { value, path, mode: self.mode, version: self.version })
    }

    /// A mandatory member.
    ///
    /// # Errors
    /// It is missing.
    pub fn at(&mut self, name: &'static str) -> Visit<ValueAt<'_>> {
        // The borrow of a returned `ValueAt` lasts as long as the caller keeps it, so the error is made first.
        if !self.members.iter().any(|(key, _)| &**key == name) {
            let full = Path::Member(&self.path, name).full(self.mode);
            return Err(QmpError::generic(format!("Parameter '{full}' is missing")));
        }
        self.opt_at(name).ok_or_else(|| QmpError::generic("the member vanished"))
    }

    /// A mandatory string.
    ///
    /// # Errors
    /// Missing or no string.
    pub fn str(&mut self, name: &'static str) -> Visit<Arc<str>> {
        self.at(name)?.string()
    }

    /// An optional string.
    ///
    /// # Errors
    /// Not a string.
    pub fn opt_str(&mut self, name: &'static str) -> Visit<Option<Arc<str>>> {
        self.opt_with(name, |at| at.string())
    }

    /// A mandatory boolean.
    ///
    /// # Errors
    /// Missing or no boolean.
    pub fn bool(&mut self, name: &'static str) -> Visit<bool> {
        self.at(name)?.boolean()
    }

    /// An optional boolean.
    ///
    /// # Errors
    /// Not a boolean.
    pub fn opt_bool(&mut self, name: &'static str) -> Visit<Option<bool>> {
        self.opt_with(name, |at| at.boolean())
    }

    /// A mandatory `int`.
    ///
    /// # Errors
    /// Missing or no `i64`.
    pub fn int(&mut self, name: &'static str) -> Visit<i64> {
        self.at(name)?.int()
    }

    /// An optional `int`.
    ///
    /// # Errors
    /// Not an `i64`.
    pub fn opt_int(&mut self, name: &'static str) -> Visit<Option<i64>> {
        self.opt_with(name, |at| at.int())
    }

    /// An optional `int32`.
    ///
    /// # Errors
    /// Not an `i32`.
    pub fn opt_int32(&mut self, name: &'static str) -> Visit<Option<i32>> {
        self.opt_with(name, |at| at.int32())
    }

    /// An optional `uint32`.
    ///
    /// # Errors
    /// Not a `u32`.
    pub fn opt_uint32(&mut self, name: &'static str) -> Visit<Option<u32>> {
        self.opt_with(name, |at| at.uint32())
    }

    /// A mandatory `size`, in bytes.
    ///
    /// # Errors
    /// Missing or no size.
    pub fn size(&mut self, name: &'static str) -> Visit<u64> {
        self.at(name)?.size()
    }

    /// An optional `size`, in bytes.
    ///
    /// # Errors
    /// Not a size.
    pub fn opt_size(&mut self, name: &'static str) -> Visit<Option<u64>> {
        self.opt_with(name, |at| at.size())
    }

    /// A mandatory enum.
    ///
    /// # Errors
    /// Missing or not one of its names.
    pub fn enum_<E: QapiEnum>(&mut self, name: &'static str) -> Visit<E> {
        self.at(name)?.enumeration()
    }

    /// An optional enum.
    ///
    /// # Errors
    /// Not one of its names.
    pub fn opt_enum<E: QapiEnum>(&mut self, name: &'static str) -> Visit<Option<E>> {
        self.opt_with(name, |at| at.enumeration())
    }

    /// A mandatory member read by `read`.
    ///
    /// # Errors
    /// Missing, or what `read` says.
    pub fn with<T>(&mut self, name: &'static str, read: impl FnOnce(ValueAt<'_>) -> Visit<T>) -> Visit<T> {
        read(self.at(name)?)
    }

    /// An optional member read by `read`.
    ///
    /// # Errors
    /// What `read` says.
    pub fn opt_with<T>(&mut self, name: &'static str, read: impl FnOnce(ValueAt<'_>) -> Visit<T>) -> Visit<Option<T>> {
        self.opt_at(name).map(read).transpose()
    }

    /// A mandatory array read element by element.
    ///
    /// # Errors
    /// Missing, no array, or what `each` says.
    pub fn list<T>(&mut self, name: &'static str, each: impl FnMut(ValueAt<'_>) -> Visit<T>) -> Visit<Vec<T>> {
        self.at(name)?.list(each)
    }

    /// An optional array read element by element.
    ///
    /// # Errors
    /// No array, or what `each` says.
    pub fn opt_list<T>(
        &mut self,
        name: &'static str,
        each: impl FnMut(ValueAt<'_>) -> Visit<T>,
    ) -> Visit<Option<Vec<T>>> {
        self.opt_with(name, |at| at.list(each))
    }

    /// `visit_check_struct`: every member must have been visited.
    ///
    /// # Errors
    /// Names a member nobody asked for; of several the one QEMU's hash table lists first.
    pub fn finish(self) -> Visit<()> {
        if self.seen_len >= self.members.len() {
            return Ok(());
        }
        let mut table = GlibTable::of_dict(self.members);
        for index in &self.seen[..self.seen_len] {
            table.remove(&self.members[*index as usize].0);
        }
        let Some(key) = table.first() else { return Ok(()) };
        let mut full = String::new();
        self.path.write(self.mode, &mut full);
        let dot = if full.is_empty() { "" } else { "." };
        Err(QmpError::generic(format!("Parameter '{full}{dot}{key}' is unexpected")))
    }

    /// Ends the visit without looking at what was not visited (for types that are not read member by member).
    pub fn leave(self) {}
}
