//! Requests of a client, and what is wrong with them (`nbd/server.c:nbd_co_receive_request`).

use super::{Contexts, MAX_BUFFER_SIZE, NbdMode, be16, be32, be64, cmd, cmd_flag, flag, magic, meta};
use crate::base::errno::Errno;

/// `NBDRequest`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    /// `NBD_CMD_FLAG_*`
    pub flags: u16,
    /// `NBD_CMD_*`
    pub kind: u16,
    /// What the reply repeats.
    pub cookie: u64,
    /// First byte.
    pub from: u64,
    /// Length.
    pub len: u64,
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header;

impl Header {
    /// How long it is.
    #[must_use]
    pub fn len(mode: NbdMode) -> usize {
        if mode == NbdMode::Extended { 32 } else { 28 }
    }

    /// Reads one that is complete (`nbd_receive_request`).
    ///
    /// # Errors
    /// The text about a wrong magic number. What was read stands beside it.
    pub fn parse(mode: NbdMode, bytes: &[u8]) -> (Request, Result<(), String>) {
        let extended = mode == NbdMode::Extended;
        let short = |at| be32(bytes, at).unwrap_or_default();
        let long = |at| be64(bytes, at).unwrap_or_default();
        let request = Request {
            flags: be16(bytes, 4).unwrap_or_default(),
            kind: be16(bytes, 6).unwrap_or_default(),
            cookie: long(8),
            from: long(16),
            len: if extended { long(24) } else { u64::from(short(24)) },
        };
        let expected = if extended { magic::EXTENDED_REQUEST } else { magic::REQUEST };
        let found = short(0);
        let known = found == expected;
        let text = || format!("invalid magic (got 0x{found:x}, expected 0x{expected:x})");
        (request, if known { Ok(()) } else { Err(text()) })
    }
}

/// What stands behind a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Nothing.
    None,
    /// So many bytes to write.
    Data(u64),
    /// So many bytes that are read and dropped.
    Dropped(u64),
    /// So many bytes that say which contexts are asked for.
    Contexts(u64),
    /// Bytes that are not read: the connection ends after the reply.
    Unread,
}

/// What a server knows of the export and the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// What was agreed on.
    pub mode: NbdMode,
    /// `nbdflags` of the export.
    pub flags: u16,
    /// Length of the export.
    pub size: u64,
}

/// A request with what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checked {
    /// What stands behind it.
    pub payload: Payload,
    /// What is wrong with it, which is told once the payload is read. QEMU tells `EINVAL` in each case.
    pub wrong: Option<String>,
    /// The errno that QEMU computes and does not tell.
    pub errno: Errno,
}

fn too_long(len: u64) -> String {
    format!("len ({len}) is larger than max len ({MAX_BUFFER_SIZE})")
}

/// What is to be read behind a header, and what is wrong with the request. The length of a request whose payload is dropped becomes 0.
#[must_use]
pub fn what_comes(request: &mut Request, limits: Limits, contexts: usize) -> Checked {
    let extended = limits.mode == NbdMode::Extended;
    let with_payload = extended && request.flags & cmd_flag::PAYLOAD_LEN != 0;
    let mut valid = cmd_flag::FUA;
    let mut payload = if with_payload { Payload::Dropped(request.len) } else { Payload::None };
    let (mut check_length, mut check_rofs) = (with_payload, false);
    match request.kind {
        cmd::READ => {
            if limits.mode >= NbdMode::Structured {
                valid |= cmd_flag::DF;
            }
            check_length = true;
        }
        cmd::WRITE => {
            if extended {
                valid |= cmd_flag::PAYLOAD_LEN;
            }
            (payload, check_length, check_rofs) = (Payload::Data(request.len), true, true);
        }
        cmd::TRIM => check_rofs = true,
        cmd::CACHE => check_length = true,
        cmd::WRITE_ZEROES => {
            valid |= cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO;
            check_rofs = true;
        }
        cmd::BLOCK_STATUS => {
            if with_payload {
                let wrong = |wrong| Checked { payload: Payload::Unread, wrong: Some(wrong), errno: Errno::EINVAL };
                if request.len > MAX_BUFFER_SIZE {
                    return wrong(too_long(request.len));
                }
                let fits = request.len.is_multiple_of(4) && (8..=8 + 4 * contexts as u64).contains(&request.len);
                payload = if fits { Payload::Contexts(request.len) } else { Payload::Dropped(request.len) };
                check_length = false;
                valid |= cmd_flag::PAYLOAD_LEN;
            }
            valid |= cmd_flag::REQ_ONE;
        }
        _ => {}
    }
    if check_length && request.len > MAX_BUFFER_SIZE {
        let payload = match payload {
            Payload::Data(0) | Payload::Dropped(0) | Payload::None => Payload::None,
            _ => Payload::Unread,
        };
        return Checked { payload, wrong: Some(too_long(request.len)), errno: Errno::EINVAL };
    }
    if let Payload::Dropped(len) = payload
        && (len > 0 || request.kind == cmd::BLOCK_STATUS)
    {
        request.len = 0;
    }
    let (wrong, errno) = match payload {
        // The length stands in the payload.
        Payload::Contexts(_) => (None, Errno::EINVAL),
        _ => sane(request, limits, check_rofs, valid),
    };
    Checked { payload, wrong, errno }
}

