//! The negotiation of a server (`nbd/server.c:nbd_negotiate`), one option at a time.

use super::{MAX_BUFFER_SIZE, MAX_STRING_SIZE, NbdMode, be16, be32, be64, flag, len32, magic, meta, opt, rep};
use std::sync::Arc;

/// What is told of an export (`NBDExport`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    /// Tells exports apart that had the same name one after the other.
    pub id: u32,
    /// What clients ask for.
    pub name: Arc<str>,
    /// `NBD_INFO_DESCRIPTION`, sent if the client asks for it.
    pub description: Option<Arc<str>>,
    /// In bytes.
    pub size: u64,
    /// `nbdflags`
    pub flags: u16,
    /// `blk_get_request_alignment`; 0 where no block sizes are told, as other servers than QEMU may do.
    pub alignment: u32,
    /// `blk_get_max_transfer`, at most [`MAX_BUFFER_SIZE`].
    pub max_transfer: u32,
    /// Whether `qemu:allocation-depth` is offered.
    pub allocation_depth: bool,
    /// The names of its bitmaps.
    pub bitmaps: Vec<Arc<str>>,
}

/// Which contexts a client has chosen (`NBDMetaContexts`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Contexts {
    /// Of which export.
    pub export: Option<u32>,
    /// How many; 0 where the choice does not hold.
    pub count: u32,
    /// `base:allocation`
    pub base_allocation: bool,
    /// `qemu:allocation-depth`
    pub allocation_depth: bool,
    /// Which of the export's bitmaps.
    pub bitmaps: Vec<bool>,
}

/// What a step of the negotiation came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeStep {
    /// There are too few bytes to go on.
    More,
    /// So many bytes are done with.
    Went(usize),
    /// So many are, and the client has chosen an export, by its place among the offers.
    Chosen(usize, usize),
    /// The connection is to be closed; with what QEMU prints, if it does.
    Ends(Option<String>),
}

/// Where a negotiation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Handshake {
    /// The client's flags were read.
    began: bool,
    fixed: bool,
    no_zeroes: bool,
    /// What both ends have agreed on.
    pub mode: NbdMode,
    /// What the client has chosen.
    pub contexts: Contexts,
}

/// The data of an option that is being read (`nbd_opt_read`).
struct Data<'a> {
    left: &'a [u8],
    opt: u32,
}

/// What is answered instead of what was asked for.
type Refused = (u32, Vec<u8>);

impl<'a> Data<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Refused> {
        let Some((taken, left)) = self.left.split_at_checked(n) else {
            let text = format!("Inconsistent lengths in option {}", opt::name(self.opt));
            return Err((rep::ERR_INVALID, text.into()));
        };
        self.left = left;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Refused> {
        self.take(2).map(|bytes| be16(bytes, 0).expect("two bytes"))
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.take(4).map(|bytes| be32(bytes, 0).expect("four bytes"))
    }

    fn text(&mut self, len: usize) -> Result<&'a [u8], Refused> {
        let text = self.take(len)?;
        if text.contains(&0) {
            let text = format!("Unexpected embedded NUL in option {}", opt::name(self.opt));
            return Err((rep::ERR_INVALID, text.into()));
        }
        Ok(text)
    }

    /// `nbd_opt_read_name`
    fn name(&mut self) -> Result<&'a [u8], Refused> {
        let len = self.u32()?;
        if len as usize > MAX_STRING_SIZE {
            return Err((rep::ERR_INVALID, format!("Invalid name length: {len}").into()));
        }
        self.text(len as usize)
    }
}

/// The answer that an export is not there, with as much of its name as QEMU repeats (`nbd_sanitize_name`).
fn not_present(name: &[u8]) -> Refused {
    let shown = if name.len() < 80 { name.to_vec() } else { [&name[..80], b"..."].concat() };
    (rep::ERR_UNKNOWN, [b"export '", &shown[..], b"' not present"].concat())
}

