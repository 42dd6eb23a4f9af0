//! The client's end of a negotiation, as QEMU's block driver leads it (`nbd/client.c:nbd_receive_negotiate`).

use super::{MAX_BUFFER_SIZE, MAX_STRING_SIZE, NbdMode, be16, be32, be64, len32, magic, opt, rep};
use std::sync::Arc;

/// What a client learns of an export (`NBDExportInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExportInfo {
    /// What was agreed on about replies.
    pub mode: NbdMode,
    /// Length of the export.
    pub size: u64,
    /// Its transmission flags.
    pub flags: u16,
    /// `min_block`: what requests are aligned to; 0 where the server did not say.
    pub min_block: u32,
    /// `opt_block`: the block size that the server prefers, or 0.
    pub opt_block: u32,
    /// `max_block`: the longest request, or 0.
    pub max_block: u32,
    /// The number of the context that block status is asked of; `None` where there is none (`base_allocation`).
    pub context: Option<u32>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Magic numbers and flags of the server.
    Greeting,
    /// The answer to an option without data.
    Simple(u32),
    /// The context, and whether it was named already.
    Meta { named: bool },
    /// The answers to GO.
    Go,
    /// The answers to LIST: whether there was one, and whether one is the export.
    List { any: bool, found: bool },
    /// The answer to EXPORT_NAME.
    ExportName,
    /// What a server of the old style says of its export.
    OldStyle,
}

/// What came of the bytes that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// So many bytes were used; there is more to come.
    Went(usize),
    /// So many bytes were used; requests may be sent.
    Done(usize),
    /// The connection is no use, in QEMU's words.
    Failed(String),
}

/// A negotiation under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Negotiation {
    export: Arc<str>,
    /// The context that is asked for: `base:allocation`, or another one in its place.
    context: Arc<str>,
    stage: Stage,
    /// 124 zeroes follow the answer to EXPORT_NAME.
    zeroes: bool,
    /// What was learned.
    pub info: ExportInfo,
}

/// `nbd_rep_lookup`
fn reply_name(kind: u32) -> &'static str {
    match kind {
        rep::ACK => "ack",
        rep::SERVER => "server",
        rep::INFO => "info",
        rep::META_CONTEXT => "meta context",
        rep::ERR_UNSUP => "unsupported",
        rep::ERR_POLICY => "denied by policy",
        rep::ERR_INVALID => "invalid",
        0x8000_0004 => "platform lacks support",
        0x8000_0005 => "TLS required",
        rep::ERR_UNKNOWN => "export unknown",
        0x8000_0007 => "server shutting down",
        rep::ERR_BLOCK_SIZE_REQD => "block size required",
        0x8000_0009 => "option payload too big",
        rep::ERR_EXT_HEADER_REQD => "extended headers required",
        _ => "<unknown>",
    }
}

/// `NBD_INFO_EXPORT` and `NBD_INFO_BLOCK_SIZE`
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

impl Negotiation {
    /// A negotiation of which nothing was said yet. `context` stands in the place of `base:allocation`.
    #[must_use]
    pub fn new(export: &Arc<str>, context: Option<&Arc<str>>) -> Negotiation {
        Negotiation {
            export: export.clone(),
            context: context.cloned().unwrap_or_else(|| "base:allocation".into()),
            stage: Stage::Greeting,
            zeroes: true,
            info: ExportInfo::default(),
        }
    }

    /// What is said where the connection ends before the negotiation does.
    #[must_use]
    pub fn cut_off(&self, input: &[u8]) -> String {
        let what = match self.stage {
            Stage::Greeting if input.len() < 8 => "initial magic",
            Stage::Greeting if input.len() < 16 => "server magic",
            Stage::Greeting => "server flags",
            Stage::ExportName | Stage::OldStyle if input.len() < 8 => "export length",
            Stage::ExportName | Stage::OldStyle => "export flags",
            _ => "option reply",
        };
        format!("Failed to read {what}: Unexpected end-of-file before all data were read")
    }

