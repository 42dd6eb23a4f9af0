//! Requests of QEMU's block driver as bytes, and the replies that it is sent (`nbd/client.c:nbd_send_request`, `nbd_receive_reply`).

use super::{MAX_BUFFER_SIZE, NbdMode, Request, be16, be32, be64, chunk, magic};
use crate::base::errno::Errno;

/// The header of a reply, or of a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply: whatever was read stands behind it.
    Simple {
        /// Which request it is of.
        cookie: u64,
        /// The error, as the wire has it; 0 is none.
        error: u32,
    },
    /// A chunk of a structured reply.
    Chunk {
        /// Which request it is of.
        cookie: u64,
        /// It is the last one (`NBD_REPLY_FLAG_DONE`).
        done: bool,
        /// `NBD_REPLY_TYPE_*`
        kind: u16,
        /// How many bytes stand behind it.
        length: usize,
    },
}

impl Reply {
    /// Which request it is of.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        match self {
            Reply::Simple { cookie, .. } | Reply::Chunk { cookie, .. } => *cookie,
        }
    }
}

/// Reads the header at the front of what came, and its length; `None` where it is not complete.
///
/// # Errors
/// What came is no reply: QEMU gives such a connection up for good.
pub fn next_reply(input: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let Some(first) = be32(input, 0) else { return Ok(None) };
    let Some(cookie) = be64(input, 8) else {
        return match first {
            magic::SIMPLE_REPLY | magic::STRUCTURED_REPLY | magic::EXTENDED_REPLY => Ok(None),
            _ => Err(format!("invalid magic (got 0x{first:x})")),
        };
    };
    let (head, length) = match first {
        magic::SIMPLE_REPLY => {
            let error = be32(input, 4).unwrap_or_default();
            return Ok(Some((Reply::Simple { cookie, error }, 16)));
        }
        magic::STRUCTURED_REPLY => (20, be32(input, 16).map(u64::from)),
        // What it says of the offset is not looked at.
        magic::EXTENDED_REPLY => (32, be64(input, 24)),
        _ => return Err(format!("invalid magic (got 0x{first:x})")),
    };
    let Some(length) = length else { return Ok(None) };
    let (flags, kind) = (be16(input, 4).unwrap_or_default(), be16(input, 6).unwrap_or_default());
    if length > MAX_BUFFER_SIZE + 8 {
        return Err(format!("server chunk {kind} payload is too long"));
    }
    let length = usize::try_from(length).expect("checked above");
    Ok(Some((Reply::Chunk { cookie, done: flags & 1 != 0, kind, length }, head)))
}