/// A reply to an option.
fn answer(out: &mut Vec<u8>, opt: u32, kind: u32, data: &[u8]) {
    out.extend(magic::REP.to_be_bytes());
    out.extend(opt.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(len32(data.len()));
    out.extend(data);
}

fn info(out: &mut Vec<u8>, opt: u32, info: u16, data: &[u8]) {
    answer(out, opt, rep::INFO, &[&info.to_be_bytes(), data].concat());
}

/// `NBD_OPT_MAGIC` and what follows it, in front of the data of an option.
const HEAD: usize = 16;

impl Handshake {
    /// What the server says first.
    #[must_use]
    pub fn greeting() -> Vec<u8> {
        let mut out = magic::INIT.to_be_bytes().to_vec();
        out.extend(magic::OPTS.to_be_bytes());
        // NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_NO_ZEROES
        out.extend(3_u16.to_be_bytes());
        out
    }

    /// Reads the client's flags, or an option, and answers to `out`.
    pub fn step(&mut self, input: &[u8], offers: &[Offer], out: &mut Vec<u8>) -> HandshakeStep {
        if !self.began {
            return self.client_flags(input);
        }
        let Some(opts_magic) = be64(input, 0) else { return HandshakeStep::More };
        if opts_magic != magic::OPTS {
            return fails("Bad magic received");
        }
        let (Some(option), Some(length)) = (be32(input, 8), be32(input, 12)) else { return HandshakeStep::More };
        if u64::from(length) > MAX_BUFFER_SIZE {
            return fails(&format!("len ({length}) is larger than max len ({MAX_BUFFER_SIZE})"));
        }
        let whole = HEAD + length as usize;
        if option == opt::EXPORT_NAME {
            return self.export_name(input, length as usize, offers, out);
        }
        if !self.fixed {
            return fails(&format!("Unsupported option {option} ({})", opt::name(option)));
        }
        let Some(data) = input.get(HEAD..whole) else { return HandshakeStep::More };
        let done = match option {
            opt::LIST | opt::STARTTLS | opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS if length > 0 => {
                let text = format!("option '{}' has unexpected length", opt::name(option));
                Err((rep::ERR_INVALID, text.into()))
            }
            opt::ABORT => {
                answer(out, option, rep::ACK, &[]);
                return HandshakeStep::Ends(None);
            }
            opt::LIST => {
                for offer in offers {
                    let description = offer.description.as_deref().unwrap_or_default();
                    let data = [&len32(offer.name.len()), offer.name.as_bytes(), description.as_bytes()].concat();
                    answer(out, option, rep::SERVER, &data);
                }
                Ok(())
            }
            opt::STARTTLS => Err((rep::ERR_POLICY, "TLS not configured".into())),
            opt::STRUCTURED_REPLY => self.structured_reply(),
            opt::EXTENDED_HEADERS => self.extended_headers(),
            opt::INFO | opt::GO => match self.info(option, data, offers, out) {
                Ok(export) if option == opt::GO => {
                    answer(out, option, rep::ACK, &[]);
                    return HandshakeStep::Chosen(whole, export);
                }
                other => other.map(drop),
            },
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => match self.meta_queries(option, data, offers, out) {
                // What stands behind the last query is read as the next option.
                Ok(left) => {
                    answer(out, option, rep::ACK, &[]);
                    return HandshakeStep::Went(whole - left);
                }
                Err(refused) => Err(refused),
            },
            _ => Err((rep::ERR_UNSUP, format!("Unsupported option {option} ({})", opt::name(option)).into())),
        };
        match done {
            Ok(()) => answer(out, option, rep::ACK, &[]),
            Err((kind, text)) => answer(out, option, kind, &text),
        }
        HandshakeStep::Went(whole)
    }

    /// What QEMU prints where the client goes away in the middle, with what is there of the next option.
    #[must_use]
    pub fn cut_off(&self, input: &[u8]) -> Option<String> {
        if !self.began {
            return None;
        }
        let text = "Unexpected end-of-file before all data were read";
        let what = match input.len() {
            0..8 => "Failed to read opts magic: ",
            8..12 => "Failed to read option: ",
            12..HEAD => "Failed to read option length: ",
            _ if be32(input, 8) == Some(opt::EXPORT_NAME) => "Failed to read export name: ",
            _ => "",
        };
        Some(format!("option negotiation failed: {what}{text}"))
    }

    fn client_flags(&mut self, input: &[u8]) -> HandshakeStep {
        let Some(flags) = be32(input, 0) else { return HandshakeStep::More };
        self.began = true;
        self.fixed = flags & 1 != 0;
        self.no_zeroes = flags & 2 != 0;
        self.mode = if self.fixed { NbdMode::Simple } else { NbdMode::ExportName };
        match flags & !3 {
            0 => HandshakeStep::Went(4),
            unknown => fails(&format!("Unknown client flags 0x{unknown:x} received")),
        }
    }

    fn structured_reply(&mut self) -> Result<(), Refused> {
        match self.mode {
            NbdMode::Extended => Err((rep::ERR_EXT_HEADER_REQD, "extended headers already negotiated".into())),
            NbdMode::Structured => Err((rep::ERR_INVALID, "structured reply already negotiated".into())),
            _ => {
                self.mode = NbdMode::Structured;
                Ok(())
            }
        }
    }

    fn extended_headers(&mut self) -> Result<(), Refused> {
        if self.mode == NbdMode::Extended {
            return Err((rep::ERR_INVALID, "extended headers already negotiated".into()));
        }
        self.mode = NbdMode::Extended;
        Ok(())
    }

    /// `nbd_check_meta_export`
    fn check_meta_export(&mut self, export: u32) {
        if self.contexts.export != Some(export) {
            self.contexts.count = 0;
        }
    }

    /// `nbd_negotiate_handle_export_name`
    fn export_name(&mut self, input: &[u8], length: usize, offers: &[Offer], out: &mut Vec<u8>) -> HandshakeStep {
        if self.mode == NbdMode::Extended {
            return fails("Extended headers already negotiated");
        }
        if length > MAX_STRING_SIZE {
            return fails("Bad length received");
        }
        let Some(name) = input.get(HEAD..HEAD + length) else { return HandshakeStep::More };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let Some(export) = offers.iter().position(|offer| offer.name.as_bytes() == name) else {
            return fails("export not found");
        };
        let offer = &offers[export];
        self.check_meta_export(offer.id);
        let df = if self.mode >= NbdMode::Structured { flag::SEND_DF } else { 0 };
        out.extend(offer.size.to_be_bytes());
        out.extend((offer.flags | df).to_be_bytes());
        if !self.no_zeroes {
            out.extend([0; 124]);
        }
        HandshakeStep::Chosen(HEAD + length, export)
    }

    /// `nbd_negotiate_handle_info`, up to its last reply. Gives the export.
    fn info(&mut self, option: u32, data: &[u8], offers: &[Offer], out: &mut Vec<u8>) -> Result<usize, Refused> {
        let mut data = Data { left: data, opt: option };
        let name = data.name()?;
        let (mut sends_name, mut block_size) = (false, false);
        for _ in 0..data.u16()? {
            match data.u16()? {
                1 => sends_name = true,
                3 => block_size = true,
                _ => {}
            }
        }
        if !data.left.is_empty() {
            let text = format!("option '{}' has unexpected length", opt::name(option));
            return Err((rep::ERR_INVALID, text.into()));
        }
        let export = offers.iter().position(|offer| offer.name.as_bytes() == name).ok_or_else(|| not_present(name))?;
        let offer = &offers[export];
        if option == opt::GO {
            self.check_meta_export(offer.id);
        }
        if sends_name {
            info(out, option, 1, name);
        }
        if let Some(description) = &offer.description {
            info(out, option, 2, description.as_bytes());
        }
        let minimum = if option == opt::INFO || block_size { offer.alignment } else { 1 };
        let sizes = [minimum, minimum.max(4096), offer.max_transfer];
        if offer.alignment > 0 {
            info(out, option, 3, &sizes.map(u32::to_be_bytes).concat());
        }
        let mut flags = offer.flags;
        if self.mode >= NbdMode::Structured {
            flags |= flag::SEND_DF;
        }
        if self.mode == NbdMode::Extended && (self.contexts.count > 0 || option == opt::INFO) {
            flags |= flag::BLOCK_STAT_PAYLOAD;
        }
        info(out, option, 0, &[&offer.size.to_be_bytes()[..], &flags.to_be_bytes()].concat());
        if option == opt::INFO && !block_size && offer.alignment > 1 {
            return Err((rep::ERR_BLOCK_SIZE_REQD, "request NBD_INFO_BLOCK_SIZE to use this export".into()));
        }
        Ok(export)
    }

    /// `nbd_negotiate_meta_queries`, up to its last reply. Gives how much was left of the data.
    fn meta_queries(
        &mut self,
        option: u32,
        data: &[u8],
        offers: &[Offer],
        out: &mut Vec<u8>,
    ) -> Result<usize, Refused> {
        let lists = option == opt::LIST_META_CONTEXT;
        if !lists && self.mode < NbdMode::Structured {
            let text = format!("request option '{}' when structured reply is not negotiated", opt::name(option));
            return Err((rep::ERR_INVALID, text.into()));
        }
        let mut chosen = Contexts::default();
        let result = read_queries(&mut chosen, option, data, offers);
        if let Ok((_, offer)) = &result {
            chosen.count = send_contexts(&chosen, offer, option, out);
        }
        if !lists {
            // What was chosen before is forgotten in any case.
            self.contexts = chosen;
        }
        result.map(|(left, _)| left)
    }
}

/// What `error_prepend` of `nbd_negotiate` makes of an error.
fn fails(text: &str) -> HandshakeStep {
    HandshakeStep::Ends(Some(format!("option negotiation failed: {text}")))
}

/// The queries of an option. Gives how many bytes are left, and the export.
fn read_queries<'a>(
    chosen: &mut Contexts,
    option: u32,
    data: &[u8],
    offers: &'a [Offer],
) -> Result<(usize, &'a Offer), Refused> {
    let lists = option == opt::LIST_META_CONTEXT;
    let mut data = Data { left: data, opt: option };
    let name = data.name()?;
    let offer = offers.iter().find(|offer| offer.name.as_bytes() == name).ok_or_else(|| not_present(name))?;
    chosen.export = Some(offer.id);
    chosen.bitmaps = vec![false; offer.bitmaps.len()];
    let queries = data.u32()?;
    if lists && queries == 0 {
        chosen.base_allocation = true;
        chosen.allocation_depth = offer.allocation_depth;
        chosen.bitmaps.fill(true);
    }
    for _ in 0..queries {
        let len = data.u32()? as usize;
        if len > MAX_STRING_SIZE {
            data.take(len)?;
            continue;
        }
        query(chosen, data.text(len)?, lists, offer);
    }
    Ok((data.left.len(), offer))
}

