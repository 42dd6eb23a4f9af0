//! The other end: a client that negotiates, asks, and takes answers apart. It is driven by scenarios and by tests of the server.

use super::{MAX_BUFFER_SIZE, NbdMode, be16, be32, be64, chunk, cmd, cmd_flag, len32, magic, opt, rep};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a client wants to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Greeting {
    /// The name that is asked for with `NBD_OPT_GO`.
    pub export: Arc<str>,
    /// How it wants to be answered.
    pub mode: NbdMode,
    /// Contexts that it asks for.
    pub contexts: Vec<Arc<str>>,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Answer {
    /// `NBD_CMD_*`
    pub kind: u16,
    /// Its first byte.
    pub offset: u64,
    /// In bytes, of the request that is answered.
    pub len: u64,
    /// The error, as the wire has it.
    pub error: Option<u32>,
    /// What was said of it.
    pub text: Arc<str>,
    /// The bytes of a read.
    pub data: Vec<u8>,
    /// What block status told: of each context its number, and lengths with flags.
    pub extents: Vec<(u32, Vec<(u64, u64)>)>,
}

impl Answer {
    /// It in a few words.
    #[must_use]
    pub fn shown(&self) -> String {
        let what = format!("{} {}+{}", cmd::name(self.kind), self.offset, self.len);
        if let Some(error) = self.error {
            return format!("{what}: error {error} {}", self.text).trim_end().to_owned();
        }
        let mut text = format!("{what}: ok");
        if let Some(first) = self.data.first() {
            let uniform = self.data.iter().all(|byte| byte == first);
            text += &if uniform { format!(", all {first:#04x}") } else { ", mixed bytes".to_owned() };
        }
        for (context, extents) in &self.extents {
            let list: Vec<String> = extents.iter().map(|(length, flags)| format!("{length}:{flags}")).collect();
            text += &format!(", context {context} {}", list.join(" "));
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    cookie: u64,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The greeting has not come.
    Greeted,
    /// It waits for the answer to an option.
    Option(u32),
    /// Requests may be sent.
    Ready,
    /// It is no use.
    Failed,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Talk {
    wants: Greeting,
    state: State,
    /// What was agreed on.
    pub mode: NbdMode,
    /// Numbers and names of the contexts that were agreed on.
    pub contexts: Vec<(u32, Arc<str>)>,
    /// Length of the export.
    pub size: u64,
    /// Its transmission flags.
    pub flags: u16,
    /// Why it is no use.
    pub failure: Option<Arc<str>>,
    input: Vec<u8>,
    out: Vec<u8>,
    cookie: u64,
    pending: VecDeque<Pending>,
    answers: VecDeque<Answer>,
}

impl Talk {
    /// A connection on which nothing was said yet.
    #[must_use]
    pub fn new(wants: Greeting) -> Talk {
        Talk {
            wants,
            state: State::Greeted,
            mode: NbdMode::Simple,
            contexts: Vec::new(),
            size: 0,
            flags: 0,
            failure: None,
            input: Vec::new(),
            out: Vec::new(),
            cookie: 0,
            pending: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Whether requests may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Takes what is to be sent.
    pub fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The next answer, in the order in which they came.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// How many requests were not answered.
    #[must_use]
    pub fn open(&self) -> usize {
        self.pending.len()
    }

    /// Sends a request: its kind, flags, first byte, length and what is to be written.
    pub fn ask(&mut self, kind: u16, flags: u16, offset: u64, len: u64, data: &[u8]) {
        self.cookie += 1;
        let extended = self.mode == NbdMode::Extended;
        let flags = if extended && kind == cmd::WRITE { flags | cmd_flag::PAYLOAD_LEN } else { flags };
        self.out.extend((if extended { magic::EXTENDED_REQUEST } else { magic::REQUEST }).to_be_bytes());
        self.out.extend(flags.to_be_bytes());
        self.out.extend(kind.to_be_bytes());
        self.out.extend(self.cookie.to_be_bytes());
        self.out.extend(offset.to_be_bytes());
        if extended {
            self.out.extend(len.to_be_bytes());
        } else {
            self.out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
        self.out.extend(data);
        if kind != cmd::DISC {
            let answer = Answer { kind, offset, len, ..Answer::default() };
            self.pending.push_back(Pending { cookie: self.cookie, answer });
        }
    }

    /// Takes in what came.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(used) = self.advance() {
            self.input.drain(..used);
        }
    }

    fn fail(&mut self, why: impl Into<Arc<str>>) -> Option<usize> {
        self.state = State::Failed;
        self.failure.get_or_insert(why.into());
        None
    }

    /// Understands the next piece of the input. Gives its length; `None` where it is not complete.
    fn advance(&mut self) -> Option<usize> {
        match self.state {
            State::Failed => None,
            State::Greeted => {
                let flags = be16(&self.input, 16)?;
                if be64(&self.input, 0) != Some(magic::INIT)
                    || be64(&self.input, 8) != Some(magic::OPTS)
                    || flags & 1 == 0
                {
                    return self.fail("this is no greeting of an NBD server");
                }
                self.out.extend(3_u32.to_be_bytes());
                self.next_option();
                Some(18)
            }
            State::Option(option) => self.option(option),
            State::Ready => self.reply(),
        }
    }

    /// Sends the option that comes next.
    fn next_option(&mut self) {
        let name = [&len32(self.wants.export.len())[..], self.wants.export.as_bytes()].concat();
        let (option, data) = match self.wants.mode {
            NbdMode::Structured if self.mode < NbdMode::Structured => (opt::STRUCTURED_REPLY, Vec::new()),
            NbdMode::Extended if self.mode < NbdMode::Extended => (opt::EXTENDED_HEADERS, Vec::new()),
            _ if !self.wants.contexts.is_empty() => {
                let mut data = [&name[..], &len32(self.wants.contexts.len())].concat();
                for context in std::mem::take(&mut self.wants.contexts) {
                    data.extend(len32(context.len()));
                    data.extend(context.as_bytes());
                }
                (opt::SET_META_CONTEXT, data)
            }
            _ => (opt::GO, [&name[..], &1_u16.to_be_bytes(), &3_u16.to_be_bytes()].concat()),
        };
        self.out.extend(magic::OPTS.to_be_bytes());
        self.out.extend(option.to_be_bytes());
        self.out.extend(len32(data.len()));
        self.out.extend(data);
        self.state = State::Option(option);
    }

    /// A reply to an option.
    fn option(&mut self, option: u32) -> Option<usize> {
        let (kind, length) = (be32(&self.input, 12)?, be32(&self.input, 16)? as usize);
        if be64(&self.input, 0) != Some(magic::REP) || be32(&self.input, 8) != Some(option) {
            return self.fail("this is no reply to the option");
        }
        let data = self.input.get(20..20 + length)?.to_vec();
        match kind {
            rep::META_CONTEXT => {
                let name = String::from_utf8_lossy(data.get(4..).unwrap_or_default()).into_owned();
                self.contexts.push((be32(&data, 0).unwrap_or_default(), name.into()));
            }
            rep::INFO if be16(&data, 0) == Some(0) => {
                self.size = be64(&data, 2).unwrap_or_default();
                self.flags = be16(&data, 10).unwrap_or_default();
            }
            rep::ACK => match option {
                opt::GO => self.state = State::Ready,
                _ => {
                    match option {
                        opt::STRUCTURED_REPLY => self.mode = NbdMode::Structured,
                        opt::EXTENDED_HEADERS => self.mode = NbdMode::Extended,
                        _ => {}
                    }
                    self.next_option();
                }
            },
            kind if kind >> 31 == 1 => return self.fail(String::from_utf8_lossy(&data).into_owned()),
            _ => {}
        }
        Some(20 + length)
    }

    /// A reply to a request, or a part of one.
    fn reply(&mut self) -> Option<usize> {
        let first = be32(&self.input, 0)?;
        let cookie = be64(&self.input, 8)?;
        let Some(at) = self.pending.iter().position(|pending| pending.cookie == cookie) else {
            return self.fail("a reply to what was not asked");
        };
        let answer = &mut self.pending[at].answer;
        match first {
            magic::SIMPLE_REPLY => {
                let error = be32(&self.input, 4)?;
                let mut used = 16;
                if error != 0 {
                    answer.error = Some(error);
                } else if answer.kind == cmd::READ {
                    let len = usize::try_from(answer.len).unwrap_or_default();
                    answer.data = self.input.get(16..16 + len)?.to_vec();
                    used += len;
                }
                self.done(at);
                Some(used)
            }
            magic::STRUCTURED_REPLY | magic::EXTENDED_REPLY => {
                let (head, length) = match first {
                    magic::STRUCTURED_REPLY => (20, u64::from(be32(&self.input, 16)?)),
                    _ => (32, be64(&self.input, 24)?),
                };
                if length > 2 * MAX_BUFFER_SIZE {
                    return self.fail("a reply that is too long");
                }
                let used = head + usize::try_from(length).expect("checked above");
                let (flags, kind) = (be16(&self.input, 4)?, be16(&self.input, 6)?);
                take_chunk(answer, kind, self.input.get(head..used)?);
                if flags & 1 != 0 {
                    self.done(at);
                }
                Some(used)
            }
            _ => self.fail("this is no reply"),
        }
    }

    fn done(&mut self, at: usize) {
        if let Some(pending) = self.pending.remove(at) {
            self.answers.push_back(pending.answer);
        }
    }
}

/// Takes a chunk into an answer.
fn take_chunk(answer: &mut Answer, kind: u16, data: &[u8]) {
    let len = usize::try_from(answer.len).unwrap_or_default();
    let at = be64(data, 0).and_then(|offset| usize::try_from(offset.checked_sub(answer.offset)?).ok());
    match kind {
        chunk::OFFSET_DATA | chunk::OFFSET_HOLE if answer.kind == cmd::READ => {
            answer.data.resize(len, 0);
            let bytes = data.get(8..).unwrap_or_default();
            if kind == chunk::OFFSET_DATA
                && let Some(place) = at.and_then(|at| answer.data.get_mut(at..at + bytes.len()))
            {
                place.copy_from_slice(bytes);
            }
        }
        chunk::BLOCK_STATUS => {
            let pair = |pair: &[u8]| (u64::from(be32(pair, 0).unwrap_or(0)), u64::from(be32(pair, 4).unwrap_or(0)));
            let list = data.get(4..).unwrap_or_default().chunks_exact(8).map(pair).collect();
            answer.extents.push((be32(data, 0).unwrap_or_default(), list));
        }
        chunk::BLOCK_STATUS_EXT => {
            let pair = |pair: &[u8]| (be64(pair, 0).unwrap_or(0), be64(pair, 8).unwrap_or(0));
            let list = data.get(8..).unwrap_or_default().chunks_exact(16).map(pair).collect();
            answer.extents.push((be32(data, 0).unwrap_or_default(), list));
        }
        chunk::ERROR => {
            answer.error = be32(data, 0);
            answer.text = String::from_utf8_lossy(data.get(6..).unwrap_or_default()).into_owned().into();
        }
        _ => {}
    }
}
