//! One request of an NBD client, from its header to its reply (`nbd/server.c:nbd_trip`).

use super::ExportFrame;
use super::read::ReadFrame;
use crate::base::errno::{Errno, Ret};
use crate::block::content::Data;
use crate::nbd::{
    self, Contexts, Header, Limits, NbdMode, Payload, Request, chunk_done, chunk_error, cmd, cmd_flag, simple,
};
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::{BackendId, ConnId};
use crate::world::block::backend::{BackendFrame, BlkRequest};
use crate::world::block::io::request::IoFlags;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;

/// `NBDRequestData` with the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trip {
    /// `NBDClient`: the connection that the reply goes to.
    pub conn: ConnId,
    /// What it asks.
    pub request: Request,
    /// What stands behind the header.
    pub payload: Payload,
    /// What is wrong with it.
    pub wrong: Option<String>,
    /// What it wants to write.
    pub data: Data,
    /// Which contexts it asks for, if not for those that were negotiated.
    pub contexts: Option<Contexts>,
    /// It asked for contexts that were not negotiated.
    pub unselected: bool,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum TripFrame {
    NbdTrip(ConnId),
    ReceiveRequest(ConnId),
    ReceivePayload(Box<Trip>),
    /// Sends bytes, and leaves `Val::Ret`.
    Send(ConnId, Box<[u8]>),
    SendLocked(ConnId, Box<[u8]>),
    /// The block layer has done what was asked.
    GenericReply(Box<Trip>, &'static str),
    /// After a discard with FUA.
    Trimmed(Box<Trip>),
    /// The last reply was sent, or not.
    Replied(Box<Trip>),
    Read(ReadFrame),
}

impl From<TripFrame> for Frame {
    fn from(frame: TripFrame) -> Frame {
        Frame::Export(ExportFrame::Trip(frame))
    }
}

impl TripFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            TripFrame::NbdTrip(conn) => w.nbd_trip(conn),
            TripFrame::ReceiveRequest(conn) => w.nbd_receive_request(conn),
            TripFrame::ReceivePayload(trip) => w.nbd_receive_payload(trip),
            TripFrame::Send(conn, bytes) => w.nbd_co_send_iov(conn, bytes),
            TripFrame::SendLocked(conn, bytes) => w.nbd_co_send_locked(conn, bytes),
            TripFrame::GenericReply(trip, text) => {
                let ret = w.take_reply();
                w.nbd_send_generic_reply(trip, ret, text)
            }
            TripFrame::Trimmed(trip) => w.nbd_trimmed(trip),
            TripFrame::Replied(trip) => w.nbd_replied(&trip),
            TripFrame::Read(frame) => frame.run(w),
        }
    }
}

/// What QEMU prints where it cannot write to a socket.
const BROKEN: &str = "Failed to send reply: Unable to write to socket: Broken pipe";

impl World {
    /// What a request of the block layer came to, whatever it was.
    fn take_reply(&mut self) -> Ret {
        match self.take_val() {
            Val::Data(data) => data.map(drop),
            other => match other.errno() {
                None => Ok(()),
                Some(errno) => Err(errno),
            },
        }
    }

    /// The backend of a client's export.
    pub(super) fn backend_of(&self, conn: ConnId) -> BackendId {
        let export = self.exports.clients[conn].export.expect("it has negotiated");
        self.exports.exports[export].blk
    }

    /// `nbd_trip`, up to where it reads.
    fn nbd_trip(&mut self, conn: ConnId) -> Flow {
        let client = &mut self.exports.clients[conn];
        if client.closing {
            return self.trip_done(conn);
        }
        if client.quiescing {
            client.recv = None;
            return self.trip_done(conn);
        }
        self.nbd_receive_request(conn)
    }

