//! Names that people give to things: free text, bounded, without control and invisible characters.

use std::fmt;

use super::{Refused, allocation::slug_of};

/// Longest display name, in characters.
pub const DISPLAY_NAME_MAX_CHARS: usize = 200;
/// Longest name of a tenant, workspace or key, in characters.
pub const LABEL_MAX_CHARS: usize = 200;
/// Longest slug, in octets: a DNS label (RFC 1035, 2.3.4), so that slugs can become host names.
pub const SLUG_MAX_OCTETS: usize = 63;

/// The name shown beside an inbox's address; any script, may be empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DisplayName(String);

impl DisplayName {
    /// What a caller is told when a display name is refused.
    pub const RULE: &'static str = "must be at most 200 characters, without control characters, marks of the writing \
         direction and other invisible characters";

    /// Parses a display name.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        Self::parse_stored(text)
            .ok()
            .filter(|name| !has_invisible(&name.0))
            .ok_or_else(|| Refused::because(Self::RULE))
    }

    /// Parses a display name of the store: versions before 0005 of the migrations took invisible characters.
    pub fn parse_stored(text: &str) -> Result<Self, Refused> {
        if text.chars().count() <= DISPLAY_NAME_MAX_CHARS && is_plain(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refused::because(Self::RULE))
        }
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a tenant, a workspace or a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label(String);

impl Label {
    /// What a caller is told when a label is refused.
    pub const RULE: &'static str = "must be 1 to 200 characters, not only white space, without control characters, marks \
         of the writing direction and other invisible characters";

    /// Parses a label; white space around it is dropped.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        Self::parse_stored(text)
            .ok()
            .filter(|label| !has_invisible(&label.0) && label.0.chars().any(is_seen))
            .ok_or_else(|| Refused::because(Self::RULE))
    }

    /// Parses a label of the store: versions before 0005 of the migrations took invisible characters.
    pub fn parse_stored(text: &str) -> Result<Self, Refused> {
        let trimmed = text.trim();
        if !trimmed.is_empty() && trimmed.chars().count() <= LABEL_MAX_CHARS && is_plain(trimmed) {
            Ok(Self(trimmed.to_owned()))
        } else {
            Err(Refused::because(Self::RULE))
        }
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The short name of a workspace, unique within its tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slug(String);

impl Slug {
    /// What a caller is told when a slug is refused.
    pub const RULE: &'static str =
        "must be 1 to 63 characters of a-z, 0-9 and '-', and start and end with a letter or digit";
    /// The slug of a workspace whose name has nothing that a slug can hold.
    const OF_LAST_RESORT: &'static str = "workspace";

    /// Parses a slug.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let alphabet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=SLUG_MAX_OCTETS).contains(&text.len())
            && text.bytes().all(alphabet)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refused::because(Self::RULE))
        }
    }

    /// The slug that a name gives: `Acme Corp` gives `acme-corp`.
    pub fn from_label(label: &Label) -> Self {
        let slug = slug_of(label.as_str(), SLUG_MAX_OCTETS);
        Self(if slug.is_empty() {
            Self::OF_LAST_RESORT.to_owned()
        } else {
            slug
        })
    }

    /// This slug with a number behind it, cut where the whole would be too long: `acme-corp-2`.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        let ending = format!("-{number}");
        let base = &self.0[..self.0.len().min(SLUG_MAX_OCTETS - ending.len())];
        Self(format!("{}{ending}", base.trim_end_matches('-')))
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// No control characters: C0, C1 and the line and paragraph separators, which would break a header or a log line.
fn is_plain(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Whether there are characters that show nothing by themselves and change how others are shown, or make two names that
/// look the same: Unicode's `Bidi_Control`, and what is `Default_Ignorable_Code_Point` or a format character (Cf) without a
/// glyph (UAX #9, UAX #44). Language tags are among them, in which text can be hidden from people and not from programs.
///
/// Not among them, because scripts and emoji need them: the joiners U+200C and U+200D, variation selectors, the free
/// variation selectors and the vowel separator of Mongolian, and format characters with a glyph, as U+0600.
fn has_invisible(text: &str) -> bool {
    text.chars().any(|c| {
        matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{200b}' | '\u{200e}'
                | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e00ff}' | '\u{e01f0}'..='\u{e0fff}')
    })
}

