//! The NBD protocol as QEMU's server speaks it (`nbd/server.c`, `nbd/common.c`, `include/block/nbd.h`): bytes to requests and replies to
//! bytes. No sockets, no world.
//!
//! [`Handshake`] is the whole negotiation; [`Header`] and [`Request`] are what a client asks afterwards; `reply` builds the answers,
//! [`Extents`] what block status tells.
//!
//! The other end, as QEMU's block driver is one (`nbd/client.c`): [`Negotiation`], `replies`. [`Talk`] is a client that a scenario drives.

mod extents;
mod handshake;
mod negotiate;
mod replies;
mod reply;
mod request;
mod talk;
#[cfg(test)]
mod tests;

pub use extents::{Extents, MAX_EXTENTS};
pub use handshake::{Contexts, Handshake, HandshakeStep, Offer};
pub use negotiate::{ExportInfo, Negotiation, Progress};
pub use replies::{Chunk, Reply, errno_from_wire, next_reply, request_bytes, take_chunk};
pub use reply::{chunk_done, chunk_error, chunk_hole, chunk_read, chunk_status, errno_to_wire, simple};
pub use request::{Checked, Header, Limits, Payload, Request, Selected, select, what_comes};
pub use talk::{Answer, Greeting, Talk};

/// `NBD_MAX_BUFFER_SIZE`: the largest read, write and option.
pub const MAX_BUFFER_SIZE: u64 = 32 << 20;
/// `NBD_MAX_STRING_SIZE`: the longest name of an export and of a context.
pub const MAX_STRING_SIZE: usize = 4096;

/// What the two ends have agreed on about replies (`NBDMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NbdMode {
    /// `NBD_OPT_EXPORT_NAME` is all that the client may send.
    #[default]
    ExportName,
    /// Simple replies.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers.
    Extended,
}

/// Transmission flags (`NBD_FLAG_*`).
pub mod flag {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    pub const BLOCK_STAT_PAYLOAD: u16 = 1 << 12;
}

/// Requests (`NBD_CMD_*`).
pub mod cmd {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;

    /// `nbd_cmd_lookup`
    #[must_use]
    pub fn name(cmd: u16) -> &'static str {
        match cmd {
            READ => "read",
            WRITE => "write",
            DISC => "disconnect",
            FLUSH => "flush",
            TRIM => "trim",
            CACHE => "cache",
            WRITE_ZEROES => "write zeroes",
            BLOCK_STATUS => "block status",
            _ => "<unknown>",
        }
    }
}

/// Flags of requests (`NBD_CMD_FLAG_*`).
pub mod cmd_flag {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 2;
    pub const DF: u16 = 4;
    pub const REQ_ONE: u16 = 8;
    pub const FAST_ZERO: u16 = 16;
    pub const PAYLOAD_LEN: u16 = 32;
}

/// Options of the negotiation (`NBD_OPT_*`).
pub mod opt {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;

    /// `nbd_opt_lookup`
    #[must_use]
    pub fn name(opt: u32) -> &'static str {
        match opt {
            EXPORT_NAME => "export name",
            ABORT => "abort",
            LIST => "list",
            STARTTLS => "starttls",
            INFO => "info",
            GO => "go",
            STRUCTURED_REPLY => "structured reply",
            LIST_META_CONTEXT => "list meta context",
            SET_META_CONTEXT => "set meta context",
            EXTENDED_HEADERS => "extended headers",
            _ => "<unknown>",
        }
    }
}

/// Replies to options (`NBD_REP_*`).
pub mod rep {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_POLICY: u32 = 0x8000_0002;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_BLOCK_SIZE_REQD: u32 = 0x8000_0008;
    pub const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
}

/// Magic numbers.
pub mod magic {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const INIT: u64 = 0x4e42_444d_4147_4943;
    pub const OPTS: u64 = 0x4948_4156_454f_5054;
    pub const REP: u64 = 0x0003_e889_0455_65a9;
    pub const REQUEST: u32 = 0x2560_9513;
    pub const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
    pub const SIMPLE_REPLY: u32 = 0x6744_6698;
    pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;
    pub const EXTENDED_REPLY: u32 = 0x6e8a_278c;
}

/// Kinds of chunks (`NBD_REPLY_TYPE_*`).
pub mod chunk {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = 0x8001;
}

/// Numbers of meta contexts (`NBD_META_ID_*`).
pub mod meta {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const BASE_ALLOCATION: u32 = 0;
    pub const ALLOCATION_DEPTH: u32 = 1;
    pub const DIRTY_BITMAP: u32 = 2;
}

/// What stands at `at`, in network order; `None` where there are too few bytes.
fn be<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    be(bytes, at).map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    be(bytes, at).map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    be(bytes, at).map(u64::from_be_bytes)
}

/// A length as the protocol writes it.
fn len32(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("what is sent is at most a buffer long").to_be_bytes()
}