/// `nbd_send_request`
#[must_use]
pub fn request_bytes(mode: NbdMode, request: &Request) -> Vec<u8> {
    let extended = mode == NbdMode::Extended;
    let mut out = Vec::with_capacity(32);
    out.extend((if extended { magic::EXTENDED_REQUEST } else { magic::REQUEST }).to_be_bytes());
    out.extend(request.flags.to_be_bytes());
    out.extend(request.kind.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
    out.extend(request.from.to_be_bytes());
    if extended {
        out.extend(request.len.to_be_bytes());
    } else {
        out.extend(u32::try_from(request.len).expect("the block layer splits longer ones").to_be_bytes());
    }
    out
}

/// `nbd_errno_to_system_errno`; `None` for success.
#[must_use]
pub fn errno_from_wire(error: u32) -> Option<Errno> {
    Some(match error {
        0 => return None,
        1 => Errno::EPERM,
        5 => Errno::EIO,
        12 => Errno::ENOMEM,
        28 => Errno::ENOSPC,
        75 => Errno::EOVERFLOW,
        95 => Errno::ENOTSUP,
        108 => Errno::ESHUTDOWN,
        _ => Errno::EINVAL,
    })
}

/// What a chunk holds, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// `NBD_REPLY_TYPE_NONE`
    None,
    /// Bytes of a read, and where they stand in it.
    Data(usize, &'a [u8]),
    /// Zeroes of a read: where they stand, and how many.
    Hole(usize, usize),
    /// Block status: the length, and the flags.
    Status(u64, u64),
    /// `NBD_REPLY_TYPE_ERROR` or `ERROR_OFFSET`: the request ends with this errno.
    Error(Errno),
}

/// The longest payload that is kept (`NBD_MAX_MALLOC_PAYLOAD`).
const MAX_PAYLOAD: usize = 1000;

/// What the block driver does with a chunk. `read` is the length of the read that it belongs to, if it is one; `status` the number of the
/// context and the alignment of extents, where block status was asked for.
///
/// # Errors
/// The server breaks the protocol: QEMU gives the connection up for good.
pub fn take_chunk<'a>(
    kind: u16,
    done: bool,
    payload: &'a [u8],
    request: &Request,
    read: Option<usize>,
    status: Option<(u32, u32)>,
) -> Result<Chunk<'a>, &'static str> {
    match kind {
        chunk::NONE if !done => Err("Protocol error: NBD_REPLY_TYPE_NONE chunk without NBD_REPLY_FLAG_DONE flag set"),
        chunk::NONE if !payload.is_empty() => Err("Protocol error: NBD_REPLY_TYPE_NONE chunk with nonzero length"),
        chunk::NONE => Ok(Chunk::None),
        chunk::OFFSET_DATA => {
            let Some(read) = read else { return Err("Unexpected NBD_REPLY_TYPE_OFFSET_DATA chunk") };
            if payload.len() <= 8 {
                return Err("Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_DATA");
            }
            let data = &payload[8..];
            Ok(Chunk::Data(place(payload, request, data.len(), read)?, data))
        }
        _ if payload.len() > MAX_PAYLOAD => Err("Payload too large"),
        kind if kind >> 15 == 1 => {
            let (Some(error), Some(message)) = (be32(payload, 0), be16(payload, 4)) else {
                return Err("Protocol error: invalid payload for structured error");
            };
            let Some(errno) = errno_from_wire(error) else {
                return Err("Protocol error: server sent structured error chunk with error = 0");
            };
            if usize::from(message) > payload.len() - 6 {
                return Err("Protocol error: server sent structured error chunk with incorrect message size");
            }
            Ok(Chunk::Error(errno))
        }
        chunk::OFFSET_HOLE if read.is_some() => {
            let (12, Some(length)) = (payload.len(), be32(payload, 8)) else {
                return Err("Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_HOLE");
            };
            let length = length as usize;
            if length == 0 {
                return Err("Protocol error: server sent chunk exceeding requested region");
            }
            Ok(Chunk::Hole(place(payload, request, length, read.unwrap_or_default())?, length))
        }
        chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT if status.is_some() => {
            let (context, align) = status.unwrap_or_default();
            extent(payload, kind == chunk::BLOCK_STATUS_EXT, context, align)
        }
        _ if read.is_some() => Err("Unexpected reply type for CMD_READ"),
        _ if status.is_some() => Err("Unexpected reply type for CMD_BLOCK_STATUS"),
        _ if payload.is_empty() => Ok(Chunk::None),
        _ => Err("Unexpected structured payload"),
    }
}

/// Where a part of a read belongs.
fn place(payload: &[u8], request: &Request, length: usize, read: usize) -> Result<usize, &'static str> {
    let exceeds = "Protocol error: server sent chunk exceeding requested region";
    let at = be64(payload, 0).and_then(|offset| offset.checked_sub(request.from)).ok_or(exceeds)?;
    let at = usize::try_from(at).map_err(|_| exceeds)?;
    if length > read || at > read - length {
        return Err(exceeds);
    }
    Ok(at)
}

/// `nbd_parse_blockstatus_payload`: the first extent; what the server tells beyond it is not looked at.
fn extent<'a>(payload: &[u8], wide: bool, context: u32, align: u32) -> Result<Chunk<'a>, &'static str> {
    let needed = if wide { 4 + 4 + 16 } else { 4 + 8 };
    if payload.len() < needed {
        return Err("Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS");
    }
    if be32(payload, 0) != Some(context) {
        return Err("Protocol error: unexpected context id for NBD_REPLY_TYPE_BLOCK_STATUS");
    }
    let (mut length, mut flags) = match wide {
        true => (be64(payload, 8).unwrap_or_default(), be64(payload, 16).unwrap_or_default()),
        false => (u64::from(be32(payload, 4).unwrap_or_default()), u64::from(be32(payload, 8).unwrap_or_default())),
    };
    if length == 0 {
        return Err("Protocol error: server sent status chunk with zero length");
    }
    let align = u64::from(align);
    if align != 0 && !length.is_multiple_of(align) {
        if length > align {
            length -= length % align;
        } else {
            (length, flags) = (align, 0);
        }
    }
    Ok(Chunk::Status(length, flags))
}