    /// `nbd_read_eof` of a header, and what follows it.
    fn nbd_receive_request(&mut self, conn: ConnId) -> Flow {
        let client = &mut self.exports.clients[conn];
        let wanted = Header::len(client.mode());
        if std::mem::take(&mut client.read_yielding) && client.quiescing {
            // What came of a header is lost.
            client.header.clear();
            client.recv = None;
            return self.trip_done(conn);
        }
        let more = (wanted - client.header.len()).min(client.input.len());
        client.header.extend(client.input.drain(..more));
        if client.header.len() == wanted {
            return self.nbd_received_header(conn);
        }
        if !client.at_eof() {
            client.read_yielding = true;
            return self.wait_to_read(conn, TripFrame::ReceiveRequest(conn).into());
        }
        let partial = !client.header.is_empty();
        client.header.clear();
        let text = partial.then_some("Unexpected end-of-file before all bytes were read");
        self.nothing_received(conn, text)
    }

    /// The connection has ended while a request was read (`-EIO`).
    fn nothing_received(&mut self, conn: ConnId, text: Option<&str>) -> Flow {
        let client = &mut self.exports.clients[conn];
        client.recv = None;
        if client.closing {
            return self.trip_done(conn);
        }
        self.receive_next_request(conn);
        self.trip_disconnects(conn, text)
    }

    /// `nbd_co_receive_request`, behind the header.
    fn nbd_received_header(&mut self, conn: ConnId) -> Flow {
        let limits = self.limits_of(conn);
        let client = &mut self.exports.clients[conn];
        let header = std::mem::take(&mut client.header);
        let (mut request, known) = Header::parse(limits.mode, &header);
        let mut trip = Trip {
            conn,
            request,
            payload: Payload::Unread,
            wrong: known.err(),
            data: Data::new(),
            contexts: None,
            unselected: false,
        };
        if trip.wrong.is_none() {
            if request.kind == cmd::DISC {
                return self.nothing_received(conn, None);
            }
            let contexts = client.handshake.contexts.count as usize;
            let checked = nbd::what_comes(&mut request, limits, contexts);
            trip.unselected = request.kind == cmd::BLOCK_STATUS && matches!(checked.payload, Payload::Dropped(_));
            (trip.request, trip.payload, trip.wrong) = (request, checked.payload, checked.wrong);
        }
        self.nbd_receive_payload(Box::new(trip))
    }

    fn limits_of(&self, conn: ConnId) -> Limits {
        let client = &self.exports.clients[conn];
        let exp = &self.exports.exports[client.export.expect("it has negotiated")];
        Limits { mode: client.mode(), flags: exp.flags, size: exp.size }
    }

    /// `nbd_read`, `nbd_drop` of what stands behind a header.
    fn nbd_receive_payload(&mut self, mut trip: Box<Trip>) -> Flow {
        let conn = trip.conn;
        let len = match trip.payload {
            Payload::None | Payload::Unread => 0,
            Payload::Data(len) | Payload::Dropped(len) | Payload::Contexts(len) => len,
        };
        let len = usize::try_from(len).expect("at most 32 MiB");
        let client = &mut self.exports.clients[conn];
        if client.input.len() < len {
            if !client.at_eof() {
                return self.wait_to_read(conn, TripFrame::ReceivePayload(trip).into());
            }
            client.input.clear();
            let eof = "Unexpected end-of-file before all data were read";
            let text = match trip.payload {
                Payload::Data(_) => format!("Failed to read CMD_WRITE data: {eof}"),
                Payload::Contexts(_) => format!("Failed to read CMD_BLOCK_STATUS data: {eof}"),
                _ => eof.to_owned(),
            };
            return self.nothing_received(conn, Some(&text));
        }
        let payload: Vec<u8> = client.input.drain(..len).collect();
        match trip.payload {
            Payload::Data(_) => trip.data = self.data_of_client(&trip.request, &payload),
            Payload::Contexts(_) => {
                let limits = self.limits_of(conn);
                let negotiated = &self.exports.clients[conn].handshake.contexts;
                let selected = nbd::select(&mut trip.request, limits, &payload, negotiated);
                trip.unselected = selected.contexts.count == 0;
                (trip.contexts, trip.wrong) = (Some(selected.contexts), selected.wrong);
            }
            _ => {}
        }
        self.nbd_received(trip)
    }

