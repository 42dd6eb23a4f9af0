//! JSON values as QMP has them: integers of 64 bits, no floats in arithmetic, members in the order they were put.

use std::sync::Arc;

/// A JSON value. Dictionaries keep insertion order; what order they are *printed* in is the printer's matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits `i64`.
    Int(i64),
    /// An integer above `i64::MAX` that fits `u64`.
    Uint(u64),
    /// Any other number, kept as it was written (`5.0`, `1e3`).
    Number(Arc<str>),
    /// A string.
    Str(Arc<str>),
    /// An array.
    List(Arc<Vec<Json>>),
    /// An object.
    Dict(Arc<Vec<(Arc<str>, Json)>>),
}

impl Json {
    /// The empty object, QMP's "no return value".
    #[must_use]
    pub fn empty() -> Json {
        Json::Dict(Arc::new(Vec::new()))
    }

    /// A string value.
    #[must_use]
    pub fn str(text: &str) -> Json {
        Json::Str(text.into())
    }

    /// A list value.
    #[must_use]
    pub fn list(items: Vec<Json>) -> Json {
        Json::List(Arc::new(items))
    }

    /// An object from its members, in this order.
    #[must_use]
    pub fn dict(members: Vec<(&str, Json)>) -> Json {
        Json::Dict(Arc::new(members.into_iter().map(|(k, v)| (Arc::from(k), v)).collect()))
    }

    /// A non-negative integer value.
    #[must_use]
    pub fn uint(n: u64) -> Json {
        i64::try_from(n).map_or(Json::Uint(n), Json::Int)
    }

    /// The member `key` of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Dict(members) => members.iter().find(|(k, _)| &**k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The value of a non-negative integer.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Json::Int(n) => u64::try_from(*n).ok(),
            Json::Uint(n) => Some(*n),
            _ => None,
        }
    }

    /// The value of a boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The items of an array.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Json]> {
        match self {
            Json::List(items) => Some(items),
            _ => None,
        }
    }

    /// The members of an object.
    #[must_use]
    pub fn as_dict(&self) -> Option<&[(Arc<str>, Json)]> {
        match self {
            Json::Dict(members) => Some(members),
            _ => None,
        }
    }
}

impl From<bool> for Json {
    fn from(b: bool) -> Json {
        Json::Bool(b)
    }
}

impl From<i64> for Json {
    fn from(n: i64) -> Json {
        Json::Int(n)
    }
}

impl From<u64> for Json {
    fn from(n: u64) -> Json {
        Json::uint(n)
    }
}

impl From<&str> for Json {
    fn from(s: &str) -> Json {
        Json::str(s)
    }
}

impl From<String> for Json {
    fn from(s: String) -> Json {
        Json::Str(s.into())
    }
}
