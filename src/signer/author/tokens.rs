//! The tokens of an author field (RFC 5322, 3.2), in the narrow alphabet that all readers read alike.

use std::{iter::Peekable, str::CharIndices};

use super::{
    encoded_word::{self, Place},
    fault::Fault,
};

/// A word of a display name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Plain,
    /// An encoded word, or a quoted string with one.
    Encoded,
    /// A quoted string with an `@`.
    QuotedAddress,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    Space,
    /// White space with a line end.
    Fold,
    Comment,
    Word(Word),
    /// A run without white space that has an `@`.
    Address(&'a str),
    Open,
    Close,
    Comma,
}

/// Takes a whole value apart, in linear time. Comments and quoted strings are checked here, and are one token each.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Fault> {
    Lexer::new(text).tokens()
}

/// Control characters, line separators, and what changes the direction of the text behind a name (UAX 9, 2).
pub(super) fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A character that compatibility mappings (NFKC) turn into `@`.
pub(super) fn is_lookalike(character: char) -> bool {
    matches!(character, '\u{ff20}' | '\u{fe6b}')
}

/// RFC 5322, 3.2.3.
pub(super) fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character)
}

/// What may stand in text of a name outside ASCII.
fn is_other_text(character: char) -> bool {
    !character.is_ascii() && !is_control(character) && !is_lookalike(character)
}

/// Reads a value from its first character to its last.
struct Lexer<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            rest: text.char_indices().peekable(),
        }
    }

    fn tokens(mut self) -> Result<Vec<Token<'a>>, Fault> {
        let mut tokens = Vec::new();
        while let Some(&(start, first)) = self.rest.peek() {
            tokens.push(match first {
                ' ' | '\t' | '\r' | '\n' => self.space()?,
                '"' => self.quoted()?,
                '(' => self.comment()?,
                '<' | '>' | ',' => {
                    self.rest.next();
                    match first {
                        '<' => Token::Open,
                        '>' => Token::Close,
                        _ => Token::Comma,
                    }
                }
                _ => self.run(start)?,
            });
        }
        Ok(tokens)
    }

    /// Where the next character stands.
    fn offset(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |&(offset, _)| offset)
    }

    /// Folding white space without its obsolete form: at most one line end, and white space behind it (RFC 5322, 3.2.2).
    fn space(&mut self) -> Result<Token<'a>, Fault> {
        let mut folds = 0;
        let mut needs_space = false;
        while let Some(&(_, character)) = self.rest.peek() {
            match character {
                ' ' | '\t' => needs_space = false,
                '\r' | '\n' => {
                    let is_return = self.rest.next().is_some_and(|(_, character)| character == '\r');
                    let is_line_end = is_return && self.rest.peek().is_some_and(|&(_, next)| next == '\n');
                    folds += 1;
                    if !is_line_end || folds > 1 || needs_space {
                        return Err(Fault::Folding);
                    }
                    needs_space = true;
                }
                _ => break,
            }
            self.rest.next();
        }
        let is_last_line = self.rest.peek().is_none() && folds > 0;
        if needs_space || is_last_line {
            return Err(Fault::Folding);
        }
        Ok(if folds == 0 { Token::Space } else { Token::Fold })
    }

    /// An atom, an encoded word or an address.
    fn run(&mut self, start: usize) -> Result<Token<'a>, Fault> {
        while let Some(&(_, character)) = self.rest.peek() {
            match character {
                '@' | '.' => {}
                _ if is_atext(character) || is_other_text(character) => {}
                ' ' | '\t' | '\r' | '\n' | '"' | '(' | '<' | '>' | ',' => break,
                ':' | ';' | '[' | ']' | ')' | '\\' => return Err(Fault::Special(character)),
                _ if is_lookalike(character) => return Err(Fault::AddressInName),
                _ => return Err(Fault::Control),
            }
            self.rest.next();
        }
        let run = &self.text[start..self.offset()];
        if run.contains('@') {
            return Ok(Token::Address(run));
        }
        // RFC 5322, 4.1 has dots in names, but not in front.
        let words = run.strip_suffix('.').unwrap_or(run).split('.');
        if words.into_iter().any(str::is_empty) {
            return Err(Fault::Special('.'));
        }
        if run.contains(encoded_word::START) {
            encoded_word::check(run, Place::Name)?;
            return Ok(Token::Word(Word::Encoded));
        }
        Ok(Token::Word(Word::Plain))
    }

    /// RFC 5322, 3.2.4.
    fn quoted(&mut self) -> Result<Token<'a>, Fault> {
        self.rest.next();
        let start = self.offset();
        let (mut has_at, mut has_other) = (false, false);
        loop {
            let &(offset, character) = self.rest.peek().ok_or(Fault::Unclosed)?;
            match character {
                ' ' | '\t' | '\r' | '\n' => {
                    self.space()?;
                    continue;
                }
                '"' => {
                    self.rest.next();
                    return quoted_word(&self.text[start..offset], has_at, has_other);
                }
                '\\' => {
                    has_other = true;
                    self.rest.next();
                    let &(_, escaped) = self.rest.peek().ok_or(Fault::Unclosed)?;
                    // RFC 5322, 3.2.1: only what has to be escaped. Of another one, readers differ in what is left.
                    if !matches!(escaped, '"' | '\\') {
                        return Err(Fault::Special('\\'));
                    }
                }
                '@' => has_at = true,
                '<' | '>' | '(' | ')' | '[' | ']' | ':' | ';' => has_other = true,
                '!'..='~' => {}
                _ if is_other_text(character) => {}
                _ if is_lookalike(character) => has_at = true,
                _ => return Err(Fault::Control),
            }
            self.rest.next();
        }
    }

    /// RFC 5322, 3.2.2, of a narrow alphabet.
    fn comment(&mut self) -> Result<Token<'a>, Fault> {
        self.rest.next();
        let mut word = self.offset();
        loop {
            let &(offset, character) = self.rest.peek().ok_or(Fault::Unclosed)?;
            if matches!(character, ' ' | '\t' | '\r' | '\n' | ')') {
                let text = &self.text[word..offset];
                if text.contains(encoded_word::START) {
                    encoded_word::check(text, Place::Comment)?;
                }
            }
            match character {
                ' ' | '\t' | '\r' | '\n' => {
                    self.space()?;
                    word = self.offset();
                    continue;
                }
                ')' => {
                    self.rest.next();
                    return Ok(Token::Comment);
                }
                '.' | ',' => {}
                _ if is_atext(character) || is_other_text(character) => {}
                _ if is_control(character) => return Err(Fault::Control),
                _ => return Err(Fault::Comment),
            }
            self.rest.next();
        }
    }
}

/// What a quoted string is as a word. Readers decode encoded words in it, though RFC 2047, 5 has none there.
fn quoted_word<'a>(inside: &str, has_at: bool, has_other: bool) -> Result<Token<'a>, Fault> {
    if has_at {
        if has_other || inside.contains(encoded_word::START) {
            return Err(Fault::AddressInQuotes);
        }
        return Ok(Token::Word(Word::QuotedAddress));
    }
    if !inside.contains(encoded_word::START) {
        return Ok(Token::Word(Word::Plain));
    }
    for word in inside.split_ascii_whitespace() {
        if word.contains(encoded_word::START) {
            encoded_word::check(word, Place::Name)?;
        }
    }
    Ok(Token::Word(Word::Encoded))
}
