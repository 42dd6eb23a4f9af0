//! Replies of the server, as bytes (`nbd/server.c:nbd_co_send_*`).

use super::{Extents, NbdMode, Request, chunk, len32, magic};
use crate::base::errno::Errno;

/// `NBD_REPLY_FLAG_DONE`
const DONE: u16 = 1;

/// `system_errno_to_nbd_errno`
#[must_use]
pub fn errno_to_wire(errno: Errno) -> u32 {
    match errno {
        Errno::EPERM | Errno::EROFS => 1,
        Errno::EIO => 5,
        Errno::ENOMEM => 12,
        Errno::ENOSPC | Errno::EFBIG | Errno::EDQUOT => 28,
        Errno::EOVERFLOW => 75,
        // ENOTSUP is EOPNOTSUPP.
        Errno::ENOTSUP => 95,
        Errno::ESHUTDOWN => 108,
        _ => 22,
    }
}

/// `nbd_co_send_simple_reply`, without data.
#[must_use]
pub fn simple(request: &Request, error: Option<Errno>) -> Vec<u8> {
    let mut out = magic::SIMPLE_REPLY.to_be_bytes().to_vec();
    out.extend(error.map_or(0, errno_to_wire).to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
    out
}

/// `set_be_chunk`, and the chunk behind it.
fn chunk(mode: NbdMode, request: &Request, flags: u16, kind: u16, data: &[&[u8]]) -> Vec<u8> {
    let length: usize = data.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(32 + length);
    let extended = mode == NbdMode::Extended;
    out.extend((if extended { magic::EXTENDED_REPLY } else { magic::STRUCTURED_REPLY }).to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
    if extended {
        out.extend(request.from.to_be_bytes());
        out.extend((length as u64).to_be_bytes());
    } else {
        out.extend(len32(length));
    }
    data.iter().for_each(|part| out.extend(*part));
    out
}

fn done(last: bool) -> u16 {
    if last { DONE } else { 0 }
}

/// `nbd_co_send_chunk_done`
#[must_use]
pub fn chunk_done(mode: NbdMode, request: &Request) -> Vec<u8> {
    chunk(mode, request, DONE, chunk::NONE, &[])
}

/// `nbd_co_send_chunk_read`
#[must_use]
pub fn chunk_read(mode: NbdMode, request: &Request, offset: u64, data: &[u8], last: bool) -> Vec<u8> {
    chunk(mode, request, done(last), chunk::OFFSET_DATA, &[&offset.to_be_bytes(), data])
}

/// The chunk of a hole that was read.
#[must_use]
pub fn chunk_hole(mode: NbdMode, request: &Request, offset: u64, length: u64, last: bool) -> Vec<u8> {
    let length = u32::try_from(length).expect("a read is at most 32 MiB long");
    chunk(mode, request, done(last), chunk::OFFSET_HOLE, &[&offset.to_be_bytes(), &length.to_be_bytes()])
}

/// `nbd_co_send_chunk_error`
#[must_use]
pub fn chunk_error(mode: NbdMode, request: &Request, error: Errno, text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("texts are short");
    let head = [&errno_to_wire(error).to_be_bytes()[..], &length.to_be_bytes()].concat();
    chunk(mode, request, DONE, chunk::ERROR, &[&head, text.as_bytes()])
}

/// `nbd_co_send_extents`
#[must_use]
pub fn chunk_status(mode: NbdMode, request: &Request, context: u32, extents: &Extents, last: bool) -> Vec<u8> {
    let mut data = context.to_be_bytes().to_vec();
    if mode == NbdMode::Extended {
        data.extend(len32(extents.list().len()));
        for (length, flags) in extents.list() {
            data.extend(length.to_be_bytes());
            data.extend(u64::from(*flags).to_be_bytes());
        }
        return chunk(mode, request, done(last), chunk::BLOCK_STATUS_EXT, &[&data]);
    }
    for (length, flags) in extents.list() {
        data.extend(u32::try_from(*length).expect("narrow extents fit").to_be_bytes());
        data.extend(flags.to_be_bytes());
    }
    chunk(mode, request, done(last), chunk::BLOCK_STATUS, &[&data])
}
