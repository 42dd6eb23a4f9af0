//! What may be an ID that a user gives (`util/id.c`).

/// `id_wellformed`: a letter, then letters, digits, `-`, `.` and `_`.
#[must_use]
pub fn id_wellformed(id: &str) -> bool {
    let mut bytes = id.bytes();
    bytes.next().is_some_and(|c| c.is_ascii_alphabetic())
        && bytes.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'))
}
