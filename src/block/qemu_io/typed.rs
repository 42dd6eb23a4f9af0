//! What a line to qemu-io asks for, once it is read, and what is printed instead.

use crate::block::accounting::AcctType;
use std::sync::Arc;

/// Longest single request, in bytes (`BDRV_REQUEST_MAX_BYTES`).
pub const REQUEST_MAX_BYTES: u64 = 2_147_483_136;

/// Texts by the way they leave the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Output {
    /// Printed to standard output, with line ends.
    pub stdout: String,
    /// Printed to standard error, with line ends.
    pub stderr: String,
    /// Reported with `error_report`, without line end: in the reply of human-monitor-command, or on the standard
    /// error of the qemu-io program.
    pub report: Option<String>,
    /// The request counts as an invalid one of this kind.
    pub invalid: Option<AcctType>,
}

impl Output {
    /// One line for standard output.
    #[must_use]
    pub fn line(text: &str) -> Output {
        Output { stdout: format!("{text}\n"), ..Output::default() }
    }

    pub(super) fn report(text: String) -> Output {
        Output { report: Some(text), ..Output::default() }
    }
}

/// Permissions that a command adds to those of the backend it works on, before it looks at its arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Perms {
    /// `BLK_PERM_WRITE`
    pub write: bool,
    /// `BLK_PERM_RESIZE`
    pub resize: bool,
}

/// How a read or write is submitted; failures are worded differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Submit {
    /// `read`, `write`: one buffer, the command waits.
    Plain,
    /// `readv`, `writev`: one request over several buffers, the command waits.
    Vector,
    /// `aio_read`, `aio_write`: the command returns at once, the outcome is printed when it is known.
    Aio,
}

/// What a successful request prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// Two lines for people.
    Human,
    /// `-C`: one line of comma-separated figures.
    Machine,
    /// `-q`: nothing.
    Quiet,
}

/// The part of the read data that has to hold one byte value (`-P`, `-s`, `-l`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verify {
    /// `-P`: the byte that is written, or expected to be read.
    pub pattern: u8,
    /// Start of the part, in bytes from the start of the data.
    pub start: u64,
    /// Length of the part in bytes.
    pub bytes: u64,
}

/// `read`, `readv` or `aio_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// Which of the three.
    pub submit: Submit,
    /// First byte.
    pub offset: u64,
    /// Length in bytes, at most [`REQUEST_MAX_BYTES`].
    pub bytes: u64,
    /// What to compare the data with.
    pub verify: Option<Verify>,
    /// `-v`: print the data, unless quiet.
    pub dump: bool,
    /// What to print on success.
    pub report: Report,
}

/// What a write puts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteData {
    /// This byte throughout (`-P`; 0xcd by default).
    Pattern(u8),
    /// `-c`: this byte throughout, compressed.
    Compressed(u8),
    /// `-z`: zeroes by a write-zeroes request.
    Zeroes {
        /// `-u`: `BDRV_REQ_MAY_UNMAP`
        unmap: bool,
        /// `-n`: `BDRV_REQ_NO_FALLBACK`
        no_fallback: bool,
    },
}

/// `write`, `writev` or `aio_write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Which of the three.
    pub submit: Submit,
    /// First byte.
    pub offset: u64,
    /// Length in bytes, at most [`REQUEST_MAX_BYTES`] but for `write -z -n` and `aio_write -z`.
    pub bytes: u64,
    /// What is written.
    pub data: WriteData,
    /// `-f`: `BDRV_REQ_FUA`
    pub fua: bool,
    /// What to print on success.
    pub report: Report,
}

/// The values of `truncate -m` (`PreallocMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prealloc {
    /// `off`
    Off,
    /// `metadata`
    Metadata,
    /// `falloc`
    Falloc,
    /// `full`
    Full,
}

/// `reopen`; none of it is held against the others yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reopen {
    /// `-c`, the last one: whether the host's cache is used, flushes are left out, and each write is flushed.
    pub cache: Option<CacheMode>,
    /// `-w` is false, `-r` true.
    pub read_only: Option<bool>,
    /// `-o`: options with their values, as they came.
    pub options: Vec<Arc<str>>,
}

/// What a name of a cache mode stands for (`bdrv_parse_cache_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheMode {
    /// `cache.direct`
    pub direct: bool,
    /// `cache.no-flush`
    pub no_flush: bool,
    /// `cache.writeback` is off.
    pub writethrough: bool,
}

impl CacheMode {
    pub(super) fn of(name: &str) -> Option<CacheMode> {
        let (direct, no_flush, writethrough) = match name {
            "off" | "none" => (true, false, false),
            "directsync" => (true, false, true),
            "writeback" => (false, false, false),
            "unsafe" => (false, true, false),
            "writethrough" => (false, false, true),
            _ => return None,
        };
        Some(CacheMode { direct, no_flush, writethrough })
    }
}

/// A command that is ready to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QemuIo {
    /// Read data.
    Read(Read),
    /// Write data.
    Write(Write),
    /// `discard`; range in bytes.
    Discard {
        /// First byte.
        offset: u64,
        /// Length, at most [`REQUEST_MAX_BYTES`].
        bytes: u64,
        /// What to print on success.
        report: Report,
    },
    /// `flush`; prints nothing, not even a failure.
    Flush,
    /// `aio_flush`: drains everything.
    AioFlush,
    /// `truncate`
    Truncate {
        /// New length in bytes.
        offset: u64,
        /// Preallocation of what is added.
        prealloc: Prealloc,
    },
    /// `length`
    Length,
    /// `info`
    Info,
    /// `map`
    Map,
    /// `alloc`; range in bytes.
    Alloc {
        /// First byte.
        offset: u64,
        /// Length; one sector unless given.
        bytes: u64,
    },
    /// `break`; the event is not checked yet.
    Break {
        /// Name of the blkdebug event.
        event: Arc<str>,
        /// Tag for the request.
        tag: Arc<str>,
    },
    /// `remove_break`
    RemoveBreak {
        /// Tag of breakpoints and requests.
        tag: Arc<str>,
    },
    /// `resume`
    Resume {
        /// Tag of the request.
        tag: Arc<str>,
    },
    /// `wait_break`: waits until a request is suspended under the tag.
    WaitBreak {
        /// Tag of the request.
        tag: Arc<str>,
    },
    /// `reopen`
    Reopen(Box<Reopen>),
    /// `sleep`
    Sleep {
        /// How long.
        milliseconds: u64,
    },
    /// Something that the real qemu-io can do and this model cannot; its name or option.
    NotSimulated(&'static str),
}

/// A command line that names a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Taken (and kept) even if the arguments turn out to be wrong; the permission error then comes first.
    pub perms: Perms,
    /// The command, or what is printed instead of running one.
    pub what: Result<QemuIo, Output>,
}
