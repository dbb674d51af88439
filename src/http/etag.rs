//! Entity tags: which state of an object an answer shows, and which one a change is meant for (RFC 9110, 8.8.3 and 13.1).

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::ops::condition::Condition;

/// Octets of a digest that make a tag.
const TAG_OCTETS: usize = 16;
const RULE: &str = "must be * or entity tags in quotes, joined by commas";
/// What a list of tags looks like, for the document (RFC 9110, 8.8.3 and 13.1).
pub(super) const TAGS_PATTERN: &str = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#;

/// A strong entity tag, without its quotes: it differs whenever the representation does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ETag(String);

impl ETag {
    /// The tag of a representation, and of what else it shows that is not to be hashed in clear.
    pub(super) fn of(representation: &impl Serialize, beside: &[u8]) -> Result<Self, Problem> {
        let octets = serde_json::to_vec(representation).map_err(|error| Problem::internal(&error))?;
        let mut hash = Sha256::new();
        hash.update((octets.len() as u64).to_be_bytes());
        hash.update(&octets);
        hash.update(beside);
        Ok(Self(URL_SAFE_NO_PAD.encode(&hash.finalize()[..TAG_OCTETS])))
    }

    fn value(&self) -> Result<HeaderValue, Problem> {
        HeaderValue::try_from(format!("\"{}\"", self.0)).map_err(|error| Problem::internal(&error))
    }
}

/// The tags of one header.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Tags {
    /// `*`: whatever there is.
    Any,
    /// Any of these; each with whether it is weak.
    These(Vec<(bool, String)>),
}

impl Tags {
    fn parse(headers: &HeaderMap, name: &'static str) -> Result<Option<Self>, Problem> {
        let refused = || Problem::invalid(name, RULE);
        let mut tags = Vec::new();
        let mut is_given = false;
        for value in headers.get_all(name) {
            is_given = true;
            let value = value.to_str().map_err(|_| refused())?.trim();
            if value == "*" {
                return Ok(Some(Self::Any));
            }
            parse_list(value, &mut tags).ok_or_else(refused)?;
        }
        Ok(is_given.then_some(Self::These(tags)))
    }

    /// By the strong comparison, weak tags match nothing (RFC 9110, 8.8.3.2).
    fn match_strongly(&self, tag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|(is_weak, given)| !is_weak && *given == tag.0),
        }
    }

    fn match_weakly(&self, tag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|(_, given)| *given == tag.0),
        }
    }
}

/// Parses `W/"one", "two"`. None if it is no such list.
fn parse_list(mut rest: &str, tags: &mut Vec<(bool, String)>) -> Option<()> {
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(());
        }
        let weak = rest.strip_prefix("W/");
        let (tag, behind) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if !tag.bytes().all(|octet| octet.is_ascii_graphic()) {
            return None;
        }
        tags.push((weak.is_some(), tag.to_owned()));
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// `If-Match`: the states for which a change is meant.
#[derive(Clone, Debug)]
pub(super) struct IfMatch(Option<Tags>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Tags::parse(&parts.headers, "if-match").map(Self)
    }
}

impl IfMatch {
    /// The condition that the object's current tag is one of these.
    pub(super) fn condition<T>(
        self,
        tag_of: impl Fn(&T) -> Result<ETag, Problem> + Send + Sync + 'static,
    ) -> Condition<T> {
        match self.0 {
            // A change of what is not there is refused anyway.
            None | Some(Tags::Any) => Condition::none(),
            Some(tags) => {
                Condition::new(move |state| tag_of(state).is_ok_and(|tag| tags.match_strongly(&tag)))
            }
        }
    }
}

/// `If-None-Match`: the states that the caller has already.
#[derive(Clone, Debug)]
pub(super) struct IfNoneMatch(Option<Tags>);

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Tags::parse(&parts.headers, "if-none-match").map(Self)
    }
}

impl IfNoneMatch {
    /// A representation with its tag; 304 without it if the caller has this state.
    pub(super) fn answer(&self, tag: &ETag, representation: impl Serialize) -> Result<Response, Problem> {
        let is_known = self.0.as_ref().is_some_and(|tags| tags.match_weakly(tag));
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            Json(representation).into_response()
        };
        response.headers_mut().insert(header::ETAG, tag.value()?);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(values: &[&str]) -> Result<Option<Tags>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("if-match", HeaderValue::from_str(value).unwrap());
        }
        Tags::parse(&headers, "if-match")
    }

    #[test]
    fn lists_of_tags_are_parsed() {
        let these = |tags: &[(bool, &str)]| {
            Some(Tags::These(
                tags.iter()
                    .map(|(is_weak, tag)| (*is_weak, (*tag).to_owned()))
                    .collect(),
            ))
        };
        for (values, expected) in [
            (vec![], None),
            (vec!["*"], Some(Tags::Any)),
            (vec!["\"a\""], these(&[(false, "a")])),
            (
                vec!["W/\"a\" , \"b,c\"", "\"\""],
                these(&[(true, "a"), (false, "b,c"), (false, "")]),
            ),
        ] {
            assert_eq!(tags(&values).unwrap(), expected, "{values:?}");
        }
        for wrong in ["", "a", "\"a", "\"a b\"", "\"a\"b", "\"a\" \"b\"", "w/\"a\"", ","] {
            assert!(tags(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn weak_tags_match_no_change() {
        let tag = ETag("a".to_owned());
        let (weak, strong) = (
            tags(&["W/\"a\""]).unwrap().unwrap(),
            tags(&["\"a\""]).unwrap().unwrap(),
        );
        assert!(!weak.match_strongly(&tag) && weak.match_weakly(&tag));
        assert!(strong.match_strongly(&tag) && strong.match_weakly(&tag));
        assert!(!strong.match_weakly(&ETag("b".to_owned())));
    }
}
