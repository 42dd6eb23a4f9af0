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
enum LexerState {
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
    Go(LexerState),
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
    state: LexerState,
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
                Next::Go(LexerState::Recovery) => {
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
                Next::Restart => self.state = LexerState::Start,
                Next::Ends(kind) => {
                    self.token.push(byte);
                    emit(kind, &self.token);
                    self.token.clear();
                    self.state = if kind == TokenKind::Error { LexerState::Recovery } else { LexerState::Start };
                    return;
                }
                Next::Before(kind) => {
                    emit(kind, &self.token);
                    self.token.clear();
                    self.state = LexerState::Start;
                }
            }
        }
    }

    /// The end of the input: completes or rejects the unfinished token.
    pub fn flush(&mut self, mut emit: impl FnMut(TokenKind, &[u8])) {
        match next(self.state, 0) {
            _ if self.state == LexerState::Start => {}
            Next::Before(kind) => emit(kind, &self.token),
            Next::Restart => {}
            _ => emit(TokenKind::Error, &self.token),
        }
        self.reset();
    }
}

fn next(state: LexerState, byte: u8) -> Next {
    use Next::{Before, Ends, Go};
    match (state, byte) {
        (LexerState::Start, _) => start(byte),
        // Structural characters, line ends, other control characters and bytes UTF-8 never has
        // are promising places to start again.
        (LexerState::Recovery, b'\t') => Go(LexerState::Recovery),
        (LexerState::Recovery, ..=0x1F | 0xFE.. | b'[' | b']' | b'{' | b'}' | b':' | b',') => Next::Restart,
        (LexerState::Recovery, _) => Go(LexerState::Recovery),
        (LexerState::Quoted(_) | LexerState::Escape(_), ..=0x1F | 0xFE..) => Ends(TokenKind::Error),
        (LexerState::Quoted(_), b'\\') => Go(escape(state)),
        (LexerState::Quoted(quote), _) if byte == quote => Ends(TokenKind::String),
        (LexerState::Quoted(quote) | LexerState::Escape(quote), _) => Go(LexerState::Quoted(quote)),
        (LexerState::Zero, b'0'..=b'9') => Ends(TokenKind::Error),
        (LexerState::Zero | LexerState::Digits, b'.') => Go(LexerState::Mantissa),
        (LexerState::Digits, b'0'..=b'9') => Go(LexerState::Digits),
        (LexerState::Digits | LexerState::MantissaDigits, b'e' | b'E') => Go(LexerState::ExpE),
        (LexerState::Zero | LexerState::Digits, _) => Before(TokenKind::Integer),
        (LexerState::Sign, b'0') => Go(LexerState::Zero),
        (LexerState::Sign, b'1'..=b'9') => Go(LexerState::Digits),
        (LexerState::Mantissa | LexerState::MantissaDigits, b'0'..=b'9') => Go(LexerState::MantissaDigits),
        (LexerState::ExpE, b'-' | b'+') => Go(LexerState::ExpSign),
        (LexerState::ExpE | LexerState::ExpSign | LexerState::ExpDigits, b'0'..=b'9') => Go(LexerState::ExpDigits),
        (LexerState::MantissaDigits | LexerState::ExpDigits, _) => Before(TokenKind::Float),
        (LexerState::Keyword, b'a'..=b'z') => Go(LexerState::Keyword),
        (LexerState::Keyword, _) => Before(TokenKind::Keyword),
        (LexerState::Sign | LexerState::Mantissa | LexerState::ExpE | LexerState::ExpSign, _) => Ends(TokenKind::Error),
    }
}

fn escape(state: LexerState) -> LexerState {
    match state {
        LexerState::Quoted(quote) => LexerState::Escape(quote),
        other => other,
    }
}

fn start(byte: u8) -> Next {
    use Next::{Ends, Go};
    match byte {
        b'"' | b'\'' => Go(LexerState::Quoted(byte)),
        b'0' => Go(LexerState::Zero),
        b'1'..=b'9' => Go(LexerState::Digits),
        b'-' => Go(LexerState::Sign),
        b'{' => Ends(TokenKind::LCurly),
        b'}' => Ends(TokenKind::RCurly),
        b'[' => Ends(TokenKind::LSquare),
        b']' => Ends(TokenKind::RSquare),
        b',' => Ends(TokenKind::Comma),
        b':' => Ends(TokenKind::Colon),
        b'a'..=b'z' => Go(LexerState::Keyword),
        b' ' | b'\t' | b'\r' | b'\n' => Next::Skip,
        _ => Ends(TokenKind::Error),
    }
}
