//! Cutting a byte stream into JSON tokens, and finding back after an error (qobject/json-lexer.c).

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// `{`
    LCurly,
    /// `}`
    RCurly,
    /// `[`
    LSquare,
    /// `]`
    RSquare,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// Digits with an optional sign.
    Integer,
    /// A number with fraction or exponent.
    Float,
    /// Lower-case letters.
    Keyword,
    /// A string with its quotes, single or double.
    String,
    /// Something no token starts or goes on with.
    Error,
}

/// Where in a token the lexer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum State {
    #[default]
    Start,
    /// Skipping what follows an error.
    Recovery,
    /// Inside a string delimited by this byte.
    Quoted(u8),
    /// After a backslash in such a string.
    Escape(u8),
    Zero,
    Sign,
    Digits,
    Mantissa,
    MantissaDigits,
    ExpE,
    ExpSign,
    ExpDigits,
    Keyword,
}

/// What a byte does to the lexer.
enum Next {
    /// The byte belongs to the token, which goes on.
    Go(State),
    /// The byte is the last of a token.
    Ends(TokenKind),
    /// The byte is beyond the end of a token.
    Before(TokenKind),
    /// The byte belongs to nothing; back to the start with the token dropped.
    Skip,
    /// The byte is to be looked at again from the start.
    Restart,
}

/// A lexer, fed byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lexer {
    state: State,
    /// The bytes of the token so far.
    token: Vec<u8>,
}

impl Lexer {
    /// Bytes of the unfinished token.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.token.len()
    }

    /// Forgets the unfinished token.
    pub fn reset(&mut self) {
        *self = Lexer::default();
    }

    /// Takes one byte; `emit` gets the tokens that are complete with it.
    pub fn feed(&mut self, byte: u8, mut emit: impl FnMut(TokenKind, &[u8])) {
        loop {
            match next(self.state, byte) {
                Next::Go(State::Recovery) => {
                    self.token.clear();
                    return;
                }
                Next::Go(state) => {
                    self.token.push(byte);
                    self.state = state;
                    return;
                }
                Next::Skip => {
                    self.token.clear();
                    return;
                }
                Next::Restart => self.state = State::Start,
                Next::Ends(kind) => {
                    self.token.push(byte);
                    emit(kind, &self.token);
                    self.token.clear();
                    self.state = if kind == TokenKind::Error { State::Recovery } else { State::Start };
                    return;
                }
                Next::Before(kind) => {
                    emit(kind, &self.token);
                    self.token.clear();
                    self.state = State::Start;
                }
            }
        }
    }

    /// The end of the input: completes or rejects the unfinished token.
    pub fn flush(&mut self, mut emit: impl FnMut(TokenKind, &[u8])) {
        match next(self.state, 0) {
            _ if self.state == State::Start => {}
            Next::Before(kind) => emit(kind, &self.token),
            Next::Restart => {}
            _ => emit(TokenKind::Error, &self.token),
        }
        self.reset();
    }
}

fn next(state: State, byte: u8) -> Next {
    use Next::{Before, Ends, Go};
    match (state, byte) {
        (State::Start, _) => start(byte),
        // Structural characters, line ends, other control characters and bytes UTF-8 never has
        // are promising places to start again.
        (State::Recovery, b'\t') => Go(State::Recovery),
        (State::Recovery, ..=0x1F | 0xFE.. | b'[' | b']' | b'{' | b'}' | b':' | b',') => Next::Restart,
        (State::Recovery, _) => Go(State::Recovery),
        (State::Quoted(_) | State::Escape(_), ..=0x1F | 0xFE..) => Ends(TokenKind::Error),
        (State::Quoted(_), b'\\') => Go(escape(state)),
        (State::Quoted(quote), _) if byte == quote => Ends(TokenKind::String),
        (State::Quoted(quote) | State::Escape(quote), _) => Go(State::Quoted(quote)),
        (State::Zero, b'0'..=b'9') => Ends(TokenKind::Error),
        (State::Zero | State::Digits, b'.') => Go(State::Mantissa),
        (State::Digits, b'0'..=b'9') => Go(State::Digits),
        (State::Digits | State::MantissaDigits, b'e' | b'E') => Go(State::ExpE),
        (State::Zero | State::Digits, _) => Before(TokenKind::Integer),
        (State::Sign, b'0') => Go(State::Zero),
        (State::Sign, b'1'..=b'9') => Go(State::Digits),
        (State::Mantissa | State::MantissaDigits, b'0'..=b'9') => Go(State::MantissaDigits),
        (State::ExpE, b'-' | b'+') => Go(State::ExpSign),
        (State::ExpE | State::ExpSign | State::ExpDigits, b'0'..=b'9') => Go(State::ExpDigits),
        (State::MantissaDigits | State::ExpDigits, _) => Before(TokenKind::Float),
        (State::Keyword, b'a'..=b'z') => Go(State::Keyword),
        (State::Keyword, _) => Before(TokenKind::Keyword),
        (State::Sign | State::Mantissa | State::ExpE | State::ExpSign, _) => Ends(TokenKind::Error),
    }
}

fn escape(state: State) -> State {
    match state {
        State::Quoted(quote) => State::Escape(quote),
        other => other,
    }
}

fn start(byte: u8) -> Next {
    use Next::{Ends, Go};
    match byte {
        b'"' | b'\'' => Go(State::Quoted(byte)),
        b'0' => Go(State::Zero),
        b'1'..=b'9' => Go(State::Digits),
        b'-' => Go(State::Sign),
        b'{' => Ends(TokenKind::LCurly),
        b'}' => Ends(TokenKind::RCurly),
        b'[' => Ends(TokenKind::LSquare),
        b']' => Ends(TokenKind::RSquare),
        b',' => Ends(TokenKind::Comma),
        b':' => Ends(TokenKind::Colon),
        b'a'..=b'z' => Go(State::Keyword),
        b' ' | b'\t' | b'\r' | b'\n' => Next::Skip,
        _ => Ends(TokenKind::Error),
    }
}