    /// Takes the next piece of what came apart, and answers it.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let done = match self.stage {
            Stage::Greeting => self.greeting(input, out),
            Stage::ExportName => self.export_name(input),
            Stage::OldStyle => self.old_style(input),
            _ => self.reply(input, out),
        };
        match done {
            Ok(progress) => progress,
            Err(text) => {
                if !matches!(self.stage, Stage::Greeting | Stage::ExportName | Stage::OldStyle) {
                    // As a courtesy to the server.
                    send(out, opt::ABORT, &[]);
                }
                Progress::Failed(text)
            }
        }
    }

    /// `nbd_start_negotiate`
    fn greeting(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, String> {
        let Some(first) = be64(input, 0) else { return Ok(Progress::More) };
        if first != magic::INIT {
            return Err(format!("Bad initial magic received: 0x{first:x}"));
        }
        let Some(second) = be64(input, 8) else { return Ok(Progress::More) };
        if second == OLD_STYLE {
            if !self.export.is_empty() {
                return Err("Server does not support non-empty export names".to_owned());
            }
            self.stage = Stage::OldStyle;
            return Ok(Progress::Went(16));
        }
        if second != magic::OPTS {
            return Err(format!("Bad server magic received: 0x{second:x}"));
        }
        let Some(flags) = be16(input, 16) else { return Ok(Progress::More) };
        self.zeroes = flags & 2 == 0;
        out.extend(u32::from(flags & 3).to_be_bytes());
        if flags & 1 == 0 {
            self.info.mode = NbdMode::ExportName;
            self.ask_export_name(out);
        } else {
            self.info.mode = NbdMode::Simple;
            self.ask(opt::EXTENDED_HEADERS, out);
        }
        Ok(Progress::Went(18))
    }

    fn ask(&mut self, option: u32, out: &mut Vec<u8>) {
        send(out, option, &[]);
        self.stage = Stage::Simple(option);
    }

    fn ask_export_name(&mut self, out: &mut Vec<u8>) {
        send(out, opt::EXPORT_NAME, self.export.as_bytes());
        self.stage = Stage::ExportName;
    }

    fn ask_context(&mut self, out: &mut Vec<u8>) {
        let mut data = self.named();
        data.extend(1_u32.to_be_bytes());
        data.extend(len32(self.context.len()));
        data.extend(self.context.as_bytes());
        send(out, opt::SET_META_CONTEXT, &data);
        self.stage = Stage::Meta { named: false };
    }

    fn ask_go(&mut self, out: &mut Vec<u8>) {
        let mut data = self.named();
        data.extend(1_u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.info.flags = 0;
        send(out, opt::GO, &data);
        self.stage = Stage::Go;
    }

    /// The export's name behind its length.
    fn named(&self) -> Vec<u8> {
        [&len32(self.export.len())[..], self.export.as_bytes()].concat()
    }

    /// A reply to an option (`nbd_receive_option_reply`).
    fn reply(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, String> {
        let asked = match self.stage {
            Stage::Simple(option) => option,
            Stage::Meta { .. } => opt::SET_META_CONTEXT,
            Stage::List { .. } => opt::LIST,
            _ => opt::GO,
        };
        let (Some(kind), Some(length)) = (be32(input, 12), be32(input, 16)) else { return Ok(Progress::More) };
        let option = be32(input, 8).unwrap_or_default();
        if be64(input, 0) != Some(magic::REP) {
            return Err("Unexpected option reply magic".to_owned());
        }
        if option != asked {
            let (found, wanted) = (opt::name(option), opt::name(asked));
            return Err(format!("Unexpected option type {option} ({found}), expected {asked} ({wanted})"));
        }
        let is_error = kind >> 31 == 1;
        if is_error && u64::from(length) > MAX_BUFFER_SIZE {
            return Err(format!("server error {kind} ({}) message is too long", reply_name(kind)));
        }
        if !is_error {
            self.fits(kind, length)?;
        }
        let length = length as usize;
        let Some(data) = input.get(20..20 + length) else { return Ok(Progress::More) };
        let used = 20 + length;
        if is_error {
            let strict = matches!(self.stage, Stage::Go | Stage::List { .. });
            if kind != rep::ERR_UNSUP && strict {
                return Err(refused(kind, option));
            }
            return self.unsupported(used, out);
        }
        match self.stage {
            Stage::Simple(option) => {
                if option == opt::EXTENDED_HEADERS {
                    self.info.mode = NbdMode::Extended;
                } else {
                    self.info.mode = NbdMode::Structured;
                }
                self.ask_context(out);
            }
            Stage::Meta { named } => self.context(kind, data, named, out)?,
            Stage::List { any, found } => return self.listed(kind, data, (any, found), used, out),
            _ => return self.went(kind, data, used),
        }
        Ok(Progress::Went(used))
    }

    /// What can be said of a reply that is no error before what it holds is there.
    fn fits(&self, kind: u32, length: u32) -> Result<(), String> {
        let unexpected = |wanted| {
            let (found, name) = (reply_name(kind), reply_name(wanted));
            format!("nexpected reply type {kind} ({found}), expected {wanted} ({name})")
        };
        let too_long = u64::from(length) > MAX_BUFFER_SIZE;
        match (self.stage, kind) {
            (Stage::Simple(option), rep::ACK) if length != 0 => {
                let name = opt::name(option);
                Err(format!("Option {option} ('{name}') response length is {length} (it should be zero)"))
            }
            (Stage::Simple(_), rep::ACK) => Ok(()),
            (Stage::Simple(option), _) => {
                let (name, found) = (opt::name(option), reply_name(kind));
                Err(format!("Server answered option {option} ({name}) with unexpected reply {kind} ({found})"))
            }
            (Stage::Meta { .. }, rep::ACK) if length != 0 => Err("Unexpected length to ACK response".to_owned()),
            (Stage::Meta { .. }, rep::META_CONTEXT) if length <= 4 || too_long => {
                Err(format!("Failed to negotiate meta context, server answered with unexpected length {length}"))
            }
            (Stage::Meta { .. }, rep::ACK | rep::META_CONTEXT) => Ok(()),
            (Stage::Meta { .. }, _) => Err(format!("U{}", unexpected(rep::META_CONTEXT))),
            (Stage::List { .. }, rep::ACK) if length != 0 => Err("length too long for option end".to_owned()),
            (Stage::List { .. }, rep::SERVER) if length < 4 || too_long => {
                Err(format!("incorrect option length {length}"))
            }
            (Stage::List { .. }, rep::ACK | rep::SERVER) => Ok(()),
            (Stage::List { .. }, _) => Err(format!("U{}", unexpected(rep::SERVER))),
            (_, rep::ACK) if length != 0 => Err("server sent invalid NBD_REP_ACK".to_owned()),
            (_, rep::INFO) if length < 2 => Err(format!("NBD_REP_INFO length {length} is too short")),
            (_, rep::INFO) if too_long => Err(format!("NBD_REP_INFO length {length} is too long")),
            (_, rep::ACK | rep::INFO) => Ok(()),
            _ => Err(format!("u{}", unexpected(rep::INFO))),
        }
    }

    /// The server does not know the option: there is another way.
    fn unsupported(&mut self, used: usize, out: &mut Vec<u8>) -> Result<Progress, String> {
        match self.stage {
            Stage::Simple(opt::EXTENDED_HEADERS) => self.ask(opt::STRUCTURED_REPLY, out),
            Stage::Simple(_) => self.ask_go(out),
            Stage::Meta { named: true } => self.ask_go(out),
            Stage::Meta { named: false } => {
                self.info.context = None;
                self.ask_go(out);
            }
            Stage::List { .. } => self.ask_export_name(out),
            _ => {
                send(out, opt::LIST, &[]);
                self.stage = Stage::List { any: false, found: false };
            }
        }
        Ok(Progress::Went(used))
    }

    /// `nbd_negotiate_simple_meta_context`
    fn context(&mut self, kind: u32, data: &[u8], named: bool, out: &mut Vec<u8>) -> Result<(), String> {
        if kind == rep::ACK {
            self.ask_go(out);
            return Ok(());
        }
        if named {
            return Err("Server answered with more than one context".to_owned());
        }
        let name = String::from_utf8_lossy(data.get(4..).unwrap_or_default());
        if *name != *self.context {
            let wanted = &self.context;
            return Err(format!(
                "Failed to negotiate meta context '{wanted}', server answered with different context '{name}'"
            ));
        }
        self.info.context = be32(data, 0);
        self.stage = Stage::Meta { named: true };
        Ok(())
    }

    /// `nbd_opt_info_or_go`, one answer.
    fn went(&mut self, kind: u32, data: &[u8], used: usize) -> Result<Progress, String> {
        if kind == rep::ACK {
            if self.info.flags == 0 {
                return Err("broken server omitted NBD_INFO_EXPORT".to_owned());
            }
            return Ok(Progress::Done(used));
        }
        let rest = data.len() - 2;
        let wrong_size = || format!("remaining export info len {rest} is unexpected size");
        let info = &mut self.info;
        match be16(data, 0).unwrap_or_default() {
            INFO_EXPORT => {
                if rest != 10 {
                    return Err(wrong_size());
                }
                info.size = be64(data, 2).unwrap_or_default();
                info.flags = be16(data, 10).unwrap_or_default();
                if info.min_block != 0 && !info.size.is_multiple_of(u64::from(info.min_block)) {
                    let (size, min) = (info.size, info.min_block);
                    return Err(format!("export size {size} is not multiple of minimum block size {min}"));
                }
            }
            INFO_BLOCK_SIZE => {
                if rest != 12 {
                    return Err(wrong_size());
                }
                let [min, best, max] = [2, 6, 10].map(|at| be32(data, at).unwrap_or_default());
                if !min.is_power_of_two() {
                    return Err(format!("server minimum block size {min} is not a power of two"));
                }
                if !best.is_power_of_two() || best < min {
                    return Err(format!("server preferred block size {best} is not valid"));
                }
                if max < min {
                    return Err(format!("server maximum block size {max} is not valid"));
                }
                (info.min_block, info.opt_block, info.max_block) = (min, best, max);
            }
            _ => {}
        }
        Ok(Progress::Went(used))
    }

    /// `nbd_receive_query_exports`, one answer.
    fn listed(
        &mut self,
        kind: u32,
        data: &[u8],
        (any, found): (bool, bool),
        used: usize,
        out: &mut Vec<u8>,
    ) -> Result<Progress, String> {
        if kind == rep::ACK {
            if any && !found {
                return Err(format!("No export with name '{}' available", self.export));
            }
            self.ask_export_name(out);
            return Ok(Progress::Went(used));
        }
        let length = be32(data, 0).unwrap_or_default() as usize;
        let rest = data.len() - 4;
        if rest < length || length > MAX_STRING_SIZE {
            return Err("incorrect name length in server's list response".to_owned());
        }
        if rest - length > MAX_STRING_SIZE {
            return Err("incorrect description length in server's list response".to_owned());
        }
        let is_it = data.get(4..4 + length) == Some(self.export.as_bytes());
        self.stage = Stage::List { any: true, found: found || is_it };
        Ok(Progress::Went(used))
    }

    /// The answer to EXPORT_NAME.
    fn export_name(&mut self, input: &[u8]) -> Result<Progress, String> {
        let length = if self.zeroes { 10 + 124 } else { 10 };
        if input.len() < length {
            return Ok(Progress::More);
        }
        self.info.size = be64(input, 0).unwrap_or_default();
        self.info.flags = be16(input, 8).unwrap_or_default();
        Ok(Progress::Done(length))
    }

    /// `nbd_negotiate_finish_oldstyle`
    fn old_style(&mut self, input: &[u8]) -> Result<Progress, String> {
        let (Some(size), Some(flags)) = (be64(input, 0), be32(input, 8)) else { return Ok(Progress::More) };
        let Ok(short) = u16::try_from(flags) else { return Err(format!("Unexpected export flags {flags:x}x")) };
        if input.len() < 12 + 124 {
            return Ok(Progress::More);
        }
        (self.info.size, self.info.flags) = (size, short);
        Ok(Progress::Done(12 + 124))
    }
}

/// `NBD_CLIENT_MAGIC`: the greeting of a server of the old style.
const OLD_STYLE: u64 = 0x0000_4202_8186_1253;

/// `nbd_send_option_request`
fn send(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend(magic::OPTS.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(len32(data.len()));
    out.extend(data);
}

/// `nbd_handle_reply_err`
fn refused(kind: u32, option: u32) -> String {
    let name = opt::name(option);
    match kind {
        rep::ERR_POLICY => format!("Denied by server for option {option} ({name})"),
        rep::ERR_INVALID => format!("Invalid parameters for option {option} ({name})"),
        0x8000_0004 => format!("Server lacks support for option {option} ({name})"),
        0x8000_0005 => format!("TLS negotiation required before option {option} ({name})"),
        rep::ERR_UNKNOWN => "Requested export not available".to_owned(),
        0x8000_0007 => format!("Server shutting down before option {option} ({name})"),
        rep::ERR_BLOCK_SIZE_REQD => format!("Server requires INFO_BLOCK_SIZE for option {option} ({name})"),
        _ => format!("Unknown error code when asking for option {option} ({name})"),
    }
}
