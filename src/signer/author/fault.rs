//! What can be wrong with the value of an author field.

/// Longest author field in octets, folding included.
pub const AUTHOR_FIELD_MAX_OCTETS: usize = 8 * 1024;
/// Addresses in one author field.
pub const AUTHORS_MAX: usize = 16;

/// What is wrong with the value of an author field. It reads on after "the From field".
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// More than [`AUTHOR_FIELD_MAX_OCTETS`].
    #[error("must have no more than {AUTHOR_FIELD_MAX_OCTETS} octets")]
    TooLong,
    /// More than [`AUTHORS_MAX`].
    #[error("must name no more than {AUTHORS_MAX} addresses")]
    TooMany,
    /// There is no address, or an empty list element.
    #[error("must name an address, such as user@example.com, in each of its parts between commas")]
    NoAddress,
    /// Sender and Resent-Sender (RFC 5322, 3.6.2).
    #[error("must name one address, not several")]
    Several,
    /// Raw octets that are no text.
    #[error("must be ASCII or UTF-8; names in other charsets are written as encoded words (RFC 2047)")]
    NotUtf8,
    /// Control characters, line separators, and bidirectional controls of Unicode.
    #[error("must have no control characters")]
    Control,
    /// A line end that is no folding (RFC 5322, 2.2.3), or a folded line of white space alone.
    #[error("must be folded before white space that other text follows")]
    Folding,
    /// A special outside quotes (RFC 5322, 3.2.3).
    #[error("must have the name in double quotes if it has the character '{0}'")]
    Special(char),
    /// An `@` outside an address.
    #[error("must have no address in the name, other than \"in quotes\" or that of this login")]
    AddressInName,
    /// Something that is no address where one has to stand.
    #[error(
        "must name addresses as user@example.com or Name <user@example.com>, without white space, quotes, \
         comments or brackets in the address"
    )]
    Address,
    /// A quoted name with an address, and something in the field that readers may take apart otherwise.
    #[error(
        "may have an address in a quoted name only as \"other@example.com\" <user@example.com>, with no second address and \
         no comments, escapes, brackets or encoded words"
    )]
    AddressInQuotes,
    /// A quoted string or a comment without its end.
    #[error("must have an end to each quote and comment")]
    Unclosed,
    /// A character that comments may not have here.
    #[error("must have no addresses, quotes, brackets or other comments inside comments")]
    Comment,
    /// Words that touch each other.
    #[error("must have white space between the words of a name, and between an address and a comment")]
    Adjacent,
    /// Not of the form of RFC 2047.
    #[error(
        "must have encoded words (RFC 2047) in their right form, each on its own and of whole characters"
    )]
    EncodedWord,
    /// A charset that is not known to be a superset of ASCII.
    #[error("must have its encoded words in UTF-8")]
    Charset,
    /// It stands for what would be a special if it were not encoded.
    #[error("must have no address, quote, bracket, '=' or control character inside encoded words")]
    Encoded,
}