/// `nbd_meta_base_query`, `nbd_meta_qemu_query`
fn query(chosen: &mut Contexts, query: &[u8], lists: bool, offer: &Offer) {
    if let Some(base) = query.strip_prefix(b"base:") {
        chosen.base_allocation |= base == b"allocation" || (base.is_empty() && lists);
        return;
    }
    let Some(qemu) = query.strip_prefix(b"qemu:") else { return };
    if qemu.is_empty() {
        if lists {
            chosen.allocation_depth = offer.allocation_depth;
            chosen.bitmaps.fill(true);
        }
    } else if qemu == b"allocation-depth" {
        chosen.allocation_depth = offer.allocation_depth;
    } else if let Some(bitmap) = qemu.strip_prefix(b"dirty-bitmap:") {
        if bitmap.is_empty() {
            if lists {
                chosen.bitmaps.fill(true);
            }
        } else if let Some(i) = offer.bitmaps.iter().position(|name| name.as_bytes() == bitmap) {
            chosen.bitmaps[i] = true;
        }
    }
}

/// `nbd_negotiate_send_meta_context` for each that was chosen. Gives how many.
fn send_contexts(chosen: &Contexts, offer: &Offer, option: u32, out: &mut Vec<u8>) -> u32 {
    let mut count = 0;
    let mut send = |id: u32, name: &str| {
        let id = if option == opt::LIST_META_CONTEXT { 0 } else { id };
        answer(out, option, rep::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()].concat());
        count += 1;
    };
    if chosen.base_allocation {
        send(meta::BASE_ALLOCATION, "base:allocation");
    }
    if chosen.allocation_depth {
        send(meta::ALLOCATION_DEPTH, "qemu:allocation-depth");
    }
    for (id, name) in (meta::DIRTY_BITMAP..).zip(&offer.bitmaps) {
        if chosen.bitmaps[(id - meta::DIRTY_BITMAP) as usize] {
            send(id, &format!("qemu:dirty-bitmap:{name}"));
        }
    }
    count
}