/// Whether a character shows something even if it stands alone.
fn is_seen(c: char) -> bool {
    !c.is_whitespace()
        && !matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

macro_rules! shown_as_text {
    ($($name:ident),+) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        })+
    };
}
shown_as_text!(DisplayName, Label, Slug);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_take_any_script_but_no_control_characters() {
        assert_eq!(
            DisplayName::parse("Агент 007 🚀").unwrap().as_str(),
            "Агент 007 🚀"
        );
        assert_eq!(DisplayName::parse("").unwrap().as_str(), "");
        assert!(DisplayName::parse(&"é".repeat(200)).is_ok());
        for bad in [
            "a\nb",
            "a\0",
            "a\u{7f}",
            "a\u{85}b",
            "a\u{2028}b",
            &"é".repeat(201),
        ] {
            assert!(DisplayName::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    /// One of each range of what is refused, its ends among them.
    const INVISIBLE: [char; 32] = [
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{1160}',
        '\u{17b4}',
        '\u{17b5}',
        '\u{200b}',
        '\u{200e}',
        '\u{200f}',
        '\u{202a}',
        '\u{202b}',
        '\u{202c}',
        '\u{202d}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{206f}',
        '\u{3164}',
        '\u{feff}',
        '\u{ffa0}',
        '\u{fff9}',
        '\u{fffb}',
        '\u{1bca0}',
        '\u{1d173}',
        '\u{e0000}',
        '\u{e0001}',
        '\u{e0041}',
        '\u{e007f}',
        '\u{e01f0}',
        '\u{e0fff}',
    ];

    #[test]
    fn invisible_characters_are_refused_and_stay_readable_where_they_are_stored() {
        for invisible in INVISIBLE {
            let name = format!("Bank {invisible}of Acme");
            assert!(DisplayName::parse(&name).is_err(), "{invisible:?} was taken");
            assert!(Label::parse(&name).is_err(), "{invisible:?} was taken");
            assert_eq!(DisplayName::parse_stored(&name).unwrap().as_str(), name);
            assert_eq!(Label::parse_stored(&name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_scripts_and_emoji_need_is_taken() {
        for name in [
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}", // Persian, with a non-joiner
            "\u{0d28}\u{0d4d}\u{200d}",                                  // Malayalam, with a joiner
            "👩\u{200d}🚀 \u{2764}\u{fe0f}",
            "\u{845b}\u{e0100}",        // a Japanese name with a variation selector
            "\u{1820}\u{180e}\u{1820}", // Mongolian, with a vowel separator
            "שלום Ada",
        ] {
            assert_eq!(DisplayName::parse(name).unwrap().as_str(), name);
            assert_eq!(Label::parse(name).unwrap().as_str(), name);
        }
        for nothing in ["\u{200d}", " \u{200c} ", "\u{fe0f}"] {
            assert!(Label::parse(nothing).is_err(), "{nothing:?} was taken");
        }
    }

    #[test]
    fn labels_are_trimmed_and_never_empty() {
        assert_eq!(Label::parse("  Acme ").unwrap().as_str(), "Acme");
        for bad in ["", "   ", "a\tb", &"x".repeat(201)] {
            assert!(Label::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn slugs_follow_from_labels() {
        let slug = |name: &str| Slug::from_label(&Label::parse(name).unwrap());
        assert_eq!(slug("Acme Corp").as_str(), "acme-corp");
        assert_eq!(slug("日本").as_str(), "workspace");
        assert_eq!(slug("Acme Corp").numbered(2).as_str(), "acme-corp-2");
        assert_eq!(slug(&"x".repeat(100)).numbered(2).as_str().len(), SLUG_MAX_OCTETS);
        for bad in ["", "-a", "a-", "A", "a b", "a.b", &"x".repeat(64)] {
            assert!(Slug::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
