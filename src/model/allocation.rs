//! Which name a request gets: the pure part of the contract's allocation rules 3 to 6.

use std::collections::HashSet;

use super::address::{LOCAL_PART_MAX_OCTETS, LocalPart};
use crate::clock::Entropy;

/// Highest number in the numbered fallback: `scout`, `scout1`, ... `scout99`.
pub const SUFFIX_MAX: u32 = 99;
/// Names tried for one request: the base and every numbered fallback.
pub const CANDIDATES_MAX: usize = SUFFIX_MAX as usize + 1;
/// The base for a tenant whose name has nothing that a local part can hold.
const BASE_OF_LAST_RESORT: &str = "inbox";
/// Characters of a random ending, five bits each.
const RANDOM_ENDING_CHARS: usize = 8;
/// The alphabet of random endings: 32 characters without `l`, `o`, `0` and `1`, which people mix up.
const ENDING_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// The names to try, in order of preference: the base itself, then base1 to base99, the base cut where needed.
///
/// Each name stands once: a base of 64 octets that ends in digits can, cut, give the same name twice.
pub fn candidates(base: &LocalPart) -> Vec<LocalPart> {
    let numbered = (1..=SUFFIX_MAX).filter_map(|number| base.with_ending(&number.to_string()).ok());
    let mut seen = HashSet::with_capacity(CANDIDATES_MAX);
    std::iter::once(base.clone())
        .chain(numbered)
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

/// The first candidate that is not taken.
pub fn first_free<'a>(candidates: &'a [LocalPart], taken: &HashSet<String>) -> Option<&'a LocalPart> {
    candidates
        .iter()
        .find(|candidate| !taken.contains(candidate.as_str()))
}

/// The base for a request without a username: the tenant's name in the alphabet of local parts, `Acme Corp.`
/// giving `acme-corp`.
pub fn base_from_tenant_name(name: &str) -> LocalPart {
    let slug = slug_of(name, LOCAL_PART_MAX_OCTETS);
    LocalPart::parse(&slug).unwrap_or_else(|_| last_resort())
}

fn last_resort() -> LocalPart {
    // A constant of the alphabet; the test below parses it.
    LocalPart::parse(BASE_OF_LAST_RESORT)
        .unwrap_or_else(|_| unreachable!("{BASE_OF_LAST_RESORT} is a local part"))
}

/// Lower-case ASCII letters and digits, every run of anything else folded into one `-`, none at the ends.
pub fn slug_of(name: &str, max_octets: usize) -> String {
    let mut slug = String::with_capacity(name.len().min(max_octets));
    for character in name.chars() {
        if slug.len() >= max_octets {
            break;
        }
        if character.is_ascii_alphanumeric() {
            slug.push(character.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

/// The base with a short random ending, for when base to base99 are all taken and no name was asked for.
pub fn with_random_ending(base: &LocalPart, entropy: &dyn Entropy) -> LocalPart {
    let mut random = [0_u8; RANDOM_ENDING_CHARS];
    entropy.fill(&mut random);
    let letters: String = random
        .iter()
        .map(|byte| char::from(ENDING_ALPHABET[usize::from(byte % 32)]))
        .collect();
    base.with_ending(&format!("-{letters}"))
        .or_else(|_| last_resort().with_ending(&letters))
        .unwrap_or_else(|_| unreachable!("letters and digits end a local part"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Machine;

    fn local(text: &str) -> LocalPart {
        LocalPart::parse(text).unwrap()
    }

    #[test]
    fn candidates_run_from_the_base_to_99() {
        let names = candidates(&local("scout"));
        assert_eq!(names.len(), CANDIDATES_MAX);
        assert_eq!(names[0].as_str(), "scout");
        assert_eq!(names[1].as_str(), "scout1");
        assert_eq!(names[99].as_str(), "scout99");
    }

    #[test]
    fn the_first_free_candidate_wins() {
        let names = candidates(&local("scout"));
        let mut taken: HashSet<String> = ["scout", "scout1", "scout3"].map(String::from).into();
        assert_eq!(first_free(&names, &taken).unwrap().as_str(), "scout2");
        taken.extend(names.iter().map(|name| name.as_str().to_owned()));
        assert_eq!(first_free(&names, &taken), None);
    }

    #[test]
    fn tenant_names_become_bases() {
        for (name, base) in [
            ("Acme Corp.", "acme-corp"),
            ("  ACME  ", "acme"),
            ("日本", "inbox"),
            ("", "inbox"),
            ("a/b:c\nd", "a-b-c-d"),
            ("Müller & Söhne", "m-ller-s-hne"),
        ] {
            assert_eq!(base_from_tenant_name(name).as_str(), base, "{name:?}");
        }
    }

    #[test]
    fn random_endings_differ_and_fit() {
        let base = local(&"x".repeat(64));
        let one = with_random_ending(&base, &Machine);
        let other = with_random_ending(&base, &Machine);
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 64);
    }

    proptest! {
        #[test]
        fn every_tenant_name_gives_a_base_with_a_hundred_candidates(name in ".{0,300}") {
            let base = base_from_tenant_name(&name);
            let names = candidates(&base);
            let distinct: HashSet<_> = names.iter().collect();
            prop_assert_eq!(distinct.len(), names.len());
            prop_assert!(names.len() > 80 && names.len() <= CANDIDATES_MAX);
            prop_assert_eq!(&names[0], &base);
        }
    }
}