/// The checks that need no payload.
fn sane(request: &Request, limits: Limits, check_rofs: bool, valid: u16) -> (Option<String>, Errno) {
    let (from, len, size) = (request.from, request.len, limits.size);
    if check_rofs && limits.flags & flag::READ_ONLY != 0 {
        return (Some("Export is read-only".to_owned()), Errno::EROFS);
    }
    if from > size || len > size - from {
        let full = matches!(request.kind, cmd::WRITE | cmd::WRITE_ZEROES);
        let text = format!("operation past EOF; From: {from}, Len: {len}, Size: {size}");
        return (Some(text), if full { Errno::ENOSPC } else { Errno::EINVAL });
    }
    if request.flags & !valid != 0 {
        let name = cmd::name(request.kind);
        return (Some(format!("unsupported flags for command {name} (got 0x{:x})", request.flags)), Errno::EINVAL);
    }
    (None, Errno::EINVAL)
}

/// What a request for block status asks for in its payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selected {
    /// Those of the negotiated ones whose ids stand in the payload.
    pub contexts: Contexts,
    /// What is wrong with it.
    pub wrong: Option<String>,
}

/// `nbd_co_block_status_payload_read`: takes the length and the contexts out of a payload.
pub fn select(request: &mut Request, limits: Limits, payload: &[u8], negotiated: &Contexts) -> Selected {
    let mut contexts =
        Contexts { export: negotiated.export, bitmaps: vec![false; negotiated.bitmaps.len()], ..Contexts::default() };
    let ids = payload.get(8..).unwrap_or_default().chunks_exact(4);
    let count = ids.len();
    let mut choose = |id: u32| {
        let bitmap = id.wrapping_sub(meta::DIRTY_BITMAP) as usize;
        let (offered, chosen) = match id {
            meta::BASE_ALLOCATION => (negotiated.base_allocation, Some(&mut contexts.base_allocation)),
            meta::ALLOCATION_DEPTH => (negotiated.allocation_depth, Some(&mut contexts.allocation_depth)),
            _ => (negotiated.bitmaps.get(bitmap).copied().unwrap_or(false), contexts.bitmaps.get_mut(bitmap)),
        };
        match chosen {
            Some(chosen) if offered && !*chosen => {
                *chosen = true;
                true
            }
            _ => false,
        }
    };
    let all = ids.map(|id| be32(id, 0).unwrap_or_default()).all(&mut choose);
    if all {
        request.len = be64(payload, 0).unwrap_or_default();
        contexts.count = u32::try_from(count).expect("few contexts");
    } else {
        (request.len, contexts.count) = (0, 0);
    }
    let valid = cmd_flag::FUA | cmd_flag::PAYLOAD_LEN | cmd_flag::REQ_ONE;
    let (wrong, _) = sane(request, limits, false, valid);
    Selected { contexts, wrong }
}