    /// What a client writes, with a writer of its own.
    fn data_of_client(&mut self, request: &Request, payload: &[u8]) -> Data {
        if payload.iter().all(|byte| *byte == 0) {
            return Data::zeroes(payload.len() as u64);
        }
        let tag = self.new_writer(format!("write of an NBD client at {}+{}", request.from, payload.len()));
        let first = payload[0];
        if payload.iter().all(|byte| *byte == first) {
            return Data::pattern(first, payload.len() as u64, tag);
        }
        Data::bytes(payload.into(), tag)
    }

    /// `nbd_trip`, once the request is there.
    fn nbd_received(&mut self, trip: Box<Trip>) -> Flow {
        let conn = trip.conn;
        self.exports.clients[conn].recv = None;
        if self.exports.clients[conn].closing {
            return self.trip_done(conn);
        }
        self.receive_next_request(conn);
        match &trip.wrong {
            Some(text) => {
                let text = text.clone();
                self.nbd_send_generic_reply(trip, Err(Errno::EINVAL), &text)
            }
            None => self.nbd_handle_request(trip),
        }
    }

    /// `nbd_handle_request`
    fn nbd_handle_request(&mut self, trip: Box<Trip>) -> Flow {
        let blk = self.backend_of(trip.conn);
        let request = trip.request;
        if request.kind != cmd::READ && self.graph.blk_bs(blk).is_some_and(|bs| self.graph.is_inactive(bs)) {
            return self.nbd_send_generic_reply(trip, Err(Errno::EPERM), "export is inactive");
        }
        let (offset, bytes) = (request.from, request.len);
        let has = |flag: u16| request.flags & flag != 0;
        let mut flags = if has(cmd_flag::FUA) { IoFlags::FUA } else { IoFlags::NONE };
        let (asked, text) = match request.kind {
            cmd::READ => return self.nbd_do_cmd_read(trip),
            cmd::WRITE => {
                let data = Some(trip.data.clone());
                (BlkRequest::Write { offset, data, bytes, flags }, "writing to file failed")
            }
            cmd::WRITE_ZEROES => {
                flags |= IoFlags::ZERO_WRITE;
                if !has(cmd_flag::NO_HOLE) {
                    flags |= IoFlags::MAY_UNMAP;
                }
                if has(cmd_flag::FAST_ZERO) {
                    flags |= IoFlags::NO_FALLBACK;
                }
                (BlkRequest::Write { offset, data: None, bytes, flags }, "writing to file failed")
            }
            cmd::FLUSH => (BlkRequest::Flush, "flush failed"),
            cmd::CACHE => (BlkRequest::Cache { offset, bytes }, "caching data failed"),
            cmd::TRIM => {
                let discard = BackendFrame::BlkCo { blk, request: Box::new(BlkRequest::Discard { offset, bytes }) };
                return self.seq([discard.into(), TripFrame::Trimmed(trip).into()]);
            }
            cmd::BLOCK_STATUS => return self.nbd_do_block_status(trip),
            kind => {
                let text = format!("invalid request type ({kind}) received");
                return self.nbd_send_generic_reply(trip, Err(Errno::EINVAL), &text);
            }
        };
        let frame = BackendFrame::BlkCo { blk, request: Box::new(asked) };
        self.seq([frame.into(), TripFrame::GenericReply(trip, text).into()])
    }

