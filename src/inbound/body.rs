//! The hash of a body as it passes, in both forms of RFC 6376, 3.4. Nothing of the body is held.
//!
//! The crate that verifies signatures has a hasher, too; it keeps lines of nothing but white space at the end of a body in
//! the relaxed form, and drops bare carriage returns (3.4.4).

use sha2::{Digest as _, Sha256};

/// Octets that are hashed at once.
const BLOCK_OCTETS: usize = 4096;

/// Both hashes of one body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BodyHashes {
    pub(super) simple: Vec<u8>,
    pub(super) relaxed: Vec<u8>,
}

/// Hashes a body that comes in parts.
pub(super) struct BodyHasher {
    simple: Form,
    relaxed: Form,
    /// A carriage return has come whose line feed may follow.
    holds_return: bool,
}

struct Form {
    is_relaxed: bool,
    hash: Sha256,
    block: Vec<u8>,
    /// Line ends that count if anything follows.
    breaks: u64,
    /// White space that counts if anything follows in its line.
    has_space: bool,
    is_empty: bool,
}

impl BodyHasher {
    pub(super) fn new() -> Self {
        Self {
            simple: Form::new(false),
            relaxed: Form::new(true),
            holds_return: false,
        }
    }

    /// Takes the next part.
    pub(super) fn write(&mut self, part: &[u8]) {
        for &octet in part {
            let is_break = octet == b'\n' && self.holds_return;
            if self.holds_return && !is_break {
                self.octet(b'\r');
            }
            self.holds_return = octet == b'\r';
            if is_break {
                self.simple.line_break();
                self.relaxed.line_break();
            } else if !self.holds_return {
                self.octet(octet);
            }
        }
    }

    pub(super) fn finish(mut self) -> BodyHashes {
        if self.holds_return {
            self.octet(b'\r');
        }
        BodyHashes {
            simple: self.simple.finish(),
            relaxed: self.relaxed.finish(),
        }
    }

    fn octet(&mut self, octet: u8) {
        self.simple.octet(octet);
        self.relaxed.octet(octet);
    }
}

impl Form {
    fn new(is_relaxed: bool) -> Self {
        Self {
            is_relaxed,
            hash: Sha256::new(),
            block: Vec::with_capacity(BLOCK_OCTETS),
            breaks: 0,
            has_space: false,
            is_empty: true,
        }
    }

    fn line_break(&mut self) {
        self.breaks += 1;
        self.has_space = false;
    }

    fn octet(&mut self, octet: u8) {
        if self.is_relaxed && matches!(octet, b' ' | b'\t') {
            self.has_space = true;
            return;
        }
        while self.breaks > 0 {
            self.push(b"\r\n");
            self.breaks -= 1;
        }
        if self.has_space {
            self.push(b" ");
            self.has_space = false;
        }
        self.push(&[octet]);
        self.is_empty = false;
    }

    fn push(&mut self, octets: &[u8]) {
        self.block.extend_from_slice(octets);
        if self.block.len() >= BLOCK_OCTETS - 2 {
            self.hash.update(&self.block);
            self.block.clear();
        }
    }

    fn finish(mut self) -> Vec<u8> {
        // An empty body is one line end in the simple form, and nothing in the relaxed one.
        if !(self.is_relaxed && self.is_empty) {
            self.push(b"\r\n");
        }
        self.hash.update(&self.block);
        self.hash.finalize().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(parts: &[&[u8]]) -> BodyHashes {
        let mut hasher = BodyHasher::new();
        for part in parts {
            hasher.write(part);
        }
        hasher.finish()
    }

    #[test]
    fn bodies_are_brought_into_both_forms() {
        // Body, simple form, relaxed form.
        for (body, simple, relaxed) in [
            ("", "\r\n", ""),
            ("\r\n\r\n", "\r\n", ""),
            (" \r\n\t\r\n", " \r\n\t\r\n", ""),
            // RFC 6376, 3.4.5.
            (" C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"),
            ("a", "a\r\n", "a\r\n"),
            ("a\r\n \r\n", "a\r\n \r\n", "a\r\n"),
            ("a\r\n \r\n\r\nb", "a\r\n \r\n\r\nb\r\n", "a\r\n\r\n\r\nb\r\n"),
            ("a\rb\r\n", "a\rb\r\n", "a\rb\r\n"),
            ("a\nb", "a\nb\r\n", "a\nb\r\n"),
            ("a\r", "a\r\r\n", "a\r\r\n"),
            ("a\u{c}\u{b} b", "a\u{c}\u{b} b\r\n", "a\u{c}\u{b} b\r\n"),
        ] {
            let expected = BodyHashes {
                simple: Sha256::digest(simple).to_vec(),
                relaxed: Sha256::digest(relaxed).to_vec(),
            };
            assert_eq!(hashes(&[body.as_bytes()]), expected, "{body:?}");
            let single: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
            assert_eq!(hashes(&single), expected, "{body:?} octet by octet");
        }
    }

    #[test]
    fn long_bodies_are_hashed_in_blocks() {
        let body = "0123456789abcdef\r\n".repeat(10_000);
        assert_eq!(hashes(&[body.as_bytes()]).simple, Sha256::digest(&body).to_vec());
    }
}