    /// After the discard of a trim.
    fn nbd_trimmed(&mut self, trip: Box<Trip>) -> Flow {
        let ret = self.take_reply();
        if ret.is_ok() && trip.request.flags & cmd_flag::FUA != 0 {
            let blk = self.backend_of(trip.conn);
            let flush = BackendFrame::BlkCo { blk, request: Box::new(BlkRequest::Flush) };
            return self.seq([flush.into(), TripFrame::GenericReply(trip, "discard failed").into()]);
        }
        self.nbd_send_generic_reply(trip, ret, "discard failed")
    }

    /// `nbd_send_generic_reply`
    pub(super) fn nbd_send_generic_reply(&mut self, trip: Box<Trip>, ret: Ret, text: &str) -> Flow {
        let mode = self.exports.clients[trip.conn].mode();
        let bytes = match ret {
            Err(errno) if mode >= NbdMode::Structured => chunk_error(mode, &trip.request, errno, text),
            _ if mode == NbdMode::Extended => chunk_done(mode, &trip.request),
            _ => simple(&trip.request, ret.err()),
        };
        self.nbd_send_last(trip, bytes)
    }

    /// Sends the last reply of a request.
    pub(super) fn nbd_send_last(&mut self, trip: Box<Trip>, bytes: Vec<u8>) -> Flow {
        let conn = trip.conn;
        self.seq([TripFrame::Send(conn, bytes.into()).into(), TripFrame::Replied(trip).into()])
    }

    /// `nbd_co_send_iov`
    fn nbd_co_send_iov(&mut self, conn: ConnId, bytes: Box<[u8]>) -> Flow {
        let co = self.current();
        let client = &mut self.exports.clients[conn];
        if client.send_locked {
            client.send_waiters.push(co);
            self.push(TripFrame::SendLocked(conn, bytes).into());
            return Flow::Yield(Wait::Queue("the other replies to an NBD client"));
        }
        client.send_locked = true;
        self.nbd_co_send_locked(conn, bytes)
    }

    /// With `send_lock`: writes all bytes. Whoever waits for the lock gets it.
    fn nbd_co_send_locked(&mut self, conn: ConnId, bytes: Box<[u8]>) -> Flow {
        let client = &mut self.exports.clients[conn];
        if !client.writable() {
            return self.wait_to_write(conn, TripFrame::SendLocked(conn, bytes).into());
        }
        let ret = match client.is_broken() {
            true => Err(Errno::EPIPE),
            false => {
                client.output.extend(&bytes[..]);
                Ok(())
            }
        };
        if client.send_waiters.is_empty() {
            client.send_locked = false;
        } else {
            let next = client.send_waiters.remove(0);
            self.aio_co_wake(next);
        }
        self.ret(Val::Ret(ret))
    }

    /// `nbd_trip`, once all was sent.
    fn nbd_replied(&mut self, trip: &Trip) -> Flow {
        if self.take_ret().is_err() {
            return self.trip_disconnects(trip.conn, Some(BROKEN));
        }
        if trip.payload == Payload::Unread {
            return self.trip_disconnects(trip.conn, Some("Request handling failed in intermediate state"));
        }
        self.trip_done(trip.conn)
    }

    /// `nbd_trip`, at `done`.
    fn trip_done(&mut self, conn: ConnId) -> Flow {
        self.nbd_request_put(conn);
        self.nbd_client_put(conn);
        Flow::Go
    }

    /// `nbd_trip`, at `disconnect`.
    pub(super) fn trip_disconnects(&mut self, conn: ConnId, text: Option<&str>) -> Flow {
        if let Some(text) = text {
            self.error_report(&format!("Disconnect client, due to: {text}"));
        }
        self.nbd_request_put(conn);
        self.client_close(conn);
        self.nbd_client_put(conn);
        Flow::Go
    }

    /// `nbd_request_put`
    fn nbd_request_put(&mut self, conn: ConnId) {
        let client = &mut self.exports.clients[conn];
        assert!(client.nb_requests > 0, "{conn:?} has no request left");
        client.nb_requests -= 1;
        self.receive_next_request(conn);
    }
}
